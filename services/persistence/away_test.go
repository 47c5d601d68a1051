package persistence

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

// An account is denied for a week, then deleted, and comes back after a quarter of
// a year of cleanups. Its findings are kept all the time, are orphans while nobody
// looks, and are the same ones afterwards: what is still so has nothing new to
// tell, and what is gone is resolved on proof.
func TestAccountThatIsAwayAndComesBack(t *testing.T) {
	t.Parallel()
	s, clk := clocked(t)
	ctx := t.Context()
	const bad, good = rulev1.Outcome_OUTCOME_VIOLATION, rulev1.Outcome_OUTCOME_COMPLIANT
	hour := 0
	pass := func(days int) { hour += 24 * days; clk.set(at(hour)) }
	saw := func(outcomes map[string]rulev1.Outcome) {
		t.Helper()
		var o []*scanv1.Observation
		for _, name := range []string{"still", "mended", "deleted"} {
			if outcome, there := outcomes[name]; there {
				o = append(o, volume(here, name, outcome, at(hour)))
			}
		}
		if r := scanOnce(t, s, hour, complete, o...); r.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED {
			t.Fatalf("a scan ended %s: %s", r.GetState(), r.GetError())
		}
	}
	register := func() {
		t.Helper()
		if _, err := s.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: here.GetAccount(), Name: "shop", Owner: "ana"}}); err != nil {
			t.Fatal(err)
		}
	}
	cleanUp := func() (marked int64) {
		t.Helper()
		for _, target := range allTargets {
			sum, err := removeAll(ctx, s, target, clk.now().Add(-90*24*time.Hour), 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			if target == retentionv1.Target_TARGET_ORPHANS {
				marked = sum.GetCount()
			}
		}
		return marked
	}
	names := []string{"still", "mended", "deleted"}
	ids := make([]string, len(names))
	for i, name := range names {
		ids[i] = volume(here, name, bad, at(0)).GetFindingId()
	}
	var first []*findingv1.Finding
	same := func(when string, orphan bool) {
		t.Helper()
		for i, id := range ids {
			f := getFinding(t, s, id)
			if f.GetState() != findingv1.State_STATE_OPEN || !f.GetFirstSeen().AsTime().Equal(first[i].GetFirstSeen().AsTime()) || f.GetAssignee() != "bob" || f.GetAcknowledgement().GetBy() != "ana" || f.GetReopenCount() != 0 {
				t.Errorf("%s: %s is %v", when, names[i], f)
			}
			if (f.GetOrphanTime() != nil) != orphan {
				t.Errorf("%s: %s is an orphan since %v", when, names[i], f.GetOrphanTime().AsTime())
			}
		}
	}

	register()
	saw(map[string]rulev1.Outcome{"still": bad, "mended": bad, "deleted": bad})
	for _, req := range []*findingv1.BatchUpdateFindingsRequest{acknowledge(nil), assign("bob")} {
		for _, id := range ids {
			req.Findings = append(req.Findings, &findingv1.FindingRef{Id: id})
		}
		if resp, err := s.BatchUpdateFindings(ctx, req); err != nil || resp.GetResults()[0].GetError() != nil {
			t.Fatal(resp, err)
		}
	}
	for _, id := range ids {
		first = append(first, getFinding(t, s, id))
	}
	mustExec(t, s, "DELETE FROM outbox")

	// A week in which the role may be assumed and may list nothing, or cannot be
	// assumed at all.
	for n := range 7 {
		pass(1)
		if n%2 == 0 {
			scanOnce(t, s, hour, denied)
		} else {
			id := fmt.Sprintf("waste-scan/%d", hour)
			startRun(t, s, id)
			if _, err := s.PlanRun(ctx, &runv1.PlanRunRequest{RunId: id, Scopes: []*runv1.PlannedScope{{Scope: here, Failure: &scanv1.Coverage{ResourceType: "*", Status: denied, Error: "no role"}}}}); err != nil {
				t.Fatal(err)
			}
		}
		cleanUp()
		same("denied", false)
	}
	if _, err := s.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: here.GetAccount()}); err != nil {
		t.Fatal(err)
	}
	pass(1)
	if marked := cleanUp(); marked != 3 {
		t.Errorf("%d findings were marked as orphans", marked)
	}
	same("deleted", true)
	for range 4 {
		pass(25)
		cleanUp()
	}
	same("long gone", true)
	if got := markEvents(t, s); !slices.Equal(got, []string{"FindingOrphaned", "FindingOrphaned", "FindingOrphaned"}) {
		t.Errorf("said %v", got)
	}

	// It comes back, and a scan looks.
	register()
	pass(1)
	cleanUp()
	same("registered again", true)
	saw(map[string]rulev1.Outcome{"still": bad, "mended": good})
	saw2 := hour
	pass(1)
	saw(map[string]rulev1.Outcome{"still": bad, "mended": good})
	for i, want := range []findingv1.State{findingv1.State_STATE_OPEN, findingv1.State_STATE_RESOLVED, findingv1.State_STATE_RESOLVED} {
		f := getFinding(t, s, ids[i])
		if f.GetState() != want || f.GetOrphanTime() != nil || !f.GetFirstSeen().AsTime().Equal(first[i].GetFirstSeen().AsTime()) {
			t.Errorf("%s is %v", names[i], f)
		}
	}
	if f := getFinding(t, s, ids[0]); f.GetAssignee() != "bob" || f.GetAcknowledgement().GetBy() != "ana" || !f.GetLastSeen().AsTime().Equal(at(hour)) {
		t.Errorf("what is still so is %v", f)
	}
	if f := getFinding(t, s, ids[1]); !f.GetResolveTime().AsTime().Equal(at(saw2)) {
		t.Errorf("what was mended is resolved at %v", f.GetResolveTime().AsTime())
	}
	// Whoever listens hears that all are looked at again, and of what has changed; nothing opens anew.
	got := waiting(t, s)
	slices.Sort(got)
	if want := []string{"FindingReclaimed", "FindingReclaimed", "FindingReclaimed", "FindingResolved", "FindingResolved"}; !slices.Equal(slices.DeleteFunc(got, func(name string) bool { return !strings.HasPrefix(name, "Finding") }), want) {
		t.Errorf("said %v, want %v", got, want)
	}
}
