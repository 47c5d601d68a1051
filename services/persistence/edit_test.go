package persistence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

func batchOf(names ...string) *findingv1.BatchUpdateFindingsRequest {
	req := &findingv1.BatchUpdateFindingsRequest{Actor: "ana"}
	for _, n := range names {
		req.Findings = append(req.Findings, &findingv1.FindingRef{Id: violation(n, at(0)).GetFindingId()})
	}
	return req
}

func acknowledge(until *timestamppb.Timestamp, names ...string) *findingv1.BatchUpdateFindingsRequest {
	req := batchOf(names...)
	req.Action = &findingv1.BatchUpdateFindingsRequest_Acknowledge{Acknowledge: &findingv1.Acknowledge{Note: "on it", ExpireTime: until}}
	return req
}

func assign(to string, names ...string) *findingv1.BatchUpdateFindingsRequest {
	req := batchOf(names...)
	req.Action = &findingv1.BatchUpdateFindingsRequest_Assign{Assign: &findingv1.Assign{Assignee: to}}
	return req
}

func comment(text string, names ...string) *findingv1.BatchUpdateFindingsRequest {
	req := batchOf(names...)
	req.Action = &findingv1.BatchUpdateFindingsRequest_Comment{Comment: &findingv1.Comment{Text: text}}
	return req
}

