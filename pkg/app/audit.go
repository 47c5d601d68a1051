package app

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf16"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

const (
	// auditPatience is how long a call waits until its attempt is stored.
	auditPatience = 5 * time.Second
	// auditText bounds each JSON in a record, in bytes.
	auditText = 16 << 10
	// auditMethod bounds a method, and auditAgent a user agent, in characters.
	auditMethod, auditAgent = 300, 200
	// auditQueue bounds the records that wait and can be done without: denials.
	// What is said of calls that were allowed always has room: no more begin
	// while the bus is away.
	auditQueue = 1000
	// auditBatch is how many records are published at a time.
	auditBatch = 200
)

// call is what is known of a call before it is answered.
type call struct {
	principal auth.Principal
	// method is the full one without leading slash.
	method      string
	peer, agent string
	request     proto.Message // nil when the call was denied before it was read
}

// auditor writes the audit log of one service: an allowed call waits until it
// is stored that it begins, so that nothing changes without a trace; how it
// ended, and what was denied, is stored in the background.
type auditor struct {
	service string
	log     *slog.Logger
	now     func() time.Time
	bus     auditBus // set before the first call

	mu      sync.Mutex
	queue   []*auditv1.Record
	denials denials
	wake    chan struct{}
	stop    context.CancelFunc
	stopped chan struct{}
}

// auditBus is what an auditor needs of the bus.
type auditBus interface {
	Publish(ctx context.Context, m proto.Message) error
	PublishEach(ctx context.Context, messages ...proto.Message) error
}

func newAuditor(service string, log *slog.Logger, now func() time.Time) *auditor {
	return &auditor{service: service, log: log, now: now, wake: make(chan struct{}, 1)}
}

// begin says that a call that changes something begins. The call must not go
// on when it returns an error. end says how the call ended.
func (a *auditor) begin(ctx context.Context, c call) (_ context.Context, end func(err error), err error) {
	r := a.record(c, auditv1.Phase_PHASE_ATTEMPTED)
	r.Request, r.RequestTruncated = auditJSON(c.request)
	wait, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	if err := a.bus.Publish(wait, &auditv1.AuditRecorded{Record: r}); err != nil {
		refused := errs.New(errs.Unavailable, "AUDIT_UNAVAILABLE", "nothing is changed while the audit log cannot be written").RetryAfter(time.Second).Wrap(err)
		// It may have been stored all the same.
		if ended := a.ended(ctx, r, refused, nil); !a.offer(ended) {
			a.log.Warn("a refused call is not in the audit log", "method", r.GetMethod(), "call", r.GetCallId())
		}
		return ctx, func(error) {}, refused
	}
	ch := &change{}
	return context.WithValue(ctx, changeKey{}, ch), func(err error) { a.add(a.ended(ctx, r, err, ch)) }, nil
}

// denied says that a call was not allowed. It does not wait.
func (a *auditor) denied(ctx context.Context, c call, err error) {
	r := a.record(c, auditv1.Phase_PHASE_DENIED)
	a.fail(ctx, r, err)
	a.mu.Lock()
	single := a.denials.take(r)
	a.mu.Unlock()
	if !single {
		return
	}
	r.Request, r.RequestTruncated = auditJSON(c.request)
	if !a.offer(r) {
		a.mu.Lock()
		a.denials.overflow(r.GetTime())
		a.mu.Unlock()
	}
}

func (a *auditor) record(c call, phase auditv1.Phase) *auditv1.Record {
	return &auditv1.Record{
		CallId: rand.Text(), Phase: phase, Time: timestamppb.New(a.now()), Principal: c.principal.Proto(), Service: a.service,
		Method: cut(c.method, auditMethod), Peer: cut(c.peer, auditAgent), UserAgent: cut(c.agent, auditAgent), Count: 1,
	}
}

// ended is the record of how a call ended that began with another.
func (a *auditor) ended(ctx context.Context, began *auditv1.Record, err error, ch *change) *auditv1.Record {
	r := proto.CloneOf(began)
	r.Phase, r.Time, r.Request, r.RequestTruncated = auditv1.Phase_PHASE_SUCCEEDED, timestamppb.New(a.now()), "", false
	if ch != nil {
		ch.mu.Lock()
		r.Before, r.After, r.ChangeTruncated = ch.before.text, ch.after.text, ch.before.cut || ch.after.cut
		ch.mu.Unlock()
	}
	if a.fail(ctx, r, err); r.GetCode() != 0 {
		r.Phase = auditv1.Phase_PHASE_FAILED
		r.After = "" // nothing came of it, or nobody knows what
	}
	return r
}

// fail notes an error as the caller is told of it.
func (a *auditor) fail(ctx context.Context, r *auditv1.Record, err error) {
	told := clientError(ctx, err)
	r.Code, r.Reason = int32(status.Code(told)), errs.Reason(told)
}

// add queues a record, whatever waits already.
func (a *auditor) add(r *auditv1.Record) {
	a.mu.Lock()
	a.queue = append(a.queue, r)
	a.mu.Unlock()
	a.poke()
}

