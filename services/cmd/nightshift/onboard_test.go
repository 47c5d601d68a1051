package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/access"
	"nightshift.dev/pkg/errs"
)

const fakeExternalID = "ns-abcdefghijklmnopqrstuvwxyz"

func fakeOnboarding(a *accountv1.Account, state accountv1.OnboardingState) *accountv1.Onboarding {
	a.ExternalId = fakeExternalID
	a.RoleArn = "arn:aws:iam::" + a.GetId() + ":role/NightshiftReadOnly"
	return &accountv1.Onboarding{Id: "o1", Account: a, State: state, CreateTime: at, UpdateTime: at, TemplateParameters: map[string]string{
		access.ExternalID: fakeExternalID, access.RoleName: "NightshiftReadOnly", access.RolePath: "/", access.TrustedPrincipal: "arn:aws:iam::999999999999:role/nightshift"}}
}

func (f *fake) GetIdentity(context.Context, *accountv1.GetIdentityRequest) (*accountv1.GetIdentityResponse, error) {
	return &accountv1.GetIdentityResponse{Account: "999999999999", TrustedPrincipal: "arn:aws:iam::999999999999:role/nightshift"}, nil
}

func (f *fake) CreateOnboarding(_ context.Context, r *accountv1.CreateOnboardingRequest) (*accountv1.CreateOnboardingResponse, error) {
	f.got(r)
	if r.GetAccount().GetName() == "taken" {
		return nil, errs.New(errs.AlreadyExists, "ACCOUNT_EXISTS", "account %s is registered already", r.GetAccount().GetId())
	}
	return &accountv1.CreateOnboardingResponse{Onboarding: fakeOnboarding(r.GetAccount(), accountv1.OnboardingState_ONBOARDING_STATE_PENDING), Created: true}, nil
}

// VerifyAccount passes, unless the number ends in 1 (a permission is missing), 2 (nobody said), 3 (nobody knows it) or 8 (the role cannot be assumed).
func (f *fake) VerifyAccount(_ context.Context, r *accountv1.VerifyAccountRequest) (*accountv1.VerifyAccountResponse, error) {
	f.got(r)
	v := &accountv1.Verification{Account: r.GetId(), Outcome: accountv1.VerificationOutcome_VERIFICATION_OUTCOME_PASSED, StartTime: at, EndTime: at,
		Checks: []*accountv1.Check{{Kind: accountv1.CheckKind_CHECK_KIND_PERMISSION, Subject: "ec2:DescribeVolumes", Status: accountv1.CheckStatus_CHECK_STATUS_OK}}}
	switch r.GetId()[11] {
	case '1':
		v.Outcome = accountv1.VerificationOutcome_VERIFICATION_OUTCOME_FAILED
		v.Checks[0].Status, v.Checks[0].Missing, v.Checks[0].Detail = accountv1.CheckStatus_CHECK_STATUS_DENIED, "ec2:DescribeVolumes", hostile
	case '2':
		v.Outcome = accountv1.VerificationOutcome_VERIFICATION_OUTCOME_UNKNOWN
		v.Checks[0].Status, v.Checks[0].Detail = accountv1.CheckStatus_CHECK_STATUS_UNKNOWN, "ec2:DescribeVolumes is throttled"
	case '8':
		v.Outcome = accountv1.VerificationOutcome_VERIFICATION_OUTCOME_FAILED
		v.Checks[0].Status, v.Checks[0].Detail = accountv1.CheckStatus_CHECK_STATUS_SKIPPED, "not tried"
		v.Checks = append(v.Checks, v.Checks[0], v.Checks[0], &accountv1.Check{Kind: accountv1.CheckKind_CHECK_KIND_ASSUME_ROLE, Status: accountv1.CheckStatus_CHECK_STATUS_DENIED, Detail: "no"})
	case '3':
		return nil, errs.New(errs.NotFound, "ACCOUNT_NOT_FOUND", "account %s is not registered", r.GetId())
	}
	return &accountv1.VerifyAccountResponse{Verification: v}, nil
}

