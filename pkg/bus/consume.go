package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"nightshift.dev/pkg/errs"
)

// Message is an event as a handler gets it.
type Message[T proto.Message] struct {
	// Body is the event.
	Body T
	// ID is the message id: the same for every delivery and every copy.
	ID string
	// Subject it was published on.
	Subject string
	// Time it was stored, by the server's clock.
	Time time.Time
	// Sequence is its place in the stream. A replayed dead letter has a new one.
	Sequence uint64
	// Deliveries counts from 1 how often a consumer was handed it; with
	// Sequence it names this delivery and no other.
	Deliveries int
	// Attempt counts from 1 and leaves out the deliveries that ended with
	// Later or with the handler's process being stopped.
	Attempt int
	// Replayed tells that it was a dead letter, and that somebody asked for it
	// to be handled after all.
	Replayed bool
}

// Drop makes an error final: the message becomes a dead letter at once.
func Drop(err error) error { return dropped{err} }

type dropped struct{ error }

func (d dropped) Unwrap() error { return d.error }

// Later asks for the message again after d, without counting this as an
// attempt: the message is not to blame, such as while a database is away. It
// can be wrapped in an error that says why.
func Later(d time.Duration) error { return later(d) }

type later time.Duration

func (l later) Error() string { return "again in " + time.Duration(l).String() }

// Option sets how a handler is called.
type Option func(*consumer)

// Filter takes only the messages whose first routing tokens have these values.
func Filter(tokens ...string) Option {
	return func(c *consumer) { c.filter = tokens }
}

// Group names the consumer after something else than the service: whoever
// handles messages as the same group shares them, whatever process or service
// it is. The name is letters, digits and hyphens.
func Group(name string) Option { return func(c *consumer) { c.group = name } }

// Concurrency is how many messages, or batches, this process handles at once.
// Default 1.
func Concurrency(n int) Option { return func(c *consumer) { c.workers = n } }

// MaxPending is how many messages all replicas together handle at once.
// Default 1000.
func MaxPending(n int) Option { return func(c *consumer) { c.maxPending = n } }

// MaxAttempts is how often a message is tried before it becomes a dead letter.
// Default 4; Unlimited for a handler that counts by itself.
func MaxAttempts(n int) Option { return func(c *consumer) { c.maxAttempts = n } }

// Unlimited as MaxAttempts never gives a message up that can be read.
const Unlimited = math.MaxInt

// On has every message of type T handled by one replica of the service. What
// the handler returns is the verdict: nil, done; an error, again after 1 s, 4 s,
// 16 s and so on (longer when the error carries a longer retry delay), and at
// the end a dead letter; Drop, a dead letter at once; Later, again, and not
// counted. A panic is an error. While the handler runs, the message is held;
// its context ends shortly after the bus is asked to stop.
//
// On is called before Run, once for each type and group; anything else panics.
func On[T proto.Message](b *Bus, handler func(ctx context.Context, m *Message[T]) error, opts ...Option) {
	register[T](b, 1, func(ctx context.Context, ds []*delivery) []error {
		return []error{handler(ctx, message[T](ds[0]))}
	}, opts)
}

// OnBatch is On for handlers that act on many messages at once: it hands over
// what is there, up to limit messages, and takes one verdict for each. Messages
// that failed before come alone, so that a bad one cannot take others with it.
func OnBatch[T proto.Message](b *Bus, limit int, handler func(ctx context.Context, batch []*Message[T]) []error, opts ...Option) {
	register[T](b, limit, func(ctx context.Context, ds []*delivery) []error {
		batch := make([]*Message[T], len(ds))
		for i, d := range ds {
			batch[i] = message[T](d)
		}
		return handler(ctx, batch)
	}, opts)
}

