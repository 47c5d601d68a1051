package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
)

func deadLetters(t testing.TB, b *Bus) []*deadletterv1.DeadLetter {
	t.Helper()
	list, err := b.DeadLetters().List(t.Context(), "", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func awaitDeadLetters(t testing.TB, b *Bus, n int) (list []*deadletterv1.DeadLetter) {
	t.Helper()
	eventually(t, fmt.Sprint("there are dead letters: ", n), func() bool {
		list = deadLetters(t, b)
		return len(list) == n
	})
	return list
}

// What nobody can act on goes to the dead letters at once, with its reason,
// and what comes after it is handled.
func TestUnreadableMessageStopsNothing(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	got := make(chan *Message[*scanv1.ScopeRequested], 10)
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error { got <- m; return nil })
	run(t, b)
	const subject = "nightshift.scan.v1.ScopeRequested.waste.1.eu-west-1"
	for _, msg := range []*nats.Msg{
		{Subject: subject, Data: []byte("\xff\xffnot protobuf")},
		{Subject: subject, Data: []byte("\x0a\x02\xff\xfe")}, // a string that is no UTF-8
		{Subject: subject, Header: nats.Header{"ce-type": {"com.example.Other"}, "ce-id": {"x"}, "Evil": {"y"}}},
		{Subject: subject, Data: []byte("{}"), Header: nats.Header{"ce-type": {"nightshift.scan.v1.ScopeFinished"}}},
	} {
		if _, err := b.js.PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	mustPublish(t, b, requested("good", "1"))
	if m := wait(t, got, "the good message"); m.Body.GetRunId() != "good" || m.Sequence != 5 {
		t.Errorf("handled %v", m)
	}
	list := awaitDeadLetters(t, b, 4)
	for i, want := range []string{"cannot be decoded as nightshift.scan.v1.ScopeRequested", "invalid UTF-8", "is a com.example.Other", "is a nightshift.scan.v1.ScopeFinished"} {
		d := list[i]
		if !strings.Contains(d.GetReason(), want) || d.GetAttempts() != 1 || d.GetConsumer() != "waste-ScopeRequested" || d.GetSubject() != subject {
			t.Errorf("dead letter %v, want the reason %s", d, want)
		}
		if len(d.GetPayload()) != 0 || d.GetPayloadJson() != "" {
			t.Errorf("the list has a payload: %v", d)
		}
	}
	d, err := b.DeadLetters().Get(t.Context(), list[0].GetId())
	if err != nil || string(d.GetPayload()) != "\xff\xffnot protobuf" || d.GetPayloadJson() != "" || d.GetMessageId() != "NIGHTSHIFT_SCAN/1" {
		t.Errorf("dead letter %v, %v", d, err)
	}
	if list[2].GetMessageId() != "x" {
		t.Errorf("message id %s", list[2].GetMessageId())
	}
}

func TestDropIsFinal(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	On(b, func(context.Context, *Message[*scanv1.ScopeRequested]) error {
		return fmt.Errorf("outer: %w", Drop(errors.New("line one\nline two \xff"+strings.Repeat("x", 5000))))
	})
	run(t, b)
	mustPublish(t, b, requested("r", "1"))
	d := awaitDeadLetters(t, b, 1)[0]
	if !strings.HasPrefix(d.GetReason(), "outer: line one line two ?xxx") || len(d.GetReason()) > reasonMax+10 || d.GetAttempts() != 1 {
		t.Errorf("dead letter %v", d)
	}
	d, err := b.DeadLetters().Get(t.Context(), d.GetId())
	if err != nil || !strings.Contains(d.GetPayloadJson(), `"waste"`) {
		t.Errorf("%v, %v", d, err)
	}
}

// A replay goes to the consumer that gave the message up and to no other.
func TestReplay(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	waste, audit := connect(t, s, "waste"), connect(t, s, "audit")
	cure := make(chan struct{})
	got := make(chan *Message[*scanv1.ScopeRequested], 10)
	On(waste, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error {
		select {
		case <-cure:
			got <- m
			return nil
		default:
			return Drop(errors.New("sick"))
		}
	}, Filter("waste"))
	seen := make(chan string, 10)
	On(audit, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error {
		if m.Replayed {
			t.Error("what was published counts as replayed")
		}
		seen <- m.Body.GetRunId()
		return nil
	})
	run(t, waste)
	run(t, audit)
	mustPublish(t, waste, requested("r", "1"))
	wait(t, seen, "the audit")
	d := awaitDeadLetters(t, waste, 1)[0]
	close(cure)
	letters := audit.DeadLetters() // any service can
	if err := letters.Replay(t.Context(), d.GetId()); err != nil {
		t.Fatal(err)
	}
	m := wait(t, got, "the replay")
	if m.Body.GetRunId() != "r" || m.Subject != "nightshift.scan.v1.ScopeRequested.waste.1.eu-west-1" ||
		m.ID != "ScopeRequested/r/waste/1/eu-west-1" || m.Attempt != 1 || m.Sequence != 2 || !m.Replayed {
		t.Errorf("replayed as %+v", m)
	}
	if err := letters.Replay(t.Context(), d.GetId()); !errors.Is(err, errs.NotFound) {
		t.Errorf("a second replay: %v", err)
	}
	// The audit saw the message once: what comes next to it is something new.
	mustPublish(t, waste, requested("next", "1"))
	if id := wait(t, seen, "the next message"); id != "next" {
		t.Errorf("the audit saw %s again", id)
	}
	// What was replayed and fails again becomes a dead letter again, with the subject it first came on.
	if n := len(deadLetters(t, waste)); n != 0 {
		t.Errorf("%d dead letters are left", n)
	}
}

// A replay that broke off between handing the message over and removing the
// dead letter can be repeated.
func TestReplayTwiceIsOnce(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	calls := make(chan string, 10)
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error {
		calls <- m.Body.GetRunId()
		if m.Body.GetRunId() == "r" && m.Sequence == 1 {
			return Drop(errors.New("sick"))
		}
		return nil
	})
	run(t, b)
	mustPublish(t, b, requested("r", "1"))
	wait(t, calls, "the first")
	d := awaitDeadLetters(t, b, 1)[0]
	raw, err := b.DeadLetters().get(t.Context(), d.GetId())
	if err != nil {
		t.Fatal(err)
	}
	// The half that was done: the message is in the stream again.
	half := &nats.Msg{Subject: subjectOfReplay("NIGHTSHIFT_SCAN", "waste-ScopeRequested"), Data: raw.Data, Header: nats.Header{
		jetstream.MsgIDHeader: {fmt.Sprintf("replay/%d", d.GetId())}, headerOriginalSubject: {d.GetSubject()}, headerType: raw.Header[headerType],
	}}
	if _, err := b.js.PublishMsg(t.Context(), half); err != nil {
		t.Fatal(err)
	}
	wait(t, calls, "the half replay")
	if err := b.DeadLetters().Replay(t.Context(), d.GetId()); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, b, requested("next", "1"))
	if id := wait(t, calls, "the next"); id != "next" {
		t.Errorf("%s came once more", id)
	}
}

