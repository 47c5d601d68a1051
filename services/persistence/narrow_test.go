package persistence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	exemptionv1 "nightshift.dev/gen/nightshift/exemption/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	inventoryv1 "nightshift.dev/gen/nightshift/inventory/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
)

const mine, others = "111122223333", "999988887777"

// twoAccounts is a service that knows the same of two accounts.
func twoAccounts(t *testing.T) (s *Service, findings, onboardings, exemptions map[string]string) {
	t.Helper()
	s = service(t)
	findings, onboardings, exemptions = map[string]string{}, map[string]string{}, map[string]string{}
	for n, account := range []string{mine, others} {
		sc := &scanv1.Scope{Service: "waste", Account: account, Region: "eu-west-1"}
		run := fmt.Sprintf("waste-scan/%d", n)
		startRun(t, s, run, sc)
		var seen []*scanv1.Observation
		for v := range 3 {
			seen = append(seen, volume(sc, fmt.Sprintf("vol-%s-%d", account, v), rulev1.Outcome_OUTCOME_VIOLATION, at(0)))
		}
		observe(t, s, &findingv1.FindingsObserved{RunId: run, Scope: sc, Execution: "1.1", Sequence: 1, Observations: seen})
		finishScope(t, s, finished(run, "1.1", 1, at(0), complete, func(f *scanv1.ScopeFinished) { f.Scope = sc }))
		findings[account] = idOf(sc, "ebs-unattached", seen[0].GetResource().GetArn())

		o, err := s.CreateOnboarding(t.Context(), &accountv1.CreateOnboardingRequest{Account: &accountv1.Account{Id: account, Name: "of " + account}})
		if err != nil {
			t.Fatal(err)
		}
		onboardings[account] = o.GetOnboarding().GetId()
		x, err := s.CreateExemption(t.Context(), &exemptionv1.CreateExemptionRequest{Exemption: &exemptionv1.Exemption{
			Filter: fmt.Sprintf("account = %q AND resource_id : %q", account, "-2"), By: "ops", Reason: "because", ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
		}})
		if err != nil {
			t.Fatal(err)
		}
		exemptions[account] = x.GetExemption().GetId()
		i := anInstance(n)
		i.Account, i.Arn = account, strings.ReplaceAll(i.GetArn(), mine, account)
		if _, err := s.RecordInstances(t.Context(), &inventoryv1.RecordInstancesRequest{Account: account, Region: "eu-west-1", ScanTime: timestamppb.New(at(0)), Complete: true,
			Records: []*inventoryv1.InstanceRecord{{Instance: i, Days: []*inventoryv1.InstanceDay{aDay(0, figure(10, 24), 3)}}}}); err != nil {
			t.Fatal(err)
		}
	}
	return s, findings, onboardings, exemptions
}

// taking is a stream that keeps what is sent and ends after enough.
type taking[M any] struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelFunc
	enough func(sent []*M) bool
	sent   []*M
}

func (s *taking[M]) Context() context.Context { return s.ctx }
func (s *taking[M]) Send(m *M) error {
	if s.sent = append(s.sent, m); s.enough(s.sent) {
		s.cancel()
		return io.EOF
	}
	return nil
}

