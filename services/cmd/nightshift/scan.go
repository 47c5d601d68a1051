package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// oneShot is a scan without services: the engine, AWS and nothing else.
type oneShot struct {
	c *cli

	// The flags.
	accounts, regions, roles []string
	roleName, externalID     string
	organization             bool
	rules, params            []string
	allOutcomes              bool
	failOn                   string

	// What they mean.
	sets    []*scan.Set
	failAt  rulev1.Severity
	cloud   *aws.Cloud
	options scan.Options
	where   string // it looks at, for people

	// What comes out. The engine calls one at a time.
	printer  *printer[*scanv1.Observation]
	progress *progress
	kept     []*scanv1.Observation // for the table
	totals   totals
	exempt   int64 // violations that the resources themselves declare wanted
	worst    rulev1.Severity
	// Scopes by how they ended; unfinished ones did not.
	complete, partial, failed, unfinished int64

	mu   sync.Mutex
	gaps []gap
}

func (c *cli) scanCommand() *cobra.Command {
	s := &oneShot{c: c}
	cmd := &cobra.Command{
		Use:   "scan [" + strings.Join(setNames(), "|") + "]",
		Short: "Look at AWS accounts once, without services, NATS or Postgres",
		Long: `Scans the account that the environment's AWS credentials belong to, in every enabled region, by the same engine and rules
as the services, and prints a line for each violation. It only reads. The SDK's own chain finds the credentials:
AWS_PROFILE, AWS_ACCESS_KEY_ID, SSO, container and instance roles; AWS_ENDPOINT_URL points at an emulator.

With -o jsonl, csv and json verdicts come while they are found. Each is an object of rule_id, outcome, account, region,
resource_type, resource_id, arn, severity, monthly_cost {low, high, basis} (null when unknown or no violation),
evidence and reason, and more keys after these.

` + exitHelp,
		Example: `  nightshift scan
  nightshift scan waste --regions us-east-1,eu-west-1 --fail-on high
  nightshift scan --rules ebs-unattached --param ebs-unattached.min_days=7 -o jsonl
  nightshift scan --role-arn arn:aws:iam::123456789012:role/NightshiftReadOnly --external-id ns-1f2e3d
  nightshift scan --organization --role-name NightshiftReadOnly -o csv > waste.csv`,
		ValidArgs: setNames(),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return errors.New("scan takes at most one name")
			}
			for _, a := range args {
				if !slices.Contains(setNames(), a) {
					return fmt.Errorf("there is no scan %q; there is %s", a, strings.Join(setNames(), ", "))
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s.sets = slices.DeleteFunc(slices.Clone(sets), func(x *scan.Set) bool { return len(args) > 0 && x.Service() != args[0] })
			return s.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&s.regions, "regions", nil, "regions to look at (default: every enabled one)")
	f.StringSliceVar(&s.accounts, "accounts", nil, "accounts to look at, by --role-name; with --organization only these of it")
	f.BoolVar(&s.organization, "organization", false, "look at every ACTIVE account of the organization, by --role-name")
	f.StringVar(&s.roleName, "role-name", "", "role to assume in each account, such as NightshiftReadOnly")
	f.StringSliceVar(&s.roles, "role-arn", nil, "role to assume; several for several accounts")
	f.StringVar(&s.externalID, "external-id", "", "external id that the roles demand")
	f.StringSliceVar(&s.rules, "rules", nil, "rules to judge by (default: all)")
	f.StringArrayVar(&s.params, "param", nil, "parameter RULE.NAME=VALUE, such as ec2-stopped.min_days=45; may be given several times")
	f.BoolVar(&s.allOutcomes, "all-outcomes", false, "print every verdict, not only violations")
	addFailOn(cmd, &s.failOn)
	_ = cmd.RegisterFlagCompletionFunc("rules", c.completing(c.ruleIDs))
	return cmd
}

// prepare understands the flags; nothing has been asked of AWS yet.
func (s *oneShot) prepare(ctx context.Context) error {
	var err error
	if s.failAt, err = parseFailOn(s.failOn); err != nil {
		return err
	}
	known := map[string]string{}
	for _, set := range s.sets {
		for _, m := range set.Metas() {
			known[m.ID] = set.Service()
		}
	}
	for _, id := range s.rules {
		if known[id] == "" {
			return usage("--rules: there is no rule %q; \"nightshift scan --rules <TAB>\" and \"nightshift rules list\" show those there are", id)
		}
	}
	for _, p := range s.params {
		if id, _, ok := strings.Cut(p, "."); !ok || known[id] == "" || !strings.Contains(p, "=") {
			return usage("--param %q is not like ec2-stopped.min_days=45, with a rule that there is", p)
		}
	}
	for _, r := range s.regions {
		if !regionCode.MatchString(r) {
			return usage("--regions: %q is not a region code such as eu-west-1", r)
		}
	}
	for _, a := range s.accounts {
		if !accountNumber.MatchString(a) {
			return usage("--accounts: %q is not a 12-digit account number", a)
		}
	}
	if len(s.roles) > 0 && (s.organization || s.roleName != "" || len(s.accounts) > 0) {
		return usage("--role-arn names the accounts by itself: leave out --accounts, --organization and --role-name")
	}
	if s.organization && s.roleName == "" {
		return usage("--organization needs --role-name, the role to assume in each account, such as NightshiftReadOnly")
	}

	var cfg scan.Config
	if err := config.Load(&cfg, s.c.lookup); err != nil {
		return err
	}
	level := slog.LevelError
	if s.c.verbose {
		level = slog.LevelDebug
	}
	s.options = scan.Options{Scopes: cfg.Scopes, Log: s.c.screenLog(level)}
	if s.options.Prices, err = price.Load(cfg.PriceFile); err != nil {
		return err
	}
	s.cloud, err = cfg.Cloud(ctx)
	return err
}

var (
	accountNumber = regexp.MustCompile(`^[0-9]{12}$`)
	regionCode    = regexp.MustCompile(`^[a-z0-9-]{3,32}$`)
)

// screenLog is a log for people on stderr.
func (c *cli) screenLog(level slog.Leveler) *slog.Logger {
	return slog.New(c.screenHandler(level))
}

func (c *cli) screenHandler(level slog.Leveler) slog.Handler {
	w := writerFunc(func(b []byte) (int, error) { c.say("%s", strings.TrimSuffix(string(b), "\n")); return len(b), nil })
	return tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: "15:04:05", NoColor: !c.colored(c.errTTY)})
}

