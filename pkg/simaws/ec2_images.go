package simaws

import (
	"slices"
	"strconv"
	"time"
)

var imageListing = &listing[Image]{
	what: "imageId", set: "imagesSet", ids: "ImageId",
	prefix: "ami-", notFound: "InvalidAMIID.NotFound", missing: "The image id '[%s]' does not exist", malformed: "InvalidAMIID.Malformed",
	limit: 1000,
	rows:  func(c *call) []Image { return c.region.Images },
	hidden: func(c *call, i *Image) bool {
		switch {
		case !i.listed(),
			i.State == "disabled" && c.form.get("IncludeDisabled") != "true",
			i.Owner != "" && i.deprecated(c.now) && c.form.get("IncludeDeprecated") != "true" && !c.form.has("ImageId.1"):
			return true
		}
		owners, users := c.form.list("Owner"), c.form.list("ExecutableBy")
		return len(owners) > 0 && !slices.ContainsFunc(owners, func(o string) bool {
			return o == i.owner(c) || o == "self" && i.Owner == "" || o == i.Alias && i.Alias != ""
		}) || len(users) > 0 && !slices.ContainsFunc(users, func(u string) bool {
			return u == "all" && i.Public || (u == "self" || u == c.account.ID) && !i.Public && i.Owner != ""
		})
	},
	id:   func(i *Image) string { return i.ID },
	find: func(c *call, id string) *Image { return c.region.image(id) },
	tags: func(i *Image) []Tag { return i.Tags },
	fields: map[string]func([]string, *call, *Image) []string{
		"architecture":                     func(d []string, _ *call, _ *Image) []string { return append(d, "x86_64") },
		"block-device-mapping.snapshot-id": func(d []string, _ *call, i *Image) []string { return append(d, i.Snapshots...) },
		"creation-date":                    func(d []string, _ *call, i *Image) []string { return append(d, stampText(i.Created)) },
		"description":                      func(d []string, _ *call, i *Image) []string { return append(d, i.Name) },
		"image-id":                         func(d []string, _ *call, i *Image) []string { return append(d, i.ID) },
		"image-type":                       func(d []string, _ *call, _ *Image) []string { return append(d, "machine") },
		"is-public":                        func(d []string, _ *call, i *Image) []string { return append(d, strconv.FormatBool(i.Public)) },
		"name":                             func(d []string, _ *call, i *Image) []string { return append(d, i.Name) },
		"owner-alias":                      func(d []string, _ *call, i *Image) []string { return appendSet(d, i.Alias) },
		"owner-id":                         func(d []string, c *call, i *Image) []string { return append(d, i.owner(c)) },
		"platform": func(d []string, _ *call, i *Image) []string {
			if i.Windows {
				d = append(d, "windows")
			}
			return d
		},
		"root-device-type":    func(d []string, _ *call, _ *Image) []string { return append(d, "ebs") },
		"state":               func(d []string, _ *call, i *Image) []string { return append(d, i.state()) },
		"virtualization-type": func(d []string, _ *call, _ *Image) []string { return append(d, "hvm") },
	},
	write: func(c *call, x *xmlWriter, page []*Image) {
		for _, i := range page {
			x.open("item")
			writeImage(c, x, i)
			x.str("imageLocation", i.owner(c)+"/"+i.Name)
			x.raw("<architecture>x86_64</architecture><imageType>machine</imageType>")
			x.str("description", i.Name)
			if i.Windows {
				x.raw("<platform>windows</platform><platformDetails>Windows</platformDetails><usageOperation>RunInstances:0002</usageOperation>")
			} else {
				x.raw("<platformDetails>Linux/UNIX</platformDetails><usageOperation>RunInstances</usageOperation>")
			}
			x.raw("<rootDeviceType>ebs</rootDeviceType><rootDeviceName>" + rootDevice + "</rootDeviceName><blockDeviceMapping>")
			for k, s := range i.Snapshots {
				x.open("item")
				x.str("deviceName", rootDevice[:len(rootDevice)-1]+string(rune('a'+k)))
				x.open("ebs")
				x.str("snapshotId", s)
				x.raw("<volumeSize>20</volumeSize><volumeType>gp3</volumeType><deleteOnTermination>true</deleteOnTermination><encrypted>false</encrypted>")
				x.close("ebs")
				x.close("item")
			}
			x.raw("</blockDeviceMapping><virtualizationType>hvm</virtualizationType><hypervisor>xen</hypervisor><enaSupport>true</enaSupport>")
			x.tags(i.Tags)
			x.close("item")
		}
	},
}