func register[T proto.Message](b *Bus, batch int, handle func(context.Context, []*delivery) []error, opts []Option) {
	e := eventFor[T]()
	c := consumerOf(b, e, b.cfg.Service)
	c.batch, c.handle = batch, handle
	c.decode = func(data []byte) (proto.Message, error) { return decode[T](data) }
	for _, o := range opts {
		o(c)
	}
	c.name = c.group + "-" + e.Short()
	if c.group == "" || token(c.group) != c.group || c.batch < 1 || c.workers < 1 || c.maxPending < 1 || c.maxAttempts < 1 || len(c.filter) > len(e.Tokens) {
		panic(fmt.Sprintf("bus: %s: an option is out of range", c.name))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running != nil {
		panic(fmt.Sprintf("bus: %s is registered after Run", c.name))
	}
	if slices.ContainsFunc(b.consumers, func(o *consumer) bool { return o.name == c.name }) {
		panic(fmt.Sprintf("bus: %s is registered twice", c.name))
	}
	b.consumers = append(b.consumers, c)
}

// consumerOf is the consumer of a group, as it is without options.
func consumerOf(b *Bus, e *Event, group string) *consumer {
	return &consumer{b: b, event: e, group: group, name: group + "-" + e.Short(), batch: 1, workers: 1, maxPending: 1000, maxAttempts: 4}
}

func decode[T proto.Message](data []byte) (T, error) {
	var zero T
	m := zero.ProtoReflect().New().Interface().(T)
	return m, proto.Unmarshal(data, m)
}

func message[T proto.Message](d *delivery) *Message[T] {
	return &Message[T]{
		Body: d.body.(T), ID: d.id, Subject: d.subject, Time: d.meta.Timestamp, Sequence: d.meta.Sequence.Stream,
		Deliveries: d.deliveries(), Attempt: d.attempt, Replayed: strings.HasPrefix(d.msg.Subject(), replaySubject+"."),
	}
}

// consumer is one durable consumer and this process's share in it.
type consumer struct {
	b                                       *Bus
	event                                   *Event
	group, name                             string
	filter                                  []string
	batch, workers, maxPending, maxAttempts int
	decode                                  func([]byte) (proto.Message, error)
	handle                                  func(context.Context, []*delivery) []error
	durable                                 jetstream.Consumer
	// A subscription of somebody else: it keeps nothing of its own on the bus but its place in the stream.
	foreign, keeps bool
	from           time.Time
}

// delivery is a message in hand.
type delivery struct {
	msg     jetstream.Msg
	meta    *jetstream.MsgMetadata
	id      string
	subject string
	attempt int
	body    proto.Message
}

func (d *delivery) deliveries() int { return int(min(d.meta.NumDelivered, 1<<31-1)) }

// Run creates or updates the consumers of the registered handlers and calls
// the handlers until ctx ends. Then it takes no more messages, waits for the
// handlers, ends their contexts after Config.Grace, and returns nil. It returns
// earlier only with an error: a consumer cannot be made what it is declared to
// be, or somebody deleted it. Run is called once.
func (b *Bus) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hctx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	b.mu.Lock()
	if b.running != nil {
		b.mu.Unlock()
		return errs.New(errs.FailedPrecondition, "BUS_RUNNING", "the bus runs already")
	}
	b.running = make(chan struct{})
	b.stop, b.cut = stop, cut
	consumers := b.consumers
	b.mu.Unlock()
	defer close(b.running)

	for _, c := range consumers {
		if err := b.patiently(ctx, "reconciling consumer "+c.name, c.reconcile); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	return b.serve(ctx, hctx, cut, consumers)
}

// serve has the consumers at work until ctx ends, and their handlers until cut
// has ended hctx.
func (b *Bus) serve(ctx, hctx context.Context, cut context.CancelFunc, consumers []*consumer) error {
	defer context.AfterFunc(ctx, func() {
		if sleep(hctx, b.cfg.Grace) {
			cut()
		}
	})()
	// What the server sent before it heard that no more is wanted is waited for, but not for long: the server may be gone.
	drained, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() {
		if sleep(drained, drainTime) {
			giveUp()
		}
	})()
	g, gctx := errgroup.WithContext(ctx)
	for _, c := range consumers {
		for range c.workers {
			g.Go(func() error { return c.work(gctx, hctx, drained) })
		}
	}
	g.Go(func() error { <-gctx.Done(); return nil })
	return g.Wait()
}