func (s *oneShot) run(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	targets, err := s.targets(ctx)
	if err != nil {
		return err
	}
	s.printer = newPrinter(s.c, verdictTree, verdictColumns(s.allOutcomes))
	s.progress = s.c.newProgress(len(targets) * len(s.sets))
	accounts, regions := map[string]bool{}, map[string]bool{}
	for _, t := range targets {
		accounts[t.Account], regions[t.Region] = true, true
	}
	s.where = many(int64(len(accounts)), "account", "accounts") + " and " + many(int64(len(regions)), "region", "regions")
	if s.progress.bars == nil {
		s.c.say("scanning %s", s.where)
	}
	for _, set := range s.sets {
		if err = s.scan(ctx, set, targets); err != nil {
			break
		}
	}
	s.progress.close()
	if err != nil && ctx.Err() == nil {
		return err
	}
	return s.end(ctx)
}

// scan runs the rules of one set.
func (s *oneShot) scan(ctx context.Context, set *scan.Set, targets []scan.Target) error {
	mine := func(id string) bool {
		return slices.ContainsFunc(set.Metas(), func(m rule.Meta) bool { return m.ID == id })
	}
	o := s.options
	for _, id := range s.rules {
		if mine(id) {
			o.Rules = append(o.Rules, id)
		}
	}
	if len(s.rules) > 0 && len(o.Rules) == 0 {
		return nil
	}
	var params []string
	for _, p := range s.params {
		if id, _, _ := strings.Cut(p, "."); mine(id) {
			params = append(params, p)
		}
	}
	var err error
	if o.Settings, err = set.Settings(strings.Join(params, ",")); err != nil {
		return err
	}
	done := map[string]bool{}
	err = scan.Run(ctx, s.cloud, targets, set, o, scan.Sink{
		Judged:   s.judged,
		Progress: s.progress.update,
		Finished: func(r *scanv1.ScopeResult) {
			done[r.GetScope().GetAccount()+r.GetScope().GetRegion()] = true
			s.finished(r)
		},
	})
	if err != nil && ctx.Err() != nil {
		for _, t := range targets {
			if !done[t.Account+t.Region] {
				s.unfinished++
			}
		}
	}
	return err
}

