package health

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	"nightshift.dev/pkg/access"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/errs"
	pages "nightshift.dev/pkg/page"
)

const (
	// verifyTimeout is how long the checks of one account may take; what is not
	// answered by then is UNKNOWN.
	verifyTimeout = time.Minute
	// verifyReserve is what is kept of a call's deadline for telling what was
	// found.
	verifyReserve = 3 * time.Second
	// verifiers is how many checks of one account are made at once.
	verifiers = 8
)

// The statuses, which are spoken of often.
const (
	checkOK      = accountv1.CheckStatus_CHECK_STATUS_OK
	checkDenied  = accountv1.CheckStatus_CHECK_STATUS_DENIED
	checkWrong   = accountv1.CheckStatus_CHECK_STATUS_WRONG
	checkUnknown = accountv1.CheckStatus_CHECK_STATUS_UNKNOWN
	checkSkipped = accountv1.CheckStatus_CHECK_STATUS_SKIPPED
)

// verifier is the gRPC server of VerificationService: it tries what an account
// allows, and keeps nothing.
type verifier struct {
	accountv1.UnimplementedVerificationServiceServer

	cloud       *aws.Cloud
	onboardings accountv1.OnboardingServiceClient
	now         func() time.Time
}

// newVerifier returns the server; persistence is the connection to that
// service.
func newVerifier(cloud *aws.Cloud, persistence grpc.ClientConnInterface, now func() time.Time) *verifier {
	return &verifier{cloud: cloud, onboardings: accountv1.NewOnboardingServiceClient(persistence), now: now}
}

// Register adds the API.
func (v *verifier) Register(r grpc.ServiceRegistrar) {
	accountv1.RegisterVerificationServiceServer(r, v)
}

// VerifyAccount implements VerificationService.
func (v *verifier) VerifyAccount(ctx context.Context, req *accountv1.VerifyAccountRequest) (*accountv1.VerifyAccountResponse, error) {
	start, err := v.onboardings.StartVerification(ctx, &accountv1.StartVerificationRequest{Account: req.GetId()})
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(verifyTimeout)
	if d, ok := ctx.Deadline(); ok && d.Add(-verifyReserve).Before(deadline) {
		deadline = d.Add(-verifyReserve)
	}
	look, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	found := v.verify(look, start.GetAccount())

	// Also when whoever asked has gone: the onboarding would stay VERIFYING.
	tell, cancel := context.WithTimeout(context.WithoutCancel(ctx), verifyReserve)
	defer cancel()
	done, err := v.onboardings.FinishVerification(tell, &accountv1.FinishVerificationRequest{
		Verification: found, Attempt: start.GetAttempt(), Etag: start.GetAccount().GetEtag(),
	})
	if err != nil {
		return nil, err
	}
	return &accountv1.VerifyAccountResponse{Verification: found, Onboarding: done.GetOnboarding()}, nil
}

// attempt is one verification of one account.
type attempt struct {
	cloud   *aws.Cloud
	account *accountv1.Account
	target  aws.Target
	checks  []*accountv1.Check
	caller  string
}

// verify tries everything that a scan of the account needs.
func (v *verifier) verify(ctx context.Context, a *accountv1.Account) *accountv1.Verification {
	start := v.now()
	t := &attempt{cloud: v.cloud, account: a, target: aws.Target{
		Account: a.GetId(), Partition: a.GetPartition(), RoleARN: a.GetRoleArn(), ExternalID: a.GetExternalId(),
		// Of its own, so that nothing is taken from what was assumed before.
		SessionName: "verify-" + strings.ToLower(rand.Text()),
	}}
	t.run(ctx)
	return v.sum(t, start)
}

// sum is what an attempt found.
func (v *verifier) sum(t *attempt, start time.Time) *accountv1.Verification {
	return &accountv1.Verification{
		Account: t.account.GetId(), Outcome: outcomeOf(t.checks), Checks: t.checks, CallerArn: t.caller,
		StartTime: timestamppb.New(start), EndTime: timestamppb.New(v.now()),
	}
}

// outcomeOf sums up checks as VerificationOutcome says.
func outcomeOf(checks []*accountv1.Check) accountv1.VerificationOutcome {
	out := accountv1.VerificationOutcome_VERIFICATION_OUTCOME_PASSED
	for _, c := range checks {
		switch c.GetStatus() {
		case checkDenied, checkWrong:
			return accountv1.VerificationOutcome_VERIFICATION_OUTCOME_FAILED
		case checkUnknown:
			out = accountv1.VerificationOutcome_VERIFICATION_OUTCOME_UNKNOWN
		}
	}
	return out
}

