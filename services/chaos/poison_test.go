package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/simaws"
)

// A message nobody can read becomes a dead letter of each consumer that gets it, and the next one is handled. An account that
// denies everything is the only one whose scopes fail.
func TestPoison(t *testing.T) {
	if !*full {
		t.Parallel()
	}
	s := deploy(t, options{estate: small})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	poisoned := s.poison(ctx)
	var letters map[string]string
	s.await(ctx, "dead letters", func() error {
		resp, err := s.letters.ListDeadLetters(ctx, &deadletterv1.ListDeadLettersRequest{PageSize: 1000})
		if err != nil {
			return err
		}
		letters = map[string]string{}
		for _, l := range resp.GetDeadLetters() {
			letters[l.GetConsumer()] = l.GetReason()
		}
		for _, c := range poisoned {
			if letters[c] == "" {
				return fmt.Errorf("%s has none", c)
			}
		}
		return nil
	})
	t.Logf("%d consumers were sent a message that nobody can read, and each made it a dead letter: %s", len(poisoned), strings.Join(poisoned, ", "))
	ids := s.both(ctx, t, "poisoned")
	s.verify(ctx, ids)

	denied := s.accounts()[1].ID
	s.faults(simaws.Fault{Kind: "deny", Account: denied})
	for _, id := range s.both(ctx, t, "denied") {
		r := s.end(ctx, id)
		if r == nil {
			continue
		}
		t.Logf("%s with account %s denied: %s, %v", id, denied, word(r.GetState()), r.GetScopes())
		if r.GetState() != runv1.RunState_RUN_STATE_PARTIAL {
			t.Errorf("%s ended %s: %v", id, word(r.GetState()), r.GetError())
		}
		resp, err := s.runs.ListRunScopes(ctx, &runv1.ListRunScopesRequest{RunId: id, PageSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, sc := range resp.GetScopes() {
			if good := sc.GetState() == runv1.ScopeState_SCOPE_STATE_SUCCEEDED; good == (sc.GetScope().GetAccount() == denied) {
				t.Errorf("%s: %v is %v: %s", id, sc.GetScope(), sc.GetState(), sc.GetError())
			}
		}
	}
	// What cannot be looked at is not resolved.
	s.wantTold(ctx, s.wantTruth(ctx))
}

// poison sends every consumer of the services a message that it cannot read and one that says nothing, and returns the
// consumers.
func (s *stack) poison(ctx context.Context) (consumers []string) {
	t := s.t
	t.Helper()
	for _, stream := range []string{"NIGHTSHIFT_JOB", "NIGHTSHIFT_RUN", "NIGHTSHIFT_SCAN", "NIGHTSHIFT_FINDING", "NIGHTSHIFT_HEALTH", "NIGHTSHIFT_AUDIT"} {
		js, err := s.js.Stream(ctx, stream)
		if err != nil {
			t.Fatal(err)
		}
		var infos []*jetstream.ConsumerInfo
		list := js.ListConsumers(ctx)
		for info := range list.Info() {
			infos = append(infos, info)
		}
		if err := list.Err(); err != nil {
			t.Fatal(err)
		}
		for _, info := range infos {
			if info.Config.Durable == "" || info.Config.AckPolicy != jetstream.AckExplicitPolicy {
				continue
			}
			for _, filter := range info.Config.FilterSubjects {
				if strings.HasPrefix(filter, "nightshift.replay.") {
					continue
				}
				subject := strings.NewReplacer(">", "poison", "*", "poison").Replace(filter)
				for _, data := range [][]byte{{0xff, 0xff, 0xff, 0xff, 0xff}, {}} {
					if _, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: data}); err != nil {
						t.Fatal(err)
					}
				}
				consumers = append(consumers, info.Config.Durable)
			}
		}
	}
	if len(consumers) < 8 {
		t.Errorf("only the consumers %v", consumers)
	}
	slices.Sort(consumers)
	return slices.Compact(consumers)
}