func (s *oneShot) judged(j *scan.Judgement) error {
	violation := j.Verdict.Outcome == rule.Violation
	if !violation && !s.allOutcomes {
		return nil
	}
	o := j.Observation()
	if violation && o.GetVerdict().GetExemption() == nil {
		s.totals.add(o.GetCategory(), o.GetVerdict().GetSeverity(), o.GetVerdict().GetMonthlyCost(), o.GetResource().GetArn())
		s.worst = max(s.worst, o.GetVerdict().GetSeverity())
	}
	if o.GetVerdict().GetExemption() != nil {
		s.exempt++
	}
	if s.c.output == formatTable {
		s.kept = append(s.kept, o)
		return nil
	}
	return s.printer.add(o)
}

func (s *oneShot) finished(r *scanv1.ScopeResult) {
	gaps := gapsOf(r.GetScope(), r.GetCoverage(), r.GetError())
	trouble, note := "", ""
	switch {
	case r.GetError() != "":
		trouble, note = "FAILED", r.GetError()
		s.failed++
	case len(gaps) > 0:
		trouble, note = "PARTIAL", gaps[0].coverage.GetError()
		s.partial++
	default:
		s.complete++
	}
	s.gaps = append(s.gaps, gaps...)
	s.progress.done(r.GetScope(), r.GetProgress(), trouble, note)
}

// lose records something that could not be seen.
func (s *oneShot) lose(service, account, region string, status scanv1.CoverageStatus, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps = append(s.gaps, gap{&scanv1.Scope{Service: service, Account: account, Region: region},
		&scanv1.Coverage{ResourceType: "*", Status: status, Error: why}})
}

// end prints what is left to print and decides on the exit code.
func (s *oneShot) end(ctx context.Context) error {
	c := s.c
	if c.output == formatTable {
		slices.SortStableFunc(s.kept, func(a, b *scanv1.Observation) int {
			return cmp.Or(cmp.Compare(b.GetVerdict().GetMonthlyCost().GetHigh(), a.GetVerdict().GetMonthlyCost().GetHigh()),
				cmp.Compare(b.GetVerdict().GetSeverity(), a.GetVerdict().GetSeverity()),
				cmp.Compare(a.GetVerdict().GetOutcome(), b.GetVerdict().GetOutcome()), cmp.Compare(a.GetResource().GetArn(), b.GetResource().GetArn()))
		})
		for _, o := range s.kept {
			if err := s.printer.add(o); err != nil {
				return err
			}
		}
	}
	if err := s.printer.close(); err != nil {
		return err
	}
	p := s.progress
	c.say("")
	c.say("%s", s.totals.sentence(c))
	if s.exempt > 0 {
		c.say("%s exempt by a tag of its resource, and not counted", many(s.exempt, "more is", "more are"))
	}
	c.say("looked at %s in %s (%s) in %s: %s", many(p.sum.GetResources(), "resource", "resources"),
		s.where, many(p.sum.GetVerdicts(), "verdict", "verdicts"),
		lasted(c.now().Sub(p.start)), meterText(&p.meter))
	s.sayGaps()
	switch {
	case s.failAt > 0 && s.worst >= s.failAt:
		return failedOn(s.failAt)
	case errors.Is(context.Cause(ctx), errTimeout):
		return &exit{exitPartial, errTimeout.Error() + ": what was found so far is above"}
	case ctx.Err() != nil:
		return &exit{exitPartial, "interrupted: what was found so far is above"}
	case s.complete+s.partial == 0:
		return errors.New("nothing could be seen")
	case len(s.gaps) > 0:
		return &exit{exitPartial, "not everything could be seen"}
	}
	return nil
}

// mostGaps is how many gaps are listed one by one.
const mostGaps = 20

func (s *oneShot) sayGaps() {
	c := s.c
	if s.unfinished > 0 {
		c.say("%s %s", many(s.unfinished, "account and region was", "accounts and regions were"), c.errPaint(yellow, "not scanned to the end"))
	}
	if len(s.gaps) == 0 {
		return
	}
	slices.SortFunc(s.gaps, func(a, b gap) int {
		return cmp.Or(cmp.Compare(a.scope.GetAccount(), b.scope.GetAccount()), cmp.Compare(a.scope.GetRegion(), b.scope.GetRegion()),
			cmp.Compare(a.coverage.GetResourceType(), b.coverage.GetResourceType()))
	})
	c.say("%s", c.errPaint(yellow, "not seen:"))
	for i, g := range s.gaps {
		if i == mostGaps {
			c.say("  and %d more", len(s.gaps)-mostGaps)
			return
		}
		c.say("  %s %s  %s: %s", g.scope.GetAccount(), g.scope.GetRegion(), what(g.coverage.GetResourceType()),
			clean(cmp.Or(g.coverage.GetError(), name(g.coverage.GetStatus()))))
	}
}

