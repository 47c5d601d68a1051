// Package report turns findings and what is known of the scans behind them
// into a report, and writes it: text, JSON, CSV, one HTML page, and OCSF.
//
// It is pure: a report is a value made from values, and a rendering writes to
// an io.Writer. It reads nothing, asks nobody and knows no clock, so that the
// same findings give the same report byte by byte. It must not import anything
// that does.
package report

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
)

// Schema names the JSON document of this version. What has a name in it keeps
// it; names may be added.
const Schema = "nightshift.report.v1"

// Input is all that a report is made from.
type Input struct {
	// Category of the findings.
	Category rulev1.Category
	// At is the time of the report, Since the beginning of the trend.
	At, Since time.Time
	// Filter that chose the findings; empty when all are there.
	Filter string
	// Version of the program.
	Version string
	// Findings that are open or exempt, and those resolved since Since.
	Findings []*findingv1.Finding
	// Reopened are the ids of findings that came back since Since.
	Reopened map[string]bool
	// Runs are the latest finished runs, the newest first, down to the first
	// that looked at everything.
	Runs []Run
	// Rules by which the findings were found.
	Rules []*rulev1.Rule
	// Accounts are the names of accounts by number.
	Accounts map[string]string
}

// Run is a finished run with its scopes.
type Run struct {
	*runv1.Run
	Scopes []*runv1.RunScope
}

// Report is what is open, what changed and how much could be seen. Its JSON
// form is documented in docs/reports.md.
type Report struct {
	Schema   string `json:"schema"`
	Category string `json:"category"`
	Version  string `json:"version"`
	// CreateTime is when it was made.
	CreateTime time.Time `json:"create_time"`
	// SinceTime is the beginning of the trend.
	SinceTime time.Time `json:"since_time"`
	Filter    string    `json:"filter,omitempty"`
	// Totals over the open findings.
	Totals Totals `json:"totals"`
	// Severities of the open findings, the worst first; all five.
	Severities []Group `json:"severities"`
	// Trend since SinceTime.
	Trend Trend `json:"trend"`
	// The open findings by account, region, rule and owner; each adds up to
	// the totals. The dearest group first, or the one with most findings.
	Accounts []Group `json:"accounts"`
	Regions  []Group `json:"regions"`
	Rules    []Group `json:"rules"`
	Owners   []Group `json:"owners"`
	// Posture of the accounts, the worst first; none in a filtered report.
	Posture []Posture `json:"posture"`
	// Coverage of the latest scans.
	Coverage Coverage `json:"coverage"`
	// Findings that are open, the highest score first.
	Findings []*Finding `json:"findings"`
	// Exempt are those that somebody accepted. They are in no sum.
	Exempt []*Finding `json:"exempt"`
	// Resolved since SinceTime, the latest first.
	Resolved []*Finding `json:"resolved"`
}

// Totals are sums over findings.
type Totals struct {
	Findings int `json:"findings"`
	// Resources that have findings.
	Resources int `json:"resources"`
	Exempt    int `json:"exempt"`
	// Money is what they cost a month; nil in a security report.
	Money *Money `json:"money"`
}

// Money is a sum of monthly costs in USD that counts no resource twice.
type Money struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
	// Unknown is how many findings have an unknown cost. They are not in the
	// sum.
	Unknown int `json:"unknown"`
}

// Group is the findings that have something in common.
type Group struct {
	// Key is the account, region, rule id, owner or severity; empty for
	// findings without an owner.
	Key string `json:"key"`
	// Name is what people call it; empty when the key says it.
	Name     string `json:"name,omitempty"`
	Findings int    `json:"findings"`
	Money    *Money `json:"money"`
}

// Trend is what happened since a time.
type Trend struct {
	Opened   Change `json:"opened"`
	Resolved Change `json:"resolved"`
	Reopened Change `json:"reopened"`
}

// Change counts findings that something happened to.
type Change struct {
	Findings int    `json:"findings"`
	Money    *Money `json:"money"`
}

