package notification

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

// consumed waits until the notification service has dealt with everything
// that was published.
func (w *world) consumed() {
	w.t.Helper()
	for {
		st, err := w.bus.Status(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		left, consumers := uint64(0), 0
		for _, s := range st.Streams {
			for _, c := range s.Consumers {
				if len(c.Name) > 13 && c.Name[:13] == "notification-" {
					left += c.Pending + c.InHand
					consumers++
				}
			}
		}
		if consumers == 14 && left == 0 {
			return
		}
		select {
		case <-w.t.Context().Done():
			w.t.Fatalf("%d events are left", left)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (w *world) publish(events ...proto.Message) {
	w.t.Helper()
	if err := w.bus.PublishEach(w.t.Context(), events...); err != nil {
		w.t.Fatal(err)
	}
}

// What happens arrives as one message per group and interval, whatever event
// tells of it.
func TestEventsArrive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("ops", "sre")
	w.route(&notificationv1.Route{Name: "findings", Position: 1, Filter: `category = "WASTE"`, Receivers: []string{"ops"}, GroupBy: []string{"category"}})
	w.route(&notificationv1.Route{Name: "rest", Position: 2, Receivers: []string{"sre"}, GroupWait: durationpb.New(0)})
	w.consume()

	f := finding1(1)
	transition := func(kind findingv1.TransitionKind, minute int) *findingv1.Transition {
		return &findingv1.Transition{FindingId: f.GetId(), Kind: kind, Time: timestamppb.New(epoch.Add(time.Duration(minute) * time.Minute))}
	}
	w.publish(
		&findingv1.FindingOpened{Finding: f, Transition: transition(findingv1.TransitionKind_TRANSITION_KIND_OPENED, 0)},
		&findingv1.FindingOpened{Finding: finding1(2), Transition: transition(findingv1.TransitionKind_TRANSITION_KIND_OPENED, 0)},
		&findingv1.FindingCommented{Finding: f, Transition: transition(findingv1.TransitionKind_TRANSITION_KIND_COMMENTED, 0)}, // nobody asks for comments
		&runv1.RunAlertRaised{Run: &runv1.Run{Id: "waste-scan/1", Job: "waste-scan", Kind: "waste", State: runv1.RunState_RUN_STATE_FAILED}, Consecutive: 3},
		&findingv1.FindingsHeld{Hold: &findingv1.Hold{RunId: "waste-scan/2", Service: "waste", Account: "111122223333", Time: timestamppb.New(epoch)}},
		&healthv1.ComponentChanged{
			Component: &healthv1.Component{
				Name: "postgres", Kind: healthv1.ComponentKind_COMPONENT_KIND_DATABASE, State: healthv1.ComponentState_COMPONENT_STATE_UP, SinceTime: timestamppb.New(epoch), CheckTime: timestamppb.New(epoch),
			},
			Transition: &healthv1.ComponentTransition{Component: "postgres", FromState: healthv1.ComponentState_COMPONENT_STATE_UP, ToState: healthv1.ComponentState_COMPONENT_STATE_DOWN, Time: timestamppb.New(epoch)},
		},
		&healthv1.ComponentChanged{
			Component:  &healthv1.Component{Name: "nats", State: healthv1.ComponentState_COMPONENT_STATE_UP},
			Transition: &healthv1.ComponentTransition{Component: "nats", ToState: healthv1.ComponentState_COMPONENT_STATE_UP, Time: timestamppb.New(epoch)},
		},
	)
	w.consumed()
	w.turn()
	if n := len(w.place.got("ops")); n != 0 {
		t.Fatalf("%d messages came before the group's wait was over", n)
	}
	rest := w.place.got("sre")
	if len(rest) != 1 || rest[0].message.GetEvents() != 3 {
		t.Fatalf("of the rest %d messages: %v", len(rest), rest[0].message)
	}
	for _, n := range rest[0].message.GetNotices() {
		if c := n.GetComponent(); c != nil && c.GetState() != healthv1.ComponentState_COMPONENT_STATE_DOWN {
			t.Errorf("the component is told as %s", c.GetState())
		}
	}
	w.advance(30 * time.Second)
	w.turn()
	got := w.place.got("ops")
	if len(got) != 1 || got[0].message.GetEvents() != 2 || got[0].message.GetOpenFindings() != 2 || got[0].message.GetMonthlyCostHigh() != 4 || got[0].message.GetGroup()["category"] != "WASTE" {
		t.Fatalf("the first message is %v", got)
	}
	f = proto.CloneOf(f)
	f.State = findingv1.State_STATE_RESOLVED
	w.publish(&findingv1.FindingResolved{Finding: f, Transition: transition(findingv1.TransitionKind_TRANSITION_KIND_RESOLVED, 2)})
	w.publish(&findingv1.FindingResolved{Finding: f, Transition: transition(findingv1.TransitionKind_TRANSITION_KIND_RESOLVED, 2)}) // again
	w.consumed()
	w.pass(4*time.Minute, time.Minute)
	if n := len(w.place.got("ops")); n != 1 {
		t.Fatalf("%d messages within the interval", n)
	}
	w.pass(2*time.Minute, time.Minute)
	got = w.place.got("ops")
	if len(got) != 2 || got[1].message.GetEvents() != 1 || got[1].message.GetOpenFindings() != 1 || got[1].key == got[0].key || got[1].message.GetGroupKey() != got[0].message.GetGroupKey() {
		t.Fatalf("the messages are %v", got)
	}
}

// storm is how many findings a storm has.
func storm(t *testing.T) int {
	if text := os.Getenv("NIGHTSHIFT_STORM"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 2000
}

// Each route gets what its policy says of a storm, and no more, and nothing is
// left untold.
func TestStorm(t *testing.T) {
	t.Parallel()
	n := storm(t)
	w := newWorld(t)
	w.hook("one", "few", "many", "bad", "digest", "none")
	w.route(&notificationv1.Route{Name: "one", Position: 1, Receivers: []string{"one"}, Proceed: true})
	w.route(&notificationv1.Route{Name: "few", Position: 2, Receivers: []string{"few"}, GroupBy: []string{"rule_id"}, Proceed: true})
	w.route(&notificationv1.Route{Name: "many", Position: 3, Receivers: []string{"many"}, GroupBy: []string{"owner"}, MaxMessagesPerHour: 10, Proceed: true})
	w.route(&notificationv1.Route{Name: "bad", Position: 4, Receivers: []string{"bad"}, Filter: `severity >= "CRITICAL"`, Proceed: true})
	w.route(&notificationv1.Route{Name: "digest", Position: 5, Receivers: []string{"digest"}, Digest: &notificationv1.Digest{Time: "18:00"}, Proceed: true})
	w.route(&notificationv1.Route{Name: "none", Position: 6, Receivers: []string{"none"}, Filter: `event = "FindingCommented"`})
	w.consume()
	second := w.replica()

	owners, critical := 200, 0
	var events []proto.Message
	for i := range n {
		f := finding1(i, func(f *findingv1.Finding) {
			f.Owner = fmt.Sprintf("team-%03d", i%owners)
			if i%100 == 0 {
				f.Severity = rulev1.Severity_SEVERITY_CRITICAL
				critical++
			}
		})
		events = append(events, &findingv1.FindingOpened{Finding: f, Transition: &findingv1.Transition{FindingId: f.GetId(), Kind: findingv1.TransitionKind_TRANSITION_KIND_OPENED, Time: timestamppb.New(epoch)}})
	}
	begin := time.Now()
	w.publish(events...)
	w.consumed()
	t.Logf("%d events on 6 routes are in the queue after %s", n, time.Since(begin))

	w.advance(30 * time.Second)
	begin = time.Now()
	w.turn(w.service, second)
	t.Logf("flushed and delivered after %s", time.Since(begin))
	w.pass(20*time.Minute, 5*time.Minute)
	told := func(receiver string) (events int64, kinds map[notificationv1.MessageKind]int) {
		kinds = map[notificationv1.MessageKind]int{}
		for _, l := range w.place.got(receiver) {
			events += l.message.GetEvents()
			kinds[l.message.GetKind()]++
		}
		return events, kinds
	}
	const news, summary = notificationv1.MessageKind_MESSAGE_KIND_NEWS, notificationv1.MessageKind_MESSAGE_KIND_SUMMARY
	for receiver, want := range map[string]struct{ events, news, summaries int }{
		"one": {n, 1, 0}, "few": {n, 2, 0}, "many": {n, 10, 1}, "bad": {critical, 1, 0}, "digest": {0, 0, 0}, "none": {0, 0, 0},
	} {
		events, kinds := told(receiver)
		if receiver == "many" && events <= int64(n) { // of two replicas each sums up what it has in hand, and one is let through
			events = int64(n)
		}
		if events != int64(want.events) || kinds[news] != want.news || kinds[summary] != want.summaries {
			t.Errorf("%s was told of %d events in %v, want %v", receiver, events, kinds, want)
		}
	}
	w.pass(9*time.Hour, 3*time.Hour)
	if events, kinds := told("digest"); events != int64(n) || kinds[notificationv1.MessageKind_MESSAGE_KIND_DIGEST] != 1 {
		t.Errorf("the digest tells of %d events in %v", events, kinds)
	}
	if events, _ := told("many"); events != int64(n) {
		t.Errorf("later %d events are told", events)
	}
	hours := map[time.Time]int{}
	for _, l := range w.place.got("many") {
		hours[l.message.GetTime().AsTime().Truncate(time.Hour)]++
	}
	for hour, n := range hours {
		if n > 11 {
			t.Errorf("in the hour from %s there were %d messages", hour, n)
		}
	}
}

func TestQuietHoursSilencesAndReminders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("ops")
	w.route(&notificationv1.Route{
		Name: "night", Receivers: []string{"ops"}, GroupBy: []string{"account"}, QuietBelow: rulev1.Severity_SEVERITY_CRITICAL, RepeatInterval: durationpb.New(12 * time.Hour),
		QuietHours: []*notificationv1.QuietHours{{Start: "18:00", End: "08:00", TimeZone: "Europe/Dublin"}}, // 17:00 to 07:00 UTC in June
	})
	w.advance(9 * time.Hour) // 18:00 UTC
	account := func(a string, s rulev1.Severity) func(*findingv1.Finding) {
		return func(f *findingv1.Finding) { f.Resource.Account, f.Severity = a, s }
	}
	w.add(w.opened(finding1(1, account("111111111111", rulev1.Severity_SEVERITY_HIGH))), w.opened(finding1(2, account("222222222222", rulev1.Severity_SEVERITY_HIGH))))
	w.pass(time.Hour, 10*time.Minute)
	if got := w.place.got("ops"); len(got) != 0 {
		t.Fatalf("in quiet hours %v was told", got)
	}
	// What is bad enough is told at once, with what waits in its group.
	w.add(w.opened(finding1(3, account("111111111111", rulev1.Severity_SEVERITY_CRITICAL))))
	w.pass(time.Minute, time.Minute)
	if got := w.place.got("ops"); len(got) != 1 || got[0].message.GetEvents() != 2 || got[0].message.GetGroup()["account"] != "111111111111" {
		t.Fatalf("of what is critical %v was told", got)
	}
	// A silence that begins while an event waits covers it.
	id := w.silence(`account = "222222222222"`, w.now().Add(24*time.Hour))
	w.pass(13*time.Hour, 10*time.Minute) // 08:01 UTC
	if d := w.deliveries(`state = "SILENCED"`); len(d) != 1 || d[0].GetSilenceId() != id {
		t.Fatalf("the log of what was silenced is %v", d)
	}
	// The other group is told again, when it is not quiet.
	got := w.place.got("ops")
	if len(got) != 2 || got[1].message.GetKind() != notificationv1.MessageKind_MESSAGE_KIND_REMINDER || got[1].message.GetOpenFindings() != 2 {
		t.Fatalf("the reminder is %v", got)
	}
	// It ends with the last finding.
	w.add(w.event("FindingResolved", finding1(1, account("111111111111", rulev1.Severity_SEVERITY_HIGH), func(f *findingv1.Finding) { f.State = findingv1.State_STATE_RESOLVED })),
		w.event("FindingResolved", finding1(3, account("111111111111", rulev1.Severity_SEVERITY_CRITICAL), func(f *findingv1.Finding) { f.State = findingv1.State_STATE_RESOLVED })))
	w.pass(72*time.Hour, 6*time.Hour)
	got = slices.DeleteFunc(w.place.got("ops"), func(l letter) bool { return l.message.GetGroup()["account"] != "111111111111" })
	if len(got) != 3 || got[2].message.GetOpenFindings() != 0 || got[2].message.GetEvents() != 2 {
		t.Fatalf("after all is resolved %d messages: %v", len(got), got)
	}
	// The silence has ended, and what it covered is still open.
	if n := len(w.place.got("ops")); n == 3 {
		t.Error("of the other account there is no reminder after the silence")
	}
}

// A digest says what is open and how it went, within what its route and its
// group are about.
func TestDigest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("boss")
	w.route(&notificationv1.Route{
		Name: "weekly", Receivers: []string{"boss"}, GroupBy: []string{"account", "severity"}, Digest: &notificationv1.Digest{Time: "08:00", Weekday: 5, TimeZone: "Europe/Dublin"},
		Filter: `event = "FindingOpened" AND (rule_id = "ebs-unattached" OR rule_id = "ec2-stopped") AND severity >= LOW AND tags.Env = "dev" AND account != "it's"`,
	})
	w.add(w.opened(finding1(1)), w.opened(finding1(11)))
	w.pass(24*time.Hour, 12*time.Hour)
	w.add(w.opened(finding1(21)))
	w.pass(69*time.Hour+59*time.Minute, 12*time.Hour) // Friday, 06:59 UTC
	if got := w.place.got("boss"); len(got) != 0 {
		t.Fatalf("before its time came %v", got)
	}
	w.pass(2*time.Minute, time.Minute)
	got := w.place.got("boss")
	if len(got) != 2 {
		t.Fatalf("%d digests came", len(got))
	}
	for _, l := range got {
		if m := l.message; m.GetKind() != notificationv1.MessageKind_MESSAGE_KIND_DIGEST || m.GetTotals() == nil || len(m.GetDays()) != 28 || m.GetDays()[27].GetDate() != "2026-06-05" {
			t.Errorf("the digest is %v", m)
		}
	}
	where := w.service.policies.known.byName["weekly"]
	m := &notificationv1.Message{Group: map[string]string{"account": `a"b`, "severity": "LOW"}}
	want := `((rule_id = "ebs-unattached" OR rule_id = "ec2-stopped") AND account != "it's") AND account = "a\"b"`
	if got := where.terms(m, "account", "rule_id"); got != want {
		t.Errorf("the digest is within\n%s, want\n%s", got, want)
	}
}

// While persistence is away nothing is lost, and what is known decides.
func TestPersistenceAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("ops")
	w.route(&notificationv1.Route{Name: "ops", Receivers: []string{"ops"}, GroupWait: durationpb.New(0)})
	queue := w.service.queue
	w.service.queue = away{queue}
	n := w.opened(finding1(1))
	if err := w.service.add(t.Context(), []*notificationv1.Notice{n}); !errors.Is(err, bus.Later(time.Second)) {
		t.Errorf("an event that could not be routed: %v", err)
	}
	w.service.queue = queue
	if _, err := w.service.policy(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.service.queue, w.service.policies.asked = away{queue}, time.Time{}
	if p, err := w.service.policy(t.Context()); err != nil || len(p.routes) != 1 {
		t.Errorf("what was known is %v (%v)", p, err)
	}
	if err := w.service.add(t.Context(), []*notificationv1.Notice{n}); !errors.Is(err, bus.Later(time.Second)) {
		t.Errorf("an event that could not be stored: %v", err)
	}
	w.service.queue = queue
	w.add(n)
	w.add(n)
	w.turn()
	if got := w.place.got("ops"); len(got) != 1 || got[0].message.GetEvents() != 1 {
		t.Errorf("afterwards came %v", got)
	}
}

// away is a queue that cannot be reached.
type away struct {
	notificationv1.NotificationQueueServiceClient
}

func (away) GetConfig(context.Context, *notificationv1.GetConfigRequest, ...grpc.CallOption) (*notificationv1.GetConfigResponse, error) {
	return nil, errs.New(errs.Unavailable, "AWAY", "away")
}

func (away) AddNotices(context.Context, *notificationv1.AddNoticesRequest, ...grpc.CallOption) (*notificationv1.AddNoticesResponse, error) {
	return nil, errs.New(errs.Unavailable, "AWAY", "away")
}

// The service as production runs it, by its own loops, tells what happens; at
// a stop it finishes what it is sending.
func TestRunsByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("ops")
	w.route(&notificationv1.Route{Name: "ops", Receivers: []string{"ops"}, GroupWait: durationpb.New(0), GroupInterval: durationpb.New(time.Second)})
	w.consume()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- w.service.Run(ctx) }()
	open := func(i int) {
		w.publish(&findingv1.FindingOpened{Finding: finding1(i), Transition: &findingv1.Transition{FindingId: finding1(i).GetId(), Time: timestamppb.New(epoch)}})
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	w.place.mood("ops", func(rw http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		rw.WriteHeader(http.StatusOK)
	})
	open(1)
	<-asked
	stop()
	close(answer)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if d := w.deliveries(""); len(d) != 1 || d[0].GetState() != notificationv1.DeliveryState_DELIVERY_STATE_DELIVERED {
		t.Errorf("after the stop the deliveries are %v", d)
	}
}

// Who heard that a finding opened hears that it is over, whatever has become of
// it meanwhile; who asked for nothing but the opening is not told, and is not
// reminded either.
func TestWhoHeardOfItHearsOfItsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("high", "first", "rest")
	at := durationpb.New(0)
	w.route(&notificationv1.Route{Name: "opened", Position: 1, Receivers: []string{"first"}, Filter: `event = "FindingOpened" AND severity >= HIGH`, GroupWait: at, RepeatInterval: durationpb.New(time.Hour), Proceed: true})
	w.route(&notificationv1.Route{Name: "high", Position: 2, Receivers: []string{"high"}, Filter: `severity >= HIGH`, GroupBy: []string{"account"}, GroupWait: at, GroupInterval: durationpb.New(time.Second), RepeatInterval: durationpb.New(time.Hour)})
	w.route(&notificationv1.Route{Name: "rest", Position: 3, Receivers: []string{"rest"}, GroupWait: at, GroupInterval: durationpb.New(time.Second)})
	as := func(s rulev1.Severity, state findingv1.State) func(*findingv1.Finding) {
		return func(f *findingv1.Finding) { f.Severity, f.State = s, state }
	}
	const low, high = rulev1.Severity_SEVERITY_LOW, rulev1.Severity_SEVERITY_HIGH
	// One opens high and ends low, the other the other way round.
	w.add(w.opened(finding1(1, as(high, findingv1.State_STATE_OPEN))), w.opened(finding1(2, as(low, findingv1.State_STATE_OPEN))))
	w.turn()
	w.advance(time.Minute)
	w.add(w.event("FindingResolved", finding1(1, as(low, findingv1.State_STATE_RESOLVED))), w.event("FindingResolved", finding1(2, as(high, findingv1.State_STATE_RESOLVED))))
	w.pass(4*time.Hour, 30*time.Minute)
	got := slices.DeleteFunc(w.place.got("high"), func(l letter) bool { return l.message.GetGroup()["account"] != finding1(1).GetResource().GetAccount() })
	if len(got) != 2 || got[0].message.GetOpenFindings() != 1 || got[1].message.GetOpenFindings() != 0 || got[1].message.GetGroupKey() != got[0].message.GetGroupKey() {
		t.Errorf("who hears of what is high heard %d times: %v", len(got), got)
	}
	if got := w.place.got("rest"); len(got) != 2 || got[1].message.GetOpenFindings() != 0 || got[1].message.GetEvents() != 2 {
		t.Errorf("who hears of the rest heard %d times: %v", len(got), got)
	}
	if got := w.place.got("first"); len(got) != 1 {
		t.Errorf("who asked for what opens heard %d times: %v", len(got), got)
	}
}

