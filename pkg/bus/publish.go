package bus

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"nightshift.dev/pkg/errs"
)

// Outgoing is a message with what belonged to it when it came to be, for those
// who publish later than that, as an outbox does.
type Outgoing struct {
	// Message is the event.
	Message proto.Message
	// Time is when it came to be. Zero: now.
	Time time.Time
	// Trace is the trace it belongs to, as Trace returned it. Empty: that of
	// the context it is published with.
	Trace string
}

// Trace is the W3C traceparent of ctx, to be kept with an Outgoing; empty when
// ctx is not traced.
func Trace(ctx context.Context) string {
	h := carrier{}
	traces.Inject(ctx, h)
	return h.Get("traceparent")
}

// Publish stores a message in its stream and returns once it is stored. It
// tries again, with the same message id, until ctx ends, but no longer than the
// stream would recognise the message. Errors: RESOURCE_EXHAUSTED when the
// message is too large, PERMISSION_DENIED when the server does not let this
// service publish it, UNAVAILABLE when the bus did not answer in time.
func (b *Bus) Publish(ctx context.Context, m proto.Message) error {
	return b.publish(ctx, Outgoing{Message: m})
}

// publishers is how many messages PublishAll has on their way at once.
const publishers = 64

// PublishAll publishes many messages at once, in no order. When it returns an
// error some are stored and some are not; publishing all of them again is safe.
func (b *Bus) PublishAll(ctx context.Context, messages []Outgoing) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(publishers)
	for _, m := range messages {
		g.Go(func() error { return b.publish(gctx, m) })
	}
	return g.Wait()
}

// PublishEach is PublishAll for messages that come to be now.
func (b *Bus) PublishEach(ctx context.Context, messages ...proto.Message) error {
	out := make([]Outgoing, len(messages))
	for i, m := range messages {
		out[i].Message = m
	}
	return b.PublishAll(ctx, out)
}

func (b *Bus) publish(ctx context.Context, o Outgoing) error {
	e, msg, ctx, span, err := b.prepare(ctx, o)
	if err != nil {
		return err
	}
	// Beyond the window the stream would take the message a second time.
	ctx, cancel := context.WithTimeout(ctx, dedupeWindow*3/4)
	defer cancel()
	_, err = b.send(ctx, msg, true, jetstream.WithExpectStream(e.Stream))
	if err != nil {
		err = publishError(msg.Subject, err)
	}
	b.published(ctx, e, span, err)
	return err
}

// Append stores m as the next record of its subject, if the last record there
// still has sequence lastSeq; 0 means there is none yet. It returns the
// sequence of m. When something else was stored first, or m was stored already,
// the error is ErrConflict. It tries once: when the outcome is unknown, the
// error is UNAVAILABLE and reading the log tells.
func (b *Bus) Append(ctx context.Context, m proto.Message, lastSeq uint64) (uint64, error) {
	e, msg, ctx, span, err := b.prepare(ctx, Outgoing{Message: m})
	if err != nil {
		return 0, err
	}
	ack, err := b.send(ctx, msg, false, jetstream.WithExpectStream(e.Stream), jetstream.WithExpectLastSequencePerSubject(lastSeq))
	var api *jetstream.APIError
	switch {
	case err == nil && !ack.Duplicate:
		b.published(ctx, e, span, nil)
		return ack.Sequence, nil
	case err == nil,
		// Wrong last sequence, the same as replicated streams say it, and another message of the same id on its way.
		errors.As(err, &api) && slices.Contains([]jetstream.ErrorCode{10071, 10164, 10158}, api.ErrorCode):
		span.SetAttributes(attribute.Bool("conflict", true))
		span.End()
		return 0, errs.New(errs.Aborted, "CONFLICT", "%s has another last record than %d", msg.Subject, lastSeq).Wrap(ErrConflict)
	default:
		err = publishError(msg.Subject, err)
		b.published(ctx, e, span, err)
		return 0, err
	}
}

