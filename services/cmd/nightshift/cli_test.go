package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	exemptionv1 "nightshift.dev/gen/nightshift/exemption/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
)

// asProgram makes the test binary the program itself, for tests that need a
// process of their own.
const asProgram = "NIGHTSHIFT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

type result struct {
	code     int
	out, err string
}

// safeBuffer can be read while a command writes.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// terminal runs a command in this process as if on a terminal of a width; 0 is
// no terminal.
func terminal(ctx context.Context, width int, env map[string]string, args ...string) result {
	var out, errs safeBuffer
	c := &cli{
		out: &out, err: &errs, now: time.Now, outTTY: width > 0, errTTY: false,
		size:   func() (int, int) { return width, 50 },
		lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	}
	code := c.run(ctx, args)
	return result{code, out.String(), errs.String()}
}

func execute(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	return terminal(t.Context(), 0, env, args...)
}

// hostile is a name that wants to be more than a name.
const hostile = "=HYPERLINK(\"http://x\")\x1b[31mred\r\n\u202egnp.exe\x00\u009b2J"

var at = timestamppb.New(time.Date(2026, 9, 1, 12, 30, 0, 0, time.UTC))

func findingFixtures() []*findingv1.Finding {
	value := func(v any) *structpb.Value { x, _ := structpb.NewValue(v); return x }
	return []*findingv1.Finding{
		{
			Id: strings.Repeat("a1", 16), RuleId: "ebs-unattached", RuleVersion: 2, Category: rulev1.Category_CATEGORY_WASTE, Title: "EBS volume attached to nothing",
			State: findingv1.State_STATE_OPEN, Severity: rulev1.Severity_SEVERITY_HIGH,
			Resource: &scanv1.Resource{Arn: "arn:aws:ec2:eu-west-1:123456789012:volume/vol-1", Id: "vol-1", Type: "AWS::EC2::Volume", Account: "123456789012", Region: "eu-west-1",
				Name: hostile, Tags: map[string]string{"Name": hostile, "a": "b"}},
			Reason: "Unattached.", Owner: "-1+1", MonthlyCost: &rulev1.MonthlyCost{Low: 1234.5, High: 1234.5, Basis: "LIST", Date: "2026-07-01"},
			Evidence:  []*rulev1.Evidence{{Name: "days_unattached", Value: value(44), Threshold: value(14), Unit: "days", Source: "ec2:DescribeVolumes", Confidence: rulev1.Confidence_CONFIDENCE_OBSERVED}},
			Since:     at,
			FirstSeen: at, LastSeen: at, Etag: "1",
		},
		{
			Id: strings.Repeat("b2", 16), RuleId: "ec2-stopped", Category: rulev1.Category_CATEGORY_WASTE, State: findingv1.State_STATE_REOPENED, Severity: rulev1.Severity_SEVERITY_MEDIUM,
			Resource:    &scanv1.Resource{Arn: "arn:aws:ec2:eu-west-1:123456789012:instance/i-2", Id: "i-2", Type: "AWS::EC2::Instance", Account: "123456789012", Region: "eu-west-1", Name: "web"},
			MonthlyCost: &rulev1.MonthlyCost{Low: 40, High: 60},
		},
		{
			Id: strings.Repeat("c3", 16), RuleId: "ec2-stopped", Category: rulev1.Category_CATEGORY_WASTE, State: findingv1.State_STATE_OPEN, Severity: rulev1.Severity_SEVERITY_LOW,
			Resource: &scanv1.Resource{Id: "i-3", Account: "123456789012", Region: "eu-west-1"},
		},
	}
}

// fake answers for all services, with what the tests put in.
type fake struct {
	findingv1.UnimplementedFindingServiceServer
	runv1.UnimplementedRunServiceServer
	jobv1.UnimplementedJobServiceServer
	rulev1.UnimplementedRuleServiceServer
	accountv1.UnimplementedAccountServiceServer
	accountv1.UnimplementedOnboardingServiceServer
	accountv1.UnimplementedVerificationServiceServer
	systemlogv1.UnimplementedSystemLogServiceServer
	deadletterv1.UnimplementedDeadLetterServiceServer
	exemptionv1.UnimplementedExemptionServiceServer
	notificationv1.UnimplementedNotificationConfigServiceServer
	notificationv1.UnimplementedNotificationServiceServer

	mu       sync.Mutex
	requests []any
	run      *runv1.Run
	watches  int
}

func (f *fake) got(req any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, req)
}

