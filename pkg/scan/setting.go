package scan

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/rule"
)

// Settings are the parameters in force of a set's rules: the rules' own
// defaults, what the deployment set, and what it set for single accounts.
type Settings struct {
	all      map[string]rule.Params            // by rule
	accounts map[string]map[string]rule.Params // by account, then rule
}

// For returns the parameters of a rule in an account.
func (s *Settings) For(account, id string) rule.Params {
	if p, ok := s.accounts[account][id]; ok {
		return p
	}
	return s.all[id]
}

// setting is "ec2-stopped.min_days=45", for one account with its number and a
// slash before it.
var setting = regexp.MustCompile(`^\s*(?:([0-9]{12})/)?([a-z0-9-]+)\.([a-z0-9_]+)\s*=(.*)$`)

// Settings reads what a deployment sets: settings separated by commas, such as
//
//	ec2-stopped.min_days=45, 123456789012/ec2-stopped.min_days=60
//
// where the second holds for one account only. A value that is a list goes on
// after its commas until the next setting. Empty text means the defaults. The
// error names each wrong setting and what would be right.
func (s *Set) Settings(text string) (*Settings, error) {
	type place struct{ account, rule string }
	set := map[place]map[string]string{}
	out := errs.New(errs.InvalidArgument, "BAD_RULE_PARAMETERS", "the rule parameters cannot be used")
	var last *string
	flush := func() {}
	for part := range strings.SplitSeq(text, ",") {
		m := setting.FindStringSubmatch(part)
		if m == nil {
			switch {
			case last != nil:
				*last += "," + part
			case strings.TrimSpace(part) != "":
				out = out.Field(strings.TrimSpace(part), "is not like ec2-stopped.min_days=45")
			}
			continue
		}
		flush()
		at := place{m[1], m[2]}
		if set[at] == nil {
			set[at] = map[string]string{}
		}
		if _, twice := set[at][m[3]]; twice {
			out = out.Field(m[2]+"."+m[3], "is set twice")
		}
		value := m[4]
		last, flush = &value, func() { set[at][m[3]] = value }
	}
	flush()

	r := &Settings{all: map[string]rule.Params{}, accounts: map[string]map[string]rule.Params{}}
	metas := map[string]rule.Meta{}
	for _, e := range s.rules {
		metas[e.meta.ID] = e.meta
		p, err := e.meta.With(set[place{"", e.meta.ID}])
		if err != nil {
			out = out.Field(e.meta.ID, "%v", err)
		}
		r.all[e.meta.ID] = p
	}
	byName := func(a, b place) int { return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.rule, b.rule)) }
	for _, at := range slices.SortedFunc(maps.Keys(set), byName) {
		m, known := metas[at.rule]
		if !known {
			out = out.Field(at.rule, "is not a rule of %s; it has %s", s.Service(), strings.Join(s.ids(), ", "))
			continue
		}
		if at.account == "" {
			continue
		}
		both := maps.Clone(set[place{"", at.rule}])
		if both == nil {
			both = map[string]string{}
		}
		maps.Copy(both, set[at])
		p, err := m.With(both)
		if err != nil {
			out = out.Field(at.account+"/"+at.rule, "%v", err)
			continue
		}
		if r.accounts[at.account] == nil {
			r.accounts[at.account] = map[string]rule.Params{}
		}
		r.accounts[at.account][at.rule] = p
	}
	if len(out.Violations()) > 0 {
		return nil, out
	}
	return r, nil
}

// WellFormed tells how a verdict breaks the contract: nil when it does not. The
// engine turns one that does into ERROR.
func WellFormed(v rule.Verdict) error {
	switch {
	case v.Outcome < rule.Violation || v.Outcome > rule.Error:
		return errors.New("it gave no outcome")
	case v.Reason == "":
		return errors.New("it gave no reason")
	case v.Outcome == rule.Violation && (v.Severity < rule.Info || v.Severity > rule.Critical):
		return errors.New("it gave a violation without a severity")
	case v.Outcome == rule.Violation && len(v.Evidence) == 0:
		return errors.New("it gave a violation without evidence")
	case v.Outcome != rule.Violation && v.Severity != 0:
		return fmt.Errorf("it gave %s a severity", v.Outcome)
	case v.Outcome != rule.Violation && v.Cost.Known:
		return fmt.Errorf("it gave %s a cost", v.Outcome)
	case v.Cost.Known && !(0 <= v.Cost.Low && v.Cost.Low <= v.Cost.High && v.Cost.High < 1e12):
		return fmt.Errorf("its cost of %v to %v is no range", v.Cost.Low, v.Cost.High)
	case v.Outcome != rule.Violation && v.Exempt != rule.Exemption{}:
		return fmt.Errorf("it gave %s an exemption", v.Outcome)
	case v.Outcome != rule.InsufficientData && !v.DecidableAt.IsZero():
		return fmt.Errorf("it gave %s a date on which it becomes decidable", v.Outcome)
	}
	for _, e := range v.Evidence {
		if e.Name == "" || e.Source == "" || e.Confidence < rule.Observed || e.Confidence > rule.LowerBound {
			return fmt.Errorf("its evidence %q lacks a name, a source or a confidence", e.Name)
		}
	}
	return nil
}