// update demands that all of a batch is done.
func update(t testing.TB, s *Service, req *findingv1.BatchUpdateFindingsRequest) *findingv1.Finding {
	t.Helper()
	resp, err := s.BatchUpdateFindings(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resp.GetResults() {
		if r.GetError() != nil {
			t.Fatal(r)
		}
	}
	return resp.GetResults()[0].GetFinding()
}

func TestAcknowledgements(t *testing.T) {
	t.Parallel()
	const (
		bad  = rulev1.Outcome_OUTCOME_VIOLATION
		good = rulev1.Outcome_OUTCOME_COMPLIANT
	)
	severe := func(o *scanv1.Observation) { o.Verdict.Severity = rulev1.Severity_SEVERITY_HIGH }
	type step func(t *testing.T, s *Service, n int)
	saw := func(outcome rulev1.Outcome, set ...func(*scanv1.Observation)) step {
		return func(t *testing.T, s *Service, n int) {
			scanOnce(t, s, n, complete, volume(here, "vol-1", outcome, at(n), set...))
		}
	}
	gone := func(t *testing.T, s *Service, n int) { scanOnce(t, s, n, complete) }
	acked := func(until int) step {
		return func(t *testing.T, s *Service, _ int) {
			var end *timestamppb.Timestamp
			if until > 0 {
				end = timestamppb.New(at(until))
			}
			update(t, s, acknowledge(end, "vol-1"))
		}
	}
	unacked := func(t *testing.T, s *Service, _ int) {
		req := batchOf("vol-1")
		req.Action = &findingv1.BatchUpdateFindingsRequest_Unacknowledge{}
		update(t, s, req)
	}
	tended := func(t *testing.T, s *Service, _ int) {
		if err := s.endAcknowledgements(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		steps []step
		want  string
		ack   bool
	}{
		"stays":                     {[]step{saw(bad), acked(0), saw(bad), saw(bad)}, "OPENED ACKNOWLEDGED/user", true},
		"until it changes":          {[]step{saw(bad), acked(0), saw(bad, severe)}, "OPENED ACKNOWLEDGED/user CHANGED", false},
		"until a time, changes":     {[]step{saw(bad), acked(90), saw(bad, severe)}, "OPENED ACKNOWLEDGED/user CHANGED", true},
		"until a time":              {[]step{saw(bad), acked(3), tended, tended, tended}, "OPENED ACKNOWLEDGED/user UNACKNOWLEDGED/ack", false},
		"not yet":                   {[]step{saw(bad), acked(30), tended}, "OPENED ACKNOWLEDGED/user", true},
		"taken back":                {[]step{saw(bad), acked(0), unacked, unacked}, "OPENED ACKNOWLEDGED/user UNACKNOWLEDGED/user", false},
		"anew":                      {[]step{saw(bad), acked(2), acked(0), tended, tended}, "OPENED ACKNOWLEDGED/user ACKNOWLEDGED/user", true},
		"resolved":                  {[]step{saw(bad), acked(90), saw(good), saw(bad)}, "OPENED ACKNOWLEDGED/user RESOLVED REOPENED", false},
		"gone":                      {[]step{saw(bad), acked(90), gone, gone, gone}, "OPENED ACKNOWLEDGED/user RESOLVED", false},
		"old evidence is no change": {[]step{saw(bad), acked(0), func(t *testing.T, s *Service, _ int) { saw(bad)(t, s, 60) }}, "OPENED ACKNOWLEDGED/user", true},
		"exempt and back": {[]step{saw(bad), acked(0), func(t *testing.T, s *Service, _ int) { accept(t, s, `resource_id = "vol-1"`, 4) }, saw(bad), func(t *testing.T, s *Service, _ int) {
			if err := s.endExemptionsOnce(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, saw(bad)},
			"OPENED ACKNOWLEDGED/user EXEMPTED/user REOPENED/expired", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, clk := clocked(t)
			for n, do := range c.steps {
				clk.set(at(n))
				do(t, s, n)
			}
			id := violation("vol-1", at(0)).GetFindingId()
			var steps []string
			for _, tr := range transitions(t, s, id) {
				steps = append(steps, strings.TrimPrefix(tr.GetKind().String(), "TRANSITION_KIND_")+map[findingv1.Cause]string{
					findingv1.Cause_CAUSE_USER: "/user", findingv1.Cause_CAUSE_EXEMPTION_EXPIRED: "/expired", findingv1.Cause_CAUSE_ACKNOWLEDGEMENT_EXPIRED: "/ack"}[tr.GetCause()])
				if tr.GetKind() == findingv1.TransitionKind_TRANSITION_KIND_ACKNOWLEDGED && (tr.GetActor() != "ana" || tr.GetAcknowledgement().GetNote() != "on it" || tr.GetReason() != "on it") {
					t.Errorf("acknowledged by %v", tr)
				}
			}
			if got := strings.Join(steps, " "); got != c.want {
				t.Errorf("transitions %s, want %s", got, c.want)
			}
			f := getFinding(t, s, id)
			if (f.GetAcknowledgement() != nil) != c.ack {
				t.Errorf("acknowledged: %v, want %v", f.GetAcknowledgement(), c.ack)
			}
			want := 0
			if c.ack {
				want = 1
			}
			if ids, err := found(t, s, "acknowledged = true"); err != nil || len(ids) != want {
				t.Errorf("%d are acknowledged, want %d (%v)", len(ids), want, err)
			}
			last := transitions(t, s, id)
			if end := last[len(last)-1]; !c.ack && end.GetKind() != findingv1.TransitionKind_TRANSITION_KIND_REOPENED && end.GetAcknowledgement().GetBy() != "ana" {
				t.Errorf("the end of the acknowledgement is not told: %v", end)
			}
			checkSteps(t, s, f)
		})
	}
}

func TestOwners(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	ctx := t.Context()
	_, err := s.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: here.GetAccount(), Owner: "platform"}})
	if err != nil {
		t.Fatal(err)
	}
	named := func(owner string) func(*scanv1.Observation) {
		return func(o *scanv1.Observation) { o.Verdict.Owner = owner }
	}
	scan := func(n int) {
		scanOnce(t, s, n, complete,
			violation("tagged", at(n), named("stack a")),
			violation("grouped", at(n), tags(), named("stack a")),
			violation("nobody's", at(n), tags()))
	}
	want := func(tagged, grouped, nobody string) {
		t.Helper()
		for name, owner := range map[string]string{"tagged": tagged, "grouped": grouped, "nobody's": nobody} {
			if f := getFinding(t, s, violation(name, at(0)).GetFindingId()); f.GetOwner() != owner {
				t.Errorf("%s belongs to %q, want %q", name, f.GetOwner(), owner)
			}
		}
		if ids, err := found(t, s, "owner = "+fmt.Sprintf("%q", nobody)); err != nil || len(ids) == 0 {
			t.Errorf("the filter does not find %q (%v)", nobody, err)
		}
	}
	scan(0)
	want("ops", "stack a", "platform")
	update(t, s, assign("bob", "tagged", "nobody's"))
	want("bob", "stack a", "bob")
	scan(30) // writes all evidence anew
	want("bob", "stack a", "bob")
	update(t, s, assign(" ", "tagged", "nobody's"))
	want("ops", "stack a", "platform")
	id := violation("nobody's", at(0)).GetFindingId()
	before := getFinding(t, s, id).GetEtag()

	if _, err := s.UpdateAccount(ctx, &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: here.GetAccount(), Owner: "cloud"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"owner"}}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.followAccountOwners(ctx); err != nil {
			t.Fatal(err)
		}
	}
	want("ops", "stack a", "cloud")
	if getFinding(t, s, id).GetEtag() == before {
		t.Error("the etag stayed the same")
	}
	if _, err := s.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: here.GetAccount()}); err != nil {
		t.Fatal(err)
	}
	if err := s.followAccountOwners(ctx); err != nil {
		t.Fatal(err)
	}
	want("ops", "stack a", "")

	var steps []string
	for _, tr := range transitions(t, s, id) {
		steps = append(steps, strings.TrimPrefix(tr.GetKind().String(), "TRANSITION_KIND_")+" "+tr.GetFromOwner()+">"+tr.GetToOwner())
	}
	if got := strings.Join(steps, ", "); got != "OPENED >, ASSIGNED platform>bob, ASSIGNED bob>platform" {
		t.Errorf("its life is %s", got)
	}
}

