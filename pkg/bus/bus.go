// Package bus is typed events on NATS JetStream. A message is published and
// handled as its protobuf type; subject, stream, message id, consumer, retries,
// dead letters, CloudEvents attributes, traces and metrics follow from the
// catalog and nobody else thinks of them.
//
// It exists so that the traps of at-least-once delivery are met once. It is the
// only package beside devstack that imports nats, and it knows no service: it
// must import nothing of ours but gen and errs.
//
// What it promises: a published message reaches every consumer at least once,
// in any order. So a handler acts by what a message is about, and acting twice
// on one message must be acting once.
package bus

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nightshift.dev/pkg/errs"
)

// Config says how to reach the bus, and as whom.
type Config struct {
	// URL lists NATS servers, separated by commas, such as nats://127.0.0.1:4222.
	URL string
	// Service is the name of the connecting service; its consumers and its
	// messages carry it.
	Service string
	// TLS has the connection encrypted, with these authorities and this
	// certificate. Nil: as the URL says.
	TLS *tls.Config
	// Options are further NATS options, such as those of an in-process server.
	Options []nats.Option
	// Replicas is how many servers keep each stream. 0 keeps what is, and
	// makes new streams with 1.
	Replicas int
	// Grace is how long handlers may go on after Run was asked to stop, before
	// their contexts end. Default 2 s.
	Grace time.Duration
	// Log takes what goes wrong out of sight of callers. Default slog.Default.
	Log *slog.Logger
}

// ErrConflict says that something else was written first: read it and decide
// again.
var ErrConflict = errors.New("something else was written first")

// errNotYet says that something is missing that somebody else makes.
var errNotYet = errors.New("it is not there yet")

// Bus is a service's connection to the bus.
type Bus struct {
	cfg   Config
	log   *slog.Logger
	nc    *nats.Conn
	js    jetstream.JetStream
	later jetstream.KeyValue
	meter meter

	refusals refusals

	// The times of delivery, variables for the tests of this package only.
	ackWait, heartbeat time.Duration
	backoff            func(attempt int) time.Duration

	mu        sync.Mutex
	consumers []*consumer
	running   chan struct{} // closed when Run has returned; nil before Run
	stop      context.CancelFunc
	cut       context.CancelFunc
}

// Connect connects and brings the streams up to date. Where the server has
// users with rights, one service does that, and the others wait until what they
// need is there. It waits for a server
// that is not there yet, for as long as ctx lasts. It fails at once when the
// server refuses the login, or when a stream that exists cannot be used.
func Connect(ctx context.Context, cfg Config) (*Bus, error) {
	b, err := Dial(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := b.patiently(ctx, "reconciling streams", b.reconcile); err != nil {
		b.nc.Close()
		return nil, err
	}
	return b, nil
}

// Dial connects and leaves the bus as it is: for those who Subscribe, and are
// no service of ours. It waits for a server that is not there yet, for as long
// as ctx lasts.
func Dial(ctx context.Context, cfg Config) (*Bus, error) {
	b, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if b.meter, err = newMeter(); err != nil {
		return nil, fmt.Errorf("bus: metrics: %w", err)
	}
	if err := b.patiently(ctx, "connecting to NATS", b.dial); err != nil {
		return nil, err
	}
	return b, nil
}

// prepare makes a bus that is not connected yet.
func prepare(cfg Config) (*Bus, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Grace <= 0 {
		cfg.Grace = 2 * time.Second
	}
	if cfg.Service == "" || token(cfg.Service) != cfg.Service {
		return nil, errs.New(errs.InvalidArgument, "BAD_SERVICE", "bus: service name %q: want letters, digits and hyphens", cfg.Service)
	}
	if cfg.Replicas < 0 || cfg.Replicas > 5 {
		return nil, errs.New(errs.InvalidArgument, "BAD_REPLICAS", "bus: %d replicas: want 0 to 5", cfg.Replicas)
	}
	for i, u := range strings.Split(cfg.URL, ",") {
		if _, err := url.Parse(strings.TrimSpace(u)); err != nil { // err would show a password
			return nil, errs.New(errs.InvalidArgument, "BAD_NATS_URL", "bus: NATS address %d of the list cannot be read: want nats://host:port", i+1)
		}
	}
	return &Bus{
		cfg: cfg, log: cfg.Log, refusals: refusals{waiting: map[string]map[*refusal]struct{}{}},
		ackWait: 30 * time.Second, heartbeat: 10 * time.Second, backoff: backoff,
	}, nil
}

// urlUser is the user that the URL names, or "".
func (b *Bus) urlUser() string {
	first, _, _ := strings.Cut(b.cfg.URL, ",")
	u, err := url.Parse(strings.TrimSpace(first))
	if err != nil {
		return ""
	}
	return u.User.Username()
}

// ownUser says whether the service is the server's user of its name.
func (b *Bus) ownUser() bool { return b.urlUser() == b.cfg.Service }

func (b *Bus) dial(context.Context) error {
	opts := []nats.Option{
		nats.Name(b.cfg.Service),
		nats.CustomInboxPrefix(inboxPrefix(cmp.Or(b.urlUser(), b.cfg.Service))),
		nats.Timeout(5 * time.Second),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // a server that is being reconfigured refuses for a while
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			return jitter(min(100*time.Millisecond<<min(attempts, 6), 5*time.Second))
		}),
		// A buffered publish would go out long after its caller was told that it failed.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(20 * time.Second),
		nats.ErrorHandler(b.onError),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				b.log.Warn("connection to NATS lost", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.log.Info("connection to NATS restored", "server", nc.ConnectedUrlRedacted())
		}),
	}
	if b.cfg.TLS != nil {
		opts = append(opts, nats.Secure(b.cfg.TLS.Clone()))
	}
	nc, err := nats.Connect(b.cfg.URL, append(opts, b.cfg.Options...)...)
	if err != nil {
		return fmt.Errorf("connecting to NATS: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return fmt.Errorf("JetStream: %w", err)
	}
	b.nc, b.js = nc, js
	return nil
}