func (f *fake) GetOnboarding(_ context.Context, r *accountv1.GetOnboardingRequest) (*accountv1.GetOnboardingResponse, error) {
	if r.GetId() != "x1" {
		return nil, errs.New(errs.NotFound, "ONBOARDING_NOT_FOUND", "there is no onboarding %s", r.GetId())
	}
	return &accountv1.GetOnboardingResponse{Onboarding: &accountv1.Onboarding{Id: "x1", Account: &accountv1.Account{Id: "123456789012"}, State: accountv1.OnboardingState_ONBOARDING_STATE_FAILED,
		Steps: []*accountv1.OnboardingStep{
			{State: accountv1.OnboardingState_ONBOARDING_STATE_PENDING, Time: at},
			{State: accountv1.OnboardingState_ONBOARDING_STATE_FAILED, Time: at, Attempt: 1, Error: "no such role"},
		}}}, nil
}

func (f *fake) ListOnboardings(_ context.Context, r *accountv1.ListOnboardingsRequest) (*accountv1.ListOnboardingsResponse, error) {
	f.got(r)
	o := fakeOnboarding(&accountv1.Account{Id: "123456789010", Name: hostile}, accountv1.OnboardingState_ONBOARDING_STATE_FAILED)
	o.Error = hostile
	return &accountv1.ListOnboardingsResponse{Onboardings: []*accountv1.Onboarding{o}}, nil
}

// ListOrganizationAccounts has four accounts, two a page.
func (f *fake) ListOrganizationAccounts(_ context.Context, r *accountv1.ListOrganizationAccountsRequest) (*accountv1.ListOrganizationAccountsResponse, error) {
	f.got(r)
	account := func(id, name string, state accountv1.OrganizationAccountState, excluded string) *accountv1.OrganizationAccount {
		return &accountv1.OrganizationAccount{Id: id, Name: name, State: state, Partition: "aws", RoleArn: "arn:aws:iam::" + id + ":role/" + r.GetRoleName(), Excluded: excluded}
	}
	const active = accountv1.OrganizationAccountState_ORGANIZATION_ACCOUNT_STATE_ACTIVE
	if r.GetPageToken() == "" {
		return &accountv1.ListOrganizationAccountsResponse{NextPageToken: "2", Accounts: []*accountv1.OrganizationAccount{
			account("123456789010", hostile, active, ""), account("123456789011", "known", active, "")}}, nil
	}
	return &accountv1.ListOrganizationAccountsResponse{Accounts: []*accountv1.OrganizationAccount{
		account("123456789012", "closed", accountv1.OrganizationAccountState_ORGANIZATION_ACCOUNT_STATE_CLOSED, "closed"), account("123456789014", "sandbox", active, "")}}, nil
}

func (f *fake) ImportAccounts(_ context.Context, r *accountv1.ImportAccountsRequest) (*accountv1.ImportAccountsResponse, error) {
	f.got(r)
	out := &accountv1.ImportAccountsResponse{ExternalId: fakeExternalID}
	for _, a := range r.GetAccounts() {
		x := &accountv1.ImportResult{Account: a.GetId(), Outcome: accountv1.ImportOutcome_IMPORT_OUTCOME_CREATED}
		if a.GetName() == "known" {
			x.Outcome = accountv1.ImportOutcome_IMPORT_OUTCOME_UNTOUCHED
		} else if !r.GetValidateOnly() {
			x.Onboarding = fakeOnboarding(&accountv1.Account{Id: a.GetId()}, accountv1.OnboardingState_ONBOARDING_STATE_PENDING)
		}
		out.Results = append(out.Results, x)
	}
	return out, nil
}

// serveAccounts is serve, where health is to be found as well.
func serveAccounts(t *testing.T) (*fake, map[string]string) {
	t.Helper()
	f, env := serve(t, runv1.RunState_RUN_STATE_SUCCEEDED)
	env["NIGHTSHIFT_HEALTH_ADDR"] = env["NIGHTSHIFT_PERSISTENCE_ADDR"]
	return f, env
}

