package inventory_test

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/simaws"
)

func snapshots(volumes ...string) (ns []*inventory.Snapshot) {
	for i, v := range volumes {
		ns = append(ns, &inventory.Snapshot{Resource: inventory.Resource{ID: "snap-" + strconv.Itoa(i)}, VolumeID: v})
	}
	return ns
}

func TestSnapshotsAreTheEstates(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 22, Resources: 4000, Accounts: 1, Regions: 1})
	got, pages := list(t, s.Session, inventory.Snapshots)
	byID := map[string]*inventory.Snapshot{}
	for _, n := range got {
		byID[n.ID] = n
	}
	own := 0
	for _, w := range s.region.Snapshots {
		n := byID[w.ID]
		if w.Owner != "" {
			if n != nil {
				t.Errorf("%s is not ours", w.ID)
			}
			continue
		}
		own++
		state, tier := w.State, "standard"
		if state == "" {
			state = "completed"
		}
		if w.Archived {
			tier = "archive"
		}
		if n == nil || n.ARN != "arn:aws:ec2:us-east-1::snapshot/"+w.ID || n.Type != "AWS::EC2::Snapshot" || n.State != state || n.VolumeID != w.Volume ||
			n.SizeGiB != int(w.Size) || n.FullBytes != w.FullBytes || n.Tier != tier || n.Description != w.Description || !n.Created.Equal(w.Started) ||
			n.Encrypted != w.Encrypted {
			t.Errorf("%s:\n got %+v\nwant %+v", w.ID, n, w)
		}
	}
	if own != len(got) || own < 1000 || pages != (own+999)/1000 {
		t.Errorf("listed %d of %d in %d pages", len(got), own, pages)
	}
}

// Volumes and other snapshots, against what the estate holds.
func TestSnapshotVolumesAndOthers(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 23, Resources: 2500, Accounts: 1, Regions: 1})
	got, _ := list(t, s.Session, inventory.Snapshots)
	fill(t, s.Session, inventory.SnapshotVolume, got)
	fill(t, s.Session, inventory.SnapshotOthers, got)
	there, completed := map[string]bool{}, map[string]int{}
	for _, v := range s.region.Volumes {
		there[v.ID] = v.State != "deleted" && v.State != "deleting"
	}
	for _, n := range s.region.Snapshots {
		if n.Owner == "" && (n.State == "" || n.State == "completed") {
			completed[n.Volume]++
		}
	}
	seen := map[string]int{}
	for _, n := range got {
		others := completed[n.VolumeID]
		if n.State == "completed" {
			others--
		}
		switch {
		case n.VolumeID == "vol-ffffffff":
			if n.VolumeExists.Known || n.OthersLeft.Known || n.Volume() != "" {
				t.Errorf("%s is a copy: %+v", n.ID, n)
			}
			seen["copy"]++
		case !n.VolumeExists.Known || n.VolumeExists.Value != there[n.VolumeID]:
			t.Errorf("%s of %s: exists %+v, want %v", n.ID, n.VolumeID, n.VolumeExists, there[n.VolumeID])
		case !n.OthersLeft.Known || n.OthersLeft.Value != (others > 0):
			t.Errorf("%s of %s: others %+v, want %d", n.ID, n.VolumeID, n.OthersLeft, others)
		default:
			seen[fmt.Sprint(n.VolumeExists.Value, n.OthersLeft.Value)]++
		}
	}
	if seen["copy"] == 0 || seen["true true"] == 0 || seen["true false"] == 0 || seen["false false"] == 0 {
		t.Errorf("%v: not everything was tested", seen)
	}
	if err := s.server.SetFaults(simaws.Fault{Kind: "deny"}); err != nil {
		t.Fatal(err)
	}
	fill(t, s.Session, inventory.SnapshotVolume, got)
	fill(t, s.Session, inventory.SnapshotOthers, got)
	for _, n := range got {
		if n.Volume() != "" && (!n.VolumeExists.Failed || n.VolumeExists.Known || !n.OthersLeft.Failed || n.OthersLeft.Known) {
			t.Errorf("%s: %+v and %+v, and all was denied", n.ID, n.VolumeExists, n.OthersLeft)
		}
	}
}

