package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/errs"
)

func (c *cli) findings() (findingv1.FindingServiceClient, error) {
	conn, err := c.dial("persistence")
	if err != nil {
		return nil, err
	}
	return findingv1.NewFindingServiceClient(conn), nil
}

func (c *cli) findingsCommand() *cobra.Command {
	return group("findings", "List, show, count and watch findings, and say something about them", c.findingsList(), c.findingsShow(), c.findingsHistory(), c.findingsWatch(),
		c.findingsFacets(), c.findingsTotals(), c.findingsTrend(), c.findingsSavings(),
		c.findingsAck(), c.findingsUnack(), c.findingsAssign(), c.findingsComment(),
		c.findingsHeld(), c.findingsRelease(), c.findingsDiscard())
}

var findingColumns = []column[*findingv1.Finding]{
	{name: "id", head: "ID", text: func(f *findingv1.Finding) string { return f.GetId()[:min(8, len(f.GetId()))] },
		csv: (*findingv1.Finding).GetId, paint: func(*findingv1.Finding) paint { return faint }},
	{name: "state", text: func(f *findingv1.Finding) string { return name(f.GetState()) }},
	{name: "severity", head: "Severity", text: func(f *findingv1.Finding) string { return name(f.GetSeverity()) },
		paint: func(f *findingv1.Finding) paint { return severityPaint(f.GetSeverity()) }},
	{name: "monthly_cost_low", number: true, csv: func(f *findingv1.Finding) string { return low(f.GetMonthlyCost()) }},
	{name: "monthly_cost_high", head: "Monthly", number: true, text: func(f *findingv1.Finding) string { return cost(f.GetCategory(), f.GetMonthlyCost()) },
		csv: func(f *findingv1.Finding) string { return high(f.GetMonthlyCost()) }},
	{name: "rule_id", head: "Rule", text: (*findingv1.Finding).GetRuleId},
	{name: "resource_id", head: "Resource", flex: 21, text: func(f *findingv1.Finding) string { return f.GetResource().GetId() }},
	{name: "resource_name", head: "Name", flex: 8, spare: 3, text: func(f *findingv1.Finding) string { return f.GetResource().GetName() }},
	{name: "account", head: "Account", spare: 2, text: func(f *findingv1.Finding) string { return f.GetResource().GetAccount() }},
	{name: "region", head: "Region", spare: 1, text: func(f *findingv1.Finding) string { return f.GetResource().GetRegion() }},
	{name: "since", head: "Since", spare: 4, text: func(f *findingv1.Finding) string { return day(f.GetSince()) },
		csv: func(f *findingv1.Finding) string { return stamp(f.GetSince()) }},
	{name: "owner", head: "Owner", flex: 8, spare: 4, text: (*findingv1.Finding).GetOwner},
	{name: "first_seen", csv: func(f *findingv1.Finding) string { return stamp(f.GetFirstSeen()) }},
	{name: "last_seen", csv: func(f *findingv1.Finding) string { return stamp(f.GetLastSeen()) }},
	{name: "resource_type", text: func(f *findingv1.Finding) string { return f.GetResource().GetType() }},
	{name: "arn", text: func(f *findingv1.Finding) string { return f.GetResource().GetArn() }},
	{name: "title", text: (*findingv1.Finding).GetTitle},
	{name: "reason", text: (*findingv1.Finding).GetReason},
	{name: "recommendation", text: (*findingv1.Finding).GetRecommendation},
	{name: "exempt_until", text: func(f *findingv1.Finding) string { return day(f.GetExemption().GetExpireTime()) },
		csv: func(f *findingv1.Finding) string { return stamp(f.GetExemption().GetExpireTime()) }},
	{name: "exempt_by", flex: 8, text: func(f *findingv1.Finding) string { return f.GetExemption().GetBy() }},
	{name: "exempt_reason", flex: 12, spare: 3, text: func(f *findingv1.Finding) string { return f.GetExemption().GetReason() }},
	{name: "assignee", text: (*findingv1.Finding).GetAssignee},
	{name: "acknowledged_by", text: func(f *findingv1.Finding) string { return f.GetAcknowledgement().GetBy() }},
	{name: "orphan_time", text: func(f *findingv1.Finding) string { return day(f.GetOrphanTime()) },
		csv: func(f *findingv1.Finding) string { return stamp(f.GetOrphanTime()) }},
	{name: "orphan_reason", text: func(f *findingv1.Finding) string {
		if f.GetOrphanTime() == nil {
			return ""
		}
		return name(f.GetOrphanReason())
	}},
}