// Finding is a finding as a report shows it.
type Finding struct {
	ID          string `json:"id"`
	Rule        string `json:"rule_id"`
	RuleVersion int32  `json:"rule_version"`
	Title       string `json:"title"`
	State       string `json:"state"`
	Severity    string `json:"severity"`
	Score       *Score `json:"score"`
	// Cost a month; nil when unknown.
	Cost *Cost `json:"monthly_cost"`
	// Counted is the upper bound of its cost when that is in the sums, and 0
	// when the resource is in them with the finding CountedWith.
	Counted        float64    `json:"counted"`
	CountedWith    string     `json:"counted_with,omitempty"`
	Account        string     `json:"account"`
	Region         string     `json:"region"`
	ResourceType   string     `json:"resource_type"`
	ResourceID     string     `json:"resource_id"`
	ResourceName   string     `json:"resource_name"`
	ARN            string     `json:"arn"`
	Owner          string     `json:"owner"`
	Environment    string     `json:"environment"`
	Reason         string     `json:"reason"`
	Recommendation string     `json:"recommendation"`
	Since          *time.Time `json:"since"`
	FirstSeen      *time.Time `json:"first_seen"`
	LastSeen       *time.Time `json:"last_seen"`
	ResolveTime    *time.Time `json:"resolve_time"`
	Evidence       []Evidence `json:"evidence"`
	// Exemption is set for an exempt finding.
	Exemption *Exemption `json:"exemption,omitempty"`

	from   *findingv1.Finding
	counts bool // its cost is in the sums
}

// Cost is a monthly cost in USD.
type Cost struct {
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Basis  string  `json:"basis"`
	Source string  `json:"source"`
	Date   string  `json:"date"`
}

// Exemption says who accepted a finding.
type Exemption struct {
	By     string `json:"by"`
	Reason string `json:"reason"`
	// ExpireTime is when it ends; nil for a tag without an end.
	ExpireTime *time.Time `json:"expire_time"`
}

// Evidence is one number or fact that decided.
type Evidence struct {
	Name       string `json:"name"`
	Value      any    `json:"value"`
	Threshold  any    `json:"threshold,omitempty"`
	Unit       string `json:"unit,omitempty"`
	Source     string `json:"source,omitempty"`
	Confidence string `json:"confidence,omitempty"`
	Note       string `json:"note,omitempty"`
}

// New makes a report. The order of what it is made from does not matter,
// except that the runs are the newest first.
func New(in Input) *Report {
	r := &Report{
		Schema: Schema, Category: short(in.Category), Version: in.Version, CreateTime: in.At.UTC(), SinceTime: in.Since.UTC(), Filter: in.Filter,
		Findings: []*Finding{}, Exempt: []*Finding{}, Resolved: []*Finding{},
	}
	var opened, reopened []*Finding
	for _, p := range in.Findings {
		f := finding(p, in.At)
		switch f.State {
		case "RESOLVED":
			if f.ResolveTime != nil && !f.ResolveTime.Before(in.Since) {
				r.Resolved = append(r.Resolved, f)
			}
		case "EXEMPT":
			r.Exempt = append(r.Exempt, f)
		default:
			r.Findings = append(r.Findings, f)
		}
		if f.FirstSeen != nil && !f.FirstSeen.Before(in.Since) {
			opened = append(opened, f)
		}
		if in.Reopened[f.ID] {
			reopened = append(reopened, f)
		}
	}
	byScore := func(a, b *Finding) int {
		return cmp.Or(cmp.Compare(b.Score.Value, a.Score.Value), cmp.Compare(b.high(), a.high()), cmp.Compare(a.ID, b.ID))
	}
	slices.SortFunc(r.Findings, byScore)
	slices.SortFunc(r.Exempt, byScore)
	slices.SortFunc(r.Resolved, func(a, b *Finding) int {
		return cmp.Or(b.ResolveTime.Compare(*a.ResolveTime), cmp.Compare(a.ID, b.ID))
	})

	money := in.Category == rulev1.Category_CATEGORY_WASTE
	of := func(fs []*Finding) Change { return Change{Findings: len(fs), Money: sum(fs, money)} }
	r.Trend = Trend{Opened: of(opened), Resolved: of(r.Resolved), Reopened: of(reopened)}
	// Last, so that a finding says how it counts among those that are open.
	sum(r.Exempt, money)
	r.Totals = Totals{Findings: len(r.Findings), Exempt: len(r.Exempt), Money: sum(r.Findings, money)}
	resources := map[string]bool{}
	for _, f := range r.Findings {
		resources[f.resource()] = true
	}
	r.Totals.Resources = len(resources)

	titles := map[string]string{}
	for _, f := range in.Findings {
		titles[f.GetRuleId()] = f.GetTitle()
	}
	for _, p := range in.Rules {
		titles[p.GetId()] = p.GetTitle()
	}
	r.Accounts = groups(r.Findings, money, in.Accounts, func(f *Finding) string { return f.Account })
	r.Regions = groups(r.Findings, money, nil, func(f *Finding) string { return f.Region })
	r.Rules = groups(r.Findings, money, titles, func(f *Finding) string { return f.Rule })
	r.Owners = groups(r.Findings, money, nil, func(f *Finding) string { return strings.TrimSpace(f.Owner) })
	bySeverity := groups(r.Findings, money, nil, func(f *Finding) string { return f.Severity })
	for s := rulev1.Severity_SEVERITY_CRITICAL; s > 0; s-- {
		g := Group{Key: short(s)}
		if money {
			g.Money = &Money{}
		}
		if i := slices.IndexFunc(bySeverity, func(x Group) bool { return x.Key == g.Key }); i >= 0 {
			g = bySeverity[i]
		}
		r.Severities = append(r.Severities, g)
	}
	c := newestRows(in.Runs)
	r.Coverage = c.coverage(in.Runs)
	r.Posture = []Posture{}
	if in.Filter == "" {
		r.Posture = c.posture(r.Findings, in.Accounts)
	}
	return r
}