// patiently tries until it works, ctx ends, or waiting cannot help.
func (b *Bus) patiently(ctx context.Context, what string, do func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := b.ask(try, "$JS.API.", do)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		}
		if !passing(err) {
			return err
		}
		if attempt%10 == 0 {
			b.log.Warn("waiting for NATS", "doing", what, "error", err)
		}
		if !sleep(ctx, jitter(min(100*time.Millisecond<<min(attempt, 6), 3*time.Second))) {
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		}
	}
}

// passing reports whether an error of NATS may go away by itself.
func passing(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		// 10039 and 10076: JetStream is not enabled, and will not be.
		// 10005: a cluster that has not formed yet has no peers for a replicated stream.
		return api.ErrorCode == 10005 || api.Code == 503 && api.ErrorCode != jetstream.JSErrCodeJetStreamNotEnabled && api.ErrorCode != jetstream.JSErrCodeJetStreamNotEnabledForAccount ||
			api.Code == 500
	}
	for _, e := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoServers, nats.ErrNoResponders, jetstream.ErrNoStreamResponse,
		errNotYet, nats.ErrReconnectBufExceeded, nats.ErrDisconnected, nats.ErrConnectionReconnecting, nats.ErrStaleConnection,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var network interface{ Timeout() bool }
	return errors.As(err, &network) // refused, reset, unknown host
}

func (b *Bus) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if b.refusals.tell(err) {
		return // somebody waits for it, and says so
	}
	if sub != nil {
		b.log.Error("NATS reported an error", "error", err, "subscription", sub.Subject)
		return
	}
	b.log.Error("NATS reported an error", "error", err)
}

// ServerTime is the server's clock, the one clock that all replicas of a
// service share. The answer is as old as half of the time the call took.
func (b *Bus) ServerTime(ctx context.Context) (time.Time, error) {
	var s jetstream.Stream
	err := b.ask(ctx, "$JS.API.STREAM.", func(ctx context.Context) (err error) {
		s, err = b.js.Stream(ctx, streams[0].Name)
		return err
	})
	if err != nil {
		return time.Time{}, unavailable("reading the server's clock", err)
	}
	return s.CachedInfo().TimeStamp, nil
}

// Close ends consuming, waits for handlers until ctx ends and then cuts them
// off, and closes the connection. What was cut off is handed to another
// replica. It returns ctx's error when handlers had to be cut off.
func (b *Bus) Close(ctx context.Context) error {
	b.mu.Lock()
	running, stop, cut := b.running, b.stop, b.cut
	b.mu.Unlock()
	var err error
	if running != nil {
		stop()
		select {
		case <-running:
		case <-ctx.Done():
			err = ctx.Err()
			cut()
			select {
			case <-running:
			case <-time.After(time.Second):
			}
		}
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if b.nc.IsConnected() {
		if e := b.nc.FlushWithContext(flush); e != nil && err == nil {
			err = fmt.Errorf("flushing: %w", e)
		}
	}
	b.nc.Close()
	return err
}

// unavailable wraps an error of NATS.
func unavailable(doing string, err error) error {
	if errors.Is(err, errs.PermissionDenied) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if passing(err) || errors.Is(err, nats.ErrConnectionClosed) {
		return errs.New(errs.Unavailable, "BUS_UNAVAILABLE", "%s: the message bus does not answer", doing).Wrap(err)
	}
	return errs.New(errs.Internal, "BUS", "%s failed", doing).Wrap(err)
}

// backoff is how long a message waits after its attempt number failed: 1 s,
// 4 s, 16 s, 64 s, then 5 min.
func backoff(attempt int) time.Duration {
	return min(time.Second<<(2*min(max(attempt, 1)-1, 5)), 5*time.Minute)
}

// jitter spreads d by a fifth in both directions, so that what failed together
// does not come back together.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