// columns are those that tell apart what is listed: its state where that
// differs, and what is said about exempt ones where they are all.
func (f *findingFilter) columns() []column[*findingv1.Finding] {
	heads := map[string]string{}
	switch strings.ToLower(f.state) {
	case "all":
		heads["state"] = "State"
	case "exempt":
		heads["exempt_until"], heads["exempt_by"], heads["exempt_reason"] = "Until", "By", "Why"
	}
	if f.orphaned {
		heads["orphan_time"], heads["orphan_reason"] = "Orphan since", "Why"
	}
	out := slices.Clone(findingColumns)
	for i := range out {
		if head := heads[out[i].name]; head != "" {
			out[i].head = head
		}
	}
	return out
}

// low and high are the bounds of a cost for the CSV; "" when it is unknown.
func low(m *rulev1.MonthlyCost) string {
	if m == nil {
		return ""
	}
	return strconv.FormatFloat(m.GetLow(), 'f', 2, 64)
}

func high(m *rulev1.MonthlyCost) string {
	if m == nil {
		return ""
	}
	return strconv.FormatFloat(m.GetHigh(), 'f', 2, 64)
}

// findingFilter are the flags that choose findings.
type findingFilter struct {
	severity, state, filter          string
	rules, accounts, regions, owners []string
	assignees                        []string
	acknowledged                     string
	minCost                          float64
	orphaned                         bool
}

func (f *findingFilter) add(c *cli, cmd *cobra.Command, states bool) {
	fl := cmd.Flags()
	fl.StringVar(&f.severity, "severity", "", "at least this severity: "+severityNames())
	if states {
		fl.StringVar(&f.state, "state", "open", "open, exempt, resolved or all; open leaves out those that somebody has accepted")
		complete(cmd, "state", "open", "exempt", "resolved", "all")
	}
	fl.StringSliceVar(&f.rules, "rule", nil, "of these rules")
	fl.StringSliceVar(&f.accounts, "account", nil, "of these accounts")
	fl.StringSliceVar(&f.regions, "region", nil, "of these regions")
	fl.StringArrayVar(&f.owners, "owner", nil, "of this owner; may be given several times")
	fl.StringArrayVar(&f.assignees, "assignee", nil, "that somebody gave to this owner; may be given several times")
	fl.StringVar(&f.acknowledged, "acknowledged", "", "yes: that somebody knows about; no: that nobody does")
	complete(cmd, "acknowledged", "yes", "no")
	fl.BoolVar(&f.orphaned, "orphaned", false, "that no scan looks at any more, for their account or region is gone")
	fl.Float64Var(&f.minCost, "min-cost", 0, "that cost at least this much a month, in USD; leaves out unknown costs")
	fl.StringVar(&f.filter, "filter", "", `any other condition, such as 'resource_name:"web" AND first_seen > "2026-01-01T00:00:00Z"'`)
	complete(cmd, "severity", enumNames(rulev1.Severity(0))...)
	_ = cmd.RegisterFlagCompletionFunc("rule", c.completing(c.ruleIDs))
	_ = cmd.RegisterFlagCompletionFunc("account", c.completing(c.accountIDs))
}

