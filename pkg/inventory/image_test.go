package inventory_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"nightshift.dev/pkg/inventory"
)

func withImage(id, image string) *inventory.Instance {
	return &inventory.Instance{Resource: inventory.Resource{ID: id}, ImageID: image}
}

func TestImagesOfInstances(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	asked := map[string]int{}
	w.ec2 = func(form url.Values) string {
		if form.Get("IncludeDeprecated") != "true" || form.Get("IncludeDisabled") != "true" || form.Has("ImageId.1") {
			t.Errorf("asked %v", form)
		}
		name, ids := filtered(form)
		if name != "image-id" {
			t.Errorf("asked by %q", name)
		}
		for _, id := range ids {
			asked[id]++
		}
		return response(form, "imagesSet", `<item><imageId>ami-1</imageId><name>base</name><imageState>available</imageState><imageOwnerId>999988887777</imageOwnerId><imageOwnerAlias>amazon</imageOwnerAlias>
			<creationDate>2026-01-02T03:04:05.000Z</creationDate><deprecationTime>2028-01-02T03:04:00.000Z</deprecationTime></item>
			<item><imageId>ami-2</imageId><creationDate>a while ago</creationDate></item>`, "")
	}
	is := []*inventory.Instance{withImage("i-1", "ami-1"), withImage("i-2", "ami-2"), withImage("i-3", "ami-3"), withImage("i-4", "")}
	fill(t, w.Session, inventory.InstanceImage, is)
	fill(t, w.Session, inventory.InstanceImage, is)
	if f := is[0].Image; !f.Known || f.Value.ARN != "arn:aws:ec2:us-east-1::image/ami-1" || f.Value.ImageName != "base" || f.Value.State != "available" || f.Value.OwnerAlias != "amazon" ||
		!f.Value.Created.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || !f.Value.Deprecated.Equal(time.Date(2028, 1, 2, 3, 4, 0, 0, time.UTC)) {
		t.Errorf("%+v", f)
	}
	if f := is[1].Image; !f.Known || !f.Value.Created.IsZero() || !f.Value.Deprecated.IsZero() {
		t.Errorf("%+v", f)
	}
	if f := is[2].Image; f.Known || f.Failed || f.Why == "" {
		t.Errorf("%+v", f)
	}
	if f := is[3].Image; f.Known || asked["ami-1"] != 1 || asked[""] != 0 {
		t.Errorf("%+v, asked %v", f, asked)
	}
}

// One instance stands for all of an image; the next is asked when it is gone.
func TestImageMetadata(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	var asked [][]string
	gone := map[string]bool{"i-0": true}
	w.ec2 = func(form url.Values) string {
		_, ids := filtered(form)
		asked = append(asked, ids)
		var b strings.Builder
		for _, id := range ids {
			image := "ami-a"
			if id >= "i-5" {
				image = "ami-b"
			}
			if !gone[id] {
				b.WriteString("<item><instanceId>" + id + "</instanceId><imageMetadata><imageId>" + image + "</imageId><imageState>deregistered</imageState><creationDate>2026-01-02T03:04:05.000Z</creationDate></imageMetadata></item>")
			}
		}
		return response(form, "instanceImageMetadataSet", b.String(), "")
	}
	var is []*inventory.Instance
	for k := range 10 {
		is = append(is, withImage(fmt.Sprintf("i-%d", k), []string{"ami-a", "ami-b"}[k/5]))
	}
	fill(t, w.Session, inventory.InstanceImageMetadata, is)
	fill(t, w.Session, inventory.InstanceImageMetadata, is)
	for _, i := range is {
		if f := i.ImageMetadata; !f.Known || f.Value.ID != i.ImageID || f.Value.State != "deregistered" || f.Value.Created.IsZero() {
			t.Errorf("%s: %+v", i.ID, f)
		}
	}
	if len(asked) != 2 || fmt.Sprint(asked) != "[[i-0 i-5] [i-1]]" {
		t.Errorf("asked for %v", asked)
	}

	// When none of the first few answers, it is unknown.
	x := withImage("i-0", "ami-c")
	fill(t, w.Session, inventory.InstanceImageMetadata, []*inventory.Instance{x})
	if f := x.ImageMetadata; f.Known || f.Failed || f.Why == "" {
		t.Errorf("%+v", f)
	}
}

func TestOwnImages(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.ec2 = func(form url.Values) string {
		if form.Get("Owner.1") != "self" || form.Get("IncludeDeprecated") != "true" || form.Get("IncludeDisabled") != "true" {
			t.Errorf("asked %v", form)
		}
		if form.Get("NextToken") == "" {
			return response(form, "imagesSet", "<item><imageId>ami-1</imageId><tagSet><item><key>Owner</key><value>x</value></item></tagSet></item>", "more")
		}
		return response(form, "imagesSet", "<item><imageId>ami-2</imageId></item>", "")
	}
	is, pages := list(t, w.Session, inventory.Images)
	if len(is) != 2 || pages != 2 || is[0].Tags["Owner"] != "x" || is[0].Type != "AWS::EC2::Image" {
		t.Errorf("%d pages, %+v", pages, is)
	}
}

func TestEncryptionByDefault(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]struct{ known, value bool }{
		"<ebsEncryptionByDefault>true</ebsEncryptionByDefault>": {true, true}, "<ebsEncryptionByDefault>false</ebsEncryptionByDefault>": {true, false}, "": {},
	} {
		w := newWire(t)
		calls := 0
		w.ec2 = func(url.Values) string {
			calls++
			return "<GetEbsEncryptionByDefaultResponse>" + answer + "</GetEbsEncryptionByDefaultResponse>"
		}
		v := &inventory.Volume{}
		for range 3 {
			fill(t, w.Session, inventory.VolumeEncryptionByDefault, []*inventory.Volume{v})
		}
		if f := v.EncryptionByDefault; f.Known != want.known || f.Value != want.value || f.Failed || calls != 1 {
			t.Errorf("%q: %+v after %d calls", answer, f, calls)
		}
	}
}

// A volume of which AWS does not say whether it is encrypted is not taken for
// one that is not.
func TestEncryptionLeftOut(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.ec2 = func(form url.Values) string {
		return response(form, "volumeSet", "<item><volumeId>vol-1</volumeId></item><item><volumeId>vol-2</volumeId><encrypted>false</encrypted></item>", "")
	}
	vs, _ := list(t, w.Session, inventory.Volumes)
	if !vs[0].EncryptionUnknown || vs[1].EncryptionUnknown {
		t.Errorf("%+v", vs)
	}
}