func ask[T any](f *fake) (out []T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.requests {
		if x, ok := r.(T); ok {
			out = append(out, x)
		}
	}
	return out
}

func TestOnboardSaysHowToMakeTheRole(t *testing.T) {
	t.Parallel()
	f, env := serveAccounts(t)
	r := execute(t, env, "accounts", "onboard", "123456789010", "--name", "prod", "--owner", "ops", "--role-name", "audit/Reader", "--regions", "eu-west-1", "--label", "a=b")
	got := ask[*accountv1.CreateOnboardingRequest](f)
	if r.code != 0 || len(got) != 1 || got[0].GetRoleName() != "audit/Reader" || got[0].GetAccount().GetOwner() != "ops" || got[0].GetTrustedPrincipal() != "arn:aws:iam::999999999999:role/nightshift" {
		t.Fatalf("code %d, asked for %v\n%s", r.code, got, r.err)
	}
	for _, want := range []string{fakeExternalID, "aws cloudformation deploy", "TrustedPrincipal=arn:aws:iam::999999999999:role/nightshift ExternalId=" + fakeExternalID + " RoleName=NightshiftReadOnly\n",
		`external_id       = "` + fakeExternalID + `"`, "nightshift accounts verify 123456789010", "PENDING"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("it does not say %s:\n%s", want, r.out)
		}
	}
	r = execute(t, env, "accounts", "onboard", "123456789010", "-o", "json")
	var o struct {
		ID                 string            `json:"id"`
		TemplateParameters map[string]string `json:"template_parameters"`
	}
	if err := json.Unmarshal([]byte(r.out), &o); err != nil || o.TemplateParameters[access.ExternalID] != fakeExternalID {
		t.Errorf("as JSON: %v\n%s", err, r.out)
	}
	if r := execute(t, env, "accounts", "onboard", "123456789010", "--wait"); r.code != 0 || !strings.Contains(r.err, "can be scanned") || !strings.Contains(r.out, "ec2:DescribeVolumes") {
		t.Errorf("waiting: %d %s %s", r.code, r.out, r.err)
	}
	if r := execute(t, env, "accounts", "onboard", "123456789011", "--wait", "--timeout", "1s"); r.code != exitError || !strings.Contains(r.err, "not yet: missing ec2:DescribeVolumes") || !strings.Contains(r.err, "--timeout") {
		t.Errorf("waiting for too long: %d %s", r.code, r.err)
	}
	if r := execute(t, env, "accounts", "onboard", "123456789013", "--wait"); r.code != exitError || !strings.Contains(r.err, "not registered") {
		t.Errorf("waiting for nothing: %d %s", r.code, r.err)
	}
	if r := execute(t, env, "accounts", "onboard", "123456789010", "--name", "taken"); r.code != exitError || !strings.Contains(r.err, "accounts verify 123456789010") {
		t.Errorf("one that is taken: %d %s", r.code, r.err)
	}
	// Without health an onboarding begins all the same.
	delete(env, "NIGHTSHIFT_HEALTH_ADDR")
	env["NIGHTSHIFT_HEALTH_ADDR"] = "127.0.0.1:1"
	if r := execute(t, env, "accounts", "onboard", "123456789010"); r.code != 0 || !strings.Contains(r.err, trustUnknown) {
		t.Errorf("without health: %d %s", r.code, r.err)
	}
}

