package health

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	"nightshift.dev/pkg/access"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services/persistence"
)

// world is persistence on a real database, and the verifier on a simulated AWS
// that speaks the wire protocols, both as production starts them.
type world struct {
	estate   *simaws.Estate
	sim      *simaws.Server
	accounts accountv1.AccountServiceClient
	onboard  accountv1.OnboardingServiceClient
	verify   accountv1.VerificationServiceClient
}

// serving is a service of an API that needs nothing else.
type serving struct{ *verifier }

func (serving) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func start(t *testing.T, o simaws.Options, c simaws.Config) *world {
	t.Helper()
	w := &world{estate: simaws.Generate(o)}
	c.NoQuotas = true
	w.sim = simaws.New(w.estate, c)
	endpoint := httptest.NewServer(w.sim)
	t.Cleanup(endpoint.Close)
	cloud, err := aws.New(t.Context(), aws.Config{
		Region: "us-east-1", Endpoint: endpoint.URL, AccessKeyID: w.estate.Accounts[0].AccessKey, SecretAccessKey: simaws.FakeSecret, QuotaShare: 1,
		Backoff: func(int) time.Duration { return time.Millisecond },
	})
	if err != nil {
		t.Fatal(err)
	}
	nats := devtest.NATS(t)
	dsn := devtest.DB(t, persistence.Migrate)
	ctx, stop := context.WithCancel(context.Background())
	host, err := app.Start(ctx, app.Options{
		Definitions: []app.Definition{persistence.Definition, {
			Name: "health", New: func(_ context.Context, env *app.Env) (app.Service, error) {
				return serving{newVerifier(cloud, env.Dial("persistence"), env.Now)}, nil
			},
		}},
		Listen: func(string) string { return "127.0.0.1:0" },
		Bus:    bus.Config{URL: nats.URL(), Options: nats.Options()},
		Log:    slog.New(slog.DiscardHandler),
		Lookup: func(name string) (string, bool) { return dsn, name == "DATABASE_URL" },
	})
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.Go(func() error { return host.Run(ctx) })
	t.Cleanup(func() {
		stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	w.accounts = accountv1.NewAccountServiceClient(host.Dial("persistence"))
	w.onboard = accountv1.NewOnboardingServiceClient(host.Dial("persistence"))
	w.verify = accountv1.NewVerificationServiceClient(host.Dial("health"))
	return w
}

var small = simaws.Options{Seed: 3, Accounts: 3, Regions: 2, Resources: 60}

func (w *world) run(t *testing.T, id string) *accountv1.VerifyAccountResponse {
	t.Helper()
	r, err := w.verify.VerifyAccount(t.Context(), &accountv1.VerifyAccountRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// add registers an account with a role as it is, without onboarding.
func (w *world) add(t *testing.T, a *accountv1.Account) *accountv1.Account {
	t.Helper()
	r, err := w.accounts.CreateAccount(t.Context(), &accountv1.CreateAccountRequest{Account: a})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetAccount()
}

// troubles are the checks that are not OK, and not merely not tried.
func troubles(v *accountv1.Verification) string {
	var out []string
	for _, c := range v.GetChecks() {
		switch c.GetStatus() {
		case checkOK, checkSkipped:
		default:
			s := strings.TrimPrefix(c.GetKind().String(), "CHECK_KIND_") + " " + c.GetSubject() + " " + strings.TrimPrefix(c.GetStatus().String(), "CHECK_STATUS_")
			if c.GetMissing() != "" {
				s += " " + c.GetMissing()
			}
			if c.GetDetail() == "" {
				s += " without a word"
			}
			out = append(out, s)
		}
	}
	return strings.Join(out, "\n")
}

// The whole way, as a client goes it: ask, make the role, verify.
func TestOnboardingOverTheWire(t *testing.T) {
	t.Parallel()
	w := start(t, small, simaws.Config{})
	target := w.estate.Accounts[1]
	who, err := w.verify.GetIdentity(t.Context(), &accountv1.GetIdentityRequest{})
	if err != nil || who.GetAccount() != w.estate.Accounts[0].ID || who.GetTrustedPrincipal() != "arn:aws:iam::"+w.estate.Accounts[0].ID+":user/demo" {
		t.Fatalf("Nightshift is %v, %v", who, err)
	}
	asked, err := w.onboard.CreateOnboarding(t.Context(), &accountv1.CreateOnboardingRequest{
		Account: &accountv1.Account{Id: target.ID, Name: "prod"}, RoleName: "Reader", TrustedPrincipal: who.GetTrustedPrincipal(),
	})
	if err != nil {
		t.Fatal(err)
	}
	parameters := asked.GetOnboarding().GetTemplateParameters()
	// Nobody has made the role yet.
	r := w.run(t, target.ID)
	if got, want := troubles(r.GetVerification()), "ASSUME_ROLE "+target.RoleARN("Reader")+" DENIED sts:AssumeRole"; got != want ||
		r.GetOnboarding().GetState() != accountv1.OnboardingState_ONBOARDING_STATE_FAILED || !strings.Contains(r.GetOnboarding().GetError(), "sts:AssumeRole") {
		t.Errorf("without a role: %s, %v", got, r.GetOnboarding())
	}
	policy := readOnly(t)
	if err := w.estate.PutRole(target.ID, simaws.Role{Name: parameters[access.RoleName], ExternalID: parameters[access.ExternalID], Policy: policy}, time.Now()); err != nil {
		t.Fatal(err)
	}
	r = w.run(t, target.ID)
	if got := troubles(r.GetVerification()); got != "" || r.GetVerification().GetOutcome() != accountv1.VerificationOutcome_VERIFICATION_OUTCOME_PASSED ||
		r.GetOnboarding().GetState() != accountv1.OnboardingState_ONBOARDING_STATE_COMPLETED {
		t.Errorf("with the role: %s, %v", got, r)
	}
	if !strings.HasPrefix(r.GetVerification().GetCallerArn(), "arn:aws:sts::"+target.ID+":assumed-role/Reader/verify-") {
		t.Errorf("the caller was %s", r.GetVerification().GetCallerArn())
	}
	// Every action of the policy was tried, and every region that is enabled.
	tried := map[accountv1.CheckKind][]string{}
	for _, c := range r.GetVerification().GetChecks() {
		tried[c.GetKind()] = append(tried[c.GetKind()], c.GetSubject())
	}
	if got := tried[accountv1.CheckKind_CHECK_KIND_PERMISSION]; !slices.Equal(got, access.Actions()) {
		t.Errorf("tried %v", got)
	}
	if got := tried[accountv1.CheckKind_CHECK_KIND_REGION]; len(got) != len(target.Regions) {
		t.Errorf("tried regions %v of %d", got, len(target.Regions))
	}
	a, err := w.accounts.GetAccount(t.Context(), &accountv1.GetAccountRequest{Id: target.ID})
	if err != nil || a.GetAccount().GetState() != accountv1.AccountState_ACCOUNT_STATE_ACTIVE || a.GetAccount().GetVerifyTime() == nil {
		t.Errorf("the account is %v, %v", a, err)
	}
}

func readOnly(t *testing.T) *simaws.Policy {
	t.Helper()
	p := &simaws.Policy{}
	if err := json.Unmarshal([]byte(access.Policy()), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// Each action that is taken out of the policy is the one that is named, whether
// nothing allows it or something denies it.
func TestTheMissingPermissionIsNamed(t *testing.T) {
	t.Parallel()
	w := start(t, small, simaws.Config{})
	target := w.estate.Accounts[1]
	a := w.add(t, &accountv1.Account{Id: target.ID, RoleArn: target.RoleARN("Reader"), Regions: []string{target.Regions[0].Name}})
	put := func(p *simaws.Policy) {
		t.Helper()
		if err := w.estate.PutRole(target.ID, simaws.Role{Name: "Reader", ExternalID: a.GetExternalId(), Policy: p}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for _, action := range access.Actions() {
		if action == "sts:GetCallerIdentity" {
			continue // allowed to everybody
		}
		for _, deny := range []bool{false, true} {
			p := readOnly(t)
			if deny {
				p.Statement = append(p.Statement, simaws.Statement{Effect: "Deny", Action: simaws.Words{action}, Resource: simaws.Words{"*"}})
			} else {
				p.Statement[0].Action = slices.DeleteFunc(p.Statement[0].Action, func(a string) bool { return a == action })
			}
			put(p)
			r := w.run(t, target.ID)
			if got, want := troubles(r.GetVerification()), "PERMISSION "+action+" DENIED "+action; got != want || r.GetVerification().GetOutcome() != accountv1.VerificationOutcome_VERIFICATION_OUTCOME_FAILED {
				t.Errorf("without %s (denied: %v):\n%s", action, deny, got)
			}
		}
	}
	put(&simaws.Policy{Version: "2012-10-17", Statement: []simaws.Statement{{Effect: "Allow", Action: simaws.Words{"s3:*"}, Resource: simaws.Words{"*"}}}})
	denied := 0
	for _, c := range w.run(t, target.ID).GetVerification().GetChecks() {
		if c.GetStatus() == checkDenied {
			denied++
		}
	}
	if denied != len(access.Actions())-1 {
		t.Errorf("a role that may nothing is denied %d actions", denied)
	}
}

// A role that lets in whoever does not know its external id is refused.
func TestTheExternalIDIsDemanded(t *testing.T) {
	t.Parallel()
	w := start(t, small, simaws.Config{})
	target := w.estate.Accounts[1]
	a := w.add(t, &accountv1.Account{Id: target.ID, RoleArn: target.RoleARN("Reader"), ExternalId: "ours-and-nobody-elses"})
	for _, tc := range []struct{ name, demands, want, detail string }{
		{"ours", "ours-and-nobody-elses", "", ""},
		{"none", "", "EXTERNAL_ID " + a.GetRoleArn() + " WRONG", "without its external id"},
		{"any", "*", "EXTERNAL_ID " + a.GetRoleArn() + " WRONG", "with any external id"},
		{"another", "another", "ASSUME_ROLE " + a.GetRoleArn() + " DENIED sts:AssumeRole", "another external id"},
	} {
		if err := w.estate.PutRole(target.ID, simaws.Role{Name: "Reader", ExternalID: tc.demands}, time.Now()); err != nil {
			t.Fatal(err)
		}
		r := w.run(t, target.ID)
		if got := troubles(r.GetVerification()); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		said := ""
		for _, c := range r.GetVerification().GetChecks() {
			if c.GetStatus() != checkOK && c.GetStatus() != checkSkipped {
				said += c.GetDetail()
			}
		}
		if !strings.Contains(said, tc.detail) || strings.Contains(fmt.Sprint(r), "ours-and-nobody-elses") && r.GetOnboarding() == nil {
			t.Errorf("%s: it says %s", tc.name, said)
		}
	}
	// Organizations' own role demands none.
	admin := w.estate.Accounts[2]
	w.add(t, &accountv1.Account{Id: admin.ID, RoleArn: admin.RoleARN(simaws.AdminRole)})
	if got, want := troubles(w.run(t, admin.ID).GetVerification()), "EXTERNAL_ID "+admin.RoleARN(simaws.AdminRole)+" WRONG"; got != want {
		t.Errorf("the administrators' role: %s, want %s", got, want)
	}
}

func TestTheAccountIsTheOneRegistered(t *testing.T) {
	t.Parallel()
	w := start(t, small, simaws.Config{})
	// Nightshift's own credentials are of the first account.
	own, other := w.estate.Accounts[0].ID, w.estate.Accounts[1].ID
	w.add(t, &accountv1.Account{Id: own})
	if got := troubles(w.run(t, own).GetVerification()); got != "" {
		t.Errorf("its own account: %s", got)
	}
	w.add(t, &accountv1.Account{Id: other})
	r := w.run(t, other)
	if got, want := troubles(r.GetVerification()), "IDENTITY "+other+" WRONG"; got != want {
		t.Errorf("another account with its own credentials: %s, want %s", got, want)
	}
	for _, c := range r.GetVerification().GetChecks() {
		if c.GetKind() == accountv1.CheckKind_CHECK_KIND_PERMISSION && c.GetStatus() != checkSkipped {
			t.Errorf("%s was tried in the wrong account", c.GetSubject())
		}
	}
}

// Regions that are not enabled, and such that a policy of the organization
// closes, are named; so is nothing else.
func TestRegions(t *testing.T) {
	t.Parallel()
	w := start(t, small, simaws.Config{})
	target := w.estate.Accounts[1]
	a := w.add(t, &accountv1.Account{Id: target.ID, RoleArn: target.RoleARN(simaws.ReadOnlyRole), ExternalId: target.Roles[0].ExternalID,
		Regions: []string{target.Regions[0].Name, target.Regions[1].Name, "me-south-1", "xx-nowhere-1"}})
	if got, want := troubles(w.run(t, a.GetId()).GetVerification()), "REGION me-south-1 WRONG\nREGION xx-nowhere-1 WRONG"; got != want {
		t.Errorf("regions: %s, want %s", got, want)
	}
	if err := w.sim.SetFaults(simaws.Fault{Kind: "deny", Service: "ec2", Region: target.Regions[1].Name}); err != nil {
		t.Fatal(err)
	}
	got := troubles(w.run(t, a.GetId()).GetVerification())
	if want := "REGION " + target.Regions[1].Name + " DENIED ec2:DescribeAddresses"; !strings.Contains(got, want) || strings.Contains(got, "PERMISSION") {
		t.Errorf("with a region closed: %s, want %s", got, want)
	}
}

// What AWS does not say is unknown: neither passed nor failed, and to be tried
// again.
func TestWhatAWSDoesNotSayIsUnknown(t *testing.T) {
	t.Parallel()
	w := start(t, small, simaws.Config{})
	target := w.estate.Accounts[1]
	w.add(t, &accountv1.Account{Id: target.ID, RoleArn: target.RoleARN(simaws.ReadOnlyRole), ExternalId: target.Roles[0].ExternalID})
	for _, tc := range []struct {
		fault simaws.Fault
		want  string
	}{
		{simaws.Fault{Kind: "throttle", Service: "ec2", Action: "DescribeVolumes"}, "PERMISSION ec2:DescribeVolumes UNKNOWN"},
		{simaws.Fault{Kind: "error", Service: "cloudwatch", Action: "ListMetrics", Status: 500}, "PERMISSION cloudwatch:ListMetrics UNKNOWN"},
		{simaws.Fault{Kind: "error", Service: "sts", Action: "AssumeRole", Status: 500}, "ASSUME_ROLE " + target.RoleARN(simaws.ReadOnlyRole) + " UNKNOWN"},
	} {
		if err := w.sim.SetFaults(tc.fault); err != nil {
			t.Fatal(err)
		}
		r := w.run(t, target.ID)
		if got := troubles(r.GetVerification()); got != tc.want || r.GetVerification().GetOutcome() != accountv1.VerificationOutcome_VERIFICATION_OUTCOME_UNKNOWN {
			t.Errorf("%v: %s, want %s", tc.fault, got, tc.want)
		}
	}
	if err := w.sim.SetFaults(); err != nil {
		t.Fatal(err)
	}
	if got := troubles(w.run(t, target.ID).GetVerification()); got != "" {
		t.Errorf("afterwards: %s", got)
	}
}

// A caller who leaves leaves no onboarding behind that is being verified for ever.
func TestACallerWhoLeaves(t *testing.T) {
	t.Parallel()
	w := start(t, small, simaws.Config{})
	target := w.estate.Accounts[1]
	if _, err := w.onboard.CreateOnboarding(t.Context(), &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: target.ID, ExternalId: target.Roles[0].ExternalID}}); err != nil {
		t.Fatal(err)
	}
	if err := w.sim.SetFaults(simaws.Fault{Kind: "latency", Service: "sts", Delay: simaws.Duration(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := w.verify.VerifyAccount(ctx, &accountv1.VerifyAccountRequest{Id: target.ID})
		gone <- err
	}()
	state := func() accountv1.OnboardingState {
		l, err := w.onboard.ListOnboardings(t.Context(), &accountv1.ListOnboardingsRequest{Filter: fmt.Sprintf("account = %q", target.ID)})
		if err != nil {
			t.Fatal(err)
		}
		return l.GetOnboardings()[0].GetState()
	}
	await(t, func() bool { return state() == accountv1.OnboardingState_ONBOARDING_STATE_VERIFYING })
	leave()
	if err := <-gone; err == nil {
		t.Error("verified without an answer")
	}
	await(t, func() bool { return state() == accountv1.OnboardingState_ONBOARDING_STATE_FAILED })
	if err := w.sim.SetFaults(); err != nil {
		t.Fatal(err)
	}
	if r := w.run(t, target.ID); r.GetOnboarding().GetState() != accountv1.OnboardingState_ONBOARDING_STATE_COMPLETED {
		t.Errorf("tried again: %v", r)
	}
}

func await(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("it never comes to it")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The organization is listed by pages of AWS, and imported.
func TestOrganization(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1, Accounts: 45, Regions: 1, Resources: 100}, simaws.Config{})
	w.estate.Accounts[3].State, w.estate.Accounts[4].State, w.estate.Accounts[5].State = "PENDING_CLOSURE", "CLOSED", "PENDING_ACTIVATION"
	w.estate.Accounts[6].State, w.estate.Accounts[7].Name = "FROZEN", "evil\x1b[31m\x00\n"+strings.Repeat("é", 300)
	var all []*accountv1.OrganizationAccount
	req, pages := &accountv1.ListOrganizationAccountsRequest{RoleName: "audit/reader-{account}"}, 0
	for {
		r, err := w.verify.ListOrganizationAccounts(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r.GetAccounts()...)
		pages++
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if len(all) != 46 || pages != 3 {
		t.Fatalf("%d accounts on %d pages", len(all), pages)
	}
	var in []*accountv1.Account
	for i, a := range all {
		want := w.estate.Accounts[i]
		if a.GetId() != want.ID || a.GetRoleArn() != "arn:aws:iam::"+want.ID+":role/audit/reader-"+want.ID || (a.GetExcluded() == "") != (want.State == "") || a.GetJoinTime() == nil {
			t.Errorf("account %d is %v, and in truth %s in state %q", i, a, want.ID, want.State)
		}
		if len([]rune(a.GetName())) > 200 || strings.ContainsAny(a.GetName(), "\x00\x1b\n") {
			t.Errorf("account %d is called %q", i, a.GetName())
		}
		if a.GetExcluded() == "" {
			in = append(in, &accountv1.Account{Id: a.GetId(), Name: a.GetName(), RoleArn: a.GetRoleArn(), Partition: a.GetPartition()})
		}
	}
	r, err := w.onboard.ImportAccounts(t.Context(), &accountv1.ImportAccountsRequest{Accounts: in})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.GetResults() {
		if x.GetOutcome() != accountv1.ImportOutcome_IMPORT_OUTCOME_CREATED {
			t.Errorf("imported %v", x)
		}
	}
	// One StackSet makes all roles; then each account verifies.
	for _, a := range w.estate.Accounts {
		if err := w.estate.PutRole(a.ID, simaws.Role{Name: "audit/reader-" + a.ID, ExternalID: r.GetExternalId()}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range in[:5] {
		if v := w.run(t, a.GetId()); v.GetOnboarding().GetState() != accountv1.OnboardingState_ONBOARDING_STATE_COMPLETED {
			t.Errorf("%s: %s", a.GetId(), troubles(v.GetVerification()))
		}
	}
	small, err := w.verify.ListOrganizationAccounts(t.Context(), &accountv1.ListOrganizationAccountsRequest{PageSize: 7})
	if err != nil || len(small.GetAccounts()) != 7 || small.GetNextPageToken() == "" || small.GetAccounts()[0].GetRoleArn() != w.estate.Accounts[0].RoleARN(access.DefaultRole) {
		t.Errorf("seven of them: %v, %v", small, err)
	}
	if err := w.sim.SetFaults(simaws.Fault{Kind: "deny", Service: "organizations"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.verify.ListOrganizationAccounts(t.Context(), &accountv1.ListOrganizationAccountsRequest{}); !errors.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "organizations:ListAccounts") {
		t.Errorf("when it may not: %v", err)
	}
	if err := w.sim.SetFaults(simaws.Fault{Kind: "throttle", Service: "organizations"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.verify.ListOrganizationAccounts(t.Context(), &accountv1.ListOrganizationAccountsRequest{}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("when it is throttled: %v", err)
	}
}

// Every RPC says which field is wrong, and how.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := start(t, small, simaws.Config{})
	id := w.estate.Accounts[1].ID
	w.add(t, &accountv1.Account{Id: id})
	account := func(set func(*accountv1.Account)) *accountv1.Account {
		a := &accountv1.Account{Id: "123456789012"}
		set(a)
		return a
	}
	type bad struct {
		what, field string
		account     *accountv1.Account
	}
	accounts := []bad{
		{"no account", "account", nil},
		{"a short number", "account.id", &accountv1.Account{Id: "123"}},
		{"a number of letters", "account.id", &accountv1.Account{Id: "12345678901x"}},
		{"a long name", "account.name", account(func(a *accountv1.Account) { a.Name = strings.Repeat("x", 201) })},
		{"a name with NUL", "account.name", account(func(a *accountv1.Account) { a.Name = "a\x00b" })},
		{"a label with NUL", "account.labels", account(func(a *accountv1.Account) { a.Labels = map[string]string{"a": "\x00"} })},
		{"a partition that is none", "account.partition", account(func(a *accountv1.Account) { a.Partition = "mars" })},
		{"a role that is none", "account.role_arn", account(func(a *accountv1.Account) { a.RoleArn = "arn:aws:iam::123456789012:user/x" })},
		{"a role of elsewhere", "account.role_arn", account(func(a *accountv1.Account) { a.RoleArn = "arn:aws:iam::999999999999:role/x" })},
		{"a role of another partition", "account.role_arn", account(func(a *accountv1.Account) { a.Partition, a.RoleArn = "aws-cn", "arn:aws:iam::123456789012:role/x" })},
		{"an external id with a space", "account.external_id", account(func(a *accountv1.Account) { a.ExternalId = "a b" })},
		{"a short external id", "account.external_id", account(func(a *accountv1.Account) { a.ExternalId = "a" })},
		{"a region that is none", "account.regions[0]", account(func(a *accountv1.Account) { a.Regions = []string{"EU WEST"} })},
		{"a region twice", "account.regions", account(func(a *accountv1.Account) { a.Regions = []string{"eu-west-1", "eu-west-1"} })},
		{"a state that is none", "account.state", account(func(a *accountv1.Account) { a.State = 9 })},
	}
	type call struct {
		what, field string
		kind        errs.Kind
		do          func(ctx context.Context) error
	}
	var calls []call
	for _, b := range accounts {
		calls = append(calls,
			call{"CreateAccount with " + b.what, b.field, errs.InvalidArgument, func(ctx context.Context) error {
				return second(w.accounts.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: b.account}))
			}},
			call{"CreateOnboarding with " + b.what, b.field, errs.InvalidArgument, func(ctx context.Context) error {
				return second(w.onboard.CreateOnboarding(ctx, &accountv1.CreateOnboardingRequest{Account: b.account}))
			}})
		if b.account.GetId() == "123456789012" {
			calls = append(calls, call{"UpdateAccount with " + b.what, b.field, errs.InvalidArgument, func(ctx context.Context) error {
				a := b.account
				a.Id = id
				return second(w.accounts.UpdateAccount(ctx, &accountv1.UpdateAccountRequest{Account: a}))
			}})
		}
	}
	pending := &accountv1.Account{Id: "123456789012", State: accountv1.AccountState_ACCOUNT_STATE_PENDING}
	verification := func(set func(*accountv1.FinishVerificationRequest)) func(context.Context) error {
		return func(ctx context.Context) error {
			v := (&verifier{now: time.Now}).nothing(id)
			r := &accountv1.FinishVerificationRequest{Verification: v, Etag: "x"}
			set(r)
			return second(w.onboard.FinishVerification(ctx, r))
		}
	}
	none := "000000000000"
	calls = append(calls, []call{
		{"CreateAccount of one registered", "", errs.AlreadyExists, func(ctx context.Context) error {
			return second(w.accounts.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: id}}))
		}},
		{"CreateAccount as PENDING", "account.state", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.accounts.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: pending}))
		}},
		{"GetAccount", "id", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.accounts.GetAccount(ctx, &accountv1.GetAccountRequest{Id: "x"}))
		}},
		{"GetAccount of nobody", "", errs.NotFound, func(ctx context.Context) error {
			return second(w.accounts.GetAccount(ctx, &accountv1.GetAccountRequest{Id: none}))
		}},
		{"ListAccounts with a filter", "filter", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.accounts.ListAccounts(ctx, &accountv1.ListAccountsRequest{Filter: `colour = "red"`}))
		}},
		{"ListAccounts with a token", "page_token", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.accounts.ListAccounts(ctx, &accountv1.ListAccountsRequest{PageToken: "x"}))
		}},
		{"ListAccounts with a size", "page_size", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.accounts.ListAccounts(ctx, &accountv1.ListAccountsRequest{PageSize: -1}))
		}},
		{"UpdateAccount of nobody", "", errs.NotFound, func(ctx context.Context) error {
			return second(w.accounts.UpdateAccount(ctx, &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: none}}))
		}},
		{"DeleteAccount", "id", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.accounts.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: "x"}))
		}},
		{"DeleteAccount of nobody", "", errs.NotFound, func(ctx context.Context) error {
			return second(w.accounts.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: none}))
		}},
		{"DeleteAccount with an old etag", "", errs.Aborted, func(ctx context.Context) error {
			return second(w.accounts.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: id, Etag: "old"}))
		}},
		{"CreateOnboarding of one added", "", errs.AlreadyExists, func(ctx context.Context) error {
			return second(w.onboard.CreateOnboarding(ctx, &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: id}}))
		}},
		{"CreateOnboarding with a role name", "role_name", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.CreateOnboarding(ctx, &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: "123456789012"}, RoleName: "a b"}))
		}},
		{"CreateOnboarding with a template", "role_name", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.CreateOnboarding(ctx, &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: "123456789012"}, RoleName: "x{region}"}))
		}},
		{"CreateOnboarding with the world", "trusted_principal", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.CreateOnboarding(ctx, &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: "123456789012"}, TrustedPrincipal: "*"}))
		}},
		{"GetOnboarding", "id", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.GetOnboarding(ctx, &accountv1.GetOnboardingRequest{}))
		}},
		{"GetOnboarding with NUL", "id", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.GetOnboarding(ctx, &accountv1.GetOnboardingRequest{Id: "\x00"}))
		}},
		{"GetOnboarding of none", "", errs.NotFound, func(ctx context.Context) error {
			return second(w.onboard.GetOnboarding(ctx, &accountv1.GetOnboardingRequest{Id: "none"}))
		}},
		{"ListOnboardings with a filter", "filter", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.ListOnboardings(ctx, &accountv1.ListOnboardingsRequest{Filter: `state = "LOST"`}))
		}},
		{"ListOnboardings with a token", "page_token", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.ListOnboardings(ctx, &accountv1.ListOnboardingsRequest{PageToken: "%"}))
		}},
		{"ImportAccounts of none", "accounts", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.ImportAccounts(ctx, &accountv1.ImportAccountsRequest{}))
		}},
		{"ImportAccounts of too many", "accounts", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.ImportAccounts(ctx, &accountv1.ImportAccountsRequest{Accounts: slices.Repeat([]*accountv1.Account{{Id: "1"}}, 1001)}))
		}},
		{"ImportAccounts with an external id", "external_id", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.ImportAccounts(ctx, &accountv1.ImportAccountsRequest{Accounts: []*accountv1.Account{{Id: none}}, ExternalId: "a b"}))
		}},
		{"StartVerification", "account", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.onboard.StartVerification(ctx, &accountv1.StartVerificationRequest{Account: "x"}))
		}},
		{"StartVerification of nobody", "", errs.NotFound, func(ctx context.Context) error {
			return second(w.onboard.StartVerification(ctx, &accountv1.StartVerificationRequest{Account: none}))
		}},
		{"FinishVerification of nothing", "verification", errs.InvalidArgument, verification(func(r *accountv1.FinishVerificationRequest) { r.Verification = nil })},
		{"FinishVerification without checks", "verification.checks", errs.InvalidArgument, verification(func(r *accountv1.FinishVerificationRequest) { r.Verification.Checks = nil })},
		{"FinishVerification with an outcome", "verification.outcome", errs.InvalidArgument, verification(func(r *accountv1.FinishVerificationRequest) { r.Verification.Outcome = 2 })},
		{"FinishVerification without etag", "etag", errs.InvalidArgument, verification(func(r *accountv1.FinishVerificationRequest) { r.Etag = "" })},
		{"FinishVerification with an old etag", "", errs.Aborted, verification(func(*accountv1.FinishVerificationRequest) {})},
		{"FinishVerification of nobody", "", errs.NotFound, verification(func(r *accountv1.FinishVerificationRequest) { r.Verification.Account = none })},
		{"VerifyAccount", "id", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.verify.VerifyAccount(ctx, &accountv1.VerifyAccountRequest{Id: "12"}))
		}},
		{"VerifyAccount of nobody", "", errs.NotFound, func(ctx context.Context) error {
			return second(w.verify.VerifyAccount(ctx, &accountv1.VerifyAccountRequest{Id: none}))
		}},
		{"ListOrganizationAccounts with a size", "page_size", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.verify.ListOrganizationAccounts(ctx, &accountv1.ListOrganizationAccountsRequest{PageSize: -1}))
		}},
		{"ListOrganizationAccounts with a token", "page_token", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.verify.ListOrganizationAccounts(ctx, &accountv1.ListOrganizationAccountsRequest{PageToken: "x"}))
		}},
		{"ListOrganizationAccounts with a role name", "role_name", errs.InvalidArgument, func(ctx context.Context) error {
			return second(w.verify.ListOrganizationAccounts(ctx, &accountv1.ListOrganizationAccountsRequest{RoleName: "{"}))
		}},
	}...)
	for _, c := range calls {
		err := c.do(t.Context())
		e := (*errs.Error)(nil)
		if !errors.As(err, &e) || e.Kind() != c.kind {
			t.Errorf("%s: %v, want %s", c.what, err, c.kind)
			continue
		}
		named := func(v errs.Violation) bool { return v.Field == c.field && v.Description != "" }
		if c.field != "" && !slices.ContainsFunc(e.Violations(), named) {
			t.Errorf("%s: %v names %v, want %s", c.what, err, e.Violations(), c.field)
		}
	}
	if r, err := w.accounts.ListAccounts(t.Context(), &accountv1.ListAccountsRequest{}); err != nil || len(r.GetAccounts()) != 1 {
		t.Errorf("afterwards there are %v, %v", r, err)
	}
}

// nothing is a verification that tried nothing.
func (v *verifier) nothing(id string) *accountv1.Verification {
	t := &attempt{account: &accountv1.Account{Id: id}}
	t.skip("a test")
	return v.sum(t, v.now())
}

func second[T any](_ T, err error) error { return err }

// Whatever AWS's errors say, a check fits what the contract allows.
func TestChecksAreBounded(t *testing.T) {
	t.Parallel()
	for _, err := range []error{errors.New(strings.Repeat("é\n", 5000)), &aws.Error{Class: aws.Denied, Missing: strings.Repeat("x", 1000)}, context.Canceled} {
		c := answer(accountv1.CheckKind_CHECK_KIND_PERMISSION, "ec2:DescribeVolumes", err)
		if err := app.Validate(c); err != nil || c.GetStatus() == checkOK {
			t.Errorf("%v: %v", cmp.Or(c.GetDetail(), "no detail"), err)
		}
	}
}