func (f *fake) ListFindings(_ context.Context, r *findingv1.ListFindingsRequest) (*findingv1.ListFindingsResponse, error) {
	f.got(r)
	if strings.Contains(r.GetFilter(), "nonsense") {
		return nil, errs.New(errs.InvalidArgument, "BAD_FILTER", "the filter cannot be used").Field("filter", "compares nonsense").Field("order_by", "is wrong, too")
	}
	all := findingFixtures()
	if strings.Contains(r.GetFilter(), `severity >= "CRITICAL"`) {
		return &findingv1.ListFindingsResponse{}, nil
	}
	// One a page.
	n := len(r.GetPageToken())
	out := &findingv1.ListFindingsResponse{Findings: all[n : n+1]}
	if n+1 < len(all) {
		out.NextPageToken = strings.Repeat("x", n+1)
	}
	return out, nil
}

func (f *fake) GetFinding(_ context.Context, r *findingv1.GetFindingRequest) (*findingv1.GetFindingResponse, error) {
	for _, x := range findingFixtures() {
		if x.GetId() == r.GetId() {
			return &findingv1.GetFindingResponse{Finding: x}, nil
		}
	}
	return nil, errs.New(errs.NotFound, "FINDING_NOT_FOUND", "there is no finding %s", r.GetId())
}

func (f *fake) ListTransitions(context.Context, *findingv1.ListTransitionsRequest) (*findingv1.ListTransitionsResponse, error) {
	return &findingv1.ListTransitionsResponse{Transitions: []*findingv1.Transition{{
		Kind: findingv1.TransitionKind_TRANSITION_KIND_OPENED, Time: at, ToState: findingv1.State_STATE_OPEN, ToSeverity: rulev1.Severity_SEVERITY_HIGH, RunId: "r/1", Reason: "Unattached.",
	}}}, nil
}

// WatchFindings sends one transition and breaks off, twice; then it waits.
func (f *fake) WatchFindings(r *findingv1.WatchFindingsRequest, s grpc.ServerStreamingServer[findingv1.WatchFindingsResponse]) error {
	f.got(r)
	f.mu.Lock()
	f.watches++
	n := f.watches
	f.mu.Unlock()
	if n > 2 {
		<-s.Context().Done()
		return s.Context().Err()
	}
	x := findingFixtures()[n-1]
	_ = s.Send(&findingv1.WatchFindingsResponse{ResumeToken: "alive"})
	_ = s.Send(&findingv1.WatchFindingsResponse{Finding: x, ResumeToken: "t" + x.GetId()[:2],
		Transition: &findingv1.Transition{FindingId: x.GetId(), Kind: findingv1.TransitionKind_TRANSITION_KIND_OPENED, Time: at}})
	return errs.New(errs.Unavailable, "GOING", "the service stops")
}

func (f *fake) GetRun(context.Context, *runv1.GetRunRequest) (*runv1.GetRunResponse, error) {
	return &runv1.GetRunResponse{Run: f.run}, nil
}

func (f *fake) ListRuns(context.Context, *runv1.ListRunsRequest) (*runv1.ListRunsResponse, error) {
	return &runv1.ListRunsResponse{Runs: []*runv1.Run{f.run}}, nil
}

func (f *fake) scopes() []*runv1.RunScope {
	return []*runv1.RunScope{
		{Scope: &scanv1.Scope{Service: "waste", Account: "123456789012", Region: "eu-west-1"}, State: runv1.ScopeState_SCOPE_STATE_SUCCEEDED,
			Progress: &scanv1.Progress{Resources: 1200, Violations: 3, MonthlyCost: 1294.5}},
		{Scope: &scanv1.Scope{Service: "waste", Account: "123456789012", Region: "us-east-1"}, State: runv1.ScopeState_SCOPE_STATE_PARTIAL,
			Coverage: []*scanv1.Coverage{{ResourceType: "AWS::EC2::Volume", Status: scanv1.CoverageStatus_COVERAGE_STATUS_DENIED, Error: "ec2:DescribeVolumes is denied"}}},
	}
}

func (f *fake) ListRunScopes(context.Context, *runv1.ListRunScopesRequest) (*runv1.ListRunScopesResponse, error) {
	return &runv1.ListRunScopesResponse{Scopes: f.scopes()}, nil
}

func (f *fake) WatchRun(_ *runv1.WatchRunRequest, s grpc.ServerStreamingServer[runv1.WatchRunResponse]) error {
	running := &runv1.Run{Id: f.run.GetId(), State: runv1.RunState_RUN_STATE_RUNNING, Scopes: &runv1.ScopeCounts{Total: 2}}
	all := f.scopes()
	all[1].State = runv1.ScopeState_SCOPE_STATE_RUNNING
	_ = s.Send(&runv1.WatchRunResponse{Run: running, Scopes: all})
	return s.Send(&runv1.WatchRunResponse{Run: f.run, Scopes: f.scopes()[1:]})
}

func (f *fake) ListJobs(_ context.Context, r *jobv1.ListJobsRequest) (*jobv1.ListJobsResponse, error) {
	f.got(r)
	return &jobv1.ListJobsResponse{Jobs: []*jobv1.Job{{Name: "waste-scan", Kind: "waste", Schedule: "0 */6 * * *", NextFireTime: at}}}, nil
}

