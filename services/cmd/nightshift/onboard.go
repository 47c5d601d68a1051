package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	"nightshift.dev/pkg/access"
	"nightshift.dev/pkg/errs"
)

const (
	// verifyDeadline is what one verification is given: a little more than the
	// service gives its checks.
	verifyDeadline = 75 * time.Second
	// verifyEvery is how often --wait tries again.
	verifyEvery = 10 * time.Second
	// verifyAtOnce is how many accounts are verified at once.
	verifyAtOnce = 4
)

func (c *cli) onboardings() (accountv1.OnboardingServiceClient, error) {
	conn, err := c.dial("persistence")
	if err != nil {
		return nil, err
	}
	return accountv1.NewOnboardingServiceClient(conn), nil
}

func (c *cli) verifications() (accountv1.VerificationServiceClient, error) {
	conn, err := c.dial("health")
	if err != nil {
		return nil, err
	}
	return accountv1.NewVerificationServiceClient(conn), nil
}

var onboardingColumns = []column[*accountv1.Onboarding]{
	{name: "id", head: "ID", spare: 1, text: (*accountv1.Onboarding).GetId},
	{name: "account", head: "Account", text: func(o *accountv1.Onboarding) string { return o.GetAccount().GetId() }},
	{name: "name", head: "Name", flex: 10, text: func(o *accountv1.Onboarding) string { return o.GetAccount().GetName() }},
	{name: "state", head: "State", text: func(o *accountv1.Onboarding) string { return name(o.GetState()) }, paint: onboardingPaint},
	{name: "source", text: func(o *accountv1.Onboarding) string { return name(o.GetSource()) }},
	{name: "attempts", head: "Attempts", number: true, spare: 2, text: func(o *accountv1.Onboarding) string { return strconv.Itoa(int(o.GetAttempts())) }},
	{name: "create_time", head: "Asked for", spare: 3, csv: func(o *accountv1.Onboarding) string { return stamp(o.GetCreateTime()) }, text: func(o *accountv1.Onboarding) string { return when(o.GetCreateTime()) }},
	{name: "update_time", head: "Changed", csv: func(o *accountv1.Onboarding) string { return stamp(o.GetUpdateTime()) }, text: func(o *accountv1.Onboarding) string { return when(o.GetUpdateTime()) }},
	{name: "error", head: "Why", flex: 20, text: (*accountv1.Onboarding).GetError},
	{name: "role_arn", text: func(o *accountv1.Onboarding) string { return o.GetAccount().GetRoleArn() }},
}

var onboardingStepColumns = []column[*accountv1.OnboardingStep]{
	{head: "When", text: func(s *accountv1.OnboardingStep) string { return when(s.GetTime()) }},
	{head: "State", text: func(s *accountv1.OnboardingStep) string { return name(s.GetState()) }},
	{head: "Attempt", number: true, text: func(s *accountv1.OnboardingStep) string { return strconv.Itoa(int(s.GetAttempt())) }},
	{head: "Why", flex: 20, text: (*accountv1.OnboardingStep).GetError},
}

func onboardingPaint(o *accountv1.Onboarding) paint {
	switch o.GetState() {
	case accountv1.OnboardingState_ONBOARDING_STATE_COMPLETED:
		return green
	case accountv1.OnboardingState_ONBOARDING_STATE_FAILED:
		return red
	}
	return yellow
}

func onboardingTree(o *accountv1.Onboarding) object { return tree(o) }

func (c *cli) printOnboarding(o *accountv1.Onboarding) error {
	return printOne(c, o, onboardingTree, onboardingColumns, func() {
		c.card("Onboarding of account "+o.GetAccount().GetId(),
			fact{name: "name", text: o.GetAccount().GetName()},
			fact{name: "state", text: name(o.GetState()), paint: onboardingPaint(o)},
			fact{name: "why", text: o.GetError()},
			fact{name: "role", text: o.GetAccount().GetRoleArn()},
			fact{name: "external id", text: o.GetAccount().GetExternalId()},
			fact{name: "asked for", text: when(o.GetCreateTime())},
			fact{name: "changed", text: when(o.GetUpdateTime())},
			fact{name: "id", text: o.GetId()},
		)
		if len(o.GetSteps()) > 1 {
			c.print("\n%s\n%s\n", c.outPaint(bold, "Steps"), renderTable(c, onboardingStepColumns, o.GetSteps()))
		}
		if s := o.GetState(); s != accountv1.OnboardingState_ONBOARDING_STATE_COMPLETED && s != accountv1.OnboardingState_ONBOARDING_STATE_CANCELLED {
			c.print("%s", c.instructions(o))
		}
	})
}

