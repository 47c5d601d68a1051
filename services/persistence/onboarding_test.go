package persistence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/access"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

const acct = "111122223333"

// onboard asks for the onboarding of an account.
func onboard(t testing.TB, s *Service, id string) *accountv1.Onboarding {
	t.Helper()
	r, err := s.CreateOnboarding(t.Context(), &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: id, Name: "prod"}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetOnboarding()
}

// look is a verification with checks of these statuses, beginning and ending now.
func verification(id string, statuses ...accountv1.CheckStatus) *accountv1.Verification {
	v := &accountv1.Verification{Account: id, StartTime: timestamppb.New(epoch), EndTime: timestamppb.New(epoch.Add(time.Second))}
	for i, st := range statuses {
		c := &accountv1.Check{Kind: accountv1.CheckKind_CHECK_KIND_PERMISSION, Subject: fmt.Sprintf("ec2:Describe%d", i), Status: st}
		if st == accountv1.CheckStatus_CHECK_STATUS_DENIED {
			c.Missing = c.Subject
		}
		v.Checks = append(v.Checks, c)
	}
	v.Outcome = outcomeOf(v.Checks)
	return v
}

const (
	ok    = accountv1.CheckStatus_CHECK_STATUS_OK
	no    = accountv1.CheckStatus_CHECK_STATUS_DENIED
	maybe = accountv1.CheckStatus_CHECK_STATUS_UNKNOWN
)

