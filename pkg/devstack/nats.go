package devstack

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// NATSOptions says where the server keeps its streams and who can reach it. The zero value is a temporary server that
// only this process can reach.
type NATSOptions struct {
	// Dir is where JetStream keeps its streams. Every write is on the disk before it is acknowledged. It is created
	// when missing and belongs to one process at a time. Empty: a temporary directory, removed by Stop, and no syncing.
	Dir string
	// Listen is a loopback address such as 127.0.0.1:4222; port 0 takes a free one. Empty: no port at all, the only
	// way in is Options. The server asks nobody for a password, so an address that others can reach is refused.
	Listen string
	// Include is a part of a server's configuration with the users that it lets in, such as bus.ServerConfig makes.
	// Empty: everybody.
	Include string
	// Logger gets the server's warnings and errors. Nil: slog.Default.
	Logger *slog.Logger
}

// readyTimeout is for what Start leaves to the background, which takes milliseconds.
const readyTimeout = 10 * time.Second

// NATSServer is a NATS server with JetStream in this process.
type NATSServer struct {
	server *server.Server
	listen bool
	unlock func()
	stop   sync.Once
}

// NATS starts a server and returns once it accepts connections, which takes milliseconds. It fails when the
// directory is in use by another process or the address is taken.
func NATS(o NATSOptions) (_ *NATSServer, err error) {
	opts := &server.Options{
		ServerName: "nightshift",
		JetStream:  true,
		DontListen: o.Listen == "",
		NoSigs:     true, // the process handles its own signals
	}
	if o.Include != "" {
		dir, err := os.MkdirTemp("", "nightshift-nats-")
		if err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "include.conf")
		if err := os.WriteFile(path, []byte(o.Include), 0o600); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
		if err := opts.ProcessConfigFile(path); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
	}
	if o.Listen != "" {
		if opts.Host, opts.Port, err = loopback(o.Listen); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
	}
	s := &NATSServer{listen: o.Listen != ""}
	if o.Dir == "" {
		if opts.StoreDir, err = os.MkdirTemp("", "nightshift-nats-"); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
		s.unlock = func() { os.RemoveAll(opts.StoreDir) }
	} else {
		if opts.StoreDir, err = filepath.Abs(o.Dir); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
		if err := os.MkdirAll(opts.StoreDir, 0o700); err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
		f, err := lock(opts.StoreDir)
		if err != nil {
			return nil, fmt.Errorf("nats: %w", err)
		}
		s.unlock = func() { f.Close() }
		opts.SyncAlways = true
	}

	if s.server, err = server.NewServer(opts); err != nil {
		s.unlock()
		return nil, fmt.Errorf("nats: %w", err)
	}
	log := &natsLog{to: cmp.Or(o.Logger, slog.Default())}
	s.server.SetLoggerV2(log, false, false, false)
	s.server.Start() // reads the streams, listens, and only then returns
	if fatal := log.fatal.Load(); fatal != nil {
		s.Stop()
		return nil, fmt.Errorf("nats: %s", *fatal)
	}
	if !s.server.ReadyForConnections(readyTimeout) {
		s.Stop()
		return nil, fmt.Errorf("nats: not ready after %v", readyTimeout)
	}
	return s, nil
}

// URL is where the server listens, such as nats://127.0.0.1:4222; empty when it does not.
func (s *NATSServer) URL() string {
	if !s.listen {
		return ""
	}
	return s.server.ClientURL()
}

// Options connect to the server through memory, with whatever URL: nats.Connect("", s.Options()...).
func (s *NATSServer) Options() []nats.Option {
	return []nats.Option{nats.InProcessServer(s.server)}
}

// Stop closes the streams and every connection, and returns when the server is gone. Calling it again does nothing.
func (s *NATSServer) Stop() {
	s.stop.Do(func() {
		s.server.Shutdown()
		s.server.WaitForShutdown()
		s.unlock()
	})
}

// loopback splits an address and makes sure that only this machine can reach it.
func loopback(address string) (host string, port int, err error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("listen address %q: want host:port such as 127.0.0.1:4222", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, fmt.Errorf("listen address %q: the built-in server has no passwords, so it only listens on loopback such as 127.0.0.1", address)
	}
	if port, err = strconv.Atoi(service); err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("listen address %q: the port must be 0 to 65535", address)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// natsLog passes on what a person should see and keeps what made the server give up.
type natsLog struct {
	to    *slog.Logger
	fatal atomic.Pointer[string]
}

func (l *natsLog) Noticef(string, ...any) {}
func (l *natsLog) Debugf(string, ...any)  {}
func (l *natsLog) Tracef(string, ...any)  {}

func (l *natsLog) Warnf(format string, args ...any) {
	l.to.Warn("nats server", "says", fmt.Sprintf(format, args...))
}

func (l *natsLog) Errorf(format string, args ...any) {
	l.to.Error("nats server", "says", fmt.Sprintf(format, args...))
}

func (l *natsLog) Fatalf(format string, args ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	l.to.Error("nats server", "says", text)
	l.fatal.Store(&text)
}
