package notification

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/errs"
)

// in puts findings into a group by owner.
func in(owner string) func(*findingv1.Finding) { return func(f *findingv1.Finding) { f.Owner = owner } }

// A receiver that is down for an hour gets everything once it is back, once,
// and what belongs together in its order; nobody else waits for it.
func TestReceiverDownForAnHour(t *testing.T) {
	t.Parallel()
	for name, mood := range map[string]http.HandlerFunc{"refused": refuse, "500": status(500), "hang": hang} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if name == "hang" {
				w.service.patience = 100 * time.Millisecond
			}
			w.hook("down", "well")
			for i, name := range []string{"down", "well"} {
				w.route(&notificationv1.Route{Name: name, Position: int32(i), Receivers: []string{name}, GroupBy: []string{"owner"}, GroupWait: durationpb.New(0), GroupInterval: durationpb.New(time.Second), Proceed: true, MaxMessagesPerHour: 1000})
			}
			w.place.mood("down", mood)
			made := 0
			for i := range 12 { // one every five minutes in each of two groups
				w.add(w.opened(finding1(2*i, in("a"))), w.opened(finding1(2*i+1, in("b"))))
				made += 2
				w.pass(5*time.Minute, 2*time.Minute)
			}
			if n := len(w.place.got("down")); n != 0 {
				t.Fatalf("%d messages arrived while it was down", n)
			}
			well := map[string]bool{} // a slow machine can take longer than the patience for what hangs, and sends again
			for _, l := range w.place.got("well") {
				well[l.key] = true
			}
			if len(well) != made {
				t.Fatalf("the receiver beside it got %d messages of %d", len(well), made)
			}
			if n := w.place.requests("down"); n < 5 || n > 60 {
				t.Errorf("it was tried %d times within an hour", n)
			}
			w.place.mood("down", nil)
			w.service.patience = attemptTime
			w.pass(2*time.Hour, 10*time.Minute)
			got := w.place.got("down")
			keys, last := map[string]bool{}, map[string]string{}
			for _, l := range got {
				if keys[l.key] {
					t.Errorf("message %s arrived twice", l.key)
				}
				keys[l.key] = true
				owner, id := l.message.GetGroup()["owner"], l.message.GetNotices()[0].GetFinding().GetId()
				if id <= last[owner] {
					t.Errorf("%s came after %s", id, last[owner])
				}
				last[owner] = id
			}
			if len(got) != made {
				t.Errorf("%d messages arrived, want %d", len(got), made)
			}
			if dead := w.deliveries(`state = "DEAD" OR state = "PENDING"`); len(dead) > 0 {
				t.Errorf("not delivered: %v", dead)
			}
		})
	}
}

func TestMisbehavingReceivers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	names := []string{"busy", "gone", "redirect", "refusing"}
	w.hook(names...)
	for i, name := range names {
		w.route(&notificationv1.Route{Name: name, Position: int32(i), Receivers: []string{name}, GroupWait: durationpb.New(0), Proceed: true})
	}
	w.place.mood("busy", status(429, "Retry-After", "600"))
	w.place.mood("gone", status(410))
	w.place.mood("redirect", status(302, "Location", w.place.url("elsewhere")))
	w.place.mood("refusing", status(400))
	w.add(w.opened(finding1(1)))
	w.turn()
	w.pass(9*time.Minute, time.Minute)
	if n := w.place.requests("busy"); n != 1 {
		t.Errorf("a receiver that asked for ten minutes of peace was asked %d times", n)
	}
	w.place.mood("busy", nil)
	w.pass(15*time.Minute, time.Minute)
	if n := len(w.place.got("busy")); n != 1 {
		t.Errorf("after that it got %d messages", n)
	}
	if n := w.place.requests("elsewhere"); n != 0 {
		t.Errorf("a redirection was followed %d times", n)
	}
	dead := w.deliveries(`state = "DEAD"`)
	var receivers []string
	for _, d := range dead {
		receivers = append(receivers, d.GetReceiver())
		if d.GetAttempts() != 1 || d.GetLastError() == "" {
			t.Errorf("%s: %d attempts, %q", d.GetReceiver(), d.GetAttempts(), d.GetLastError())
		}
	}
	slices.Sort(receivers)
	if !slices.Contains(receivers, "refusing") {
		t.Errorf("given up at once: %v", receivers)
	}
	// Somebody mends the receiver and sends it again: with the same key.
	w.place.mood("refusing", nil)
	for _, d := range dead {
		if d.GetReceiver() == "refusing" {
			if _, err := w.config.ResendDelivery(t.Context(), &notificationv1.ResendDeliveryRequest{Id: d.GetId()}); err != nil {
				t.Fatal(err)
			}
			w.turn()
			if got := w.place.got("refusing"); len(got) != 1 || got[0].key != d.GetIdempotencyKey() {
				t.Errorf("the re-send is %v", got)
			}
		}
	}
}

