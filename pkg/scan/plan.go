package scan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/job"
)

// selection is what a run or a dry run is to look at; what is empty means all.
type selection struct{ accounts, regions, rules []string }

var (
	accountNumber = regexp.MustCompile(`^[0-9]{12}$`)
	regionCode    = regexp.MustCompile(`^[a-z0-9-]{3,32}$`)
)

// Lists reads the parameters of a run, each a list with commas, without
// repetitions. The error, INVALID_ARGUMENT, names each parameter that is not
// one of names, and each of accounts and regions that cannot be one.
func Lists(parameters map[string]string, names ...string) (map[string][]string, error) {
	lists, bad := readLists(parameters, names)
	if len(bad.Violations()) > 0 {
		return nil, bad
	}
	return lists, nil
}

func readLists(parameters map[string]string, names []string) (map[string][]string, *errs.Error) {
	lists := map[string][]string{}
	bad := errs.New(errs.InvalidArgument, "BAD_PARAMETERS", "the run's parameters cannot be used")
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if !slices.Contains(names, name) {
			bad = bad.Field(name, "is not a parameter of this kind of job; there are %s", strings.Join(names, ", "))
			continue
		}
		for v := range strings.SplitSeq(parameters[name], ",") {
			if v = strings.TrimSpace(v); v != "" && !slices.Contains(lists[name], v) {
				lists[name] = append(lists[name], v)
			}
		}
	}
	for _, a := range lists["accounts"] {
		if !accountNumber.MatchString(a) {
			bad = bad.Field("accounts", "%q is not a 12-digit account number", a)
		}
	}
	for _, r := range lists["regions"] {
		if !regionCode.MatchString(r) {
			bad = bad.Field("regions", "%q is not a region code such as eu-west-1", r)
		}
	}
	return lists, bad
}

// parameters reads the parameters of a trigger: accounts, regions and rules.
// The error names each wrong one.
func (w *Worker) parameters(set map[string]string) (selection, error) {
	lists, bad := readLists(set, []string{"accounts", "regions", "rules"})
	if _, err := w.set.pick(lists["rules"]); err != nil {
		if e := (*errs.Error)(nil); errors.As(err, &e) {
			for _, v := range e.Violations() {
				bad = bad.Field(v.Field, "%s", v.Description)
			}
		}
	}
	if len(bad.Violations()) > 0 {
		return selection{}, bad
	}
	return selection{lists["accounts"], lists["regions"], lists["rules"]}, nil
}

// Planner divides runs by the accounts and regions that are looked after.
type Planner struct {
	// Service is the kind of the runs.
	Service string
	// Cloud is asked for the regions of accounts that name none.
	Cloud *aws.Cloud
	// Accounts is asked for the active ones.
	Accounts accountv1.AccountServiceClient
}

// planners is how many accounts are asked for their regions at once.
const planners = 8

// Plan finds the scopes of a run over these accounts and regions; none means
// all: every active account, and the regions it names or has enabled. session
// names what assumes roles. An account that cannot be entered becomes a scope
// that has failed already, and the others go on. The error is one of the
// AccountService; FAILED_PRECONDITION when there is no account; or that no
// account at all could be entered, for a reason that may pass.
func (p *Planner) Plan(ctx context.Context, wanted, regions []string, session string) ([]*runv1.PlannedScope, error) {
	accounts, err := p.activeAccounts(ctx)
	if err != nil {
		return nil, err
	}
	var scopes []*runv1.PlannedScope
	if len(wanted) > 0 {
		accounts = slices.DeleteFunc(accounts, func(a *accountv1.Account) bool { return !slices.Contains(wanted, a.GetId()) })
		for _, id := range wanted {
			if !slices.ContainsFunc(accounts, func(a *accountv1.Account) bool { return a.GetId() == id }) {
				scopes = append(scopes, p.lost(id, scanv1.CoverageStatus_COVERAGE_STATUS_FAILED, "the account is not registered, or not active"))
			}
		}
	}
	if len(accounts) == 0 && len(scopes) == 0 {
		return nil, errs.New(errs.FailedPrecondition, "NO_ACCOUNTS", "there is no active account: register one first")
	}

	found := make([][]*runv1.PlannedScope, len(accounts))
	failed := make([]error, len(accounts))
	var g errgroup.Group
	g.SetLimit(planners)
	for i, a := range accounts {
		g.Go(func() error {
			found[i], failed[i] = p.planAccount(ctx, a, regions, session)
			return nil
		})
	}
	_ = g.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if len(accounts) > 0 && !slices.ContainsFunc(failed, func(err error) bool { return !mayPass(err) }) {
		return nil, &unreachable{failed[0]}
	}
	return slices.Concat(scopes, slices.Concat(found...)), nil
}