// text is the filter in the language of the API.
func (f *findingFilter) text() (string, error) {
	var and []string
	switch strings.ToLower(f.state) {
	case "open":
		and = append(and, `state != "RESOLVED" AND state != "EXEMPT"`)
	case "exempt":
		and = append(and, `state = "EXEMPT"`)
	case "resolved":
		and = append(and, `state = "RESOLVED"`)
	case "", "all":
	default:
		return "", usage("--state %q is not open, exempt, resolved or all", f.state)
	}
	if f.severity != "" {
		s, err := parseSeverity("--severity", f.severity)
		if err != nil {
			return "", err
		}
		and = append(and, `severity >= "`+name(s)+`"`)
	}
	for _, any := range []struct {
		field  string
		values []string
	}{{"rule_id", f.rules}, {"account", f.accounts}, {"region", f.regions}, {"owner", f.owners}, {"assignee", f.assignees}} {
		if len(any.values) > 0 {
			or := make([]string, len(any.values))
			for i, v := range any.values {
				or[i] = any.field + " = " + quote(v)
			}
			and = append(and, "("+strings.Join(or, " OR ")+")")
		}
	}
	switch strings.ToLower(f.acknowledged) {
	case "":
	case "yes", "true":
		and = append(and, "acknowledged = true")
	case "no", "false":
		and = append(and, "acknowledged = false")
	default:
		return "", usage("--acknowledged %q is not yes or no", f.acknowledged)
	}
	if f.orphaned {
		and = append(and, "orphan_time:*")
	}
	if f.minCost > 0 {
		and = append(and, "monthly_cost >= "+strconv.FormatFloat(f.minCost, 'f', -1, 64))
	}
	if f.filter != "" {
		and = append(and, "("+f.filter+")")
	}
	return strings.Join(and, " AND "), nil
}

// quote is a text in a filter.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func severityNames() string {
	return strings.ToLower(strings.Join(enumNames(rulev1.Severity(0)), ", "))
}

func parseSeverity(flag, s string) (rulev1.Severity, error) {
	if n, ok := rulev1.Severity_value["SEVERITY_"+strings.ToUpper(s)]; ok && n != 0 {
		return rulev1.Severity(n), nil
	}
	return 0, usage("%s %q is not one of %s", flag, s, severityNames())
}

