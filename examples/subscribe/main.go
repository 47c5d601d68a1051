// Subscribe prints the life of findings as it happens: what another team's
// service would do.
//
//	go run ./examples/subscribe                          # every transition from now on
//	go run ./examples/subscribe FindingOpened.security.critical
//	go run ./examples/subscribe -since 24h FindingOpened # the last day again, and then what comes
//	go run ./examples/subscribe -durable my-service FindingOpened.waste
//
// With -durable the server remembers where my-service is: what happens while
// it is down is delivered when it is back.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	"nightshift.dev/pkg/bus"
)

// transition is what all these events have.
type transition interface {
	proto.Message
	GetFinding() *findingv1.Finding
	GetTransition() *findingv1.Transition
}

// events are those this example knows, by name.
var events = map[string]func(context.Context, *bus.Bus, *printer, []bus.Option) error{
	"FindingOpened":         subscribe[*findingv1.FindingOpened],
	"FindingChanged":        subscribe[*findingv1.FindingChanged],
	"FindingResolved":       subscribe[*findingv1.FindingResolved],
	"FindingReopened":       subscribe[*findingv1.FindingReopened],
	"FindingExempted":       subscribe[*findingv1.FindingExempted],
	"FindingAcknowledged":   subscribe[*findingv1.FindingAcknowledged],
	"FindingUnacknowledged": subscribe[*findingv1.FindingUnacknowledged],
	"FindingAssigned":       subscribe[*findingv1.FindingAssigned],
	"FindingCommented":      subscribe[*findingv1.FindingCommented],
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("subscribe", flag.ContinueOnError)
	url := f.String("url", env("NATS_URL", "nats://127.0.0.1:4222"), "where NATS is; `nightshift up` prints it")
	durable := f.String("durable", "", "name under which the server remembers what was handled")
	since := f.String("since", "", "begin with what happened since then: 36h, or 2026-03-01T06:00:00Z")
	all := f.Bool("all", false, "begin with the oldest event that is kept")
	if err := f.Parse(args); err != nil {
		return err
	}
	var opts []bus.Option
	switch {
	case *all:
		opts = append(opts, bus.All())
	case *since != "":
		at, err := when(*since)
		if err != nil {
			return err
		}
		opts = append(opts, bus.Since(at))
	}
	if *durable != "" {
		opts = append(opts, bus.Durable(*durable))
	}
	wanted := f.Args()
	if len(wanted) == 0 {
		wanted = slices.Sorted(maps.Keys(events))
	}

	b, err := bus.Dial(ctx, bus.Config{URL: *url, Service: "subscribe-example"})
	if err != nil {
		return err
	}
	defer b.Close(context.WithoutCancel(ctx))
	p := &printer{out: out}
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range wanted {
		tokens := strings.Split(w, ".")
		begin, ok := events[tokens[0]]
		if !ok {
			return fmt.Errorf("%s is none of %s", tokens[0], strings.Join(slices.Sorted(maps.Keys(events)), ", "))
		}
		g.Go(func() error { return begin(ctx, b, p, append(slices.Clone(opts), bus.Filter(tokens[1:]...))) })
	}
	return g.Wait()
}

func subscribe[T transition](ctx context.Context, b *bus.Bus, p *printer, opts []bus.Option) error {
	return bus.Subscribe(ctx, b, func(_ context.Context, m *bus.Message[T]) error {
		// Events arrive at least once. The id is the same each time: a service
		// that must not act twice keeps it, in the transaction in which it acts.
		f := m.Body.GetFinding()
		cost := "cost unknown"
		if c := f.GetMonthlyCost(); c != nil {
			cost = fmt.Sprintf("$%.2f a month", c.GetHigh())
		}
		// Names come from AWS tags, so they are quoted: they can hold anything.
		// An error would bring the event back.
		return p.print("%s %-15s %-8s %s %s %s %q: %s (%s)\n", m.Time.Format(time.RFC3339), m.Body.ProtoReflect().Descriptor().Name(),
			strings.TrimPrefix(f.GetSeverity().String(), "SEVERITY_"), f.GetResource().GetAccount(), f.GetResource().GetRegion(),
			f.GetRuleId(), f.GetResource().GetId(), cost, m.ID)
	}, opts...)
}

// printer prints for all subscriptions, one line at a time.
type printer struct {
	mu  sync.Mutex
	out io.Writer
}

func (p *printer) print(format string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := fmt.Fprintf(p.out, format, args...)
	return err
}

// when reads a time, or how long ago it was.
func when(s string) (time.Time, error) {
	if ago, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-ago), nil
	}
	return time.Parse(time.RFC3339, s)
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