// drainTime is how long a stopping consumer waits for messages on their way.
const drainTime = 500 * time.Millisecond

func (c *consumer) config() jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Durable:        c.name,
		Description:    c.event.Short() + " for " + c.group,
		FilterSubjects: []string{c.event.Filter(c.filter...), c.replaySubject()},
		DeliverPolicy:  deliverFrom(c.event.Stream),
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        c.b.ackWait,
		MaxAckPending:  c.maxPending,
		// Attempts are counted here: for the server, Later would be one too, and a message that it gives up
		// it leaves behind without a word. Its own back-off would shorten AckWait to the first step.
		MaxDeliver: -1,
	}
	if c.foreign {
		// The server can tell who may read what only from a filter that is by itself.
		cfg.FilterSubject, cfg.FilterSubjects = cfg.FilterSubjects[0], nil
		cfg.DeliverPolicy, cfg.OptStartTime = c.start()
		cfg.InactiveThreshold = forgetAfter
	}
	return cfg
}

// replaySubject brings dead letters back to this consumer and no other.
func (c *consumer) replaySubject() string { return subjectOfReplay(c.event.Stream, c.name) }

func subjectOfReplay(stream, consumer string) string {
	return replaySubject + "." + stream + "." + consumer
}

// reconcile creates the durable consumer or brings it up to date in place.
func (c *consumer) reconcile(ctx context.Context) error {
	want := c.config()
	have, err := c.b.js.Consumer(ctx, c.event.Stream, c.name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) && c.b.guest() && !c.foreign {
		return missing("consumer " + c.name)
	}
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		c.durable, err = c.b.js.CreateConsumer(ctx, c.event.Stream, want)
		if err == nil {
			c.b.log.Info("consumer created", "consumer", c.name)
			return nil
		}
		if !errors.Is(err, jetstream.ErrConsumerExists) {
			return fmt.Errorf("creating consumer %s: %w", c.name, err)
		}
		have, err = c.b.js.Consumer(ctx, c.event.Stream, c.name) // another replica was quicker
	}
	if err != nil {
		return fmt.Errorf("looking at consumer %s: %w", c.name, err)
	}
	cfg := have.CachedInfo().Config
	if cfg.DeliverPolicy != want.DeliverPolicy && !c.foreign || cfg.AckPolicy != want.AckPolicy {
		return errs.New(errs.FailedPrecondition, "CONSUMER_INCOMPATIBLE",
			"consumer %s of stream %s delivers from %q with acks %q and would have to deliver from %q with acks %q; it is not made anew, because its place in the stream would be lost: remove it by hand and start again",
			c.name, c.event.Stream, cfg.DeliverPolicy, cfg.AckPolicy, want.DeliverPolicy, want.AckPolicy)
	}
	if cfg.Description == want.Description && cfg.AckWait == want.AckWait && cfg.MaxDeliver == want.MaxDeliver &&
		cfg.MaxAckPending == want.MaxAckPending && slices.Equal(filters(cfg), filters(want)) {
		c.durable = have
		return nil
	}
	if c.b.guest() && !c.foreign {
		c.b.log.Warn("consumer is not what this version declares; it is taken as it is until "+keeper+" of this version starts", "consumer", c.name)
		c.durable = have
		return nil
	}
	next := cfg
	next.Description, next.AckWait, next.MaxDeliver, next.MaxAckPending = want.Description, want.AckWait, want.MaxDeliver, want.MaxAckPending
	next.FilterSubject, next.FilterSubjects = want.FilterSubject, want.FilterSubjects
	if c.durable, err = c.b.js.UpdateConsumer(ctx, c.event.Stream, next); err != nil {
		return fmt.Errorf("updating consumer %s: %w", c.name, err)
	}
	c.b.log.Info("consumer updated", "consumer", c.name)
	return nil
}

