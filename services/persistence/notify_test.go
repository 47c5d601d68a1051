package persistence

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
)

func keyOfGroup(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

func slackTo(name string) *notificationv1.Receiver {
	return &notificationv1.Receiver{Name: name, Medium: &notificationv1.Receiver_Slack{Slack: &notificationv1.Slack{UrlSecret: "env:NIGHTSHIFT_SECRET_SLACK"}}}
}

func setReceiver(t testing.TB, s *Service, r *notificationv1.Receiver) *notificationv1.Receiver {
	t.Helper()
	resp, err := s.SetReceiver(t.Context(), &notificationv1.SetReceiverRequest{Receiver: r})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetReceiver()
}

func setRoute(t testing.TB, s *Service, r *notificationv1.Route) *notificationv1.Route {
	t.Helper()
	resp, err := s.SetRoute(t.Context(), &notificationv1.SetRouteRequest{Route: r})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetRoute()
}

// oncall is a route to one receiver.
func oncall(t testing.TB, s *Service) {
	t.Helper()
	setReceiver(t, s, slackTo("oncall"))
	setRoute(t, s, &notificationv1.Route{Name: "everything", Receivers: []string{"oncall"}})
}

// grouped is an event about a finding in a group of the route everything, due
// at once.
func grouped(group, event, finding string, when time.Time, set ...func(*notificationv1.GroupedNotice)) *notificationv1.GroupedNotice {
	state := findingv1.State_STATE_OPEN
	if event == "FindingResolved" {
		state = findingv1.State_STATE_RESOLVED
	}
	g := &notificationv1.GroupedNotice{
		Route: "everything", Receivers: []string{"oncall"}, GroupKey: keyOfGroup(group), Group: map[string]string{"account": group}, DueTime: timestamppb.New(when),
		Notice: &notificationv1.Notice{
			EventId: fmt.Sprintf("%s/%s/%d", finding, event, when.UnixNano()), Event: event, Time: timestamppb.New(when),
			Finding: &findingv1.Finding{
				Id: finding, RuleId: "ebs-unattached", Category: rulev1.Category_CATEGORY_WASTE, Severity: rulev1.Severity_SEVERITY_LOW, State: state, Title: "Unattached volume",
				Resource: &scanv1.Resource{Account: "111122223333"}, MonthlyCost: &rulev1.MonthlyCost{Low: 8, High: 10},
			},
		},
	}
	for _, f := range set {
		f(g)
	}
	return g
}

func addNotice(t testing.TB, s *Service, notices ...*notificationv1.GroupedNotice) int64 {
	t.Helper()
	resp, err := s.AddNotices(t.Context(), &notificationv1.AddNoticesRequest{Notices: notices})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetAdded()
}

var aMinute = durationpb.New(time.Minute)

func claimGroups(t testing.TB, s *Service) *notificationv1.ClaimGroupsResponse {
	t.Helper()
	resp, err := s.ClaimGroups(t.Context(), &notificationv1.ClaimGroupsRequest{Limit: 100, Lease: aMinute})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// flushOf tells of a claimed group as it is.
func flushOf(c *notificationv1.ClaimedGroup) *notificationv1.FlushGroupRequest {
	req := &notificationv1.FlushGroupRequest{GroupKey: c.GetGroupKey(), LeaseId: c.GetLeaseId(), Through: c.GetThrough()}
	for _, r := range c.GetReceivers() {
		req.Deliveries = append(req.Deliveries, &notificationv1.Delivery{Receiver: r, Message: c.GetMessage(), IdempotencyKey: fmt.Sprint(c.GetGroupKey(), c.GetNumber())})
	}
	return req
}

func flush(t testing.TB, s *Service, req *notificationv1.FlushGroupRequest) []string {
	t.Helper()
	resp, err := s.FlushGroup(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetDeliveryIds()
}

func claimDeliveries(t testing.TB, s *Service) *notificationv1.ClaimDeliveriesResponse {
	t.Helper()
	resp, err := s.ClaimDeliveries(t.Context(), &notificationv1.ClaimDeliveriesRequest{Limit: 100, Lease: aMinute})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func finishDelivery(t testing.TB, s *Service, d *notificationv1.ClaimedDelivery, set ...func(*notificationv1.FinishDeliveryRequest)) *notificationv1.ReceiverHealth {
	t.Helper()
	req := &notificationv1.FinishDeliveryRequest{Id: d.GetDelivery().GetId(), LeaseId: d.GetLeaseId(), Attempt: &notificationv1.Attempt{Ok: true, Detail: "200"}}
	for _, f := range set {
		f(req)
	}
	resp, err := s.FinishDelivery(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetHealth()
}

// failing is a failure of the receiver, to be tried again at a time.
func failing(next time.Time) func(*notificationv1.FinishDeliveryRequest) {
	return func(r *notificationv1.FinishDeliveryRequest) {
		r.Attempt = &notificationv1.Attempt{Detail: "503 from the receiver"}
		r.NextAttemptTime, r.ReceiverFailed = timestamppb.New(next), true
	}
}

func eventIDs(m *notificationv1.Message) (ids []string) {
	for _, n := range m.GetNotices() {
		ids = append(ids, n.GetEventId())
	}
	return ids
}

func TestNoticesBecomeOneDelivery(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	oncall(t, s)
	free := grouped("a", "FindingOpened", "f2", c.now())
	free.Notice.Finding.MonthlyCost, free.Notice.Finding.Severity, free.Notice.Finding.RuleId = nil, rulev1.Severity_SEVERITY_HIGH, "eip-idle"
	run := grouped("a", "RunAlertRaised", "", c.now())
	run.Notice.Finding = nil
	notices := []*notificationv1.GroupedNotice{
		grouped("a", "FindingOpened", "f1", c.now()), free, run,
		grouped("a", "FindingResolved", "f3", c.now(), func(g *notificationv1.GroupedNotice) { g.Notice.Finding.Severity = rulev1.Severity_SEVERITY_CRITICAL }),
		grouped("a", "FindingReopened", "f1", c.now().Add(time.Second)), // the same money once
	}
	if n := addNotice(t, s, notices...); n != 5 {
		t.Fatalf("%d added, want 5", n)
	}
	if n := addNotice(t, s, notices...); n != 0 {
		t.Fatalf("%d added again, want 0", n)
	}
	got := claimGroups(t, s)
	if len(got.GetGroups()) != 1 {
		t.Fatalf("claimed %v", got)
	}
	g := got.GetGroups()[0]
	want := &notificationv1.Message{
		Route: "everything", Group: map[string]string{"account": "a"}, GroupKey: keyOfGroup("a"), Events: 5, Severity: rulev1.Severity_SEVERITY_CRITICAL,
		ByEvent:    []*notificationv1.Count{{Value: "FindingOpened", Events: 2}, {Value: "FindingReopened", Events: 1}, {Value: "FindingResolved", Events: 1}, {Value: "RunAlertRaised", Events: 1}},
		BySeverity: []*notificationv1.Count{{Value: "CRITICAL", Events: 1}, {Value: "HIGH", Events: 1}, {Value: "LOW", Events: 2}},
		ByRule:     []*notificationv1.Count{{Value: "ebs-unattached", Events: 3}, {Value: "eip-idle", Events: 1}}, ByAccount: []*notificationv1.Count{{Value: "111122223333", Events: 4}},
		MonthlyCostLow: 8, MonthlyCostHigh: 10, UnknownCosts: 1, OpenFindings: 2, StartTime: timestamppb.New(c.now()), Time: timestamppb.New(c.now()),
	}
	for _, i := range []int{1, 2, 0, 4, 3} {
		want.Notices = append(want.Notices, notices[i].GetNotice())
	}
	if !proto.Equal(g.GetMessage(), want) {
		t.Errorf("message:\n%v\nwant:\n%v", g.GetMessage(), want)
	}
	if g.GetNumber() != 1 || g.GetRepeat() || g.GetLastMessageTime() != nil || g.GetSilenced() != 0 || !slices.Equal(g.GetReceivers(), []string{"oncall"}) {
		t.Errorf("claim: %v", g)
	}
	if again := claimGroups(t, s); len(again.GetGroups()) > 0 || !again.GetNextDueTime().AsTime().Equal(c.now().Add(time.Minute)) {
		t.Errorf("claimed again: %v", again)
	}
	ids := flush(t, s, flushOf(g))
	if again := flush(t, s, flushOf(g)); len(ids) != 1 || !slices.Equal(ids, again) {
		t.Errorf("flushed %v, then %v", ids, again)
	}
	d := claimDeliveries(t, s).GetDeliveries()
	if len(d) != 1 || d[0].GetDelivery().GetId() != ids[0] || !proto.Equal(d[0].GetDelivery().GetMessage(), want) || d[0].GetReceiver().GetSlack().GetUrlSecret() != "env:NIGHTSHIFT_SECRET_SLACK" {
		t.Fatalf("deliveries: %v", d)
	}
	if h := finishDelivery(t, s, d[0]); h.GetBreaker() != notificationv1.BreakerState_BREAKER_STATE_CLOSED || h.GetPending() != 0 || !h.GetLastSuccessTime().AsTime().Equal(c.now()) {
		t.Errorf("health: %v", h)
	}
	finishDelivery(t, s, d[0]) // again
	kept, err := s.GetDelivery(t.Context(), &notificationv1.GetDeliveryRequest{Id: ids[0]})
	if err != nil || kept.GetDelivery().GetState() != notificationv1.DeliveryState_DELIVERY_STATE_DELIVERED || kept.GetDelivery().GetAttempts() != 1 || len(kept.GetDelivery().GetLog()) != 1 {
		t.Errorf("delivery: %v, %v", kept, err)
	}
	if next := claimGroups(t, s); len(next.GetGroups()) > 0 || next.GetNextDueTime() != nil {
		t.Errorf("after all: %v", next)
	}
}

func TestLeaseThatRanOutIsAnothers(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	oncall(t, s)
	addNotice(t, s, grouped("a", "FindingOpened", "f1", c.now()))
	first := claimGroups(t, s).GetGroups()[0]
	c.advance(time.Minute)
	addNotice(t, s, grouped("a", "FindingOpened", "f2", c.now()))
	second := claimGroups(t, s).GetGroups()[0]
	if second.GetMessage().GetEvents() != 2 {
		t.Errorf("second claim: %v", second)
	}
	if _, err := s.FlushGroup(t.Context(), flushOf(first)); !errors.Is(err, errs.Aborted) {
		t.Errorf("the first flush: %v", err)
	}
	flush(t, s, flushOf(second))
	one := claimDeliveries(t, s).GetDeliveries()[0]
	c.advance(time.Minute)
	two := claimDeliveries(t, s).GetDeliveries()[0]
	if one.GetDelivery().GetId() != two.GetDelivery().GetId() {
		t.Fatalf("another delivery: %v, %v", one, two)
	}
	if _, err := s.FinishDelivery(t.Context(), &notificationv1.FinishDeliveryRequest{Id: one.GetDelivery().GetId(), LeaseId: one.GetLeaseId(), Attempt: &notificationv1.Attempt{Ok: true}}); !errors.Is(err, errs.Aborted) {
		t.Errorf("the first finish: %v", err)
	}
	finishDelivery(t, s, two)
}

func TestGroupsWaitAndRemind(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	oncall(t, s)
	claimed := func(n int) []*notificationv1.ClaimedGroup {
		t.Helper()
		got := claimGroups(t, s).GetGroups()
		if len(got) != n {
			t.Fatalf("%s: claimed %d, want %d: %v", c.now(), len(got), n, got)
		}
		return got
	}
	spaced := func(g *notificationv1.GroupedNotice) { g.Interval = durationpb.New(5 * time.Minute) }
	addNotice(t, s, grouped("a", "FindingOpened", "f1", c.now().Add(30*time.Second), spaced))
	addNotice(t, s, grouped("a", "FindingOpened", "f2", c.now().Add(40*time.Second), spaced)) // no later for that
	if next := claimGroups(t, s); len(next.GetGroups()) > 0 || !next.GetNextDueTime().AsTime().Equal(c.now().Add(30*time.Second)) {
		t.Fatalf("claimed %v", next)
	}
	c.advance(30 * time.Second)
	g := claimed(1)[0]
	// What comes while it is claimed is not in it, and has its own time.
	addNotice(t, s, grouped("a", "FindingOpened", "f3", c.now().Add(30*time.Second), spaced))
	req := flushOf(g)
	req.RepeatTime = timestamppb.New(c.now().Add(time.Hour))
	flush(t, s, req)
	sent := c.now()
	c.advance(time.Minute)
	claimed(0) // five minutes between two
	c.set(sent.Add(5 * time.Minute))
	g = claimed(1)[0]
	if g.GetMessage().GetEvents() != 1 || g.GetNumber() != 2 || g.GetMessage().GetOpenFindings() != 3 || !g.GetLastMessageTime().AsTime().Equal(sent) || g.GetSentLastHour()["oncall"] != 1 {
		t.Errorf("claim %v", g)
	}
	// Postponed, and brought forward by what is urgent.
	flush(t, s, &notificationv1.FlushGroupRequest{GroupKey: g.GetGroupKey(), LeaseId: g.GetLeaseId(), PostponeTime: timestamppb.New(c.now().Add(8 * time.Hour))})
	c.advance(10 * time.Minute)
	addNotice(t, s, grouped("a", "FindingOpened", "f4", c.now(), spaced))
	claimed(0)
	addNotice(t, s, grouped("a", "FindingResolved", "f1", c.now(), spaced, func(g *notificationv1.GroupedNotice) { g.Urgent = true }))
	g = claimed(1)[0]
	if g.GetMessage().GetEvents() != 3 || g.GetMessage().GetOpenFindings() != 3 {
		t.Errorf("claim %v", g)
	}
	req = flushOf(g)
	req.RepeatTime = timestamppb.New(c.now().Add(time.Hour))
	flush(t, s, req)
	// Nothing comes: a reminder, and again while there is something open.
	c.advance(time.Hour)
	g = claimed(1)[0]
	if !g.GetRepeat() || g.GetMessage().GetEvents() != 0 || g.GetMessage().GetOpenFindings() != 3 || g.GetNumber() != 3 {
		t.Errorf("claim %v", g)
	}
	req = flushOf(g)
	req.RepeatTime = timestamppb.New(c.now().Add(time.Hour))
	flush(t, s, req)
	for _, f := range []string{"f2", "f3", "f4"} {
		addNotice(t, s, grouped("a", "FindingResolved", f, c.now(), spaced, func(g *notificationv1.GroupedNotice) { g.SilenceId = "s1" }))
	}
	c.advance(5 * time.Minute)
	g = claimed(1)[0]
	if g.GetSilenced() != 3 || g.GetSilenceId() != "s1" || g.GetMessage().GetEvents() != 0 || g.GetMessage().GetOpenFindings() != 0 || g.GetRepeat() {
		t.Errorf("claim %v", g)
	}
	req = flushOf(g)
	req.Deliveries[0].SilenceId = "s1"
	req.RepeatTime = timestamppb.New(c.now().Add(time.Hour))
	id := flush(t, s, req)[0]
	if d, err := s.GetDelivery(t.Context(), &notificationv1.GetDeliveryRequest{Id: id}); err != nil || d.GetDelivery().GetState() != notificationv1.DeliveryState_DELIVERY_STATE_SILENCED || d.GetDelivery().GetEndTime() == nil {
		t.Errorf("silenced %v, %v", d, err)
	}
	c.advance(2 * time.Hour)
	if end := claimGroups(t, s); len(end.GetGroups()) > 0 || end.GetNextDueTime() != nil {
		t.Errorf("nothing is open: %v", end)
	}
}

func TestFindingsMoveBetweenGroups(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	oncall(t, s)
	due := func(g *notificationv1.GroupedNotice) { g.DueTime = timestamppb.New(epoch) }
	open := func() map[string]int64 {
		c.advance(time.Hour)
		addNotice(t, s, grouped("low", "FindingCommented", "x", c.now()), grouped("high", "FindingCommented", "x", c.now()))
		out := map[string]int64{}
		for _, g := range claimGroups(t, s).GetGroups() {
			out[g.GetMessage().GetGroup()["account"]] = g.GetMessage().GetOpenFindings()
			flush(t, s, flushOf(g))
		}
		return out
	}
	want := func(low, high int64) {
		t.Helper()
		if got := open(); got["low"] != low || got["high"] != high {
			t.Errorf("open: %v, want %d and %d", got, low, high)
		}
	}
	addNotice(t, s, grouped("low", "FindingOpened", "f1", at(1), due), grouped("low", "FindingOpened", "f2", at(1), due))
	want(2, 0)
	addNotice(t, s, grouped("high", "FindingChanged", "f1", at(3), due)) // its severity has changed
	want(1, 1)
	addNotice(t, s, grouped("low", "FindingOpened", "f1", at(2), due)) // late
	want(1, 1)
	addNotice(t, s, grouped("high", "FindingExempted", "f1", at(4), due), grouped("low", "FindingOrphaned", "f2", at(4), due))
	want(0, 0)
	addNotice(t, s, grouped("high", "FindingReopened", "f1", at(5), due), grouped("low", "FindingReclaimed", "f2", at(5), due))
	want(1, 1)
}

func TestGroupsAreAbsorbed(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	oncall(t, s)
	setRoute(t, s, &notificationv1.Route{Name: "other", Receivers: []string{"oncall"}})
	addNotice(t, s, grouped("a", "FindingOpened", "f1", c.now()), grouped("b", "FindingOpened", "f2", c.now()), grouped("c", "FindingOpened", "f3", c.now()),
		grouped("d", "FindingOpened", "f4", c.now(), func(g *notificationv1.GroupedNotice) { g.Route = "other" }))
	by := map[string]*notificationv1.ClaimedGroup{}
	for _, g := range claimGroups(t, s).GetGroups() {
		by[g.GetGroupKey()] = g
	}
	a, b, d := by[keyOfGroup("a")], by[keyOfGroup("b")], by[keyOfGroup("d")]
	addNotice(t, s, grouped("b", "FindingOpened", "f5", c.now().Add(time.Minute)))
	req := flushOf(a)
	req.Absorbed = map[string]int64{d.GetGroupKey(): d.GetThrough()}
	_, err := s.FlushGroup(t.Context(), req)
	wantError(t, "another route", err, errs.InvalidArgument, "absorbed")
	req.Absorbed = map[string]int64{b.GetGroupKey(): b.GetThrough() + 1}
	_, err = s.FlushGroup(t.Context(), req)
	wantError(t, "another place", err, errs.InvalidArgument, "absorbed")
	req.Absorbed = map[string]int64{keyOfGroup("z"): 1}
	_, err = s.FlushGroup(t.Context(), req)
	wantError(t, "no group", err, errs.Aborted)
	req.Absorbed = map[string]int64{b.GetGroupKey(): b.GetThrough()}
	flush(t, s, req)
	_, err = s.FlushGroup(t.Context(), flushOf(b))
	if got := strs(t, s, "SELECT count(*)::text FROM deliveries"); got[0] != "1" {
		t.Errorf("deliveries: %v, %v", got, err)
	}
	c.advance(time.Minute)
	left := map[string]int64{}
	for _, g := range claimGroups(t, s).GetGroups() {
		left[g.GetGroupKey()] = g.GetMessage().GetEvents()
	}
	if len(left) != 3 || left[b.GetGroupKey()] != 1 || left[keyOfGroup("c")] != 1 || left[keyOfGroup("d")] != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestRouteTakesWhatWaitsWithIt(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	oncall(t, s)
	addNotice(t, s, grouped("a", "FindingOpened", "f1", c.now()), grouped("b", "FindingOpened", "f2", c.now()))
	g := claimGroups(t, s).GetGroups()
	flush(t, s, flushOf(g[0]))
	addNotice(t, s, grouped("a", "FindingOpened", "f3", c.now()), grouped("b", "FindingOpened", "f4", c.now()))
	r, err := s.DeleteRoute(t.Context(), &notificationv1.DeleteRouteRequest{Name: "everything"})
	if err != nil || r.GetDroppedEvents() != 3 {
		t.Errorf("deleted %v, %v", r, err)
	}
	_, err = s.FlushGroup(t.Context(), flushOf(g[1]))
	wantError(t, "a flush", err, errs.Aborted)
	if n := addNotice(t, s, grouped("a", "FindingOpened", "f5", c.now())); n != 0 {
		t.Errorf("%d added to a route that is gone", n)
	}
	if d := claimDeliveries(t, s).GetDeliveries(); len(d) != 1 {
		t.Errorf("what was told before: %v", d)
	}
}

func TestDeliveriesOfAReceiver(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	oncall(t, s)
	make := func(group string, to ...string) []string {
		t.Helper()
		addNotice(t, s, grouped(group, "FindingOpened", "f"+c.now().String(), c.now(), func(g *notificationv1.GroupedNotice) { g.Receivers = to }))
		return flush(t, s, flushOf(claimGroups(t, s).GetGroups()[0]))
	}
	state := func(id string) *notificationv1.Delivery {
		t.Helper()
		d, err := s.GetDelivery(t.Context(), &notificationv1.GetDeliveryRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		return d.GetDelivery()
	}
	pending := make("a", "oncall")[0]
	_, err := s.ResendDelivery(t.Context(), &notificationv1.ResendDeliveryRequest{Id: pending})
	wantError(t, "a re-send of what is pending", err, errs.FailedPrecondition)
	d := claimDeliveries(t, s).GetDeliveries()[0]
	for i := range 25 {
		finishDelivery(t, s, d, func(r *notificationv1.FinishDeliveryRequest) {
			r.Attempt = &notificationv1.Attempt{Detail: fmt.Sprint("failure ", i, strings.Repeat("é", 600), "\x00"), Duration: durationpb.New(time.Second)}
			if i < 24 {
				r.NextAttemptTime = timestamppb.New(c.now())
			}
		})
		if i < 24 {
			d = claimDeliveries(t, s).GetDeliveries()[0]
		}
	}
	dead := state(pending)
	if dead.GetState() != notificationv1.DeliveryState_DELIVERY_STATE_DEAD || dead.GetAttempts() != 25 || len(dead.GetLog()) != 20 || len([]rune(dead.GetLastError())) != 500 || !strings.HasPrefix(dead.GetLog()[0].GetDetail(), "failure 5") {
		t.Errorf("dead: %v", dead)
	}
	again, err := s.ResendDelivery(t.Context(), &notificationv1.ResendDeliveryRequest{Id: pending})
	if err != nil || again.GetDelivery().GetIdempotencyKey() != dead.GetIdempotencyKey() || again.GetDelivery().GetResendOf() != pending || !proto.Equal(again.GetDelivery().GetMessage(), dead.GetMessage()) {
		t.Errorf("re-sent %v, %v", again, err)
	}
	if twice, err := s.ResendDelivery(t.Context(), &notificationv1.ResendDeliveryRequest{Id: pending}); err != nil || twice.GetDelivery().GetId() != again.GetDelivery().GetId() {
		t.Errorf("re-sent twice %v, %v", twice, err)
	}
	finishDelivery(t, s, claimDeliveries(t, s).GetDeliveries()[0])

	// Made up, gone, and paused.
	c.advance(time.Minute)
	ids := make("b", "mailto:ops@example.com", "gone")
	if got := state(ids[1]); got.GetState() != notificationv1.DeliveryState_DELIVERY_STATE_DEAD || got.GetLastError() == "" {
		t.Errorf("to who is gone: %v", got)
	}
	mail := claimDeliveries(t, s).GetDeliveries()
	if len(mail) != 1 || mail[0].GetReceiver().GetEmail().GetTo()[0] != "ops@example.com" || mail[0].GetReceiver().GetName() != "mailto:ops@example.com" {
		t.Fatalf("mail: %v", mail)
	}
	finishDelivery(t, s, mail[0])
	paused := slackTo("oncall")
	paused.Paused = true
	setReceiver(t, s, paused)
	c.advance(time.Minute)
	waits := make("c", "oncall")[0]
	if got := claimDeliveries(t, s); len(got.GetDeliveries()) > 0 || got.GetNextDueTime() != nil {
		t.Errorf("paused: %v", got)
	}
	r, err := s.GetReceiver(t.Context(), &notificationv1.GetReceiverRequest{Name: "oncall"})
	if err != nil || r.GetReceiver().GetHealth().GetPending() != 1 {
		t.Errorf("receiver %v, %v", r, err)
	}
	setReceiver(t, s, slackTo("oncall"))
	held := claimDeliveries(t, s).GetDeliveries()[0]
	if _, err := s.DeleteRoute(t.Context(), &notificationv1.DeleteRouteRequest{Name: "everything"}); err != nil {
		t.Fatal(err)
	}
	gone, err := s.DeleteReceiver(t.Context(), &notificationv1.DeleteReceiverRequest{Name: "oncall"})
	if err != nil || gone.GetDroppedDeliveries() != 1 || state(waits).GetState() != notificationv1.DeliveryState_DELIVERY_STATE_DEAD {
		t.Errorf("deleted: %v, %v, %v", gone, err, state(waits))
	}
	_, err = s.FinishDelivery(t.Context(), &notificationv1.FinishDeliveryRequest{Id: waits, LeaseId: held.GetLeaseId(), Attempt: &notificationv1.Attempt{Ok: true}})
	wantError(t, "a finish of what was dropped", err, errs.Aborted)
	_, err = s.ResendDelivery(t.Context(), &notificationv1.ResendDeliveryRequest{Id: waits})
	wantError(t, "a re-send to nobody", err, errs.FailedPrecondition)

	list := func(filter string) (ids []string) {
		t.Helper()
		for req := (&notificationv1.ListDeliveriesRequest{PageSize: 2, Filter: filter}); ; {
			r, err := s.ListDeliveries(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range r.GetDeliveries() {
				if d.GetMessage() != nil || d.GetLog() != nil {
					t.Errorf("a list shows %v", d)
				}
				ids = append(ids, d.GetId())
			}
			if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
				return ids
			}
		}
	}
	if got := list(""); len(got) != 5 || !slices.IsSortedFunc(got, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("all: %v", got)
	}
	if got := list(`state = "DEAD" AND receiver = "oncall" AND attempts = 0`); len(got) != 1 || got[0] != waits {
		t.Errorf("dead: %v", got)
	}
	if got := list(`resend_of:* AND end_time > "2020-01-01T00:00:00Z"`); len(got) != 1 || got[0] != again.GetDelivery().GetId() {
		t.Errorf("re-sent: %v", got)
	}
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	oncall(t, s)
	for _, g := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		addNotice(t, s, grouped(g, "FindingOpened", "f", c.now()))
	}
	for _, g := range claimGroups(t, s).GetGroups() {
		flush(t, s, flushOf(g))
	}
	handed := func(n int) []*notificationv1.ClaimedDelivery {
		t.Helper()
		got := claimDeliveries(t, s).GetDeliveries()
		if len(got) != n {
			t.Fatalf("%s: handed out %d, want %d", c.now(), len(got), n)
		}
		return got
	}
	is := func(h *notificationv1.ReceiverHealth, state notificationv1.BreakerState, failures int32, wait time.Duration) {
		t.Helper()
		if h.GetBreaker() != state || h.GetConsecutiveFailures() != failures || wait > 0 && !h.GetRetryTime().AsTime().Equal(c.now().Add(wait)) {
			t.Errorf("health %v at %s, want %s after %d for %s", h, c.now(), state, failures, wait)
		}
	}
	all := handed(4)                                           // at once
	message := func(r *notificationv1.FinishDeliveryRequest) { // is the fault of the message
		r.Attempt, r.NextAttemptTime = &notificationv1.Attempt{Detail: "400"}, timestamppb.New(c.now())
	}
	for i := range 4 {
		is(finishDelivery(t, s, all[i], failing(c.now())), breakerClosed, int32(i+1), 0)
	}
	all = handed(4)
	is(finishDelivery(t, s, all[0], message), breakerClosed, 4, 0)
	is(finishDelivery(t, s, all[1], failing(c.now())), breakerOpen, 5, time.Minute)
	is(finishDelivery(t, s, all[2], failing(c.now())), breakerOpen, 6, time.Minute) // was on its way
	is(finishDelivery(t, s, all[3], message), breakerOpen, 6, time.Minute)
	if next := claimDeliveries(t, s); len(next.GetDeliveries()) > 0 || !next.GetNextDueTime().AsTime().Equal(c.now().Add(time.Minute)) {
		t.Errorf("handed out %v", next)
	}
	failures := int32(6)
	for _, wait := range []time.Duration{2, 4, 8, 16, 30, 30} {
		h, err := s.GetReceiver(t.Context(), &notificationv1.GetReceiverRequest{Name: "oncall"})
		if err != nil {
			t.Fatal(err)
		}
		c.set(h.GetReceiver().GetHealth().GetRetryTime().AsTime())
		one := handed(1)[0]
		handed(0) // only that
		failures++
		is(finishDelivery(t, s, one, failing(c.now())), breakerOpen, failures, wait*time.Minute)
	}
	c.advance(30 * time.Minute)
	handed(1)
	c.advance(time.Minute) // whoever had it is dead
	one := handed(1)[0]
	is(finishDelivery(t, s, one, message), breakerHalfOpen, failures, 0)
	one = handed(1)[0]
	is(finishDelivery(t, s, one), breakerClosed, 0, 0)
	rest := handed(4)
	is(finishDelivery(t, s, rest[0], failing(c.now())), breakerClosed, 1, 0)
	// It asks to be left alone.
	finishDelivery(t, s, rest[1], failing(c.now()), func(r *notificationv1.FinishDeliveryRequest) {
		r.ReceiverRetryTime, r.ReceiverFailed = timestamppb.New(c.now().Add(10*time.Minute)), false
	})
	is(finishDelivery(t, s, rest[2]), breakerClosed, 0, 0)
	finishDelivery(t, s, rest[3])
	handed(0)
	c.advance(10*time.Minute - 1)
	handed(0)
	c.advance(1)
	for _, d := range handed(4) {
		finishDelivery(t, s, d)
	}
	events := strs(t, s, "SELECT event FROM system_log ORDER BY id")
	if !slices.Equal(events, []string{"receiver_failing", "receiver_recovered"}) {
		t.Errorf("the system log has %v", events)
	}
}