func TestReplayNeedsItsConsumer(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	On(b, func(context.Context, *Message[*scanv1.ScopeRequested]) error { return Drop(errors.New("sick")) })
	stop := run(t, b)
	mustPublish(t, b, requested("r", "1"))
	d := awaitDeadLetters(t, b, 1)[0]
	stop()
	if err := b.js.DeleteConsumer(t.Context(), "NIGHTSHIFT_SCAN", "waste-ScopeRequested"); err != nil {
		t.Fatal(err)
	}
	if err := b.DeadLetters().Replay(t.Context(), d.GetId()); !errors.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "waste-ScopeRequested") {
		t.Errorf("replay to nobody: %v", err)
	}
	if len(deadLetters(t, b)) != 1 {
		t.Error("the dead letter is gone")
	}
	if err := b.DeadLetters().Delete(t.Context(), d.GetId()); err != nil {
		t.Error(err)
	}
	if err := b.DeadLetters().Delete(t.Context(), d.GetId()); !errors.Is(err, errs.NotFound) {
		t.Errorf("a second deletion: %v", err)
	}
}

// A message so large that it cannot be kept with its reason leaves a dead
// letter that says where it is.
func TestDeadLetterOfALargeMessage(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	s := startServer(t, t.TempDir(), func(o *server.Options) { o.MaxPayload = limit })
	b := connect(t, s, "waste")
	On(b, func(context.Context, *Message[*scanv1.ScopeRequested]) error { return nil })
	run(t, b)
	data := bytes.Repeat([]byte{0xff}, limit-100)
	if _, err := b.js.Publish(t.Context(), "nightshift.scan.v1.ScopeRequested.waste.1.r", data); err != nil {
		t.Fatal(err)
	}
	d := awaitDeadLetters(t, b, 1)[0]
	if !strings.Contains(d.GetReason(), "see message 1 of NIGHTSHIFT_SCAN") || !strings.Contains(d.GetReason(), "cannot be decoded") {
		t.Errorf("reason %s", d.GetReason())
	}
	if err := b.DeadLetters().Replay(t.Context(), d.GetId()); !errors.Is(err, errs.FailedPrecondition) {
		t.Errorf("replay without a payload: %v", err)
	}
}

// A message that ends its process each time leaves no verdict; it is given up
// all the same.
func TestMessageThatKillsIsGivenUp(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	victim := connect(t, s, "waste")
	victim.ackWait = 20 * time.Millisecond
	On(victim, func(context.Context, *Message[*scanv1.ScopeRequested]) error { return nil })
	c := victim.consumers[0]
	if err := c.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, victim, requested("r", "1"))
	for range c.maxAttempts {
		if _, err := c.durable.Next(); err != nil { // taken, and never heard of again
			t.Fatal(err)
		}
	}
	run(t, victim)
	d := awaitDeadLetters(t, victim, 1)[0]
	if !strings.Contains(d.GetReason(), "given up after 4 attempts") || d.GetAttempts() != 5 {
		t.Errorf("dead letter %v", d)
	}
}
