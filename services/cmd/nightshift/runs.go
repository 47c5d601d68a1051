package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/services/waste"
)

func (c *cli) runs() (runv1.RunServiceClient, error) {
	conn, err := c.dial("persistence")
	if err != nil {
		return nil, err
	}
	return runv1.NewRunServiceClient(conn), nil
}

func (c *cli) runsCommand() *cobra.Command {
	return group("runs", "List, show, watch, cancel and retry runs of jobs", c.runsList(), c.runsGet(), c.runsWatch(), c.runsCancel(), c.runsRetry())
}

const noSuchRun = "\"nightshift runs list\" shows the runs there are."

var runColumns = []column[*runv1.Run]{
	{name: "id", head: "Run", flex: 24, text: (*runv1.Run).GetId},
	{name: "job", text: (*runv1.Run).GetJob},
	{name: "state", head: "State", text: func(r *runv1.Run) string { return name(r.GetState()) }, paint: runPaint},
	{name: "cause", text: func(r *runv1.Run) string { return name(r.GetCause()) }},
	{name: "start_time", head: "Started (UTC)", text: func(r *runv1.Run) string { return when(r.GetStartTime()) },
		csv: func(r *runv1.Run) string { return stamp(r.GetStartTime()) }},
	{name: "end_time", head: "Took", number: true, csv: func(r *runv1.Run) string { return stamp(r.GetEndTime()) },
		text: func(r *runv1.Run) string {
			if r.GetEndTime() == nil {
				return ""
			}
			return lasted(r.GetEndTime().AsTime().Sub(r.GetStartTime().AsTime()))
		}},
	{name: "scopes", head: "Scopes", number: true, csv: func(r *runv1.Run) string { return strconv.Itoa(int(r.GetScopes().GetTotal())) },
		text: func(r *runv1.Run) string {
			s := r.GetScopes()
			return fmt.Sprintf("%d/%d", s.GetTotal()-s.GetPending()-s.GetRunning(), s.GetTotal())
		}},
	{name: "resources", head: "Resources", number: true, spare: 1, text: func(r *runv1.Run) string { return count(r.GetProgress().GetResources()) },
		csv: func(r *runv1.Run) string { return strconv.FormatInt(r.GetProgress().GetResources(), 10) }},
	{name: "violations", head: "Findings", number: true, text: func(r *runv1.Run) string { return count(r.GetProgress().GetViolations()) },
		csv: func(r *runv1.Run) string { return strconv.FormatInt(r.GetProgress().GetViolations(), 10) }},
	{name: "monthly_cost", head: "Known cost", number: true, text: func(r *runv1.Run) string { return knownCost(r.GetKind(), r.GetProgress()) },
		csv: func(r *runv1.Run) string { return strconv.FormatFloat(r.GetProgress().GetMonthlyCost(), 'f', 2, 64) }},
	{name: "opened", head: "New", number: true, spare: 1, text: func(r *runv1.Run) string { return strconv.FormatInt(r.GetFindings().GetOpened(), 10) }},
	{name: "changed", number: true, text: func(r *runv1.Run) string { return strconv.FormatInt(r.GetFindings().GetChanged(), 10) }},
	{name: "resolved", head: "Gone", number: true, spare: 1, text: func(r *runv1.Run) string { return strconv.FormatInt(r.GetFindings().GetResolved(), 10) }},
	{name: "reopened", number: true, text: func(r *runv1.Run) string { return strconv.FormatInt(r.GetFindings().GetReopened(), 10) }},
	{name: "counts", text: func(r *runv1.Run) string { return counts(r.GetProgress()) }},
	{name: "requested_by", text: (*runv1.Run).GetRequestedBy},
	{name: "retry_of", text: (*runv1.Run).GetRetryOf},
	{name: "error", head: "Error", flex: 10, spare: 1, text: (*runv1.Run).GetError},
}

func runPaint(r *runv1.Run) paint {
	switch r.GetState() {
	case runv1.RunState_RUN_STATE_SUCCEEDED:
		return green
	case runv1.RunState_RUN_STATE_PARTIAL, runv1.RunState_RUN_STATE_CANCELLED:
		return yellow
	case runv1.RunState_RUN_STATE_FAILED:
		return red
	case runv1.RunState_RUN_STATE_SKIPPED, runv1.RunState_RUN_STATE_QUEUED:
		return faint
	default:
		return cyan
	}
}

