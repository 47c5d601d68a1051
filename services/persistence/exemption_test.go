package persistence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	exemptionv1 "nightshift.dev/gen/nightshift/exemption/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// accept makes an exemption that ends at an hour.
func accept(t testing.TB, s *Service, filter string, until int) *exemptionv1.Exemption {
	t.Helper()
	resp, err := s.CreateExemption(t.Context(), &exemptionv1.CreateExemptionRequest{Exemption: &exemptionv1.Exemption{
		Filter: filter, By: "ana", Reason: "known", ExpireTime: timestamppb.New(at(until)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetExemption()
}

// declared is a violation that the resource itself says is wanted.
func declared(until int) func(*scanv1.Observation) {
	return func(o *scanv1.Observation) {
		o.Verdict.Exemption = &rulev1.Exemption{By: "tag:public-allowed", Reason: "until-…", ExpireTime: timestamppb.New(at(until))}
	}
}

func tags(kv ...string) func(*scanv1.Observation) {
	return func(o *scanv1.Observation) {
		o.Resource.Tags = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			o.Resource.Tags[kv[i]] = kv[i+1]
		}
	}
}

// life is a finding's transitions, with a letter for causes other than SCAN.
func life(t testing.TB, s *Service, id string) string {
	t.Helper()
	var steps []string
	for _, tr := range transitions(t, s, id) {
		steps = append(steps, strings.TrimPrefix(tr.GetKind().String(), "TRANSITION_KIND_")+map[findingv1.Cause]string{
			findingv1.Cause_CAUSE_POLICY_CHANGED: "!", findingv1.Cause_CAUSE_USER: "/user", findingv1.Cause_CAUSE_EXEMPTION_EXPIRED: "/expired",
		}[tr.GetCause()])
	}
	return strings.Join(steps, " ")
}

func TestExemptions(t *testing.T) {
	t.Parallel()
	const (
		bad  = rulev1.Outcome_OUTCOME_VIOLATION
		good = rulev1.Outcome_OUTCOME_COMPLIANT
	)
	type world struct {
		s *Service
		c *clock
		x map[string]string // ids of exemptions
	}
	// A step is an hour.
	type step func(t *testing.T, w *world, n int)
	saw := func(outcome rulev1.Outcome, set ...func(*scanv1.Observation)) step {
		return func(t *testing.T, w *world, n int) {
			scanOnce(t, w.s, n, complete, volume(here, "vol-1", outcome, at(n), set...))
		}
	}
	gone := func(t *testing.T, w *world, n int) { scanOnce(t, w.s, n, complete) }
	accepted := func(name, filter string, until int) step {
		return func(t *testing.T, w *world, _ int) { w.x[name] = accept(t, w.s, filter, until).GetId() }
	}
	revoked := func(name string) step {
		return func(t *testing.T, w *world, _ int) {
			if _, err := w.s.DeleteExemption(t.Context(), &exemptionv1.DeleteExemptionRequest{Id: w.x[name]}); err != nil {
				t.Fatal(err)
			}
		}
	}
	changed := func(name string, until int) step {
		return func(t *testing.T, w *world, _ int) {
			_, err := w.s.UpdateExemption(t.Context(), &exemptionv1.UpdateExemptionRequest{
				Exemption:  &exemptionv1.Exemption{Id: w.x[name], ExpireTime: timestamppb.New(at(until))},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"expire_time"}},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	expired := func(t *testing.T, w *world, _ int) {
		if err := w.s.endExemptionsOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	severe := func(o *scanv1.Observation) { o.Verdict.Severity = rulev1.Severity_SEVERITY_HIGH }
	days := func(o *scanv1.Observation) { o.Parameters = map[string]string{"days": "7"} }
	const (
		mine  = `resource_id = "vol-1"`
		dev   = `tags.Environment = "dev"`
		other = `resource_id = "vol-2"`
	)
	for name, c := range map[string]struct {
		steps []step
		want  string
		by    string // who accepts it at the end
	}{
		"accepted":                     {[]step{saw(bad), accepted("x", mine, 90), saw(bad), saw(bad)}, "OPENED EXEMPTED/user", "ana"},
		"another's":                    {[]step{saw(bad), accepted("x", other, 90), saw(bad)}, "OPENED", ""},
		"accepted before it is seen":   {[]step{accepted("x", mine, 90), saw(bad), saw(bad)}, "EXEMPTED", "ana"},
		"revoked":                      {[]step{saw(bad), accepted("x", mine, 90), saw(bad), revoked("x"), saw(bad)}, "OPENED EXEMPTED/user REOPENED/user", ""},
		"expired":                      {[]step{saw(bad), accepted("x", mine, 3), saw(bad), expired, saw(bad), expired}, "OPENED EXEMPTED/user REOPENED/expired", ""},
		"expired before it is told":    {[]step{saw(bad), accepted("x", mine, 3), saw(bad), saw(bad, severe), expired}, "OPENED EXEMPTED/user REOPENED/expired", ""},
		"not yet expired":              {[]step{saw(bad), accepted("x", mine, 90), expired, saw(bad)}, "OPENED EXEMPTED/user", "ana"},
		"fixed while exempt":           {[]step{saw(bad), accepted("x", mine, 90), saw(good), saw(good)}, "OPENED EXEMPTED/user RESOLVED", ""},
		"gone while exempt":            {[]step{saw(bad), accepted("x", mine, 90), gone, gone, gone}, "OPENED EXEMPTED/user RESOLVED", ""},
		"back and still exempt":        {[]step{saw(bad), accepted("x", mine, 90), saw(good), saw(bad)}, "OPENED EXEMPTED/user RESOLVED EXEMPTED", "ana"},
		"resolved ones are left alone": {[]step{saw(bad), saw(good), accepted("x", mine, 90), revoked("x"), expired}, "OPENED RESOLVED", ""},
		"worse while exempt":           {[]step{saw(bad), accepted("x", mine, 90), saw(bad, severe), saw(bad, severe)}, "OPENED EXEMPTED/user CHANGED", "ana"},
		"policy while exempt":          {[]step{saw(bad), accepted("x", mine, 90), saw(bad, days)}, "OPENED EXEMPTED/user CHANGED!", "ana"},
		"unknown while exempt":         {[]step{saw(bad), accepted("x", mine, 90), saw(rulev1.Outcome_OUTCOME_INSUFFICIENT_DATA), saw(rulev1.Outcome_OUTCOME_ERROR)}, "OPENED EXEMPTED/user", "ana"},
		"a tag makes it match":         {[]step{saw(bad), accepted("x", dev, 90), saw(bad, tags("Environment", "dev")), saw(bad, tags("Environment", "dev"))}, "OPENED EXEMPTED", "ana"},
		"a tag makes it match no more": {[]step{saw(bad, tags("Environment", "dev")), accepted("x", dev, 90), saw(bad, tags("Environment", "prod")), saw(bad, tags("Environment", "prod"))}, "OPENED EXEMPTED/user REOPENED", ""},
		"another takes over":           {[]step{saw(bad), accepted("x", mine, 90), accepted("y", `rule_id = "ebs-unattached"`, 80), revoked("x"), saw(bad)}, "OPENED EXEMPTED/user", "ana"},
		"both end":                     {[]step{saw(bad), accepted("x", mine, 90), accepted("y", `account:"1111"`, 4), revoked("x"), expired, saw(bad)}, "OPENED EXEMPTED/user REOPENED/expired", ""},
		"shortened":                    {[]step{saw(bad), accepted("x", mine, 90), changed("x", 4), saw(bad), expired}, "OPENED EXEMPTED/user REOPENED/expired", ""},
		"prolonged":                    {[]step{saw(bad), accepted("x", mine, 3), changed("x", 90), saw(bad), expired, saw(bad)}, "OPENED EXEMPTED/user", "ana"},
		"declared":                     {[]step{saw(bad, declared(90)), saw(bad, declared(90))}, "EXEMPTED", "tag:public-allowed"},
		"declared later":               {[]step{saw(bad), saw(bad, declared(90)), saw(bad, declared(90))}, "OPENED EXEMPTED", "tag:public-allowed"},
		"no longer declared":           {[]step{saw(bad, declared(90)), saw(bad), saw(bad)}, "EXEMPTED REOPENED", ""},
		"a declared day passes":        {[]step{saw(bad, declared(2)), saw(bad, declared(2)), expired, saw(bad), saw(bad)}, "EXEMPTED REOPENED/expired", ""},
		"declared and fixed":           {[]step{saw(bad, declared(90)), saw(good), saw(bad, declared(90))}, "EXEMPTED RESOLVED EXEMPTED", "tag:public-allowed"},
		"declared ends last":           {[]step{saw(bad, declared(90)), accepted("x", mine, 50), revoked("x"), saw(bad, declared(90))}, "EXEMPTED", "tag:public-allowed"},
		"declared ends first":          {[]step{saw(bad, declared(50)), accepted("x", mine, 90), saw(bad), revoked("x")}, "EXEMPTED REOPENED/user", ""},
		"declared takes over":          {[]step{saw(bad, declared(50)), accepted("x", mine, 90), saw(bad, declared(50)), revoked("x")}, "EXEMPTED", "tag:public-allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, clk := clocked(t)
			w := &world{s, clk, map[string]string{}}
			for n, do := range c.steps {
				clk.set(at(n))
				do(t, w, n)
			}
			id := violation("vol-1", at(0)).GetFindingId()
			if got := life(t, s, id); got != c.want {
				t.Errorf("transitions %s, want %s", got, c.want)
			}
			f := getFinding(t, s, id)
			if f.GetExemption().GetBy() != c.by || (f.GetState() == findingv1.State_STATE_EXEMPT) != (c.by != "") {
				t.Errorf("finding is %s by %v, want %q", f.GetState(), f.GetExemption(), c.by)
			}
			checkSteps(t, s, f)
		})
	}
}

// checkSteps holds a finding against its life: each step begins where the one
// before ended, and the last is where it is.
func checkSteps(t interface {
	Context() context.Context
	Errorf(string, ...any)
}, s *Service, f *findingv1.Finding) {
	state := findingv1.State_STATE_UNSPECIFIED
	reopened := int32(0)
	resp, err := s.ListTransitions(t.Context(), &findingv1.ListTransitionsRequest{FindingId: f.GetId(), PageSize: 1000})
	if err != nil {
		t.Errorf("%v", err)
	}
	for _, tr := range resp.GetTransitions() {
		if tr.GetFromState() != state {
			t.Errorf("%s begins at %s, want %s", tr.GetKind(), tr.GetFromState(), state)
		}
		state = tr.GetToState()
		if tr.GetKind() == findingv1.TransitionKind_TRANSITION_KIND_REOPENED {
			reopened++
		}
		// What people say does not touch it.
		if exempt := findingv1.State_STATE_EXEMPT; tr.GetKind() < findingv1.TransitionKind_TRANSITION_KIND_ACKNOWLEDGED && (tr.GetFromState() == exempt || state == exempt) != (tr.GetExemption().GetBy() != "") {
			t.Errorf("%s from %s to %s has exemption %v", tr.GetKind(), tr.GetFromState(), state, tr.GetExemption())
		}
	}
	if f.GetState() != state || f.GetReopenCount() != reopened {
		t.Errorf("finding %s is %s after %d returns, its life says %s and %d", f.GetId(), f.GetState(), f.GetReopenCount(), state, reopened)
	}
}

func TestExemptionIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	good := func() *exemptionv1.Exemption {
		return &exemptionv1.Exemption{Filter: `rule_id = "ec2-public"`, By: "ana", Reason: "why", ExpireTime: timestamppb.New(at(24))}
	}
	for field, set := range map[string][]func(*exemptionv1.Exemption){
		"exemption.by":     {func(x *exemptionv1.Exemption) { x.By = "" }, func(x *exemptionv1.Exemption) { x.By = " \t" }},
		"exemption.reason": {func(x *exemptionv1.Exemption) { x.Reason = "\n" }},
		"exemption.expire_time": {
			func(x *exemptionv1.Exemption) { x.ExpireTime = nil }, func(x *exemptionv1.Exemption) { x.ExpireTime = timestamppb.New(at(0)) },
			func(x *exemptionv1.Exemption) { x.ExpireTime = timestamppb.New(at(-1)) }, func(x *exemptionv1.Exemption) { x.ExpireTime = timestamppb.New(at(24 * 800)) },
		},
	} {
		for _, f := range set {
			x := good()
			f(x)
			_, err := s.CreateExemption(t.Context(), &exemptionv1.CreateExemptionRequest{Exemption: x})
			if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != field {
				t.Errorf("%v: %v, want %s refused", x, err, field)
			}
		}
	}
	for filter, restricts := range map[string]bool{
		``: false, ` `: false, `rule_id:*`: false, `account != "1"`: false, `account = ""`: false, `NOT rule_id = "x"`: false, `rule_id >= ""`: false,
		`category = WASTE OR category = SECURITY`: false, `category = WASTE`: false, `rule_id = "x" OR account != "x"`: false, `owner:""`: false,
		`NOT (rule_id = "x" AND account = "y")`: false, `rule_id = "x" OR NOT rule_id = "x"`: false, `state = OPEN`: false, `rule_id = `: false, `severity = HIGH`: false,
		`rule_id = "x"`: true, `category = WASTE AND region = "x"`: true, `NOT (NOT rule_id = "x")`: true, `tags.Owner = ""`: true, `tags:"Owner"`: true,
		`rule_id = "x" OR account = "y"`: true, `NOT (rule_id != "x" OR account != "y")`: true, `resource_name:"web"`: true, `tags."a b" = "c"`: true,
	} {
		x := good()
		x.Filter = filter
		resp, err := s.CreateExemption(t.Context(), &exemptionv1.CreateExemptionRequest{Exemption: x, ValidateOnly: true})
		if restricts && (err != nil || resp.GetExemption().GetId() != "") {
			t.Errorf("%s: %v %v", filter, resp, err)
		}
		if e := (*errs.Error)(nil); !restricts && (!errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != "filter") {
			t.Errorf("%s: %v, want it refused", filter, err)
		}
	}
	if resp, err := s.ListExemptions(t.Context(), &exemptionv1.ListExemptionsRequest{ShowExpired: true}); err != nil || len(resp.GetExemptions()) > 0 {
		t.Errorf("there are %v (%v) after tries only", resp, err)
	}
	x := accept(t, s, good().GetFilter(), 24)
	for reason, err := range map[string]error{
		"STALE_ETAG": func() error {
			_, err := s.UpdateExemption(t.Context(), &exemptionv1.UpdateExemptionRequest{Exemption: &exemptionv1.Exemption{Id: x.GetId(), Etag: "0", By: "b"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"by"}}})
			return err
		}(),
		"BAD_UPDATE_MASK": func() error {
			_, err := s.UpdateExemption(t.Context(), &exemptionv1.UpdateExemptionRequest{Exemption: x, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"filter"}}})
			return err
		}(),
		"EXEMPTION_NOT_FOUND": func() error {
			_, err := s.DeleteExemption(t.Context(), &exemptionv1.DeleteExemptionRequest{Id: "none"})
			return err
		}(),
	} {
		if errs.Reason(err) != reason {
			t.Errorf("%v, want %s", err, reason)
		}
	}
}

func TestExemptionsAreKept(t *testing.T) {
	t.Parallel()
	s, clk := clocked(t)
	scanOnce(t, s, 0, complete, violation("vol-1", at(0)), violation("vol-2", at(0)))
	try, err := s.CreateExemption(t.Context(), &exemptionv1.CreateExemptionRequest{ValidateOnly: true, Exemption: &exemptionv1.Exemption{
		Filter: `rule_id = "ebs-unattached"`, By: "ana", Reason: "why", ExpireTime: timestamppb.New(at(5)),
	}})
	if err != nil || try.GetExemption().GetFindings() != 2 {
		t.Errorf("a try says %v (%v), want 2 findings", try, err)
	}
	if got := life(t, s, violation("vol-1", at(0)).GetFindingId()); got != "OPENED" {
		t.Errorf("a try did %s", got)
	}
	late, soon := accept(t, s, `resource_id = "vol-1"`, 9), accept(t, s, `owner = "ops"`, 5)
	if late.GetFindings() != 1 || soon.GetFindings() != 1 {
		t.Errorf("findings are %d and %d, want 1 each: the one that ends last applies", late.GetFindings(), soon.GetFindings())
	}
	list := func(expired bool) (ids []string) {
		resp, err := s.ListExemptions(t.Context(), &exemptionv1.ListExemptionsRequest{ShowExpired: expired})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range resp.GetExemptions() {
			ids = append(ids, x.GetId())
			if x.GetFindings() != 1 && !x.GetExpired() {
				t.Errorf("%v, want 1 finding", x)
			}
		}
		return ids
	}
	if got := list(false); fmt.Sprint(got) != fmt.Sprint([]string{soon.GetId(), late.GetId()}) {
		t.Errorf("list is %v, want the one that ends first first", got)
	}
	state := &streamed[scanv1.ListScopeStateResponse]{ctx: t.Context()}
	if err := s.ListScopeState(&scanv1.ListScopeStateRequest{Scope: here}, state); err != nil || len(state.sent[0].GetOpenFindingIds()) != 2 {
		t.Errorf("open are %v (%v), want both: the worker is to say what became of them", state.sent, err)
	}
	clk.set(at(6))
	if err := s.endExemptionsOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, b := list(false), list(true); len(a) != 1 || len(b) != 2 {
		t.Errorf("%v run and %v are there, want 1 and 2", a, b)
	}
	x, err := s.GetExemption(t.Context(), &exemptionv1.GetExemptionRequest{Id: soon.GetId()})
	if err != nil || !x.GetExemption().GetExpired() || x.GetExemption().GetFindings() != 0 {
		t.Errorf("%v (%v), want it expired", x, err)
	}
	if _, err := s.UpdateExemption(t.Context(), &exemptionv1.UpdateExemptionRequest{Exemption: x.GetExemption()}); !errors.Is(err, errs.FailedPrecondition) {
		t.Errorf("%v, want an expired one to stay so", err)
	}
	if _, err := s.DeleteExemption(t.Context(), &exemptionv1.DeleteExemptionRequest{Id: late.GetId(), Etag: late.GetEtag()}); err != nil {
		t.Fatal(err)
	}
	log, err := s.ListEntries(t.Context(), &systemlogv1.ListEntriesRequest{Filter: `event:"exemption_"`})
	var events []string
	for _, e := range log.GetEntries() {
		events = append(events, e.GetEvent())
	}
	if err != nil || strings.Join(events, " ") != "exemption_deleted exemption_expired exemption_created exemption_created" {
		t.Errorf("the system log says %v (%v)", events, err)
	}
}

// Whatever a tag is called and holds, a filter over it means that tag.
func TestHostileTagsInFilters(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	hostile := []string{"a", "a.b", "'", `"`, `\`, "?", "??", "'; DROP TABLE findings; --", "{a,b}", "$.x", "é", "a b", "*", "AND", "0", "\u202e", "%s", "tags"}
	var all []*scanv1.Observation
	for i, k := range hostile {
		all = append(all, violation(fmt.Sprintf("vol-%02d", i), at(0), tags(k, hostile[len(hostile)-1-i])))
	}
	scanOnce(t, s, 0, complete, all...)
	for i, k := range hostile {
		filter := fmt.Sprintf("tags.%s = %s", aipQuote(k), aipQuote(hostile[len(hostile)-1-i]))
		if got, err := found(t, s, filter); err != nil || len(got) != 1 || got[0] != all[i].GetFindingId() {
			t.Errorf("%s: %v (%v)", filter, got, err)
		}
		if x := accept(t, s, filter, 9); x.GetFindings() != 1 {
			t.Errorf("%s exempts %d", filter, x.GetFindings())
		}
	}
}

func aipQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Of replicas that end the same exemptions at once, each is ended by one.
func TestExemptionsEndOnce(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	clk := &clock{}
	var replicas []*Service
	for range 2 {
		s, _ := replica(t, dsn)
		s.now = clk.now
		replicas = append(replicas, s)
	}
	var all []*scanv1.Observation
	for i := range 20 {
		all = append(all, violation(fmt.Sprintf("vol-%02d", i), at(0)))
	}
	scanOnce(t, replicas[0], 0, complete, all...)
	for i := range 20 {
		accept(t, replicas[i%2], fmt.Sprintf(`resource_id = "vol-%02d"`, i), 2)
	}
	clk.set(at(2))
	var wg sync.WaitGroup
	failed := make([]error, 2)
	for i, s := range replicas {
		wg.Go(func() { failed[i] = s.endExemptionsOnce(t.Context()) })
	}
	scanOnce(t, replicas[0], 1, complete, all...) // at the same time
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if got := life(t, replicas[0], o.GetFindingId()); got != "OPENED EXEMPTED/user REOPENED/expired" {
			t.Errorf("finding lived %s", got)
		}
	}
	log, err := replicas[0].ListEntries(t.Context(), &systemlogv1.ListEntriesRequest{Filter: `event = "exemption_expired"`, PageSize: 100})
	if err != nil || len(log.GetEntries()) != 20 {
		t.Errorf("%d entries in the system log, want 20 (%v)", len(log.GetEntries()), err)
	}
}

// Whatever happens in whatever order, at its end a violation is exempt if and
// only if something that has not ended says so.
func TestExemptionsProperty(t *testing.T) {
	t.Parallel()
	s, clk := clocked(t)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		account := fmt.Sprintf("%012d", round)
		scope := &scanv1.Scope{Service: "waste", Account: account, Region: "eu-west-1"}
		type made struct {
			env   string
			until int
		}
		running := map[string]made{}
		last := map[string]*scanv1.Observation{}
		for range rapid.IntRange(2, 12).Draw(rt, "steps") {
			clk.advance(time.Hour)
			n := int(clk.now().Sub(epoch) / time.Hour)
			switch rapid.SampledFrom([]string{"scan", "scan", "accept", "revoke", "expire", "change"}).Draw(rt, "step") {
			case "scan":
				var saw []*scanv1.Observation
				for i := range 3 {
					o := volume(scope, fmt.Sprintf("vol-%d", i), rapid.SampledFrom([]rulev1.Outcome{1, 1, 1, 2, 4}).Draw(rt, "outcome"), at(n),
						tags("env", rapid.SampledFrom([]string{"dev", "prod"}).Draw(rt, "env")))
					if o.Verdict.Outcome == rulev1.Outcome_OUTCOME_VIOLATION {
						if rapid.IntRange(0, 4).Draw(rt, "declares") == 0 {
							declared(n + 1000)(o)
						}
						o.Verdict.Severity = rapid.SampledFrom([]rulev1.Severity{2, 2, 4}).Draw(rt, "severity")
					}
					if o.Verdict.Outcome <= rulev1.Outcome_OUTCOME_COMPLIANT {
						last[o.GetFindingId()] = o
					}
					saw = append(saw, o)
				}
				id := fmt.Sprintf("job/%s-%d", account, n)
				startRun(t, s, id, scope)
				observe(t, s, &findingv1.FindingsObserved{RunId: id, Scope: scope, Execution: "1", Sequence: 1, Observations: saw})
			case "accept":
				env, until := rapid.SampledFrom([]string{"dev", "prod"}).Draw(rt, "of"), n+rapid.IntRange(1, 8).Draw(rt, "until")
				x := accept(t, s, fmt.Sprintf("account = %q AND tags.env = %q", account, env), until)
				running[x.GetId()] = made{env, until}
			case "revoke":
				for id := range running {
					if _, err := s.DeleteExemption(t.Context(), &exemptionv1.DeleteExemptionRequest{Id: id}); err != nil {
						rt.Fatal(err)
					}
					delete(running, id)
					break
				}
			case "change":
				for id, x := range running {
					if x.until <= n {
						continue
					}
					x.until = n + 2
					running[id] = x
					_, err := s.UpdateExemption(t.Context(), &exemptionv1.UpdateExemptionRequest{Exemption: &exemptionv1.Exemption{Id: id, ExpireTime: timestamppb.New(at(x.until))},
						UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"expire_time"}}})
					if err != nil {
						rt.Fatal(err)
					}
					break
				}
			case "expire":
				if err := s.endExemptionsOnce(t.Context()); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if err := s.endExemptionsOnce(t.Context()); err != nil {
			rt.Fatal(err)
		}
		for id, o := range last {
			resp, err := s.GetFinding(t.Context(), &findingv1.GetFindingRequest{Id: id})
			if errors.Is(err, errs.NotFound) && o.Verdict.Outcome != rulev1.Outcome_OUTCOME_VIOLATION {
				continue
			}
			if err != nil {
				rt.Fatal(err)
			}
			f := resp.GetFinding()
			end := o.GetVerdict().GetExemption().GetExpireTime().AsTime()
			exempt := o.GetVerdict().GetExemption() != nil
			for _, x := range running {
				if x.env == o.GetResource().GetTags()["env"] && at(x.until).After(clk.now()) {
					if !exempt || at(x.until).After(end) {
						end = at(x.until)
					}
					exempt = true
				}
			}
			switch bad := o.Verdict.Outcome == rulev1.Outcome_OUTCOME_VIOLATION; {
			case (f.GetState() == findingv1.State_STATE_RESOLVED) != !bad, bad && (f.GetState() == findingv1.State_STATE_EXEMPT) != exempt:
				rt.Errorf("finding is %s by %v, want violation %v exempt %v", f.GetState(), f.GetExemption(), bad, exempt)
			case bad && exempt && !f.GetExemption().GetExpireTime().AsTime().Equal(end):
				rt.Errorf("exempt until %v, want %v", f.GetExemption().GetExpireTime().AsTime(), end)
			}
			checkSteps(rt, s, f)
		}
	})
}