// groups puts findings together whose costs have been counted.
func groups(fs []*Finding, money bool, names map[string]string, key func(*Finding) string) []Group {
	by := map[string]*Group{}
	for _, f := range fs {
		k := key(f)
		g := by[k]
		if g == nil {
			g = &Group{Key: k, Name: names[k]}
			if money {
				g.Money = &Money{}
			}
			by[k] = g
		}
		g.Findings++
		if money {
			g.Money.add(f)
		}
	}
	out := make([]Group, 0, len(by))
	for _, k := range slices.Sorted(maps.Keys(by)) {
		out = append(out, *by[k])
	}
	slices.SortStableFunc(out, func(a, b Group) int {
		if money {
			if c := cmp.Compare(b.Money.High, a.Money.High); c != 0 {
				return c
			}
		}
		return cmp.Compare(b.Findings, a.Findings)
	})
	return out
}

func finding(p *findingv1.Finding, at time.Time) *Finding {
	res := p.GetResource()
	f := &Finding{
		ID: p.GetId(), Rule: p.GetRuleId(), RuleVersion: p.GetRuleVersion(), Title: p.GetTitle(), State: short(p.GetState()),
		Severity: short(p.GetSeverity()), Account: res.GetAccount(), Region: res.GetRegion(), ResourceType: res.GetType(), ResourceID: res.GetId(),
		ResourceName: res.GetName(), ARN: res.GetArn(), Owner: p.GetOwner(), Environment: res.GetTags()[environmentTag],
		Reason: p.GetReason(), Recommendation: p.GetRecommendation(),
		Since: moment(p.GetSince()), FirstSeen: moment(p.GetFirstSeen()), LastSeen: moment(p.GetLastSeen()), ResolveTime: moment(p.GetResolveTime()),
		Evidence: []Evidence{}, from: p,
	}
	f.Score = shown(ScoreOf(p, at))
	if m := p.GetMonthlyCost(); m != nil {
		f.Cost = &Cost{Low: m.GetLow(), High: m.GetHigh(), Basis: m.GetBasis(), Source: m.GetSource(), Date: m.GetDate()}
	}
	if x := p.GetExemption(); x != nil {
		f.Exemption = &Exemption{By: x.GetBy(), Reason: x.GetReason(), ExpireTime: moment(x.GetExpireTime())}
	}
	for _, e := range p.GetEvidence() {
		x := Evidence{
			Name: e.GetName(), Value: e.GetValue().AsInterface(), Unit: e.GetUnit(), Source: e.GetSource(),
			Confidence: short(e.GetConfidence()), Note: e.GetNote(),
		}
		if e.GetThreshold() != nil {
			x.Threshold = e.GetThreshold().AsInterface()
		}
		f.Evidence = append(f.Evidence, x)
	}
	return f
}

func (f *Finding) high() float64 {
	if f.Cost == nil {
		return 0
	}
	return f.Cost.High
}

// resource is the identity of what the finding is about.
func (f *Finding) resource() string {
	return cmp.Or(f.ARN, f.place()+f.ResourceID)
}

func (f *Finding) place() string { return f.Account + " " + f.Region + " " }

// environmentTag is the tag that says what a resource is for.
const environmentTag = "Environment"

// short is the name of an enum's value without its prefix: what the API's
// filters and people call it.
func short(e interface{ String() string }) string {
	s := e.String()
	for _, prefix := range []string{"STATE_", "SEVERITY_", "CATEGORY_", "CONFIDENCE_", "COVERAGE_STATUS_", "RUN_STATE_"} {
		if t, ok := strings.CutPrefix(s, prefix); ok {
			return t
		}
	}
	return s
}

func moment(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.AsTime())
}