func startVerification(t testing.TB, s *Service, id string) *accountv1.StartVerificationResponse {
	t.Helper()
	r, err := s.StartVerification(t.Context(), &accountv1.StartVerificationRequest{Account: id})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func finishLook(s *Service, v *accountv1.Verification, start *accountv1.StartVerificationResponse) (*accountv1.FinishVerificationResponse, error) {
	return s.FinishVerification(context.Background(), &accountv1.FinishVerificationRequest{Verification: v, Attempt: start.GetAttempt(), Etag: start.GetAccount().GetEtag()})
}

func getAccount(t testing.TB, s *Service, id string) *accountv1.Account {
	t.Helper()
	r, err := s.GetAccount(t.Context(), &accountv1.GetAccountRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetAccount()
}

func eventsOf(t testing.TB, s *Service, id string) []string {
	t.Helper()
	r, err := s.ListEntries(t.Context(), &systemlogv1.ListEntriesRequest{PageSize: 1000, Filter: fmt.Sprintf("account = %q", id)})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range slices.Backward(r.GetEntries()) {
		out = append(out, e.GetEvent())
		if text := fmt.Sprint(e); strings.Contains(text, "ns-") {
			t.Errorf("an external id is in the system log: %s", text)
		}
	}
	return out
}

func statesOf(o *accountv1.Onboarding) string {
	var out []string
	for _, s := range o.GetSteps() {
		out = append(out, strings.TrimPrefix(s.GetState().String(), "ONBOARDING_STATE_"))
	}
	return strings.Join(out, " ")
}

// An account from being named over a verification that fails to being scanned.
func TestOnboarding(t *testing.T) {
	t.Parallel()
	s := service(t)
	req := &accountv1.CreateOnboardingRequest{
		Account:  &accountv1.Account{Id: acct, Name: "prod", Owner: "ops", Regions: []string{"eu-west-1", "us-east-1"}, Labels: map[string]string{"env": "prod"}},
		RoleName: "audit/reader-{account}", TrustedPrincipal: "arn:aws:iam::999999999999:role/nightshift",
	}
	created, err := s.CreateOnboarding(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	o := created.GetOnboarding()
	if !created.GetCreated() || o.GetState() != onboardingPending || o.GetCreateTime() == nil || o.GetEndTime() != nil {
		t.Errorf("created %v", created)
	}
	a := getAccount(t, s, acct)
	if a.GetState() != accountPending || a.GetRoleArn() != "arn:aws:iam::111122223333:role/audit/reader-111122223333" || !proto.Equal(a, o.GetAccount()) {
		t.Errorf("registered %v, and the onboarding says %v", a, o.GetAccount())
	}
	want := map[string]string{access.ExternalID: a.GetExternalId(), access.RoleName: "reader-111122223333", access.RolePath: "/audit/", access.TrustedPrincipal: "arn:aws:iam::999999999999:role/nightshift"}
	if !maps.Equal(o.GetTemplateParameters(), want) {
		t.Errorf("the templates are given %v, want %v", o.GetTemplateParameters(), want)
	}
	// It is not scanned, and asking again is no other onboarding, also with less said.
	if l, err := s.ListAccounts(t.Context(), &accountv1.ListAccountsRequest{Filter: `state = "ACTIVE"`}); err != nil || len(l.GetAccounts()) != 0 {
		t.Errorf("active are %v, %v", l, err)
	}
	for _, again := range []*accountv1.CreateOnboardingRequest{req, {Account: &accountv1.Account{Id: acct}}} {
		r, err := s.CreateOnboarding(t.Context(), again)
		if err != nil || r.GetCreated() || !proto.Equal(r.GetOnboarding(), o) {
			t.Errorf("asked again: %v, %v", r, err)
		}
	}
	_, err = s.CreateOnboarding(t.Context(), &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: acct, Owner: "dev", Regions: []string{"eu-west-1"}, ExternalId: "another"}, RoleName: "Other"})
	e := (*errs.Error)(nil)
	if !errors.As(err, &e) || e.Kind() != errs.AlreadyExists || len(e.Violations()) != 4 || strings.Contains(err.Error(), a.GetExternalId()) {
		t.Errorf("asked for another: %v", err)
	}
	// People cannot make it anything else.
	for _, state := range []accountv1.AccountState{accountActive, accountv1.AccountState_ACCOUNT_STATE_SUSPENDED} {
		_, err := s.UpdateAccount(t.Context(), &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: acct, State: state}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"state"}}})
		if !errors.Is(err, errs.FailedPrecondition) {
			t.Errorf("made %s: %v", state, err)
		}
	}
	// What changes meanwhile shows in the onboarding; another external id, too.
	if _, err := s.UpdateAccount(t.Context(), &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: acct, Owner: "dev"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"owner", "external_id"}}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.GetOnboarding(t.Context(), &accountv1.GetOnboardingRequest{Id: o.GetId()})
	now := getAccount(t, s, acct)
	if err != nil || now.GetExternalId() == a.GetExternalId() || got.GetOnboarding().GetTemplateParameters()[access.ExternalID] != now.GetExternalId() || got.GetOnboarding().GetAccount().GetOwner() != "dev" {
		t.Errorf("after a change: %v, %v", got, err)
	}

	start := startVerification(t, s, acct)
	if start.GetAttempt() != 1 {
		t.Errorf("the first attempt is %d", start.GetAttempt())
	}
	done, err := finishLook(s, verification(acct, ok, no, ok, no, maybe), start)
	if err != nil {
		t.Fatal(err)
	}
	o = done.GetOnboarding()
	if o.GetState() != onboardingFailed || o.GetError() != "missing ec2:Describe1, ec2:Describe3; 1 check without an answer" || len(o.GetVerification().GetChecks()) != 5 || done.GetAccount().GetState() != accountPending {
		t.Errorf("after a verification that failed: %v", done)
	}
	start = startVerification(t, s, acct)
	if again, err := finishLook(s, verification(acct, ok), start); err != nil || again.GetOnboarding().GetState() != onboardingCompleted {
		t.Fatalf("after one that passed: %v, %v", again, err)
	}
	// Said twice, it is the same.
	again, err := finishLook(s, verification(acct, ok), start)
	if err != nil {
		t.Fatal(err)
	}
	o = again.GetOnboarding()
	if got, want := statesOf(o), "PENDING VERIFYING FAILED VERIFYING COMPLETED"; got != want || o.GetEndTime() == nil || o.GetError() != "" || o.GetAttempts() != 2 {
		t.Errorf("the steps are %s, want %s: %v", got, want, o)
	}
	for i, st := range o.GetSteps() {
		if i > 0 && st.GetTime().AsTime().Before(o.GetSteps()[i-1].GetTime().AsTime()) {
			t.Errorf("step %d is before the one before it", i)
		}
	}
	if a := getAccount(t, s, acct); a.GetState() != accountActive || a.GetVerifyTime() == nil {
		t.Errorf("the account is %v", a)
	}
	if got, want := strings.Join(eventsOf(t, s, acct), " "),
		"account_registered onboarding_started onboarding_failed onboarding_completed"; got != want {
		t.Errorf("the system log has %s, want %s", got, want)
	}
	// It is over: verifying goes on without it, and asking for it again gives it as it is.
	if start := startVerification(t, s, acct); start.GetAttempt() != 0 {
		t.Errorf("attempt %d of an onboarding that has ended", start.GetAttempt())
	} else if r, err := finishLook(s, verification(acct, no), start); err != nil || r.GetOnboarding() != nil || r.GetAccount().GetState() != accountActive {
		t.Errorf("verified without onboarding: %v, %v", r, err)
	}
	if all := eventsOf(t, s, acct); all[len(all)-1] != "account_verification_failed" {
		t.Errorf("the system log has %v", all)
	}
	if r, err := s.CreateOnboarding(t.Context(), &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: acct}}); err != nil || r.GetOnboarding().GetState() != onboardingCompleted {
		t.Errorf("asked for once more: %v, %v", r, err)
	}
}