// filters are the subjects a consumer selects.
func filters(cfg jetstream.ConsumerConfig) []string {
	if cfg.FilterSubject != "" {
		return []string{cfg.FilterSubject}
	}
	return cfg.FilterSubjects
}

// work handles messages, one batch at a time, until ctx ends. A message is
// asked for only when there is a hand free for it, so that none waits here
// while another replica is idle.
func (c *consumer) work(ctx, hctx, drained context.Context) error {
	for failures := 0; ctx.Err() == nil; failures++ {
		it, err := c.durable.Messages(jetstream.PullMaxMessages(1), jetstream.PullHeartbeat(pullHeartbeat))
		if err == nil {
			undo := context.AfterFunc(ctx, func() {
				if c.b.nc.IsConnected() {
					it.Drain() // what the server has sent by then still comes out of Next
				} else {
					it.Stop()
				}
			})
			for {
				var msg jetstream.Msg
				msg, err = it.Next(jetstream.NextContext(drained))
				if errors.Is(err, jetstream.ErrNoHeartbeat) && !c.gone(ctx) {
					continue // asks again; what is on its way still arrives here
				}
				if err != nil {
					break
				}
				failures = 0
				c.take(ctx, hctx, msg)
			}
			undo()
			it.Stop()
		}
		if ctx.Err() != nil {
			break
		}
		// A request to a consumer that is gone is not answered at all: ask.
		if c.gone(ctx) {
			return errs.New(errs.FailedPrecondition, "CONSUMER_GONE", "consumer %s was deleted; a restart makes a new one", c.name)
		}
		c.b.log.Warn("consuming was interrupted", "consumer", c.name, "error", err)
		sleep(ctx, jitter(min(100*time.Millisecond<<min(failures, 6), 5*time.Second)))
	}
	return nil //nolint:nilerr // what breaks off at a stop is no error
}

// pullHeartbeat is how often the server says that it still knows of a request
// for messages; after two that are missing the request is made anew.
const pullHeartbeat = 3 * time.Second

func (c *consumer) gone(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := c.durable.Info(ctx)
	return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound)
}

func (c *consumer) take(ctx, hctx context.Context, msg jetstream.Msg) {
	if ctx.Err() != nil {
		c.giveBack(hctx, msg)
		return
	}
	msgs := []jetstream.Msg{msg}
	if c.batch > 1 {
		if more, err := c.durable.FetchNoWait(c.batch - 1); err == nil { // otherwise this one goes alone
			for m := range more.Messages() {
				msgs = append(msgs, m)
			}
		}
	}
	defer c.hold(msgs)()
	var fresh []*delivery
	for _, m := range msgs {
		d := c.open(hctx, m)
		switch {
		case d == nil:
		case c.batch > 1 && d.attempt > 1:
			c.do(hctx, []*delivery{d})
		default:
			fresh = append(fresh, d)
		}
	}
	if len(fresh) > 0 {
		c.do(hctx, fresh)
	}
}

// hold tells the server that the messages are being worked on, until the
// returned function is called.
func (c *consumer) hold(msgs []jetstream.Msg) (done func()) {
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(c.b.heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				for _, m := range msgs {
					_ = m.InProgress() // one that is acknowledged already says so
				}
			}
		}
	}()
	return func() { close(stop) }
}

