package bus

import (
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/proto"
)

const scopeName = "nightshift.dev/pkg/bus"

var tracer = otel.Tracer(scopeName)

// carrier lets the propagator read and write trace context in NATS headers.
type carrier nats.Header

func (c carrier) Get(key string) string { return nats.Header(c).Get(key) }
func (c carrier) Set(key, value string) { nats.Header(c).Set(key, value) }
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// traces is the W3C propagator: the headers mean the same whatever a process
// is configured to send to its neighbours over HTTP.
var traces propagation.TraceContext

// meter holds the figures of one Bus.
type meter struct {
	published, handled, redelivered, deadLettered metric.Int64Counter
	seconds                                       metric.Float64Histogram
}

func newMeter() (meter, error) {
	m := otel.Meter(scopeName)
	var out meter
	var err [5]error
	out.published, err[0] = m.Int64Counter("nightshift.bus.published", metric.WithUnit("{message}"),
		metric.WithDescription("Messages published, by event and whether it worked."))
	out.handled, err[1] = m.Int64Counter("nightshift.bus.handled", metric.WithUnit("{message}"),
		metric.WithDescription("Messages handled, by consumer and verdict: ack, retry, later, drop."))
	out.redelivered, err[2] = m.Int64Counter("nightshift.bus.redelivered", metric.WithUnit("{message}"),
		metric.WithDescription("Deliveries that were not the first of their message, by consumer."))
	out.deadLettered, err[3] = m.Int64Counter("nightshift.bus.dead_lettered", metric.WithUnit("{message}"),
		metric.WithDescription("Messages given up, by consumer."))
	out.seconds, err[4] = m.Float64Histogram("nightshift.bus.handler.duration", metric.WithUnit("s"),
		metric.WithDescription("Time in handlers, by consumer."),
		metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300, 1800))
	return out, errors.Join(err[:]...)
}

func byEvent(e *Event, outcome string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("event", e.Short()), attribute.String("outcome", outcome))
}

func byConsumer(name string, more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(append(more, attribute.String("consumer", name))...)
}

// The CloudEvents 1.0 attributes in the binary mode of the NATS binding, and
// what else travels in headers.
const (
	headerContentType = "content-type"
	headerSpecVersion = "ce-specversion"
	headerID          = "ce-id"
	headerSource      = "ce-source"
	headerType        = "ce-type"
	headerTime        = "ce-time"
	headerSubject     = "ce-subject"

	contentType = "application/protobuf"
)

// header describes a message.
func (b *Bus) header(e *Event, m proto.Message, at time.Time) nats.Header {
	return nats.Header{
		headerContentType: {contentType},
		headerSpecVersion: {"1.0"},
		headerID:          {plain(e.MessageID(m))},
		headerSource:      {"//nightshift.dev/" + b.cfg.Service},
		headerType:        {string(e.Name)},
		headerTime:        {at.UTC().Format(time.RFC3339Nano)},
		headerSubject:     {plain(strings.Join(e.route(m), "/"))},
	}
}

// plain makes a header value of any text: what is not printable ASCII becomes
// =XX, and what is too long keeps its beginning and is told apart by its hash.
func plain(s string) string {
	safe := len(s) <= 400
	for i := 0; safe && i < len(s); i++ {
		safe = s[i] >= ' ' && s[i] < 0x7f
	}
	if safe {
		return s
	}
	parts := strings.Split(s, "/")
	for i := range parts {
		parts[i] = token(parts[i])
	}
	if s = strings.Join(parts, "/"); len(s) > 400 {
		return token(s)
	}
	return s
}