func (f *fake) GetJob(_ context.Context, r *jobv1.GetJobRequest) (*jobv1.GetJobResponse, error) {
	if r.GetName() == "everything" {
		return &jobv1.GetJobResponse{Job: fullJob()}, nil
	}
	return nil, errs.New(errs.NotFound, "JOB_NOT_FOUND", "there is no job %q", r.GetName())
}

func (f *fake) CreateJob(_ context.Context, r *jobv1.CreateJobRequest) (*jobv1.CreateJobResponse, error) {
	f.got(r)
	return &jobv1.CreateJobResponse{Job: r.GetJob()}, nil
}

func (f *fake) UpdateJob(_ context.Context, r *jobv1.UpdateJobRequest) (*jobv1.UpdateJobResponse, error) {
	f.got(r)
	return &jobv1.UpdateJobResponse{Job: r.GetJob()}, nil
}

func (f *fake) RunJob(_ context.Context, r *jobv1.RunJobRequest) (*jobv1.RunJobResponse, error) {
	f.got(r)
	return &jobv1.RunJobResponse{RunId: f.run.GetId()}, nil
}

func (f *fake) ListNextFires(_ context.Context, r *jobv1.ListNextFiresRequest) (*jobv1.ListNextFiresResponse, error) {
	f.got(r)
	return &jobv1.ListNextFiresResponse{FireTimes: []*timestamppb.Timestamp{at}, TimeZone: r.GetTimeZone()}, nil
}

func (f *fake) ListRules(context.Context, *rulev1.ListRulesRequest) (*rulev1.ListRulesResponse, error) {
	return &rulev1.ListRulesResponse{Rules: []*rulev1.Rule{{Id: "ebs-unattached", Version: 1, Category: rulev1.Category_CATEGORY_WASTE, Title: "EBS volume attached to nothing"}}}, nil
}

func (f *fake) UpdateAccount(_ context.Context, r *accountv1.UpdateAccountRequest) (*accountv1.UpdateAccountResponse, error) {
	f.got(r)
	return &accountv1.UpdateAccountResponse{Account: r.GetAccount()}, nil
}

func (f *fake) ListEntries(_ context.Context, r *systemlogv1.ListEntriesRequest) (*systemlogv1.ListEntriesResponse, error) {
	f.got(r)
	return &systemlogv1.ListEntriesResponse{Entries: []*systemlogv1.Entry{{Id: 7, Time: at, Level: systemlogv1.Level_LEVEL_WARN, Event: "scope_failed", Message: hostile}}}, nil
}

func (f *fake) ListDeadLetters(context.Context, *deadletterv1.ListDeadLettersRequest) (*deadletterv1.ListDeadLettersResponse, error) {
	return &deadletterv1.ListDeadLettersResponse{DeadLetters: []*deadletterv1.DeadLetter{{Id: 3, Time: at, Consumer: "persistence-FindingsObserved", Reason: hostile, Attempts: 4}}}, nil
}

func (f *fake) ReplayDeadLetter(_ context.Context, r *deadletterv1.ReplayDeadLetterRequest) (*deadletterv1.ReplayDeadLetterResponse, error) {
	f.got(r)
	return &deadletterv1.ReplayDeadLetterResponse{}, nil
}

// serve starts a fake of all services and returns the variables that lead
// there.
func serve(t *testing.T, state runv1.RunState) (*fake, map[string]string) {
	t.Helper()
	f := &fake{run: &runv1.Run{Id: "waste-scan/manual-1", Job: "waste-scan", State: state, Error: "for a reason", StartTime: at, EndTime: at, Scopes: &runv1.ScopeCounts{Total: 2, Succeeded: 1, Partial: 1},
		Progress: &scanv1.Progress{Resources: 1200, Violations: 3, MonthlyCost: 1294.5}}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	findingv1.RegisterFindingServiceServer(s, f)
	runv1.RegisterRunServiceServer(s, f)
	jobv1.RegisterJobServiceServer(s, f)
	rulev1.RegisterRuleServiceServer(s, f)
	accountv1.RegisterAccountServiceServer(s, f)
	accountv1.RegisterOnboardingServiceServer(s, f)
	accountv1.RegisterVerificationServiceServer(s, f)
	systemlogv1.RegisterSystemLogServiceServer(s, f)
	deadletterv1.RegisterDeadLetterServiceServer(s, f)
	exemptionv1.RegisterExemptionServiceServer(s, f)
	notificationv1.RegisterNotificationConfigServiceServer(s, f)
	notificationv1.RegisterNotificationServiceServer(s, f)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	env := map[string]string{}
	for _, name := range serviceNames() {
		env["NIGHTSHIFT_"+strings.ToUpper(name)+"_ADDR"] = l.Addr().String()
	}
	return f, env
}
