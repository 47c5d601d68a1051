package notification

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/notify"
	"nightshift.dev/services/persistence"
)

// epoch is when tests begin: a Monday, 09:00 UTC.
var epoch = time.Date(2026, 6, 1, 9, 0, 0, 0, time.UTC)

// world is persistence on a real database and a real JetStream, as production
// starts them, on a clock that the test moves, and one place to which the
// receivers of the test deliver.
type world struct {
	t       *testing.T
	nats    *devstack.NATSServer
	host    *app.Host
	config  notificationv1.NotificationConfigServiceClient
	passed  atomic.Int64
	bus     *bus.Bus // persistence's, for publishing
	own     *bus.Bus // of the newest replica
	service *Service
	place   *place
}

func (w *world) now() time.Time          { return epoch.Add(time.Duration(w.passed.Load())) }
func (w *world) advance(d time.Duration) { w.passed.Add(int64(d)) }

func lookup(dsn string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		switch name {
		case "DATABASE_URL":
			return dsn, true
		case "NIGHTSHIFT_SECRET_HOOK":
			return "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", true
		}
		return "", false
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, nats: devtest.NATS(t), place: newPlace(t)}
	dsn := devtest.DB(t, persistence.Migrate)
	ctx, stop := context.WithCancel(context.Background())
	host, err := app.Start(ctx, app.Options{
		Definitions: []app.Definition{persistence.Definition},
		Listen:      func(string) string { return "127.0.0.1:0" },
		Bus:         bus.Config{URL: w.nats.URL(), Options: w.nats.Options()},
		Log:         slog.New(slog.DiscardHandler), Lookup: lookup(dsn), Now: w.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.Go(func() error { return host.Run(ctx) })
	t.Cleanup(func() {
		stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	w.host, w.config = host, notificationv1.NewNotificationConfigServiceClient(host.Dial("persistence"))
	w.bus = w.connect("persistence")
	w.service = w.replica()
	return w
}

func (w *world) connect(service string) *bus.Bus {
	w.t.Helper()
	b, err := bus.Connect(w.t.Context(), bus.Config{URL: w.nats.URL(), Options: w.nats.Options(), Service: service, Log: slog.New(slog.NewTextHandler(w.t.Output(), nil))})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = b.Close(context.Background()) })
	return b
}

// replica is one of the notification service, whose loops the test turns by
// hand.
func (w *world) replica(set ...func(*Config)) *Service {
	w.t.Helper()
	c := Config{Config: notify.Config{AllowPrivate: true}}
	for _, f := range set {
		f(&c)
	}
	w.own = w.connect("notification")
	s, err := New(c, &app.Env{
		Name: "notification", Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)), Bus: w.own, Now: w.now, Lookup: lookup(""),
		Dial: func(service string) grpc.ClientConnInterface { return w.host.Dial(service) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// consume lets the newest replica take events.
func (w *world) consume() {
	var g errgroup.Group
	ctx, stop := context.WithCancel(context.Background())
	g.Go(func() error { return w.own.Run(ctx) })
	w.t.Cleanup(func() {
		stop()
		if err := g.Wait(); err != nil {
			w.t.Error(err)
		}
	})
	w.consumed() // what was published before there is a consumer may be told to nobody
}

// hook makes a receiver that delivers to the place.
func (w *world) hook(names ...string) {
	w.t.Helper()
	for _, name := range names {
		_, err := w.config.SetReceiver(w.t.Context(), &notificationv1.SetReceiverRequest{Receiver: &notificationv1.Receiver{
			Name: name, Medium: &notificationv1.Receiver_Webhook{Webhook: &notificationv1.Webhook{Url: w.place.url(name), SigningSecret: "env:NIGHTSHIFT_SECRET_HOOK"}},
		}})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) route(r *notificationv1.Route) {
	w.t.Helper()
	if _, err := w.config.SetRoute(w.t.Context(), &notificationv1.SetRouteRequest{Route: r}); err != nil {
		w.t.Fatal(err)
	}
	w.service.policies.known = nil
}

func (w *world) silence(filter string, until time.Time) string {
	w.t.Helper()
	resp, err := w.config.CreateSilence(w.t.Context(), &notificationv1.CreateSilenceRequest{Silence: &notificationv1.Silence{
		Filter: filter, Author: "ann", Comment: "known", ExpireTime: timestamppb.New(until),
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.service.policies.known = nil
	return resp.GetSilence().GetId()
}

// finding is one of many.
func finding1(i int, set ...func(*findingv1.Finding)) *findingv1.Finding {
	f := &findingv1.Finding{
		Id: fmt.Sprintf("%032x", i), RuleId: []string{"ebs-unattached", "ec2-stopped"}[i%2], Category: rulev1.Category_CATEGORY_WASTE, Title: "Unused",
		State: findingv1.State_STATE_OPEN, Severity: rulev1.Severity(i%4 + 1), Owner: "team-web", MonthlyCost: &rulev1.MonthlyCost{Low: 1, High: 2}, Etag: "1",
		Resource: &scanv1.Resource{
			Arn: fmt.Sprintf("arn:aws:ec2:eu-west-1:111122223333:volume/vol-%d", i), Id: fmt.Sprintf("vol-%d", i), Type: "AWS::EC2::Volume",
			Account: fmt.Sprintf("1111222233%02d", i%10), Region: "eu-west-1", Name: "disk", Tags: map[string]string{"Env": "dev"},
		},
	}
	for _, s := range set {
		s(f)
	}
	return f
}

// opened is an event as handlers make it.
func (w *world) opened(f *findingv1.Finding) *notificationv1.Notice {
	return w.event("FindingOpened", f)
}

func (w *world) event(event string, f *findingv1.Finding) *notificationv1.Notice {
	kind := transitions[event]
	return &notificationv1.Notice{
		EventId: event + "/" + f.GetId() + "/" + f.GetEtag() + "/" + w.now().Format(time.RFC3339), Event: event, Time: timestamppb.New(w.now()), Finding: f,
		Transition: &findingv1.Transition{FindingId: f.GetId(), Kind: kind, Time: timestamppb.New(w.now()), ToSeverity: f.GetSeverity()},
	}
}

func (w *world) add(notices ...*notificationv1.Notice) {
	w.t.Helper()
	if err := w.service.add(w.t.Context(), notices); err != nil {
		w.t.Fatal(err)
	}
}

// turn flushes and delivers everything that is due, all replicas at the same
// time.
func (w *world) turn(services ...*Service) {
	w.t.Helper()
	if len(services) == 0 {
		services = []*Service{w.service}
	}
	for _, step := range []func(*Service) error{
		func(s *Service) error { _, err := s.flush(w.t.Context()); return err },
		func(s *Service) error { _, err := s.deliver(w.t.Context()); return err },
	} {
		var g errgroup.Group
		for _, s := range services {
			g.Go(func() error { return step(s) })
		}
		if err := g.Wait(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// pass lets time pass in steps, with all that is due in each.
func (w *world) pass(d, step time.Duration) {
	w.t.Helper()
	for end := w.now().Add(d); w.now().Before(end); {
		w.advance(min(step, end.Sub(w.now())))
		w.turn()
	}
}

func (w *world) deliveries(filter string) []*notificationv1.Delivery {
	w.t.Helper()
	resp, err := w.config.ListDeliveries(w.t.Context(), &notificationv1.ListDeliveriesRequest{Filter: filter, PageSize: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.GetDeliveries()
}

// place is an HTTP server to which receivers deliver, each at a path of its
// own, and which misbehaves as it is told.
type place struct {
	server *httptest.Server
	mu     sync.Mutex
	taken  map[string][]letter // by receiver: what was answered with 2xx
	asked  map[string]int
	moods  map[string]http.HandlerFunc // true misbehaviour; nil: takes what comes
}

type letter struct {
	key     string
	message *notificationv1.Message
}

func newPlace(t *testing.T) *place {
	p := &place{taken: map[string][]letter{}, asked: map[string]int{}, moods: map[string]http.HandlerFunc{}}
	p.server = httptest.NewServer(p)
	t.Cleanup(func() { p.server.CloseClientConnections(); p.server.Close() })
	return p
}

func (p *place) url(receiver string) string { return p.server.URL + "/" + receiver }

// mood sets how the place treats a receiver.
func (p *place) mood(receiver string, h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moods[receiver] = h
}

func (p *place) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	receiver := strings.TrimPrefix(r.URL.Path, "/")
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	p.asked[receiver]++
	mood := p.moods[receiver]
	p.mu.Unlock()
	if mood != nil {
		mood(rw, r)
		return
	}
	var event struct{ Data json.RawMessage }
	m := &notificationv1.Message{}
	if err := json.Unmarshal(body, &event); err == nil {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(event.Data, m)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
	}
	p.mu.Lock()
	p.taken[receiver] = append(p.taken[receiver], letter{r.Header.Get("Webhook-Id"), m})
	p.mu.Unlock()
	rw.WriteHeader(http.StatusNoContent)
}

// got is what a receiver has taken.
func (p *place) got(receiver string) []letter {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.taken[receiver])
}

func (p *place) requests(receiver string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[receiver]
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// hang answers when whoever asks is gone.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// refuse breaks the connection off.
func refuse(w http.ResponseWriter, _ *http.Request) {
	if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}