func runTree(r *runv1.Run) object { return tree(r) }

func (c *cli) runsList() *cobra.Command {
	var (
		job, state, filter string
		l                  limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List runs, newest first", Args: cobra.NoArgs,
		Example: "  nightshift runs list --limit 10\n  nightshift runs list --job waste-scan --state failed -o jsonl",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var and []string
			if job != "" {
				and = append(and, "job = "+quote(job))
			}
			if state != "" {
				if runv1.RunState_value["RUN_STATE_"+strings.ToUpper(state)] == 0 {
					return usage("--state %q is not one of %s", state, strings.ToLower(strings.Join(enumNames(runv1.RunState(0)), ", ")))
				}
				and = append(and, "state = "+quote(strings.ToUpper(state)))
			}
			if filter != "" {
				and = append(and, "("+filter+")")
			}
			api, err := c.runs()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, runTree, runColumns), func(size int32, token string) ([]*runv1.Run, string, error) {
				r, err := api.ListRuns(cmd.Context(), &runv1.ListRunsRequest{PageSize: size, PageToken: token, Filter: strings.Join(and, " AND ")})
				return r.GetRuns(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no runs; \"nightshift jobs run NAME --watch\" makes one")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&job, "job", "", "of this job")
	cmd.Flags().StringVar(&state, "state", "", strings.ToLower(strings.Join(enumNames(runv1.RunState(0)), ", ")))
	cmd.Flags().StringVar(&filter, "filter", "", "any other condition, such as 'start_time > \"2026-01-01T00:00:00Z\"'")
	complete(cmd, "state", enumNames(runv1.RunState(0))...)
	_ = cmd.RegisterFlagCompletionFunc("job", c.completing(c.jobNames))
	l.add(cmd)
	return cmd
}

// newest returns the id that was given, or that of the newest run.
func newest(ctx context.Context, api runv1.RunServiceClient, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	r, err := api.ListRuns(ctx, &runv1.ListRunsRequest{PageSize: 1})
	if err != nil {
		return "", err
	}
	if len(r.GetRuns()) == 0 {
		return "", hint{errors.New("there are no runs yet"), "\"nightshift jobs run NAME --watch\" makes one."}
	}
	return r.GetRuns()[0].GetId(), nil
}

func (c *cli) runsGet() *cobra.Command {
	return &cobra.Command{
		Use: "show [RUN]", Aliases: []string{"get"}, Short: "Show a run with its scopes and what was seen of them; without an id the newest", Args: cobra.MaximumNArgs(1),
		Example:           "  nightshift runs show\n  nightshift runs show waste-scan/2026-09-01T06:00:00Z -o json | jq '.run_scopes[].coverage'",
		ValidArgsFunction: c.completing(c.runIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			api, err := c.runs()
			if err != nil {
				return err
			}
			id, err := newest(ctx, api, args)
			if err != nil {
				return err
			}
			r, err := api.GetRun(ctx, &runv1.GetRunRequest{Id: id})
			if err != nil {
				return withHint(err, errs.NotFound, noSuchRun)
			}
			var scopes []*runv1.RunScope
			for token := ""; ; {
				page, err := api.ListRunScopes(ctx, &runv1.ListRunScopesRequest{RunId: id, PageSize: 500, PageToken: token})
				if err != nil {
					return err
				}
				scopes = append(scopes, page.GetScopes()...)
				if token = page.GetNextPageToken(); token == "" {
					break
				}
			}
			return c.printRun(r.GetRun(), scopes)
		},
	}
}

// printRun shows a run with its scopes.
func (c *cli) printRun(r *runv1.Run, scopes []*runv1.RunScope) error {
	withScopes := func(r *runv1.Run) object {
		list := make([]any, len(scopes))
		for i, s := range scopes {
			list[i] = tree(s)
		}
		return append(tree(r), member{"run_scopes", list})
	}
	return printOne(c, r, withScopes, runColumns, func() {
		c.runCard(r)
		if len(scopes) > 0 {
			columns := scopeColumns
			if !scans(r.GetKind()) {
				columns = slices.DeleteFunc(slices.Clone(columns), func(col column[*runv1.RunScope]) bool {
					return slices.Contains([]string{"Resources", "Findings", "Known cost", "New", "Gone", "Calls"}, col.head)
				})
			}
			c.print("\n%s\n", renderTable(c, columns, scopes))
		}
		var gaps []gap
		for _, s := range scopes {
			gaps = append(gaps, gapsOf(s.GetScope(), s.GetCoverage(), s.GetError())...)
		}
		if len(gaps) > 0 {
			c.print("\n%s\n%s\n", c.outPaint(bold, "Not seen"), renderTable(c, gapColumns, gaps))
		}
	})
}