//nolint:gosec // names of variables, no secret
const credentialsAdvice = `Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run "aws sso login". "aws sts get-caller-identity" shows who you are.
Without an account at hand, "nightshift up --demo" shows everything on a simulated one.`

// caller says whose the credentials are, or what to do about it.
func caller(ctx context.Context, cloud *aws.Cloud) (aws.Caller, error) {
	who, err := cloud.Caller(ctx)
	if aws.Classify(err) == aws.Credentials {
		return who, hint{err, credentialsAdvice}
	}
	return who, err
}

// targets finds the accounts and regions to look at.
func (s *oneShot) targets(ctx context.Context) ([]scan.Target, error) {
	who, err := caller(ctx, s.cloud)
	if err != nil {
		return nil, err
	}
	accounts, err := s.enter(ctx, who)
	if err != nil {
		return nil, err
	}
	if len(accounts) == 0 {
		return nil, errors.New("there is no account to scan")
	}
	found := make([][]scan.Target, len(accounts))
	failed := make([]error, len(accounts))
	var g errgroup.Group
	g.SetLimit(8)
	for i, a := range accounts {
		g.Go(func() error {
			regions := s.regions
			if len(regions) == 0 {
				if regions, failed[i] = s.cloud.Regions(ctx, a); failed[i] != nil {
					status := scanv1.CoverageStatus_COVERAGE_STATUS_FAILED
					if k := aws.Classify(failed[i]); k == aws.Denied || k == aws.Credentials {
						status = scanv1.CoverageStatus_COVERAGE_STATUS_DENIED
					}
					s.lose(s.sets[0].Service(), a.Account, "-", status, failed[i].Error())
					return nil
				}
			}
			for _, r := range regions {
				t := scan.Target{Target: a, Region: r}
				if !slices.Contains(found[i], t) {
					found[i] = append(found[i], t)
				}
			}
			return nil
		})
	}
	_ = g.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	all := slices.Concat(found...)
	if len(all) > 0 {
		return all, nil
	}
	for _, err := range failed {
		if err != nil {
			return nil, hint{fmt.Errorf("no account could be entered: %w", err), "--regions names the regions where ec2:DescribeRegions is not allowed."}
		}
	}
	return nil, errors.New("no region is enabled: there is nothing to scan")
}

// enter finds the accounts and how to get in.
func (s *oneShot) enter(ctx context.Context, who aws.Caller) ([]aws.Target, error) {
	own := aws.Target{Account: who.Account, Partition: who.Partition}
	role := func(account string) aws.Target {
		if account == who.Account {
			return own
		}
		return aws.Target{
			Account: account, Partition: who.Partition, ExternalID: s.externalID, SessionName: "nightshift-scan",
			RoleARN: "arn:" + who.Partition + ":iam::" + account + ":role/" + s.roleName,
		}
	}
	var out []aws.Target
	switch {
	case len(s.roles) > 0:
		for _, arn := range s.roles {
			parts := strings.SplitN(arn, ":", 6)
			if len(parts) != 6 || parts[2] != "iam" || !accountNumber.MatchString(parts[4]) || !strings.HasPrefix(parts[5], "role/") {
				return nil, usage("--role-arn %q is not like arn:aws:iam::123456789012:role/NightshiftReadOnly", arn)
			}
			out = append(out, aws.Target{Account: parts[4], Partition: parts[1], RoleARN: arn, ExternalID: s.externalID, SessionName: "nightshift-scan"})
		}
	case s.organization:
		all, err := s.cloud.OrganizationAccounts(ctx)
		if err != nil {
			return nil, hint{err, "--accounts and --role-name scan accounts without asking the organization for them."}
		}
		for _, a := range all {
			if a.State == "ACTIVE" && (len(s.accounts) == 0 || slices.Contains(s.accounts, a.ID)) {
				out = append(out, role(a.ID))
			}
		}
		for _, id := range s.accounts {
			if !slices.ContainsFunc(out, func(t aws.Target) bool { return t.Account == id }) {
				return nil, fmt.Errorf("account %s is not an ACTIVE account of the organization", id)
			}
		}
	case len(s.accounts) > 0:
		for _, id := range s.accounts {
			if id != who.Account && s.roleName == "" {
				return nil, usage("the credentials are of account %s: --role-name says which role to assume in %s", who.Account, id)
			}
			out = append(out, role(id))
		}
	case s.roleName != "":
		return nil, usage("--role-name needs --accounts or --organization: where to assume it")
	default:
		out = append(out, own)
	}
	return out, nil
}