// An exemption of an owner is for what is assigned to him, from then on.
func TestAssigningDecidesExemptions(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	scanOnce(t, s, 0, complete, violation("vol-1", at(0)))
	accept(t, s, `owner = "bob"`, 90)
	id := violation("vol-1", at(0)).GetFindingId()
	update(t, s, assign("bob", "vol-1"))
	scanOnce(t, s, 1, complete, violation("vol-1", at(1)))
	update(t, s, assign("", "vol-1"))
	if got := life(t, s, id); got != "OPENED ASSIGNED/user EXEMPTED/user ASSIGNED/user REOPENED/user" {
		t.Errorf("its life is %s", got)
	}
	checkSteps(t, s, getFinding(t, s, id))
}

func TestBatchesAnswerForEach(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	scanOnce(t, s, 0, complete, violation("a", at(0)), violation("b", at(0)), violation("c", at(0)))
	scanOnce(t, s, 1, complete, violation("a", at(1)), volume(here, "b", rulev1.Outcome_OUTCOME_COMPLIANT, at(1)), violation("c", at(1)))
	req := acknowledge(nil, "c", "none", "b", "a")
	req.Findings[3].Etag = "77"
	req.RequestId = "r-1"
	first, err := s.BatchUpdateFindings(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, r := range first.GetResults() {
		if r.GetId() != req.GetFindings()[i].GetId() || (r.GetError() == nil) != (r.GetFinding() != nil) {
			t.Errorf("result %d is %v", i, r)
		}
		got = append(got, codes.Code(r.GetError().GetCode()).String()+" "+r.GetError().GetReason())
	}
	if s := strings.Join(got, ", "); s != "OK , NotFound FINDING_NOT_FOUND, FailedPrecondition FINDING_RESOLVED, Aborted STALE_ETAG" {
		t.Errorf("results are %s", s)
	}
	// Asked again, also by many at once, it is the same answer and nothing happens.
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			again, err := s.BatchUpdateFindings(t.Context(), req)
			if err == nil && !proto.Equal(first, again) {
				err = errors.New("another answer")
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if n := len(transitions(t, s, violation("c", at(0)).GetFindingId())); n != 2 {
		t.Errorf("%d transitions, want 2", n)
	}
	other := acknowledge(nil, "c")
	other.RequestId = "r-1"
	if _, err := s.BatchUpdateFindings(t.Context(), other); !errors.Is(err, errs.Aborted) {
		t.Errorf("the id of another request: %v", err)
	}
	// A fresh id sent by many at once is done once.
	c := comment("hm", "a")
	c.RequestId = "r-2"
	for range 4 {
		g.Go(func() error { _, err := s.BatchUpdateFindings(t.Context(), c); return err })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if got := life(t, s, violation("a", at(0)).GetFindingId()); got != "OPENED COMMENTED/user" {
		t.Errorf("its life is %s", got)
	}
	good := batchOf("a")
	good.Findings[0].Etag = getFinding(t, s, good.GetFindings()[0].GetId()).GetEtag()
	good.Action = &findingv1.BatchUpdateFindingsRequest_Assign{Assign: &findingv1.Assign{Assignee: "bob"}}
	if f := update(t, s, good); f.GetAssignee() != "bob" || f.GetEtag() == good.GetFindings()[0].GetEtag() {
		t.Errorf("finding is %v", f)
	}
	s.now = func() time.Time { return at(48) }
	if err := s.clearAway(t.Context()); err != nil {
		t.Error(err)
	}
	var kept int
	if err := s.bun.NewRaw("SELECT count(*) FROM finding_requests").Scan(t.Context(), &kept); err != nil || kept != 0 {
		t.Errorf("%d answers are kept for ever (%v)", kept, err)
	}
}

// A thousand findings at once.
func TestBatchOfAThousand(t *testing.T) {
	t.Parallel()
	s := service(t)
	var names []string
	var o []*scanv1.Observation
	for i := range 1000 {
		names = append(names, fmt.Sprintf("vol-%d", i))
		o = append(o, violation(names[i], at(0)))
	}
	scanOnce(t, s, 0, complete, o...)
	update(t, s, acknowledge(nil, names...))
	if resp, err := s.SummarizeFindings(t.Context(), &findingv1.SummarizeFindingsRequest{Filter: "acknowledged = true"}); err != nil || resp.GetTotals().GetFindings() != 1000 {
		t.Errorf("%v (%v)", resp, err)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	ctx := t.Context()
	scanOnce(t, s, 0, complete, violation("a", at(0)))
	batch := func(set func(*findingv1.BatchUpdateFindingsRequest)) func() error {
		return func() error {
			req := comment("hm", "a")
			set(req)
			_, err := s.BatchUpdateFindings(ctx, req)
			return err
		}
	}
	sum := func(req *findingv1.SummarizeFindingsRequest) func() error {
		return func() error { _, err := s.SummarizeFindings(ctx, req); return err }
	}
	days := func(req *findingv1.ListFindingDaysRequest) func() error {
		return func() error { _, err := s.ListFindingDays(ctx, req); return err }
	}
	listed := func(req *findingv1.ListFindingsRequest) func() error {
		return func() error { _, err := s.ListFindings(ctx, req); return err }
	}
	until := func(ts *timestamppb.Timestamp) func() error {
		return batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Action = acknowledge(ts).GetAction() })
	}
	for name, c := range map[string]struct {
		call  func() error
		field string
	}{
		"no findings":      {batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Findings = nil }), "findings"},
		"too many":         {batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Findings = make([]*findingv1.FindingRef, 1001) }), "findings"},
		"no id":            {batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Findings[0].Id = "x" }), "findings"},
		"twice":            {batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Findings = append(r.Findings, r.Findings[0]) }), "findings"},
		"nobody":           {batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Actor = " \n" }), "actor"},
		"NUL":              {batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Actor = "a\x00" }), "actor"},
		"NUL in a comment": {batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Action = comment("\x00").GetAction() }), "comment.text"},
		"nothing to do":    {batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Action = nil }), "action"},
		"nothing to say":   {batch(func(r *findingv1.BatchUpdateFindingsRequest) { r.Action = comment("\t").GetAction() }), "comment.text"},
		"until yesterday":  {until(timestamppb.New(at(-1))), "acknowledge.expire_time"},
		"until for ever":   {until(timestamppb.New(at(24 * 800))), "acknowledge.expire_time"},
		"until no time":    {until(&timestamppb.Timestamp{Seconds: 1 << 60}), "acknowledge.expire_time"},
		"filter":           {sum(&findingv1.SummarizeFindingsRequest{Filter: "colour = 1"}), "filter"},
		"facet":            {sum(&findingv1.SummarizeFindingsRequest{Facets: []findingv1.Facet{0}}), "facets"},
		"unknown facet":    {sum(&findingv1.SummarizeFindingsRequest{Facets: []findingv1.Facet{99}}), "facets"},
		"facet twice":      {sum(&findingv1.SummarizeFindingsRequest{Facets: []findingv1.Facet{1, 1}}), "facets"},
		"days by owner":    {days(&findingv1.ListFindingDaysRequest{Filter: `owner = "x"`}), "filter"},
		"no day":           {days(&findingv1.ListFindingDaysRequest{StartDate: "2026-02-30"}), "start_date"},
		"before time":      {days(&findingv1.ListFindingDaysRequest{EndDate: "0001-01-01"}), "end_date"},
		"backwards":        {days(&findingv1.ListFindingDaysRequest{StartDate: "2026-02-02", EndDate: "2026-02-01"}), "start_date"},
		"too long":         {days(&findingv1.ListFindingDaysRequest{StartDate: "1990-02-02"}), "start_date"},
		"acknowledged":     {listed(&findingv1.ListFindingsRequest{Filter: "acknowledged = maybe"}), "filter"},
		"acknowledged > ":  {listed(&findingv1.ListFindingsRequest{Filter: "acknowledged > false"}), "filter"},
		"mask":             {listed(&findingv1.ListFindingsRequest{ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"colour"}}}), "read_mask"},
		"mask of a map":    {listed(&findingv1.ListFindingsRequest{ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"parameters.days"}}}), "read_mask"},
		"mask of one": {func() error {
			_, err := s.GetFinding(ctx, &findingv1.GetFindingRequest{ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"\xff"}}})
			return err
		}, "read_mask"},
		"token of holds": {func() error { _, err := s.ListHolds(ctx, &findingv1.ListHoldsRequest{PageToken: "x"}); return err }, "page_token"},
		"token of what held": {func() error {
			_, err := s.ListHeldTransitions(ctx, &findingv1.ListHeldTransitionsRequest{RunId: "x", PageToken: "x"})
			return err
		}, "page_token"},
		"NUL in a run": {func() error {
			_, err := s.ListHeldTransitions(ctx, &findingv1.ListHeldTransitionsRequest{RunId: "\x00"})
			return err
		}, "run_id"},
		"NUL to release": {func() error { _, err := s.ReleaseHold(ctx, &findingv1.ReleaseHoldRequest{RunId: "\x00"}); return err }, "run_id"},
		"NUL to discard": {func() error {
			_, err := s.DiscardHold(ctx, &findingv1.DiscardHoldRequest{RunId: "x", Actor: "\x00"})
			return err
		}, "actor"},
	} {
		err := c.call()
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || len(e.Violations()) == 0 || e.Violations()[0].Field != c.field {
			t.Errorf("%s: %v, want %s refused", name, err, c.field)
		}
	}
	if got := life(t, s, violation("a", at(0)).GetFindingId()); got != "OPENED" {
		t.Errorf("its life is %s", got)
	}
}