func (c *cli) runCard(r *runv1.Run) {
	took := ""
	if r.GetEndTime() != nil {
		took = lasted(r.GetEndTime().AsTime().Sub(r.GetStartTime().AsTime()))
	}
	f, p := r.GetFindings(), r.GetProgress()
	started := fact{name: "started", text: when(r.GetStartTime())}
	switch r.GetState() {
	case runv1.RunState_RUN_STATE_QUEUED:
		started.name = "queued"
	case runv1.RunState_RUN_STATE_SKIPPED:
		started.name = "skipped"
	}
	facts := []fact{
		{"state", name(r.GetState()), runPaint(r)},
		{name: "why", text: r.GetError()},
		{name: "cause", text: strings.TrimSuffix(strings.ToLower(name(r.GetCause()))+", by "+r.GetRequestedBy(), ", by ")},
		{name: "retry of", text: r.GetRetryOf()},
		{name: "planned for", text: when(r.GetPlannedTime())},
		started,
		{name: "took", text: took},
		{name: "parameters", text: pairs(r.GetParameters())},
		{name: "scopes", text: scopeCounts(r.GetScopes())},
		{name: "counted", text: counts(p)},
	}
	if scans(r.GetKind()) {
		facts = append(facts,
			fact{name: "looked at", text: fmt.Sprintf("%s, %s", many(p.GetResources(), "resource", "resources"), many(p.GetVerdicts(), "verdict", "verdicts"))},
			fact{name: "found", text: fmt.Sprintf("%s, known cost %s a month", many(p.GetViolations(), "finding", "findings"), cmp.Or(knownCost(r.GetKind(), p), "$0.00"))},
			fact{name: "of these", text: fmt.Sprintf("%s new, %s changed, %s as before, %s came back; %s resolved", count(f.GetOpened()), count(f.GetChanged()),
				count(f.GetUnchanged()), count(f.GetReopened()), count(f.GetResolved()))},
			fact{name: "asked of AWS", text: meterText(p.GetMeter())})
	}
	c.card(r.GetId(), facts...)
}

// scans tells whether runs of a kind look at resources and judge them.
func scans(kind string) bool { return slices.Contains(setNames(), kind) }

// counts are the figures of work that counts something of its own.
func counts(p *scanv1.Progress) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(p.GetCounts())) {
		parts = append(parts, count(p.GetCounts()[k])+" "+clean(k))
	}
	return strings.Join(parts, ", ")
}

// scopeCounts says how the scopes of a run stand.
func scopeCounts(s *runv1.ScopeCounts) string {
	parts := []string{count(int64(s.GetTotal()))}
	for _, x := range []struct {
		n    int32
		what string
	}{{s.GetPending(), "waiting"}, {s.GetRunning(), "at work"}, {s.GetSucceeded(), "done"}, {s.GetPartial(), "partial"}, {s.GetFailed(), "failed"}, {s.GetCancelled(), "cancelled"}} {
		if x.n > 0 && x.n != s.GetTotal() || x.n > 0 && x.what != "done" {
			parts = append(parts, count(int64(x.n))+" "+x.what)
		}
	}
	return strings.Join(parts, ", ")
}

// knownCost is what the findings of a service's scan are known to cost a month.
// Waste of which nothing is known costs an unknown amount, not 0; other
// findings cost nothing by themselves, which is "", as are none.
func knownCost(service string, p *scanv1.Progress) string {
	switch {
	case p.GetMonthlyCost() > 0:
		return dollars(p.GetMonthlyCost(), p.GetMonthlyCost())
	case p.GetViolations() > 0 && service == waste.Rules.Service():
		return "unknown"
	default:
		return ""
	}
}

// meterText says what a scan cost in calls and money.
func meterText(m *scanv1.Meter) string {
	s := many(m.GetCalls(), "call", "calls")
	if m.GetThrottles() > 0 {
		s += ", " + count(m.GetThrottles()) + " throttled"
	}
	if m.GetRetries() > 0 {
		s += ", " + many(m.GetRetries(), "retry", "retries")
	}
	if m.GetBilledMetrics() > 0 {
		s += fmt.Sprintf(", %s billed at $%s", many(m.GetBilledMetrics(), "metric", "metrics"), strconv.FormatFloat(m.GetBilledCost(), 'f', 4, 64))
	}
	return s
}