// verdictTree is a verdict as -o json, jsonl and yaml show it. The first
// eleven keys are the contract; keys are only ever added after them.
func verdictTree(o *scanv1.Observation) object {
	v, r := o.GetVerdict(), o.GetResource()
	t := tree(v)
	at := func(name string) any {
		return t[slices.IndexFunc(t, func(m member) bool { return m.name == name })].value
	}
	var monthly any
	if m := v.GetMonthlyCost(); m != nil {
		monthly = object{{"low", rounded(m.GetLow())}, {"high", rounded(m.GetHigh())}, {"basis", m.GetBasis()}}
	}
	all := tree(o)
	return object{
		{"rule_id", o.GetRuleId()},
		{"outcome", at("outcome")},
		{"account", r.GetAccount()},
		{"region", r.GetRegion()},
		{"resource_type", r.GetType()},
		{"resource_id", r.GetId()},
		{"arn", r.GetArn()},
		{"severity", at("severity")},
		{"monthly_cost", monthly},
		{"evidence", at("evidence")},
		{"reason", v.GetReason()},
		{"recommendation", v.GetRecommendation()},
		{"since", at("since")},
		{"decidable_at", at("decidable_at")},
		{"resource_name", r.GetName()},
		{"owner", ownerOf(o)},
		{"rule_version", int64(o.GetRuleVersion())},
		{"parameters", all[slices.IndexFunc(all, func(m member) bool { return m.name == "parameters" })].value},
		{"finding_id", o.GetFindingId()},
		{"observed_at", stamp(o.GetObservedAt())},
		{"exemption", at("exemption")},
	}
}

// ownerOf is who answers for a resource: its Owner tag, or what it names
// otherwise.
func ownerOf(o *scanv1.Observation) string {
	return cmp.Or(o.GetResource().GetTags()["Owner"], o.GetVerdict().GetOwner())
}

// verdictColumns are those of the table and the CSV of a scan.
func verdictColumns(outcomes bool) []column[*scanv1.Observation] {
	resource := func(get func(*scanv1.Resource) string) func(*scanv1.Observation) string {
		return func(o *scanv1.Observation) string { return get(o.GetResource()) }
	}
	outcome := column[*scanv1.Observation]{name: "outcome", text: func(o *scanv1.Observation) string { return name(o.GetVerdict().GetOutcome()) },
		paint: func(o *scanv1.Observation) paint { return outcomePaint(o.GetVerdict().GetOutcome()) }}
	why := column[*scanv1.Observation]{name: "reason", text: func(o *scanv1.Observation) string { return o.GetVerdict().GetReason() }}
	if outcomes {
		outcome.head, why.head, why.flex, why.spare = "Outcome", "Reason", 24, 5
	}
	return []column[*scanv1.Observation]{
		outcome,
		{name: "severity", head: "Severity", csv: func(o *scanv1.Observation) string { return name(o.GetVerdict().GetSeverity()) },
			text: func(o *scanv1.Observation) string {
				if o.GetVerdict().GetExemption() != nil {
					return "EXEMPT"
				}
				return name(o.GetVerdict().GetSeverity())
			},
			paint: func(o *scanv1.Observation) paint {
				if o.GetVerdict().GetExemption() != nil {
					return faint
				}
				return severityPaint(o.GetVerdict().GetSeverity())
			}},
		{name: "monthly_cost_low", number: true, csv: func(o *scanv1.Observation) string { return low(o.GetVerdict().GetMonthlyCost()) }},
		{name: "monthly_cost_high", head: "Monthly", number: true, csv: func(o *scanv1.Observation) string { return high(o.GetVerdict().GetMonthlyCost()) },
			text: func(o *scanv1.Observation) string {
				if o.GetVerdict().GetOutcome() != rulev1.Outcome_OUTCOME_VIOLATION {
					return ""
				}
				return cost(o.GetCategory(), o.GetVerdict().GetMonthlyCost())
			}},
		{name: "rule_id", head: "Rule", text: (*scanv1.Observation).GetRuleId},
		{name: "resource_id", head: "Resource", flex: 21, text: resource((*scanv1.Resource).GetId)},
		{name: "resource_name", head: "Name", flex: 8, spare: 3, text: resource((*scanv1.Resource).GetName)},
		{name: "account", head: "Account", spare: 2, text: resource((*scanv1.Resource).GetAccount)},
		{name: "region", head: "Region", spare: 1, text: resource((*scanv1.Resource).GetRegion)},
		{name: "since", head: "Since", spare: 4, text: func(o *scanv1.Observation) string { return day(o.GetVerdict().GetSince()) },
			csv: func(o *scanv1.Observation) string { return stamp(o.GetVerdict().GetSince()) }},
		{name: "owner", head: "Owner", flex: 8, spare: 4, text: ownerOf},
		{name: "resource_type", text: resource((*scanv1.Resource).GetType)},
		{name: "arn", text: resource((*scanv1.Resource).GetArn)},
		why,
		{name: "recommendation", text: func(o *scanv1.Observation) string { return o.GetVerdict().GetRecommendation() }},
		{name: "rule_version", number: true, text: func(o *scanv1.Observation) string { return strconv.Itoa(int(o.GetRuleVersion())) }},
		{name: "finding_id", text: (*scanv1.Observation).GetFindingId},
		{name: "exempt_by", text: func(o *scanv1.Observation) string { return o.GetVerdict().GetExemption().GetBy() }},
		{name: "exempt_until", csv: func(o *scanv1.Observation) string { return stamp(o.GetVerdict().GetExemption().GetExpireTime()) }},
	}
}

