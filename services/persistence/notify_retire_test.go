package persistence

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
)

func TestWhatWasToldGoes(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	oncall(t, s)
	hour := time.Hour
	addNotice(t, s, grouped("told", "FindingOpened", "f1", c.now()), grouped("told", "FindingResolved", "f1", c.now().Add(1)), grouped("open", "FindingOpened", "f2", c.now()))
	for _, g := range claimGroups(t, s).GetGroups() {
		flush(t, s, flushOf(g))
	}
	finishDelivery(t, s, claimDeliveries(t, s).GetDeliveries()[0])
	addNotice(t, s, grouped("waits", "FindingOpened", "f3", c.now()))
	x, err := s.CreateSilence(t.Context(), &notificationv1.CreateSilenceRequest{Silence: &notificationv1.Silence{Filter: `account = "1"`, Author: "ana", Comment: "why", ExpireTime: timestamppb.New(c.now().Add(hour))}})
	if err != nil {
		t.Fatal(err)
	}

	remove := func(target retentionv1.Target, want int64) {
		t.Helper()
		before := c.now().Add(-2 * hour)
		p := preview(t, s, target, before, 0)
		got, err := removeAll(t.Context(), s, target, before, 0, 1)
		if err != nil || got.GetCount() != want || p.GetCount() != want {
			t.Errorf("%s: previewed %v, removed %v, %v; want %d", target, p, got, err, want)
		}
	}
	all := func(want int64) {
		t.Helper()
		for _, target := range []retentionv1.Target{retentionv1.Target_TARGET_NOTICES, retentionv1.Target_TARGET_DELIVERIES, retentionv1.Target_TARGET_SILENCES} {
			remove(target, want)
		}
	}
	c.advance(2 * hour)
	all(0)
	c.advance(2 * hour)
	remove(retentionv1.Target_TARGET_NOTICES, 3)
	remove(retentionv1.Target_TARGET_DELIVERIES, 1) // the other is pending
	remove(retentionv1.Target_TARGET_SILENCES, 1)
	if p := preview(t, s, retentionv1.Target_TARGET_NOTICES, c.now().Add(-2*hour), 0); len(p.GetRetained()) != 1 || p.GetRetained()[0].GetCount() != 1 {
		t.Errorf("what waits: %v", p)
	}
	if _, err := s.ExpireSilence(t.Context(), &notificationv1.ExpireSilenceRequest{Id: x.GetSilence().GetId()}); err == nil {
		t.Error("the silence is there")
	}
	// A group counts its messages on while receivers may remember their keys.
	c.advance(24 * hour)
	all(0)
	addNotice(t, s, grouped("told", "FindingOpened", "f1", c.now()))
	numbers := map[string]int64{}
	for _, g := range claimGroups(t, s).GetGroups() {
		numbers[g.GetMessage().GetGroup()["account"]] = g.GetNumber()
		flush(t, s, flushOf(g))
	}
	if numbers["told"] != 2 || numbers["waits"] != 1 {
		t.Errorf("numbers: %v", numbers)
	}
	addNotice(t, s, grouped("told", "FindingResolved", "f1", c.now().Add(1)))
	for _, g := range claimGroups(t, s).GetGroups() {
		flush(t, s, flushOf(g))
	}
	c.advance(100 * 24 * hour)
	remove(retentionv1.Target_TARGET_NOTICES, 3)
	if got := strs(t, s, "SELECT labels->>'account' FROM notice_groups ORDER BY 1"); len(got) != 2 || got[0] != "open" || got[1] != "waits" {
		t.Errorf("groups that stay: %v; those with open findings do", got)
	}
}
