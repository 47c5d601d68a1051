package notification

import (
	"cmp"
	"context"
	"crypto/rand"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/filter"
	"nightshift.dev/pkg/notify"
)

// TestReceiver implements NotificationService.
func (s *Service) TestReceiver(ctx context.Context, req *notificationv1.TestReceiverRequest) (*notificationv1.TestReceiverResponse, error) {
	resp, err := s.config.GetReceiver(ctx, &notificationv1.GetReceiverRequest{Name: req.GetReceiver()})
	if err != nil {
		return nil, err
	}
	now := timestamppb.New(s.now())
	id := "test-" + strings.ToLower(rand.Text()) // every test is another message
	attempt, _ := s.attempt(ctx, notify.Envelope{
		Receiver: resp.GetReceiver(), IdempotencyKey: id, DeliveryID: id, Attempt: 1,
		Message: &notificationv1.Message{
			Kind: notificationv1.MessageKind_MESSAGE_KIND_TEST, GroupKey: groupKey("", []string{req.GetReceiver()}, nil), StartTime: now, Time: now,
		},
	})
	return &notificationv1.TestReceiverResponse{Attempt: attempt}, nil
}

// ExplainNotification implements NotificationService. It goes the way that
// events go.
func (s *Service) ExplainNotification(ctx context.Context, req *notificationv1.ExplainNotificationRequest) (*notificationv1.ExplainNotificationResponse, error) {
	n := &notificationv1.Notice{Event: cmp.Or(req.GetEvent(), "FindingOpened")}
	bad := errs.New(errs.InvalidArgument, "BAD_REQUEST", "nothing can be said about that")
	transition, ok := transitions[n.GetEvent()]
	if !ok {
		var events []string
		for _, name := range filter.Notices["event"].Names() {
			if _, ok := transitions[name]; ok {
				events = append(events, name)
			}
		}
		bad = bad.Field("event", "is %q, which is no event about a finding; there are %s", n.GetEvent(), strings.Join(events, ", "))
	}
	now := s.now()
	if t := req.GetTime(); t != nil {
		if err := t.CheckValid(); err != nil || t.AsTime().Year() < 1970 || t.AsTime().Year() > 2200 {
			bad = bad.Field("time", "is no time between the years 1970 and 2200")
		}
		now = t.AsTime()
	}
	if len(bad.Violations()) > 0 {
		return nil, bad
	}
	resp, err := s.findings.GetFinding(ctx, &findingv1.GetFindingRequest{Id: req.GetFindingId()})
	if err == nil && !auth.From(ctx).Sees(resp.GetFinding().GetResource().GetAccount()) {
		err = errs.New(errs.NotFound, "FINDING_NOT_FOUND", "there is no finding %s", req.GetFindingId())
	}
	if err != nil {
		return nil, err
	}
	n.Finding, n.Time, n.Transition = resp.GetFinding(), timestamppb.New(now), after(resp.GetFinding(), n.GetEvent(), transition)
	p, err := s.policyOf(ctx, 0) // whoever has just changed a route asks what came of it
	if err != nil {
		return nil, err
	}
	out := &notificationv1.ExplainNotificationResponse{}
	limited := len(auth.From(ctx).Accounts) > 0
	for _, v := range p.judge(n, now) {
		if limited { // filters name other accounts, and routes are only for who may see all
			if !v.takes {
				continue
			}
			v.why = "the route takes it"
		}
		e := &notificationv1.RouteExplanation{Route: v.route.GetName(), Matches: v.takes, Reason: v.why}
		if v.takes {
			e.Receivers, e.ReceiversReason, e.Group, e.DueTime, e.DueReason, e.SilenceId = v.receivers, v.receiversReason, v.group, timestamppb.New(v.due), v.dueReason, v.silence
		}
		out.Routes = append(out.Routes, e)
	}
	return out, nil
}

// transitions are those of events about findings.
var transitions = map[string]findingv1.TransitionKind{
	"FindingOpened":         findingv1.TransitionKind_TRANSITION_KIND_OPENED,
	"FindingChanged":        findingv1.TransitionKind_TRANSITION_KIND_CHANGED,
	"FindingResolved":       findingv1.TransitionKind_TRANSITION_KIND_RESOLVED,
	"FindingReopened":       findingv1.TransitionKind_TRANSITION_KIND_REOPENED,
	"FindingExempted":       findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED,
	"FindingAcknowledged":   findingv1.TransitionKind_TRANSITION_KIND_ACKNOWLEDGED,
	"FindingUnacknowledged": findingv1.TransitionKind_TRANSITION_KIND_UNACKNOWLEDGED,
	"FindingAssigned":       findingv1.TransitionKind_TRANSITION_KIND_ASSIGNED,
	"FindingCommented":      findingv1.TransitionKind_TRANSITION_KIND_COMMENTED,
	"FindingOrphaned":       findingv1.TransitionKind_TRANSITION_KIND_UNSPECIFIED,
	"FindingReclaimed":      findingv1.TransitionKind_TRANSITION_KIND_UNSPECIFIED,
}

// after makes the finding what it would be after the event, as far as that is
// known, and returns what would have happened to it.
func after(f *findingv1.Finding, event string, kind findingv1.TransitionKind) *findingv1.Transition {
	t := &findingv1.Transition{FindingId: f.GetId(), Kind: kind, Cause: findingv1.Cause_CAUSE_USER, FromSeverity: f.GetSeverity(), ToSeverity: f.GetSeverity(), FromState: f.GetState()}
	switch event {
	case "FindingOpened":
		f.State, t.FromSeverity, t.Cause = findingv1.State_STATE_OPEN, 0, findingv1.Cause_CAUSE_SCAN
	case "FindingReopened":
		f.State, t.Cause = findingv1.State_STATE_REOPENED, findingv1.Cause_CAUSE_SCAN
	case "FindingResolved":
		f.State, t.Cause = findingv1.State_STATE_RESOLVED, findingv1.Cause_CAUSE_SCAN
	case "FindingExempted":
		f.State = findingv1.State_STATE_EXEMPT
	case "FindingAcknowledged":
		f.Acknowledgement = &findingv1.Acknowledgement{}
	case "FindingUnacknowledged":
		f.Acknowledgement = nil
	case "FindingChanged":
		// The kind of change that is told without being asked for: a rise in severity.
		t.FromSeverity, t.Cause = max(0, f.GetSeverity()-1), findingv1.Cause_CAUSE_SCAN
	case "FindingOrphaned", "FindingReclaimed":
		return nil
	}
	t.ToState = f.GetState()
	return t
}
