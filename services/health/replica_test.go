package health

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	grpchealthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	"nightshift.dev/pkg/app"
)

// Of a name that stands for several replicas, one that is away, or that says it
// does not serve, makes the service DEGRADED, and all of them make it DOWN.
func TestReplicas(t *testing.T) {
	t.Parallel()
	const (
		well = iota
		away
		notServing
	)
	for name, c := range map[string]struct {
		replicas []int
		want     healthv1.ComponentState
		why      []string
	}{
		"one":              {[]int{well}, up, []string{"serving"}},
		"three":            {[]int{well, well, well}, up, []string{"3 replicas are serving"}},
		"one is away":      {[]int{well, away, well}, degraded, []string{"127.0.0.2:", "does not answer", "refused"}},
		"one is draining":  {[]int{well, well, notServing}, degraded, []string{"127.0.0.3:", "NOT_SERVING"}},
		"two are not well": {[]int{away, well, notServing}, degraded, []string{"127.0.0.1:", "refused", "127.0.0.3:", "NOT_SERVING"}},
		"none is there":    {[]int{away, away}, down, []string{"refused"}},
		"none serves":      {[]int{notServing, notServing}, down, []string{"NOT_SERVING"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := "0"
			var ips []string
			var addresses []resolver.Address
			for i, how := range c.replicas {
				ip := "127.0.0." + string(rune('1'+i))
				ips = append(ips, ip)
				l, err := net.Listen("tcp", ip+":"+port)
				if err != nil {
					t.Skipf("this machine has no %s:%s: %v", ip, port, err)
				}
				_, port, _ = net.SplitHostPort(l.Addr().String())
				addresses = append(addresses, resolver.Address{Addr: l.Addr().String()})
				if how == away {
					_ = l.Close()
					continue
				}
				h := health.NewServer()
				if how == notServing {
					h.SetServingStatus("", grpchealthv1.HealthCheckResponse_NOT_SERVING)
				}
				srv := grpc.NewServer()
				grpchealthv1.RegisterHealthServer(srv, h)
				go func() { _ = srv.Serve(l) }()
				t.Cleanup(srv.Stop)
			}
			names := manual.NewBuilderWithScheme("replicas")
			names.InitialState(resolver.State{Addresses: addresses})
			conn, err := grpc.NewClient("replicas:///waste", append(app.ClientOptions(), grpc.WithResolvers(names), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			s := &Service{
				dial:    func(string) grpc.ClientConnInterface { return conn },
				lookup:  func(string) (string, bool) { return "waste:" + port, true },
				resolve: func(context.Context, string) ([]string, error) { return append([]string{"::1"}, ips...), nil },
			}
			// Connections are made one by one; a look right after the start may not have all of them yet.
			var g *glance
			for deadline := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
				g = s.lookAtService(t.Context(), "waste")
				missing := ""
				for _, w := range c.why {
					if !strings.Contains(g.reason, w) {
						missing = w
					}
				}
				if g.state == c.want && missing == "" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s because %s; want %s, and %v", word(g.state), g.reason, word(c.want), c.why)
				}
			}
			if n := g.attributes["replicas"]; (len(c.replicas) > 1) != (n == string(rune('0'+len(c.replicas)))) {
				t.Errorf("%q replicas", n)
			}
		})
	}
}
