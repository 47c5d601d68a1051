package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"pgregory.net/rapid"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// stored is a bus that keeps what it is given, and that a test takes away.
type stored struct {
	mu      sync.Mutex
	away    bool
	records []*auditv1.Record
}

func (s *stored) Publish(ctx context.Context, m proto.Message) error { return s.PublishEach(ctx, m) }

func (s *stored) PublishEach(_ context.Context, messages ...proto.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errors.New("the bus is away")
	}
	for _, m := range messages {
		s.records = append(s.records, proto.CloneOf(m.(*auditv1.AuditRecorded).GetRecord()))
	}
	return nil
}

func (s *stored) setAway(away bool) { s.mu.Lock(); defer s.mu.Unlock(); s.away = away }

func (s *stored) phases() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.records {
		out = append(out, strings.ToLower(strings.TrimPrefix(r.GetPhase().String(), "PHASE_")))
	}
	return strings.Join(out, " ")
}

func audited(t testing.TB, b auditBus) *auditor {
	t.Helper()
	a := newAuditor("scheduler", slog.New(slog.DiscardHandler), time.Now)
	a.bus = b
	a.start()
	return a
}

var ana = auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: "ana", ID: "t1", Accounts: []string{"111122223333"}}

func update(n int) call {
	return call{principal: ana, method: "nightshift.job.v1.JobService/UpdateJob", peer: fmt.Sprintf("10.0.0.%d:99", n), agent: "cli",
		request: &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "nightly"}}}
}

// From the call to whoever keeps the log, over a real stream.
func TestAuditOverTheBus(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nats := devtest.NATS(t)
	connect := func(service string) *bus.Bus {
		b, err := bus.Connect(ctx, bus.Config{URL: nats.URL(), Options: nats.Options(), Service: service, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close(context.Background()) })
		return b
	}
	a := audited(t, connect("scheduler"))
	cctx, end, err := a.begin(ctx, update(1))
	if err != nil {
		t.Fatal(err)
	}
	// Whoever comes later than the records finds them.
	keeper := connect("persistence")
	kept := make(chan *auditv1.Record, 10)
	bus.On(keeper, func(_ context.Context, m *bus.Message[*auditv1.AuditRecorded]) error {
		kept <- m.Body.GetRecord()
		return nil
	})
	running, halt := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- keeper.Run(running) }()
	next := func() *auditv1.Record {
		select {
		case r := <-kept:
			return r
		case <-ctx.Done():
			t.Fatal("the record does not come")
			return nil
		}
	}
	began := next()
	if began.GetPhase() != auditv1.Phase_PHASE_ATTEMPTED || began.GetRequest() != `{"job":{"name":"nightly"}}` || len(began.GetCallId()) != 26 || began.GetPrincipal().GetName() != "ana" ||
		began.GetPrincipal().GetAccounts()[0] != "111122223333" || began.GetService() != "scheduler" || began.GetPeer() != "10.0.0.1:99" || began.GetUserAgent() != "cli" || began.GetCount() != 1 {
		t.Errorf("the attempt is %v", began)
	}
	Before(cctx, &jobv1.Job{Name: "nightly", Paused: true})
	After(cctx, &jobv1.Job{Name: "nightly"})
	end(nil)
	if r := next(); r.GetCallId() != began.GetCallId() || r.GetPhase() != auditv1.Phase_PHASE_SUCCEEDED || r.GetBefore() != `{"name":"nightly","paused":true}` || r.GetAfter() != `{"name":"nightly"}` || r.GetRequest() != "" {
		t.Errorf("the end is %v", r)
	}
	a.denied(ctx, update(1), errs.New(errs.PermissionDenied, "ROLE_TOO_LOW", "no"))
	if r := next(); r.GetPhase() != auditv1.Phase_PHASE_DENIED || r.GetCode() != 7 || r.GetReason() != "ROLE_TOO_LOW" || r.GetCallId() == began.GetCallId() || r.GetRequest() == "" {
		t.Errorf("the denial is %v", r)
	}
	halt()
	<-ended
	a.close(ctx)
}

func TestAuditIsAwayAndNothingChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &stored{}
		a := audited(t, b)
		_, end, err := a.begin(t.Context(), update(1))
		if err != nil {
			t.Fatal(err)
		}
		b.setAway(true)
		end(errs.New(errs.Aborted, "CONFLICT", "changed meanwhile")) // while the bus is away: it waits
		_, _, err = a.begin(t.Context(), update(2))
		if !errors.Is(err, errs.Unavailable) || errs.Reason(err) != "AUDIT_UNAVAILABLE" || errs.RetryDelay(err) == 0 {
			t.Errorf("a call without a trace: %v", err)
		}
		time.Sleep(time.Hour)
		if got := b.phases(); got != "attempted" {
			t.Errorf("stored are %s", got)
		}
		b.setAway(false)
		time.Sleep(10 * time.Second)
		if got := b.phases(); got != "attempted failed failed" {
			t.Errorf("stored are %s", got)
		}
		if r := b.records[1]; r.GetReason() != "CONFLICT" || r.GetCode() != 10 || r.GetCallId() != b.records[0].GetCallId() || r.GetTime().AsTime().After(time.Now().Add(-time.Hour)) {
			t.Errorf("the end is %v", r)
		}
		if r := b.records[2]; r.GetReason() != "AUDIT_UNAVAILABLE" {
			t.Errorf("the refused is %v", r)
		}
		// What the last call says before the process ends is stored.
		_, end, err = a.begin(t.Context(), update(3))
		if err != nil {
			t.Fatal(err)
		}
		end(nil)
		a.close(t.Context())
		if got := b.phases(); !strings.HasSuffix(got, " attempted succeeded") {
			t.Errorf("stored are %s", got)
		}
	})
}

