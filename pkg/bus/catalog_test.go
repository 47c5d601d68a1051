package bus

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

var update = flag.Bool("update", false, "write the generated files instead of comparing them")

// comments reads the comments of messages and fields from the event protos,
// by full name. Descriptors in compiled Go do not have them.
func comments(t *testing.T) map[string]string { return commentsOf(t, "*_event.proto") }

func commentsOf(t *testing.T, pattern string) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../proto/nightshift/*/v1/" + pattern)
	if err != nil || len(files) < 4 {
		t.Fatalf("event protos: %v, %v", files, err)
	}
	opens := regexp.MustCompile(`^(?:message|enum) (\w+) \{`)
	field := regexp.MustCompile(`^\s+(?:repeated |optional )?[\w.<>, ]+ (\w+) = \d+`)
	out := map[string]string{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		pkg := "nightshift." + filepath.Base(filepath.Dir(filepath.Dir(f))) + ".v1."
		var message string
		var above []string
		for line := range strings.Lines(string(b)) {
			line = strings.TrimRight(line, "\n")
			if c, ok := strings.CutPrefix(strings.TrimSpace(line), "// "); ok {
				above = append(above, c)
				continue
			}
			if m := opens.FindStringSubmatch(line); m != nil {
				message = pkg + m[1]
				out[message] = strings.Join(above, "\n")
			} else if m := field.FindStringSubmatch(line); m != nil && message != "" {
				out[message+"."+m[1]] = strings.Join(above, " ")
			}
			above = nil
		}
	}
	return out
}

// eventMessages are the messages of all *_event.proto files that are linked
// in; the comments' files say whether all are.
func eventMessages() (names []protoreflect.FullName) {
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(f.Path(), "nightshift/") && strings.HasSuffix(f.Path(), "_event.proto") {
			for i := range f.Messages().Len() {
				names = append(names, f.Messages().Get(i).FullName())
			}
		}
		return true
	})
	slices.Sort(names)
	return names
}

func TestNoEventIsForgotten(t *testing.T) {
	t.Parallel()
	var declared []protoreflect.FullName
	short := map[string]bool{}
	subjects := map[string]string{}
	for _, s := range streams {
		for _, subj := range s.Subjects {
			subjects[subj] = s.Name
		}
	}
	said := comments(t)
	for _, e := range Events() {
		declared = append(declared, e.Name)
		if short[e.Short()] {
			t.Errorf("%s: two events of this short name would share consumers", e.Short())
		}
		short[e.Short()] = true
		if subjects[string(e.Name.Parent())+".>"] != e.Stream {
			t.Errorf("%s: no stream %s takes it", e.Name, e.Stream)
		}
		if !strings.Contains(said[string(e.Name)], "Subject: "+e.Pattern()) {
			t.Errorf("%s: its comment says %q and not Subject: %s", e.Name, said[string(e.Name)], e.Pattern())
		}
		if len(e.Publishers) == 0 || e.ExampleText == "" || len(e.Example) == 0 || len(e.Example) > len(e.Tokens) {
			t.Errorf("%s: publisher or example is missing", e.Name)
		}
		// Also of an empty message, subject and id can be made.
		mt, err := protoregistry.GlobalTypes.FindMessageByName(e.Name)
		if err != nil {
			t.Fatal(err)
		}
		empty := mt.New().Interface()
		if got := strings.Count(e.Subject(empty), "."); got != strings.Count(e.Pattern(), ".") || e.MessageID(empty) == "" {
			t.Errorf("%s: subject %s", e.Name, e.Subject(empty))
		}
	}
	slices.Sort(declared)
	if linked := eventMessages(); !slices.Equal(declared, linked) {
		t.Errorf("the catalog has %v, the protos have %v", declared, linked)
	}
	for name := range said {
		if strings.Count(name, ".") == 3 && !slices.Contains(declared, protoreflect.FullName(name)) {
			t.Errorf("%s is not in the catalog", name)
		}
	}
}

// Subjects and ids as they are: changing one breaks subscribers, or makes a
// fact published before and after the change two facts.
func TestSubjectsAndIDs(t *testing.T) {
	t.Parallel()
	at := timestamppb.New(time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC))
	finding := &findingv1.Finding{
		Id: "f1", Etag: "e1", RuleId: "ebs-unattached", Category: rulev1.Category_CATEGORY_WASTE, Severity: rulev1.Severity_SEVERITY_CRITICAL,
		Resource: &scanv1.Resource{Account: "111122223333", Region: "eu-west-1"},
	}
	transition := &findingv1.Transition{RunId: "j/1", Time: at}
	run := &runv1.Run{Id: "j/1", Job: "j", Kind: "waste", State: runv1.RunState_RUN_STATE_PARTIAL}
	scope := &scanv1.Scope{Service: "waste", Account: "111122223333", Region: "-"}
	for _, test := range []struct {
		m           proto.Message
		subject, id string
	}{
		{&jobv1.JobTriggered{Job: "j", Kind: "waste", Trigger: &jobv1.Trigger{PlannedTime: at}}, "nightshift.job.v1.JobTriggered.waste.j", "JobTriggered/waste/j@2026-03-01T06:00:00Z"},
		{&jobv1.JobTriggered{Job: "j", Kind: "waste", ArmedTime: at, JobEtag: "7"}, "nightshift.job.v1.JobTriggered.waste.j", "JobTriggered/waste/j@armed@2026-03-01T06:00:00Z@7"},
		{&jobv1.JobRequested{Trigger: &jobv1.Trigger{Job: "j", Kind: "waste", RunId: "j/manual-1"}}, "nightshift.job.v1.JobRequested.waste.j", "JobRequested/j/manual-1"},
		{&runv1.RunStarted{Run: run}, "nightshift.run.v1.RunStarted.waste.j", "RunStarted/j/1"},
		{&runv1.RunFinished{Run: run}, "nightshift.run.v1.RunFinished.waste.partial.j", "RunFinished/j/1"},
		{&scanv1.ScopeRequested{RunId: "j/1", Scope: scope}, "nightshift.scan.v1.ScopeRequested.waste.111122223333.-", "ScopeRequested/j/1/waste/111122223333/-"},
		{&scanv1.ScopeFinished{RunId: "j/1", Scope: scope, Execution: "3.1"}, "nightshift.scan.v1.ScopeFinished.waste.111122223333.-", "ScopeFinished/j/1/waste/111122223333/-/3.1"},
		{&findingv1.FindingsObserved{RunId: "j/1", Scope: scope, Execution: "3.1", Sequence: 2}, "nightshift.finding.v1.FindingsObserved.waste.111122223333.-", "FindingsObserved/j/1/waste/111122223333/-/3.1/2"},
		{&findingv1.FindingOpened{Finding: finding, Transition: transition}, "nightshift.finding.v1.FindingOpened.waste.critical.111122223333.eu-west-1.ebs-unattached", "FindingOpened/f1/e1/j/1/2026-03-01T06:00:00Z"},
		{&findingv1.FindingChanged{Finding: finding, Transition: transition}, "nightshift.finding.v1.FindingChanged.waste.critical.111122223333.eu-west-1.ebs-unattached", "FindingChanged/f1/e1/j/1/2026-03-01T06:00:00Z"},
		{&findingv1.FindingResolved{Finding: finding, Transition: transition}, "nightshift.finding.v1.FindingResolved.waste.critical.111122223333.eu-west-1.ebs-unattached", "FindingResolved/f1/e1/j/1/2026-03-01T06:00:00Z"},
		{&findingv1.FindingReopened{Finding: finding, Transition: transition}, "nightshift.finding.v1.FindingReopened.waste.critical.111122223333.eu-west-1.ebs-unattached", "FindingReopened/f1/e1/j/1/2026-03-01T06:00:00Z"},
		{&findingv1.FindingExempted{Finding: finding, Transition: transition}, "nightshift.finding.v1.FindingExempted.waste.critical.111122223333.eu-west-1.ebs-unattached", "FindingExempted/f1/e1/j/1/2026-03-01T06:00:00Z"},
		{&findingv1.FindingOrphaned{Finding: finding, Orphan: &findingv1.Orphan{FindingId: "f1", Time: at}}, "nightshift.finding.v1.FindingOrphaned.waste.critical.111122223333.eu-west-1.ebs-unattached", "FindingOrphaned/f1/2026-03-01T06:00:00Z"},
		{&findingv1.FindingReclaimed{Finding: finding, Orphan: &findingv1.Orphan{FindingId: "f1", Time: at}}, "nightshift.finding.v1.FindingReclaimed.waste.critical.111122223333.eu-west-1.ebs-unattached", "FindingReclaimed/f1/2026-03-01T06:00:00Z"},
		{&auditv1.AuditRecorded{Record: &auditv1.Record{CallId: "C1", Service: "waste", Phase: auditv1.Phase_PHASE_DENIED}}, "nightshift.audit.v1.AuditRecorded.waste", "AuditRecorded/C1/denied"},
	} {
		e := eventOf(test.m)
		if got := e.Subject(test.m); got != test.subject {
			t.Errorf("subject %s, want %s", got, test.subject)
		}
		if got := e.MessageID(test.m); got != test.id {
			t.Errorf("id %s, want %s", got, test.id)
		}
	}
	if w := word(runv1.RunState(99)); w != "99" {
		t.Errorf("an enum value of a newer version is %s", w)
	}
}

var legal = regexp.MustCompile(`^[A-Za-z0-9_=-]+$`)

func TestTokensRoundTrip(t *testing.T) {
	t.Parallel()
	value := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z0-9.*> =%-]{0,60}`), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
	rapid.Check(t, func(t *rapid.T) {
		a, b := value.Draw(t, "a"), value.Draw(t, "b")
		x, y := token(a), token(b)
		if !legal.MatchString(x) || len(x) > tokenMax {
			t.Fatalf("%q becomes %q", a, x)
		}
		if (a == b) != (x == y) {
			t.Fatalf("%q and %q become %q and %q", a, b, x, y)
		}
		back, whole := untoken(x)
		if whole && back != a {
			t.Fatalf("%q became %q and then %q", a, x, back)
		}
		if !whole && len(a)*3 <= tokenMax {
			t.Fatalf("%q became %q and cannot be read", a, x)
		}
		if s := subject("nightshift.x.v1.Y", a, b); strings.Count(s, ".") != 5 {
			t.Fatalf("subject %q", s)
		}
		// A header value is one line of ASCII that a server takes.
		p := plain(a)
		if len(p) > 400 || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Fatalf("%q becomes the header value %q", a, p)
		}
	})
}

func FuzzUntoken(f *testing.F) {
	for _, s := range []string{"", "=", "a=2E", "a=2", "a=zz", "====", "a=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, ok := untoken(s)
		if !ok {
			return
		}
		if again, ok := untoken(token(v)); len(v)*3 <= tokenMax && (!ok || again != v) {
			t.Fatalf("%q is %q, which goes round to %q", s, v, again)
		}
	})
}

// docs/events.md is made from the catalog, the streams and the protos.
func TestEventsPageIsCurrent(t *testing.T) {
	t.Parallel()
	said := comments(t)
	var b strings.Builder
	b.WriteString(`<!-- Generated from the catalog of events and the protos by "make generate"; do not edit. -->

# Events

Every event is a protobuf message on NATS JetStream. Its subject is the message's full name followed by routing tokens,
so that a subscription selects by subject: ` + "`*`" + ` stands for one token, ` + "`>`" + ` for all that follow. In a token, letters, digits,
` + "`-`" + ` and ` + "`_`" + ` stand for themselves, every other byte is ` + "`=XX`" + ` in hexadecimal, and ` + "`=`" + ` alone is an empty value.

Headers are CloudEvents 1.0 in binary mode, ` + "`content-type: application/protobuf`" + `:

| header | what it is |
|---|---|
| ` + "`ce-id`" + ` | what the event is about: the same for every delivery and copy of one fact; also in ` + "`Nats-Msg-Id`" + ` |
| ` + "`ce-type`" + ` | full name of the message |
| ` + "`ce-source`" + ` | ` + "`//nightshift.dev/<service>`" + ` |
| ` + "`ce-time`" + ` | when it came to be, RFC 3339 |
| ` + "`ce-subject`" + ` | the routing tokens, joined by ` + "`/`" + ` |
| ` + "`traceparent`" + ` | W3C trace context of whoever published it |

Events are extended, never reshaped: ignore fields, and values of enums, that you do not know. [asyncapi.yaml](asyncapi.yaml) is this page
for machines, [events.binpb](events.binpb) has the descriptors of all messages for those who have no generated code. Both are
generated, too.

## Subscribe

In Go, with ` + "`nightshift.dev/pkg/bus`" + `: ` + "`Dial`" + `, and ` + "`Subscribe`" + ` by type.

` + "```go" + `
b, err := bus.Dial(ctx, bus.Config{URL: os.Getenv("NATS_URL"), Service: "tickets"})
// ...
err = bus.Subscribe(ctx, b, func(ctx context.Context, m *bus.Message[*findingv1.FindingOpened]) error {
	return openTicket(ctx, m.ID, m.Body.GetFinding()) // an error brings the event back
}, bus.Durable("tickets"), bus.Filter("security", "critical"))
` + "```" + `

| to | say |
|---|---|
| begin with the next event | nothing |
| replay from a point in time | ` + "`bus.Since(t)`" + `: the first event stored at t or later, and on from there |
| replay everything that is kept | ` + "`bus.All()`" + ` |
| go on after a restart where you were | ` + "`bus.Durable(name)`" + `; processes that use one name share the events |
| replay under a durable name | ` + "`bus.Forget`" + `, then subscribe with ` + "`Since`" + `: a name that has begun goes on where it was |
| give an event up | return ` + "`bus.Drop(err)`" + `; ` + "`bus.MaxAttempts(n)`" + ` does it after n failures |
| have the event again later | return an error, or ` + "`bus.Later(d)`" + ` |
| keep the order also when one fails | ` + "`bus.MaxPending(1)`" + ` with ` + "`Durable`" + `; without ` + "`Durable`" + ` it is so |

In any other language, make a pull consumer of your own on the event's stream: one filter subject, explicit acknowledgement, and
` + "`deliver_policy`" + ` new, all, or by_start_time for a replay. [examples/subscribe](../examples/subscribe/main.go) is a program in Go,
[examples/subscribe-node](../examples/subscribe-node/subscribe.mjs) one in Node.js that uses nothing of ours. [nats.md](nats.md) says which user may
read what.

` + "```sh" + `
go run ./examples/subscribe -since 24h FindingOpened.security.critical
nats sub --stream NIGHTSHIFT_FINDING --since 24h 'nightshift.finding.v1.FindingOpened.security.critical.>'
` + "```" + `

## What is guaranteed

- **At least once.** An event is written in the transaction that makes it true, and published until its stream has it. A durable
  subscription gets it until it says that it is done, over restarts of everybody, as long as the stream keeps it.
- **Once for each id, if you want.** The same fact has the same ` + "`ce-id`" + ` in every copy and every delivery. The stream drops copies that come
  within 2 minutes. Who must not act twice keeps the ids it acted on, in the transaction in which it acts, for as long as the stream
  keeps events.
- **Order.** The stream has the events of one finding in the order in which they happened; those of one component, too; and what
  a run did before ` + "`RunFinished`" + `. Across findings there is none. An event that is delivered again comes after later ones: compare
  ` + "`transition.time`" + `, or keep the order as above.
- **Kept** as long as the table says. Who was away longer asks the API for the state of things.
- **Nobody waits for you.** A subscriber that is slow or away delays nobody else.

## Streams

| stream | what it holds | kept |
|---|---|---|
`)
	for _, s := range streams {
		kept := fmt.Sprintf("%d days, up to %d MiB", s.MaxAge/day, s.MaxBytes/mib)
		switch {
		case s.Retention == jetstream.WorkQueuePolicy:
			kept = fmt.Sprintf("until it is acted on; takes no more than %d MiB", s.MaxBytes/mib)
		case s.MaxAge == 0:
			kept = fmt.Sprintf("for ever, the last %d of each subject", s.MaxMsgsPerSubject)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.Name, s.Description, kept)
	}
	for _, e := range Events() {
		text, _, _ := strings.Cut(said[string(e.Name)], "\nSubject: ")
		consumers := "nobody here: it is for subscribers"
		if len(e.Consumers) > 0 {
			consumers = strings.Join(e.Consumers, ", ")
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n- Message: `%s`\n- Subject: `%s`\n- Stream: `%s`\n- Published by: %s\n- Acted on by: %s\n- Example: %s: `nats sub '%s'`\n\n| field | type | what it is |\n|---|---|---|\n",
			e.Short(), strings.ReplaceAll(text, "\n", " "), e.Name, e.Pattern(), e.Stream, strings.Join(e.Publishers, ", "), consumers, e.ExampleText, e.Filter(e.Example...))
		mt, err := protoregistry.GlobalTypes.FindMessageByName(e.Name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range mt.Descriptor().Fields().Len() {
			f := mt.Descriptor().Fields().Get(i)
			about := said[string(e.Name)+"."+string(f.Name())]
			if about == "" {
				t.Errorf("%s has no comment", f.FullName())
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Name(), typeName(f), strings.ReplaceAll(about, "|", "\\|"))
		}
	}
	current(t, "../../docs/events.md", []byte(b.String()))
}

func typeName(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return fmt.Sprintf("map of %s to %s", f.MapKey().Kind(), f.MapValue().Kind())
	case f.IsList():
		return "list of " + kindName(f)
	}
	return kindName(f)
}

func kindName(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Message() != nil:
		return "`" + string(f.Message().FullName()) + "`"
	case f.Enum() != nil:
		return "`" + string(f.Enum().FullName()) + "`"
	}
	return f.Kind().String()
}
