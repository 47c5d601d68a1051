package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

var (
	noon = time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	// signingSecret is that of the specification's example.
	signingSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	groupKey      = strings.Repeat("ab12", 16)
)

// sender returns one with secrets of the environment, by their names without
// the prefix.
func sender(t testing.TB, cfg Config, secrets map[string]string) *Sender {
	t.Helper()
	s, err := New(cfg, func(name string) (string, bool) {
		v, ok := secrets[strings.TrimPrefix(name, "NIGHTSHIFT_SECRET_")]
		return v, ok
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.http.CloseIdleConnections)
	return s
}

func envelope(r *notificationv1.Receiver, m *notificationv1.Message) Envelope {
	return Envelope{Receiver: r, Message: m, IdempotencyKey: "msg_01", DeliveryID: "01", Attempt: 1, Time: noon.Add(time.Minute)}
}

// failure sends and wants it to fail.
func failure(t *testing.T, s *Sender, e Envelope) *Failure {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	detail, err := s.Send(ctx, e)
	var f *Failure
	if !errors.As(err, &f) {
		t.Fatalf("sent: %q, %v", detail, err)
	}
	if n := len([]rune(f.Detail)); n == 0 || n > 500 {
		t.Errorf("the detail has %d characters", n)
	}
	return f
}

func send(t *testing.T, s *Sender, e Envelope) string {
	t.Helper()
	detail, err := s.Send(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return detail
}

func finding(n int, name string, s rulev1.Severity, cost *rulev1.MonthlyCost) *findingv1.Finding {
	return &findingv1.Finding{
		Id: fmt.Sprintf("%08x%024d", 0xfeed0000+n, n), RuleId: "ebs-unattached", RuleVersion: 1, Category: rulev1.Category_CATEGORY_WASTE,
		Title: "EBS volume is attached to nothing", State: findingv1.State_STATE_OPEN, Severity: s,
		Resource: &scanv1.Resource{
			Arn: fmt.Sprintf("arn:aws:ec2:eu-west-1:111122223333:volume/vol-%d", n), Id: fmt.Sprintf("vol-%d", n), Type: "AWS::EC2::Volume",
			Account: "111122223333", Region: "eu-west-1", Name: name, Tags: map[string]string{"Name": name},
		},
		Reason: "Nothing has been attached for 43 days.", Recommendation: "Take a snapshot and delete it.", Owner: "team-web",
		MonthlyCost: cost, FirstSeen: timestamppb.New(noon.Add(-time.Hour)), Etag: "e1",
	}
}

func notice(event string, f *findingv1.Finding, t *findingv1.Transition) *notificationv1.Notice {
	return &notificationv1.Notice{EventId: event + "/" + f.GetId(), Event: event, Time: timestamppb.New(noon.Add(-time.Hour)), Finding: f, Transition: t}
}

func count(v string, n int64) *notificationv1.Count {
	return &notificationv1.Count{Value: v, Events: n}
}

// one is a message about one new finding of a resource of that name.
func one(name string) *notificationv1.Message {
	f := finding(1, name, rulev1.Severity_SEVERITY_HIGH, &rulev1.MonthlyCost{Low: 40, High: 60})
	return &notificationv1.Message{
		Kind: notificationv1.MessageKind_MESSAGE_KIND_NEWS, Route: "web", Group: map[string]string{"account": "111122223333"}, GroupKey: groupKey,
		Notices: []*notificationv1.Notice{notice("FindingOpened", f, &findingv1.Transition{Kind: findingv1.TransitionKind_TRANSITION_KIND_OPENED, ToSeverity: f.Severity, Reason: f.Reason})},
		Events:  1, ByEvent: []*notificationv1.Count{count("FindingOpened", 1)}, BySeverity: []*notificationv1.Count{count("HIGH", 1)},
		MonthlyCostLow: 40, MonthlyCostHigh: 60, Severity: f.Severity, OpenFindings: 1,
		StartTime: timestamppb.New(noon.Add(-time.Hour)), Time: timestamppb.New(noon),
	}
}

// samples are messages of all kinds.
func samples() map[string]*notificationv1.Message {
	changed := finding(2, "logs", rulev1.Severity_SEVERITY_MEDIUM, nil)
	resolved := finding(3, "", rulev1.Severity_SEVERITY_LOW, &rulev1.MonthlyCost{Low: 2, High: 2})
	resolved.State, resolved.ResolveTime, resolved.Owner = findingv1.State_STATE_RESOLVED, timestamppb.New(noon.Add(-time.Hour)), ""

	many := one("card-vault")
	many.Notices = append(many.Notices,
		notice("FindingChanged", changed, &findingv1.Transition{
			Kind: findingv1.TransitionKind_TRANSITION_KIND_CHANGED, FromSeverity: rulev1.Severity_SEVERITY_LOW, ToSeverity: rulev1.Severity_SEVERITY_MEDIUM,
			FromCost: &rulev1.MonthlyCost{Low: 5, High: 5}, Reason: "It has grown.",
		}),
		notice("FindingResolved", resolved, &findingv1.Transition{Kind: findingv1.TransitionKind_TRANSITION_KIND_RESOLVED, Reason: "It is gone."}),
		&notificationv1.Notice{Event: "RunAlertRaised", Time: timestamppb.New(noon), Consecutive: 3, Run: &runv1.Run{
			Id: "waste-scan/2026-03-31T06:00:00Z", Job: "waste-scan", Kind: "waste-scan", State: runv1.RunState_RUN_STATE_FAILED, Error: "access denied",
			Scopes: &runv1.ScopeCounts{Total: 4, Succeeded: 1},
		}},
		&notificationv1.Notice{Event: "FindingsHeld", Time: timestamppb.New(noon), Hold: &findingv1.Hold{
			RunId: "waste-scan/manual-1", Service: "waste", Account: "111122223333", Resolves: 90, FindingsBefore: 100,
		}},
		&notificationv1.Notice{Event: "ComponentChanged", Time: timestamppb.New(noon), Component: &healthv1.Component{
			Name: "account/111122223333", Title: "production", State: healthv1.ComponentState_COMPONENT_STATE_DOWN, Reason: "The role cannot be entered.", SinceTime: timestamppb.New(noon),
		}},
	)
	many.Events, many.OpenFindings, many.UnknownCosts = 31, 2, 4
	many.ByEvent = []*notificationv1.Count{count("FindingOpened", 26), count("FindingChanged", 1), count("FindingResolved", 1), count("RunAlertRaised", 1), count("FindingsHeld", 1), count("ComponentChanged", 1)}
	many.BySeverity = []*notificationv1.Count{count("HIGH", 26), count("MEDIUM", 1), count("LOW", 1)}

	reminder := one("card-vault")
	reminder.Kind, reminder.OpenFindings = notificationv1.MessageKind_MESSAGE_KIND_REMINDER, 7
	summary := one("card-vault")
	summary.Kind, summary.Events = notificationv1.MessageKind_MESSAGE_KIND_SUMMARY, 4321
	summary.ByRule = []*notificationv1.Count{count("ebs-unattached", 4000), count("ec2-stopped", 321)}
	digest := one("card-vault")
	digest.Kind = notificationv1.MessageKind_MESSAGE_KIND_DIGEST
	digest.Totals = &findingv1.Totals{Findings: 120, MonthlyCostLow: 1200, MonthlyCostHigh: 1350, UnknownCosts: 9}
	for i, open := range []int64{100, 110, 90, 120, 120, 130, 120} {
		digest.Days = append(digest.Days, &findingv1.FindingDay{Date: noon.AddDate(0, 0, i-7).Format(time.DateOnly), Open: open, SavedLow: 10, SavedHigh: 12, SavedUnknown: int64(i % 2)})
	}
	resolvedAll := one("card-vault")
	resolvedAll.Notices, resolvedAll.OpenFindings, resolvedAll.Severity = []*notificationv1.Notice{many.Notices[2]}, 0, rulev1.Severity_SEVERITY_LOW
	resolvedAll.ByEvent, resolvedAll.MonthlyCostLow, resolvedAll.MonthlyCostHigh = []*notificationv1.Count{count("FindingResolved", 1)}, 0, 0
	return map[string]*notificationv1.Message{
		"news": one("card-vault"), "many": many, "resolved": resolvedAll, "reminder": reminder, "digest": digest, "summary": summary,
		"test": {Kind: notificationv1.MessageKind_MESSAGE_KIND_TEST, Time: timestamppb.New(noon), GroupKey: groupKey},
	}
}

func slackTo(ref string) *notificationv1.Receiver {
	return &notificationv1.Receiver{Name: "r", Medium: &notificationv1.Receiver_Slack{Slack: &notificationv1.Slack{UrlSecret: ref}}}
}

func teamsTo(ref string) *notificationv1.Receiver {
	return &notificationv1.Receiver{Name: "r", Medium: &notificationv1.Receiver_Teams{Teams: &notificationv1.Teams{UrlSecret: ref}}}
}

func pagerTo(ref, endpoint string) *notificationv1.Receiver {
	return &notificationv1.Receiver{Name: "r", Medium: &notificationv1.Receiver_Pagerduty{Pagerduty: &notificationv1.PagerDuty{RoutingKeySecret: ref, Endpoint: endpoint}}}
}

func mailTo(to ...string) *notificationv1.Receiver {
	return &notificationv1.Receiver{Name: "r", Medium: &notificationv1.Receiver_Email{Email: &notificationv1.Email{To: to}}}
}

func webhookTo(url, ref string) *notificationv1.Receiver {
	return &notificationv1.Receiver{Name: "r", Medium: &notificationv1.Receiver_Webhook{Webhook: &notificationv1.Webhook{Url: url, SigningSecret: ref}}}
}

func alertmanagerTo(url, ref string) *notificationv1.Receiver {
	return &notificationv1.Receiver{Name: "r", Medium: &notificationv1.Receiver_Alertmanager{Alertmanager: &notificationv1.Alertmanager{Url: url, TokenSecret: ref}}}
}

func shoutrrrTo(ref string) *notificationv1.Receiver {
	return &notificationv1.Receiver{Name: "r", Medium: &notificationv1.Receiver_Shoutrrr{Shoutrrr: &notificationv1.Shoutrrr{UrlSecret: ref}}}
}