func text(t *testing.T, ms ...proto.Message) string {
	t.Helper()
	var out strings.Builder
	for _, m := range ms {
		b, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	return out.String()
}

// Whatever is listed for a caller of one account has all of that and nothing
// of another.
func TestCallersOfOneAccountSeeThat(t *testing.T) {
	t.Parallel()
	s, findings, onboardings, exemptions := twoAccounts(t)
	one, two := bearing(t.Context(), authv1.Role_ROLE_ADMIN, mine), bearing(t.Context(), authv1.Role_ROLE_ADMIN, mine, others)
	instances := map[string]string{mine: anInstance(0).GetId(), others: anInstance(1).GetId()}
	for name, list := range map[string]func(ctx context.Context) (proto.Message, error){
		"findings": func(ctx context.Context) (proto.Message, error) {
			return s.ListFindings(ctx, &findingv1.ListFindingsRequest{})
		},
		"findings by a filter that wants out": func(ctx context.Context) (proto.Message, error) {
			return s.ListFindings(ctx, &findingv1.ListFindingsRequest{Filter: `account = "` + others + `" OR account != "" OR severity >= "INFO"`})
		},
		"sums": func(ctx context.Context) (proto.Message, error) {
			return s.SummarizeFindings(ctx, &findingv1.SummarizeFindingsRequest{Facets: allFacets})
		},
		"sums of findings": func(ctx context.Context) (proto.Message, error) {
			return s.SummarizeFindings(ctx, &findingv1.SummarizeFindingsRequest{Facets: allFacets, Filter: `id >= ""`})
		},
		"accounts": func(ctx context.Context) (proto.Message, error) {
			return s.ListAccounts(ctx, &accountv1.ListAccountsRequest{})
		},
		"onboardings": func(ctx context.Context) (proto.Message, error) {
			return s.ListOnboardings(ctx, &accountv1.ListOnboardingsRequest{})
		},
		"exemptions": func(ctx context.Context) (proto.Message, error) {
			return s.ListExemptions(ctx, &exemptionv1.ListExemptionsRequest{ShowExpired: true})
		},
		"instances": func(ctx context.Context) (proto.Message, error) {
			return s.ListInstances(ctx, &inventoryv1.ListInstancesRequest{})
		},
		"log": func(ctx context.Context) (proto.Message, error) {
			return s.ListEntries(ctx, &systemlogv1.ListEntriesRequest{PageSize: 1000})
		},
	} {
		for _, c := range []struct {
			ctx  context.Context
			also bool
		}{{one, false}, {two, true}, {t.Context(), true}} {
			m, err := list(c.ctx)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got := text(t, m); !strings.Contains(got, mine) || strings.Contains(got, others) != c.also {
				t.Errorf("%s, others too %v: %s", name, c.also, got)
			}
		}
	}
	sums := func(ctx context.Context, filter string) *findingv1.SummarizeFindingsResponse {
		r, err := s.SummarizeFindings(ctx, &findingv1.SummarizeFindingsRequest{Filter: filter, Facets: allFacets})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if a, b := sums(one, ""), sums(t.Context(), `account = "`+mine+`"`); !proto.Equal(a, b) || a.GetTotals().GetFindings() != 3 {
		t.Errorf("%v is not %v", a, b)
	}
	days := func(ctx context.Context, filter string) *findingv1.ListFindingDaysResponse {
		r, err := s.ListFindingDays(ctx, &findingv1.ListFindingDaysRequest{Filter: filter})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if a, b, all := days(one, ""), days(t.Context(), `account = "`+mine+`"`), days(t.Context(), ""); !proto.Equal(a, b) || proto.Equal(a, all) {
		t.Errorf("%v is not %v", a, b)
	}

	// What is named by its id is there, or is not, and what is another's is not.
	for name, get := range map[string]func(ctx context.Context, account string) error{
		"finding": func(ctx context.Context, account string) error {
			_, err := s.GetFinding(ctx, &findingv1.GetFindingRequest{Id: findings[account]})
			return err
		},
		"transitions": func(ctx context.Context, account string) error {
			_, err := s.ListTransitions(ctx, &findingv1.ListTransitionsRequest{FindingId: findings[account]})
			return err
		},
		"onboarding": func(ctx context.Context, account string) error {
			_, err := s.GetOnboarding(ctx, &accountv1.GetOnboardingRequest{Id: onboardings[account]})
			return err
		},
		"exemption": func(ctx context.Context, account string) error {
			_, err := s.GetExemption(ctx, &exemptionv1.GetExemptionRequest{Id: exemptions[account]})
			return err
		},
		"changed exemption": func(ctx context.Context, account string) error {
			_, err := s.UpdateExemption(ctx, &exemptionv1.UpdateExemptionRequest{Exemption: &exemptionv1.Exemption{Id: exemptions[account], By: "x", Reason: "y", ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}})
			return err
		},
		"instance": func(ctx context.Context, account string) error {
			_, err := s.GetInstance(ctx, &inventoryv1.GetInstanceRequest{Id: instances[account]})
			return err
		},
		"days of an instance": func(ctx context.Context, account string) error {
			_, err := s.ListInstanceDays(ctx, &inventoryv1.ListInstanceDaysRequest{Id: instances[account]})
			return err
		},
		"batch": func(ctx context.Context, account string) error {
			r, err := s.BatchUpdateFindings(ctx, &findingv1.BatchUpdateFindingsRequest{Findings: []*findingv1.FindingRef{{Id: findings[account]}},
				Action: &findingv1.BatchUpdateFindingsRequest_Comment{Comment: &findingv1.Comment{Text: "hello"}}})
			if e := r.GetResults(); err == nil && len(e) == 1 && e[0].GetError() != nil {
				if e[0].GetError().GetReason() != "FINDING_NOT_FOUND" || e[0].GetFinding() != nil {
					t.Errorf("%v", e)
				}
				return errs.NotFound
			}
			return err
		},
	} {
		if err := get(one, mine); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := get(one, others); !errors.Is(err, errs.NotFound) {
			t.Errorf("%s of another account: %v", name, err)
		}
		if err := get(two, others); err != nil {
			t.Errorf("%s by who may: %v", name, err)
		}
	}
	life := text(t, &findingv1.ListTransitionsResponse{Transitions: transitions(t, s, findings[mine])})
	if !strings.Contains(life, "hello") || !strings.Contains(life, `"maria"`) || strings.Contains(text(t, &findingv1.ListTransitionsResponse{Transitions: transitions(t, s, findings[others])}), "nobody") {
		t.Errorf("%s", life)
	}

	// An exemption is for one's own accounts for sure, or is not made.
	for filter, may := range map[string]bool{
		`account = "` + mine + `"`: true, `account = "` + mine + `" AND rule_id = "x"`: true, `rule_id = "x" AND (account = "` + mine + `" AND region = "y" OR account = "` + mine + `")`: true,
		`rule_id = "x"`: false, `account = "` + others + `"`: false, `account = "` + mine + `" OR rule_id = "x"`: false, `account = "` + mine + `" OR account = "` + others + `"`: false,
		`NOT account = "` + others + `" AND rule_id = "x"`: false, `NOT (account != "` + mine + `") AND rule_id = "x"`: false, `account : "` + mine + `"`: false, `account >= "` + mine + `" AND rule_id = "x"`: false,
	} {
		_, err := s.CreateExemption(one, &exemptionv1.CreateExemptionRequest{ValidateOnly: true, Exemption: &exemptionv1.Exemption{Filter: filter, Reason: "because", ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}})
		if (err == nil) != may || err != nil && errs.Reason(err) != "ACCOUNT_OUT_OF_SCOPE" {
			t.Errorf("%s: %v", filter, err)
		}
	}
}

// Watches tell of one's own accounts alone.
func TestCallersOfOneAccountHearOfThat(t *testing.T) {
	t.Parallel()
	s, _, _, _ := twoAccounts(t)
	var all []proto.Message
	ctx, cancel := context.WithCancel(bearing(t.Context(), authv1.Role_ROLE_VIEWER, mine))
	n := 0
	watch := &taking[findingv1.WatchFindingsResponse]{ctx: ctx, cancel: cancel, enough: func(sent []*findingv1.WatchFindingsResponse) bool {
		if sent[len(sent)-1].GetFinding() != nil {
			n++
		}
		return n == 4 // three opened, one exempted
	}}
	if err := s.WatchFindings(&findingv1.WatchFindingsRequest{FromStart: true}, watch); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for _, m := range watch.sent {
		all = append(all, m)
	}
	if got := text(t, all...); strings.Contains(got, others) || !strings.Contains(got, mine) {
		t.Errorf("%s", got)
	}
	ctx, cancel = context.WithCancel(bearing(t.Context(), authv1.Role_ROLE_VIEWER, mine))
	log := &taking[systemlogv1.WatchEntriesResponse]{ctx: ctx, cancel: cancel, enough: func(sent []*systemlogv1.WatchEntriesResponse) bool { return len(sent[len(sent)-1].GetEntries()) > 0 }}
	if err := s.WatchEntries(&systemlogv1.WatchEntriesRequest{SinceTime: timestamppb.New(time.Now().Add(-time.Minute))}, log); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	all = nil
	for _, m := range log.sent {
		all = append(all, m)
	}
	if got := text(t, all...); strings.Contains(got, others) || !strings.Contains(got, mine) {
		t.Errorf("%s", got)
	}
}
