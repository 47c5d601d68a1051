package simaws

import (
	"slices"
	"strconv"
)

var snapshotListing = &listing[Snapshot]{
	what: "snapshotId", set: "snapshotSet", ids: "SnapshotId",
	prefix: "snap-", notFound: "InvalidSnapshot.NotFound", missing: "The snapshot '%s' does not exist.", malformed: "InvalidSnapshotID.Malformed",
	limit: 1000,
	rows:  func(c *call) []Snapshot { return c.region.Snapshots },
	hidden: func(c *call, s *Snapshot) bool {
		if !c.form.has("Owner.1") {
			return false
		}
		owner, alias := s.owner(c)
		return !slices.ContainsFunc(c.form.list("Owner"), func(o string) bool {
			return o == owner || o == "self" && s.Owner == "" || o == alias && alias != ""
		})
	},
	id:   func(s *Snapshot) string { return s.ID },
	tags: func(s *Snapshot) []Tag { return s.Tags },
	fields: map[string]func([]string, *call, *Snapshot) []string{
		"description": func(d []string, _ *call, s *Snapshot) []string { return append(d, s.Description) },
		"encrypted":   func(d []string, _ *call, s *Snapshot) []string { return append(d, strconv.FormatBool(s.Encrypted)) },
		"owner-alias": func(d []string, c *call, s *Snapshot) []string {
			if _, alias := s.owner(c); alias != "" {
				d = append(d, alias)
			}
			return d
		},
		"owner-id": func(d []string, c *call, s *Snapshot) []string {
			owner, _ := s.owner(c)
			return append(d, owner)
		},
		"progress":     func(d []string, _ *call, s *Snapshot) []string { return append(d, s.progress()) },
		"snapshot-id":  func(d []string, _ *call, s *Snapshot) []string { return append(d, s.ID) },
		"start-time":   func(d []string, _ *call, s *Snapshot) []string { return append(d, string(appendTime(nil, s.Started))) },
		"status":       func(d []string, _ *call, s *Snapshot) []string { return append(d, s.state()) },
		"storage-tier": func(d []string, _ *call, s *Snapshot) []string { return append(d, s.tier()) },
		"volume-id":    func(d []string, _ *call, s *Snapshot) []string { return append(d, s.Volume) },
		"volume-size":  func(d []string, _ *call, s *Snapshot) []string { return append(d, itoa(s.Size)) },
	},
	write: func(c *call, x *xmlWriter, page []*Snapshot) {
		for _, s := range page {
			owner, alias := s.owner(c)
			x.open("item")
			x.str("snapshotId", s.ID)
			x.str("volumeId", s.Volume)
			x.str("status", s.state())
			x.time("startTime", s.Started)
			x.str("progress", s.progress())
			x.str("ownerId", owner)
			x.opt("ownerAlias", alias)
			x.int("volumeSize", int64(s.Size))
			x.str("description", s.Description)
			x.bool("encrypted", s.Encrypted)
			if s.Encrypted {
				x.str("kmsKeyId", c.kmsKey())
			}
			x.str("storageTier", s.tier())
			if s.FullBytes > 0 {
				x.int("fullSnapshotSizeInBytes", s.FullBytes)
			}
			x.tags(s.Tags)
			x.close("item")
		}
	},
}

// amazonOwner owns the snapshots behind public images.
const amazonOwner = "137112412989"

func (s *Snapshot) owner(c *call) (id, alias string) {
	switch s.Owner {
	case "":
		return c.account.ID, ""
	case amazonOwner:
		return s.Owner, "amazon"
	}
	return s.Owner, ""
}

func (s *Snapshot) state() string {
	if s.State == "" {
		return "completed"
	}
	return s.State
}

func (s *Snapshot) progress() string {
	switch s.state() {
	case "pending":
		return strconv.FormatUint(hashString(s.ID)%99, 10) + "%"
	case "error":
		return "0%"
	}
	return "100%"
}

func (s *Snapshot) tier() string {
	if s.Archived {
		return "archive"
	}
	return "standard"
}
