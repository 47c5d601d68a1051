package bus

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

// Event is one kind of message as the catalog declares it.
type Event struct {
	// Name is the full name of the protobuf message; a subject begins with it.
	Name protoreflect.FullName
	// Tokens name the routing tokens that follow it in the subject.
	Tokens []string
	// Stream keeps the messages.
	Stream string
	// Publishers are the services that publish it.
	Publishers []string
	// Consumers are the services that act on it; the others may watch.
	Consumers []string
	// Example is a subscription: leading tokens, and what it gives.
	Example []string
	// ExampleText says what the example selects.
	ExampleText string

	route func(proto.Message) []string
	id    func(proto.Message) string
}

// Short is the name without its package, such as JobTriggered.
func (e *Event) Short() string { return string(e.Name.Name()) }

// Pattern is the subject with its tokens named, such as
// nightshift.job.v1.JobTriggered.<kind>.<job>.
func (e *Event) Pattern() string {
	return string(e.Name) + ".<" + strings.Join(e.Tokens, ">.<") + ">"
}

// Filter is the subject that selects the messages whose first tokens have
// these values; without any it selects all.
func (e *Event) Filter(values ...string) string {
	s := subject(string(e.Name), values...)
	if len(values) < len(e.Tokens) {
		s += ".>"
	}
	return s
}

// Subject is where m is published.
func (e *Event) Subject(m proto.Message) string { return subject(string(e.Name), e.route(m)...) }

// MessageID is what m is about, and nothing random: publishing the same fact
// again has the same id, and no other fact of the stream has it.
func (e *Event) MessageID(m proto.Message) string { return e.Short() + "/" + e.id(m) }

// honest says whether a message is about the service, or kind of job, on whose
// subject it was published. Rights are by subject: without this, who may speak
// for itself could speak for others.
func (e *Event) honest(subj string, m proto.Message) error {
	if e.Tokens[0] != "service" && e.Tokens[0] != "kind" {
		return nil
	}
	rest, _ := strings.CutPrefix(subj, string(e.Name)+".")
	first, _, _ := strings.Cut(rest, ".")
	if is := token(e.route(m)[0]); is != first {
		return fmt.Errorf("was published for %q, and is about %q", first, is)
	}
	return nil
}

// Events is the catalog, in the order of streams and then of a run's life.
func Events() []*Event { return slices.Clone(catalog) }

