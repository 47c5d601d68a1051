package persistence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// said names what was published: messages and, of findings, what happened.
func said(p *taken) (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.messages {
		name := string(m.Message.ProtoReflect().Descriptor().Name())
		if f, ok := m.Message.(interface{ GetFinding() *findingv1.Finding }); ok {
			name += " " + f.GetFinding().GetResource().GetId()
		}
		names = append(names, name)
	}
	return names
}

func drain(t testing.TB, s *Service, limit int) {
	t.Helper()
	for {
		n, err := s.relayOnce(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

func TestRelayKeepsTheOrder(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 3, relayBatch} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			s, p := replica(t, devtest.DB(t, migrated))
			scanOnce(t, s, 0, complete, violation("a", at(0)), violation("b", at(0)))
			scanOnce(t, s, 1, complete, volume(here, "a", rulev1.Outcome_OUTCOME_COMPLIANT, at(1)), violation("b", at(1)))
			scanOnce(t, s, 2, complete, violation("a", at(2)), violation("b", at(2)))
			drain(t, s, limit)
			var a []string
			names := said(p)
			for _, n := range names {
				if strings.HasSuffix(n, " a") {
					a = append(a, n)
				}
			}
			if got := strings.Join(a, ", "); got != "FindingOpened a, FindingResolved a, FindingReopened a" {
				t.Errorf("of a was said: %s", got)
			}
			if len(names) != 3*3+4 || names[0] != "RunStarted" || names[len(names)-1] != "RunFinished" {
				t.Errorf("published %s", names)
			}
			if left := waiting(t, s); len(left) > 0 {
				t.Errorf("left over: %s", left)
			}
		})
	}
}

// Whatever a relay has said before it dies is said again and nothing is
// skipped; a message says when it came to be.
func TestRelayDies(t *testing.T) {
	t.Parallel()
	s, p := replica(t, devtest.DB(t, migrated))
	scanOnce(t, s, 0, complete, violation("a", at(0)), violation("b", at(0)), violation("c", at(0)))
	want := len(waiting(t, s))
	died := errors.New("killed")
	calls := 0
	p.fail = func(bus.Outgoing) error {
		if calls++; calls%3 == 0 {
			return died
		}
		return nil
	}
	for tries := 0; len(waiting(t, s)) > 0; tries++ {
		if _, err := s.relayOnce(t.Context(), 2); err != nil && !errors.Is(err, died) || tries > 100 {
			t.Fatal(tries, err)
		}
	}
	ids := map[string]bool{}
	for _, m := range p.messages {
		for _, e := range bus.Events() {
			if e.Name == m.Message.ProtoReflect().Descriptor().FullName() {
				ids[e.MessageID(m.Message)] = true
			}
		}
		if m.Time.IsZero() {
			t.Error("a message has no time")
		}
	}
	if len(ids) != want {
		t.Errorf("%d different messages were published, want %d", len(ids), want)
	}
}

func TestRelaySetsAside(t *testing.T) {
	t.Parallel()
	s, p := replica(t, devtest.DB(t, migrated))
	scanOnce(t, s, 0, complete, violation("a", at(0)), violation("b", at(0)), violation("c", at(0)))
	if _, err := s.bun.ExecContext(t.Context(), `INSERT INTO outbox (time, message, body, trace) VALUES
		(now(), 'nightshift.run.v1.RunStarted', '\xffff', ''), (now(), 'nightshift.next.v1.OfANewerVersion', '\x00', '')`); err != nil {
		t.Fatal(err)
	}
	p.fail = func(m bus.Outgoing) error {
		if f, ok := m.Message.(*findingv1.FindingOpened); ok && f.GetFinding().GetResource().GetId() == "b" {
			return errs.New(errs.ResourceExhausted, "MESSAGE_TOO_LARGE", "too large")
		}
		return nil
	}
	drain(t, s, relayBatch)
	if got := strings.Join(waiting(t, s), " "); got != "FindingOpened RunStarted OfANewerVersion" {
		t.Errorf("left over: %s", got)
	}
	names := strings.Join(said(p), ", ")
	for _, want := range []string{"FindingOpened a", "FindingOpened c", "RunFinished"} {
		if !strings.Contains(names, want) {
			t.Errorf("%s was not published, only %s", want, names)
		}
	}
	if got := strings.Join(logged(t, s), " "); strings.Count(got, "message_refused") != 2 {
		t.Errorf("log %s", got)
	}
}

func TestReplicasRelayOneAtATime(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	a, pa := replica(t, dsn)
	b, pb := replica(t, dsn)
	scanOnce(t, a, 0, complete, violation("a", at(0)), violation("b", at(0)), violation("c", at(0)))
	want := len(waiting(t, a))
	var g errgroup.Group
	for _, s := range []*Service{a, b} {
		g.Go(func() error {
			for {
				var left int
				if err := s.bun.NewRaw("SELECT count(*) FROM outbox").Scan(t.Context(), &left); err != nil || left == 0 {
					return err
				}
				if _, err := s.relayOnce(t.Context(), 1); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := len(said(pa)) + len(said(pb)); got != want {
		t.Errorf("%d messages published, want %d", got, want)
	}
}

// The relay wakes up for what another replica commits.
func TestRelayWakesUp(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	a, p := replica(t, dsn)
	b, _ := replica(t, dsn)
	ctx, cancel := context.WithCancel(t.Context())
	published := make(chan struct{}, 100)
	p.fail = func(bus.Outgoing) error { published <- struct{}{}; return nil }
	var g errgroup.Group
	g.Go(func() error { a.listen(ctx); return nil })
	g.Go(func() error { a.relay(ctx); return nil })
	defer g.Wait()
	defer cancel()
	for i := range 3 {
		if _, err := b.StartRun(ctx, trigger(fmt.Sprintf("job/%d", i))); err != nil {
			t.Fatal(err)
		}
		<-published
	}
}