// totals adds up violations by severity. The money of a resource counts once,
// however many rules see it.
type totals struct {
	count   map[rulev1.Severity]int64
	costs   map[string]*rulev1.MonthlyCost // by ARN, the highest
	worst   map[string]rulev1.Severity     // by ARN, of that cost
	unknown map[rulev1.Severity]int64
	all     int64
}

func (t *totals) add(of rulev1.Category, s rulev1.Severity, m *rulev1.MonthlyCost, arn string) {
	if t.count == nil {
		t.count, t.unknown = map[rulev1.Severity]int64{}, map[rulev1.Severity]int64{}
		t.costs, t.worst = map[string]*rulev1.MonthlyCost{}, map[string]rulev1.Severity{}
	}
	t.all++
	t.count[s]++
	if m == nil {
		if of == rulev1.Category_CATEGORY_WASTE {
			t.unknown[s]++
		}
		return
	}
	if have := t.costs[arn]; have == nil || m.GetHigh() > have.GetHigh() {
		t.costs[arn], t.worst[arn] = m, s
	}
}

// sum is the money of one severity, or of all with 0.
func (t *totals) sum(s rulev1.Severity) (low, high float64) {
	for arn, m := range t.costs {
		if s == 0 || t.worst[arn] == s {
			low += m.GetLow()
			high += m.GetHigh()
		}
	}
	return low, high
}

// severities are those there are, the worst first.
func (t *totals) severities() []rulev1.Severity {
	var out []rulev1.Severity
	for s := range t.count {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b rulev1.Severity) int { return cmp.Compare(b, a) })
	return out
}

// sentence is the sum in a line.
func (t *totals) sentence(c *cli) string {
	if t.all == 0 {
		return c.errPaint(green, "nothing found")
	}
	low, high := t.sum(0)
	s := c.errPaint(bold, many(t.all, "finding", "findings"))
	if high > 0 || len(t.unknown) > 0 {
		s += ", " + c.errPaint(bold, dollars(low, high)) + " a month"
	}
	var (
		by      []string
		unknown int64
	)
	for _, n := range t.unknown {
		unknown += n
	}
	if unknown > 0 {
		s += fmt.Sprintf(" and %s of unknown cost", count(unknown))
	}
	for _, v := range t.severities() {
		part := c.errPaint(severityPaint(v), name(v)) + " " + count(t.count[v])
		if low, high := t.sum(v); high > 0 {
			part += " (" + dollars(low, high) + ")"
		}
		by = append(by, part)
	}
	return s + ": " + strings.Join(by, ", ")
}