// offer queues a record when there is room for it.
func (a *auditor) offer(r *auditv1.Record) bool {
	a.mu.Lock()
	room := len(a.queue) < auditQueue
	if room {
		a.queue = append(a.queue, r)
	}
	a.mu.Unlock()
	a.poke()
	return room
}

func (a *auditor) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// start publishes what is queued until close.
func (a *auditor) start() {
	ctx, stop := context.WithCancel(context.Background())
	a.stop, a.stopped = stop, make(chan struct{})
	go func() {
		defer close(a.stopped)
		minute := time.NewTicker(time.Minute)
		defer minute.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-minute.C:
				a.count()
			case <-a.wake:
			}
			a.drain(ctx)
		}
	}()
}

// close publishes what is left, for as long as ctx lasts. What cannot be is in
// the service's log.
func (a *auditor) close(ctx context.Context) {
	if a.stop == nil {
		return
	}
	a.stop()
	<-a.stopped
	a.count()
	a.drain(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.queue {
		a.log.Error("the audit log could not be written before the process ended", "call", r.GetCallId(), "phase", r.GetPhase(), "method", r.GetMethod(), "principal", r.GetPrincipal().GetName(), "count", r.GetCount())
	}
}

// count queues the denials that were only counted.
func (a *auditor) count() {
	a.mu.Lock()
	defer a.mu.Unlock()
	counted := a.denials.flush()
	for _, r := range counted {
		if r.GetService() == "" {
			r.CallId, r.Service = rand.Text(), a.service
		}
	}
	a.queue = append(a.queue, counted...)
}

// drain publishes until nothing is queued or ctx ends.
func (a *auditor) drain(ctx context.Context) {
	for failures := 0; ; {
		a.mu.Lock()
		batch := a.queue[:min(len(a.queue), auditBatch)]
		a.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		messages := make([]proto.Message, len(batch))
		for i, r := range batch {
			messages[i] = &auditv1.AuditRecorded{Record: r}
		}
		err := a.bus.PublishEach(ctx, messages...)
		if err == nil {
			failures = 0
			a.mu.Lock()
			a.queue = append([]*auditv1.Record(nil), a.queue[len(batch):]...)
			a.mu.Unlock()
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if failures == 0 {
			a.log.Warn("the audit log cannot be written; trying again", "error", err, "waiting", len(batch))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(100*time.Millisecond<<min(failures, 6), 5*time.Second)):
		}
		failures++
	}
}

const (
	// deniedEach is how many like denials of a minute are written one by one,
	// and deniedSingly how many of all of them. Further ones are counted.
	deniedEach, deniedSingly = 10, 500
	// deniedKinds is how many kinds of denials of a minute are told apart.
	deniedKinds = 500
)

// denials decides what is written of the denials of a minute, and counts the
// rest, so that no flood of calls becomes one of records.
type denials struct {
	kinds  map[denial]*denied
	singly int
	others *auditv1.Record // of kinds for which there was no room
}

// denial is what like denials share.
type denial struct {
	kind                     auditv1.PrincipalKind
	name, id, method, reason string
	host                     string
}

type denied struct {
	single  int
	counted *auditv1.Record
}

// take tells whether a denial is to be written by itself. Otherwise it is
// counted.
func (d *denials) take(r *auditv1.Record) bool {
	host, _, err := net.SplitHostPort(r.GetPeer())
	if err != nil {
		host = r.GetPeer()
	}
	p := r.GetPrincipal()
	key := denial{p.GetKind(), p.GetName(), p.GetId(), r.GetMethod(), r.GetReason(), host}
	kind := d.kinds[key]
	switch {
	case kind == nil && len(d.kinds) >= deniedKinds:
		d.overflow(r.GetTime())
		return false
	case kind == nil:
		if d.kinds == nil {
			d.kinds = map[denial]*denied{}
		}
		kind = &denied{}
		d.kinds[key] = kind
	}
	if kind.single < deniedEach && d.singly < deniedSingly {
		kind.single++
		d.singly++
		return true
	}
	if kind.counted == nil {
		kind.counted = proto.CloneOf(r)
	} else {
		kind.counted.Count++
		kind.counted.Time = r.GetTime()
	}
	return false
}

// overflow counts a denial of which nothing but that it was is kept.
func (d *denials) overflow(when *timestamppb.Timestamp) {
	if d.others == nil {
		d.others = &auditv1.Record{Phase: auditv1.Phase_PHASE_DENIED, Reason: "TOO_MANY_DENIALS"}
	}
	d.others.Count++
	d.others.Time = when
}

// flush returns what was counted, and begins anew.
func (d *denials) flush() []*auditv1.Record {
	var out []*auditv1.Record
	for _, k := range d.kinds {
		if k.counted != nil {
			out = append(out, k.counted)
		}
	}
	if d.others != nil {
		out = append(out, d.others)
	}
	*d = denials{}
	return out
}

type changeKey struct{}

// change is what a call says of what it changes.
type change struct {
	mu            sync.Mutex
	before, after said
}

type said struct {
	text     string
	set, cut bool
}

// Before tells the audit log what is about to be changed, as it is. A handler
// of a method that changes something calls it when it knows; outside of such
// a call it does nothing. Of several calls the last counts, so that what is
// tried again can say it again.
func Before(ctx context.Context, m proto.Message) {
	if ch, ok := ctx.Value(changeKey{}).(*change); ok {
		ch.say(&ch.before, m)
	}
}

// After tells the audit log what was changed, as it is now; nil says that
// nothing is left.
func After(ctx context.Context, m proto.Message) {
	if ch, ok := ctx.Value(changeKey{}).(*change); ok {
		ch.say(&ch.after, m)
	}
}

// answered takes an answer for what there is after the change, where the
// handler has not said it: most answers of methods that change something are
// the resource.
func answered(ctx context.Context, answer any) {
	ch, ok := ctx.Value(changeKey{}).(*change)
	m, isMessage := answer.(proto.Message)
	if !ok || !isMessage || ch.after.set {
		return
	}
	// An answer that has nothing but the resource is that resource, as Before has it.
	fields, n := m.ProtoReflect(), 0
	var only protoreflect.Value
	fields.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if n++; f.Message() != nil && !f.IsList() && !f.IsMap() {
			only = v
		}
		return true
	})
	switch {
	case n == 0:
	case n == 1 && only.IsValid():
		ch.say(&ch.after, only.Message().Interface())
	default:
		ch.say(&ch.after, m)
	}
}

