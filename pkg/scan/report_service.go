package scan

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	reportv1 "nightshift.dev/gen/nightshift/report/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/report"
)

const (
	// trend is how far a report looks back unless told.
	trend = 7 * 24 * time.Hour
	// maxChunk bounds a piece of a report, in bytes.
	maxChunk = 64 << 10
	// maxReportRuns bounds how many runs are looked through for the latest
	// that looked at everything: a report must not read a year of narrow runs.
	maxReportRuns = 50
	// pageSize is how much is asked for at once.
	pageSize = 500
)

// CreateReport implements ReportService.
func (w *Worker) CreateReport(req *reportv1.CreateReportRequest, stream grpc.ServerStreamingServer[reportv1.CreateReportResponse]) error {
	ctx := stream.Context()
	at := w.now()
	since := at.Add(-trend)
	if t := req.GetSinceTime(); t != nil {
		since = t.AsTime()
	}
	in, err := w.reportInput(ctx, at, since, req.GetFilter())
	if err != nil {
		return err
	}
	r := report.New(*in)
	kind, ending := report.Media(req.GetFormat())
	meta := &reportv1.Metadata{
		Category: in.Category, Format: req.GetFormat(), ContentType: kind,
		FileName:   fmt.Sprintf("nightshift-%s-%s.%s", w.set.Service(), at.UTC().Format(time.DateOnly), ending),
		CreateTime: timestamppb.New(at), SinceTime: timestamppb.New(since),
		Findings: int64(r.Totals.Findings), Complete: r.Coverage.Complete,
	}
	if m := r.Totals.Money; m != nil {
		meta.MonthlyCostLow, meta.MonthlyCostHigh, meta.UnknownCosts = m.Low, m.High, int64(m.Unknown)
	}
	if err := stream.Send(&reportv1.CreateReportResponse{Part: &reportv1.CreateReportResponse_Metadata{Metadata: meta}}); err != nil {
		return err
	}
	out := bufio.NewWriterSize(chunks{stream}, maxChunk)
	if err := r.Write(out, req.GetFormat()); err != nil {
		return err
	}
	return out.Flush()
}

// chunks writes to a stream in pieces of at most maxChunk.
type chunks struct {
	stream grpc.ServerStreamingServer[reportv1.CreateReportResponse]
}

func (c chunks) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		piece := p[n:min(len(p), n+maxChunk)]
		if err := c.stream.Send(&reportv1.CreateReportResponse{Part: &reportv1.CreateReportResponse_Chunk{Chunk: piece}}); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}

// reportInput asks persistence for all that a report is made from.
func (w *Worker) reportInput(ctx context.Context, at, since time.Time, filter string) (*report.Input, error) {
	caller, seen := auth.From(ctx), ""
	if len(caller.Accounts) > 0 {
		seen = `(account = "` + strings.Join(caller.Accounts, `" OR account = "`) + `") AND `
	}
	in := &report.Input{
		Category: rulev1.Category(w.set.category), At: at, Since: since, Filter: filter, Version: app.Version,
		Rules: w.set.Rules(w.settings, ""), Reopened: map[string]bool{}, Accounts: map[string]string{},
	}
	if seen != "" { // no report on everything, and it says so
		in.Filter = strings.TrimSuffix(seen, " AND ")
		if filter != "" {
			in.Filter = "(" + filter + ") AND " + in.Filter
		}
	}
	mine := seen + `category = "` + w.set.category.String() + `" AND `
	if filter != "" { // first, so that an error names the place in it
		mine = "(" + filter + ") AND " + mine
	}
	stamp := since.UTC().Format(time.RFC3339)
	for _, state := range []string{`state != "RESOLVED"`, `state = "RESOLVED" AND resolve_time >= "` + stamp + `"`} {
		err := pages(func(token string) (string, error) {
			r, err := call(ctx, w.findings.ListFindings, &findingv1.ListFindingsRequest{
				PageSize: pageSize, PageToken: token, Filter: mine + state, OrderBy: "id",
			})
			for _, f := range r.GetFindings() {
				// A filter with parentheses of its own must not bring in others'.
				if f.GetCategory() == in.Category && caller.Sees(f.GetResource().GetAccount()) {
					in.Findings = append(in.Findings, f)
				}
			}
			return r.GetNextPageToken(), err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, f := range in.Findings {
		if f.GetReopenCount() == 0 {
			continue
		}
		err := pages(func(token string) (string, error) {
			r, err := call(ctx, w.findings.ListTransitions, &findingv1.ListTransitionsRequest{FindingId: f.GetId(), PageSize: pageSize, PageToken: token})
			for _, t := range r.GetTransitions() {
				if t.GetKind() == findingv1.TransitionKind_TRANSITION_KIND_REOPENED && !t.GetTime().AsTime().Before(since) {
					in.Reopened[f.GetId()] = true
				}
			}
			return r.GetNextPageToken(), err
		})
		if err != nil {
			return nil, err
		}
	}
	var err error
	if in.Runs, err = w.latestRuns(ctx); err != nil {
		return nil, err
	}
	err = pages(func(token string) (string, error) {
		r, err := call(ctx, w.accounts.ListAccounts, &accountv1.ListAccountsRequest{PageSize: pageSize, PageToken: token})
		for _, a := range r.GetAccounts() {
			if caller.Sees(a.GetId()) {
				in.Accounts[a.GetId()] = a.GetName()
			}
		}
		return r.GetNextPageToken(), err
	})
	return in, err
}

// latestRuns returns the finished runs, the newest first, down to the first
// that looked at everything.
func (w *Worker) latestRuns(ctx context.Context) ([]report.Run, error) {
	var out []report.Run
	err := pages(func(token string) (string, error) {
		r, err := call(ctx, w.runs.ListRuns, &runv1.ListRunsRequest{
			PageSize: 10, PageToken: token, Filter: `kind = "` + w.set.Service() + `" AND state != "RUNNING"`,
		})
		if err != nil {
			return "", err
		}
		for _, run := range r.GetRuns() {
			one := report.Run{Run: run}
			err := pages(func(token string) (string, error) {
				r, err := call(ctx, w.runs.ListRunScopes, &runv1.ListRunScopesRequest{RunId: run.GetId(), PageSize: pageSize, PageToken: token})
				for _, s := range r.GetScopes() {
					if auth.From(ctx).Sees(s.GetScope().GetAccount()) {
						one.Scopes = append(one.Scopes, s)
					}
				}
				return r.GetNextPageToken(), err
			})
			if err != nil {
				return "", err
			}
			// A run that came to no scope says nothing of what there is.
			if len(one.Scopes) == 0 {
				continue
			}
			if out = append(out, one); len(run.GetParameters()) == 0 || len(out) == maxReportRuns {
				return "", nil
			}
		}
		return r.GetNextPageToken(), nil
	})
	return out, err
}

// pages calls for page after page until there is no next token.
func pages(page func(token string) (next string, err error)) error {
	for token := ""; ; {
		next, err := page(token)
		if err != nil || next == "" {
			return err
		}
		token = next
	}
}