// planAccount finds the scopes of one account. With an error there is one scope,
// which has failed.
func (p *Planner) planAccount(ctx context.Context, a *accountv1.Account, regions []string, session string) ([]*runv1.PlannedScope, error) {
	if len(regions) == 0 {
		regions = a.GetRegions()
	}
	if len(regions) == 0 {
		var err error
		if regions, err = p.Cloud.Regions(ctx, target(a, session)); err != nil {
			return []*runv1.PlannedScope{p.lost(a.GetId(), StatusOf(err, 0), errorText(err))}, err
		}
	}
	if len(regions) == 0 {
		return []*runv1.PlannedScope{p.lost(a.GetId(), scanv1.CoverageStatus_COVERAGE_STATUS_FAILED, "the account has no region enabled")}, nil
	}
	scopes := make([]*runv1.PlannedScope, len(regions))
	for n, r := range regions {
		scopes[n] = &runv1.PlannedScope{
			Scope:   &scanv1.Scope{Service: p.Service, Account: a.GetId(), Region: r},
			RoleArn: a.GetRoleArn(), ExternalId: a.GetExternalId(), Partition: a.GetPartition(),
		}
	}
	return scopes, nil
}

// unreachable says that no account could be entered, for a reason that may
// pass.
type unreachable struct{ first error }

func (u *unreachable) Error() string { return "no account could be entered: " + errorText(u.first) }
func (u *unreachable) Unwrap() error { return u.first }

// mayPass tells that trying again can help: against an error of AWS by its
// class, otherwise as against that of any job.
func mayPass(err error) bool {
	switch aws.Classify(err) {
	case aws.Denied, aws.RegionDisabled, aws.Credentials:
		return false
	default:
		return job.MayPass(err)
	}
}

// lost is the scope of an account that failed before its regions were known.
func (p *Planner) lost(account string, status scanv1.CoverageStatus, why string) *runv1.PlannedScope {
	return &runv1.PlannedScope{
		Scope:   &scanv1.Scope{Service: p.Service, Account: account, Region: "-"},
		Failure: &scanv1.Coverage{ResourceType: "*", Status: status, Error: why},
	}
}

func target(a *accountv1.Account, session string) aws.Target {
	return aws.Target{
		Account: a.GetId(), Partition: a.GetPartition(), RoleARN: a.GetRoleArn(), ExternalID: a.GetExternalId(), SessionName: session,
	}
}

// activeAccounts reads all pages.
func (p *Planner) activeAccounts(ctx context.Context) ([]*accountv1.Account, error) {
	var all []*accountv1.Account
	req := &accountv1.ListAccountsRequest{PageSize: 1000, Filter: `state = "ACTIVE"`}
	for {
		page, err := p.Accounts.ListAccounts(ctx, req)
		if err != nil {
			return nil, job.Await(fmt.Errorf("list accounts: %w", err))
		}
		all = append(all, page.GetAccounts()...)
		if page.GetNextPageToken() == "" {
			return all, nil
		}
		req.PageToken = page.GetNextPageToken()
	}
}
