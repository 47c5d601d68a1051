package notification

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// scanned lets a scan see a violation, and returns the finding's id.
func (w *world) scanned() string {
	w.t.Helper()
	runs := runv1.NewRunServiceClient(w.host.Dial("persistence"))
	scope := &scanv1.Scope{Service: "waste", Account: "111122223333", Region: "eu-west-1"}
	id := "waste-scan/1"
	if _, err := runs.StartRun(w.t.Context(), &runv1.StartRunRequest{Trigger: &jobv1.Trigger{RunId: id, Job: "waste-scan", Kind: "waste", Cause: jobv1.Cause_CAUSE_SCHEDULE, PlannedTime: timestamppb.New(w.now())}}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := runs.PlanRun(w.t.Context(), &runv1.PlanRunRequest{RunId: id, Scopes: []*runv1.PlannedScope{{Scope: scope, Partition: "aws"}}}); err != nil {
		w.t.Fatal(err)
	}
	finding := strings.Repeat("ab", 16)
	w.publish(&findingv1.FindingsObserved{RunId: id, Scope: scope, Execution: "1.1", Sequence: 1, Observations: []*scanv1.Observation{{
		FindingId: finding, RuleId: "ebs-unattached", RuleVersion: 1, Category: rulev1.Category_CATEGORY_WASTE, Title: "Unattached volume",
		Resource: &scanv1.Resource{
			Arn: "arn:aws:ec2:eu-west-1:111122223333:volume/vol-1", Id: "vol-1", Type: "AWS::EC2::Volume", Account: "111122223333", Region: "eu-west-1",
			Name: "disk", Tags: map[string]string{"Owner": "Team-Web"},
		},
		Verdict: &rulev1.Verdict{
			Outcome: rulev1.Outcome_OUTCOME_VIOLATION, Severity: rulev1.Severity_SEVERITY_MEDIUM, Reason: "nothing has it", Recommendation: "Delete it.",
			MonthlyCost: &rulev1.MonthlyCost{Low: 8, High: 12.5, Basis: "LIST", Source: "table", Date: "2026-01"},
		},
		ObservedAt: timestamppb.New(w.now()),
	}}}, &scanv1.ScopeFinished{
		RunId: id, Scope: scope, Execution: "1.1", Batches: 1, StartTime: timestamppb.New(w.now()), EndTime: timestamppb.New(w.now()),
		Coverage: []*scanv1.Coverage{{ResourceType: "AWS::EC2::Volume", Status: scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE, Pages: 1, Resources: 1}},
	})
	return finding
}

// Who would hear of a finding is who does hear of it, when, and together with
// what: from a scan's verdict to the receiver, through every service between.
func TestExplanationIsWhatHappens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("web", "ops", "boss", "never")
	w.route(&notificationv1.Route{Name: "bad", Position: 1, Receivers: []string{"never"}, Filter: `severity >= "HIGH"`})
	w.route(&notificationv1.Route{Name: "quiet", Position: 2, Receivers: []string{"boss"}, Paused: true})
	w.route(&notificationv1.Route{Name: "owners", Position: 3, Receivers: []string{"ops"}, ToOwner: true, GroupBy: []string{"account", "severity"}, GroupWait: durationpb.New(time.Minute), Proceed: true})
	w.route(&notificationv1.Route{Name: "nightly", Position: 4, Receivers: []string{"boss"}, Digest: &notificationv1.Digest{Time: "20:00", TimeZone: "Europe/Dublin"}})
	w.route(&notificationv1.Route{Name: "rest", Position: 5, Receivers: []string{"never"}})
	if _, err := w.config.SetContact(t.Context(), &notificationv1.SetContactRequest{Contact: &notificationv1.Contact{Owner: "team-web", Receivers: []string{"web"}}}); err != nil {
		t.Fatal(err)
	}
	w.consume()
	id := w.scanned()
	for len(w.deliveries("")) == 0 { // until the event has gone through the outbox and back
		w.consumed()
		w.advance(time.Second)
		w.turn()
		time.Sleep(10 * time.Millisecond)
	}
	if got := w.place.got("web"); len(got) != 1 || got[0].message.GetNotices()[0].GetFinding().GetId() != id || got[0].message.GetGroup()["severity"] != "MEDIUM" {
		t.Fatalf("the owner got %v", got)
	}
	w.silence(`resource_id = "vol-1" AND event = "FindingResolved"`, w.now().Add(time.Hour))
	explain := func(event string, at time.Time) (out []string) {
		resp, err := w.service.ExplainNotification(t.Context(), &notificationv1.ExplainNotificationRequest{FindingId: id, Event: event, Time: timestamppb.New(at)})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range resp.GetRoutes() {
			text := r.GetRoute() + ": " + r.GetReason()
			if r.GetMatches() {
				text += " → " + strings.Join(r.GetReceivers(), ",") + " (" + r.GetReceiversReason() + ") at " + r.GetDueTime().AsTime().Format(time.TimeOnly) + " (" + r.GetDueReason() + ")"
			}
			if r.GetSilenceId() != "" {
				text += " silenced"
			}
			out = append(out, text)
		}
		return out
	}
	want := []string{
		`bad: severity is MEDIUM, and the filter wants severity >= "HIGH"`,
		`quiet: the route is paused`,
		`owners: the filter is empty → web (contact of owner Team-Web) at 09:01:00 (1m0s group wait)`,
		`nightly: the filter is empty → boss (receivers of the route) at 19:00:00 (daily digest at 20:00 Europe/Dublin)`,
	}
	if got := explain("", epoch); !slices.Equal(got, want) {
		t.Errorf("the explanation is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := explain("FindingResolved", w.now()); len(got) != 4 || !strings.HasSuffix(got[2], " silenced") || !strings.HasSuffix(got[3], " silenced") {
		t.Errorf("what is silenced is explained as\n%s", strings.Join(got, "\n"))
	}
	if got := explain("FindingCommented", w.now()); len(got) != 5 || got[4] != `rest: FindingCommented is told only by routes whose filter asks for it, as in event = "FindingCommented"` {
		t.Errorf("a comment is explained as\n%s", strings.Join(got, "\n"))
	}
	// A route that was made a moment ago is explained at once.
	if _, err := w.config.SetRoute(t.Context(), &notificationv1.SetRouteRequest{Route: &notificationv1.Route{Name: "all", Receivers: []string{"ops"}}}); err != nil {
		t.Fatal(err)
	}
	if got := explain("", epoch); len(got) != 1 || !strings.HasPrefix(got[0], "all: ") {
		t.Errorf("with a new route that takes all, it is explained as\n%s", strings.Join(got, "\n"))
	}
	if _, err := w.config.DeleteRoute(t.Context(), &notificationv1.DeleteRouteRequest{Name: "all"}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []*notificationv1.ExplainNotificationRequest{{FindingId: id, Event: "FindingOpend"}, {FindingId: id, Event: "RunAlertRaised"}, {FindingId: id, Time: &timestamppb.Timestamp{Seconds: -1 << 60}}} {
		if _, err := w.service.ExplainNotification(t.Context(), bad); !errors.Is(err, errs.InvalidArgument) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	// What is said of routes to who may see only this account names no other.
	w.route(&notificationv1.Route{Name: "theirs", Position: 1, Receivers: []string{"never"}, Filter: `account = "999999999999"`})
	w.route(&notificationv1.Route{Name: "both", Position: 1, Receivers: []string{"web"}, Filter: `account = "999999999999" OR account = "111122223333"`, Proceed: true})
	own := auth.With(t.Context(), auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: "ana", Accounts: []string{"111122223333"}})
	resp, err := w.service.ExplainNotification(own, &notificationv1.ExplainNotificationRequest{FindingId: id})
	if err != nil || len(resp.GetRoutes()) != 3 || strings.Contains(resp.String(), "999999999999") || resp.GetRoutes()[0].GetRoute() != "both" || !slices.Equal(resp.GetRoutes()[0].GetReceivers(), []string{"web"}) {
		t.Errorf("a caller of the account: %v, %v", resp, err)
	}
	// Who may not see the account does not learn that there is such a finding.
	other := auth.With(t.Context(), auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: "eve", Accounts: []string{"999999999999"}})
	if _, err := w.service.ExplainNotification(other, &notificationv1.ExplainNotificationRequest{FindingId: id}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a caller of another account: %v", err)
	}
	if _, err := w.service.ExplainNotification(t.Context(), &notificationv1.ExplainNotificationRequest{FindingId: strings.Repeat("0", 32)}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a finding that is not there: %v", err)
	}
}

func TestTestReceiver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("ops")
	test := func() *notificationv1.Attempt {
		resp, err := w.service.TestReceiver(t.Context(), &notificationv1.TestReceiverRequest{Receiver: "ops"})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetAttempt()
	}
	if a := test(); !a.GetOk() || a.GetTime() == nil {
		t.Errorf("the attempt is %v", a)
	}
	if got := w.place.got("ops"); len(got) != 1 || got[0].message.GetKind() != notificationv1.MessageKind_MESSAGE_KIND_TEST {
		t.Errorf("what arrived is %v", got)
	}
	w.place.mood("ops", status(http.StatusForbidden))
	if a := test(); a.GetOk() || !strings.Contains(a.GetDetail(), "403") {
		t.Errorf("the attempt is %v", a)
	}
	if _, err := w.service.TestReceiver(t.Context(), &notificationv1.TestReceiverRequest{Receiver: "nobody"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a receiver that is not there: %v", err)
	}
}
