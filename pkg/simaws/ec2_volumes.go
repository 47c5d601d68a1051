package simaws

import "strconv"

var volumeListing = &listing[Volume]{
	what: "volumeId", set: "volumeSet", ids: "VolumeId",
	prefix: "vol-", notFound: "InvalidVolume.NotFound", missing: "The volume '%s' does not exist.", malformed: "InvalidParameterValue",
	limit: 500, either: true,
	rows:   func(c *call) []Volume { return c.region.Volumes },
	hidden: func(_ *call, v *Volume) bool { return v.State == "deleted" },
	id:     func(v *Volume) string { return v.ID },
	find:   func(c *call, id string) *Volume { return c.region.volume(id) },
	tags:   func(v *Volume) []Tag { return v.Tags },
	fields: map[string]func([]string, *call, *Volume) []string{
		"attachment.attach-time": eachAttachment(func(_ *call, a *Attachment) string { return string(appendTime(nil, a.At)) }),
		"attachment.delete-on-termination": eachAttachment(func(_ *call, a *Attachment) string {
			return strconv.FormatBool(a.DeleteOnTermination)
		}),
		"attachment.device":      eachAttachment(func(_ *call, a *Attachment) string { return a.Device }),
		"attachment.instance-id": eachAttachment(func(_ *call, a *Attachment) string { return a.Instance }),
		"attachment.status":      eachAttachment(func(*call, *Attachment) string { return "attached" }),
		"availability-zone":      func(d []string, _ *call, v *Volume) []string { return append(d, v.Zone) },
		"availability-zone-id":   func(d []string, _ *call, v *Volume) []string { return append(d, zoneID(v.Zone)) },
		"create-time":            func(d []string, _ *call, v *Volume) []string { return append(d, string(appendTime(nil, v.Created))) },
		"encrypted":              func(d []string, _ *call, v *Volume) []string { return append(d, strconv.FormatBool(v.Encrypted)) },
		"fast-restored":          func(d []string, _ *call, _ *Volume) []string { return append(d, "false") },
		"multi-attach-enabled":   func(d []string, _ *call, v *Volume) []string { return append(d, strconv.FormatBool(v.MultiAttach)) },
		"operator.managed":       func(d []string, _ *call, _ *Volume) []string { return append(d, "false") },
		"snapshot-id":            func(d []string, _ *call, v *Volume) []string { return append(d, v.Snapshot) },
		"size":                   func(d []string, _ *call, v *Volume) []string { return append(d, itoa(v.Size)) },
		"status":                 func(d []string, _ *call, v *Volume) []string { return append(d, v.State) },
		"volume-id":              func(d []string, _ *call, v *Volume) []string { return append(d, v.ID) },
		"volume-type":            func(d []string, _ *call, v *Volume) []string { return append(d, v.Type) },
	},
	write: func(c *call, x *xmlWriter, page []*Volume) {
		for _, v := range page {
			writeVolume(c, x, v)
		}
	},
}

func eachAttachment(value func(*call, *Attachment) string) func([]string, *call, *Volume) []string {
	return func(d []string, c *call, v *Volume) []string {
		for i := range v.Attachments {
			d = append(d, value(c, &v.Attachments[i]))
		}
		return d
	}
}

func writeVolume(c *call, x *xmlWriter, v *Volume) {
	x.open("item")
	x.str("volumeId", v.ID)
	x.int("size", int64(v.Size))
	x.str("snapshotId", v.Snapshot)
	x.str("availabilityZone", v.Zone)
	x.str("availabilityZoneId", zoneID(v.Zone))
	x.str("status", v.State)
	x.time("createTime", v.Created)
	x.open("attachmentSet")
	for _, a := range v.Attachments {
		x.open("item")
		x.str("volumeId", v.ID)
		x.str("instanceId", a.Instance)
		x.str("device", a.Device)
		x.str("status", "attached")
		x.time("attachTime", a.At)
		x.bool("deleteOnTermination", a.DeleteOnTermination)
		x.close("item")
	}
	x.close("attachmentSet")
	x.tags(v.Tags)
	x.str("volumeType", v.Type)
	if v.IOPS > 0 {
		x.int("iops", int64(v.IOPS))
	}
	x.bool("encrypted", v.Encrypted)
	if v.Encrypted {
		x.str("kmsKeyId", c.kmsKey())
	}
	x.bool("multiAttachEnabled", v.MultiAttach)
	if v.Throughput > 0 {
		x.int("throughput", int64(v.Throughput))
	}
	x.open("operator")
	x.bool("managed", false)
	x.close("operator")
	x.close("item")
}

// kmsKey is the account's EBS key in the region.
func (c *call) kmsKey() string {
	h := hashString(c.account.ID + c.region.Name + "kms")
	var id [36]byte
	const digits = "0123456789abcdef"
	for i := range id {
		id[i] = digits[mix(h, uint64(i))&15]
	}
	id[8], id[13], id[18], id[23] = '-', '-', '-', '-'
	return "arn:aws:kms:" + c.region.Name + ":" + c.account.ID + ":key/" + string(id[:])
}