var scopeColumns = []column[*runv1.RunScope]{
	{head: "Account", text: func(s *runv1.RunScope) string { return s.GetScope().GetAccount() }},
	{head: "Region", text: func(s *runv1.RunScope) string { return s.GetScope().GetRegion() }},
	{head: "State", text: func(s *runv1.RunScope) string { return name(s.GetState()) }, paint: func(s *runv1.RunScope) paint {
		return runPaint(&runv1.Run{State: map[runv1.ScopeState]runv1.RunState{
			runv1.ScopeState_SCOPE_STATE_SUCCEEDED: runv1.RunState_RUN_STATE_SUCCEEDED,
			runv1.ScopeState_SCOPE_STATE_PARTIAL:   runv1.RunState_RUN_STATE_PARTIAL,
			runv1.ScopeState_SCOPE_STATE_FAILED:    runv1.RunState_RUN_STATE_FAILED,
			runv1.ScopeState_SCOPE_STATE_CANCELLED: runv1.RunState_RUN_STATE_CANCELLED,
		}[s.GetState()]})
	}},
	{head: "Resources", number: true, text: func(s *runv1.RunScope) string { return count(s.GetProgress().GetResources()) }},
	{head: "Findings", number: true, text: func(s *runv1.RunScope) string { return count(s.GetProgress().GetViolations()) }},
	{head: "Known cost", number: true, text: func(s *runv1.RunScope) string { return knownCost(s.GetScope().GetService(), s.GetProgress()) }},
	{head: "New", number: true, text: func(s *runv1.RunScope) string { return count(s.GetFindings().GetOpened()) }},
	{head: "Gone", number: true, text: func(s *runv1.RunScope) string { return count(s.GetFindings().GetResolved()) }},
	{head: "Calls", number: true, spare: 1, text: func(s *runv1.RunScope) string { return count(s.GetProgress().GetMeter().GetCalls()) }},
	{head: "Took", number: true, spare: 1, text: func(s *runv1.RunScope) string {
		if s.GetStartTime() == nil || s.GetEndTime() == nil {
			return ""
		}
		return lasted(s.GetEndTime().AsTime().Sub(s.GetStartTime().AsTime()))
	}},
	{head: "Tries", number: true, spare: 1, text: func(s *runv1.RunScope) string { return strconv.Itoa(int(s.GetAttempts())) }},
	{head: "Counted", flex: 10, spare: 1, text: func(s *runv1.RunScope) string { return counts(s.GetProgress()) }},
}

// gap is something that could not be seen.
type gap struct {
	scope    *scanv1.Scope
	coverage *scanv1.Coverage
}

// gapsOf lists what of a scope could not be seen.
func gapsOf(s *scanv1.Scope, coverage []*scanv1.Coverage, failure string) []gap {
	var out []gap
	for _, row := range coverage {
		if row.GetStatus() != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE {
			out = append(out, gap{s, row})
		}
	}
	if len(out) == 0 && failure != "" {
		out = append(out, gap{s, &scanv1.Coverage{ResourceType: "*", Status: scanv1.CoverageStatus_COVERAGE_STATUS_FAILED, Error: failure}})
	}
	return out
}

var gapColumns = []column[gap]{
	{head: "Account", text: func(g gap) string { return g.scope.GetAccount() }},
	{head: "Region", text: func(g gap) string { return g.scope.GetRegion() }},
	{head: "What", text: func(g gap) string { return what(g.coverage.GetResourceType()) }},
	{head: "Status", text: func(g gap) string { return name(g.coverage.GetStatus()) }, paint: func(gap) paint { return yellow }},
	{head: "Why", flex: 30, text: func(g gap) string { return g.coverage.GetError() }},
}

func what(resourceType string) string {
	if resourceType == "*" {
		return "everything"
	}
	return resourceType
}