// Of verifications that overlap the last begun counts, and what was verified
// is what is registered.
func TestVerificationsThatOverlap(t *testing.T) {
	t.Parallel()
	s := service(t)
	onboard(t, s, acct)
	first, second := startVerification(t, s, acct), startVerification(t, s, acct)
	if _, err := finishLook(s, verification(acct, ok), first); !errors.Is(err, errs.Aborted) {
		t.Errorf("the first has ended after the second began: %v", err)
	}
	if _, err := s.UpdateAccount(t.Context(), &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: acct}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"external_id"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := finishLook(s, verification(acct, ok), second); !errors.Is(err, errs.Aborted) {
		t.Errorf("the account has changed since: %v", err)
	}
	wrong := verification(acct, ok, no)
	wrong.Outcome = accountv1.VerificationOutcome_VERIFICATION_OUTCOME_PASSED
	if _, err := finishLook(s, wrong, startVerification(t, s, acct)); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("passed with a check that did not: %v", err)
	}
	third := startVerification(t, s, acct)
	if r, err := finishLook(s, verification(acct, ok), third); err != nil || r.GetOnboarding().GetState() != onboardingCompleted || r.GetOnboarding().GetAttempts() != 4 {
		t.Errorf("the last: %v, %v", r, err)
	}
}

