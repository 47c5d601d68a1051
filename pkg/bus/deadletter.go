package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	"nightshift.dev/pkg/errs"
)

// What a dead letter carries beside the headers of the message it was.
const (
	headerConsumer        = "nightshift-consumer"
	headerReason          = "nightshift-reason"
	headerAttempts        = "nightshift-attempts"
	headerStream          = "nightshift-stream"
	headerSequence        = "nightshift-sequence"
	headerOriginalSubject = "nightshift-subject"
)

// reasonMax bounds the reason that is kept, in bytes.
const reasonMax = 2000

// bury stores a message as a dead letter and then ends its delivery. When it
// cannot be stored the message stays where it is and comes again.
func (c *consumer) bury(ctx context.Context, d *delivery, why error) {
	if c.foreign {
		c.b.log.Error("message is given up", "consumer", c.name, "id", d.id, "subject", d.subject, "attempts", d.attempt, "reason", why)
		if c.keeps {
			c.answer(d.msg.TermWithReason("given up"))
		}
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	reason := headerText(why.Error())
	h := nats.Header{}
	for k, v := range d.msg.Headers() {
		if lower := strings.ToLower(k); strings.HasPrefix(lower, "ce-") || lower == headerContentType || lower == "traceparent" || lower == "tracestate" {
			h[k] = v
		}
	}
	sequence := strconv.FormatUint(d.meta.Sequence.Stream, 10)
	h.Set(headerConsumer, c.name)
	h.Set(headerReason, reason)
	h.Set(headerAttempts, strconv.Itoa(d.attempt))
	h.Set(headerStream, c.event.Stream)
	h.Set(headerSequence, sequence)
	h.Set(headerOriginalSubject, d.subject)
	h.Set(headerID, d.id)
	h.Set(jetstream.MsgIDHeader, c.name+"/"+sequence)
	msg := &nats.Msg{Subject: subject(deadLetterSubject, c.name), Header: h, Data: d.msg.Data()}
	_, err := c.b.send(ctx, msg, true, jetstream.WithExpectStream(deadLetterStream))
	if errors.Is(err, nats.ErrMaxPayload) {
		msg.Data = nil
		h.Set(headerReason, headerText(fmt.Sprintf("(%d bytes, too large to be kept here; see message %s of %s) %s", len(d.msg.Data()), sequence, c.event.Stream, reason)))
		_, err = c.b.send(ctx, msg, true, jetstream.WithExpectStream(deadLetterStream))
	}
	if err != nil {
		c.b.log.Error("a dead letter cannot be stored; the message comes again", "consumer", c.name, "id", d.id, "reason", why, "error", err)
		c.answer(d.msg.NakWithDelay(jitter(30 * time.Second)))
		return
	}
	c.b.meter.deadLettered.Add(ctx, 1, byConsumer(c.name))
	c.b.log.Error("message became a dead letter", "consumer", c.name, "id", d.id, "subject", d.subject, "attempts", d.attempt, "reason", why)
	c.answer(d.msg.TermWithReason("dead letter"))
}

// headerText makes one printable line of a text and bounds it.
func headerText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > reasonMax {
		s = strings.ToValidUTF8(s[:reasonMax], "") + "…"
	}
	return s
}

// DeadLetters is what consumers gave up.
type DeadLetters struct{ b *Bus }

// DeadLetters gives access to the dead letters of all services.
func (b *Bus) DeadLetters() DeadLetters { return DeadLetters{b} }

// List returns up to limit dead letters with numbers above after, oldest
// first, without payloads. An empty consumer means all.
func (l DeadLetters) List(ctx context.Context, consumer string, after uint64, limit int) ([]*deadletterv1.DeadLetter, error) {
	s, err := l.stream(ctx)
	if err != nil {
		return nil, err
	}
	filter := deadLetterSubject + ".>"
	if consumer != "" {
		filter = subject(deadLetterSubject, consumer)
	}
	var out []*deadletterv1.DeadLetter
	for len(out) < limit {
		raw, err := s.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, unavailable("reading dead letters", err)
		}
		after = raw.Sequence
		d := deadLetter(raw)
		d.Payload, d.PayloadJson = nil, ""
		out = append(out, d)
	}
	return out, nil
}

// Get returns one dead letter. NOT_FOUND when there is none of that number.
func (l DeadLetters) Get(ctx context.Context, id uint64) (*deadletterv1.DeadLetter, error) {
	raw, err := l.get(ctx, id)
	if err != nil {
		return nil, err
	}
	return deadLetter(raw), nil
}

