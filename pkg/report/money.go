package report

import (
	"cmp"
	"slices"
	"strings"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
)

// add adds a finding to the sum as far as it counts.
func (m *Money) add(f *Finding) {
	switch {
	case f.Cost == nil:
		m.Unknown++
	case f.counts:
		m.Low += f.Cost.Low
		m.High += f.Cost.High
	}
}

// sum says of each finding whether its cost counts, and returns what they cost
// together; nil when money is not what they are about.
//
// Of several findings on one resource the dearest counts. The cost of a
// stopped instance is that of its volumes and addresses: of it and the
// findings on those, the larger figure counts. Which those are, its evidence
// tells.
func sum(findings []*Finding, money bool) *Money {
	if !money {
		return nil
	}
	fs := slices.Clone(findings)
	slices.SortFunc(fs, func(a, b *Finding) int {
		return cmp.Or(cmp.Compare(b.high(), a.high()), cmp.Compare(a.ID, b.ID))
	})
	// The dearest finding of each resource, by all names of the resource.
	dearest := map[string]*Finding{}
	for _, f := range fs {
		f.counts, f.CountedWith = false, ""
		if f.Cost == nil {
			continue
		}
		if d := dearest[f.resource()]; d != nil {
			f.CountedWith = d.ID
			continue
		}
		f.counts = true
		dearest[f.resource()] = f
		for _, name := range f.names() {
			dearest[name] = f
		}
	}
	for _, whole := range fs {
		if !whole.counts {
			continue
		}
		var parts []*Finding
		var together float64
		for _, name := range whole.parts() {
			if p := dearest[name]; p != nil && p != whole && p.counts && !slices.Contains(parts, p) {
				parts = append(parts, p)
				together += p.Cost.High
			}
		}
		if together > whole.Cost.High {
			whole.counts, whole.CountedWith = false, parts[0].ID
			continue
		}
		for _, p := range parts {
			p.counts, p.CountedWith = false, whole.ID
		}
	}
	m := &Money{}
	for _, f := range fs {
		m.add(f)
		f.Counted = 0
		if f.counts {
			f.Counted = f.Cost.High
		}
	}
	return m
}

// names are what evidence of other findings calls the resource.
func (f *Finding) names() []string {
	names := []string{f.place() + f.ResourceID}
	for _, e := range f.from.GetEvidence() {
		if e.GetName() == "address" {
			names = append(names, f.place()+e.GetValue().GetStringValue())
		}
	}
	return names
}

// parts are the resources whose costs make up this one, by name.
func (f *Finding) parts() []string {
	var names []string
	for _, e := range f.from.GetEvidence() {
		if e.GetName() != "attached_volumes" && e.GetName() != "public_ipv4" {
			continue
		}
		for _, text := range texts(e) {
			// Each begins with the volume's id, or is the address.
			name, _, _ := strings.Cut(text, " ")
			names = append(names, f.place()+name)
		}
	}
	return names
}

// texts is the value of a piece of evidence as a list.
func texts(e *rulev1.Evidence) []string {
	if s := e.GetValue().GetStringValue(); s != "" {
		return []string{s}
	}
	var out []string
	for _, v := range e.GetValue().GetListValue().GetValues() {
		out = append(out, v.GetStringValue())
	}
	return out
}
