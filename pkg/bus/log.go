package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
)

// Last returns the last message of type T on the subject with these routing
// tokens, all of them given; nil when there is none.
func Last[T proto.Message](ctx context.Context, b *Bus, tokens ...string) (*Message[T], error) {
	e := eventFor[T]()
	if len(tokens) != len(e.Tokens) {
		return nil, fmt.Errorf("bus: %s has the tokens %v, and %d were given", e.Short(), e.Tokens, len(tokens))
	}
	var raw *jetstream.RawStreamMsg
	err := b.ask(ctx, "$JS.API.STREAM.", func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, e.Stream)
		if err != nil {
			return err
		}
		raw, err = s.GetLastMsgForSubject(ctx, e.Filter(tokens...))
		return err
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("reading "+e.Filter(tokens...), err)
	}
	body, err := decode[T](raw.Data)
	if err != nil {
		return nil, fmt.Errorf("message %d of %s cannot be decoded: %w", raw.Sequence, e.Stream, err)
	}
	return &Message[T]{Body: body, ID: raw.Header.Get(headerID), Subject: raw.Subject, Time: raw.Time, Sequence: raw.Sequence, Deliveries: 1, Attempt: 1}, nil
}

// Watch calls each with the last message of every subject of type T, then
// current, then each with every new message, in order, until ctx ends, when it
// returns nil. It sees every message once, also over lost connections. Nothing
// is acknowledged and nobody else's share is taken. A message that does not
// decode is logged and left out.
func Watch[T proto.Message](ctx context.Context, b *Bus, each func(*Message[T]), current func()) error {
	e := eventFor[T]()
	var c jetstream.Consumer
	err := b.patiently(ctx, "watching "+e.Short(), func(ctx context.Context) (err error) {
		c, err = b.js.OrderedConsumer(ctx, e.Stream, jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{e.Filter()}, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		})
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	it, err := c.Messages()
	if err != nil {
		return unavailable("watching "+e.Short(), err)
	}
	defer it.Stop()
	caughtUp := c.CachedInfo().NumPending == 0
	if caughtUp {
		current()
	}
	for {
		msg, err := it.Next(jetstream.NextContext(ctx))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return unavailable("watching "+e.Short(), err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("watching %s: %w", e.Short(), err)
		}
		if body, err := decode[T](msg.Data()); err != nil {
			b.log.Error("message cannot be decoded", "stream", e.Stream, "sequence", meta.Sequence.Stream, "error", err)
		} else {
			each(&Message[T]{
				Body: body, ID: msg.Headers().Get(headerID), Subject: msg.Subject(), Time: meta.Timestamp,
				Sequence: meta.Sequence.Stream, Deliveries: 1, Attempt: 1,
			})
		}
		if !caughtUp && meta.NumPending == 0 {
			caughtUp = true
			current()
		}
	}
}