func TestWhatIsSaidOfChanges(t *testing.T) {
	t.Parallel()
	b := &stored{}
	a := newAuditor("scheduler", slog.New(slog.DiscardHandler), time.Now)
	a.bus = b
	job := func(name string) *jobv1.Job { return &jobv1.Job{Name: name} }
	for name, c := range map[string]struct {
		handler       func(ctx context.Context) any
		err           error
		before, after string
	}{
		"nothing said": {func(context.Context) any { return nil }, nil, ``, ``},
		"answer":       {func(context.Context) any { return &jobv1.UpdateJobResponse{Job: job("a")} }, nil, ``, `{"name":"a"}`},
		"empty answer": {func(context.Context) any { return &jobv1.DeleteJobResponse{} }, nil, ``, ``},
		"answer of many parts": {func(context.Context) any {
			return &jobv1.ListJobsResponse{Jobs: []*jobv1.Job{job("a")}, NextPageToken: "x"}
		}, nil, ``, `{"jobs":[{"name":"a"}],"next_page_token":"x"}`},
		"said before answered": {func(ctx context.Context) any {
			After(ctx, job("b"))
			return &jobv1.UpdateJobResponse{Job: job("a")}
		}, nil, ``, `{"name":"b"}`},
		"said that nothing is left": {func(ctx context.Context) any {
			Before(ctx, job("b"))
			After(ctx, nil)
			return &jobv1.UpdateJobResponse{Job: job("a")}
		}, nil, `{"name":"b"}`, ``},
		"the last counts": {func(ctx context.Context) any {
			Before(ctx, job("1"))
			Before(ctx, job("2"))
			return nil
		}, nil, `{"name":"2"}`, ``},
		"failed": {func(ctx context.Context) any {
			Before(ctx, job("1"))
			After(ctx, job("2"))
			return nil
		}, errors.New("secret"), `{"name":"1"}`, ``},
		"a nil of a type": {func(ctx context.Context) any { Before(ctx, (*jobv1.Job)(nil)); return (*jobv1.UpdateJobResponse)(nil) }, nil, ``, ``},
	} {
		ctx, end, err := a.begin(t.Context(), update(1))
		if err != nil {
			t.Fatal(err)
		}
		answered(ctx, c.handler(ctx))
		end(c.err)
		a.drain(ctx)
		b.mu.Lock()
		if r := b.records[len(b.records)-1]; r.GetBefore() != c.before || r.GetAfter() != c.after || (c.err != nil) != (r.GetReason() == "INTERNAL") || strings.Contains(r.String(), "secret") {
			t.Errorf("%s: %v", name, r)
		}
		b.mu.Unlock()
	}
	// Outside of a call it does nothing.
	Before(t.Context(), job("a"))
	After(t.Context(), job("a"))
	answered(t.Context(), &jobv1.UpdateJobResponse{})
}

// Whatever comes, no minute has more records than there is room for, and each
// denial is counted.
func TestDenialsProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var d denials
		callers, calls := rapid.IntRange(1, 2000).Draw(rt, "callers"), rapid.IntRange(1, 5000).Draw(rt, "calls")
		for range 2 {
			written, counted := int64(0), int64(0)
			each := map[int]int{}
			for n := range calls {
				who := n * n % callers
				if d.take(&auditv1.Record{Method: "m", Peer: fmt.Sprintf("10.0.%d.%d:%d", who>>8, who&255, n), Count: 1}) {
					written++
					each[who]++
				}
			}
			for who, n := range each {
				if n > deniedEach {
					rt.Errorf("%d of caller %d are written", n, who)
				}
			}
			records := d.flush()
			for _, r := range records {
				counted += r.GetCount()
			}
			if written+counted != int64(calls) || written > deniedSingly || len(records) > deniedKinds+1 {
				rt.Errorf("of %d, %d are written and %d counted in %d", calls, written, counted, len(records))
			}
			if calls <= deniedEach && written != int64(calls) {
				rt.Errorf("only %d of %d are written", written, calls)
			}
		}
	})
}