// A message is given up after a day, and not before.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("down")
	w.route(&notificationv1.Route{Name: "down", Receivers: []string{"down"}, GroupWait: durationpb.New(0)})
	w.place.mood("down", status(503))
	w.add(w.opened(finding1(1)))
	w.turn()
	w.pass(23*time.Hour, 30*time.Minute)
	if d := w.deliveries(`state = "PENDING"`); len(d) != 1 {
		t.Fatalf("after 23 hours pending is %v", d)
	}
	w.pass(3*time.Hour, 30*time.Minute)
	if d := w.deliveries(`state = "DEAD"`); len(d) != 1 || d[0].GetAttempts() < 20 {
		t.Fatalf("after 26 hours given up is %v", d)
	}
}

// One receiver that hangs does not hold up others, however much waits for it.
func TestSlowReceiverHoldsUpNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.service.patience = 500 * time.Millisecond
	w.hook("slow", "quick")
	for i, name := range []string{"slow", "quick"} {
		w.route(&notificationv1.Route{Name: name, Position: int32(i), Receivers: []string{name}, GroupBy: []string{"owner"}, GroupWait: durationpb.New(0), Proceed: true, MaxMessagesPerHour: 1000})
	}
	quick := make(chan struct{})
	arrived := 0
	w.place.mood("slow", hang)
	w.place.mood("quick", func(rw http.ResponseWriter, _ *http.Request) {
		w.place.mu.Lock()
		defer w.place.mu.Unlock()
		if arrived++; arrived == 60 {
			close(quick)
		}
		rw.WriteHeader(200)
	})
	for i := range 60 {
		w.add(w.opened(finding1(i, in(fmt.Sprint(i)))))
	}
	if _, err := w.service.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	done := make(chan error, 1)
	go func() { _, err := w.service.deliver(t.Context()); done <- err }()
	<-quick
	if n := w.place.requests("slow"); n > 3*atOnceOfQueue {
		t.Errorf("after %s, %d of its attempts had begun", time.Since(begin), n)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := w.place.requests("slow"); n > 2*atOnceOfQueue {
		t.Errorf("the breaker let %d attempts through", n)
	}
}

// atOnceOfQueue is how many deliveries to one receiver the queue hands out.
const atOnceOfQueue = 4

// mute is a queue that hears nothing of how deliveries went: that of a process
// which is killed between sending and saying so.
type mute struct {
	notificationv1.NotificationQueueServiceClient
}

func (mute) FinishDelivery(context.Context, *notificationv1.FinishDeliveryRequest, ...grpc.CallOption) (*notificationv1.FinishDeliveryResponse, error) {
	return nil, errs.New(errs.Aborted, "KILLED", "killed")
}

// A replica that dies in the middle of sending loses nothing, and what arrives
// twice has the same key.
func TestKilledWhileSending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("ops")
	w.route(&notificationv1.Route{Name: "ops", Receivers: []string{"ops"}, GroupBy: []string{"owner"}, GroupWait: durationpb.New(0), MaxMessagesPerHour: 1000})
	var notices []*notificationv1.Notice
	for i := range 40 {
		notices = append(notices, w.opened(finding1(i, in(fmt.Sprint(i%20)))))
	}
	w.add(notices...)
	dying := w.replica()
	// It dies after claiming groups, too.
	if _, err := dying.queue.ClaimGroups(t.Context(), &notificationv1.ClaimGroupsRequest{Limit: 5, Lease: durationpb.New(groupLease)}); err != nil {
		t.Fatal(err)
	}
	if _, err := dying.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	dying.queue = mute{dying.queue}
	if _, err := dying.deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := w.place.got("ops")
	if len(first) != atOnceOfQueue {
		t.Fatalf("%d messages arrived before it died, want %d", len(first), atOnceOfQueue)
	}
	w.pass(3*time.Minute, 30*time.Second)
	keys := map[string]int{}
	events := map[string]bool{}
	for _, l := range w.place.got("ops") {
		keys[l.key]++
		for _, n := range l.message.GetNotices() {
			events[n.GetEventId()] = true
		}
	}
	if len(keys) != 20 || len(events) != 40 {
		t.Errorf("%d messages with %d events arrived, want 20 with 40", len(keys), len(events))
	}
	for _, l := range first {
		if keys[l.key] != 2 {
			t.Errorf("%s, of which nobody had heard that it arrived, arrived %d times", l.key, keys[l.key])
		}
	}
}
