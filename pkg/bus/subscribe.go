package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"nightshift.dev/pkg/errs"
)

// Durable has the server remember, under this name, what was handled: a
// subscription that comes back, or comes up in another process, goes on there.
// Processes that subscribe under one name share the messages. A name that
// nobody has used for 30 days is forgotten. It is letters, digits and hyphens,
// and not that of a service of Nightshift.
func Durable(name string) Option {
	return func(c *consumer) { c.group, c.keeps = name, true }
}

// Since begins with the first message that was stored at that time or later,
// by the server's clock; without it a subscription begins with the next one.
// What a durable one has begun already goes on where it was.
func Since(t time.Time) Option { return func(c *consumer) { c.from = t } }

// All begins with the oldest message that is kept.
func All() Option { return Since(theBeginning) }

// theBeginning is older than every message.
var theBeginning = time.Unix(0, 0)

// forgetAfter is how long the server remembers a durable subscription that
// nobody uses: at least as long as the stream keeps what it has not seen.
const forgetAfter = 30 * day

// Subscribe calls handler with the messages of type T until ctx ends, when it
// returns nil. It is for everybody who is no service of Nightshift: it changes
// nothing for anybody else, and needs no right but to read. Connect with Dial.
//
// What the handler returns is the verdict: nil, done; an error, again after
// 1 s, 4 s, 16 s and so on up to 5 min, for ever or up to MaxAttempts; Drop,
// never again, and a line in the log; Later, again after that time. A panic is
// an error. A message that cannot be decoded is logged and left out. The next
// messages are asked for when the handler is free, so a slow one falls behind
// and is not flooded.
//
// Without Durable, the messages come in order, one at a time, and one that
// fails holds up those after it; a new process begins where its options say.
// With Durable, each message comes at least once, over restarts of everybody,
// in order as long as none fails; MaxPending(1) keeps the order also then.
// Concurrency is for durable ones.
//
// A message can come twice, with the same ID: who must not act twice keeps the
// ids it acted on, in the transaction in which it acts.
//
// Lost connections are mended. It returns with an error when the options
// cannot be, when the server denies the right to read, or when somebody
// deleted the durable subscription.
func Subscribe[T proto.Message](ctx context.Context, b *Bus, handler func(ctx context.Context, m *Message[T]) error, opts ...Option) error {
	c := &consumer{
		b: b, event: eventFor[T](), batch: 1, workers: 1, maxPending: 1000, maxAttempts: Unlimited, foreign: true,
		handle: func(ctx context.Context, ds []*delivery) []error {
			return []error{handler(ctx, message[T](ds[0]))}
		},
		decode: func(data []byte) (proto.Message, error) { return decode[T](data) },
	}
	for _, o := range opts {
		o(c)
	}
	c.name = cmp.Or(c.group, b.cfg.Service) + "-" + c.event.Short()
	bad := func(format string, args ...any) error {
		return errs.New(errs.InvalidArgument, "BAD_SUBSCRIPTION", "a subscription to %s cannot be: "+format, append([]any{c.event.Short()}, args...)...)
	}
	switch {
	case len(c.filter) > len(c.event.Tokens):
		return bad("it has the tokens %v, and %d were given", c.event.Tokens, len(c.filter))
	case c.workers < 1 || c.maxPending < 1 || c.maxAttempts < 1:
		return bad("its concurrency, pending messages and attempts are 1 or more")
	case !c.keeps && (c.group != "" || c.workers > 1):
		return bad("without Durable its messages come one at a time")
	case c.keeps && (c.group == "" || token(c.group) != c.group):
		return bad("its name is %q: want letters, digits and hyphens", c.group)
	case c.keeps && slices.Contains(services(), c.group):
		return bad("%q is a service of Nightshift, and would miss what goes elsewhere", c.group)
	}
	if !c.keeps {
		return c.follow(ctx)
	}
	if err := c.begin(ctx, c.reconcile); err != nil {
		return ending(ctx, err)
	}
	hctx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	return b.serve(ctx, hctx, cut, []*consumer{c})
}

