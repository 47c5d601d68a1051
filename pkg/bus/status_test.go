package bus

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/devstack/devtest"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	cfg := Config{Service: "doctor", Options: nats.Options()}

	// To look makes nothing.
	before, err := Inspect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(before.Streams) != 0 || len(before.Missing) != len(streams) || !before.Time.IsZero() || before.Version == "" {
		t.Errorf("of an empty server: %+v", before)
	}

	b, err := Connect(t.Context(), Config{Service: "waste", Options: nats.Options()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	for _, job := range []string{"a", "b"} {
		if err := b.Publish(t.Context(), &jobv1.JobRequested{Trigger: &jobv1.Trigger{Kind: "waste", Job: job, RunId: job + "/manual-1"}}); err != nil {
			t.Fatal(err)
		}
	}
	// A consumer from the beginning that nobody serves, and a stream that somebody has changed.
	js := b.js
	if _, err := js.CreateConsumer(t.Context(), "NIGHTSHIFT_JOB", jetstream.ConsumerConfig{Durable: "x", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "NIGHTSHIFT_RUN")
	if err != nil {
		t.Fatal(err)
	}
	changed := s.CachedInfo().Config
	changed.MaxAge = time.Hour
	if _, err := js.UpdateStream(t.Context(), changed); err != nil {
		t.Fatal(err)
	}

	for name, look := range map[string]func() (*Status, error){
		"from outside": func() (*Status, error) { return Inspect(t.Context(), cfg) },
		"from inside":  func() (*Status, error) { return b.Status(t.Context()) },
	} {
		st, err := look()
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Streams) != len(streams) || len(st.Missing) != 0 || time.Since(st.Time).Abs() > time.Minute || st.RTT <= 0 {
			t.Errorf("%s: %+v", name, st)
		}
		for _, s := range st.Streams {
			if s.Replicas != 1 || s.Current != 1 || s.Leaderless {
				t.Errorf("%s: %+v", name, s)
			}
			switch s.Name {
			case "NIGHTSHIFT_JOB":
				if s.Messages != 2 || s.Oldest.IsZero() || len(s.Consumers) != 1 || s.Consumers[0].Pending != 2 || s.Consumers[0].Waiting != 0 || len(s.Differs) != 0 {
					t.Errorf("%s: %+v", name, s)
				}
			case "NIGHTSHIFT_RUN":
				if len(s.Differs) != 1 || !s.Oldest.IsZero() {
					t.Errorf("%s: %+v", name, s)
				}
			}
		}
	}
}

func TestInspectDoesNotWaitForAServer(t *testing.T) {
	t.Parallel()
	if _, err := Inspect(t.Context(), Config{URL: "nats://127.0.0.1:1", Service: "doctor"}); err == nil {
		t.Error("nobody was there, and answered")
	}
}