func (c *cli) runsWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch [RUN]", Short: "Follow a run to its end; without an id the newest", Args: cobra.MaximumNArgs(1),
		Long: `Follows a run to its end: progress on stderr, then the run on stdout; with -o jsonl a line for each change. Ends with 1 when
the run failed, was cancelled or skipped, and 6 when it is partial. Ctrl-C ends the watching, not the run.`,
		Example:           "  nightshift runs watch\n  nightshift runs watch waste-scan/2026-09-01T06:00:00Z -o json",
		ValidArgsFunction: c.completing(c.runIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.runs()
			if err != nil {
				return err
			}
			id, err := newest(cmd.Context(), api, args)
			if err != nil {
				return err
			}
			return c.watchRun(cmd.Context(), id)
		},
	}
}

// watchRun follows a run to its end and shows it. The error is the exit code
// of a run that did not succeed.
func (c *cli) watchRun(ctx context.Context, id string) error {
	api, err := c.runs()
	if err != nil {
		return err
	}
	c.say("watching %s; Ctrl-C ends the watching, not the run", clean(id))
	lines := newPrinter(c, func(r *runv1.WatchRunResponse) object { return tree(r) }, nil)
	p := c.newProgress(0)
	run, scopes, err := follow(ctx, api, id, func(r *runv1.WatchRunResponse) error {
		p.expect(int(r.GetRun().GetScopes().GetTotal()))
		p.show(r)
		if c.output == formatJSONL {
			return lines.add(r)
		}
		return nil
	})
	p.close()
	if err != nil {
		return err
	}
	if c.output != formatJSONL {
		if err := c.printRun(run, scopes); err != nil {
			return err
		}
	}
	return runExit(run)
}

// show takes what a watched run sends.
func (p *progress) show(r *runv1.WatchRunResponse) {
	p.mu.Lock()
	p.what = ""
	if r.GetRun().GetState() == runv1.RunState_RUN_STATE_QUEUED {
		p.what = strings.TrimSuffix("queued: "+clean(r.GetRun().GetError()), ": ")
	}
	p.mu.Unlock()
	for _, s := range r.GetScopes() {
		switch s.GetState() {
		case runv1.ScopeState_SCOPE_STATE_PENDING:
			if s.GetFailures() > 0 { // it is tried again
				p.update(s.GetScope(), s.GetProgress())
			}
		case runv1.ScopeState_SCOPE_STATE_RUNNING:
			p.update(s.GetScope(), s.GetProgress())
		case runv1.ScopeState_SCOPE_STATE_SUCCEEDED:
			p.done(s.GetScope(), s.GetProgress(), "", "")
		default:
			why := s.GetError()
			if gaps := gapsOf(s.GetScope(), s.GetCoverage(), why); why == "" && len(gaps) > 0 {
				why = gaps[0].coverage.GetError()
			}
			p.done(s.GetScope(), s.GetProgress(), name(s.GetState()), why)
		}
	}
}

// follow reads a run's changes until it has ended, also over a restart of the
// service, and returns its last state.
func follow(ctx context.Context, api runv1.RunServiceClient, id string, each func(*runv1.WatchRunResponse) error) (*runv1.Run, []*runv1.RunScope, error) {
	var (
		run    *runv1.Run
		scopes []*runv1.RunScope
		at     = map[string]int{}
	)
	for {
		stream, err := api.WatchRun(ctx, &runv1.WatchRunRequest{Id: id})
		for err == nil {
			var r *runv1.WatchRunResponse
			if r, err = stream.Recv(); err != nil {
				break
			}
			if r.GetRun() == nil { // a sign of life
				continue
			}
			run = r.GetRun()
			for _, s := range r.GetScopes() {
				key := s.GetScope().GetAccount() + "/" + s.GetScope().GetRegion()
				if i, ok := at[key]; ok {
					scopes[i] = s
				} else {
					at[key] = len(scopes)
					scopes = append(scopes, s)
				}
			}
			if err := each(r); err != nil {
				return nil, nil, err
			}
		}
		ended := runEnded(run)
		switch {
		case ended:
			return run, scopes, nil
		case ctx.Err() != nil:
			return nil, nil, context.Cause(ctx)
		case errors.Is(err, io.EOF) || run != nil && errors.Is(err, errs.Unavailable):
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
			}
		default:
			return nil, nil, withHint(err, errs.NotFound, noSuchRun)
		}
	}
}

// runEnded tells whether a run will change no more.
func runEnded(r *runv1.Run) bool {
	switch r.GetState() {
	case runv1.RunState_RUN_STATE_UNSPECIFIED, runv1.RunState_RUN_STATE_QUEUED, runv1.RunState_RUN_STATE_RUNNING:
		return false
	default:
		return true
	}
}

