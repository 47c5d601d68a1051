package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// cut is a network between the services and what they depend on, which can be made worse.
type cut struct {
	name  string
	proxy *toxiproxy.Proxy
}

var toxiServer = sync.OnceValue(func() *toxiproxy.ApiServer {
	return toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
})

// cut puts a network before an address.
func (s *stack) cut(name, upstream string) *cut {
	s.t.Helper()
	c := &cut{name: name, proxy: toxiproxy.NewProxy(toxiServer(), s.t.Name()+"/"+name, local(freePort(s.t)), upstream)}
	if err := c.proxy.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.proxy.Stop)
	s.cuts = append(s.cuts, c)
	return c
}

func (c *cut) addr() string { return c.proxy.Listen }

// ills are what happens to a network, each for a while.
var ills = []struct{ name, toxics string }{
	{"gone", ""}, // connections break, new ones are refused
	{"slow", `{"type":"latency","attributes":{"latency":300,"jitter":200}}`},
	{"narrow", `{"type":"bandwidth","attributes":{"rate":50}}`},         // kB/s
	{"silent", `{"type":"timeout","attributes":{"timeout":0}}`},         // nothing passes, and nobody is told
	{"resetting", `{"type":"reset_peer","attributes":{"timeout":100}}`}, // ms after each connection is made
	{"breaking", `{"type":"limit_data","attributes":{"bytes":20000}}`},  // in the middle of what is said
	{"half silent", `{"type":"timeout","attributes":{"timeout":0}}`},    // requests arrive, answers do not
}

// hurt makes the network ill for d and then well.
func (c *cut) hurt(ctx context.Context, ill string, d time.Duration) error {
	for _, i := range ills {
		if i.name != ill {
			continue
		}
		if i.toxics == "" {
			c.proxy.Stop()
			sleep(ctx, d)
			return c.proxy.Start()
		}
		streams := []string{"upstream", "downstream"}
		if ill == "half silent" {
			streams = streams[1:]
		}
		for _, stream := range streams {
			toxic := strings.TrimSuffix(i.toxics, "}") + fmt.Sprintf(`,"name":%q,"stream":%q}`, stream, stream)
			if _, err := c.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
				return err
			}
		}
		sleep(ctx, d)
		c.proxy.Toxics.ResetToxics(context.WithoutCancel(ctx))
		return nil
	}
	return fmt.Errorf("no such ill as %s", ill)
}

// suffer makes one network after the other ill until ctx ends, and returns what it did.
func (s *stack) suffer(ctx context.Context, longest time.Duration) (did map[string]int) {
	s.t.Helper()
	rng := rand.New(rand.NewPCG(*seed, 2))
	did = map[string]int{}
	for ctx.Err() == nil {
		c, ill := s.cuts[rng.IntN(len(s.cuts))], ills[rng.IntN(len(ills))].name
		d := longest/10 + time.Duration(rng.Int64N(int64(longest*9/10)))
		pause := 500*time.Millisecond + time.Duration(rng.Int64N(int64(2*time.Second)))
		if err := c.hurt(ctx, ill, d); err != nil {
			s.t.Errorf("%s %s: %v", c.name, ill, err)
			return did
		}
		did[c.name+" "+ill]++
		sleep(ctx, pause)
	}
	return did
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
