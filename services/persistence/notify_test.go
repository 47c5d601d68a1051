package persistence

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
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