// Deleting an account ends its onboarding; it can come again, with another
// external id, and an account that was scanned, too.
func TestDeletedAccountsComeBack(t *testing.T) {
	t.Parallel()
	s := service(t)
	o := onboard(t, s, acct)
	start := startVerification(t, s, acct)
	if _, err := s.DeleteAccount(t.Context(), &accountv1.DeleteAccountRequest{Id: acct}); err != nil {
		t.Fatal(err)
	}
	if _, err := finishLook(s, verification(acct, ok), start); !errors.Is(err, errs.NotFound) {
		t.Errorf("verified while it was deleted: %v", err)
	}
	got, err := s.GetOnboarding(t.Context(), &accountv1.GetOnboardingRequest{Id: o.GetId()})
	if err != nil || got.GetOnboarding().GetState() != onboardingCancelled || got.GetOnboarding().GetError() == "" || got.GetOnboarding().GetAccount().GetId() != acct {
		t.Errorf("the onboarding is %v, %v", got, err)
	}
	next := onboard(t, s, acct)
	if next.GetId() == o.GetId() || next.GetAccount().GetExternalId() == o.GetAccount().GetExternalId() || next.GetAttempts() != 0 {
		t.Errorf("came back as %v", next)
	}
	if _, err := finishLook(s, verification(acct, ok), start); !errors.Is(err, errs.Aborted) {
		t.Errorf("verified before it was deleted: %v", err)
	}
	if _, err := s.DeleteAccount(t.Context(), &accountv1.DeleteAccountRequest{Id: acct}); err != nil {
		t.Fatal(err)
	}

	// The same for one that was added, with findings.
	if _, err := s.CreateAccount(t.Context(), &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: here.GetAccount()}}); err != nil {
		t.Fatal(err)
	}
	v := violation("vol-1", at(1))
	scanOnce(t, s, 1, complete, v)
	before := getFinding(t, s, v.GetFindingId())
	if _, err := s.DeleteAccount(t.Context(), &accountv1.DeleteAccountRequest{Id: here.GetAccount()}); err != nil {
		t.Fatal(err)
	}
	if after := getFinding(t, s, v.GetFindingId()); after.GetState() != before.GetState() {
		t.Errorf("the finding of the deleted account is %s", after.GetState())
	}
	if _, err := s.CreateAccount(t.Context(), &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: here.GetAccount()}}); err != nil {
		t.Errorf("registered again: %v", err)
	}
	scanOnce(t, s, 2, complete, violation("vol-1", at(2)))
	if after := getFinding(t, s, v.GetFindingId()); after.GetState() != before.GetState() || len(transitions(t, s, v.GetFindingId())) != 1 {
		t.Errorf("the finding of the account that came back is %v", after)
	}
	const other = "444455556666"
	// What was onboarded in its earlier life is not this one.
	if _, err := finishLook(s, verification(other, ok), func() *accountv1.StartVerificationResponse {
		onboard(t, s, other)
		return startVerification(t, s, other)
	}()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteAccount(t.Context(), &accountv1.DeleteAccountRequest{Id: other}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateAccount(t.Context(), &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: other}}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.CreateOnboarding(t.Context(), &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: other}}); !errors.Is(err, errs.AlreadyExists) {
		t.Errorf("onboarded what was added: %v, %v", r, err)
	}
}

