// Subscribe prints the life of findings as it happens: what another team's
// service would do. It needs nothing of Nightshift but the generated messages.
//
//	go run ./examples/subscribe                 # every transition from now on
//	go run ./examples/subscribe 'FindingOpened.security.critical.>'
//	go run ./examples/subscribe -durable my-service 'FindingOpened.waste.>'
//
// With -durable the server remembers where my-service is: what happens while
// it is down is delivered when it is back.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
)

// transition is what all four events of a finding have.
type transition interface {
	proto.Message
	GetFinding() *findingv1.Finding
	GetTransition() *findingv1.Transition
}

// events by the name in their subject.
var events = map[string]func() transition{
	"FindingOpened":   func() transition { return &findingv1.FindingOpened{} },
	"FindingChanged":  func() transition { return &findingv1.FindingChanged{} },
	"FindingResolved": func() transition { return &findingv1.FindingResolved{} },
	"FindingReopened": func() transition { return &findingv1.FindingReopened{} },
}

func main() {
	log.SetFlags(0)
	url := flag.String("url", env("NATS_URL", "nats://127.0.0.1:4222"), "where NATS is; `nightshift up` prints it")
	durable := flag.String("durable", "", "name under which the server remembers what was handled")
	all := flag.Bool("all", false, "begin with the oldest event kept, not with the next one")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *url, *durable, *all, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url, durable string, all bool, wanted []string) error {
	nc, err := nats.Connect(url, nats.Name("subscribe example"))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", url, err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}

	const prefix = "nightshift.finding.v1."
	subjects := []string{}
	for _, w := range wanted {
		subjects = append(subjects, prefix+w)
	}
	if len(subjects) == 0 {
		for name := range events {
			subjects = append(subjects, prefix+name+".>")
		}
	}
	cfg := jetstream.ConsumerConfig{
		Durable:        durable,
		FilterSubjects: subjects,
		AckPolicy:      jetstream.AckExplicitPolicy,
		DeliverPolicy:  jetstream.DeliverNewPolicy,
	}
	if all {
		cfg.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, "NIGHTSHIFT_FINDING", cfg)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	go func() { <-ctx.Done(); messages.Stop() }()

	log.Printf("listening on %s for %s", url, strings.Join(subjects, ", "))
	for {
		m, err := messages.Next()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(m.Subject(), prefix), ".")
		newEvent, ok := events[name]
		if !ok {
			_ = m.Term() // an event this example does not know
			continue
		}
		e := newEvent()
		if err := proto.Unmarshal(m.Data(), e); err != nil {
			log.Printf("%s: %v", m.Subject(), err)
			_ = m.Term()
			continue
		}
		// Events arrive at least once. The CloudEvents id is the same each
		// time: a service that must not act twice remembers it.
		f := e.GetFinding()
		cost := "cost unknown"
		if c := f.GetMonthlyCost(); c != nil {
			cost = fmt.Sprintf("$%.2f a month", c.GetHigh())
		}
		// Names come from AWS tags, so they are quoted: they can hold anything.
		fmt.Printf("%-16s %-8s %s %s %s %q: %s (%s)\n", name,
			strings.TrimPrefix(f.GetSeverity().String(), "SEVERITY_"), f.GetResource().GetAccount(), f.GetResource().GetRegion(),
			f.GetRuleId(), f.GetResource().GetId(), cost, m.Headers().Get("ce-id"))
		if err := m.Ack(); err != nil {
			return err
		}
	}
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}
