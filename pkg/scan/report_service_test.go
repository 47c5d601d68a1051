package scan

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	reportv1 "nightshift.dev/gen/nightshift/report/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/report"
	"nightshift.dev/pkg/rule"
)

// archive is a persistence that has findings and runs. Every list comes one
// item a page.
type archive struct {
	findingv1.UnimplementedFindingServiceServer
	runv1.UnimplementedRunServiceServer
	accountv1.UnimplementedAccountServiceServer

	open, resolved []*findingv1.Finding
	transitions    []*findingv1.Transition
	runs           []*runv1.Run
	down           error

	mu       sync.Mutex
	filters  []string
	scopesOf []string
}

func one[T any](items []T, token string) ([]T, string) {
	at := len(token)
	if at >= len(items) {
		return nil, ""
	}
	if at == len(items)-1 {
		return items[at:], ""
	}
	return items[at : at+1], strings.Repeat("x", at+1)
}

func (a *archive) ListFindings(_ context.Context, r *findingv1.ListFindingsRequest) (*findingv1.ListFindingsResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down != nil {
		return nil, a.down
	}
	if !slices.Contains(a.filters, r.GetFilter()) {
		a.filters = append(a.filters, r.GetFilter())
	}
	all := a.open
	if strings.Contains(r.GetFilter(), `state = "RESOLVED"`) {
		all = a.resolved
	}
	items, next := one(all, r.GetPageToken())
	return &findingv1.ListFindingsResponse{Findings: items, NextPageToken: next}, nil
}

func (a *archive) ListTransitions(_ context.Context, r *findingv1.ListTransitionsRequest) (*findingv1.ListTransitionsResponse, error) {
	items, next := one(a.transitions, r.GetPageToken())
	return &findingv1.ListTransitionsResponse{Transitions: items, NextPageToken: next}, nil
}

func (a *archive) ListRuns(_ context.Context, r *runv1.ListRunsRequest) (*runv1.ListRunsResponse, error) {
	if r.GetFilter() != `kind = "waste" AND state != "RUNNING"` {
		return nil, errs.New(errs.InvalidArgument, "FILTER", "unexpected filter %q", r.GetFilter())
	}
	items, next := one(a.runs, r.GetPageToken())
	return &runv1.ListRunsResponse{Runs: items, NextPageToken: next}, nil
}

func (a *archive) ListRunScopes(_ context.Context, r *runv1.ListRunScopesRequest) (*runv1.ListRunScopesResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scopesOf = append(a.scopesOf, r.GetRunId())
	if r.GetRunId() == "empty" {
		return &runv1.ListRunScopesResponse{}, nil
	}
	return &runv1.ListRunScopesResponse{Scopes: []*runv1.RunScope{{
		Scope: &scanv1.Scope{Service: "waste", Account: "123456789012", Region: "eu-west-1"}, State: runv1.ScopeState_SCOPE_STATE_SUCCEEDED,
		Coverage: []*scanv1.Coverage{{ResourceType: "AWS::EC2::Volume", Status: scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE, Resources: 40}},
	}}}, nil
}

func (a *archive) ListAccounts(context.Context, *accountv1.ListAccountsRequest) (*accountv1.ListAccountsResponse, error) {
	return &accountv1.ListAccountsResponse{Accounts: []*accountv1.Account{{Id: "123456789012", Name: "larkspur"}}}, nil
}

var reportTime = time.Date(2026, 9, 10, 12, 0, 0, 0, time.UTC)

// clerk serves reports on an archive.
func clerk(t *testing.T, a *archive) reportv1.ReportServiceClient {
	t.Helper()
	serve := func(register func(*grpc.Server)) *grpc.ClientConn {
		l := bufconn.Listen(1 << 20)
		s := grpc.NewServer()
		register(s)
		go func() { _ = s.Serve(l) }()
		conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(); s.Stop() })
		return conn
	}
	persistence := serve(func(s *grpc.Server) {
		findingv1.RegisterFindingServiceServer(s, a)
		runv1.RegisterRunServiceServer(s, a)
		accountv1.RegisterAccountServiceServer(s, a)
	})
	set := NewSet(rule.Waste)
	settings, err := set.Settings("")
	if err != nil {
		t.Fatal(err)
	}
	w := &Worker{
		set: set, settings: settings, now: func() time.Time { return reportTime },
		findings: findingv1.NewFindingServiceClient(persistence), runs: runv1.NewRunServiceClient(persistence), accounts: accountv1.NewAccountServiceClient(persistence),
	}
	return reportv1.NewReportServiceClient(serve(func(s *grpc.Server) { reportv1.RegisterReportServiceServer(s, w) }))
}