// Many who ask at once get the same onboarding.
func TestOnboardingAtOnce(t *testing.T) {
	t.Parallel()
	s := service(t)
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() {
			r, err := s.CreateOnboarding(t.Context(), &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: acct, Name: "prod"}})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = r.GetOnboarding().GetId()
		})
	}
	wg.Wait()
	if len(slices.Compact(ids)) != 1 || ids[0] == "" {
		t.Errorf("there are %v", ids)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	s := service(t)
	if _, err := s.CreateAccount(t.Context(), &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: acct, Name: "mine", Owner: "me"}}); err != nil {
		t.Fatal(err)
	}
	before := getAccount(t, s, acct)
	accounts := []*accountv1.Account{
		{Id: "000000000001", Name: "one"}, {Id: acct, Name: "theirs"}, {Id: "1", Name: "no number"}, {Id: "000000000002", RoleArn: "arn:aws:iam::000000000001:role/x"},
		{Id: "000000000003", Name: "nul\x00"}, {Id: "000000000004", ExternalId: "its-own-external-id"}, {Id: "000000000001", Name: "again"},
	}
	const want = "CREATED UNTOUCHED REFUSED REFUSED REFUSED CREATED UNTOUCHED"
	outcomes := func(r *accountv1.ImportAccountsResponse) string {
		var out []string
		for _, x := range r.GetResults() {
			out = append(out, strings.TrimPrefix(x.GetOutcome().String(), "IMPORT_OUTCOME_"))
			if (x.GetError() != "") != (x.GetOutcome() == accountv1.ImportOutcome_IMPORT_OUTCOME_REFUSED) {
				t.Errorf("result %v", x)
			}
		}
		return strings.Join(out, " ")
	}
	dry, err := s.ImportAccounts(t.Context(), &accountv1.ImportAccountsRequest{Accounts: accounts, ValidateOnly: true})
	if err != nil || outcomes(dry) != want {
		t.Errorf("would import %s, %v", outcomes(dry), err)
	}
	if l, err := s.ListAccounts(t.Context(), &accountv1.ListAccountsRequest{}); err != nil || len(l.GetAccounts()) != 1 {
		t.Fatalf("a dry run has registered %v, %v", l, err)
	}
	r, err := s.ImportAccounts(t.Context(), &accountv1.ImportAccountsRequest{Accounts: accounts})
	if err != nil || outcomes(r) != want {
		t.Fatalf("imported %s, %v", outcomes(r), err)
	}
	if !proto.Equal(before, getAccount(t, s, acct)) {
		t.Error("the account registered before was touched")
	}
	one := getAccount(t, s, "000000000001")
	if one.GetExternalId() != r.GetExternalId() || len(r.GetExternalId()) < 26 || one.GetName() != "one" || one.GetState() != accountPending ||
		getAccount(t, s, "000000000004").GetExternalId() != "its-own-external-id" {
		t.Errorf("imported %v", one)
	}
	// The next import goes on with the external id, for one StackSet makes all roles.
	if _, err := s.DeleteAccount(t.Context(), &accountv1.DeleteAccountRequest{Id: "000000000004"}); err != nil {
		t.Fatal(err)
	}
	next, err := s.ImportAccounts(t.Context(), &accountv1.ImportAccountsRequest{Accounts: []*accountv1.Account{{Id: "000000000005"}}})
	if err != nil || next.GetExternalId() != r.GetExternalId() {
		t.Errorf("the next has external id %s, want %s: %v", next.GetExternalId(), r.GetExternalId(), err)
	}
	none, err := s.ImportAccounts(t.Context(), &accountv1.ImportAccountsRequest{Accounts: accounts[:2]})
	if err != nil || none.GetExternalId() != "" || outcomes(none) != "UNTOUCHED UNTOUCHED" {
		t.Errorf("nothing to import: %v, %v", none, err)
	}

	req, ids := &accountv1.ListOnboardingsRequest{PageSize: 1, Filter: `state = "PENDING" AND source = "ORGANIZATION"`}, []string{}
	for {
		l, err := s.ListOnboardings(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range l.GetOnboardings() {
			ids = append(ids, o.GetAccount().GetId())
		}
		if req.PageToken = l.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if fmt.Sprint(ids) != "[000000000005 000000000001]" {
		t.Errorf("pending are %v", ids)
	}
}

// A long wait remembers how it began and how it ends.
func TestStepsAreBounded(t *testing.T) {
	t.Parallel()
	s := service(t)
	onboard(t, s, acct)
	for range 60 {
		if _, err := finishLook(s, verification(acct, no), startVerification(t, s, acct)); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(eventsOf(t, s, acct), " "); got != "account_registered onboarding_started onboarding_failed" {
		t.Errorf("of sixty failures that are the same the system log has %s", got)
	}
	r, err := finishLook(s, verification(acct, ok), startVerification(t, s, acct))
	steps := r.GetOnboarding().GetSteps()
	if err != nil || len(steps) != maxSteps || steps[0].GetState() != onboardingPending || steps[maxSteps-1].GetState() != onboardingCompleted || steps[maxSteps-1].GetAttempt() != 61 {
		t.Errorf("%d steps: %v, %v", len(steps), r.GetOnboarding(), err)
	}
}

// External ids are of crypto/rand: 130 bits, of which each is as often set as
// not, and no two alike.
func TestExternalIDsCannotBeGuessed(t *testing.T) {
	t.Parallel()
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	const n = 20_000
	seen := make(map[string]bool, n)
	var set [26 * 5]int
	for range n {
		id := newExternalID()
		text, ours := strings.CutPrefix(id, "ns-")
		if !ours || len(text) < 26 || seen[id] {
			t.Fatalf("external id %q", id)
		}
		seen[id] = true
		for i, r := range text[:26] {
			v := strings.IndexRune(alphabet, r)
			if v < 0 {
				t.Fatalf("external id %q", id)
			}
			for bit := range 5 {
				set[i*5+bit] += v >> bit & 1
			}
		}
	}
	for i, k := range set {
		// Eight standard deviations: never by chance.
		if k < n/2-566 || k > n/2+566 {
			t.Errorf("bit %d is set in %d of %d", i, k, n)
		}
	}
}

// Whatever is set of an account, a role is one of the account itself and has
// an external id, and nothing but saying so changes it.
func TestRolesHaveExternalIDs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := &account{ID: acct}
		partitions := rapid.SampledFrom([]string{"", "aws", "aws-cn"})
		role := rapid.SampledFrom([]string{"", "arn:aws:iam::111122223333:role/a", "arn:aws-cn:iam::111122223333:role/a", "arn:aws:iam::444455556666:role/b"})
		id := rapid.SampledFrom([]string{"", "mine", "another"})
		for first := true; first || rapid.Bool().Draw(t, "more"); first = false {
			was := *a
			p := &accountv1.Account{Id: acct, Partition: partitions.Draw(t, "partition"), RoleArn: role.Draw(t, "role"), ExternalId: id.Draw(t, "id")}
			paths := accountPaths
			if !first {
				paths = rapid.SliceOfNDistinct(rapid.SampledFrom(accountPaths), 1, 7, rapid.ID[string]).Draw(t, "paths")
			}
			if err := a.set(p, paths); err != nil {
				if !errors.Is(err, errs.InvalidArgument) {
					t.Fatal(err)
				}
				if first {
					return
				}
				*a = was
				continue
			}
			if a.RoleARN != "" && (a.ExternalID == "" || !strings.HasPrefix(a.RoleARN, "arn:"+a.Partition+":iam::"+acct+":")) {
				t.Fatalf("%+v of %v by %v", a, p, paths)
			}
			if !slices.Contains(paths, "external_id") && was.ExternalID != "" && a.ExternalID != was.ExternalID {
				t.Fatalf("the external id went from %s to %s by %v", was.ExternalID, a.ExternalID, paths)
			}
			if slices.Contains(paths, "external_id") && p.GetExternalId() != "" && a.ExternalID != p.GetExternalId() {
				t.Fatalf("the external id is %s, chosen was %s", a.ExternalID, p.GetExternalId())
			}
		}
	})
}

