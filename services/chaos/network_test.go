package chaos

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// ports hands out loopback ports below the range that outgoing connections take theirs from, each once: nobody else
// gets the port of a process that is down for a moment.
var ports atomic.Int32

func freePort(t *testing.T) int {
	t.Helper()
	ports.CompareAndSwap(0, int32(15000+*seed*7919%13000))
	for range 2000 {
		port := int(ports.Add(1))
		l, err := net.Listen("tcp", local(port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func local(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// relay is what stands before the replicas of a service, as in an orchestrator: it gives each new connection to one that
// serves. Connections that are there already stay, also those to a process that hangs.
type relay struct {
	listener net.Listener
	targets  func() []endpoint // the first to try first
	mu       sync.Mutex
	open     map[net.Conn]struct{}
}

type endpoint struct{ network, addr string }

func newRelay(t *testing.T, targets func() []endpoint) *relay {
	t.Helper()
	l, err := net.Listen("tcp", local(freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{listener: l, targets: targets, open: map[net.Conn]struct{}{}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	t.Cleanup(r.close)
	return r
}

func (r *relay) addr() string { return r.listener.Addr().String() }

func (r *relay) serve(c net.Conn) {
	defer c.Close()
	for _, target := range r.targets() {
		up, err := net.Dial(target.network, target.addr)
		if err != nil {
			continue
		}
		if !r.keep(c, up) {
			up.Close()
			return
		}
		done := make(chan struct{})
		go func() {
			_, _ = io.Copy(up, c)
			closeWrite(up)
			close(done)
		}()
		_, _ = io.Copy(c, up)
		// Nothing comes any more: what goes there would be lost.
		c.Close()
		up.Close()
		<-done
		r.drop(c, up)
		return
	}
}

func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
}

func (r *relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		return false
	}
	for _, c := range conns {
		r.open[c] = struct{}{}
	}
	return true
}

func (r *relay) drop(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		delete(r.open, c)
	}
}

func (r *relay) close() {
	if err := r.listener.Close(); errors.Is(err, net.ErrClosed) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
	r.open = nil
}
