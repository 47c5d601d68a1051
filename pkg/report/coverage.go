package report

import (
	"cmp"
	"slices"
	"time"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/rule"
)

// Coverage says how much the latest scans saw.
type Coverage struct {
	// Complete: there was a scan, and it saw everything.
	Complete bool `json:"complete"`
	// Runs that it is told from, the newest first.
	Runs []RunRef `json:"runs"`
	// Listings is of how many resource types in how many accounts and regions
	// a list was asked for; ListingsComplete how many were seen to the end.
	Listings         int `json:"listings"`
	ListingsComplete int `json:"listings_complete"`
	// Resources that were seen.
	Resources int64 `json:"resources"`
	// Verdicts by what they are: Evaluated are violations and compliant.
	Evaluated        int64 `json:"evaluated"`
	NotApplicable    int64 `json:"not_applicable"`
	InsufficientData int64 `json:"insufficient_data"`
	Errors           int64 `json:"errors"`
	// Gaps are what could not be seen, with the reason.
	Gaps []Gap `json:"gaps"`
}

// RunRef names a run.
type RunRef struct {
	ID      string     `json:"id"`
	State   string     `json:"state"`
	EndTime *time.Time `json:"end_time"`
	// Narrowed says that it was asked for a part only.
	Narrowed bool `json:"narrowed"`
}

// Gap is a listing that could not be seen in full.
type Gap struct {
	Account string `json:"account"`
	Region  string `json:"region"`
	// ResourceType is "*" when nothing of the region could be seen.
	ResourceType string `json:"resource_type"`
	Status       string `json:"status"`
	Error        string `json:"error"`
}

// Posture is the posture score of an account with what it stands on.
type Posture struct {
	Account string `json:"account"`
	Name    string `json:"name,omitempty"`
	// Score is nil when nothing was evaluated.
	Score *Score `json:"score"`
	// Evaluated are the verdicts in the denominator, Unknown those that are
	// not, for want of data.
	Evaluated int64 `json:"evaluated"`
	Unknown   int64 `json:"unknown"`
	// Listings as in Coverage.
	Listings         int `json:"listings"`
	ListingsComplete int `json:"listings_complete"`
}

type placed[T any] struct {
	account, region string
	row             T
}

// rows are what the latest scans say of each listing and each rule.
type rows struct {
	listings []placed[*scanv1.Coverage]
	tallies  []placed[*scanv1.Tally]
}

// newestRows takes from runs, the newest first, the newest word on each
// resource type and each rule in each account and region.
func newestRows(runs []Run) rows {
	var r rows
	seen := map[[5]string]bool{}
	first := func(kind string, s *scanv1.Scope, a, b string) bool {
		k := [5]string{kind, s.GetAccount(), s.GetRegion(), a, b}
		was := seen[k]
		seen[k] = true
		return !was
	}
	for _, run := range runs {
		for _, s := range run.Scopes {
			at := s.GetScope()
			list := s.GetCoverage()
			if len(list) == 0 && s.GetState() != runv1.ScopeState_SCOPE_STATE_SUCCEEDED {
				list = []*scanv1.Coverage{{ResourceType: "*", Status: scanv1.CoverageStatus_COVERAGE_STATUS_FAILED, Error: s.GetError()}}
			}
			for _, c := range list {
				if first("listing", at, c.GetResourceType(), "") {
					r.listings = append(r.listings, placed[*scanv1.Coverage]{at.GetAccount(), at.GetRegion(), c})
				}
			}
			for _, t := range s.GetTallies() {
				if first("tally", at, t.GetRuleId(), t.GetResourceType()) {
					r.tallies = append(r.tallies, placed[*scanv1.Tally]{at.GetAccount(), at.GetRegion(), t})
				}
			}
		}
	}
	return r
}

func (r rows) coverage(runs []Run) Coverage {
	c := Coverage{Runs: []RunRef{}, Gaps: []Gap{}}
	for _, run := range runs {
		c.Runs = append(c.Runs, RunRef{ID: run.GetId(), State: short(run.GetState()), EndTime: moment(run.GetEndTime()), Narrowed: len(run.GetParameters()) > 0})
	}
	for _, l := range r.listings {
		c.Listings++
		c.Resources += l.row.GetResources()
		if l.row.GetStatus() == scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE {
			c.ListingsComplete++
			continue
		}
		c.Gaps = append(c.Gaps, Gap{Account: l.account, Region: l.region, ResourceType: l.row.GetResourceType(), Status: short(l.row.GetStatus()), Error: l.row.GetError()})
	}
	slices.SortFunc(c.Gaps, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Region, b.Region), cmp.Compare(a.ResourceType, b.ResourceType))
	})
	for _, t := range r.tallies {
		c.Evaluated += t.row.GetViolations() + t.row.GetCompliant()
		c.NotApplicable += t.row.GetNotApplicable()
		c.InsufficientData += t.row.GetInsufficientData()
		c.Errors += t.row.GetErrors()
	}
	c.Complete = c.Listings > 0 && c.Listings == c.ListingsComplete && slices.ContainsFunc(c.Runs, func(r RunRef) bool { return !r.Narrowed })
	return c
}

// posture scores the accounts that were scanned or have findings.
func (r rows) posture(open []*Finding, names map[string]string) []Posture {
	by := map[string]*Posture{}
	of := func(account string) *Posture {
		if by[account] == nil {
			by[account] = &Posture{Account: account, Name: names[account]}
		}
		return by[account]
	}
	for _, l := range r.listings {
		p := of(l.account)
		p.Listings++
		if l.row.GetStatus() == scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE {
			p.ListingsComplete++
		}
	}
	tallied := map[string]int64{}
	for _, t := range r.tallies {
		p := of(t.account)
		tallied[t.account] += t.row.GetViolations()
		p.Evaluated += t.row.GetCompliant()
		p.Unknown += t.row.GetInsufficientData() + t.row.GetErrors()
	}
	violations := map[string]map[rule.Severity]int64{}
	found := map[string]int64{}
	for _, f := range open {
		of(f.Account)
		if violations[f.Account] == nil {
			violations[f.Account] = map[rule.Severity]int64{}
		}
		violations[f.Account][rule.Severity(f.from.GetSeverity())]++
		found[f.Account]++
	}
	out := []Posture{}
	for account, p := range by {
		// What is still open of an earlier scan was evaluated then.
		p.Evaluated += max(tallied[account], found[account])
		if s, ok := rule.PostureScore(rule.PostureFacts{Evaluated: p.Evaluated, Violations: violations[account]}); ok {
			p.Score = shown(s)
		}
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Posture) int {
		return cmp.Or(cmp.Compare(a.order(), b.order()), cmp.Compare(a.Account, b.Account))
	})
	return out
}

// order puts accounts that nothing is known of last.
func (p Posture) order() int {
	if p.Score == nil {
		return 101
	}
	return p.Score.Value
}
