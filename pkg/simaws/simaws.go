// Package simaws is an AWS of one's own: a loopback HTTP endpoint that speaks the wire protocols of EC2, CloudWatch, STS, Organizations and the price list to unmodified AWS
// SDKs and tools, over an estate that is generated from a seed or loaded from a file. It pages as AWS does, enforces AWS's token buckets, injects faults on
// request, and keeps the ground truth of the product's rules beside the estate.
//
// It exists for demos, tests and load: whoever scans it must find what [Estate.Truth] says. For that to mean anything it shares no code with what it checks:
// it must not import any other package of this project, nor the SDK's service packages outside its tests.
//
// What it does not do: verify signatures (the access key names the account, the credential scope the region), evaluate conditions and resources of IAM
// policies (see [Policy]), or change anything through the AWS APIs (see [Mutation]).
package simaws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config of a [Server]; the zero value is AWS as it is.
type Config struct {
	// NoQuotas turns the token buckets off.
	NoQuotas bool
	// Faults to start with, besides the estate's own.
	Faults []Fault
	// Policy limits every session of an assumed role, besides the role's own policy; nil limits nothing.
	Policy *Policy
	// Clock tells the time; nil means time.Now. It decides on expiry, token buckets and where metrics end.
	Clock func() time.Time
	// Log receives one record per refused call at debug level; nil discards.
	Log *slog.Logger
}

// Server answers for one estate: all its accounts, all regions, all services, on one address. It is an http.Handler.
type Server struct {
	estate *Estate
	config Config
	clock  func() time.Time
	log    *slog.Logger
	addr   atomic.Value // string: where ListenAndServe listens

	buckets buckets
	faults  faults
	stats   stats
	served  atomic.Uint64
	buffers sync.Pool
}

// New returns a server for the estate, which must come from [Generate] or [Load], or have passed [Estate.Validate].
func New(e *Estate, c Config) *Server {
	s := &Server{estate: e, config: c, clock: c.Clock, log: c.Log}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.buffers.New = func() any { return new(xmlWriter) }
	s.faults.set(append(append([]Fault{}, e.Faults...), c.Faults...), s.clock())
	return s
}

// Estate is what the server answers from.
func (s *Server) Estate() *Estate { return s.estate }

// Listen binds addr ("127.0.0.1:0" picks a free port) and serves until ctx ends. It returns once the port is bound; done yields the final error, nil after
// a stop by ctx.
func (s *Server) Listen(ctx context.Context, addr string) (done <-chan error, err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("simaws: %w", err)
	}
	s.addr.Store(l.Addr().String())
	h := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { _ = h.Close() })
	go func() {
		defer stop()
		err := h.Serve(l)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		ended <- err
	}()
	return ended, nil
}

// ListenAndServe serves on addr until ctx ends; then it returns nil.
func (s *Server) ListenAndServe(ctx context.Context, addr string) error {
	done, err := s.Listen(ctx, addr)
	if err != nil {
		return err
	}
	return <-done
}

// URL is the endpoint once [Server.Listen] has returned; before, it is empty.
func (s *Server) URL() string {
	if a, ok := s.addr.Load().(string); ok {
		return "http://" + a
	}
	return ""
}

// Env are the variables that point any AWS tool at the endpoint, as "NAME=value", once it listens: the management account's credentials, which are fake, and its first region.
func (s *Server) Env() []string {
	a := s.estate.Accounts[0]
	region := "us-east-1"
	if len(a.Regions) > 0 {
		region = a.Regions[0].Name
	}
	return []string{
		"AWS_ENDPOINT_URL=" + s.URL(),
		"AWS_ACCESS_KEY_ID=" + a.AccessKey,
		"AWS_SECRET_ACCESS_KEY=" + FakeSecret,
		"AWS_REGION=" + region,
		"AWS_DEFAULT_REGION=" + region, // what boto and the older CLI read
	}
}

// FakeSecret is the secret of every static access key. Signatures are not verified; any other secret works as well.
const FakeSecret = "simaws-fake-secret-that-opens-nothing"

// maxBody bounds a request; GetMetricData with 500 queries takes about 200 kB.
const maxBody = 8 << 20