// A flood from everywhere, while the bus is away, is bounded, and its size is known in the end.
func TestFloodOfDenials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const flood = 20_000
		b := &stored{}
		b.setAway(true)
		a := audited(t, b)
		for n := range flood {
			if n%5000 == 0 {
				time.Sleep(time.Minute) // the flood goes on into the next minutes
			}
			a.denied(t.Context(), call{method: "m", peer: fmt.Sprintf("[2001:db8::%x]:1", n)}, errs.New(errs.Unauthenticated, "BAD_TOKEN", "no"))
			a.mu.Lock()
			if len(a.queue) > auditQueue || len(a.denials.kinds) > deniedKinds {
				t.Fatalf("%d records wait, %d are counted", len(a.queue), len(a.denials.kinds))
			}
			a.mu.Unlock()
		}
		b.setAway(false)
		time.Sleep(2 * time.Minute)
		a.close(t.Context())
		sum := int64(0)
		for _, r := range b.records {
			sum += r.GetCount()
			if r.GetCallId() == "" || r.GetService() == "" || r.GetPhase() != auditv1.Phase_PHASE_DENIED {
				t.Fatalf("a record is %v", r)
			}
		}
		if sum != flood {
			t.Errorf("%d of %d are in the log, in %d records", sum, flood, len(b.records))
		}
	})
}

// whole is a message type with secrets at every depth.
func whole(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	redact := &descriptorpb.FieldOptions{DebugRedact: proto.Bool(true)}
	field := func(name string, n int32, kind descriptorpb.FieldDescriptorProto_Type, label descriptorpb.FieldDescriptorProto_Label, of string, o *descriptorpb.FieldOptions) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Type: &kind, Label: &label, Options: o}
		if of != "" {
			f.TypeName = &of
		}
		return f
	}
	const (
		text, message    = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
		single, repeated = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("audit_test.proto"), Package: proto.String("x"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("M"),
			Field: []*descriptorpb.FieldDescriptorProto{
				field("text", 1, text, single, "", nil), field("secret", 2, text, single, "", redact), field("secrets", 3, text, repeated, "", redact),
				field("one", 4, message, single, ".x.M", nil), field("many", 5, message, repeated, ".x.M", nil), field("named", 6, message, repeated, ".x.M.NamedEntry", nil),
				field("hidden", 7, message, single, ".x.M", redact),
			},
			NestedType: []*descriptorpb.DescriptorProto{{
				Name: proto.String("NamedEntry"), Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
				Field: []*descriptorpb.FieldDescriptorProto{field("key", 1, text, single, "", nil), field("value", 2, message, single, ".x.M", nil)},
			}},
		}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().Get(0)
}

func TestSecretsStayOut(t *testing.T) {
	t.Parallel()
	d := whole(t)
	f := func(name string) protoreflect.FieldDescriptor { return d.Fields().ByName(protoreflect.Name(name)) }
	var build func(depth int) *dynamicpb.Message
	build = func(depth int) *dynamicpb.Message {
		m := dynamicpb.NewMessage(d)
		m.Set(f("text"), protoreflect.ValueOfString("plain"))
		m.Set(f("secret"), protoreflect.ValueOfString("hunter2"))
		m.Mutable(f("secrets")).List().Append(protoreflect.ValueOfString("hunter2"))
		if depth > 0 {
			m.Set(f("one"), protoreflect.ValueOfMessage(build(depth-1)))
			m.Set(f("hidden"), protoreflect.ValueOfMessage(build(depth-1)))
			m.Mutable(f("many")).List().Append(protoreflect.ValueOfMessage(build(depth - 1)))
			m.Mutable(f("named")).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfMessage(build(depth-1)))
		}
		return m
	}
	m := build(3)
	before := proto.Clone(m)
	text, cut := auditJSON(m)
	if strings.Contains(text, "hunter2") || strings.Contains(text, "hidden") || strings.Count(text, "plain") != 1+3+9+27 || cut {
		t.Error(text)
	}
	if !proto.Equal(m, before) {
		t.Error("the message itself was changed")
	}
}

// What is kept is JSON that says the same and can do nothing to whoever looks at it.
func FuzzAuditJSON(f *testing.F) {
	for _, s := range []string{"", "a", "\x00\x1b[31m\u202e\u2028\u009b\U000e0041\ufeff\"\\\n", strings.Repeat("\u202e", 4000), strings.Repeat("€", 6000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "")
		text, cutOff := auditJSON(&jobv1.Job{Name: s, Description: s})
		if len(text) > auditText || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%d bytes: %q", len(text), text)
		}
		if cutOff {
			return
		}
		var back struct{ Name, Description string }
		if err := json.Unmarshal([]byte(text), &back); err != nil || back.Name != s || back.Description != s {
			t.Errorf("%v: %q became %q", err, s, text)
		}
	})
}

func TestTextsOfRecordsAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 1000) + "\xff"
	r := newAuditor("x", nil, time.Now).record(call{method: long, agent: long, peer: long}, auditv1.Phase_PHASE_DENIED)
	if r.GetMethod() != strings.Repeat("é", auditMethod) || r.GetUserAgent() != strings.Repeat("é", auditAgent) || len(r.GetPeer()) > 2*auditAgent {
		t.Errorf("%v", r)
	}
	if got := cut("a\xffb", 9); got != "a\uFFFDb" {
		t.Errorf("%q", got)
	}
}
