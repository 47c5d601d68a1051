package devstack

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func startNATS(t *testing.T, o NATSOptions) (*NATSServer, jetstream.JetStream) {
	t.Helper()
	s, err := NATS(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	nc, err := nats.Connect(s.URL(), s.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return s, js
}

func TestNATSKeepsItsStreams(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, js := startNATS(t, NATSOptions{Dir: dir})
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "s", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Stop()

	_, js = startNATS(t, NATSOptions{Dir: dir})
	stream, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := stream.GetMsg(t.Context(), 1)
	if err != nil || string(msg.Data) != "kept" {
		t.Errorf("message 1 = %v, %v, want kept", msg, err)
	}
}

func TestNATSListens(t *testing.T) {
	t.Parallel()
	s, _ := startNATS(t, NATSOptions{Listen: "127.0.0.1:0"})
	nc, err := nats.Connect(s.URL()) // without the way through memory
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if nc.ConnectedUrl() != s.URL() {
		t.Errorf("connected to %s, want %s", nc.ConnectedUrl(), s.URL())
	}
}

func TestNATSHasNoPortUnlessAsked(t *testing.T) {
	t.Parallel()
	s, _ := startNATS(t, NATSOptions{})
	if s.URL() != "" || s.server.Addr() != nil {
		t.Errorf("listens on %v, %s", s.server.Addr(), s.URL())
	}
	dir := s.server.StoreDir()
	s.Stop()
	if !gone(dir) {
		t.Error("the temporary directory is still there")
	}
}

func TestNATSRefuses(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	used := t.TempDir()
	startNATS(t, NATSOptions{Dir: used})
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		options NATSOptions
		want    string
	}{
		"a directory in use":        {NATSOptions{Dir: used}, "is in use by process"},
		"a file":                    {NATSOptions{Dir: file}, "not a directory"},
		"a port that is taken":      {NATSOptions{Listen: taken.Addr().String()}, "address already in use"},
		"an address others reach":   {NATSOptions{Listen: "0.0.0.0:4222"}, "only listens on loopback"},
		"every address":             {NATSOptions{Listen: ":4222"}, "only listens on loopback"},
		"a name that may be others": {NATSOptions{Listen: "nats.example.com:4222"}, "only listens on loopback"},
		"no port":                   {NATSOptions{Listen: "127.0.0.1"}, "want host:port"},
		"a port that is none":       {NATSOptions{Listen: "127.0.0.1:nats"}, "0 to 65535"},
		"a port out of range":       {NATSOptions{Listen: "127.0.0.1:65536"}, "0 to 65535"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := NATS(test.options)
			if err == nil {
				s.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want one that says %q", err, test.want)
			}
		})
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{"127.0.0.1:1": "127.0.0.1", "[::1]:1": "::1", "localhost:1": "localhost", "127.9.9.9:1": "127.9.9.9"} {
		if host, port, err := loopback(address); host != want || port != 1 || err != nil {
			t.Errorf("loopback(%q) = %q, %d, %v, want %q, 1", address, host, port, err, want)
		}
	}
}