func TestVerifyEndsAsItFound(t *testing.T) {
	t.Parallel()
	f, env := serveAccounts(t)
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"123456789010"}, exitOK, "1 account can be scanned"},
		{[]string{"123456789010", "123456789011", "123456789012"}, exitError, "1 account of 3"},
		{[]string{"123456789010", "123456789012"}, exitPartial, "AWS did not say"},
		{[]string{"123456789013"}, exitError, "not registered"},
		{[]string{"123456789010", "123456789013"}, exitError, "1 account of 2"},
		{[]string{"--pending"}, exitOK, "1 account can be scanned"},
		{nil, exitUsage, "--pending"},
		{[]string{"123456789010", "--pending"}, exitUsage, "--pending"},
	} {
		r := execute(t, env, append([]string{"accounts", "verify"}, tc.args...)...)
		if r.code != tc.code || !strings.Contains(r.err, tc.says) {
			t.Errorf("%v: code %d, want %d; says %s, want %s", tc.args, r.code, tc.code, r.err, tc.says)
		}
		if strings.ContainsAny(r.out+r.err, "\x1b\x00\u202e\u009b") {
			t.Errorf("%v: foreign text gets through: %q", tc.args, r.out+r.err)
		}
	}
	r := execute(t, env, "accounts", "verify", "123456789011", "-o", "csv")
	if !strings.Contains(r.out, "123456789011,FAILED,missing ec2:DescribeVolumes") {
		t.Errorf("as CSV: %s", r.out)
	}
	if r := execute(t, env, "accounts", "verify", "123456789018"); strings.Count(r.out, "SKIPPED") != 1 || !strings.Contains(r.out, "3 checks") || !strings.Contains(r.out, "ASSUME_ROLE") || !strings.Contains(r.err, "as it should: no\n") {
		t.Errorf("checks that were not tried are\n%s", r.out)
	}
	r = execute(t, env, "accounts", "verify", "123456789011", "123456789010", "-o", "jsonl")
	if strings.Count(r.out, "\n") != 2 || !strings.Contains(r.out, `"missing":"ec2:DescribeVolumes"`) {
		t.Errorf("as JSON lines: %s", r.out)
	}
	if got := ask[*accountv1.ListOnboardingsRequest](f); !strings.Contains(got[0].GetFilter(), `state = "FAILED"`) {
		t.Errorf("pending are %v", got)
	}
}

func TestImportSaysWhatBecameOfEach(t *testing.T) {
	t.Parallel()
	f, env := serveAccounts(t)
	r := execute(t, env, "accounts", "import", "--role-name", "Reader", "--exclude", "sandbox", "--owner", "ops", "--dry-run", "-o", "csv")
	want := []string{"123456789010,", ",CREATED,", "123456789011,known,ACTIVE,UNTOUCHED,,registered before", "123456789012,closed,CLOSED,LEFT_OUT,,closed", "123456789014,sandbox,ACTIVE,LEFT_OUT,,named by --exclude"}
	for _, w := range want {
		if r.code != 0 || !strings.Contains(r.out, w) {
			t.Errorf("code %d, not said: %s\n%s%s", r.code, w, r.out, r.err)
		}
	}
	if got := ask[*accountv1.ImportAccountsRequest](f); len(got) != 1 || !got[0].GetValidateOnly() || len(got[0].GetAccounts()) != 2 || got[0].GetAccounts()[0].GetOwner() != "ops" {
		t.Errorf("asked for %v", got)
	}
	if !strings.Contains(r.err, "would be imported") || strings.Contains(r.err, "StackSet") {
		t.Errorf("a dry run says %s", r.err)
	}
	f.requests = nil
	r = execute(t, env, "accounts", "import", "--external-id", "our-own-external-id")
	if got := ask[*accountv1.ImportAccountsRequest](f); r.code != 0 || len(got) != 1 || got[0].GetValidateOnly() || got[0].GetExternalId() != "our-own-external-id" || len(got[0].GetAccounts()) != 3 {
		t.Errorf("code %d, asked for %v\n%s", r.code, got, r.err)
	}
	if !strings.Contains(r.err, "ExternalId="+fakeExternalID) || !strings.Contains(r.err, "StackSet") || strings.ContainsAny(r.out+r.err, "\x1b\x00\u202e\u009b") {
		t.Errorf("it says %s\n%q", r.err, r.out)
	}
	if len(ask[*accountv1.VerifyAccountRequest](f)) != 0 {
		t.Error("verified without being asked to")
	}
	f.requests = nil
	if r := execute(t, env, "accounts", "import", "--verify", "-o", "json"); r.code != 0 || strings.Count(r.out, `"PASSED"`) != 2 || len(ask[*accountv1.VerifyAccountRequest](f)) != 2 {
		t.Errorf("code %d, verified %v\n%s%s", r.code, ask[*accountv1.VerifyAccountRequest](f), r.out, r.err)
	}
	f.requests = nil
	if r := execute(t, env, "accounts", "import", "--exclude", "sandbok"); r.code != exitUsage || len(ask[*accountv1.ImportAccountsRequest](f)) != 0 {
		t.Errorf("a name that fits nothing: %d %s", r.code, r.err)
	}
}