// trustUnknown stands for Nightshift's identity where nobody could say it.
const trustUnknown = "ARN_OF_NIGHTSHIFT"

// instructions say how to make the role. What stands in them is of letters,
// digits and +=,.@:/_- alone, as the API holds it, and needs no quotes.
func (c *cli) instructions(o *accountv1.Onboarding) string {
	p := o.GetTemplateParameters()
	if len(p) == 0 {
		return "\nHow to make the role only admins are shown: the external id belongs to it.\n"
	}
	trusted := p[access.TrustedPrincipal]
	if trusted == "" {
		trusted = trustUnknown
	}
	path := func(format string) string {
		if p[access.RolePath] == "/" {
			return ""
		}
		return fmt.Sprintf(format, p[access.RolePath])
	}
	return cleanLines(fmt.Sprintf(`
Make the role in account %[1]s, as its administrator, with CloudFormation

  nightshift accounts template cloudformation > nightshift-readonly.yaml
  aws cloudformation deploy --template-file nightshift-readonly.yaml --stack-name nightshift-readonly --capabilities CAPABILITY_NAMED_IAM --parameter-overrides TrustedPrincipal=%[2]s ExternalId=%[3]s RoleName=%[4]s%[5]s

or with Terraform, after "mkdir -p nightshift-readonly && nightshift accounts template terraform > nightshift-readonly/main.tf"

  module "nightshift" {
    source            = "./nightshift-readonly"
    trusted_principal = "%[2]s"
    external_id       = "%[3]s"
    role_name         = "%[4]s"
%[6]s  }

and then

  nightshift accounts verify %[1]s
`, o.GetAccount().GetId(), trusted, p[access.ExternalID], p[access.RoleName], path(" RolePath=%s"), path("    role_path         = \"%s\"\n")))
}

// cleanLines makes a text of several lines harmless.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

func (c *cli) accountsOnboard() *cobra.Command {
	var (
		f                 accountFlags
		roleName, trusted string
		wait              bool
	)
	cmd := &cobra.Command{
		Use: "onboard ACCOUNT", Short: "Register an account, and say how to make its read-only role", Args: exactly(1, "the 12-digit number of the account"),
		Long: `Registers the account as PENDING, chooses an external id that nobody can guess, and says how to make the role. Once
"nightshift accounts verify" passes, the account is ACTIVE and runs look at it. Asking again shows the same.`,
		Example: `  nightshift accounts onboard 123456789012 --name production --owner platform@example.com
  nightshift accounts onboard 123456789012 --role-name audit/NightshiftReadOnly --wait --timeout 30m`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a := &accountv1.Account{Id: args[0]}
			if _, err := f.fill(cmd, a); err != nil {
				return err
			}
			api, err := c.onboardings()
			if err != nil {
				return err
			}
			if trusted == "" {
				trusted = c.trustedPrincipal(cmd.Context())
			}
			r, err := api.CreateOnboarding(cmd.Context(), &accountv1.CreateOnboardingRequest{Account: a, RoleName: roleName, TrustedPrincipal: trusted})
			if err != nil {
				return withHint(err, errs.AlreadyExists, "\"nightshift accounts verify "+args[0]+"\" tries its role, \"nightshift accounts update\" changes it.")
			}
			if wait && r.GetOnboarding().GetState() != accountv1.OnboardingState_ONBOARDING_STATE_COMPLETED {
				if c.output == formatTable {
					if err := c.printOnboarding(r.GetOnboarding()); err != nil {
						return err
					}
				}
				return c.waitVerified(cmd.Context(), args[0])
			}
			return c.printOnboarding(r.GetOnboarding())
		},
	}
	f.add(cmd)
	_ = cmd.Flags().MarkHidden("state")
	cmd.Flags().StringVar(&roleName, "role-name", "", "name of the role to be made, such as audit/NightshiftReadOnly (default \""+access.DefaultRole+"\")")
	cmd.Flags().StringVar(&trusted, "trusted-principal", "", "who the role is to trust (default: who Nightshift is to AWS)")
	cmd.Flags().BoolVar(&wait, "wait", false, "verify until it passes; --timeout ends it")
	return cmd
}