// prepare makes the NATS message and begins its span, which published ends.
func (b *Bus) prepare(ctx context.Context, o Outgoing) (*Event, *nats.Msg, context.Context, trace.Span, error) {
	e := eventOf(o.Message)
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(o.Message)
	if err != nil {
		return nil, nil, nil, nil, errs.New(errs.InvalidArgument, "BAD_MESSAGE", "%s cannot be encoded", e.Short()).Wrap(err)
	}
	if o.Time.IsZero() {
		o.Time = time.Now()
	}
	if o.Trace != "" {
		ctx = traces.Extract(ctx, carrier{"traceparent": {o.Trace}})
	}
	msg := &nats.Msg{Subject: e.Subject(o.Message), Header: b.header(e, o.Message, o.Time), Data: data}
	msg.Header.Set(jetstream.MsgIDHeader, msg.Header.Get(headerID))
	ctx, span := tracer.Start(ctx, "publish "+e.Short(), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		attribute.String("messaging.system", "nats"),
		attribute.String("messaging.destination.name", msg.Subject),
		attribute.String("messaging.message.id", msg.Header.Get(headerID)),
		attribute.Int("messaging.message.body.size", len(data)),
	))
	traces.Inject(ctx, carrier(msg.Header))
	return e, msg, ctx, span, nil
}

func (b *Bus) published(ctx context.Context, e *Event, span trace.Span, err error) {
	outcome := "stored"
	if err != nil {
		outcome = "failed"
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
	b.meter.published.Add(ctx, 1, byEvent(e, outcome))
}

// send publishes and waits for the stream's answer; with retry set it tries
// again while waiting can help and ctx lasts.
func (b *Bus) send(ctx context.Context, msg *nats.Msg, retry bool, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	defer b.refusals.wait(msg.Subject, refuse)()
	opts = append(opts, jetstream.WithRetryAttempts(0))
	for attempt := 0; ; attempt++ {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		ack, err := b.js.PublishMsg(try, msg, opts...)
		cancel()
		if err == nil {
			return ack, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			if errors.Is(cause, nats.ErrPermissionViolation) {
				return nil, cause
			}
			return nil, fmt.Errorf("%w: %w", cause, err)
		}
		if !retry || !passing(err) || !sleep(ctx, jitter(min(50*time.Millisecond<<min(attempt, 6), 2*time.Second))) {
			return nil, err
		}
	}
}

func publishError(subject string, err error) error {
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		return errs.New(errs.PermissionDenied, "PUBLISH_REFUSED", "the NATS server does not let this service publish %s: check the permissions of its user", subject).Wrap(err)
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum):
		return errs.New(errs.ResourceExhausted, "MESSAGE_TOO_LARGE", "a message for %s is larger than the NATS server takes: send less at once, or raise max_payload", subject).Wrap(err)
	}
	return unavailable("publishing "+subject, err)
}

// refusals hands the server's word that a publish is not permitted, which
// comes asynchronously and names only the subject, to those who wait for the
// answer to that publish. Without it they would wait in vain.
type refusals struct {
	mu      sync.Mutex
	waiting map[string]map[*refusal]struct{} // by subject, or by how subjects begin
}

type refusal struct{ tell context.CancelCauseFunc }

// wait has refuse called when a publish to the subject is refused, or to one
// that begins so when it ends with a dot, until the returned function is called.
func (r *refusals) wait(subject string, refuse context.CancelCauseFunc) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[subject] == nil {
		r.waiting[subject] = map[*refusal]struct{}{}
	}
	w := &refusal{refuse}
	r.waiting[subject][w] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.waiting[subject], w)
		if len(r.waiting[subject]) == 0 {
			delete(r.waiting, subject)
		}
	}
}

var (
	refusedPublish = regexp.MustCompile(`(?i)permissions violation for publish to "([^"]+)"`)
	refusedInbox   = regexp.MustCompile(`(?i)permissions violation for subscription to "_INBOX`)
)

// tell tells those who wait, and whether there were any. Who may not hear
// answers gets none to anything.
func (r *refusals) tell(err error) (heard bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return false
	}
	var subject string
	if m := refusedPublish.FindStringSubmatch(err.Error()); m != nil {
		subject = m[1]
	}
	all := refusedInbox.MatchString(err.Error())
	r.mu.Lock()
	defer r.mu.Unlock()
	for s, waiting := range r.waiting {
		if all || s == subject || strings.HasSuffix(s, ".") && strings.HasPrefix(subject, s) {
			for w := range waiting {
				w.tell(err)
				heard = true
			}
		}
	}
	return heard
}

// ask does what asks the server something on subjects that begin so, and fails
// with PERMISSION_DENIED when the server refuses to be asked.
func (b *Bus) ask(ctx context.Context, prefix string, do func(context.Context) error) error {
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	defer b.refusals.wait(prefix, refuse)()
	err := do(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, nats.ErrPermissionViolation) {
		return errs.New(errs.PermissionDenied, "REQUEST_REFUSED", "the NATS server refuses a request of %s: %s; check the permissions of its user", b.cfg.Service, strings.TrimPrefix(cause.Error(), "nats: ")).Wrap(cause)
	}
	return err
}