func (c *cli) findingsList() *cobra.Command {
	var (
		f      findingFilter
		order  string
		failOn string
		limit  limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List findings, the most expensive first", Args: cobra.NoArgs,
		Example: `  nightshift findings list
  nightshift findings list --severity high --account 123456789012
  nightshift findings list --state exempt
  nightshift findings list --owner shop --acknowledged no
  nightshift findings list --orphaned --state all
  nightshift findings list --state resolved --order "last_seen desc" -o csv > resolved.csv
  nightshift findings list --min-cost 50 --fail-on medium -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.text()
			if err != nil {
				return err
			}
			fail, err := parseFailOn(failOn)
			if err != nil {
				return err
			}
			api, err := c.findings()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			n, err := listAll(ctx, c, limit, newPrinter(c, findingTree, f.columns()), func(size int32, token string) ([]*findingv1.Finding, string, error) {
				r, err := api.ListFindings(ctx, &findingv1.ListFindingsRequest{PageSize: size, PageToken: token, Filter: filter, OrderBy: order})
				return r.GetFindings(), r.GetNextPageToken(), err
			})
			if err != nil {
				return err
			}
			if n == 0 {
				c.say("no findings")
			}
			if fail == 0 {
				return nil
			}
			// Asked by itself: the list can have been cut by --limit. What is accepted fails nothing.
			bad := `state != "EXEMPT" AND severity >= "` + name(fail) + `"`
			if filter != "" {
				bad += " AND (" + filter + ")"
			}
			r, err := api.ListFindings(ctx, &findingv1.ListFindingsRequest{PageSize: 1, Filter: bad})
			if err != nil {
				return err
			}
			if len(r.GetFindings()) > 0 {
				return failedOn(fail)
			}
			return nil
		},
	}
	f.add(c, cmd, true)
	cmd.Flags().StringVar(&order, "order", "monthly_cost desc", "order, such as \"severity desc, first_seen\"")
	addFailOn(cmd, &failOn)
	limit.add(cmd)
	return cmd
}

func addFailOn(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "fail-on", "", "exit with 3 when a finding has at least this severity: "+severityNames())
	complete(cmd, "fail-on", enumNames(rulev1.Severity(0))...)
}

// parseFailOn reads --fail-on; 0 means never.
func parseFailOn(s string) (rulev1.Severity, error) {
	if s == "" {
		return 0, nil
	}
	return parseSeverity("--fail-on", s)
}

func failedOn(s rulev1.Severity) error {
	return &exit{exitFindings, "there are findings of severity " + name(s) + " or above"}
}

func findingTree(f *findingv1.Finding) object { return tree(f) }

// limit is how many items of a list are shown.
type limit int

const tableLimit = 100

func (l *limit) add(cmd *cobra.Command) {
	cmd.Flags().IntVar((*int)(l), "limit", -1, fmt.Sprintf("most to show, 0 for all (default: %d in a table, else all)", tableLimit))
	cmd.Flags().Lookup("limit").DefValue = "0" // the usage says it
}

// listAll prints all pages of a list, up to the limit, and tells on stderr
// when there is more.
func listAll[T any](ctx context.Context, c *cli, l limit, p *printer[T], page func(size int32, token string) ([]T, string, error)) (n int, err error) {
	most := max(int(l), 0)
	if l < 0 && c.output == formatTable {
		most = tableLimit
	}
	var more bool
	for token := ""; ; {
		size := 500
		if most > 0 {
			size = min(size, most-n)
		}
		items, next, err := page(int32(size), token)
		if err != nil {
			return n, err
		}
		for _, item := range items {
			n++
			if err := p.add(item); err != nil {
				return n, err
			}
		}
		if token = next; token == "" || most > 0 && n >= most {
			more = token != ""
			break
		}
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
	}
	if err := p.close(); err != nil {
		return n, err
	}
	if more {
		c.say("the first %s; --limit 0 shows all", count(int64(n)))
	}
	return n, nil
}

func (c *cli) findingsShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Aliases: []string{"get"}, Short: "Show a finding with its evidence and its life", Args: exactly(1, "the id of a finding, or its beginning"),
		Example: `  nightshift findings show 3f2a9c01d4e5
  nightshift findings show 3f2a9c01d4e5 -o json | jq .evidence`,
		ValidArgsFunction: c.completing(c.findingIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			api, err := c.findings()
			if err != nil {
				return err
			}
			f, err := findFinding(ctx, api, args[0])
			if err != nil {
				return err
			}
			var life []*findingv1.Transition
			for token := ""; ; {
				r, err := api.ListTransitions(ctx, &findingv1.ListTransitionsRequest{FindingId: f.GetId(), PageSize: 500, PageToken: token})
				if err != nil {
					return err
				}
				life = append(life, r.GetTransitions()...)
				if token = r.GetNextPageToken(); token == "" {
					break
				}
			}
			withLife := func(f *findingv1.Finding) object {
				var list []any
				for _, t := range life {
					list = append(list, tree(t))
				}
				return append(tree(f), member{"transitions", list})
			}
			return printOne(c, f, withLife, findingColumns, func() { c.findingCard(f, life) })
		},
	}
}

var findingID = regexp.MustCompile(`^[0-9a-f]{4,32}$`)

// findFinding finds a finding by its id or the beginning of it.
func findFinding(ctx context.Context, api findingv1.FindingServiceClient, id string) (*findingv1.Finding, error) {
	id = strings.ToLower(strings.TrimSpace(id))
	if !findingID.MatchString(id) {
		return nil, usage("%q is not the id of a finding: 32 hexadecimal digits, or at least the first 4", id)
	}
	if len(id) == 32 {
		r, err := api.GetFinding(ctx, &findingv1.GetFindingRequest{Id: id})
		return r.GetFinding(), withHint(err, errs.NotFound, "\"nightshift findings list --state all\" shows the ids there are.")
	}
	// Ids compare as texts, and no digit is above f.
	r, err := api.ListFindings(ctx, &findingv1.ListFindingsRequest{PageSize: 5, OrderBy: "id", Filter: fmt.Sprintf(`id >= "%s" AND id < "%sg"`, id, id)})
	switch found := r.GetFindings(); {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, hint{fmt.Errorf("there is no finding whose id begins with %s", id), "\"nightshift findings list --state all\" shows the ids there are."}
	case len(found) > 1:
		var ids []string
		for _, f := range found {
			ids = append(ids, f.GetId())
		}
		return nil, usage("several findings begin with %s: %s", id, strings.Join(ids, ", "))
	default:
		return found[0], nil
	}
}

// withHint adds advice to an error of a kind.
func withHint(err error, kind errs.Kind, advice string) error {
	if errors.Is(err, kind) {
		return hint{err, advice}
	}
	return err
}

// exactly demands n arguments and says what they are.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%s takes %s\nUsage: %s", cmd.CommandPath(), what, cmd.UseLine())
		}
		return nil
	}
}

func (c *cli) findingCard(f *findingv1.Finding, life []*findingv1.Transition) {
	r := f.GetResource()
	c.card(f.GetTitle(),
		fact{"severity", name(f.GetSeverity()), severityPaint(f.GetSeverity())},
		fact{"costs a month", costWithBasis(f.GetCategory(), f.GetMonthlyCost()), bold},
		fact{"state", name(f.GetState()), statePaint(f.GetState())},
		fact{name: "exempt until", text: exemptUntil(f.GetExemption())},
		fact{name: "exempt by", text: f.GetExemption().GetBy()},
		fact{name: "exempt because", text: f.GetExemption().GetReason()},
		fact{"orphan", orphaned(f), yellow},
		fact{name: "acknowledged by", text: acknowledged(f.GetAcknowledgement())},
		fact{name: "note", text: f.GetAcknowledgement().GetNote()},
		fact{name: "why", text: f.GetReason()},
		fact{name: "what to do", text: f.GetRecommendation()},
		fact{name: "resource", text: r.GetId()},
		fact{name: "name", text: r.GetName()},
		fact{name: "owner", text: f.GetOwner()},
		fact{name: "assigned to", text: f.GetAssignee()},
		fact{name: "account", text: r.GetAccount()},
		fact{name: "region", text: strings.TrimSpace(r.GetRegion() + " " + r.GetZone())},
		fact{name: "since", text: when(f.GetSince())},
		fact{name: "first seen", text: when(f.GetFirstSeen())},
		fact{name: "last seen", text: when(f.GetLastSeen())},
		fact{name: "resolved", text: when(f.GetResolveTime())},
		fact{name: "rule", text: fmt.Sprintf("%s, version %d", f.GetRuleId(), f.GetRuleVersion())},
		fact{name: "parameters", text: pairs(f.GetParameters())},
		fact{name: "tags", text: pairs(r.GetTags())},
		fact{name: "arn", text: r.GetArn()},
		fact{name: "id", text: f.GetId()},
	)
	if len(f.GetEvidence()) > 0 {
		c.print("\n%s\n%s\n", c.outPaint(bold, "Evidence"), renderTable(c, evidenceColumns, f.GetEvidence()))
	}
	if len(life) > 0 {
		c.print("\n%s\n%s\n", c.outPaint(bold, "Life"), renderTable(c, lifeColumns(f.GetCategory()), life))
	}
}

// exemptUntil is when an exemption ends; only a tag can be without an end.
func exemptUntil(x *rulev1.Exemption) string {
	if x != nil && x.GetExpireTime() == nil {
		return "no end"
	}
	return when(x.GetExpireTime())
}

// orphaned says since when no scan looks at a finding, and why.
func orphaned(f *findingv1.Finding) string {
	if f.GetOrphanTime() == nil {
		return ""
	}
	why := map[findingv1.OrphanReason]string{
		findingv1.OrphanReason_ORPHAN_REASON_ACCOUNT_REMOVED: "its account is not registered any more",
		findingv1.OrphanReason_ORPHAN_REASON_REGION_REMOVED:  "its region is not looked at any more",
	}[f.GetOrphanReason()]
	return "since " + when(f.GetOrphanTime()) + ", for " + cmp.Or(why, "no scan looks at it")
}

// acknowledged says who knows about a finding, and until when.
func acknowledged(a *findingv1.Acknowledgement) string {
	switch {
	case a == nil:
		return ""
	case a.GetExpireTime() == nil:
		return a.GetBy() + ", until it changes"
	default:
		return a.GetBy() + ", until " + when(a.GetExpireTime())
	}
}

func costWithBasis(of rulev1.Category, m *rulev1.MonthlyCost) string {
	s := cost(of, m)
	if m.GetBasis() != "" {
		s += " (" + strings.ToLower(m.GetBasis()) + " price"
		if m.GetDate() != "" {
			s += " of " + m.GetDate()
		}
		s += ")"
	}
	return s
}

// pairs writes a map as k=v, sorted.
func pairs(m map[string]string) string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func statePaint(s findingv1.State) paint {
	switch s {
	case findingv1.State_STATE_RESOLVED:
		return green
	case findingv1.State_STATE_EXEMPT:
		return faint
	}
	return yellow
}

var evidenceColumns = []column[*rulev1.Evidence]{
	{head: "What", text: (*rulev1.Evidence).GetName},
	{head: "Value", flex: 10, text: func(e *rulev1.Evidence) string { return withUnit(valueText(e.GetValue()), e.GetUnit()) }},
	{head: "Threshold", flex: 6, text: func(e *rulev1.Evidence) string { return withUnit(valueText(e.GetThreshold()), e.GetUnit()) }},
	{head: "Source", flex: 12, text: (*rulev1.Evidence).GetSource},
	{head: "How", spare: 1, text: func(e *rulev1.Evidence) string { return strings.ToLower(name(e.GetConfidence())) }},
	{head: "Note", flex: 10, spare: 1, text: (*rulev1.Evidence).GetNote},
}

func withUnit(value, unit string) string {
	if value == "" || unit == "" {
		return value
	}
	return value + " " + unit
}

func lifeColumns(of rulev1.Category) []column[*findingv1.Transition] {
	return []column[*findingv1.Transition]{
		{head: "When", text: func(t *findingv1.Transition) string { return when(t.GetTime()) }},
		{head: "What", text: func(t *findingv1.Transition) string { return name(t.GetKind()) }},
		{head: "Severity", text: func(t *findingv1.Transition) string { return name(t.GetToSeverity()) },
			paint: func(t *findingv1.Transition) paint { return severityPaint(t.GetToSeverity()) }},
		{head: "Monthly", number: true, text: func(t *findingv1.Transition) string { return cost(of, t.GetToCost()) }},
		{head: "Run", flex: 12, spare: 1, text: (*findingv1.Transition).GetRunId},
		{head: "By", flex: 8, spare: 1, text: (*findingv1.Transition).GetActor},
		{head: "Reason", flex: 20, text: (*findingv1.Transition).GetReason},
	}
}

func (c *cli) findingsWatch() *cobra.Command {
	var (
		f         findingFilter
		from      string
		fromStart bool
	)
	cmd := &cobra.Command{
		Use: "watch", Short: "Show what happens to findings while it happens", Args: cobra.NoArgs,
		Long: `Shows every transition of a finding while it happens, until Ctrl-C. Each line of -o jsonl has a resume_token: given to
--resume, the watch goes on there and misses nothing.`,
		Example: `  nightshift findings watch --severity high
  nightshift findings watch --from-start -o jsonl | jq -c '[.transition.kind, .finding.resource.arn]'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.text()
			if err != nil {
				return err
			}
			return c.watchFindings(cmd.Context(), filter, from, fromStart)
		},
	}
	f.add(c, cmd, false)
	cmd.Flags().StringVar(&from, "resume", "", "go on after this resume token")
	cmd.Flags().BoolVar(&fromStart, "from-start", false, "begin with the oldest transition kept instead of now")
	return cmd
}

