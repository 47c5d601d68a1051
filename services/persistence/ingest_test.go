package persistence

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// Replicas take batches of the same scopes, of runs that overlap, all at once.
func TestReplicasIngestAtOnce(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	const replicas, runs, scopes, batches, perBatch = 3, 3, 4, 6, 20
	var all []*Service
	for range replicas {
		s, _ := replica(t, dsn)
		all = append(all, s)
	}
	var messages []*bus.Message[*findingv1.FindingsObserved]
	var ends []*scanv1.ScopeFinished
	for r := range runs {
		var planned []*scanv1.Scope
		id := fmt.Sprintf("job/%d", r)
		for n := range scopes {
			sc := &scanv1.Scope{Service: "waste", Account: fmt.Sprintf("%012d", n), Region: "eu-west-1"}
			planned = append(planned, sc)
			for b := range batches {
				m := &findingv1.FindingsObserved{RunId: id, Scope: sc, Execution: "1.1", Sequence: int32(b + 1)}
				for v := range perBatch {
					m.Observations = append(m.Observations, volume(sc, fmt.Sprintf("vol-%d", b*perBatch+v), rulev1.Outcome_OUTCOME_VIOLATION, at(r)))
				}
				messages = append(messages, message(m))
			}
			ends = append(ends, finished(id, "1.1", batches, at(r), complete, func(f *scanv1.ScopeFinished) { f.Scope = sc }))
		}
		startRun(t, all[0], id, planned...)
	}
	random := rand.New(rand.NewPCG(1, 2))
	random.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	var g errgroup.Group
	for w := range 2 * replicas {
		g.Go(func() error {
			s := all[w%replicas]
			for i := w; i < len(messages); i += replicas { // every message twice
				batch := messages[i:min(i+5, len(messages))]
				if err := errors.Join(s.onFindingsObserved(t.Context(), batch)...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for i, f := range ends {
		g.Go(func() error { return all[i%replicas].onScopeFinished(t.Context(), message(f)) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var counts struct {
		Findings, Transitions, Opened, Outbox, Deadlocks, Batches, Finishes int
	}
	err := all[0].bun.NewRaw(`SELECT (SELECT count(*) FROM findings) AS findings, (SELECT count(*) FROM transitions) AS transitions,
		(SELECT count(DISTINCT finding_id) FROM transitions WHERE kind = 1) AS opened, (SELECT count(*) FROM outbox WHERE transition IS NOT NULL) AS outbox,
		(SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) AS deadlocks,
		(SELECT count(*) FROM batches) AS batches, (SELECT count(*) FROM finishes) AS finishes`).Scan(t.Context(), &counts)
	if err != nil {
		t.Fatal(err)
	}
	const want = scopes * batches * perBatch
	if counts.Findings != want || counts.Opened != want || counts.Transitions != want || counts.Outbox != want || counts.Deadlocks != 0 || counts.Batches != 0 || counts.Finishes != 0 {
		t.Errorf("%+v, want %d findings that opened once, and nothing left over", counts, want)
	}
	for r := range runs {
		if run := getRun(t, all[0], fmt.Sprintf("job/%d", r)); run.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED {
			t.Errorf("run %d is %s", r, run.GetState())
		}
	}
}

func TestUnchangedFindingsAreLeftAlone(t *testing.T) {
	t.Parallel()
	s := service(t)
	row := func() (f finding) {
		t.Helper()
		if err := selectFindings(s.bun).Scan(t.Context(), &f); err != nil {
			t.Fatal(err)
		}
		return f
	}
	scanOnce(t, s, 0, complete, violation("vol-1", at(0)))
	first := row()
	scanOnce(t, s, 1, complete, violation("vol-1", at(1)))
	second := row()
	if !second.LastSeen.Equal(at(1)) || second.LastRunID != "waste-scan/1" {
		t.Errorf("last seen %v in %s", second.LastSeen, second.LastRunID)
	}
	if second.Revision != first.Revision || !second.EvidenceTime.Equal(at(0)) || string(second.Detail) != string(first.Detail) {
		t.Errorf("an unchanged finding was written anew: revision %d, evidence of %v", second.Revision, second.EvidenceTime)
	}
	scanOnce(t, s, 24, complete, violation("vol-1", at(24)))
	if third := row(); third.Revision != 2 || !third.EvidenceTime.Equal(at(24)) {
		t.Errorf("evidence a day old was kept: revision %d, evidence of %v", third.Revision, third.EvidenceTime)
	}
	scanOnce(t, s, 25, complete, violation("vol-1", at(25), func(o *scanv1.Observation) { o.Resource.Name = "renamed" }))
	if fourth := row(); fourth.Revision != 3 || fourth.ResourceName != "renamed" {
		t.Errorf("the new name was not taken: revision %d, %s", fourth.Revision, fourth.ResourceName)
	}
	var events int
	if err := s.bun.NewRaw("SELECT count(*) FROM transitions").Scan(t.Context(), &events); err != nil || events != 1 {
		t.Errorf("%d transitions, want 1 (%v)", events, err)
	}
}

// A scan that finds a thousand findings as they were writes a row of checks for
// each, the books of its run, and nothing else.
func TestUnchangedFindingsWriteNothingElse(t *testing.T) {
	t.Parallel()
	s := service(t)
	s.brake = brake{0.5, 20}
	const n = 1000
	all := func(hour int) (o []*scanv1.Observation) { return many(0, n, hour, rulev1.Outcome_OUTCOME_VIOLATION) }
	scanOnce(t, s, 0, complete, all(0)...)
	startRun(t, s, "again", here)
	var tables []string
	root := superuser(t, s)
	if err := root.NewRaw("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'goose_db_version'").Scan(t.Context(), &tables); err != nil {
		t.Fatal(err)
	}
	versions := func() map[string]map[string]bool {
		out := map[string]map[string]bool{}
		for _, table := range tables {
			var rows []string
			if err := root.NewRaw("SELECT xmin || ' ' || ctid FROM ?", bun.Ident(table)).Scan(t.Context(), &rows); err != nil {
				t.Fatal(err)
			}
			out[table] = map[string]bool{}
			for _, r := range rows {
				out[table][r] = true
			}
		}
		return out
	}
	before := versions()
	observe(t, s, &findingv1.FindingsObserved{RunId: "again", Scope: here, Execution: "1.1", Sequence: 1, Observations: all(1)})
	for table, rows := range versions() {
		written := 0
		for r := range rows {
			if !before[table][r] {
				written++
			}
		}
		if want := map[string]int{"checks": n, "run_scopes": 1, "batches": 1}[table]; written != want {
			t.Errorf("%d rows of %s were written, want %d", written, table, want)
		}
		if len(rows) < len(before[table]) {
			t.Errorf("rows of %s were removed", table)
		}
	}
}

func TestOlderVerdictsChangeNothing(t *testing.T) {
	t.Parallel()
	s := service(t)
	id := violation("vol-1", at(0)).GetFindingId()
	startRun(t, s, "old", here)
	scanOnce(t, s, 1, complete, violation("vol-1", at(1)))
	scanOnce(t, s, 5, complete, volume(here, "vol-1", rulev1.Outcome_OUTCOME_COMPLIANT, at(5)))
	observe(t, s, &findingv1.FindingsObserved{RunId: "old", Scope: here, Execution: "1.1", Sequence: 1, Observations: []*scanv1.Observation{
		violation("vol-1", at(3), func(o *scanv1.Observation) { o.Verdict.Severity = rulev1.Severity_SEVERITY_CRITICAL }),
	}})
	f := getFinding(t, s, id)
	if f.GetState() != findingv1.State_STATE_RESOLVED || f.GetSeverity() != rulev1.Severity_SEVERITY_LOW || !f.GetLastSeen().AsTime().Equal(at(1)) {
		t.Errorf("an older verdict changed the finding: %v", f)
	}
}

func TestHostileText(t *testing.T) {
	t.Parallel()
	s := service(t)
	nasty := "a\x00b'; DROP TABLE findings; --\u202e\U0001F4A9\\N\t\n{\"$?\"}?"
	o := violation("vol-1", at(0), func(o *scanv1.Observation) {
		o.Resource.Name, o.Resource.Id, o.Resource.Arn, o.Resource.Type, o.Resource.Zone = nasty, nasty, nasty, nasty, nasty
		o.Resource.Tags = map[string]string{nasty: nasty, "Owner": nasty}
		o.RuleId, o.Title = nasty, nasty
		o.Parameters = map[string]string{nasty: nasty}
		o.Verdict.Reason, o.Verdict.Owner, o.Verdict.Recommendation = nasty, nasty, nasty
		o.Verdict.MonthlyCost.Basis = nasty
		o.Verdict.Evidence[0].Name = nasty
	})
	id := o.GetFindingId()
	startRun(t, s, "job/1", here)
	observe(t, s, &findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: nasty, Sequence: 1, Observations: []*scanv1.Observation{o},
		Sightings: []*scanv1.Sighting{{Arn: nasty, ResourceType: nasty, State: nasty}}})
	finishScope(t, s, finished("job/1", nasty, 1, at(0), complete, func(f *scanv1.ScopeFinished) {
		f.Coverage = append(f.Coverage, &scanv1.Coverage{ResourceType: nasty, Status: denied, Error: nasty})
		f.Tallies = append(f.Tallies, &scanv1.Tally{RuleId: nasty, ResourceType: nasty})
	}))
	f := getFinding(t, s, id)
	if f.GetResource().GetName() != nasty || f.GetResource().GetTags()[nasty] != nasty || f.GetReason() != nasty {
		t.Errorf("the resource is not as it came: %q", f.GetResource())
	}
	if want := strings.ReplaceAll(nasty, "\x00", "\uFFFD"); f.GetOwner() != want || f.GetTitle() != want {
		t.Errorf("owner %q, want %q", f.GetOwner(), want)
	}
	if run := getRun(t, s, "job/1"); run.GetState() != runv1.RunState_RUN_STATE_PARTIAL {
		t.Errorf("run is %v", run)
	}
	if ids, sightings := scopeState(t, s); len(ids) != 1 || len(sightings) != 1 {
		t.Errorf("state is %v, %q", ids, sightings)
	}
}

// What cannot be used is left out, and then nothing is absent for sure.
func TestUnusableObservations(t *testing.T) {
	t.Parallel()
	s := service(t)
	scanOnce(t, s, 0, complete, violation("vol-1", at(0)))
	scanOnce(t, s, 1, complete)
	run := scanOnce(t, s, 2, complete, violation("vol-2", at(2)), violation("vol-3", at(2), func(o *scanv1.Observation) { o.FindingId = "x" }))
	if run.GetState() != runv1.RunState_RUN_STATE_PARTIAL || run.GetFindings().GetOpened() != 1 || run.GetFindings().GetResolved() != 0 {
		t.Errorf("run is %v", run)
	}
	for name, spoil := range map[string]func(*scanv1.Observation){
		"id":       func(o *scanv1.Observation) { o.FindingId = strings.ToUpper(o.FindingId) },
		"rule":     func(o *scanv1.Observation) { o.RuleId = "" },
		"resource": func(o *scanv1.Observation) { o.Resource = nil },
		"time":     func(o *scanv1.Observation) { o.ObservedAt = nil },
		"year":     func(o *scanv1.Observation) { o.ObservedAt.Seconds = 1 << 60 },
		"verdict":  func(o *scanv1.Observation) { o.Verdict = nil },
		"outcome":  func(o *scanv1.Observation) { o.Verdict.Outcome = 99 },
		"severity": func(o *scanv1.Observation) { o.Verdict.Severity = 0 },
	} {
		if why := unusable(violation("vol-1", at(0), spoil)); why == "" {
			t.Errorf("%s: can be used", name)
		}
	}
	if why := unusable(violation("vol-1", at(0))); why != "" {
		t.Errorf("cannot be used: %s", why)
	}
}

// A message that the database refuses does not take others with it.
func TestOneBadMessage(t *testing.T) {
	t.Parallel()
	s := service(t)
	startRun(t, s, "job/1", here)
	if _, err := superuser(t, s).ExecContext(t.Context(), "ALTER TABLE findings ADD CHECK (severity < 5)"); err != nil {
		t.Fatal(err)
	}
	batch := func(n int32, run string, o *scanv1.Observation) *bus.Message[*findingv1.FindingsObserved] {
		return message(&findingv1.FindingsObserved{RunId: run, Scope: here, Execution: "1.1", Sequence: n, Observations: []*scanv1.Observation{o}})
	}
	verdicts := s.onFindingsObserved(t.Context(), []*bus.Message[*findingv1.FindingsObserved]{
		batch(1, "job/1", violation("good", at(0))),
		batch(2, "job/1", violation("bad", at(0), func(o *scanv1.Observation) { o.Verdict.Severity = rulev1.Severity_SEVERITY_CRITICAL })),
		batch(3, "job/1", violation("fine", at(0))),
	})
	if verdicts[0] != nil || verdicts[1] == nil || verdicts[2] != nil {
		t.Errorf("verdicts %v", verdicts)
	}
	if ids, err := found(t, s, ""); err != nil || len(ids) != 2 {
		t.Errorf("%d findings, want 2 (%v)", len(ids), err)
	}
}

func TestMessagesThatCannotBeTaken(t *testing.T) {
	t.Parallel()
	s := service(t)
	startRun(t, s, "job/1", here)
	good := &findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: "1.1", Sequence: 1, Observations: []*scanv1.Observation{violation("vol-1", at(0))}}
	verdicts := s.onFindingsObserved(t.Context(), []*bus.Message[*findingv1.FindingsObserved]{
		message(&findingv1.FindingsObserved{RunId: "job/none", Scope: here, Execution: "1.1", Sequence: 1}),
		message(good),
		message(&findingv1.FindingsObserved{}),
	})
	if !errors.Is(verdicts[0], errs.NotFound) || verdicts[1] != nil || !errors.Is(verdicts[2], errs.InvalidArgument) {
		t.Errorf("verdicts %v", verdicts)
	}
	for _, f := range []*scanv1.ScopeFinished{{}, finished("job/none", "1.1", 1, at(0), complete), finished("job/1", "1.1", 1, time.Time{}, complete, func(f *scanv1.ScopeFinished) { f.StartTime = nil })} {
		if err := s.onScopeFinished(t.Context(), message(f)); err == nil {
			t.Errorf("%v was taken", f)
		}
	}
	if _, err := s.GetFinding(t.Context(), &findingv1.GetFindingRequest{Id: good.GetObservations()[0].GetFindingId()}); err != nil {
		t.Error(err)
	}
}
