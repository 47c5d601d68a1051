package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/bus"
)

// Options say what a Host is to host.
type Options struct {
	// Definitions of the services, started in this order.
	Definitions []Definition
	// Listen returns the address a service listens on; a port of 0 picks a
	// free one. Nil means loopback, at the port of its definition.
	Listen func(service string) string
	// Security says how services know who calls.
	Security Security
	// Bus says where the bus is; Service and Log are filled in.
	Bus bus.Config
	// Lookup tells configuration variables, as os.LookupEnv does.
	Lookup func(name string) (string, bool)
	// Log takes all logs.
	Log *slog.Logger
	// StopTimeout is how long work in hand may take at a stop. Default 4 s.
	StopTimeout time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Host runs services in one process. Those it hosts reach each other in
// memory, others over the network.
type Host struct {
	opts     Options
	units    []*unit
	mu       sync.Mutex
	outbound map[route]*grpc.ClientConn
}

// route is a connection from somebody to a service.
type route struct{ caller, service string }

// unit is one service and what belongs to it.
type unit struct {
	def      Definition
	log      *slog.Logger
	listener net.Listener
	memory   memoryListener
	gate     *gate
	server   *grpc.Server
	health   *health.Server
	bus      *bus.Bus
	audit    *auditor
	service  Service
}

// receiveLimit bounds a message, in bytes.
const receiveLimit = 4 << 20

// Start builds every service. When it returns an error nothing is left
// behind. The services stand, but answer and work only in Run.
func Start(ctx context.Context, opts Options) (_ *Host, err error) {
	if opts.Listen == nil {
		opts.Listen = func(service string) string {
			i := slices.IndexFunc(opts.Definitions, func(d Definition) bool { return d.Name == service })
			return opts.Definitions[i].addr()
		}
	}
	if opts.StopTimeout <= 0 {
		opts.StopTimeout = 4 * time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	h := &Host{opts: opts, outbound: map[route]*grpc.ClientConn{}}
	defer func() {
		if err != nil {
			h.abandon()
		}
	}()
	for _, def := range opts.Definitions {
		u := &unit{def: def, log: opts.Log.With("service", def.Name), memory: memoryListener{bufconn.Listen(1 << 20)}}
		h.units = append(h.units, u)
		u.audit = newAuditor(def.Name, u.log, opts.Now)
		u.gate = &gate{security: opts.Security, audit: u.audit, now: opts.Now}
		u.server = newServer(u.log, u.gate)
		if u.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", opts.Listen(def.Name)); err != nil {
			return nil, fmt.Errorf("%s cannot listen: %w", def.Name, err)
		}
		if err = opts.Security.mayListen(def.Name, u.listener); err != nil {
			return nil, err
		}
	}
	verifier := h.verifier()
	for _, u := range h.units {
		cfg := opts.Bus
		cfg.Service, cfg.Log = u.def.Name, u.log
		if u.bus, err = bus.Connect(ctx, cfg); err != nil {
			return nil, fmt.Errorf("%s: %w", u.def.Name, err)
		}
		u.audit.bus = u.bus
		u.service, err = u.def.New(ctx, &Env{
			Name: u.def.Name, Log: u.log, Bus: u.bus, Lookup: opts.Lookup, Now: opts.Now,
			Dial: func(service string) grpc.ClientConnInterface { return h.dial(auth.Service(u.def.Name), service) },
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", u.def.Name, err)
		}
		u.service.Register(u.server)
		u.health = health.NewServer()
		healthv1.RegisterHealthServer(u.server, u.health)
		reflection.Register(u.server)
		u.gate.methods, u.gate.verifier = auth.MethodsOf(u.server.GetServiceInfo()), verifier
		u.setHealth(healthv1.HealthCheckResponse_NOT_SERVING)
	}
	return h, nil
}

// setHealth sets the state of the server and of each of its APIs.
func (u *unit) setHealth(s healthv1.HealthCheckResponse_ServingStatus) {
	u.health.SetServingStatus("", s)
	for name := range u.server.GetServiceInfo() {
		u.health.SetServingStatus(name, s)
	}
}

// Addr returns the address a hosted service listens on, or "".
func (h *Host) Addr(service string) string {
	for _, u := range h.units {
		if u.def.Name == service {
			return u.listener.Addr().String()
		}
	}
	return ""
}

// Dial returns the connection of the process itself to a service: in memory
// when it is hosted here, where it may do everything, over the network otherwise.
func (h *Host) Dial(service string) grpc.ClientConnInterface { return h.dial(owner(), service) }

// dial returns the connection of somebody to a service.
func (h *Host) dial(caller auth.Principal, service string) grpc.ClientConnInterface {
	h.mu.Lock()
	defer h.mu.Unlock()
	path := route{caller.Name, service}
	if c, ok := h.outbound[path]; ok {
		return c
	}
	target := DefaultAddr(service)
	if a, ok := h.opts.Lookup(AddrVar(service)); ok && a != "" {
		target = a
	}
	hosted := slices.ContainsFunc(h.units, func(u *unit) bool { return u.def.Name == service })
	if _, known := ports[service]; !known && !hosted && target == DefaultAddr(service) {
		return badTarget{fmt.Errorf("where %s is to be reached is not known: set %s", service, AddrVar(service))}
	}
	opts, transport := ClientOptions(), h.opts.Security.transport(service)
	for _, u := range h.units {
		if u.def.Name == service {
			target, transport = "passthrough:///memory", memoryCredentials{caller}
			opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return u.memory.DialContext(ctx)
			}))
		}
	}
	if s := h.opts.Security; !hosted && s.TLS == nil && s.TokenFile != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(fileToken{s.TokenFile, target}))
	}
	opts = append(opts, grpc.WithTransportCredentials(transport), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	c, err := grpc.NewClient(target, opts...)
	if err != nil {
		return badTarget{fmt.Errorf("%s %q is not an address: %w", AddrVar(service), target, err)}
	}
	h.outbound[path] = c
	return c
}

