package persistence

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/bus"
)

// markEvents are the short names of the events about marks in the outbox, which it
// empties.
func markEvents(t testing.TB, s *Service) (names []string) {
	t.Helper()
	for _, name := range waiting(t, s) {
		if name == "FindingOrphaned" || name == "FindingReclaimed" {
			names = append(names, name)
		}
	}
	mustExec(t, s, "DELETE FROM outbox")
	return names
}

// Findings of an account, or a region, that leaves the scope of scans are
// marked; the mark goes when it has come back and a scan has looked.
func TestOrphans(t *testing.T) {
	t.Parallel()
	s, clk := clocked(t)
	ctx := t.Context()
	regions := func(add bool, in ...string) {
		t.Helper()
		a := &accountv1.Account{Id: here.GetAccount(), Regions: in, State: accountv1.AccountState_ACCOUNT_STATE_SUSPENDED}
		var err error
		if add {
			_, err = s.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: a})
		} else {
			_, err = s.UpdateAccount(ctx, &accountv1.UpdateAccountRequest{Account: a, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"regions"}}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mark := func(marked, reclaimed int64) {
		t.Helper()
		if p := preview(t, s, retentionv1.Target_TARGET_ORPHANS, clk.now().Add(-2*time.Hour), 0); p.GetCount() != marked {
			t.Errorf("%d would be marked, want %d", p.GetCount(), marked)
		}
		sum, err := removeAll(ctx, s, retentionv1.Target_TARGET_ORPHANS, clk.now().Add(-2*time.Hour), 0, 2)
		if err != nil || sum.GetCount() != marked || sum.GetReclaimed() != reclaimed {
			t.Errorf("marked %v, want %d and %d: %v", sum, marked, reclaimed, err)
		}
	}
	var ids []string
	observe := func(n int) {
		t.Helper()
		clk.set(at(n))
		scanOnce(t, s, n, complete, violation("vol-1", at(n)), violation("vol-2", at(n)), violation("vol-3", at(n)))
	}
	for _, v := range []string{"vol-1", "vol-2", "vol-3"} {
		ids = append(ids, violation(v, at(0)).GetFindingId())
	}
	is := func(want findingv1.OrphanReason) {
		t.Helper()
		for _, id := range ids {
			f := getFinding(t, s, id)
			if f.GetOrphanReason() != want || (f.GetOrphanTime() != nil) != (want != 0) || f.GetState() != findingv1.State_STATE_OPEN {
				t.Errorf("%s is an orphan because %s since %v, and %s", id, f.GetOrphanReason(), f.GetOrphanTime().AsTime(), f.GetState())
			}
		}
	}
	const lost, out = findingv1.OrphanReason_ORPHAN_REASON_ACCOUNT_REMOVED, findingv1.OrphanReason_ORPHAN_REASON_REGION_REMOVED

	regions(true)
	observe(1)
	markEvents(t, s)
	mark(0, 0)
	is(0)
	if _, err := s.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: here.GetAccount()}); err != nil {
		t.Fatal(err)
	}
	clk.set(at(2))
	mark(3, 0)
	is(lost)
	if got := markEvents(t, s); !slices.Equal(got, []string{"FindingOrphaned", "FindingOrphaned", "FindingOrphaned"}) {
		t.Errorf("said %v", got)
	}
	mark(0, 0) // once
	resp, err := s.ListFindings(ctx, &findingv1.ListFindingsRequest{Filter: `orphan_time > "2000-01-01T00:00:00Z"`})
	if err != nil || len(resp.GetFindings()) != 3 {
		t.Errorf("a filter finds %d: %v", len(resp.GetFindings()), err)
	}

	// Coming back is not enough: a scan has to have looked.
	regions(true)
	clk.set(at(3))
	mark(0, 0)
	is(lost)
	observe(4)
	is(0)
	if got := markEvents(t, s); !slices.Equal(got, []string{"FindingReclaimed", "FindingReclaimed", "FindingReclaimed"}) {
		t.Errorf("said %v", got)
	}
	resp, err = s.ListFindings(ctx, &findingv1.ListFindingsRequest{Filter: `orphan_time > "2000-01-01T00:00:00Z"`})
	if err != nil || len(resp.GetFindings()) != 0 {
		t.Errorf("a filter finds %d: %v", len(resp.GetFindings()), err)
	}

	// A region that is left out. A scan that was under way then does not take the mark away.
	regions(false, "us-east-1")
	clk.set(at(5))
	mark(3, 0)
	is(out)
	observe(6)
	is(out)
	regions(false, "eu-west-1", "us-east-1")
	clk.set(at(7))
	mark(0, 3) // the scan has looked since the mark was made
	is(0)
	markEvents(t, s)

	// What is proven gone has no mark, and is never given one.
	regions(false, "us-east-1")
	mark(3, 0)
	regions(false)
	clk.set(at(8))
	scanOnce(t, s, 8, complete, volume(here, "vol-1", rulev1.Outcome_OUTCOME_COMPLIANT, at(8)), violation("vol-2", at(8)), violation("vol-3", at(8)))
	for _, id := range ids {
		if f := getFinding(t, s, id); f.GetOrphanTime() != nil {
			t.Errorf("%s has a mark", id)
		}
	}
	regions(false, "us-east-1")
	mark(2, 0)
}

// The events of marks go out, each once, and are about the finding.
func TestOrphanEvents(t *testing.T) {
	t.Parallel()
	s := service(t)
	p := s.bus.(*taken)
	scanOnce(t, s, 1, complete, violation("vol-1", at(1)))
	if _, err := s.relayOnce(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	p.messages = nil
	if _, err := removeAll(t.Context(), s, retentionv1.Target_TARGET_ORPHANS, epoch, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.relayOnce(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if len(p.messages) != 1 {
		t.Fatalf("%d events", len(p.messages))
	}
	m := p.messages[0].Message.(*findingv1.FindingOrphaned)
	if m.GetOrphan().GetReason() != findingv1.OrphanReason_ORPHAN_REASON_ACCOUNT_REMOVED || m.GetFinding().GetId() != violation("vol-1", at(1)).GetFindingId() || m.GetFinding().GetOrphanTime() == nil {
		t.Errorf("event %v", m)
	}
	for _, e := range bus.Events() {
		if e.Short() == "FindingOrphaned" && !strings.HasPrefix(e.Subject(m), "nightshift.finding.v1.FindingOrphaned.waste.low."+here.GetAccount()+".eu-west-1.") {
			t.Errorf("subject %s", e.Subject(m))
		}
	}
}