func (t *attempt) run(ctx context.Context) {
	home := t.home()
	if !t.enter(ctx) {
		t.skip("the role cannot be assumed")
		return
	}
	session, err := t.cloud.Session(ctx, t.target, home)
	if err != nil {
		t.add(answer(accountv1.CheckKind_CHECK_KIND_IDENTITY, t.account.GetId(), err))
		t.skip("there are no credentials of the account")
		return
	}
	who, err := session.Identity(ctx)
	c := answer(accountv1.CheckKind_CHECK_KIND_IDENTITY, t.account.GetId(), err)
	if err == nil {
		t.caller = bounded(who.ARN, 2048)
		if who.Account != t.account.GetId() {
			c.Status, c.Detail = checkWrong, fmt.Sprintf("The credentials are of account %s, and the account registered is %s.", who.Account, t.account.GetId())
		}
	}
	if t.add(c); c.Status == checkWrong {
		t.skip("the credentials are not of the account")
		return
	}
	allowed := t.permissions(ctx, session)
	t.regions(ctx, session, allowed)
}

// home is the region in which permissions are tried: one that is scanned.
func (t *attempt) home() string {
	if r := t.account.GetRegions(); len(r) > 0 && !slices.Contains(r, t.cloud.Home()) {
		return r[0]
	}
	return t.cloud.Home()
}

func (t *attempt) add(c *accountv1.Check) { t.checks = append(t.checks, c) }

// enter tries the role, with its external id and without. It returns false
// when nothing further can be tried.
func (t *attempt) enter(ctx context.Context) bool {
	const (
		assume     = accountv1.CheckKind_CHECK_KIND_ASSUME_ROLE
		externalID = accountv1.CheckKind_CHECK_KIND_EXTERNAL_ID
	)
	role := t.account.GetRoleArn()
	if role == "" {
		t.add(&accountv1.Check{Kind: assume, Subject: t.account.GetId(), Status: checkSkipped, Detail: "No role is registered: Nightshift's own credentials are used."})
		return true
	}
	err := t.cloud.TryRole(ctx, t.target)
	c := answer(assume, role, err)
	if c.Status == checkDenied {
		c.Detail += ". The role does not exist, does not trust Nightshift or demands another external id, or Nightshift itself may not assume it: AWS does not say which."
	}
	t.add(c)
	if err != nil {
		t.add(&accountv1.Check{Kind: externalID, Subject: role, Status: checkSkipped, Detail: "The role cannot be assumed at all."})
		return false
	}
	if t.account.GetExternalId() == "" {
		t.add(&accountv1.Check{Kind: externalID, Subject: role, Status: checkWrong,
			Detail: "The role demands no external id, and none is registered: make the role demand one, and register it."})
		return true
	}
	// Both are refused, or whoever knows the role's name gets in through Nightshift.
	for _, other := range []struct{ id, says string }{
		{"", "The role can be assumed without its external id: its trust policy must demand it with a condition StringEquals on sts:ExternalId."},
		{"ns-" + strings.ToLower(rand.Text()), "The role can be assumed with any external id: the condition of its trust policy must be StringEquals with the registered one."},
	} {
		target := t.target
		target.ExternalID = other.id
		err := t.cloud.TryRole(ctx, target)
		switch {
		case err == nil:
			t.add(&accountv1.Check{Kind: externalID, Subject: role, Status: checkWrong, Detail: other.says})
			return true // of the two, the one that says more
		case aws.Classify(err) != aws.Denied:
			t.add(&accountv1.Check{Kind: externalID, Subject: role, Status: checkUnknown, Detail: detail(err)})
			return true
		}
	}
	t.add(&accountv1.Check{Kind: externalID, Subject: role, Status: checkOK})
	return true
}