// services are the names of those who publish and act on events.
func services() (names []string) {
	for _, e := range catalog {
		names = append(append(names, e.Publishers...), e.Consumers...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// scanners are the services that handle jobs and scan scopes.
var scanners = []string{"waste", "security"}

// workers are the services that handle jobs.
var workers = append([]string{"cleanup", "health"}, scanners...)

// everyone is every service: each keeps an audit log of its calls.
var everyone = []string{"persistence", "waste", "security", "health", "cleanup", "scheduler", "notification"}

// teller is the service that tells people.
var teller = []string{"notification"}

// event declares one kind of message.
func event[T proto.Message](publishers, consumers, tokens []string, route func(T) []string, id func(T) string, exampleText string, example ...string) *Event {
	var zero T
	name := zero.ProtoReflect().Descriptor().FullName()
	return &Event{
		Name: name, Tokens: tokens, Stream: streamOf(name), Publishers: publishers, Consumers: consumers,
		Example: example, ExampleText: exampleText,
		route: func(m proto.Message) []string { return route(m.(T)) },
		id:    func(m proto.Message) string { return id(m.(T)) },
	}
}

// The catalog: every message of every *_event.proto, once. A new event is one
// entry here; a test fails when one is missing.
var catalog = []*Event{
	event([]string{"scheduler"}, workers, []string{"kind", "job"},
		func(m *jobv1.JobTriggered) []string { return []string{m.GetKind(), m.GetJob()} },
		func(m *jobv1.JobTriggered) string {
			job := m.GetKind() + "/" + m.GetJob()
			if t := m.GetTrigger(); t != nil {
				return job + "@" + stamp(t.GetPlannedTime())
			}
			return job + "@armed@" + stamp(m.GetArmedTime()) + "@" + m.GetJobEtag()
		},
		"every fire of every job of kind waste", "waste"),
	event([]string{"scheduler"}, workers, []string{"kind", "job"},
		func(m *jobv1.JobRequested) []string {
			return []string{m.GetTrigger().GetKind(), m.GetTrigger().GetJob()}
		},
		func(m *jobv1.JobRequested) string { return m.GetTrigger().GetRunId() },
		"every manual run of the job waste-scan", "waste", "waste-scan"),

	event([]string{"persistence"}, nil, []string{"kind", "job"},
		func(m *runv1.RunStarted) []string { return []string{m.GetRun().GetKind(), m.GetRun().GetJob()} },
		func(m *runv1.RunStarted) string { return m.GetRun().GetId() },
		"the start of every run of kind waste", "waste"),
	event([]string{"persistence"}, nil, []string{"kind", "state", "job"},
		func(m *runv1.RunFinished) []string {
			return []string{m.GetRun().GetKind(), word(m.GetRun().GetState()), m.GetRun().GetJob()}
		},
		func(m *runv1.RunFinished) string { return m.GetRun().GetId() },
		"every failed run of kind waste", "waste", "failed"),
	event([]string{"persistence"}, workers, []string{"kind", "job"},
		func(m *runv1.RunReleased) []string {
			return []string{m.GetTrigger().GetKind(), m.GetTrigger().GetJob()}
		},
		func(m *runv1.RunReleased) string {
			return join(m.GetTrigger().GetRunId(), strconv.Itoa(int(m.GetRelease())))
		},
		"every run of kind waste whose turn in the queue has come", "waste"),
	event([]string{"persistence"}, teller, []string{"kind", "state", "job"},
		func(m *runv1.RunAlertRaised) []string {
			return []string{m.GetRun().GetKind(), word(m.GetRun().GetState()), m.GetRun().GetJob()}
		},
		func(m *runv1.RunAlertRaised) string { return m.GetRun().GetId() },
		"every alert about a run of kind waste", "waste"),

	event([]string{"persistence"}, workers, []string{"service", "account", "region"},
		func(m *scanv1.ScopeRequested) []string { return scope(m.GetScope()) },
		func(m *scanv1.ScopeRequested) string { return join(m.GetRunId(), scope(m.GetScope())...) },
		"what the waste service is asked to scan in one account", "waste", "111122223333"),
	event(workers, []string{"persistence"}, []string{"service", "account", "region"},
		func(m *scanv1.ScopeFinished) []string { return scope(m.GetScope()) },
		func(m *scanv1.ScopeFinished) string {
			return join(m.GetRunId(), append(scope(m.GetScope()), m.GetExecution())...)
		},
		"the end of every scan of one account by the waste service", "waste", "111122223333"),

	event(scanners, []string{"persistence"}, []string{"service", "account", "region"},
		func(m *findingv1.FindingsObserved) []string { return scope(m.GetScope()) },
		func(m *findingv1.FindingsObserved) string {
			return join(m.GetRunId(), append(scope(m.GetScope()), m.GetExecution(), strconv.Itoa(int(m.GetSequence())))...)
		},
		"every batch of verdicts of the waste service, the compliant left out", "waste"),
	lifecycle[*findingv1.FindingOpened]("every critical security finding that opens in one account", "security", "critical", "111122223333"),
	lifecycle[*findingv1.FindingChanged]("every change of a waste finding of high severity", "waste", "high"),
	lifecycle[*findingv1.FindingResolved]("every waste finding proven gone", "waste"),
	lifecycle[*findingv1.FindingReopened]("every security finding that came back, or is exempt no longer", "security"),
	lifecycle[*findingv1.FindingExempted]("every security finding that was accepted until a day", "security"),
	orphaned[*findingv1.FindingOrphaned]("every finding that no scan looks at any more, because its account or region has left", "waste"),
	orphaned[*findingv1.FindingReclaimed]("every security finding whose account or region has come back", "security"),
	lifecycle[*findingv1.FindingAcknowledged]("every critical finding that somebody knows about", "security", "critical"),
	lifecycle[*findingv1.FindingUnacknowledged]("every waste finding that nobody knows about any more", "waste"),
	lifecycle[*findingv1.FindingAssigned]("every waste finding that is given to an owner", "waste"),
	lifecycle[*findingv1.FindingCommented]("every comment on a security finding", "security"),
	event([]string{"persistence"}, teller, []string{"service", "account"},
		func(m *findingv1.FindingsHeld) []string {
			return []string{m.GetHold().GetService(), m.GetHold().GetAccount()}
		},
		func(m *findingv1.FindingsHeld) string {
			return join(m.GetHold().GetRunId(), m.GetHold().GetService(), m.GetHold().GetAccount())
		},
		"every run of the waste service that was stopped because it would change too much", "waste"),

	event(everyone, []string{"persistence"}, []string{"service"},
		func(m *auditv1.AuditRecorded) []string { return []string{m.GetRecord().GetService()} },
		func(m *auditv1.AuditRecorded) string {
			return join(m.GetRecord().GetCallId(), word(m.GetRecord().GetPhase()))
		},
		"what people and programs change through the scheduler, and what it denies", "scheduler"),
	event([]string{"persistence"}, teller, []string{"component", "state"},
		func(m *healthv1.ComponentChanged) []string {
			return []string{m.GetTransition().GetComponent(), word(m.GetTransition().GetToState())}
		},
		func(m *healthv1.ComponentChanged) string {
			return join(m.GetTransition().GetComponent(), stamp(m.GetTransition().GetTime()))
		},
		"everything that befalls NATS itself", "nats"),
}

// orphaned is the subject and the identity of events about the mark of a finding.
func orphaned[T interface {
	proto.Message
	GetFinding() *findingv1.Finding
	GetOrphan() *findingv1.Orphan
}](exampleText string, example ...string) *Event {
	return event([]string{"persistence"}, teller, []string{"category", "severity", "account", "region", "rule"},
		func(m T) []string { return aboutFinding(m.GetFinding()) },
		func(m T) string { return join(m.GetOrphan().GetFindingId(), stamp(m.GetOrphan().GetTime())) },
		exampleText, example...)
}

func aboutFinding(f *findingv1.Finding) []string {
	return []string{word(f.GetCategory()), word(f.GetSeverity()), f.GetResource().GetAccount(), f.GetResource().GetRegion(), f.GetRuleId()}
}

// lifecycle declares one of the events that follow a finding.
func lifecycle[T interface {
	proto.Message
	GetFinding() *findingv1.Finding
	GetTransition() *findingv1.Transition
}](exampleText string, example ...string) *Event {
	return event([]string{"persistence"}, teller, []string{"category", "severity", "account", "region", "rule"},
		func(m T) []string { return aboutFinding(m.GetFinding()) },
		func(m T) string {
			return join(m.GetFinding().GetId(), m.GetFinding().GetEtag(), m.GetTransition().GetRunId(), stamp(m.GetTransition().GetTime()))
		},
		exampleText, example...)
}

func scope(s *scanv1.Scope) []string {
	return []string{s.GetService(), s.GetAccount(), s.GetRegion()}
}

func join(first string, more ...string) string {
	return first + "/" + strings.Join(more, "/")
}

func stamp(t *timestamppb.Timestamp) string { return t.AsTime().Format(time.RFC3339Nano) }

// word is an enum value in a subject: lower case, without the prefix that all
// values of the enum share, such as critical for SEVERITY_CRITICAL.
func word(e protoreflect.Enum) string {
	values := e.Descriptor().Values()
	v := values.ByNumber(e.Number())
	if v == nil {
		return strconv.Itoa(int(e.Number()))
	}
	prefix := strings.TrimSuffix(string(values.Get(0).Name()), "UNSPECIFIED")
	return strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
}

// streamOf is the stream of a message: one per protobuf package.
func streamOf(name protoreflect.FullName) string {
	parts := strings.Split(string(name), ".")
	return "NIGHTSHIFT_" + strings.ToUpper(parts[1])
}

var byName = func() map[protoreflect.FullName]*Event {
	m := map[protoreflect.FullName]*Event{}
	for _, e := range catalog {
		if m[e.Name] != nil {
			panic(fmt.Sprintf("bus: %s is declared twice", e.Name))
		}
		m[e.Name] = e
	}
	return m
}()

// eventOf finds a message's declaration. Only a message that is no event has
// none, which is a mistake of the caller's source.
func eventOf(m proto.Message) *Event {
	name := m.ProtoReflect().Descriptor().FullName()
	e := byName[name]
	if e == nil {
		panic(fmt.Sprintf("bus: %s is not in the catalog of events", name))
	}
	return e
}

func eventFor[T proto.Message]() *Event {
	var zero T
	return eventOf(zero)
}
