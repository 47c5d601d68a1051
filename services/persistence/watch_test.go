package persistence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

func follow(ctx context.Context, s *Service, req *findingv1.WatchFindingsRequest) (<-chan *findingv1.WatchFindingsResponse, <-chan error) {
	stream := &following[findingv1.WatchFindingsResponse]{streamed[findingv1.WatchFindingsResponse]{ctx: ctx}, make(chan *findingv1.WatchFindingsResponse)}
	ended := make(chan error, 1)
	go func() { ended <- s.WatchFindings(req, stream) }()
	return stream.c, ended
}

// A watch that is cut off again and again, while replicas write at the same
// time, gets every transition once and those of a finding in order.
func TestWatchMissesNothing(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The service that is watched dies again and again as well.
	var watched *Service
	var die context.CancelFunc
	restart := func() {
		if watched != nil {
			die()
			watched.Close()
		}
		var err error
		if watched, err = open(Config{DatabaseURL: dsn, Connections: 4}, quiet(), &taken{}, time.Now); err != nil {
			t.Fatal(err)
		}
		close(watched.ready)
		var life context.Context
		life, die = context.WithCancel(ctx)
		go watched.listen(life)
	}
	restart()
	defer func() { die(); watched.Close() }()
	const writers, runs, volumes = 3, 8, 10
	var g errgroup.Group
	for w := range writers {
		s, _ := replica(t, dsn)
		sc := &scanv1.Scope{Service: "waste", Account: fmt.Sprintf("%012d", w), Region: "eu-west-1"}
		g.Go(func() error {
			for r := range runs {
				id := fmt.Sprintf("job/%d-%d", w, r)
				startRun(t, s, id, sc)
				m := &findingv1.FindingsObserved{RunId: id, Scope: sc, Execution: "1.1", Sequence: 1}
				for v := range volumes {
					m.Observations = append(m.Observations, volume(sc, fmt.Sprintf("vol-%d", v), rulev1.Outcome(r%2+1), at(r))) // opened, resolved, reopened, …
				}
				observe(t, s, m)
				req := &findingv1.BatchUpdateFindingsRequest{Actor: "ana", Action: &findingv1.BatchUpdateFindingsRequest_Comment{Comment: &findingv1.Comment{Text: "hm"}}}
				for _, o := range m.GetObservations() {
					req.Findings = append(req.Findings, &findingv1.FindingRef{Id: o.GetFindingId()})
				}
				if _, err := s.BatchUpdateFindings(ctx, req); err != nil {
					return err
				}
			}
			return nil
		})
	}
	const want = 2 * writers * runs * volumes
	seen, last := map[string]bool{}, map[string]findingv1.State{}
	req := &findingv1.WatchFindingsRequest{FromStart: true}
	random := rand.New(rand.NewPCG(3, 4))
	for len(seen) < want {
		cut, stop := context.WithCancel(ctx)
		c, ended := follow(cut, watched, req)
		for range random.IntN(60) {
			select {
			case m := <-c:
				req = &findingv1.WatchFindingsRequest{ResumeToken: m.GetResumeToken()}
				if m.GetFinding() == nil {
					continue
				}
				tr := m.GetTransition()
				key := fmt.Sprint(tr.GetFindingId(), tr.GetKind(), tr.GetTime())
				if seen[key] {
					t.Errorf("twice: %v", tr)
				}
				seen[key] = true
				if tr.GetFromState() != last[tr.GetFindingId()] {
					t.Errorf("out of order: %v after %v", tr, last[tr.GetFindingId()])
				}
				last[tr.GetFindingId()] = tr.GetToState()
				if m.GetFinding().GetState() != tr.GetToState() {
					t.Errorf("the finding is %v after %v", m.GetFinding().GetState(), tr)
				}
			case err := <-ended:
				t.Fatal(err)
			}
			if len(seen) == want {
				break
			}
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if random.IntN(4) == 0 {
			restart()
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestWatchBeginsNowAndFilters(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go s.listen(ctx)
	scanOnce(t, s, 0, complete, violation("old", at(0)))
	c, ended := follow(ctx, s, &findingv1.WatchFindingsRequest{Filter: `resource_id = "b" AND severity >= LOW`})
	if m := <-c; m.GetFinding() != nil || m.GetResumeToken() == "" {
		t.Fatalf("the first response is %v, want the place where it begins", m)
	}
	scanOnce(t, s, 1, complete, violation("a", at(1)), violation("b", at(1)), violation("c", at(1)))
	m := <-c
	if m.GetFinding().GetResource().GetId() != "b" {
		t.Errorf("got %v", m)
	}
	close(s.stopping)
	if err := <-ended; !errors.Is(err, errs.Unavailable) {
		t.Errorf("a service that stops ends the watch with %v", err)
	}
}

func TestWatchRefusesTokens(t *testing.T) {
	t.Parallel()
	s := service(t)
	scanOnce(t, s, 0, complete, violation("a", at(0)), violation("b", at(0)), violation("c", at(0)))
	if _, err := s.bun.ExecContext(t.Context(), "DELETE FROM transitions WHERE seq = 1"); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]error{
		"x":                       errs.InvalidArgument,
		page.Token(5, "other"):    errs.InvalidArgument,
		page.Token("x", "watch"):  errs.InvalidArgument,
		page.Token(-1, "watch"):   errs.InvalidArgument,
		page.Token(1, "watch"):    errs.OutOfRange,
		page.Token(1000, "watch"): errs.OutOfRange,
	} {
		_, ended := follow(t.Context(), s, &findingv1.WatchFindingsRequest{ResumeToken: token})
		if err := <-ended; !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", token, err, want)
		}
	}
	_, ended := follow(t.Context(), s, &findingv1.WatchFindingsRequest{Filter: "x"})
	if err := <-ended; !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("a filter that is none: %v", err)
	}
}
