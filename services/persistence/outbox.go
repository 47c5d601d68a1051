package persistence

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

// change is a step of a finding and the finding after it.
type change struct {
	finding    *findingv1.Finding
	transition *findingv1.Transition
}

// event is the message that tells of a change.
func (c change) event() proto.Message {
	switch c.transition.GetKind() {
	case findingv1.TransitionKind_TRANSITION_KIND_OPENED:
		return &findingv1.FindingOpened{Finding: c.finding, Transition: c.transition}
	case findingv1.TransitionKind_TRANSITION_KIND_CHANGED:
		return &findingv1.FindingChanged{Finding: c.finding, Transition: c.transition}
	case findingv1.TransitionKind_TRANSITION_KIND_RESOLVED:
		return &findingv1.FindingResolved{Finding: c.finding, Transition: c.transition}
	case findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED:
		return &findingv1.FindingExempted{Finding: c.finding, Transition: c.transition}
	case findingv1.TransitionKind_TRANSITION_KIND_ACKNOWLEDGED:
		return &findingv1.FindingAcknowledged{Finding: c.finding, Transition: c.transition}
	case findingv1.TransitionKind_TRANSITION_KIND_UNACKNOWLEDGED:
		return &findingv1.FindingUnacknowledged{Finding: c.finding, Transition: c.transition}
	case findingv1.TransitionKind_TRANSITION_KIND_ASSIGNED:
		return &findingv1.FindingAssigned{Finding: c.finding, Transition: c.transition}
	case findingv1.TransitionKind_TRANSITION_KIND_COMMENTED:
		return &findingv1.FindingCommented{Finding: c.finding, Transition: c.transition}
	default:
		return &findingv1.FindingReopened{Finding: c.finding, Transition: c.transition}
	}
}

// publish puts a message into the outbox.
func (tx *transaction) publish(m proto.Message) { tx.events = append(tx.events, m) }

// wake wakes whoever waits for the topic once the transaction is committed.
func (tx *transaction) wake(topic string) { tx.topics[topic] = true }

// flush writes down what the transaction has to say: transitions, the outbox,
// the system log and notifications. It comes last, since it takes stepLock:
// sequence numbers of transitions and ids of entries are drawn and committed by
// one transaction at a time.
func (tx *transaction) flush(ctx context.Context) error {
	type waiting struct {
		message    string
		body       []byte
		transition *int64
	}
	var out []waiting
	if len(tx.changes) > 0 || len(tx.entries) > 0 {
		if _, err := tx.NewRaw("SELECT pg_advisory_xact_lock(?)", stepLock).Exec(ctx); err != nil {
			return err
		}
	}
	if len(tx.changes) > 0 {
		var seqs []int64
		if err := tx.NewRaw("SELECT nextval('transitions_seq') FROM generate_series(1, ?)", len(tx.changes)).Scan(ctx, &seqs); err != nil {
			return err
		}
		err := tx.copyInto(ctx, "transitions", []string{"seq", "finding_id", "kind", "cause", "time", "run_id", "event"},
			len(tx.changes), func(i int) ([]any, error) {
				m, t := tx.changes[i].event(), tx.changes[i].transition
				body, err := proto.Marshal(m)
				out = append(out, waiting{message: string(m.ProtoReflect().Descriptor().FullName()), transition: &seqs[i]})
				return []any{seqs[i], t.GetFindingId(), int16(t.GetKind()), int16(t.GetCause()), t.GetTime().AsTime(), t.GetRunId(), body}, err
			})
		if err != nil {
			return err
		}
		if err := tx.countDays(ctx); err != nil {
			return err
		}
		tx.wake(topicTransitions)
	}
	for _, m := range tx.events {
		body, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		out = append(out, waiting{message: string(m.ProtoReflect().Descriptor().FullName()), body: body})
	}
	if len(out) > 0 {
		trace := bus.Trace(ctx)
		err := tx.copyInto(ctx, "outbox", []string{"time", "message", "body", "transition", "trace"},
			len(out), func(i int) ([]any, error) {
				return []any{tx.now, out[i].message, out[i].body, out[i].transition, trace}, nil
			})
		if err != nil {
			return err
		}
		tx.wake(topicOutbox)
	}
	if len(tx.entries) > 0 {
		if _, err := tx.NewInsert().Model(&tx.entries).Exec(ctx); err != nil {
			return err
		}
		tx.wake(topicEntries)
	}
	for _, topic := range slices.Sorted(maps.Keys(tx.topics)) {
		if _, err := tx.NewRaw("SELECT pg_notify(?, ?)", notifyChannel, topic).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

const (
	// relayBatch is how many messages are published at a time.
	relayBatch = 500
	// relayPoll is how often the outbox is looked at without a wake-up.
	relayPoll = 5 * time.Second
	// relayTimeout bounds the publishing of one batch; it is well below
	// frozenTimeout, which ends the transaction around it.
	relayTimeout = 10 * time.Second
)

// relay publishes the outbox until ctx ends. Of all replicas one at a time
// does, so that what is said of a finding is said in order.
//
// A row goes once the stream has taken its message. A relay that dies in
// between publishes it again, under the same message id.
func (s *Service) relay(ctx context.Context) {
	wake, cancel := s.wakeup.subscribe(topicOutbox)
	defer cancel()
	poll := time.NewTimer(0)
	defer poll.Stop()
	for wait := relayPoll; ; {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-poll.C:
		}
		for ctx.Err() == nil {
			n, err := s.relayOnce(ctx, relayBatch)
			if err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "cannot publish the outbox; trying again", "error", err)
				wait = time.Second
			} else {
				wait = relayPoll
			}
			if err != nil || n < relayBatch {
				break
			}
		}
		poll.Reset(wait)
	}
}