// The account's images are read once, over all pages, the deprecated and the
// disabled ones included.
func TestSnapshotImages(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	calls := 0
	w.ec2 = func(form url.Values) string {
		calls++
		if form.Get("Action") != "DescribeImages" || form.Get("Owner.1") != "self" || form.Get("IncludeDeprecated") != "true" || form.Get("IncludeDisabled") != "true" {
			t.Errorf("asked for %v", form)
		}
		image := func(id string, snapshots ...string) string {
			b := "<item><imageId>" + id + "</imageId><blockDeviceMapping><item><virtualName>ephemeral0</virtualName></item>"
			for _, s := range snapshots {
				b += "<item><ebs><snapshotId>" + s + "</snapshotId></ebs></item>"
			}
			return b + "</blockDeviceMapping></item>"
		}
		if form.Get("NextToken") == "" {
			return "<DescribeImagesResponse><imagesSet>" + image("ami-2", "snap-0", "snap-0", "snap-1") + "</imagesSet><nextToken>more</nextToken></DescribeImagesResponse>"
		}
		return "<DescribeImagesResponse><imagesSet>" + image("ami-1", "snap-0") + image("ami-3") + "</imagesSet></DescribeImagesResponse>"
	}
	ns := snapshots("vol-0", "vol-1", "vol-2")
	fill(t, w.Session, inventory.SnapshotImages, ns[:2])
	fill(t, w.Session, inventory.SnapshotImages, ns[2:])
	if calls != 2 {
		t.Errorf("%d calls, want 2 pages once", calls)
	}
	for i, want := range [][]string{{"ami-1", "ami-2"}, {"ami-2"}, nil} {
		if f := ns[i].Images; !f.Known || !slices.Equal(f.Value, want) || f.Source != "ec2:DescribeImages" {
			t.Errorf("%s: %+v, want %v", ns[i].ID, f, want)
		}
	}

	// A second page that is refused: nobody knows which images there are.
	w = newWire(t)
	w.ec2 = func(form url.Values) string {
		if form.Get("NextToken") == "" {
			return "<DescribeImagesResponse><imagesSet/><nextToken>more</nextToken></DescribeImagesResponse>"
		}
		return "<DescribeImagesResponse><imagesSet><item/></imagesSet></DescribeImagesResponse>"
	}
	fill(t, w.Session, inventory.SnapshotImages, ns)
	for _, n := range ns {
		if f := n.Images; f.Known || !f.Failed || !strings.Contains(f.Why, "an image without an id") {
			t.Errorf("%s: %+v", n.ID, f)
		}
	}
}

// More pages are read only until each volume has shown two snapshots, and one
// found is found whatever happens later.
func TestSnapshotOthersStopEarly(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	calls := 0
	item := func(id, volume string) string {
		return "<item><snapshotId>" + id + "</snapshotId><volumeId>" + volume + "</volumeId></item>"
	}
	w.ec2 = func(form url.Values) string {
		calls++
		if form.Get("Filter.1.Name") != "volume-id" || form.Get("Filter.2.Name") != "status" || form.Get("Filter.2.Value.1") != "completed" || form.Get("Owner.1") != "self" {
			t.Errorf("asked for %v", form)
		}
		return "<DescribeSnapshotsResponse><snapshotSet>" + item("snap-0", "vol-0") + item("snap-9", "vol-0") + "</snapshotSet><nextToken>" +
			strconv.Itoa(calls) + "</nextToken></DescribeSnapshotsResponse>"
	}
	ns := snapshots("vol-0")
	fill(t, w.Session, inventory.SnapshotOthers, ns)
	if f := ns[0].OthersLeft; calls != 1 || !f.Known || !f.Value {
		t.Errorf("%d calls for %+v", calls, f)
	}
	// vol-1 never shows, and the pages repeat themselves for ever.
	w.ec2 = func(url.Values) string {
		return "<DescribeSnapshotsResponse><snapshotSet>" + item("snap-0", "vol-0") + item("snap-9", "vol-0") +
			"</snapshotSet><nextToken>again</nextToken></DescribeSnapshotsResponse>"
	}
	ns = snapshots("vol-0", "vol-1")
	fill(t, w.Session, inventory.SnapshotOthers, ns)
	if f := ns[0].OthersLeft; !f.Known || !f.Value {
		t.Errorf("found before the error: %+v", f)
	}
	if f := ns[1].OthersLeft; f.Known || !f.Failed {
		t.Errorf("not found before the error: %+v", f)
	}
}