// call is one request on its way through.
type call struct {
	s         *Server
	r         *http.Request
	body      []byte
	form      form
	protocol  protocol
	service   string // ec2, cloudwatch, sts, organizations, pricing
	action    string
	requestID string
	now       time.Time

	identity
	region *Region // of account; nil where the service has no regions
	cut    bool    // truncate the answer
}

// answer is what goes out. The body belongs to the caller until it is written.
type answer struct {
	status  int
	kind    string // content type
	headers map[string]string
	body    []byte
}

// apiError is an AWS error: what the protocols put on the wire.
type apiError struct {
	Status  int
	Code    string
	Message string
}

func (e *apiError) Error() string { return e.Code + ": " + e.Message }

func fail(status int, code, format string, args ...any) *apiError {
	return &apiError{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, adminPath) {
		s.serveAdmin(w, r)
		return
	}
	c := &call{s: s, r: r, requestID: s.nextRequestID(), now: s.clock().UTC()}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, tooBig := errors.AsType[*http.MaxBytesError](err); tooBig {
			http.Error(w, "request too large", http.StatusRequestEntityTooLarge)
		}
		return
	}
	c.body = body

	var out *answer
	x := s.buffers.Get().(*xmlWriter)
	x.reset()
	defer s.buffers.Put(x)
	drop, err := c.run(x, &out)
	if drop {
		reset(w)
		return
	}
	if err != nil {
		e, ok := errors.AsType[*apiError](err)
		if !ok {
			e = fail(http.StatusInternalServerError, "InternalError", "An internal error has occurred")
			s.log.ErrorContext(r.Context(), "simaws failed", "action", c.action, "error", err)
		}
		s.log.DebugContext(r.Context(), "simaws refused", "service", c.service, "action", c.action, "account", c.accountID(), "code", e.Code, "message", e.Message)
		s.stats.failed(c, e)
		out = c.protocol.fail(c, e)
	}
	h := w.Header()
	h.Set("Content-Type", out.kind)
	h.Set("X-Amzn-Requestid", c.requestID)
	for k, v := range out.headers {
		h.Set(k, v)
	}
	h.Set("Content-Length", strconv.Itoa(len(out.body)))
	w.WriteHeader(out.status)
	if c.cut && len(out.body) > 0 {
		_, _ = w.Write(out.body[:len(out.body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // net/http's way to end a response early
	}
	_, _ = w.Write(out.body)
}

// run takes the call through everything a real endpoint does: who asks, for what, may they, not too often. drop tells to cut the connection.
func (c *call) run(x *xmlWriter, out **answer) (drop bool, err error) {
	handle, err := c.route()
	if err != nil {
		return false, err
	}
	authErr := c.authenticate()
	c.s.stats.called(c)
	effect := c.s.faults.apply(c)
	if effect.delay > 0 {
		t := time.NewTimer(effect.delay)
		select {
		case <-t.C:
		case <-c.r.Context().Done():
			t.Stop()
			return true, nil
		}
	}
	switch {
	case effect.drop:
		return true, nil
	case authErr != nil:
		return false, authErr
	case effect.err != nil:
		return false, effect.err
	}
	c.cut = effect.cut
	if c.account.denies(c.service, c.action) {
		return false, c.denied()
	}
	if err := c.authorize(c.service + ":" + c.action); err != nil {
		return false, err
	}
	if !c.s.config.NoQuotas && !c.s.buckets.take(c) {
		return false, c.throttled()
	}
	c.s.estate.mu.RLock()
	defer c.s.estate.mu.RUnlock()
	*out, err = handle(c, x)
	return false, err
}

func (c *call) accountID() string {
	if c.account == nil {
		return ""
	}
	return c.account.ID
}

func (c *call) regionName() string { return c.scopeRegion }

func (s *Server) nextRequestID() string {
	n := s.served.Add(1)
	h := mix(s.estate.Seed, n)
	return fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", uint32(h>>32), uint16(h>>16), h&0xfff, (h>>12)&0xfff, n&0xffffffffffff)
}

// reset ends the connection as a network does that lost the other side.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = conn.Close()
}

// mix is splitmix64 over two words: the one source of everything that is derived and not stored.
func mix(a, b uint64) uint64 {
	z := a + 0x9e3779b97f4a7c15*(b+1)
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

// hashString is FNV-1a, mixed.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h, 0)
}
