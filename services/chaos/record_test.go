package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// record is a message as it lies in its stream.
type record struct {
	subject  string
	id       string // ce-id
	time     time.Time
	sequence uint64
	body     proto.Message
}

// read returns all that a stream holds under a subject.
func (s *stack) read(ctx context.Context, stream, subject string) []record {
	s.t.Helper()
	var out []record
	s.await(ctx, "the records of "+subject, func() error {
		out = out[:0]
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		c, err := s.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
		if err != nil {
			return err
		}
		if c.CachedInfo().NumPending == 0 {
			return nil
		}
		it, err := c.Messages()
		if err != nil {
			return err
		}
		defer it.Stop()
		for {
			m, err := it.Next(jetstream.NextContext(ctx))
			if err != nil {
				return err
			}
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			if body, err := decode(m.Subject(), m.Data()); err == nil && len(m.Data()) > 0 { // nothing at all is poison of ours
				out = append(out, record{m.Subject(), m.Headers().Get("ce-id"), meta.Timestamp, meta.Sequence.Stream, body})
			}
			if meta.NumPending == 0 {
				return nil
			}
		}
	})
	return out
}

// decode makes a message of what was published on a subject, which begins with the message's name.
func decode(subject string, data []byte) (proto.Message, error) {
	parts := strings.SplitN(subject, ".", 5)
	if len(parts) < 5 {
		return nil, fmt.Errorf("%s is no subject of ours", subject)
	}
	typ, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(strings.Join(parts[:4], ".")))
	if err != nil {
		return nil, err
	}
	m := typ.New().Interface()
	return m, proto.Unmarshal(data, m)
}

// runOf is the run a message is about.
func runOf(m proto.Message) string {
	switch m := m.(type) {
	case interface{ GetRunId() string }:
		return m.GetRunId()
	default:
		r := m.ProtoReflect()
		for _, path := range [][2]protoreflect.Name{{"run", "id"}, {"trigger", "run_id"}, {"transition", "run_id"}} {
			outer := r.Descriptor().Fields().ByName(path[0])
			if outer == nil || outer.Message() == nil || !r.Has(outer) {
				continue
			}
			inner := r.Get(outer).Message()
			if f := inner.Descriptor().Fields().ByName(path[1]); f != nil {
				return inner.Get(f).String()
			}
		}
		return ""
	}
}

// durations are measured times.
type durations []time.Duration

func (d durations) String() string {
	if len(d) == 0 {
		return "none"
	}
	s := slices.Sorted(slices.Values(d))
	at := func(p float64) time.Duration { return s[min(len(s)-1, int(p*float64(len(s))))].Round(time.Millisecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v (of %d)", at(0.5), at(0.99), s[len(s)-1].Round(time.Millisecond), len(s))
}