// skip says of what is left that it was not tried.
func (t *attempt) skip(why string) {
	if !slices.ContainsFunc(t.checks, func(c *accountv1.Check) bool { return c.GetKind() == accountv1.CheckKind_CHECK_KIND_IDENTITY }) {
		t.add(&accountv1.Check{Kind: accountv1.CheckKind_CHECK_KIND_IDENTITY, Subject: t.account.GetId(), Status: checkSkipped, Detail: "Not tried: " + why + "."})
	}
	for _, a := range access.Actions() {
		t.add(&accountv1.Check{Kind: accountv1.CheckKind_CHECK_KIND_PERMISSION, Subject: a, Status: checkSkipped, Detail: "Not tried: " + why + "."})
	}
	for _, r := range t.account.GetRegions() {
		t.add(&accountv1.Check{Kind: accountv1.CheckKind_CHECK_KIND_REGION, Subject: r, Status: checkSkipped, Detail: "Not tried: " + why + "."})
	}
}

// permissions tries every action of the policy, and returns one of EC2 that is
// allowed, or "".
func (t *attempt) permissions(ctx context.Context, s *aws.Session) (allowed string) {
	actions := access.Actions()
	checks := make([]*accountv1.Check, len(actions))
	each(len(actions), func(i int) {
		checks[i] = answer(accountv1.CheckKind_CHECK_KIND_PERMISSION, actions[i], s.Probe(ctx, actions[i]))
	})
	for i, c := range checks {
		t.add(c)
		if allowed == "" && c.Status == checkOK && strings.HasPrefix(actions[i], "ec2:") && actions[i] != "ec2:DescribeRegions" {
			allowed = actions[i]
		}
	}
	return allowed
}

// regions tries each region that is going to be scanned, with an action that is
// allowed in one of them: some organizations close regions by policy.
func (t *attempt) regions(ctx context.Context, s *aws.Session, allowed string) {
	const kind = accountv1.CheckKind_CHECK_KIND_REGION
	enabled, err := s.EnabledRegions(ctx)
	scanned := t.account.GetRegions()
	if len(scanned) == 0 {
		scanned = enabled
	}
	if err == nil && len(scanned) == 0 {
		t.add(&accountv1.Check{Kind: kind, Subject: "*", Status: checkWrong, Detail: "The account has no region enabled."})
		return
	}
	if err != nil && len(scanned) == 0 {
		t.add(answer(kind, "*", err))
		return
	}
	checks := make([]*accountv1.Check, len(scanned))
	each(len(scanned), func(i int) {
		r := scanned[i]
		c := &accountv1.Check{Kind: kind, Subject: r, Status: checkOK}
		switch {
		case err == nil && !slices.Contains(enabled, r):
			c.Status, c.Detail = checkWrong, fmt.Sprintf("Region %s is not enabled in the account: enable it, or take it out of the account's regions.", r)
		case allowed == "":
			c.Status, c.Detail = checkSkipped, "Not tried: no action is allowed to try it with."
		case r == s.Region: // that it is allowed, is known from here
		default:
			there, err := t.cloud.Session(ctx, t.target, r)
			if err == nil {
				err = there.Probe(ctx, allowed)
			}
			c = answer(kind, r, err)
			if c.Status == checkDenied {
				c.Detail = fmt.Sprintf("In region %s: %s. It is allowed in %s: a policy of the organization may close the region.", r, c.Detail, s.Region)
			}
		}
		checks[i] = c
	})
	for _, c := range checks {
		t.add(c)
	}
}

// each calls f for 0 to n-1, some at a time.
func each(n int, f func(i int)) {
	var g errgroup.Group
	g.SetLimit(verifiers)
	for i := range n {
		g.Go(func() error { f(i); return nil })
	}
	_ = g.Wait()
}

// answer is the check that an error of pkg/aws stands for.
func answer(kind accountv1.CheckKind, subject string, err error) *accountv1.Check {
	c := &accountv1.Check{Kind: kind, Subject: subject, Status: checkOK}
	if err == nil {
		return c
	}
	c.Status, c.Detail = checkUnknown, detail(err)
	switch aws.Classify(err) {
	case aws.Denied:
		c.Status = checkDenied
		if e := (*aws.Error)(nil); errors.As(err, &e) {
			c.Missing = bounded(e.Missing, 200)
		}
	case aws.Credentials, aws.RegionDisabled:
		c.Status = checkWrong
	}
	return c
}

// detail is what an error says; those of pkg/aws hold no secret.
func detail(err error) string { return bounded(err.Error(), 1500) }