// A database of the first version comes along, and goes back.
func TestAccountsOfBefore(t *testing.T) {
	t.Parallel()
	s, _ := replica(t, devtest.DB(t, migrated))
	if _, err := s.bun.Exec(`INSERT INTO accounts (id, name, partition, role_arn, external_id, regions, owner, labels, state, create_time, update_time)
		VALUES (?, '', 'aws', 'arn:aws:iam::444455556666:role/elsewhere', '', '{}', '', '{}', 1, now(), now())`, acct); err != nil {
		t.Fatal(err)
	}
	// It was registered with a role of another account and without external id; that can be lived with until somebody changes it.
	r, err := s.UpdateAccount(t.Context(), &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: acct, Owner: "ops"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"owner"}}})
	if err != nil || r.GetAccount().GetExternalId() != "" {
		t.Errorf("updated %v, %v", r, err)
	}
	r, err = s.UpdateAccount(t.Context(), &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: acct, RoleArn: "arn:aws:iam::111122223333:role/here"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"role_arn"}}})
	if err != nil || r.GetAccount().GetExternalId() == "" {
		t.Errorf("updated %v, %v", r, err)
	}
	if _, err := s.CreateOnboarding(t.Context(), &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: acct}}); !errors.Is(err, errs.AlreadyExists) {
		t.Errorf("onboarded what was added: %v", err)
	}
}