// Forget ends a durable subscription for good: a new one of that name begins
// where its options say. It is no error when there is none.
func Forget[T proto.Message](ctx context.Context, b *Bus, name string) error {
	e := eventFor[T]()
	if slices.Contains(services(), name) {
		return errs.New(errs.InvalidArgument, "BAD_SUBSCRIPTION", "%q is a service of Nightshift", name)
	}
	err := b.ask(ctx, "$JS.API.CONSUMER.", func(ctx context.Context) error {
		return b.js.DeleteConsumer(ctx, e.Stream, name+"-"+e.Short())
	})
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return unavailable("forgetting "+name, err)
	}
	return nil
}

// ending is nil when ctx has ended.
func ending(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// start says where a subscription begins that has no place yet.
func (c *consumer) start() (jetstream.DeliverPolicy, *time.Time) {
	switch {
	case c.from.IsZero():
		return jetstream.DeliverNewPolicy, nil
	case !c.from.After(theBeginning):
		return jetstream.DeliverAllPolicy, nil
	default:
		return jetstream.DeliverByStartTimePolicy, &c.from
	}
}

// begin makes the consumer, and waits for a stream that is not there yet.
func (c *consumer) begin(ctx context.Context, do func(context.Context) error) error {
	return c.b.patiently(ctx, "subscribing to "+c.event.Short(), func(ctx context.Context) error {
		err := do(ctx)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("stream %s comes with the services of Nightshift, and %w", c.event.Stream, errNotYet)
		}
		return err
	})
}

// follow is a subscription that only this process remembers.
func (c *consumer) follow(ctx context.Context) error {
	policy, at := c.start()
	cfg := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{c.event.Filter(c.filter...)}, DeliverPolicy: policy, OptStartTime: at,
	}
	if policy == jetstream.DeliverNewPolicy {
		// As a number, because "new" would mean something else when the connection is lost before the first message.
		err := c.begin(ctx, func(ctx context.Context) error {
			s, err := c.b.js.Stream(ctx, c.event.Stream)
			if err == nil {
				cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, s.CachedInfo().State.LastSeq+1
			}
			return err
		})
		if err != nil {
			return ending(ctx, err)
		}
	}
	for failures := 0; ; failures++ {
		var it jetstream.MessagesContext
		err := c.begin(ctx, func(ctx context.Context) error {
			oc, err := c.b.js.OrderedConsumer(ctx, c.event.Stream, cfg)
			if err == nil {
				it, err = oc.Messages(jetstream.PullMaxMessages(followAhead), jetstream.PullHeartbeat(pullHeartbeat))
			}
			return err
		})
		if err != nil {
			return ending(ctx, err)
		}
		for {
			var msg jetstream.Msg
			if msg, err = it.Next(jetstream.NextContext(ctx)); err != nil {
				break
			}
			failures = 0
			meta, err := msg.Metadata()
			if err != nil {
				continue
			}
			if !c.handleHere(ctx, msg) {
				break // not handled yet, and ctx has ended
			}
			cfg.DeliverPolicy, cfg.OptStartTime, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, nil, meta.Sequence.Stream+1
		}
		it.Stop()
		if ctx.Err() != nil {
			return nil
		}
		c.b.log.Warn("consuming was interrupted", "consumer", c.name, "error", err)
		sleep(ctx, jitter(min(100*time.Millisecond<<min(failures, 6), 5*time.Second)))
	}
}

// followAhead is how many messages come before the handler is free for them.
const followAhead = 50

// handleHere has a message handled until it is done or given up; false when
// ctx ended first.
func (c *consumer) handleHere(ctx context.Context, msg jetstream.Msg) bool {
	d := c.open(ctx, msg)
	for ; d != nil; d.attempt++ {
		hctx, span := c.span(ctx, []*delivery{d})
		err := c.call(hctx, []*delivery{d})[0]
		span.End()
		var drop dropped
		var again later
		wait := max(jitter(c.b.backoff(d.attempt)), errs.RetryDelay(err))
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil:
			return false
		case errors.As(err, &drop), d.attempt >= c.maxAttempts && !errors.As(err, &again):
			c.bury(ctx, d, err)
			return true
		case errors.As(err, &again):
			wait = time.Duration(again)
			d.attempt--
		default:
			c.b.log.Warn("message was not handled and is tried again", "consumer", c.name, "id", d.id, "attempt", d.attempt, "in", wait, "error", err)
		}
		if !sleep(ctx, wait) {
			return false
		}
	}
	return true
}