// trustedPrincipal is who Nightshift is to AWS; "" with a word on stderr when
// nobody can say.
func (c *cli) trustedPrincipal(ctx context.Context) string {
	api, err := c.verifications()
	if err == nil {
		var r *accountv1.GetIdentityResponse
		if r, err = api.GetIdentity(ctx, &accountv1.GetIdentityRequest{}); err == nil {
			return r.GetTrustedPrincipal()
		}
	}
	c.say("who Nightshift is to AWS cannot be said, put it in for %s: %s", trustUnknown, clean(err.Error()))
	return ""
}

// verifyOnce verifies one account.
func verifyOnce(ctx context.Context, api accountv1.VerificationServiceClient, id string) (*accountv1.Verification, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyDeadline)
	defer cancel()
	r, err := api.VerifyAccount(ctx, &accountv1.VerifyAccountRequest{Id: id})
	return r.GetVerification(), err
}

// waitVerified verifies until it passes, and says what is missing when that
// changes.
func (c *cli) waitVerified(ctx context.Context, id string) error {
	api, err := c.verifications()
	if err != nil {
		return err
	}
	said := ""
	say := func(text string) {
		if text != said {
			c.say("not yet: %s", clean(text))
			said = text
		}
	}
	for {
		v, err := verifyOnce(ctx, api, id)
		switch {
		case err == nil && passed(v):
			return c.printVerifications([]*accountv1.Verification{v}, 0)
		case err == nil:
			say(wrongWith(v))
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errs.Unavailable), errors.Is(err, errs.Aborted), errors.Is(err, errs.DeadlineExceeded):
			say(err.Error())
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(verifyEvery):
		}
	}
}

func passed(v *accountv1.Verification) bool {
	return v.GetOutcome() == accountv1.VerificationOutcome_VERIFICATION_OUTCOME_PASSED
}

// wrongWith says in short what does not pass.
func wrongWith(v *accountv1.Verification) string {
	var missing, other []string
	for _, k := range v.GetChecks() {
		switch k.GetStatus() {
		case accountv1.CheckStatus_CHECK_STATUS_OK, accountv1.CheckStatus_CHECK_STATUS_SKIPPED:
		case accountv1.CheckStatus_CHECK_STATUS_DENIED:
			if m := k.GetMissing(); k.GetKind() == accountv1.CheckKind_CHECK_KIND_PERMISSION && m != "" {
				missing = append(missing, m)
				continue
			}
			fallthrough
		default:
			other = append(other, strings.TrimSuffix(k.GetDetail(), "."))
		}
	}
	if len(missing) > 0 {
		other = slices.Insert(other, 0, "missing "+strings.Join(missing, ", "))
	}
	return strings.Join(other, "; ")
}

// checkRow is a line of a verification.
type checkRow struct {
	account string
	*accountv1.Check
}

var permissionColumns = []column[checkRow]{
	{head: "Account", spare: 2, text: func(r checkRow) string { return r.account }},
	{head: "Check", text: func(r checkRow) string { return name(r.GetKind()) }},
	{head: "Of", flex: 20, text: func(r checkRow) string { return r.GetSubject() }},
	{head: "Status", text: func(r checkRow) string { return name(r.GetStatus()) }, paint: func(r checkRow) paint {
		switch r.GetStatus() {
		case accountv1.CheckStatus_CHECK_STATUS_OK:
			return green
		case accountv1.CheckStatus_CHECK_STATUS_DENIED, accountv1.CheckStatus_CHECK_STATUS_WRONG:
			return red
		}
		return yellow
	}},
	{head: "Missing", text: func(r checkRow) string { return r.GetMissing() }},
	{head: "What", flex: 30, text: func(r checkRow) string { return r.GetDetail() }},
}

var verificationColumns = []column[*accountv1.Verification]{
	{name: "account", text: (*accountv1.Verification).GetAccount},
	{name: "outcome", text: func(v *accountv1.Verification) string { return name(v.GetOutcome()) }},
	{name: "wrong", text: wrongWith},
	{name: "caller_arn", text: (*accountv1.Verification).GetCallerArn},
	{name: "end_time", text: func(v *accountv1.Verification) string { return stamp(v.GetEndTime()) }},
}