func TestAccountStatesAndTemplates(t *testing.T) {
	t.Parallel()
	f, env := serveAccounts(t)
	for use, state := range map[string]accountv1.AccountState{"suspend": accountv1.AccountState_ACCOUNT_STATE_SUSPENDED, "resume": accountv1.AccountState_ACCOUNT_STATE_ACTIVE} {
		f.requests = nil
		r := execute(t, env, "accounts", use, "123456789012")
		got := ask[*accountv1.UpdateAccountRequest](f)
		if r.code != 0 || len(got) != 1 || got[0].GetAccount().GetState() != state || !slices.Equal(got[0].GetUpdateMask().GetPaths(), []string{"state"}) {
			t.Errorf("%s: code %d, asked for %v", use, r.code, got)
		}
	}
	f.requests = nil
	r := execute(t, env, "accounts", "onboardings", "--state", "failed", "--filter", "a OR b")
	if got := ask[*accountv1.ListOnboardingsRequest](f); r.code != 0 || got[0].GetFilter() != `state = "FAILED" AND (a OR b)` || !strings.Contains(r.out, "FAILED") || strings.ContainsAny(r.out, "\x1b\x00\u202e\u009b") {
		t.Errorf("code %d, asked for %v\n%q", r.code, got, r.out)
	}
	if r := execute(t, env, "accounts", "onboardings", "x1", "--state", "failed"); r.code != exitUsage {
		t.Errorf("an id and a state: exit %d\n%s", r.code, r.err)
	}
	if r := execute(t, env, "accounts", "onboardings", "none"); r.code != exitError || !strings.Contains(r.err, "shows the ids there are") {
		t.Errorf("none: exit %d\n%s", r.code, r.err)
	}
	if r := terminal(t.Context(), 100, env, "accounts", "onboardings", "x1"); r.code != 0 || !strings.Contains(r.out, "Steps") || !strings.Contains(r.out, "no such role") {
		t.Errorf("x1: exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := execute(t, env, "accounts", "onboardings", "--state", "lost"); r.code != exitUsage {
		t.Errorf("a state that is none: %d %s", r.code, r.err)
	}
	for what, want := range map[string]string{"cloudformation": "AWSTemplateFormatVersion", "terraform": `resource "aws_iam_role"`, "policy": `"Version": "2012-10-17"`} {
		if r := execute(t, nil, "accounts", "template", what); r.code != 0 || !strings.Contains(r.out, want) || !strings.Contains(r.out, "ec2:DescribeVolumes") {
			t.Errorf("%s: %d\n%s", what, r.code, r.out)
		}
	}
	if r := execute(t, nil, "accounts", "template", "pulumi"); r.code != exitUsage {
		t.Errorf("a template that is none: %d %s", r.code, r.err)
	}
}

// Who is not shown the external id gets no template that lacks it.
func TestInstructionsAreForAdmins(t *testing.T) {
	t.Parallel()
	o := &accountv1.Onboarding{Account: &accountv1.Account{Id: "123456789010"}}
	if got := (&cli{}).instructions(o); strings.Contains(got, "ExternalId=") || !strings.Contains(got, "only admins") {
		t.Errorf("%s", got)
	}
}
