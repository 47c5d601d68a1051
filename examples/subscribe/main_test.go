package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
)

func TestSubscribe(t *testing.T) {
	t.Parallel()
	server, err := devstack.NATS(devstack.NATSOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	b, err := bus.Connect(t.Context(), bus.Config{URL: server.URL(), Service: "persistence"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	finding := func(id string, s rulev1.Severity) *findingv1.Finding {
		return &findingv1.Finding{Id: id, RuleId: "sg-open", Category: rulev1.Category_CATEGORY_SECURITY, Severity: s}
	}
	for _, id := range []string{"f1", "f2"} {
		if err := b.PublishEach(t.Context(),
			&findingv1.FindingOpened{Finding: finding(id, rulev1.Severity_SEVERITY_CRITICAL)},
			&findingv1.FindingOpened{Finding: finding(id+"-low", rulev1.Severity_SEVERITY_LOW)},
		); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []string{"-all", "-since 1h", "-all -durable mine"} {
		ctx, stop := context.WithCancel(t.Context())
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			done <- run(ctx, append(strings.Fields("-url "+server.URL()+" "+args), "FindingOpened.security.critical"), w)
			w.Close()
		}()
		lines := bufio.NewScanner(r)
		for _, id := range []string{"f1", "f2"} {
			if !lines.Scan() || !strings.Contains(lines.Text(), "FindingOpened/"+id+"/") || !strings.Contains(lines.Text(), "CRITICAL") {
				t.Errorf("%s: %q where %s belongs", args, lines.Text(), id)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
	for _, bad := range []string{"FindingLost", "-since yesterday", "-durable waste FindingOpened", "FindingOpened.a.b.c.d.e.f"} {
		if err := run(t.Context(), append([]string{"-url", server.URL()}, strings.Fields(bad)...), io.Discard); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