// open makes a delivery of a message. One that no handler could act on is
// dead-lettered here, and nil is returned.
func (c *consumer) open(ctx context.Context, msg jetstream.Msg) *delivery {
	meta, err := msg.Metadata()
	if err != nil { // not from a stream: nothing to acknowledge
		c.b.log.Error("message without metadata", "consumer", c.name, "error", err)
		return nil
	}
	h := msg.Headers()
	d := &delivery{msg: msg, meta: meta, attempt: 1}
	d.subject = cmp.Or(h.Get(headerOriginalSubject), msg.Subject())
	d.id = cmp.Or(h.Get(headerID), h.Get(jetstream.MsgIDHeader), c.event.Stream+"/"+strconv.FormatUint(meta.Sequence.Stream, 10))
	if meta.NumDelivered > 1 {
		c.b.meter.redelivered.Add(ctx, 1, byConsumer(c.name))
		d.attempt = max(1, d.deliveries()-c.uncounted(ctx, meta))
	}
	t := h.Get(headerType)
	if t != "" && t != string(c.event.Name) {
		c.bury(ctx, d, fmt.Errorf("is a %s, and %s is wanted here", t, c.event.Name))
		return nil
	}
	if d.body, err = c.decode(msg.Data()); err != nil {
		c.bury(ctx, d, fmt.Errorf("cannot be decoded as %s: %w", c.event.Name, err))
		return nil
	}
	// Whoever may ask the server anything may have the answer sent to any subject: it is no event without its type.
	if t == "" {
		c.bury(ctx, d, fmt.Errorf("does not say that it is a %s: the header %s is missing", c.event.Name, headerType))
		return nil
	}
	if err := c.event.honest(d.subject, d.body); err != nil {
		c.bury(ctx, d, err)
		return nil
	}
	if d.attempt > c.maxAttempts {
		c.bury(ctx, d, fmt.Errorf("given up after %d attempts, the last of which ended without a verdict: was the process killed?", c.maxAttempts))
		return nil
	}
	return d
}

// do calls the handler and carries out its verdicts.
func (c *consumer) do(ctx context.Context, ds []*delivery) {
	hctx, span := c.span(ctx, ds)
	begin := time.Now()
	verdicts := c.call(hctx, ds)
	c.b.meter.seconds.Record(ctx, time.Since(begin).Seconds(), byConsumer(c.name))
	for i, d := range ds {
		if verdicts[i] != nil {
			span.RecordError(verdicts[i])
			span.SetStatus(codes.Error, "a message was not handled")
		}
		c.settle(ctx, d, verdicts[i])
	}
	span.End()
}

// span begins the span of a handler: the child of what published the message,
// or linked to all who published the batch.
func (c *consumer) span(ctx context.Context, ds []*delivery) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.system", "nats"),
		attribute.String("messaging.consumer.group.name", c.name),
		attribute.Int("messaging.batch.message_count", len(ds)),
	)}
	if len(ds) == 1 {
		ctx = traces.Extract(ctx, carrier(ds[0].msg.Headers()))
		opts = append(opts, trace.WithAttributes(attribute.String("messaging.message.id", ds[0].id)))
	} else {
		for _, d := range ds {
			opts = append(opts, trace.WithLinks(trace.LinkFromContext(traces.Extract(context.Background(), carrier(d.msg.Headers())))))
		}
	}
	return tracer.Start(ctx, "process "+c.event.Short(), opts...)
}

// call turns panics, and verdicts that do not fit, into errors.
func (c *consumer) call(ctx context.Context, ds []*delivery) (verdicts []error) {
	all := func(err error) []error { return slices.Repeat([]error{err}, len(ds)) }
	defer func() {
		if p := recover(); p != nil {
			c.b.log.Error("handler panicked", "consumer", c.name, "panic", p, "stack", string(debug.Stack()))
			verdicts = all(fmt.Errorf("panic: %v", p))
		}
	}()
	verdicts = c.handle(ctx, ds)
	if len(verdicts) != len(ds) {
		return all(fmt.Errorf("the handler gave %d verdicts on %d messages", len(verdicts), len(ds)))
	}
	return verdicts
}