func (ch *change) say(s *said, m proto.Message) {
	text, cut := auditJSON(m)
	ch.mu.Lock()
	defer ch.mu.Unlock()
	*s = said{text, true, cut}
}

// auditJSON is a message as the audit log has it: JSON without secrets, in
// which nothing but what can be seen is written as itself. Longer ones are cut
// off, which it tells. Nothing is the empty text.
func auditJSON(m proto.Message) (text string, cutOff bool) {
	if m == nil || !m.ProtoReflect().IsValid() {
		return "", false
	}
	m = withoutSecrets(m)
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil { // text that is none, which the wire does not let through
		raw, _ = json.Marshal(map[string]string{"unreadable": string(m.ProtoReflect().Descriptor().FullName())})
	}
	var compact bytes.Buffer // protojson adds spaces at random
	if err := json.Compact(&compact, raw); err != nil {
		compact.Reset()
		compact.Write(raw)
	}
	var out strings.Builder
	for _, r := range compact.String() {
		before := out.Len()
		if unicode.IsPrint(r) {
			out.WriteRune(r)
		} else {
			for _, u := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&out, `\u%04x`, u)
			}
		}
		if out.Len() > auditText {
			return out.String()[:before], true
		}
	}
	return out.String(), false
}

// secret tells whether a field is marked as one that is shown nowhere.
func secret(f protoreflect.FieldDescriptor) bool {
	o, ok := f.Options().(*descriptorpb.FieldOptions)
	return ok && o.GetDebugRedact()
}

// withoutSecrets is the message, or a copy that lacks its secrets.
func withoutSecrets(m proto.Message) proto.Message {
	if r := m.ProtoReflect(); !r.IsValid() || !mayHoldSecrets(r.Descriptor()) {
		return m
	}
	m = proto.Clone(m)
	eachField(m.ProtoReflect(), func(m protoreflect.Message, f protoreflect.FieldDescriptor) {
		if secret(f) {
			m.Clear(f)
		}
	})
	return m
}

// secretive are the types of messages that were looked at, and whether they, or
// what they hold, have a field that is a secret.
var secretive sync.Map // by protoreflect.FullName

func mayHoldSecrets(d protoreflect.MessageDescriptor) bool {
	if known, ok := secretive.Load(d.FullName()); ok {
		return known.(bool)
	}
	seen := map[protoreflect.FullName]bool{}
	var holds func(d protoreflect.MessageDescriptor) bool
	holds = func(d protoreflect.MessageDescriptor) bool {
		if seen[d.FullName()] {
			return false
		}
		seen[d.FullName()] = true
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			if secret(f) || f.Message() != nil && holds(f.Message()) {
				return true
			}
		}
		return false
	}
	found := holds(d)
	secretive.Store(d.FullName(), found)
	return found
}

// eachField calls do for every field that is set in m and in what m holds.
func eachField(m protoreflect.Message, do func(protoreflect.Message, protoreflect.FieldDescriptor)) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { eachField(v.Message(), do); return true })
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				eachField(v.List().Get(i).Message(), do)
			}
		case !f.IsMap() && f.Message() != nil:
			eachField(v.Message(), do)
		}
		do(m, f)
		return true
	})
}

// cut makes text of text, of so many characters at most.
func cut(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	n := 0
	for i := range s {
		if n == most {
			return s[:i]
		}
		n++
	}
	return s
}