// waitingMessage is a row of the outbox.
type waitingMessage struct {
	ID      int64
	Time    time.Time
	Message string
	Body    []byte
	Trace   string
}

// known are the messages this version of the service can publish. Those of a
// newer one that runs beside it are left to it.
var known = sync.OnceValue(func() []string {
	var names []string
	for _, e := range bus.Events() {
		names = append(names, string(e.Name))
	}
	return names
})

// relayOnce publishes the oldest messages, up to limit, and returns how many
// it was. It is none when another replica is at it.
func (s *Service) relayOnce(ctx context.Context, limit int) (n int, err error) {
	db, err := s.db(ctx)
	if err != nil {
		return 0, err
	}
	var refusals []refused
	err = db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		var mine bool
		if err := tx.NewRaw("SELECT pg_try_advisory_xact_lock(?)", relayLock).Scan(ctx, &mine); err != nil || !mine {
			return err
		}
		var rows []*waitingMessage
		err := tx.NewRaw(`
			SELECT o.id, o.time, o.message, coalesce(o.body, t.event) AS body, o.trace
			FROM outbox o LEFT JOIN transitions t ON t.seq = o.transition
			WHERE o.error IS NULL AND o.message IN (?) ORDER BY o.id LIMIT ?`, bun.List(known()), limit).Scan(ctx, &rows)
		if err != nil {
			return err
		}
		n = len(rows)
		for len(rows) > 0 {
			size, messages, err := wave(rows)
			var bad []refused
			if err == nil {
				bad, err = s.publishWave(ctx, tx, rows[:size], messages)
			} else {
				bad, err = []refused{{rows[0], err}}, nil
			}
			if err != nil {
				return err
			}
			refusals = append(refusals, bad...)
			rows = rows[size:]
		}
		for _, r := range refusals {
			s.log.ErrorContext(ctx, "a message cannot be published; it is set aside in the outbox", "outbox_id", r.row.ID, "message", r.row.Message, "error", r.cause)
			if _, err := tx.NewRaw("UPDATE outbox SET error = ? WHERE id = ?", clean(r.cause.Error()), r.row.ID).Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && len(refusals) > 0 {
		err = s.noteRefusals(ctx, refusals)
	}
	return n, fault(err)
}

// wave takes from the front of rows what can be published at once, in any
// order: of each finding and of each component one event, and an event of a run
// by itself, so that what the run did is said before its end. An error is that of the first row,
// which can then never be published.
func wave(rows []*waitingMessage) (n int, messages []bus.Outgoing, err error) {
	told := map[string]bool{}
	for _, row := range rows {
		m, err := decode(row)
		if err != nil {
			if n == 0 {
				return 1, nil, err
			}
			return n, messages, nil
		}
		about := ""
		switch m := m.(type) {
		case interface{ GetFinding() *findingv1.Finding }:
			about = "finding " + m.GetFinding().GetId()
		case interface{ GetComponent() *healthv1.Component }:
			about = "component " + m.GetComponent().GetName()
		case interface{ GetRun() *runv1.Run }:
			if n > 0 {
				return n, messages, nil
			}
			return 1, []bus.Outgoing{{Message: m.(proto.Message), Time: row.Time, Trace: row.Trace}}, nil
		}
		if about != "" && told[about] {
			return n, messages, nil
		}
		told[about] = true
		n++
		messages = append(messages, bus.Outgoing{Message: m, Time: row.Time, Trace: row.Trace})
	}
	return n, messages, nil
}

func decode(row *waitingMessage) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(row.Message))
	if err != nil {
		return nil, err
	}
	m := t.New().Interface()
	return m, proto.Unmarshal(row.Body, m)
}

// refused is a row that can never be published, and why.
type refused struct {
	row   *waitingMessage
	cause error
}

// publishWave publishes rows of the outbox and removes them. It returns those
// that can never be published: they must not hold up all others.
func (s *Service) publishWave(ctx context.Context, tx bun.Tx, rows []*waitingMessage, messages []bus.Outgoing) ([]refused, error) {
	publishing, cancel := context.WithTimeout(ctx, relayTimeout)
	err := s.bus.PublishAll(publishing, messages)
	cancel()
	switch {
	case err == nil:
		ids := make([]int64, len(rows))
		for i, row := range rows {
			ids[i] = row.ID
		}
		_, err := tx.NewRaw("DELETE FROM outbox WHERE id IN (?)", bun.List(ids)).Exec(ctx)
		return nil, err
	case errs.Reason(err) != "MESSAGE_TOO_LARGE" && errs.Reason(err) != "BAD_MESSAGE":
		return nil, err
	case len(rows) == 1:
		return []refused{{rows[0], err}}, nil
	}
	// One of them. Publishing the others a second time is safe: they keep their ids.
	var bad []refused
	for i := range rows {
		more, err := s.publishWave(ctx, tx, rows[i:i+1], messages[i:i+1])
		if err != nil {
			return nil, err
		}
		bad = append(bad, more...)
	}
	return bad, nil
}

// noteRefusals says in the system log what was set aside. It is a transaction
// of its own: while messages are published nobody is to wait for stepLock.
func (s *Service) noteRefusals(ctx context.Context, refusals []refused) error {
	return s.inTx(ctx, func(_ context.Context, tx *transaction) error {
		for _, r := range refusals {
			tx.note(entry{
				Level: systemlogv1.Level_LEVEL_ERROR, Event: "message_refused", Service: "persistence",
				Message:    fmt.Sprintf("A %s could not be published: %s", r.row.Message, r.cause),
				Attributes: map[string]string{"outbox_id": fmt.Sprint(r.row.ID)},
			})
		}
		return nil
	})
}