// tried leaves of checks that were not tried one line that says how many: when
// the role cannot be assumed they would hide the one that says why.
func tried(checks []*accountv1.Check) []*accountv1.Check {
	var out []*accountv1.Check
	var skipped *accountv1.Check
	n := 0
	for _, k := range checks {
		if k.GetStatus() != accountv1.CheckStatus_CHECK_STATUS_SKIPPED {
			out = append(out, k)
			continue
		}
		skipped = k
		n++
	}
	if n > 1 {
		skipped = &accountv1.Check{Status: skipped.GetStatus(), Subject: many(int64(n), "check", "checks"), Detail: skipped.GetDetail()}
	}
	if n > 0 {
		out = append(out, skipped)
	}
	return out
}

// printVerifications shows what was found, check by check on a table, and ends
// with 1 when any is wrong, or lost by an error, and with 6 when AWS did not
// say.
func (c *cli) printVerifications(all []*accountv1.Verification, lost int) error {
	if c.output == formatTable {
		p := newPrinter(c, func(checkRow) object { return nil }, permissionColumns)
		for _, v := range all {
			for _, k := range tried(v.GetChecks()) {
				if err := p.add(checkRow{v.GetAccount(), k}); err != nil {
					return err
				}
			}
		}
		if err := p.close(); err != nil {
			return err
		}
	} else {
		p := newPrinter(c, func(v *accountv1.Verification) object { return tree(v) }, verificationColumns)
		for _, v := range all {
			if err := p.add(v); err != nil {
				return err
			}
		}
		if err := p.close(); err != nil {
			return err
		}
	}
	wrong, unknown, total, why := lost, 0, len(all)+lost, ""
	for _, v := range all {
		switch v.GetOutcome() {
		case accountv1.VerificationOutcome_VERIFICATION_OUTCOME_PASSED:
		case accountv1.VerificationOutcome_VERIFICATION_OUTCOME_UNKNOWN:
			unknown++
		default:
			wrong++
			why = ": " + wrongWith(v)
		}
	}
	switch {
	case wrong == 1: // in full, which the table has no room for
		return &exit{exitError, fmt.Sprintf("1 account of %d cannot be scanned as it should%s", total, why)}
	case wrong > 1:
		return &exit{exitError, fmt.Sprintf("%s of %d cannot be scanned as they should", many(int64(wrong), "account", "accounts"), total)}
	case unknown > 0:
		return &exit{exitPartial, fmt.Sprintf("AWS did not say everything of %s of %d: try again", many(int64(unknown), "account", "accounts"), total)}
	}
	if total > 0 {
		c.say("%s can be scanned", many(int64(total), "account", "accounts"))
	}
	return nil
}

// verifyAll verifies accounts, some at once. found and failed have one for each,
// of which one is nil; err says that nobody can be asked.
func (c *cli) verifyAll(ctx context.Context, ids []string) (found []*accountv1.Verification, failed []error, err error) {
	api, err := c.verifications()
	if err != nil {
		return nil, nil, err
	}
	found, failed = make([]*accountv1.Verification, len(ids)), make([]error, len(ids))
	var g errgroup.Group
	g.SetLimit(verifyAtOnce)
	for i, id := range ids {
		g.Go(func() error {
			found[i], failed[i] = verifyOnce(ctx, api, id)
			return nil
		})
	}
	_ = g.Wait()
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	return found, failed, nil
}

func (c *cli) accountsVerify() *cobra.Command {
	var pending bool
	cmd := &cobra.Command{
		Use: "verify ACCOUNT...", Short: "Try role, external id, permissions and regions of accounts",
		Long: `Tries, and changes nothing: that the role can be assumed with its external id and not without, that it is one of the account,
that every action of the read-only policy is allowed (by dry runs), and that the regions are enabled. What is missing is named. An
onboarding that is under way is completed by it.`,
		Example:           "  nightshift accounts verify 123456789012\n  nightshift accounts verify --pending -o jsonl",
		ValidArgsFunction: c.completing(c.accountIDs),
		RunE: func(cmd *cobra.Command, ids []string) error {
			if (len(ids) > 0) == pending {
				return usage("name accounts, or give --pending for all whose onboarding is under way")
			}
			if pending {
				var err error
				if ids, err = c.pendingAccounts(cmd.Context()); err != nil {
					return err
				}
				if len(ids) == 0 {
					c.say("no onboarding is under way")
				}
			}
			found, failed, err := c.verifyAll(cmd.Context(), ids)
			if err != nil {
				return err
			}
			if len(ids) == 1 && failed[0] != nil {
				return withHint(failed[0], errs.NotFound, noSuchAccount)
			}
			lost := 0
			for i, err := range failed {
				if err != nil {
					c.sayError(ids[i] + ": " + err.Error())
					lost++
				}
			}
			return c.printVerifications(slices.DeleteFunc(found, func(v *accountv1.Verification) bool { return v == nil }), lost)
		},
	}
	cmd.Flags().BoolVar(&pending, "pending", false, "all accounts whose onboarding is under way")
	return cmd
}

