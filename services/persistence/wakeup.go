package persistence

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// What transactions wake others up for. The runs have a topic each, of this
// prefix and their id.
const (
	topicOutbox      = "outbox"
	topicTransitions = "transitions"
	topicEntries     = "entries"
	topicRun         = "run/"
)

// notifyChannel is the channel of NOTIFY; payloads are topics.
const notifyChannel = "nightshift"

// wakeup tells those who wait in this process that something may have
// changed. A wake-up is a hint: whoever gets one looks for himself, and looks
// now and then without one.
type wakeup struct {
	mu      sync.Mutex
	waiting map[string]map[chan struct{}]bool
}

func newWakeup() *wakeup { return &wakeup{waiting: map[string]map[chan struct{}]bool{}} }

// subscribe returns a channel that holds a value after each change of the
// topic, and what ends the subscription.
func (w *wakeup) subscribe(topic string) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[topic] == nil {
		w.waiting[topic] = map[chan struct{}]bool{}
	}
	w.waiting[topic][c] = true
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting[topic], c)
		if len(w.waiting[topic]) == 0 {
			delete(w.waiting, topic)
		}
	}
}

// wake wakes those who wait for the topic, or everyone when it is "".
func (w *wakeup) wake(topic string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t, waiting := range w.waiting {
		if topic != "" && t != topic {
			continue
		}
		for c := range waiting {
			select {
			case c <- struct{}{}:
			default: // is awake already
			}
		}
	}
}

// listen passes on the database's notifications, of this process and of every
// other replica, until ctx ends.
func (s *Service) listen(ctx context.Context) {
	for wait := 100 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		err := s.listenOnce(ctx, func() { wait = 100 * time.Millisecond })
		if ctx.Err() != nil {
			return
		}
		s.log.WarnContext(ctx, "lost the connection that listens to Postgres; connecting again", "error", err, "after", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// listenOnce listens on one connection until it breaks.
func (s *Service) listenOnce(ctx context.Context, connected func()) error {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+notifyChannel); err != nil {
		return err
	}
	connected()
	s.wakeup.wake("") // whatever was missed until now
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		s.wakeup.wake(n.Payload)
	}
}