// runExit is the exit code of a run that ended.
func runExit(r *runv1.Run) error {
	switch r.GetState() {
	case runv1.RunState_RUN_STATE_FAILED:
		return &exit{exitError, fmt.Sprintf("run %s failed: %s", r.GetId(), r.GetError())}
	case runv1.RunState_RUN_STATE_CANCELLED, runv1.RunState_RUN_STATE_SKIPPED:
		return &exit{exitError, fmt.Sprintf("run %s was %s: %s", r.GetId(), strings.ToLower(name(r.GetState())), r.GetError())}
	case runv1.RunState_RUN_STATE_PARTIAL:
		return &exit{exitPartial, fmt.Sprintf("run %s did not see everything", r.GetId())}
	default:
		return nil
	}
}

func (c *cli) runsCancel() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "cancel RUN", Short: "End a run that is queued or at work", Args: exactly(1, "the id of a run"),
		Long: `Ends a run at once; its workers stop within seconds. What it found until then counts, and what it did not see resolves
nothing. "nightshift runs retry" does the rest later.`,
		Example:           "  nightshift runs cancel waste-scan/2026-09-01T06:00:00Z --reason \"wrong parameters\"",
		ValidArgsFunction: c.completing(c.runIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.runs()
			if err != nil {
				return err
			}
			r, err := api.CancelRun(cmd.Context(), &runv1.CancelRunRequest{Id: args[0], Reason: reason, RequestedBy: requester()})
			if err != nil {
				return withHint(err, errs.NotFound, noSuchRun)
			}
			c.say("cancelled")
			return c.printRun(r.GetRun(), nil)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever looks next")
	return cmd
}

func (c *cli) runsRetry() *cobra.Command {
	var (
		watch     bool
		only      []string
		requestID string
	)
	cmd := &cobra.Command{
		Use: "retry RUN", Short: "Do those parts of a run again that did not succeed", Args: exactly(1, "the id of a run that has ended"),
		Long: `Begins a new run that does those accounts and regions of an ended run again that failed, were seen in part or were
cancelled, and no others.`,
		Example: `  nightshift runs retry waste-scan/2026-09-01T06:00:00Z --watch
  nightshift runs retry waste-scan/2026-09-01T06:00:00Z --scope 123456789012/eu-west-1`,
		ValidArgsFunction: c.completing(c.runIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			api, err := c.runs()
			if err != nil {
				return err
			}
			req := &runv1.RetryRunRequest{Id: args[0], RequestId: requestID, RequestedBy: requester()}
			if len(only) > 0 {
				was, err := api.GetRun(ctx, &runv1.GetRunRequest{Id: args[0]})
				if err != nil {
					return withHint(err, errs.NotFound, noSuchRun)
				}
				for _, s := range only {
					account, region, ok := strings.Cut(s, "/")
					if !ok {
						return usage("--scope %q is not ACCOUNT/REGION, as \"nightshift runs show %s\" lists them", s, args[0])
					}
					req.Scopes = append(req.Scopes, &scanv1.Scope{Service: was.GetRun().GetKind(), Account: account, Region: region})
				}
			}
			r, err := api.RetryRun(ctx, req)
			if err != nil {
				return withHint(err, errs.NotFound, noSuchRun)
			}
			if watch {
				return c.watchRun(ctx, r.GetRun().GetId())
			}
			c.say("\"nightshift runs watch %s\" follows it", r.GetRun().GetId())
			return c.printRun(r.GetRun(), nil)
		},
	}
	fl := cmd.Flags()
	fl.BoolVarP(&watch, "watch", "w", false, "follow the new run to its end; exit with 1 when it fails and 6 when it is partial")
	fl.StringSliceVar(&only, "scope", nil, "only this ACCOUNT/REGION; may be given several times")
	fl.StringVar(&requestID, "request-id", "", "makes the call safe to repeat: the same id gives the same run")
	return cmd
}

func (c *cli) runIDs(ctx context.Context) ([]string, error) {
	api, err := c.runs()
	if err != nil {
		return nil, err
	}
	r, err := api.ListRuns(ctx, &runv1.ListRunsRequest{PageSize: 50})
	var out []string
	for _, x := range r.GetRuns() {
		out = append(out, cobra.CompletionWithDesc(x.GetId(), name(x.GetState())+" "+when(x.GetStartTime())))
	}
	return out, err
}