// receive reads a report to its end.
func receive(t *testing.T, c reportv1.ReportServiceClient, req *reportv1.CreateReportRequest) (*reportv1.Metadata, []byte, error) {
	t.Helper()
	stream, err := c.CreateReport(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var meta *reportv1.Metadata
	var doc bytes.Buffer
	for n := 0; ; n++ {
		r, err := stream.Recv()
		if err == io.EOF {
			return meta, doc.Bytes(), nil
		}
		if err != nil {
			return nil, nil, err
		}
		if (r.GetMetadata() != nil) != (n == 0) {
			t.Errorf("piece %d is %T", n, r.GetPart())
		}
		if r.GetMetadata() != nil {
			meta = r.GetMetadata()
		} else if len(r.GetChunk()) == 0 || len(r.GetChunk()) > 64<<10 {
			t.Errorf("a piece of %d bytes", len(r.GetChunk()))
		}
		doc.Write(r.GetChunk())
	}
}

func wasted(n int, cost float64) *findingv1.Finding {
	return &findingv1.Finding{
		Id: fmt.Sprintf("%032x", n), RuleId: "ebs-unattached", Category: rulev1.Category_CATEGORY_WASTE, State: findingv1.State_STATE_OPEN,
		Severity: rulev1.Severity_SEVERITY_LOW, Title: "EBS volume attached to nothing", Reason: strings.Repeat("Because. ", 20),
		Resource:    &scanv1.Resource{Arn: fmt.Sprintf("arn:aws:ec2:eu-west-1:123456789012:volume/vol-%d", n), Id: fmt.Sprintf("vol-%d", n), Account: "123456789012", Region: "eu-west-1"},
		MonthlyCost: &rulev1.MonthlyCost{Low: cost, High: cost}, FirstSeen: timestamppb.New(reportTime.AddDate(0, 0, -2)),
	}
}

func TestReportIsWhole(t *testing.T) {
	t.Parallel()
	a := &archive{
		runs: []*runv1.Run{
			{Id: "empty", State: runv1.RunState_RUN_STATE_FAILED},
			{Id: "narrow", State: runv1.RunState_RUN_STATE_SUCCEEDED, Parameters: map[string]string{"regions": "eu-west-1"}},
			{Id: "full", State: runv1.RunState_RUN_STATE_SUCCEEDED},
			{Id: "older", State: runv1.RunState_RUN_STATE_SUCCEEDED},
		},
		transitions: []*findingv1.Transition{
			{Kind: findingv1.TransitionKind_TRANSITION_KIND_REOPENED, Time: timestamppb.New(reportTime.AddDate(0, 0, -30))},
			{Kind: findingv1.TransitionKind_TRANSITION_KIND_REOPENED, Time: timestamppb.New(reportTime.AddDate(0, 0, -1))},
		},
	}
	for n := range 400 {
		a.open = append(a.open, wasted(n, 1))
	}
	a.open[7].ReopenCount, a.open[7].State = 2, findingv1.State_STATE_REOPENED
	gone := wasted(900, 50)
	gone.State, gone.ResolveTime = findingv1.State_STATE_RESOLVED, timestamppb.New(reportTime.AddDate(0, 0, -1))
	a.resolved = []*findingv1.Finding{gone}

	meta, doc, err := receive(t, clerk(t, a), &reportv1.CreateReportRequest{Format: reportv1.Format_FORMAT_JSON})
	if err != nil {
		t.Fatal(err)
	}
	if meta.GetFindings() != 400 || meta.GetMonthlyCostHigh() != 400 || !meta.GetComplete() || meta.GetFileName() != "nightshift-waste-2026-09-10.json" ||
		meta.GetContentType() != "application/json" || !meta.GetSinceTime().AsTime().Equal(reportTime.AddDate(0, 0, -7)) || meta.GetCategory() != rulev1.Category_CATEGORY_WASTE {
		t.Errorf("metadata %v", meta)
	}
	var r report.Report
	if err := json.Unmarshal(doc, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != 400 || len(r.Resolved) != 1 || r.Trend.Reopened.Findings != 1 || r.Trend.Opened.Findings != 401 || r.Accounts[0].Name != "larkspur" {
		t.Errorf("%d findings, %d resolved, trend %+v, accounts %+v", len(r.Findings), len(r.Resolved), r.Trend, r.Accounts)
	}
	if len(doc) < 2*maxChunk {
		t.Errorf("the document has only %d bytes: it proves nothing about pieces", len(doc))
	}
	if want := []string{"empty", "narrow", "full"}; !slices.Equal(a.scopesOf, want) || len(r.Coverage.Runs) != 2 {
		t.Errorf("asked for the scopes of %v, want %v; told from %v", a.scopesOf, want, r.Coverage.Runs)
	}
	if want := []string{`category = "WASTE" AND state != "RESOLVED"`, `category = "WASTE" AND state = "RESOLVED" AND resolve_time >= "2026-09-03T12:00:00Z"`}; !slices.Equal(a.filters, want) {
		t.Errorf("filters %q", a.filters)
	}
}

func TestReportOfAPart(t *testing.T) {
	t.Parallel()
	a := &archive{open: []*findingv1.Finding{wasted(1, 3)}}
	meta, doc, err := receive(t, clerk(t, a), &reportv1.CreateReportRequest{
		Format: reportv1.Format_FORMAT_TEXT, SinceTime: timestamppb.New(reportTime.AddDate(0, 0, -1)), Filter: `account = "1" OR region = "x"`,
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := `(account = "1" OR region = "x") AND category = "WASTE" AND state != "RESOLVED"`; a.filters[0] != want {
		t.Errorf("the filter is %q, want %q", a.filters[0], want)
	}
	if meta.GetComplete() || !strings.Contains(string(doc), "No scan has finished yet") || !strings.Contains(string(doc), `account = "1" OR region = "x"`) {
		t.Errorf("%v\n%s", meta, doc)
	}
	for _, line := range strings.Split(string(doc), "\n") {
		if strings.Contains(line, "opened") && !strings.Contains(line, " 0 ") {
			t.Errorf("a finding of two days ago was opened since yesterday: %s", line)
		}
	}
}

func TestReportWithoutPersistence(t *testing.T) {
	t.Parallel()
	a := &archive{down: errs.New(errs.Unavailable, "AWAY", "persistence is away")}
	if _, _, err := receive(t, clerk(t, a), &reportv1.CreateReportRequest{Format: reportv1.Format_FORMAT_CSV}); err == nil {
		t.Error("a report of nothing known is given out as one")
	}
}