var watchColumns = []column[*findingv1.WatchFindingsResponse]{
	{name: "time", text: func(r *findingv1.WatchFindingsResponse) string { return stamp(r.GetTransition().GetTime()) }},
	{name: "kind", text: func(r *findingv1.WatchFindingsResponse) string { return name(r.GetTransition().GetKind()) }},
	{name: "cause", text: func(r *findingv1.WatchFindingsResponse) string { return name(r.GetTransition().GetCause()) }},
	{name: "finding_id", text: func(r *findingv1.WatchFindingsResponse) string { return r.GetFinding().GetId() }},
	{name: "severity", text: func(r *findingv1.WatchFindingsResponse) string { return name(r.GetFinding().GetSeverity()) }},
	{name: "monthly_cost_low", number: true, text: func(r *findingv1.WatchFindingsResponse) string { return low(r.GetFinding().GetMonthlyCost()) }},
	{name: "monthly_cost_high", number: true, text: func(r *findingv1.WatchFindingsResponse) string { return high(r.GetFinding().GetMonthlyCost()) }},
	{name: "rule_id", text: func(r *findingv1.WatchFindingsResponse) string { return r.GetFinding().GetRuleId() }},
	{name: "account", text: func(r *findingv1.WatchFindingsResponse) string { return r.GetFinding().GetResource().GetAccount() }},
	{name: "region", text: func(r *findingv1.WatchFindingsResponse) string { return r.GetFinding().GetResource().GetRegion() }},
	{name: "resource_id", text: func(r *findingv1.WatchFindingsResponse) string { return r.GetFinding().GetResource().GetId() }},
	{name: "arn", text: func(r *findingv1.WatchFindingsResponse) string { return r.GetFinding().GetResource().GetArn() }},
	{name: "reason", text: func(r *findingv1.WatchFindingsResponse) string { return r.GetTransition().GetReason() }},
	{name: "resume_token", text: (*findingv1.WatchFindingsResponse).GetResumeToken},
}