func TestReadMask(t *testing.T) {
	t.Parallel()
	s := estate(t)
	resp, err := s.ListFindings(t.Context(), &findingv1.ListFindingsRequest{PageSize: 3, ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"severity", "resource.arn", "resource.tags", "monthly_cost", "monthly_cost.low"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range resp.GetFindings() {
		want := &findingv1.Finding{Severity: f.GetSeverity(), Resource: &scanv1.Resource{Arn: f.GetResource().GetArn(), Tags: f.GetResource().GetTags()}, MonthlyCost: f.GetMonthlyCost()}
		if !proto.Equal(f, want) || f.GetSeverity() == 0 || f.GetResource().GetArn() == "" || len(f.GetResource().GetTags()) == 0 {
			t.Errorf("read %v", f)
		}
	}
	all := getFinding(t, s, violation("vol-01", at(0)).GetFindingId())
	star, err := s.GetFinding(t.Context(), &findingv1.GetFindingRequest{Id: all.GetId(), ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}}})
	if err != nil || star.GetFinding().GetId() == "" || len(star.GetFinding().GetEvidence()) != len(all.GetEvidence()) {
		t.Errorf("* is %v (%v)", star, err)
	}
}

// People and scans change the same findings at once: nothing is lost, nobody
// waits for ever.
func TestPeopleAndScansAtOnce(t *testing.T) {
	t.Parallel()
	s := service(t)
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("vol-%d", i))
	}
	scan := func(n int, set func(*scanv1.Observation)) error {
		id := fmt.Sprintf("run/%d", n)
		m := &findingv1.FindingsObserved{RunId: id, Scope: here, Execution: "1.1", Sequence: 1}
		for _, name := range names {
			m.Observations = append(m.Observations, violation(name, at(n), set))
		}
		return errors.Join(s.onFindingsObserved(context.Background(), []*bus.Message[*findingv1.FindingsObserved]{message(m)})...)
	}
	for n := range 12 {
		startRun(t, s, fmt.Sprintf("run/%d", n), here)
	}
	same := func(*scanv1.Observation) {}
	if err := scan(0, same); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.Go(func() error {
		for n := 1; n < 12; n++ {
			if err := scan(n, func(o *scanv1.Observation) { o.Verdict.Severity = rulev1.Severity(n%5 + 1) }); err != nil {
				return err
			}
		}
		return nil
	})
	const people, times = 3, 8
	for p := range people {
		g.Go(func() error {
			for i := range times {
				req := comment("hm", names...)
				if p == 1 {
					req = assign(fmt.Sprintf("team-%d", i), names...)
				}
				if _, err := s.BatchUpdateFindings(t.Context(), req); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f := getFinding(t, s, violation(name, at(0)).GetFindingId())
		n := map[findingv1.TransitionKind]int{}
		for _, tr := range transitions(t, s, f.GetId()) {
			n[tr.GetKind()]++
		}
		if n[findingv1.TransitionKind_TRANSITION_KIND_COMMENTED] != (people-1)*times || n[findingv1.TransitionKind_TRANSITION_KIND_ASSIGNED] != times || f.GetOwner() != fmt.Sprintf("team-%d", times-1) || f.GetSeverity() != rulev1.Severity(11%5+1) {
			t.Errorf("%s is %v of %s after %v", name, f.GetSeverity(), f.GetOwner(), n)
		}
		checkSteps(t, s, f)
	}
	var deadlocks int
	if err := s.bun.NewRaw("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(t.Context(), &deadlocks); err != nil || deadlocks > 0 {
		t.Errorf("%d deadlocks (%v)", deadlocks, err)
	}
}