// writeImage writes what an image's own entry and the metadata of its instances both say.
func writeImage(c *call, x *xmlWriter, i *Image) {
	x.str("imageId", i.ID)
	x.str("name", i.Name)
	x.str("imageOwnerId", i.owner(c))
	x.opt("imageOwnerAlias", i.Alias)
	x.str("imageState", i.state())
	x.time("creationDate", i.Created)
	if !i.Deprecated.IsZero() {
		x.time("deprecationTime", i.Deprecated)
	}
	x.bool("isPublic", i.Public)
}

func stampText(t time.Time) string { return string(appendTime(nil, t)) }

func (i *Image) deprecated(now time.Time) bool {
	return !i.Deprecated.IsZero() && !i.Deprecated.After(now)
}

func (i *Image) owner(c *call) string {
	if i.Owner == "" {
		return c.account.ID
	}
	return i.Owner
}

// imageMetadataListing answers for every instance, whatever became of its image.
var imageMetadataListing = &listing[Instance]{
	what: "instanceId", set: "instanceImageMetadataSet", ids: "InstanceId",
	prefix: "i-", notFound: "InvalidInstanceID.NotFound", missing: "The instance ID '%s' does not exist", malformed: "InvalidInstanceID.Malformed",
	limit: 1000, exact: true, either: true,
	rows: func(c *call) []Instance { return c.region.Instances },
	id:   func(in *Instance) string { return in.ID },
	find: func(c *call, id string) *Instance { return c.region.instance(id) },
	tags: func(in *Instance) []Tag { return in.Tags },
	fields: map[string]func([]string, *call, *Instance) []string{
		"availability-zone":   instanceListing.fields["availability-zone"],
		"instance-id":         instanceListing.fields["instance-id"],
		"instance-state-name": instanceListing.fields["instance-state-name"],
		"instance-type":       instanceListing.fields["instance-type"],
		"launch-time":         instanceListing.fields["launch-time"],
		"owner-alias": func(d []string, c *call, in *Instance) []string {
			if i := c.region.image(in.Image); i != nil && !i.Nameless {
				d = appendSet(d, i.Alias)
			}
			return d
		},
		"owner-id": func(d []string, c *call, in *Instance) []string {
			if i := c.region.image(in.Image); i != nil && !i.Nameless {
				d = append(d, i.owner(c))
			}
			return d
		},
		"zone-id": instanceListing.fields["availability-zone-id"],
	},
	write: func(c *call, x *xmlWriter, page []*Instance) {
		for _, in := range page {
			x.open("item")
			x.str("instanceId", in.ID)
			x.str("instanceType", in.Type)
			x.time("launchTime", in.Launched)
			x.str("availabilityZone", in.Zone)
			x.str("zoneId", zoneID(in.Zone))
			x.open("instanceState")
			x.int("code", stateCodes[in.State])
			x.str("name", in.State)
			x.close("instanceState")
			x.str("instanceOwnerId", c.account.ID)
			x.tags(in.Tags)
			x.open("imageMetadata")
			if i := c.region.image(in.Image); i != nil && !i.Nameless {
				writeImage(c, x, i)
			} else {
				x.str("imageId", in.Image)
			}
			x.close("imageMetadata")
			x.open("operator")
			x.bool("managed", false)
			x.close("operator")
			x.close("item")
		}
	},
}

func getEBSEncryptionByDefault(c *call, x *xmlWriter) (*answer, error) {
	if err := dryRun(c); err != nil {
		return nil, err
	}
	begin(c, x)
	x.bool("ebsEncryptionByDefault", c.region.EncryptionByDefault)
	x.str("sseType", "sse-ebs")
	return end(c, x)
}