// bounded cuts a text to so many characters.
func bounded(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// GetIdentity implements VerificationService.
func (v *verifier) GetIdentity(ctx context.Context, _ *accountv1.GetIdentityRequest) (*accountv1.GetIdentityResponse, error) {
	who, err := v.cloud.Caller(ctx)
	if err != nil {
		return nil, refusal(err, "who Nightshift is to AWS cannot be said")
	}
	return &accountv1.GetIdentityResponse{Account: who.Account, Partition: who.Partition, Arn: who.ARN, TrustedPrincipal: who.Principal()}, nil
}

// ListOrganizationAccounts implements VerificationService.
func (v *verifier) ListOrganizationAccounts(ctx context.Context, req *accountv1.ListOrganizationAccountsRequest) (*accountv1.ListOrganizationAccountsResponse, error) {
	if _, err := access.RoleARN("aws", "123456789012", req.GetRoleName()); err != nil {
		return nil, errs.New(errs.InvalidArgument, "BAD_ROLE", "the accounts cannot be listed").Field("role_name", "%s", err)
	}
	token := ""
	if _, err := pages.Parse(req.GetPageToken(), &token, "organization"); err != nil {
		return nil, err
	}
	who, err := v.cloud.Caller(ctx)
	if err != nil {
		return nil, refusal(err, "the organization cannot be asked")
	}
	list, next, err := v.cloud.OrganizationPage(ctx, req.GetPageSize(), token)
	if err != nil {
		if e := (*aws.Error)(nil); token != "" && errors.As(err, &e) && e.Code == "InvalidInputException" {
			return nil, errs.New(errs.InvalidArgument, "BAD_PAGE_TOKEN", "the page cannot be found").
				Field("page_token", "is not known to AWS any more; begin with the first page again").Wrap(err)
		}
		return nil, refusal(err, "the accounts of the organization cannot be listed")
	}
	resp := &accountv1.ListOrganizationAccountsResponse{}
	if next != "" {
		resp.NextPageToken = pages.Token(next, "organization")
	}
	for _, a := range list {
		resp.Accounts = append(resp.Accounts, organizationAccount(a, who.Partition, req.GetRoleName()))
	}
	return resp, nil
}

func organizationAccount(a aws.OrganizationAccount, partition, roleName string) *accountv1.OrganizationAccount {
	out := &accountv1.OrganizationAccount{
		Id: a.ID, Partition: partition, Name: plain(a.Name),
		State: accountv1.OrganizationAccountState(accountv1.OrganizationAccountState_value["ORGANIZATION_ACCOUNT_STATE_"+a.State]),
	}
	if !a.Joined.IsZero() {
		out.JoinTime = timestamppb.New(a.Joined)
	}
	var err error
	if out.RoleArn, err = access.RoleARN(partition, a.ID, roleName); err != nil {
		out.Excluded = "its role cannot be named: " + err.Error()
		return out
	}
	switch out.State {
	case accountv1.OrganizationAccountState_ORGANIZATION_ACCOUNT_STATE_ACTIVE:
	case accountv1.OrganizationAccountState_ORGANIZATION_ACCOUNT_STATE_SUSPENDED:
		out.Excluded = "suspended in the organization"
	case accountv1.OrganizationAccountState_ORGANIZATION_ACCOUNT_STATE_PENDING_CLOSURE:
		out.Excluded = "being closed"
	case accountv1.OrganizationAccountState_ORGANIZATION_ACCOUNT_STATE_CLOSED:
		out.Excluded = "closed"
	case accountv1.OrganizationAccountState_ORGANIZATION_ACCOUNT_STATE_PENDING_ACTIVATION:
		out.Excluded = "not activated yet"
	default:
		out.Excluded = "in a state that this version does not know"
	}
	return out
}

// plain is a foreign name as an account may be called.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return bounded(strings.TrimSpace(s), 200)
}

// refusal is an error of pkg/aws as one of ours.
func refusal(err error, what string) error {
	switch aws.Classify(err) {
	case aws.Throttled, aws.Unreachable, aws.Failed:
		return errs.New(errs.Unavailable, "AWS_UNAVAILABLE", "%s: %s", what, detail(err)).RetryAfter(5 * time.Second).Wrap(err)
	case aws.Canceled:
		return errs.New(errs.DeadlineExceeded, "AWS_TOO_SLOW", "%s: %s", what, detail(err)).Wrap(err)
	default:
		return errs.New(errs.FailedPrecondition, "AWS_REFUSED", "%s: %s", what, detail(err)).Wrap(err)
	}
}