func TestOwners(t *testing.T) {
	t.Parallel()
	r := &route{Route: &notificationv1.Route{Receivers: []string{"z", "fallback"}, ToOwner: true}}
	p := &policy{contacts: map[string][]string{"team-web": {"web-b", "web-a"}}, mail: true, mailHosts: []string{"example.com"}}
	for owner, want := range map[string][]string{
		"team-web": {"web-a", "web-b"}, "Team-WEB": {"web-a", "web-b"}, "Ann@Example.com": {"mailto:ann@example.com"},
		"": {"fallback", "z"}, "team-db": {"fallback", "z"}, "ann@elsewhere.org": {"fallback", "z"},
		"ann@example.com,eve@example.com": {"fallback", "z"}, "ann@example.com\r\nBcc: eve@example.com": {"fallback", "z"}, "<ann@example.com>": {"fallback", "z"},
		`"a b"@example.com`: {"fallback", "z"}, "Ann <ann@example.com>": {"fallback", "z"}, "@example.com": {"fallback", "z"},
	} {
		got, why := p.receivers(r, &notificationv1.Notice{Finding: &findingv1.Finding{Owner: owner}})
		if !slices.Equal(got, want) || why == "" {
			t.Errorf("%q: %v (%s), want %v", owner, got, why, want)
		}
	}
	p.mail = false
	if got, _ := p.receivers(r, &notificationv1.Notice{Finding: &findingv1.Finding{Owner: "ann@example.com"}}); !slices.Equal(got, []string{"fallback", "z"}) {
		t.Errorf("without a mail server %v hear", got)
	}
	if got, _ := p.receivers(r, &notificationv1.Notice{Event: "RunAlertRaised"}); !slices.Equal(got, []string{"fallback", "z"}) {
		t.Errorf("of a run %v hear", got)
	}
	// Where nobody would hear, later routes are tried.
	p.routes = []*route{{Route: &notificationv1.Route{Name: "owners", ToOwner: true}}, {Route: &notificationv1.Route{Name: "rest", Receivers: []string{"ops"}}}, {Route: &notificationv1.Route{Name: "never"}}}
	v := p.judge(&notificationv1.Notice{Event: "FindingOpened", Finding: &findingv1.Finding{}}, epoch)
	if len(v) != 2 || len(v[0].receivers) != 0 || !slices.Equal(v[1].receivers, []string{"ops"}) {
		t.Errorf("the verdicts are %v", v)
	}
}