// settle carries out a verdict. That an ack gets lost is part of the deal:
// the message then comes again.
func (c *consumer) settle(ctx context.Context, d *delivery, verdict error) {
	var drop dropped
	var wait later
	count := func(what string) {
		c.b.meter.handled.Add(ctx, 1, byConsumer(c.name, attribute.String("verdict", what)))
	}
	switch {
	case verdict == nil:
		count("ack")
		c.answer(d.msg.Ack())
	case errors.As(verdict, &drop):
		count("drop")
		c.bury(ctx, d, verdict)
	case errors.As(verdict, &wait):
		count("later")
		c.b.log.Debug("message comes back later", "consumer", c.name, "id", d.id, "error", verdict)
		c.notCounted(ctx, d.meta)
		c.answer(d.msg.NakWithDelay(max(time.Duration(wait), time.Millisecond)))
	case ctx.Err() != nil:
		count("later")
		c.giveBack(ctx, d.msg)
	case d.attempt >= c.maxAttempts:
		count("drop")
		c.bury(ctx, d, fmt.Errorf("given up after %d attempts: %w", d.attempt, verdict))
	default:
		count("retry")
		delay := max(jitter(c.b.backoff(d.attempt)), errs.RetryDelay(verdict))
		c.b.log.Warn("message was not handled and comes back", "consumer", c.name, "id", d.id, "attempt", d.attempt, "in", delay, "error", verdict)
		c.answer(d.msg.NakWithDelay(delay))
	}
}

// giveBack lets another replica have a message at once.
func (c *consumer) giveBack(ctx context.Context, msg jetstream.Msg) {
	if meta, err := msg.Metadata(); err == nil {
		c.notCounted(ctx, meta)
	}
	c.answer(msg.Nak())
}

func (c *consumer) answer(err error) {
	if err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		c.b.log.Debug("a verdict did not reach the server; the message comes again", "consumer", c.name, "error", err)
	}
}

// The deliveries that do not count are noted beside the stream: the server
// counts all deliveries, and attempts are those less the ones noted.

func (c *consumer) laterKey(meta *jetstream.MsgMetadata) string {
	return c.name + "." + strconv.FormatUint(meta.Sequence.Stream, 10)
}

func (c *consumer) notCounted(ctx context.Context, meta *jetstream.MsgMetadata) {
	if c.foreign {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	n := 0
	if meta.NumDelivered > 1 {
		n = c.uncounted(ctx, meta)
	}
	if _, err := c.b.later.Put(ctx, c.laterKey(meta), []byte(strconv.Itoa(n+1))); err != nil {
		c.b.log.Warn("a delivery is counted as an attempt, because noting that it is none failed", "consumer", c.name, "error", err)
	}
}

func (c *consumer) uncounted(ctx context.Context, meta *jetstream.MsgMetadata) int {
	if c.foreign {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	e, err := c.b.later.Get(ctx, c.laterKey(meta))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0
	}
	n, parse := 0, error(nil)
	if err == nil {
		n, parse = strconv.Atoi(string(e.Value()))
	}
	if err = errors.Join(err, parse); err != nil {
		c.b.log.Warn("an attempt is not counted, because the count cannot be read", "consumer", c.name, "error", err)
		return int(min(meta.NumDelivered, 1<<31-1)) - 1
	}
	return n
}

// Handled lists the values of the first routing token of T for which a durable
// consumer exists, in any service: what is published with them is acted on. A
// consumer of every value does not count, since it only watches.
func Handled[T proto.Message](ctx context.Context, b *Bus) ([]string, error) {
	var values []string
	e := eventFor[T]()
	err := b.ask(ctx, "$JS.API.", func(ctx context.Context) (err error) {
		values, err = b.handled(ctx, e)
		return err
	})
	return values, err
}

func (b *Bus) handled(ctx context.Context, e *Event) (values []string, err error) {
	s, err := b.js.Stream(ctx, e.Stream)
	if err != nil {
		return nil, unavailable("looking at stream "+e.Stream, err)
	}
	list := s.ListConsumers(ctx)
	for info := range list.Info() {
		if info.Config.Durable == "" {
			continue
		}
		for _, f := range append(info.Config.FilterSubjects, info.Config.FilterSubject) {
			rest, ours := strings.CutPrefix(f, string(e.Name)+".")
			first, _, _ := strings.Cut(rest, ".")
			if v, ok := untoken(first); ours && ok && first != "*" && first != ">" {
				values = append(values, v)
			}
		}
	}
	if err := list.Err(); err != nil {
		return nil, unavailable("listing consumers of "+e.Stream, err)
	}
	slices.Sort(values)
	return slices.Compact(values), nil
}
