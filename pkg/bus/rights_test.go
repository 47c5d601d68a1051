package bus

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
)

// deploy/nats/permissions.conf is made from the catalog.
func TestPermissionsAreCurrent(t *testing.T) {
	t.Parallel()
	current(t, "../../deploy/nats/permissions.conf", []byte(Permissions()))
}

// guarded is a server with the configuration that is generated.
type guarded struct {
	*server.Server
	passwords map[string]string
}

func startGuarded(t testing.TB) *guarded {
	t.Helper()
	return startGuardedIn(t, t.TempDir())
}

// startGuardedIn starts one on the streams of another.
func startGuardedIn(t testing.TB, store string) *guarded {
	t.Helper()
	g := &guarded{passwords: map[string]string{}}
	for _, u := range Users() {
		g.passwords[u.Name] = "a-password-of-the-user-" + u.Name
	}
	users, err := ServerConfig(g.passwords)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nightshift.conf"), []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	main := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream { store_dir: %q }\ninclude ./nightshift.conf\n", store)
	if err := os.WriteFile(filepath.Join(dir, "nats.conf"), []byte(main), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(filepath.Join(dir, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	g.Server = startServer(t, "", func(p *server.Options) { o.NoSigs, o.NoLog = true, true; *p = *o })
	return g
}

// url is where a user connects.
func (g *guarded) url(user string) string {
	u, err := url.Parse(g.ClientURL())
	if err != nil {
		panic(err)
	}
	u.User = url.UserPassword(user, g.passwords[user])
	return u.String()
}

// as connects as a service, and fails the test when the server refuses it
// anything from then on.
func (g *guarded) as(t testing.TB, service string, connect func(context.Context, Config) (*Bus, error)) *Bus {
	t.Helper()
	log := &lines{}
	b, err := connect(t.Context(), Config{URL: g.url(service), Service: service, Grace: 50 * time.Millisecond, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatalf("%s: %v", service, err)
	}
	b.backoff = func(int) time.Duration { return time.Millisecond }
	t.Cleanup(func() {
		_ = b.Close(context.WithoutCancel(t.Context()))
		if said := log.String(); strings.Contains(strings.ToLower(said), "violation") || strings.Contains(said, "REFUSED") {
			t.Errorf("%s was refused something:\n%s", service, said)
		}
		if said := log.String(); strings.Contains(said, g.passwords[service]) {
			t.Errorf("the log of %s has its password:\n%s", service, said)
		}
	})
	return b
}

type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

// sample is a message of an event about a service, and told apart by n.
func sample(t testing.TB, e *Event, service, n string) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(e.Name)
	if err != nil {
		t.Fatal(err)
	}
	switch m := mt.New().Interface().(type) {
	case *jobv1.JobTriggered:
		m.Kind, m.Job, m.JobEtag = service, "j", n
		return m
	case *jobv1.JobRequested:
		m.Trigger = &jobv1.Trigger{Kind: service, Job: "j", RunId: n + "/" + service}
		return m
	case *runv1.RunReleased:
		m.Trigger = &jobv1.Trigger{Kind: service, Job: "j", RunId: n + "/" + service}
		return m
	case *scanv1.ScopeRequested:
		m.RunId, m.Scope = n, &scanv1.Scope{Service: service}
		return m
	case *scanv1.ScopeFinished:
		m.RunId, m.Scope = n, &scanv1.Scope{Service: service}
		return m
	case *findingv1.FindingsObserved:
		m.RunId, m.Scope = n, &scanv1.Scope{Service: service}
		return m
	case *auditv1.AuditRecorded:
		m.Record = &auditv1.Record{CallId: n + "/" + service, Service: service}
		return m
	default:
		return m
	}
}

// Every service does all that it is there for, with its rights and no others:
// publishing, handling, having again, giving up, replaying, and what else the
// scheduler and health do. Those who start before persistence wait for it.
func TestServicesMayDoWhatTheyMust(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	buses := map[string]*Bus{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, s := range services() {
		if s != keeper {
			all.Go(func() {
				b := g.as(t, s, Connect)
				mu.Lock()
				defer mu.Unlock()
				buses[s] = b
			})
		}
	}
	admin := g.as(t, UserAdmin, Dial)
	eventually(t, "the others wait", func() bool { return g.NumClients() == len(services()) })
	if st, err := admin.Status(t.Context()); err != nil || len(st.Streams) != 0 {
		t.Fatalf("before persistence there is %+v, %v", st, err)
	}
	keeps := g.as(t, keeper, Connect)
	all.Wait()
	buses[keeper] = keeps

	// Each consumer has its first message again, then gives it up, and handles it when it is replayed.
	type step struct{ consumer, what string }
	steps := make(chan step, 1000)
	want := map[step]int{}
	for _, e := range Events() {
		for _, service := range e.Consumers {
			c := consumerOf(buses[service], e, service)
			if slices.Contains(workers, service) {
				c.filter = []string{service}
			}
			mt, err := protoregistry.GlobalTypes.FindMessageByName(e.Name)
			if err != nil {
				t.Fatal(err)
			}
			c.decode = func(data []byte) (proto.Message, error) {
				m := mt.New().Interface()
				return m, proto.Unmarshal(data, m)
			}
			c.handle = func(_ context.Context, ds []*delivery) []error {
				d := ds[0]
				switch {
				case strings.HasPrefix(d.msg.Subject(), replaySubject):
					steps <- step{c.name, "replayed"}
					return []error{nil}
				case d.meta.NumDelivered == 1:
					steps <- step{c.name, "later"}
					return []error{Later(time.Millisecond)}
				case d.attempt != 1:
					t.Errorf("%s: attempt %d", c.name, d.attempt)
				}
				steps <- step{c.name, "dropped"}
				return []error{Drop(errors.New("poison"))}
			}
			buses[service].consumers = append(buses[service].consumers, c)
			about := len(e.Publishers)
			if slices.Contains(workers, service) {
				about = 1 // the others are about others
			}
			for _, what := range []string{"later", "dropped", "replayed"} {
				want[step{c.name, what}] = about
			}
		}
	}
	for _, b := range buses {
		run(t, b)
	}
	for _, e := range Events() {
		for _, publisher := range e.Publishers {
			abouts := []string{publisher}
			if !slices.Contains(workers, publisher) && slices.Contains(e.Consumers, "waste") {
				abouts = e.Consumers // the scheduler's and persistence's
			}
			for _, about := range abouts {
				if err := buses[publisher].Publish(t.Context(), sample(t, e, about, "1")); err != nil {
					t.Errorf("%s: %v", publisher, err)
				}
			}
		}
	}
	scheduler := buses["scheduler"]
	got := map[step]int{}
	total := 0
	for _, n := range want {
		total += n
	}
	deadline := time.After(patience)
	for n, replayed := 0, uint64(0); n < total; {
		select {
		case <-deadline:
			for s, n := range want {
				if got[s] != n {
					t.Errorf("%s was %s %d times, want %d", s.consumer, s.what, got[s], n)
				}
			}
			t.FailNow()
		case s := <-steps:
			got[s]++
			n++
		case <-time.After(20 * time.Millisecond):
			letters, err := scheduler.DeadLetters().List(t.Context(), "", replayed, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range letters {
				if err := scheduler.DeadLetters().Replay(t.Context(), l.GetId()); err != nil {
					t.Fatal(err)
				}
				replayed = l.GetId()
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("happened %v, want %v", got, want)
	}
	for _, l := range deadLetters(t, scheduler) {
		t.Errorf("a dead letter is left: %s", l.GetMessageId())
	}

	schedules(t, scheduler)
	st, err := buses["health"].Status(t.Context())
	if err != nil || len(st.Missing) != 0 || len(st.Streams) != len(streams) {
		t.Errorf("health sees %+v, %v", st, err)
	}
	reads(t, g.as(t, UserSubscriber, Dial), keeps)
}

// schedules does what the scheduler does beside publishing.
func schedules(t *testing.T, b *Bus) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	kv, err := OpenKV[*jobv1.Job](ctx, b, jobsBucket)
	if err != nil {
		t.Fatal(err)
	}
	changes, records := make(chan string, 100), make(chan string, 100)
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	g.Go(func() {
		if err := kv.Watch(ctx, func(e *Entry[*jobv1.Job]) { changes <- e.Key }, func() {}); err != nil {
			t.Error(err)
		}
	})
	g.Go(func() {
		if err := Watch(ctx, b, func(m *Message[*jobv1.JobTriggered]) { records <- m.Body.GetJob() }, func() {}); err != nil {
			t.Error(err)
		}
	})
	rev, err := kv.Create(ctx, "a job", &jobv1.Job{Name: "a"})
	if err == nil {
		rev, err = kv.Update(ctx, "a job", &jobv1.Job{Name: "b"}, rev)
	}
	if err == nil {
		_, err = kv.Get(ctx, "a job")
	}
	if err == nil {
		err = kv.Delete(ctx, "a job", rev)
	}
	if err == nil {
		_, err = kv.CreateFirst(ctx, "another", &jobv1.Job{Name: "b"})
	}
	if err != nil {
		t.Error(err)
	}
	for range 2 { // the server keeps the last change of each job
		wait(t, changes, "changes of jobs")
	}
	seq, err := b.Append(ctx, &jobv1.JobTriggered{Kind: "cleanup", Job: "x", JobEtag: "first"}, 0)
	if err != nil {
		t.Error(err)
	}
	if last, err := Last[*jobv1.JobTriggered](ctx, b, "cleanup", "x"); err != nil || last.Sequence != seq {
		t.Errorf("last is %v, %v", last, err)
	}
	for wait(t, records, "the record") != "x" {
	}
	if _, err := b.ServerTime(ctx); err != nil {
		t.Error(err)
	}
	if kinds, err := Handled[*jobv1.JobTriggered](ctx, b); err != nil || !slices.Equal(kinds, []string{"cleanup", "health", "security", "waste"}) {
		t.Errorf("handled are %v, %v", kinds, err)
	}
}

// reads does what a subscriber does.
func reads(t *testing.T, b, publisher *Bus) {
	t.Helper()
	for i, opts := range [][]Option{{All()}, {Durable("mine"), All(), MaxPending(1)}, {Filter("waste"), Since(theBeginning)}} {
		ctx, cancel := context.WithCancel(t.Context())
		got, done := make(chan string, 100), make(chan error, 1)
		go func() {
			done <- Subscribe(ctx, b, func(_ context.Context, m *Message[*findingv1.FindingOpened]) error {
				got <- m.Body.GetFinding().GetId()
				if m.Attempt == 1 {
					return errors.New("again")
				}
				return nil
			}, opts...)
		}()
		m := &findingv1.FindingOpened{Finding: &findingv1.Finding{Id: fmt.Sprint("f", i), Category: 1}}
		if err := publisher.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		for wait(t, got, "a finding") != m.GetFinding().GetId() {
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := Forget[*findingv1.FindingOpened](t.Context(), b, "mine"); err != nil {
		t.Error(err)
	}
	// A plain subscription, as "nats sub" makes it.
	sub, err := b.nc.SubscribeSync("nightshift.finding.v1.FindingResolved.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, publisher, &findingv1.FindingResolved{Finding: &findingv1.Finding{Id: "gone"}})
	if _, err := sub.NextMsg(patience); err != nil {
		t.Error(err)
	}
}

// attempt is something that a user tries on a subject.
type attempt struct {
	subject   string
	subscribe bool
	may       []string // all others may not
}

// attempts is what there is to try, and who may; said here a second time, and
// by other means than the rights are made.
func attempts() (all []attempt) {
	publish := func(subject string, may ...string) { all = append(all, attempt{subject, false, may}) }
	listen := func(subject string, may ...string) { all = append(all, attempt{subject, true, may}) }
	everybody := append(services(), UserSubscriber)
	forAll := regexp.MustCompile(`\.(Finding(Opened|Changed|Resolved|Reopened|Exempted|Orphaned|Reclaimed|Acknowledged|Unacknowledged|Assigned|Commented|sHeld)|Run(Started|Finished|AlertRaised)|ComponentChanged)$`)
	readers := map[string][]string{}
	for _, e := range catalog {
		var reader []string
		if forAll.MatchString(string(e.Name)) {
			reader = []string{UserSubscriber}
			readers[e.Stream] = reader
		}
		listen(e.Filter(), reader...)
		publish("$JS.API.CONSUMER.CREATE."+e.Stream+".some_name."+e.Filter(), append(map[string][]string{"JobTriggered": {"scheduler"}}[e.Short()], reader...)...)
		for _, about := range append(everybody, "other") {
			var may []string
			for _, p := range e.Publishers {
				self := p == about
				if (p == "scheduler" || p == "persistence") && e.Short() != "AuditRecorded" || self {
					may = append(may, p)
				}
			}
			tokens := slices.Repeat([]string{"x"}, len(e.Tokens))
			tokens[0] = about
			publish(subject(string(e.Name), tokens...), may...)
		}
	}
	for _, stream := range append(kept(), "OTHER") {
		maker := []string{"persistence"}
		reader := slices.Clone(readers[stream])
		if stream == "NIGHTSHIFT_JOB" || stream == "KV_NIGHTSHIFT_JOBS" {
			reader = append(reader, "scheduler")
		}
		var letters []string
		if stream == deadLetterStream || stream == "NIGHTSHIFT_JOB" {
			letters = []string{"scheduler"}
		}
		lists := []string{"health"}
		if stream == "NIGHTSHIFT_JOB" {
			lists = append(lists, "scheduler")
		}
		direct := []string{}
		if stream == "KV_NIGHTSHIFT_JOBS" {
			direct = []string{"scheduler"}
		}
		if stream == "OTHER" {
			maker, lists = nil, nil
		}
		api := func(call string, may ...string) { publish("$JS.API."+call, may...) }
		api("STREAM.CREATE."+stream, maker...)
		api("STREAM.UPDATE."+stream, maker...)
		api("STREAM.DELETE." + stream)
		api("STREAM.PURGE." + stream)
		api("STREAM.SNAPSHOT." + stream)
		api("STREAM.RESTORE." + stream)
		api("STREAM.PEER.REMOVE." + stream)
		api("STREAM.LEADER.STEPDOWN." + stream)
		api("STREAM.MSG.GET."+stream, letters...)
		if stream == deadLetterStream {
			api("STREAM.MSG.DELETE."+stream, letters...)
		} else {
			api("STREAM.MSG.DELETE." + stream)
		}
		api("DIRECT.GET." + stream)
		api("DIRECT.GET."+stream+".$KV.X.y", direct...)
		api("CONSUMER.LIST."+stream, lists...)
		api("CONSUMER.NAMES." + stream)
		api("CONSUMER.CREATE." + stream)
		api("CONSUMER.CREATE." + stream + ".some_name")
		api("CONSUMER.CREATE." + stream + ".some_name.>")
		api("CONSUMER.CREATE." + stream + ".some_name.nightshift.>")
		api("CONSUMER.DURABLE.CREATE." + stream + ".some_name")
		api("CONSUMER.INFO."+stream+".some_name", reader...)
		api("CONSUMER.DELETE."+stream+".some_name", reader...)
		api("CONSUMER.MSG.NEXT."+stream+".some_name", reader...)
		publish("$JS.ACK."+stream+".some_name.1.1.1.1.0", readers[stream]...)
	}
	for _, c := range durables() {
		on := "." + c.stream + "." + c.name
		owner := []string{c.service}
		infos := slices.Concat(owner, []string{"persistence", "scheduler"}, readers[c.stream])
		publish("$JS.API.CONSUMER.INFO"+on, infos...)
		publish("$JS.API.CONSUMER.CREATE"+on, "persistence")
		publish("$JS.API.CONSUMER.CREATE" + on + ".nightshift.>")
		publish("$JS.API.CONSUMER.CREATE" + on + ".nightshift.finding.v1.FindingOpened.>")
		publish("$JS.API.CONSUMER.CREATE" + on + ".nightshift.job.v1.JobTriggered.>")
		publish("$JS.API.CONSUMER.DURABLE.CREATE" + on)
		publish("$JS.API.CONSUMER.DELETE" + on)
		publish("$JS.API.CONSUMER.PAUSE" + on)
		publish("$JS.API.CONSUMER.UNPIN" + on)
		publish("$JS.API.CONSUMER.MSG.NEXT"+on, owner...)
		publish("$JS.ACK"+on+".1.1.1.1.0", owner...)
		publish(subject(deadLetterSubject, c.name), owner...)
		publish(subjectOfReplay(c.stream, c.name), "scheduler")
		listen("$JS.ACK" + on + ".>")
		publish("$KV."+laterBucket+"."+c.name+".1", owner...)
		publish("$JS.API.DIRECT.GET.KV_"+laterBucket+".$KV."+laterBucket+"."+c.name+".1", owner...)
	}
	for _, user := range everybody {
		listen(inboxPrefix(user)+".>", user)
		publish(inboxPrefix(user) + ".x.y")
	}
	publish("$KV."+jobsBucket+".j", "scheduler")
	publish("$KV." + laterBucket + ".other.1")
	publish(replaySubject + ".NIGHTSHIFT_JOB.other")
	publish(subject(deadLetterSubject, "other"))
	publish("$JS.API.INFO", "health", "persistence")
	for _, s := range []string{"$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$SYS.REQ.SERVER.PING", "$JS.API.META.LEADER.STEPDOWN", "other.subject", "_INBOX.x.y"} {
		publish(s)
	}
	for _, s := range []string{">", "*.>", "nightshift.>", "$JS.>", "$JS.API.>", "$JS.EVENT.ADVISORY.>", "$KV.>", "$SYS.>", "_INBOX.>", "nightshift.replay.>", "nightshift.deadletter.>"} {
		listen(s)
	}
	return all
}

var violated = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

// Every user, and so whoever holds its credentials, may do what it is there
// for, and on every other subject it is refused.
func TestNobodyMayDoMore(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	tries := attempts()
	subjects := map[string]bool{}
	for _, a := range tries {
		if key := fmt.Sprint(a.subject, a.subscribe); subjects[key] {
			t.Errorf("%s is tried twice", key)
		} else {
			subjects[key] = true
		}
	}
	for _, user := range append(services(), UserSubscriber) {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			const last = "the.last.attempt"
			refused, done := map[string]bool{}, make(chan struct{})
			nc, err := nats.Connect(g.url(user), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
				m := violated.FindStringSubmatch(err.Error())
				if m == nil {
					t.Errorf("%v", err)
				} else if m[2] == last {
					close(done)
				} else {
					refused[fmt.Sprint(m[2], strings.EqualFold(m[1], "subscription"))] = true
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			for _, a := range slices.Concat(tries, []attempt{{subject: last}}) {
				if a.subscribe {
					_, err = nc.SubscribeSync(a.subject)
				} else {
					err = nc.Publish(a.subject, nil)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			wait(t, done, "the last word of the server")
			for _, a := range tries {
				if may, was := slices.Contains(a.may, user), refused[fmt.Sprint(a.subject, a.subscribe)]; may == was {
					t.Errorf("%s (subscribe: %v): may it? %v; was it refused? %v", a.subject, a.subscribe, may, was)
				}
			}
		})
	}
	for _, url := range []string{g.ClientURL(), strings.Replace(g.url("waste"), "user-waste", "user-security", 1), strings.Replace(g.url("waste"), "//waste:", "//nobody:", 1)} {
		if nc, err := nats.Connect(url); err == nil {
			nc.Close()
			t.Error("the server lets strangers in")
		}
	}
}

// A request that is refused is an error at once.
func TestRefusedRequestsFailAtOnce(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	g.as(t, keeper, Connect)
	b, err := Connect(t.Context(), Config{URL: g.url("waste"), Service: "waste", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	begin := time.Now()
	_, status := b.Status(t.Context())
	_, letters := b.DeadLetters().List(t.Context(), "", 0, 1)
	_, server := b.ServerTime(t.Context())
	_, last := Last[*runv1.RunFinished](t.Context(), b, "waste", "failed", "j")
	_, handled := Handled[*jobv1.JobTriggered](t.Context(), b)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	follow := Subscribe(ctx, b, func(context.Context, *Message[*findingv1.FindingOpened]) error { return nil })
	durable := Subscribe(ctx, b, func(context.Context, *Message[*findingv1.FindingOpened]) error { return nil }, Durable("mine"))
	_, open := OpenKV[*jobv1.Job](ctx, b, jobsBucket)
	for what, err := range map[string]error{
		"status": status, "dead letters": letters, "last": last, "handled": handled, "follow": follow, "durable": durable, "bucket": open,
		"publish": b.Publish(t.Context(), requested("r", "1")),
		"forget":  Forget[*findingv1.FindingOpened](t.Context(), b, "mine"),
	} {
		if !errors.Is(err, errs.PermissionDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if server != nil { // of a stream that it may look at
		t.Error(server)
	}
	// As somebody else it hears no answer, and says so.
	_, err = Connect(ctx, Config{URL: g.url("waste"), Service: "waste", Log: quiet(), Options: []nats.Option{nats.CustomInboxPrefix("_INBOX_security")}})
	if !errors.Is(err, errs.PermissionDenied) {
		t.Errorf("with another's inbox: %v", err)
	}
	if d := time.Since(begin); d > patience/2 {
		t.Errorf("it took %v to say so", d)
	}
}

// Rights are by subject, so a message that is about somebody else than its
// subject says is not handled; nor is an answer of the server, which whoever
// asks can have sent to any subject.
func TestNobodySpeaksForOthers(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	keeps := g.as(t, keeper, Connect)
	security := g.as(t, "security", Connect)
	handled := make(chan string, 10)
	On(keeps, func(_ context.Context, m *Message[*scanv1.ScopeFinished]) error {
		handled <- m.Body.GetRunId()
		return nil
	})
	On(security, func(_ context.Context, m *Message[*runv1.RunReleased]) error {
		handled <- m.Body.GetTrigger().GetRunId()
		return nil
	}, Filter("security"))
	run(t, keeps)
	run(t, security)
	stolen, err := nats.Connect(g.url("waste"))
	if err != nil {
		t.Fatal(err)
	}
	defer stolen.Close()
	lie, err := proto.Marshal(&scanv1.ScopeFinished{RunId: "lie", Scope: &scanv1.Scope{Service: "security"}})
	if err != nil {
		t.Fatal(err)
	}
	e := eventFor[*scanv1.ScopeFinished]()
	if err := stolen.PublishMsg(&nats.Msg{Subject: e.Filter("waste", "1", "r"), Data: lie, Header: nats.Header{headerType: {string(e.Name)}}}); err != nil {
		t.Fatal(err)
	}
	if err := stolen.PublishRequest("$JS.API.STREAM.INFO.NIGHTSHIFT_SCAN", eventFor[*runv1.RunReleased]().Filter("security", "j"), nil); err != nil {
		t.Fatal(err)
	}
	scheduler := g.as(t, "scheduler", Connect)
	letters := awaitDeadLetters(t, scheduler, 2)
	slices.SortFunc(letters, func(a, b *deadletterv1.DeadLetter) int { return strings.Compare(a.GetConsumer(), b.GetConsumer()) })
	if !strings.Contains(letters[0].GetReason(), `was published for "waste", and is about "security"`) {
		t.Error(letters[0])
	}
	if !strings.Contains(letters[1].GetReason(), "cannot be decoded") && !strings.Contains(letters[1].GetReason(), "does not say") {
		t.Error(letters[1])
	}
	if len(handled) > 0 {
		t.Errorf("handled was %s", <-handled)
	}
}

// What was kept before there were users is taken along, as docs/nats.md says.
func TestStreamsMoveIntoTheAccount(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	s := startServer(t, store)
	mustPublish(t, connect(t, s, "persistence"), requested("r", "1"))
	s.Shutdown()
	s.WaitForShutdown()
	if err := os.Rename(filepath.Join(store, "jetstream", "$G"), filepath.Join(store, "jetstream", "NIGHTSHIFT")); err != nil {
		t.Fatal(err)
	}
	g := startGuardedIn(t, store)
	g.as(t, keeper, Connect)
	b := g.as(t, "waste", Connect)
	got := make(chan string, 1)
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error {
		got <- m.Body.GetRunId()
		return nil
	}, Filter("waste"))
	run(t, b)
	if r := wait(t, got, "what was published before"); r != "r" {
		t.Error(r)
	}
}

// With TLS, the server knows us by a certificate, and we it.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca, caKey := certificate(t, "ca", nil, nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	pair := func(name string) tls.Certificate { c, _ := certificate(t, name, ca.Leaf, caKey); return c }
	s := startServer(t, t.TempDir(), listening(-1), func(o *server.Options) {
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair("nats")}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
	})
	others := x509.NewCertPool()
	for name, cfg := range map[string]*tls.Config{"none": nil, "no certificate": {RootCAs: roots}, "another authority": {RootCAs: others, Certificates: []tls.Certificate{pair("waste")}}} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if b, err := Connect(ctx, Config{URL: s.ClientURL(), Service: "waste", TLS: cfg, Log: quiet()}); err == nil {
			_ = b.Close(ctx)
			t.Errorf("%s: it connected", name)
		}
		cancel()
	}
	b, err := Connect(t.Context(), Config{URL: s.ClientURL(), Service: "waste", TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair("waste")}, MinVersion: tls.VersionTLS13}, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	mustPublish(t, b, requested("r", "1"))
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// certificate makes one for 127.0.0.1, signed by parent or by itself.
func certificate(t testing.TB, name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (tls.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA: parent == nil, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, key
}

func TestServerConfigHasNoSecrets(t *testing.T) {
	t.Parallel()
	passwords := map[string]string{}
	for _, u := range Users() {
		passwords[u.Name] = strings.Repeat("s3cret-", 4) + u.Name
	}
	cfg, err := ServerConfig(passwords)
	if err != nil || strings.Contains(cfg, "s3cret") {
		t.Errorf("%v", err)
	}
	passwords["waste"] = "short"
	if _, err := ServerConfig(passwords); !errors.Is(err, errs.InvalidArgument) || strings.Contains(err.Error(), "short") {
		t.Errorf("%v", err)
	}
}
