package health

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	grpchealthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	"nightshift.dev/pkg/app"
)

// lookAtService asks a service how it is, each of its replicas where its name
// stands for several.
//
// Calls go round the replicas that a connection could be made to, so there is
// one for each; the others are those that cannot be connected to.
func (s *Service) lookAtService(ctx context.Context, name string) *glance {
	ctx, cancel := context.WithTimeout(ctx, glanceTimeout)
	defer cancel()
	g := &glance{name: "service/" + name, kind: healthv1.ComponentKind_COMPONENT_KIND_SERVICE, state: up, reason: "serving", attributes: map[string]string{}}
	var (
		mu       sync.Mutex
		all      sync.WaitGroup
		serving  int
		wrong    = map[string]string{} // what is, by address
		versions []string
		client   = grpchealthv1.NewHealthClient(s.dial(name))
		replicas = s.replicas(ctx, name)
	)
	for i := range max(1, len(replicas)) {
		all.Go(func() {
			var (
				head metadata.MD
				from peer.Peer
			)
			r, err := client.Check(ctx, &grpchealthv1.HealthCheckRequest{}, grpc.WaitForReady(false), grpc.Header(&head), grpc.Peer(&from))
			mu.Lock()
			defer mu.Unlock()
			who := strconv.Itoa(i)
			if from.Addr != nil {
				who = from.Addr.String()
			}
			switch status := r.GetStatus(); {
			case err != nil:
				wrong[who] = "does not answer: " + errorText(err)
			case status != grpchealthv1.HealthCheckResponse_SERVING:
				wrong[who] = "says that it is " + status.String()
			default:
				serving++
			}
			if v := app.VersionOf(head); v != "" && !slices.Contains(versions, v) {
				versions = append(versions, v)
			}
		})
	}
	if len(replicas) > 1 {
		for _, addr := range replicas {
			all.Go(func() {
				c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
				if err == nil {
					_ = c.Close()
					return
				}
				mu.Lock()
				defer mu.Unlock()
				wrong[addr] = "does not answer: " + errorText(err)
			})
		}
	}
	all.Wait()
	if len(versions) > 0 {
		slices.Sort(versions)
		g.attributes["version"] = strings.Join(versions, ", ")
	}
	if len(replicas) > 1 {
		g.attributes["replicas"] = strconv.Itoa(len(replicas))
		g.reason = fmt.Sprintf("%d replicas are serving", len(replicas))
	}
	if len(wrong) == 0 {
		return g
	}
	var whats []string
	for who, what := range wrong {
		if len(replicas) > 1 && strings.Contains(who, ":") {
			what = who + " " + what
		}
		whats = append(whats, what)
	}
	slices.Sort(whats)
	g.reason = strings.Join(slices.Compact(whats), "; ")
	if g.state = down; serving > 0 {
		g.state = degraded
	}
	return g
}

// replicas are the addresses that a service's name stands for, as far as that can
// be told. Those of IPv6 beside those of IPv4 are the same replicas once more.
func (s *Service) replicas(ctx context.Context, name string) (all []string) {
	addr, ok := s.lookup(app.AddrVar(name))
	if !ok || addr == "" {
		addr = app.DefaultAddr(name)
	}
	host, port, err := net.SplitHostPort(strings.TrimPrefix(addr, "dns:///"))
	if err != nil || net.ParseIP(host) != nil {
		return nil
	}
	found, err := s.resolve(ctx, host)
	if err != nil {
		return nil // which the connection says better
	}
	v6 := func(ip string) bool { return strings.Contains(ip, ":") }
	if slices.ContainsFunc(found, func(ip string) bool { return !v6(ip) }) {
		found = slices.DeleteFunc(found, v6)
	}
	for _, ip := range found {
		all = append(all, net.JoinHostPort(ip, port))
	}
	slices.Sort(all)
	return slices.Compact(all)
}