// pendingAccounts are those whose onboarding is under way.
func (c *cli) pendingAccounts(ctx context.Context) (ids []string, err error) {
	api, err := c.onboardings()
	if err != nil {
		return nil, err
	}
	req := &accountv1.ListOnboardingsRequest{PageSize: 1000, Filter: `state = "PENDING" OR state = "VERIFYING" OR state = "FAILED"`}
	for {
		r, err := api.ListOnboardings(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, o := range r.GetOnboardings() {
			ids = append(ids, o.GetAccount().GetId())
		}
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			return ids, nil
		}
	}
}

func (c *cli) accountsOnboardings() *cobra.Command {
	var (
		filter, state string
		l             limit
	)
	cmd := &cobra.Command{
		Use: "onboardings [ID]", Short: "List the onboardings, the newest first; or show one with its steps", Args: cobra.MaximumNArgs(1),
		Example: `  nightshift accounts onboardings --state failed
  nightshift accounts onboardings --filter 'account = "123456789012"' -o yaml
  nightshift accounts onboardings 5f0c2b7e91aa4d30`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if state != "" {
				if !slices.Contains(enumNames(accountv1.OnboardingState(0)), strings.ToUpper(state)) {
					return usage("--state %q is not one of %s", state, strings.ToLower(strings.Join(enumNames(accountv1.OnboardingState(0)), ", ")))
				}
				one := fmt.Sprintf("state = %q", strings.ToUpper(state))
				if filter != "" {
					one += " AND (" + filter + ")"
				}
				filter = one
			}
			api, err := c.onboardings()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if filter != "" {
					return usage("name an onboarding, or say which to list, and not both")
				}
				r, err := api.GetOnboarding(cmd.Context(), &accountv1.GetOnboardingRequest{Id: args[0]})
				if err != nil {
					return withHint(err, errs.NotFound, "\"nightshift accounts onboardings\" shows the ids there are.")
				}
				return c.printOnboarding(r.GetOnboarding())
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, onboardingTree, onboardingColumns), func(size int32, token string) ([]*accountv1.Onboarding, string, error) {
				r, err := api.ListOnboardings(cmd.Context(), &accountv1.ListOnboardingsRequest{PageSize: size, PageToken: token, Filter: filter})
				return r.GetOnboardings(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no onboardings; \"nightshift accounts onboard\" begins one")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "pending, verifying, completed, failed or cancelled")
	cmd.Flags().StringVar(&filter, "filter", "", "condition on id, account, state, source, create_time and update_time")
	complete(cmd, "state", "pending", "verifying", "completed", "failed", "cancelled")
	l.add(cmd)
	return cmd
}

// accountsState suspends and resumes.
func (c *cli) accountsState(use, short, said string, state accountv1.AccountState) *cobra.Command {
	return c.accountCommand(use, short, "  nightshift accounts "+use+" 123456789012",
		func(ctx context.Context, api accountv1.AccountServiceClient, id string) error {
			r, err := api.UpdateAccount(ctx, &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: id, State: state}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"state"}}})
			if err != nil {
				return withHint(err, errs.FailedPrecondition, "\"nightshift accounts verify "+id+"\" says what is missing.")
			}
			c.say("%s", said)
			return c.printAccount(r.GetAccount())
		})
}

func (c *cli) accountsTemplate() *cobra.Command {
	return &cobra.Command{
		Use: "template cloudformation|terraform|policy", Short: "Print what makes the read-only role, with the policy it needs", Args: exactly(1, "cloudformation, terraform or policy"),
		Example:   "  nightshift accounts template cloudformation > nightshift-readonly.yaml\n  nightshift accounts template terraform > nightshift-readonly/main.tf",
		ValidArgs: []string{"cloudformation", "terraform", "policy"},
		RunE: func(_ *cobra.Command, args []string) error {
			switch args[0] {
			case "cloudformation":
				c.print("%s", access.CloudFormation(access.Actions()))
			case "terraform":
				c.print("%s", access.Terraform(access.Actions()))
			case "policy":
				c.print("%s", access.Policy())
			default:
				return usage("%q is not cloudformation, terraform or policy", args[0])
			}
			return nil
		},
	}
}