// Replay hands the message to the consumer that gave it up, and to no other,
// and removes the dead letter. The consumer counts attempts anew. Replaying
// again what was not removed yet hands it over once. Errors: NOT_FOUND,
// FAILED_PRECONDITION when the consumer is gone or the payload was too large
// to be kept.
func (l DeadLetters) Replay(ctx context.Context, id uint64) error {
	raw, err := l.get(ctx, id)
	if err != nil {
		return err
	}
	stream, consumer := raw.Header.Get(headerStream), raw.Header.Get(headerConsumer)
	if len(raw.Data) == 0 && strings.Contains(raw.Header.Get(headerReason), "too large to be kept here") {
		return errs.New(errs.FailedPrecondition, "PAYLOAD_NOT_KEPT", "dead letter %d has no payload: it was too large", id)
	}
	_, err = l.b.js.Consumer(ctx, stream, consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return errs.New(errs.FailedPrecondition, "CONSUMER_GONE", "dead letter %d cannot be replayed: consumer %s does not exist any more", id, consumer)
	}
	if err != nil {
		return unavailable("looking at consumer "+consumer, err)
	}
	h := nats.Header{}
	for k, v := range raw.Header {
		if !strings.HasPrefix(strings.ToLower(k), "nats-") {
			h[k] = v
		}
	}
	for _, k := range []string{headerConsumer, headerReason, headerAttempts, headerStream, headerSequence} {
		h.Del(k)
	}
	h.Set(jetstream.MsgIDHeader, fmt.Sprintf("replay/%d", id))
	msg := &nats.Msg{Subject: subjectOfReplay(stream, consumer), Header: h, Data: raw.Data}
	if _, err := l.b.send(ctx, msg, true, jetstream.WithExpectStream(stream)); err != nil {
		return publishError(msg.Subject, err)
	}
	return l.Delete(ctx, id)
}

// Delete removes a dead letter for good. NOT_FOUND when there is none of that
// number.
func (l DeadLetters) Delete(ctx context.Context, id uint64) error {
	s, err := l.stream(ctx)
	if err != nil {
		return err
	}
	if _, err := l.get(ctx, id); err != nil {
		return err
	}
	if err := s.DeleteMsg(ctx, id); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return unavailable(fmt.Sprintf("deleting dead letter %d", id), err)
	}
	return nil
}

func (l DeadLetters) stream(ctx context.Context) (jetstream.Stream, error) {
	var s jetstream.Stream
	err := l.b.ask(ctx, "$JS.API.STREAM.", func(ctx context.Context) (err error) {
		s, err = l.b.js.Stream(ctx, deadLetterStream)
		return err
	})
	if err != nil {
		return nil, unavailable("looking at stream "+deadLetterStream, err)
	}
	return s, nil
}

func (l DeadLetters) get(ctx context.Context, id uint64) (*jetstream.RawStreamMsg, error) {
	s, err := l.stream(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := s.GetMsg(ctx, id)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, errs.New(errs.NotFound, "DEAD_LETTER_NOT_FOUND", "there is no dead letter %d", id)
	}
	if err != nil {
		return nil, unavailable(fmt.Sprintf("reading dead letter %d", id), err)
	}
	return raw, nil
}

func deadLetter(raw *jetstream.RawStreamMsg) *deadletterv1.DeadLetter {
	h := raw.Header
	attempts, _ := strconv.ParseInt(h.Get(headerAttempts), 10, 32)
	d := &deadletterv1.DeadLetter{
		Id: raw.Sequence, Time: timestamppb.New(raw.Time), Consumer: h.Get(headerConsumer), Subject: h.Get(headerOriginalSubject),
		MessageId: h.Get(headerID), Reason: h.Get(headerReason), Attempts: int32(attempts), Payload: raw.Data,
	}
	if m := decodeAs(h.Get(headerType), d.GetSubject(), raw.Data); m != nil {
		if text, err := protojson.Marshal(m); err == nil {
			d.PayloadJson = string(text)
		}
	}
	return d
}

// decodeAs decodes a payload by the type it says it is, or that its subject
// begins with; nil when that does not work.
func decodeAs(typ, subj string, data []byte) proto.Message {
	e := byName[protoreflect.FullName(typ)]
	if e == nil {
		for _, c := range catalog {
			if strings.HasPrefix(subj, string(c.Name)+".") {
				e = c
			}
		}
	}
	if e == nil {
		return nil
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(e.Name)
	if err != nil {
		return nil
	}
	m := t.New().Interface()
	if proto.Unmarshal(data, m) != nil {
		return nil
	}
	return m
}