// badTarget is the connection to an address that cannot be one: every call
// fails and says so.
type badTarget struct{ err error }

func (b badTarget) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return b.err }

func (b badTarget) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, b.err
}

// Run serves and works until ctx ends or a service fails, then stops
// everything in order: health says NOT_SERVING, the bus hands out no more and
// waits for handlers, calls in hand finish, what is left after StopTimeout is
// cut off. It returns the error of the service that failed, or nil.
func (h *Host) Run(ctx context.Context) error {
	serve, serveCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	for _, u := range h.units {
		u.audit.start()
		serve.Go(func() error { return u.server.Serve(u.listener) })
		serve.Go(func() error { return u.server.Serve(u.memory) })
	}
	work, workCtx := errgroup.WithContext(ctx)
	for _, u := range h.units {
		work.Go(func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("panic: %v", p)
				}
				if err != nil {
					err = fmt.Errorf("%s: %w", u.def.Name, err)
				}
			}()
			return u.service.Run(workCtx)
		})
		work.Go(func() error {
			if err := u.bus.Run(workCtx); err != nil {
				return fmt.Errorf("%s: bus: %w", u.def.Name, err)
			}
			return nil
		})
		u.setHealth(healthv1.HealthCheckResponse_SERVING)
		u.log.Info("serving", "address", u.listener.Addr().String(), "version", Version)
	}
	select {
	case <-workCtx.Done():
	case <-serveCtx.Done():
	}

	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.opts.StopTimeout)
	defer cancel()
	for _, u := range h.units {
		u.health.Shutdown()
	}
	worked := make(chan error, 1)
	go func() { worked <- work.Wait() }()
	var err error
	select {
	case err = <-worked:
	case <-stop.Done():
		h.opts.Log.Warn("work in hand was cut off", "after", h.opts.StopTimeout)
	}
	// Last started, first stopped: persistence comes first in the list of
	// services and outlives those that write to it.
	var down sync.WaitGroup
	for i := len(h.units) - 1; i >= 0; i-- {
		down.Go(func() { h.units[i].stop(stop) })
	}
	down.Wait()
	h.closeOutbound()
	if e := serve.Wait(); err == nil && e != nil && !errors.Is(e, grpc.ErrServerStopped) {
		err = e
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	return err
}

func (u *unit) stop(ctx context.Context) {
	done := make(chan struct{})
	go func() { u.server.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		u.server.Stop()
		<-done
	}
	// How the last calls ended is still to be said.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	u.audit.close(last)
	if err := u.bus.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		u.log.Warn("the bus did not close cleanly", "error", err)
	}
	u.close()
}

// close lets go of what the service holds, such as a pool of connections, now
// that neither calls nor handlers need it.
func (u *unit) close() {
	if c, ok := u.service.(io.Closer); ok {
		if err := c.Close(); err != nil {
			u.log.Warn("the service did not close cleanly", "error", err)
		}
	}
}

// abandon undoes a Start that failed.
func (h *Host) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), h.opts.StopTimeout)
	defer cancel()
	for _, u := range h.units {
		if u.bus != nil {
			_ = u.bus.Close(ctx)
		}
		u.server.Stop()
		if u.listener != nil {
			_ = u.listener.Close()
		}
		_ = u.memory.Close()
		u.close()
	}
	h.closeOutbound()
}

func (h *Host) closeOutbound() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.outbound {
		_ = c.Close()
	}
}

func newServer(log *slog.Logger, g *gate) *grpc.Server {
	e := edge{log: log, gate: g}
	alive := keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}
	if g.security.TLS != nil {
		alive.MaxConnectionAge = ageLimit
	}
	return grpc.NewServer(
		grpc.Creds(newDoor(g.security)),
		grpc.InTapHandle(g.tapped),
		grpc.UnknownServiceHandler(unknown),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(receiveLimit),
		grpc.KeepaliveParams(alive),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 15 * time.Second, PermitWithoutStream: true}),
		grpc.StatsHandler(serverTelemetry()),
		grpc.ChainUnaryInterceptor(e.unary),
		grpc.ChainStreamInterceptor(e.stream),
	)
}
