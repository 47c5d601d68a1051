package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	reportv1 "nightshift.dev/gen/nightshift/report/v1"
	"nightshift.dev/pkg/errs"
)

// reporter gives out a report in two pieces.
type reporter struct {
	reportv1.UnimplementedReportServiceServer
	incomplete, breaks bool
	requests           chan *reportv1.CreateReportRequest
}

func (r *reporter) CreateReport(req *reportv1.CreateReportRequest, s grpc.ServerStreamingServer[reportv1.CreateReportResponse]) error {
	r.requests <- req
	meta := &reportv1.Metadata{Findings: 2, MonthlyCostLow: 40, MonthlyCostHigh: 60, Complete: !r.incomplete}
	if err := s.Send(&reportv1.CreateReportResponse{Part: &reportv1.CreateReportResponse_Metadata{Metadata: meta}}); err != nil {
		return err
	}
	for _, piece := range []string{"one ", "two\n"} {
		if err := s.Send(&reportv1.CreateReportResponse{Part: &reportv1.CreateReportResponse_Chunk{Chunk: []byte(piece)}}); err != nil {
			return err
		}
		if r.breaks {
			return errs.New(errs.Internal, "BROKEN", "it broke")
		}
	}
	return nil
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := &reporter{requests: make(chan *reportv1.CreateReportRequest, 1)}
	env := serveReports(t, r)

	got := execute(t, env, "report", "waste")
	if got.code != exitOK || got.out != "one two\n" || got.err != "" {
		t.Errorf("code %d, out %q, err %q", got.code, got.out, got.err)
	}
	if req := <-r.requests; req.GetFormat() != reportv1.Format_FORMAT_TEXT || req.GetFilter() != "" || time.Since(req.GetSinceTime().AsTime())-7*24*time.Hour > time.Hour {
		t.Errorf("asked for %v", req)
	}

	dir := t.TempDir()
	for ending, want := range map[string]reportv1.Format{
		"HTML": reportv1.Format_FORMAT_HTML, "csv": reportv1.Format_FORMAT_CSV, "json": reportv1.Format_FORMAT_JSON,
		"jsonl": reportv1.Format_FORMAT_OCSF, "txt": reportv1.Format_FORMAT_TEXT,
	} {
		file := filepath.Join(dir, "r."+ending)
		got := execute(t, env, "report", "waste", "--out", file, "--account", "123456789012", "--filter", `region = "x"`, "--since", "2026-01-01")
		if got.code != exitOK || got.out != "" || !strings.Contains(got.err, "2 open findings, $40.00–60.00 a month") {
			t.Errorf("%s: code %d, out %q, err %q", ending, got.code, got.out, got.err)
		}
		req := <-r.requests
		if req.GetFormat() != want || req.GetFilter() != `(account = "123456789012") AND (region = "x")` || req.GetSinceTime().AsTime() != time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) {
			t.Errorf("%s: asked for %v", ending, req)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != "one two\n" {
			t.Errorf("%s: %q, %v", ending, b, err)
		}
	}
	if got := execute(t, env, "report", "waste", "--format", "ocsf"); got.code != exitOK || (<-r.requests).GetFormat() != reportv1.Format_FORMAT_OCSF {
		t.Errorf("--format ocsf: %+v", got)
	}
}

func TestReportThatIsNotWhole(t *testing.T) {
	t.Parallel()
	r := &reporter{requests: make(chan *reportv1.CreateReportRequest, 2), incomplete: true}
	env := serveReports(t, r)
	if got := execute(t, env, "report", "waste"); got.code != exitPartial || got.out != "one two\n" || !strings.Contains(got.err, "did not see everything") {
		t.Errorf("%+v", got)
	}
	broken := &reporter{requests: make(chan *reportv1.CreateReportRequest, 2), breaks: true}
	dir := t.TempDir()
	file := filepath.Join(dir, "r.html")
	if err := os.WriteFile(file, []byte("the one before"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := execute(t, serveReports(t, broken), "report", "waste", "--out", file); got.code != exitError {
		t.Errorf("%+v", got)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "the one before" {
		t.Errorf("a report that broke off replaced the one before: %q, %v", b, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestReportUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"report"}, {"report", "nonsense"}, {"report", "waste", "--format", "pdf"}, {"report", "waste", "--out", "r.pdf"},
		{"report", "waste", "--since", "soon"}, {"report", "waste", "--since", "-3d"}, {"report", "waste", "--since", "2999-01-01"}, {"report", "waste", "--severity", "worst"},
	} {
		if got := execute(t, nil, args...); got.code != exitUsage {
			t.Errorf("%v: code %d, %s", args, got.code, got.err)
		}
	}
	now := time.Date(2026, 9, 10, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"30d": now.AddDate(0, 0, -30), "90m": now.Add(-90 * time.Minute), "2026-09-01": time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC),
		"2026-09-01T08:30": time.Date(2026, 9, 1, 8, 30, 0, 0, time.UTC), "2026-09-01T08:30:00+02:00": time.Date(2026, 9, 1, 6, 30, 0, 0, time.UTC),
	} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s is %s, want %s (%v)", text, got, want, err)
		}
	}
}

// serveReports starts the reporter as all services.
func serveReports(t *testing.T, r *reporter) map[string]string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	reportv1.RegisterReportServiceServer(s, r)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	env := map[string]string{}
	for _, name := range serviceNames() {
		env["NIGHTSHIFT_"+strings.ToUpper(name)+"_ADDR"] = l.Addr().String()
	}
	return env
}