// watchFindings follows the stream until ctx ends. A service that goes away is
// waited for: the resume token makes sure that nothing is missed.
func (c *cli) watchFindings(ctx context.Context, filter, token string, fromStart bool) error {
	api, err := c.findings()
	if err != nil {
		return err
	}
	p := newPrinter(c, func(r *findingv1.WatchFindingsResponse) object { return tree(r) }, watchColumns)
	c.say("watching; Ctrl-C ends it")
	err = c.endless(ctx, func() (answered bool, err error) {
		stream, err := api.WatchFindings(ctx, &findingv1.WatchFindingsRequest{Filter: filter, ResumeToken: token, FromStart: fromStart && token == ""})
		for err == nil {
			var r *findingv1.WatchFindingsResponse
			if r, err = stream.Recv(); err != nil {
				break
			}
			answered = true
			if r.GetResumeToken() != "" {
				token = r.GetResumeToken()
			}
			if r.GetTransition() == nil {
				continue
			}
			if c.output == formatTable {
				c.print("%s\n", c.transitionLine(r))
				continue
			}
			if err := p.add(r); err != nil {
				return answered, err
			}
		}
		return answered, err
	})
	if err != nil {
		return err
	}
	return p.close()
}

// endless opens a stream without an end again and again until ctx ends, which
// is the usual end of watching. A service that goes away is waited for, one
// that never answered is not.
func (c *cli) endless(ctx context.Context, stream func() (answered bool, err error)) error {
	seen := false
	for {
		answered, err := stream()
		seen = seen || answered
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the stream broke off because it was to
		case errors.Is(err, io.EOF), seen && errors.Is(err, errs.Unavailable):
			c.say("the connection is gone; trying again")
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		default:
			return err
		}
	}
}

