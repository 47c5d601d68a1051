package persistence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
)

// taken is a publisher that keeps what it is given.
type taken struct {
	mu       sync.Mutex
	messages []bus.Outgoing
	fail     func(bus.Outgoing) error
}

func (p *taken) PublishAll(_ context.Context, messages []bus.Outgoing) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range messages {
		if p.fail != nil {
			if err := p.fail(m); err != nil {
				return err
			}
		}
		p.messages = append(p.messages, m)
	}
	return nil
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// replica opens a service on a database whose schema is in place, as the role
// that it has in production. Nothing runs in the background.
func replica(t testing.TB, dsn string) (*Service, *taken) {
	t.Helper()
	p := &taken{}
	s, err := open(Config{DatabaseURL: as(RoleApp, dsn), Connections: 8}, quiet(), p, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	close(s.ready)
	t.Cleanup(func() { s.Close() })
	return s, p
}

// clock is the time of services in the hands of a test. It begins at epoch.
type clock struct{ since atomic.Int64 }

func (c *clock) now() time.Time          { return epoch.Add(time.Duration(c.since.Load())) }
func (c *clock) advance(d time.Duration) { c.since.Add(int64(d)) }
func (c *clock) set(t time.Time)         { c.since.Store(int64(t.Sub(epoch))) }

func clocked(t testing.TB) (*Service, *clock) {
	t.Helper()
	s, c := service(t), &clock{}
	s.now = c.now
	return s, c
}

func service(t testing.TB) *Service {
	t.Helper()
	s, _ := replica(t, devtest.DB(t, migrated))
	return s
}

// epoch is when the scans of tests begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(n int) time.Time { return epoch.Add(time.Duration(n) * time.Hour) }

var here = &scanv1.Scope{Service: "waste", Account: "111122223333", Region: "eu-west-1"}

const volumeType = "AWS::EC2::Volume"

func idOf(scope *scanv1.Scope, rule, arn string) string {
	sum := sha256.Sum256([]byte("aws\x00" + scope.GetAccount() + "\x00" + scope.GetRegion() + "\x00" + rule + "\x00" + arn))
	return hex.EncodeToString(sum[:16])
}

// volume is a verdict on a volume of the scope.
func volume(scope *scanv1.Scope, name string, outcome rulev1.Outcome, when time.Time, set ...func(*scanv1.Observation)) *scanv1.Observation {
	arn := fmt.Sprintf("arn:aws:ec2:%s:%s:volume/%s", scope.GetRegion(), scope.GetAccount(), name)
	o := &scanv1.Observation{
		FindingId: idOf(scope, "ebs-unattached", arn), RuleId: "ebs-unattached", RuleVersion: 1, Category: rulev1.Category_CATEGORY_WASTE,
		Title:      "Unattached volume",
		Resource:   &scanv1.Resource{Arn: arn, Id: name, Type: volumeType, Account: scope.GetAccount(), Region: scope.GetRegion(), Name: "disk " + name, Tags: map[string]string{"Owner": "ops"}},
		Parameters: map[string]string{"days": "14"}, ObservedAt: timestamppb.New(when),
		Verdict: &rulev1.Verdict{Outcome: outcome, Reason: "because " + outcome.String()},
	}
	if outcome == rulev1.Outcome_OUTCOME_VIOLATION {
		o.Verdict.Severity = rulev1.Severity_SEVERITY_LOW
		o.Verdict.MonthlyCost = &rulev1.MonthlyCost{Low: 8, High: 8, Basis: "LIST", Source: "table", Date: "2026-01"}
		o.Verdict.Since = timestamppb.New(epoch.Add(-30 * 24 * time.Hour))
		o.Verdict.Evidence = []*rulev1.Evidence{{Name: "days_unattached", Value: structpb.NewNumberValue(when.Sub(epoch).Hours() / 24), Unit: "days", Confidence: rulev1.Confidence_CONFIDENCE_OBSERVED}}
		o.Verdict.Recommendation = "Delete it."
	}
	for _, f := range set {
		f(o)
	}
	return o
}

func violation(name string, when time.Time, set ...func(*scanv1.Observation)) *scanv1.Observation {
	return volume(here, name, rulev1.Outcome_OUTCOME_VIOLATION, when, set...)
}

func message[T proto.Message](m T) *bus.Message[T] { return &bus.Message[T]{Body: m, Time: epoch} }

// startRun begins a run and plans its scopes.
func startRun(t testing.TB, s *Service, id string, scopes ...*scanv1.Scope) {
	t.Helper()
	if _, err := s.StartRun(t.Context(), &runv1.StartRunRequest{Trigger: &jobv1.Trigger{RunId: id, Job: "waste-scan", Kind: "waste", Cause: jobv1.Cause_CAUSE_SCHEDULE}}); err != nil {
		t.Fatal(err)
	}
	plan(t, s, id, scopes...)
}

func plan(t testing.TB, s *Service, id string, scopes ...*scanv1.Scope) {
	t.Helper()
	req := &runv1.PlanRunRequest{RunId: id}
	for _, sc := range scopes {
		req.Scopes = append(req.Scopes, &runv1.PlannedScope{Scope: sc, Partition: "aws"})
	}
	if _, err := s.PlanRun(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

func observe(t testing.TB, s *Service, messages ...*findingv1.FindingsObserved) {
	t.Helper()
	batch := make([]*bus.Message[*findingv1.FindingsObserved], len(messages))
	for i, m := range messages {
		batch[i] = message(m)
	}
	for i, err := range s.onFindingsObserved(t.Context(), batch) {
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

func finished(run, execution string, batches int, when time.Time, status scanv1.CoverageStatus, set ...func(*scanv1.ScopeFinished)) *scanv1.ScopeFinished {
	f := &scanv1.ScopeFinished{
		RunId: run, Scope: here, Execution: execution, Batches: int32(batches), StartTime: timestamppb.New(when), EndTime: timestamppb.New(when.Add(time.Minute)),
		Coverage: []*scanv1.Coverage{{ResourceType: volumeType, Status: status, Pages: 1, Resources: 1}},
		Tallies:  []*scanv1.Tally{{RuleId: "ebs-unattached", RuleVersion: 1, ResourceType: volumeType, Violations: 1}},
		Progress: &scanv1.Progress{Resources: 1, Verdicts: 1, Violations: 1, MonthlyCost: 8}, Meter: &scanv1.Meter{Calls: 3},
	}
	if status != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE {
		f.Coverage[0].Error = "throttled"
	}
	for _, fn := range set {
		fn(f)
	}
	return f
}

func finishScope(t testing.TB, s *Service, f *scanv1.ScopeFinished) {
	t.Helper()
	if err := s.onScopeFinished(t.Context(), message(f)); err != nil {
		t.Fatal(err)
	}
}

// scan is a whole run of one scope with one batch.
func scanOnce(t testing.TB, s *Service, n int, status scanv1.CoverageStatus, observations ...*scanv1.Observation) *runv1.Run {
	t.Helper()
	id := fmt.Sprintf("waste-scan/%d", n)
	startRun(t, s, id, here)
	observe(t, s, &findingv1.FindingsObserved{RunId: id, Scope: here, Execution: "1.1", Sequence: 1, Observations: observations})
	finishScope(t, s, finished(id, "1.1", 1, at(n), status))
	return getRun(t, s, id)
}

func getRun(t testing.TB, s *Service, id string) *runv1.Run {
	t.Helper()
	resp, err := s.GetRun(t.Context(), &runv1.GetRunRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetRun()
}

func getFinding(t testing.TB, s *Service, id string) *findingv1.Finding {
	t.Helper()
	resp, err := s.GetFinding(t.Context(), &findingv1.GetFindingRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetFinding()
}

func transitions(t testing.TB, s *Service, id string) []*findingv1.Transition {
	t.Helper()
	resp, err := s.ListTransitions(t.Context(), &findingv1.ListTransitionsRequest{FindingId: id, PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetTransitions()
}

const (
	complete = scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE
	partial  = scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL
	denied   = scanv1.CoverageStatus_COVERAGE_STATUS_DENIED
)