func (c *cli) transitionLine(r *findingv1.WatchFindingsResponse) string {
	f, t := r.GetFinding(), r.GetTransition()
	kind := fmt.Sprintf("%-8s", name(t.GetKind()))
	if t.GetKind() == findingv1.TransitionKind_TRANSITION_KIND_RESOLVED {
		kind = c.outPaint(green, kind)
	}
	line := fmt.Sprintf("%s  %s  %s  %12s  %-16s  %s %s  %s", format(t.GetTime(), time.DateTime), kind,
		c.outPaint(severityPaint(f.GetSeverity()), fmt.Sprintf("%-8s", name(f.GetSeverity()))), cost(f.GetCategory(), f.GetMonthlyCost()),
		f.GetRuleId(), f.GetResource().GetAccount(), f.GetResource().GetRegion(), clean(f.GetResource().GetId()))
	if f.GetResource().GetName() != "" {
		line += " (" + clean(f.GetResource().GetName()) + ")"
	}
	return line
}

// findingIDs, ruleIDs and the like are names for the shell.
func (c *cli) findingIDs(ctx context.Context) ([]string, error) {
	api, err := c.findings()
	if err != nil {
		return nil, err
	}
	r, err := api.ListFindings(ctx, &findingv1.ListFindingsRequest{PageSize: 100, OrderBy: "monthly_cost desc"})
	var out []string
	for _, f := range r.GetFindings() {
		out = append(out, cobra.CompletionWithDesc(f.GetId(), clean(name(f.GetSeverity())+" "+f.GetRuleId()+" "+f.GetResource().GetId())))
	}
	return out, err
}
