package persistence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

func preview(t testing.TB, s *Service, target retentionv1.Target, before time.Time, keep int32) *retentionv1.Preview {
	t.Helper()
	resp, err := s.PreviewRetention(t.Context(), &retentionv1.PreviewRetentionRequest{Target: target, BeforeTime: timestamppb.New(before), Keep: keep})
	if err != nil {
		t.Fatalf("preview of %s: %v", target, err)
	}
	return resp.GetPreview()
}

// removeAll removes until there is nothing more, and adds up.
func removeAll(ctx context.Context, s *Service, target retentionv1.Target, before time.Time, keep, limit int32) (*applied, error) {
	sum := &applied{}
	for calls := 0; ; calls++ {
		resp, err := s.ApplyRetention(ctx, &retentionv1.ApplyRetentionRequest{Target: target, BeforeTime: timestamppb.New(before), Keep: keep, Limit: limit})
		if err != nil {
			return sum, err
		}
		sum.Count += resp.GetCount()
		sum.Rows += resp.GetRows()
		sum.Partitions += resp.GetPartitions()
		sum.Reclaimed += resp.GetReclaimed()
		if !resp.GetMore() {
			return sum, nil
		}
		if calls > 10_000 {
			return sum, errors.New("there is always more")
		}
	}
}

func mustExec(t testing.TB, s *Service, query string, args ...any) {
	t.Helper()
	if _, err := s.bun.NewRaw(query, args...).Exec(t.Context()); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func strs(t testing.TB, s *Service, query string, args ...any) []string {
	t.Helper()
	out := []string{}
	if err := s.bun.NewRaw(query, args...).Scan(t.Context(), &out); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

// allTargets in the order in which cleanup applies them.
var allTargets = []retentionv1.Target{
	retentionv1.Target_TARGET_ORPHANS, retentionv1.Target_TARGET_SYSTEM_LOG, retentionv1.Target_TARGET_ONBOARDINGS, retentionv1.Target_TARGET_FINDINGS,
	retentionv1.Target_TARGET_RUNS, retentionv1.Target_TARGET_SIGHTINGS, retentionv1.Target_TARGET_METRICS, retentionv1.Target_TARGET_EXEMPTIONS, retentionv1.Target_TARGET_OUTBOX,
	retentionv1.Target_TARGET_NOTICES, retentionv1.Target_TARGET_DELIVERIES, retentionv1.Target_TARGET_SILENCES,
}

// tablesRetained are all tables that retention touches, each as one text a row.
var tablesRetained = []string{"runs", "run_scopes", "coverage", "tallies", "findings", "checks", "transitions", "outbox", "exemptions", "onboardings",
	"sightings", "listings", "instances", "instance_days", "component_transitions", "system_log", "orphans"}

func contents(t testing.TB, s *Service) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, table := range tablesRetained {
		expr := "x::text"
		if table == "orphans" {
			expr = "x.finding_id || x.reason" // their times are those of the cleanup
		}
		query := "SELECT " + expr + " FROM " + table + " x ORDER BY 1"
		if table == "outbox" { // events of orphans
			query = "SELECT x::text FROM outbox x WHERE message NOT LIKE '%FindingOrphaned' ORDER BY 1"
		}
		all[table] = strs(t, s, query)
	}
	return all
}

// world is random data of all kinds and ages, with what the rules say of each.
type world struct {
	stay, go_ map[string]bool // table and key
}

func (w *world) row(gone bool, table, key string) {
	if gone {
		w.go_[table+" "+key] = true
	} else {
		w.stay[table+" "+key] = true
	}
}

// keysOf are what a world calls rows.
var keysOf = map[string]string{
	"runs": "id", "run_scopes": "run_id", "coverage": "run_id", "tallies": "run_id", "findings": "id", "checks": "id", "transitions": "seq::text",
	"outbox": "id::text", "exemptions": "id", "onboardings": "id", "sightings": "arn", "listings": "resource_type", "instances": "id",
	"instance_days": "instance || ' ' || day", "component_transitions": "id::text", "system_log": "message",
}

const reachable, gone = "111122223333", "999988887777"

// populate fills the database by what drew decides.
func populate(t testing.TB, s *Service, cut time.Time, keep int, draw func(n int) int) *world {
	t.Helper()
	w := &world{stay: map[string]bool{}, go_: map[string]bool{}}
	when := func() (time.Time, bool) { // a time that is not the cut-off to the second, and whether it is before
		h := draw(4000) - 2000
		if h >= 0 {
			h++
		}
		return cut.Add(time.Duration(h) * time.Hour), h < 0
	}
	mustExec(t, s, "INSERT INTO accounts (id, name, partition, role_arn, external_id, regions, owner, labels, state, create_time, update_time) VALUES (?, '', 'aws', '', '', '{eu-west-1}', '', '{}', 2, ?, ?)", reachable, cut, cut)

	for i := range 3 + draw(20) {
		at, old := when()
		msg := fmt.Sprint("entry ", i)
		mustExec(t, s, "INSERT INTO system_log (time, level, event, message, service, job, run_id, account, region, attributes) VALUES (?, 1, 'e', ?, '', '', '', '', '', '{}')", at, msg)
		w.row(old, "system_log", msg)
	}
	for i := range draw(10) {
		at, old := when()
		state := 1 + draw(5)
		id := fmt.Sprint("o", i)
		mustExec(t, s, "INSERT INTO onboardings (id, account, state, source, create_time, update_time, detail) VALUES (?, ?, ?, 1, ?, ?, '')", id, fmt.Sprintf("%012d", i), state, at, at)
		w.row(old && (state == 3 || state == 5), "onboardings", id)
	}

	// Runs: jobs with runs of all states and ages, and retries of some.
	type aRun struct {
		id, job, of string
		start, end  time.Time
		old, ended  bool
		kept        bool
	}
	var runs []*aRun
	for i := range 10 + draw(25) {
		at, old := when()
		job := draw(3)
		if job == 0 && !old { // a job that has not run for long
			at, old = cut.Add(-at.Sub(cut)), true
		}
		r := &aRun{id: fmt.Sprintf("r%02d", i), job: fmt.Sprint("job", job), end: at, old: old, ended: draw(8) > 0}
		r.start = at.Add(-time.Duration(draw(3)) * time.Hour)
		if len(runs) > 0 && draw(4) == 0 {
			r.of = runs[draw(len(runs))].id
		}
		runs = append(runs, r)
	}
	seenBy := map[string]bool{}

	// Findings.
	var seq int64
	var last int64
	type aFinding struct {
		id         string
		mustStay   bool
		row        func()
		seqs       []int64
		resolved   bool
		old        bool
		outboxHeld bool
	}
	var findings []*aFinding
	exempting := map[string]bool{}
	for i := range 15 + draw(30) {
		at, old := when()
		f := &aFinding{id: fmt.Sprintf("%032x", i), old: old}
		state := []int{1, 2, 2, 2, 3, 4}[draw(6)]
		account := []string{reachable, gone}[draw(2)]
		f.resolved = state == 2
		var resolve *time.Time
		var exemption []byte
		exemptionID := ""
		if f.resolved {
			resolve = &at
		}
		if state == 4 {
			exemption, exemptionID = []byte{}, fmt.Sprint("x", draw(6))
			exempting[exemptionID] = true
		}
		run := ""
		if len(runs) > 0 {
			run = runs[draw(len(runs))].id
			if !f.resolved {
				seenBy[run] = true
			}
		}
		mustExec(t, s, `INSERT INTO findings (id, service, account, region, rule_id, rule_version, category, state, severity, resource_arn, resource_id, resource_type, resource_name, title, owner,
			parameters, tags, exemption, exemption_id, detail, resource_hash, fingerprint, first_seen, evidence_time, resolve_time)
			VALUES (?, 'waste', ?, 'eu-west-1', 'r', 1, 1, ?, 2, '', '', '', '', '', '', '{}', '{}', ?, ?, '', 0, 0, ?, ?, ?)`, f.id, account, state, exemption, exemptionID, at, at, resolve)
		mustExec(t, s, "INSERT INTO checks (id, last_seen, last_run_id, checked_time, checked_run_id) VALUES (?, ?, ?, ?, ?)", f.id, at, run, at, run)
		for range 1 + draw(3) {
			seq++
			mustExec(t, s, "INSERT INTO transitions (seq, finding_id, kind, cause, time, run_id, event) VALUES (?, ?, 1, 1, ?, '', '')", seq, f.id, at)
			f.seqs = append(f.seqs, seq)
			last = seq
			if draw(12) == 0 {
				mustExec(t, s, "INSERT INTO outbox (time, message, transition, trace) VALUES (?, 'm', ?, '')", cut.Add(999*time.Hour), seq)
				f.outboxHeld = true
			}
		}
		if draw(6) == 0 {
			mustExec(t, s, "INSERT INTO held (finding_id, run_id, service, account, region, kind, time) VALUES (?, ?, 'waste', ?, 'eu-west-1', 3, ?)", f.id, run, account, at)
			f.mustStay = true
			seenBy[run] = true
		}
		if f.resolved && draw(10) == 0 {
			mustExec(t, s, "INSERT INTO orphans (finding_id, service, account, region, reason, time) VALUES (?, 'waste', ?, 'eu-west-1', 1, ?)", f.id, account, at.Add(time.Hour))
			f.mustStay = true
		}
		findings = append(findings, f)
	}
	for _, f := range findings {
		goes := f.resolved && f.old && !f.mustStay && !f.outboxHeld && !slices.Contains(f.seqs, last)
		w.row(goes, "findings", f.id)
		w.row(goes, "checks", f.id)
		for _, n := range f.seqs {
			w.row(goes, "transitions", fmt.Sprint(n))
		}
	}
	root := superuser(t, s)
	defer root.Close()
	if _, err := root.NewRaw("SELECT setval('transitions_seq', ?)", seq+1).Exec(t.Context()); err != nil {
		t.Fatal(err)
	}

	// What of the runs stays: as the rules say, one by one.
	byID := map[string]*aRun{}
	for _, r := range runs {
		byID[r.id] = r
	}
	byJob := map[string][]*aRun{}
	for _, r := range runs {
		byJob[r.job] = append(byJob[r.job], r)
	}
	for _, of := range byJob {
		slices.SortFunc(of, func(a, b *aRun) int {
			if c := b.start.Compare(a.start); c != 0 {
				return c
			}
			return strings.Compare(a.id, b.id)
		})
		for i, r := range of {
			r.kept = i < keep
		}
	}
	var stays func(r *aRun)
	stays = func(r *aRun) {
		r.kept = true
		if of := byID[r.of]; of != nil && !of.kept {
			stays(of)
		}
	}
	for _, r := range runs {
		at := r.end
		if !r.ended {
			at = r.start
		}
		if r.kept || !r.ended || !at.Before(cut) || seenBy[r.id] {
			r.kept = true
		}
	}
	for _, r := range runs {
		if r.kept {
			stays(r)
		}
	}
	for _, r := range runs {
		state, scope := 2, 3
		var end *time.Time
		if r.ended {
			end = &r.end
		} else {
			state, scope = 1, 2
		}
		mustExec(t, s, "INSERT INTO runs (id, job, kind, state, cause, requested_by, start_time, end_time, parameters, max_retries, planned, retry_of) VALUES (?, ?, 'waste', ?, 1, '', ?, ?, '{}', 3, true, ?)",
			r.id, r.job, state, r.start, end, r.of)
		w.row(!r.kept, "runs", r.id)
		for n := range draw(3) {
			region := fmt.Sprint("region-", n)
			mustExec(t, s, "INSERT INTO run_scopes (run_id, service, account, region, state, end_time) VALUES (?, 'waste', ?, ?, ?, ?)", r.id, reachable, region, scope, end)
			mustExec(t, s, "INSERT INTO coverage (run_id, service, account, region, resource_type, status, pages, resources, error) VALUES (?, 'waste', ?, ?, 't', 1, 1, 1, '')", r.id, reachable, region)
			mustExec(t, s, "INSERT INTO tallies (run_id, service, account, region, rule_id, rule_version, resource_type, violations, compliant, not_applicable, insufficient_data, errors) SELECT ?, 'waste', ?, ?, 'r' || n, 1, 't', 0, 0, 0, 0, 0 FROM generate_series(1, 3) n", r.id, reachable, region)
			for _, table := range []string{"run_scopes", "coverage", "tallies"} {
				w.row(!r.kept, table, r.id)
			}
		}
	}
	for i := range 6 {
		at, old := when()
		expired := draw(4) > 0
		id := fmt.Sprint("x", i)
		mustExec(t, s, "INSERT INTO exemptions (id, filter, by, reason, expire_time, create_time, expired) VALUES (?, '', '', '', ?, ?, ?)", id, at, at, expired)
		w.row(old && expired && !exempting[id], "exemptions", id)
	}
	for i := range draw(10) {
		at, old := when()
		refused := draw(2) == 0
		var why *string
		if refused {
			why = new(string)
		}
		mustExec(t, s, "INSERT INTO outbox (id, time, message, body, trace, error) VALUES (?, ?, 'm', '', '', ?)", 1000+i, at, why)
		w.row(old && refused, "outbox", fmt.Sprint(1000+i))
	}
	for i := range draw(12) {
		at, old := when()
		account := []string{reachable, gone}[draw(2)]
		region := []string{"eu-west-1", "us-east-1", "-"}[draw(3)]
		name := fmt.Sprint("n", i)
		mustExec(t, s, "INSERT INTO sightings (service, account, region, arn, state, resource_type, first_seen, scan_time) VALUES ('waste', ?, ?, ?, 's', 't', ?, ?)", account, region, name, at, at)
		mustExec(t, s, "INSERT INTO listings (service, account, region, resource_type, scan_time) VALUES ('waste', ?, ?, ?, ?)", account, region, name, at)
		out := old && (account == gone || region == "us-east-1")
		w.row(out, "sightings", name)
		w.row(out, "listings", name)
	}
	for i := range draw(6) {
		id := fmt.Sprint("i-", i)
		at, old := when()
		isGone := draw(2) == 0
		var goneTime *time.Time
		if isGone {
			goneTime = &at
		}
		mustExec(t, s, "INSERT INTO instances (account, region, id, arn, zone, name, type, state, platform, lifecycle, tags, last_seen, gone_time) VALUES (?, 'eu-west-1', ?, '', '', '', '', '', '', '', '{}', ?, ?)", reachable, id, at, goneTime)
		days, latest := map[string]time.Time{}, time.Time{}
		for range draw(5) {
			d, _ := when()
			d = d.Truncate(24 * time.Hour)
			days[d.Format(time.DateOnly)] = d
			if d.After(latest) {
				latest = d
			}
		}
		young := false
		for text, d := range days {
			mustExec(t, s, "INSERT INTO instance_days (account, region, instance, day, cpu_hours, cpu_source, cpu_unknown, memory_hours, memory_source, memory_unknown, read_time) VALUES (?, 'eu-west-1', ?, ?, 0, '', '', 0, '', '', ?)", reachable, id, text, d)
			before := d.Before(cut.Truncate(24 * time.Hour))
			young = young || !before
			w.row(before && (isGone || !d.Equal(latest)), "instance_days", id+" "+text)
		}
		if len(days) > 0 {
			mustExec(t, s, "UPDATE instances SET latest_day = ? WHERE id = ?", latest, id)
		}
		w.row(isGone && old && !young, "instances", id)
	}
	for i := range 3 {
		type step struct {
			id  int
			at  time.Time
			old bool
		}
		var steps []step
		for n := range draw(5) {
			at, old := when()
			at = at.Add(time.Duration(n) * time.Second) // no two at once
			id := 10*i + n
			mustExec(t, s, "INSERT INTO component_transitions (id, component, from_state, to_state, time, reason) VALUES (?, ?, 1, 2, ?, '')", id, fmt.Sprint("c", i), at)
			steps = append(steps, step{id, at, old})
		}
		slices.SortFunc(steps, func(a, b step) int { return a.at.Compare(b.at) })
		for n, st := range steps {
			w.row(st.old && n < len(steps)-1, "component_transitions", fmt.Sprint(st.id))
		}
	}
	return w
}

// wantWorld compares the database with what is to be there.
func wantWorld(t testing.TB, s *Service, w *world) {
	t.Helper()
	for table, key := range keysOf {
		var rows []string
		query := fmt.Sprintf("SELECT DISTINCT %s FROM %s WHERE true", key, table)
		switch table {
		case "outbox":
			query += " AND id >= 1000 AND message = 'm' AND transition IS NULL"
		}
		if err := s.bun.NewRaw(query).Scan(t.Context(), &rows); err != nil {
			t.Fatal(err)
		}
		there := map[string]bool{}
		for _, r := range rows {
			there[table+" "+r] = true
			if !w.stay[table+" "+r] {
				t.Errorf("%s %s is still there", table, r)
			}
		}
		for k := range w.stay {
			if strings.HasPrefix(k, table+" ") && !there[k] {
				t.Errorf("%s is gone", k)
			}
		}
	}
}

// Nothing that is young, referred to or at work goes, and everything else does;
// what a preview counts is what goes; and broken off at any moment and done
// again it comes to the same.
func TestRetention(t *testing.T) {
	t.Parallel()
	cut := epoch.Add(-100 * 24 * time.Hour)
	// Each round has a database of its own, so there are few, each with much in it.
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		keep, limit := rnd.IntN(4), 1+rnd.Int32N(12)
		s := service(t)
		w := populate(t, s, cut, keep, func(n int) int { return rnd.IntN(max(n, 1)) })
		for _, target := range allTargets {
			k := int32(0)
			if target == retentionv1.Target_TARGET_RUNS {
				k = int32(keep)
			}
			want := preview(t, s, target, cut, k)
			// Broken off some times.
			got := int64(0)
			for range rnd.IntN(3) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(8_000))*time.Microsecond)
				sum, err := removeAll(ctx, s, target, cut, k, limit)
				cancel()
				got += sum.GetCount()
				if err != nil && ctx.Err() == nil {
					t.Fatalf("seed %d, %s: %v", seed, target, err)
				}
			}
			sum, err := removeAll(t.Context(), s, target, cut, k, limit)
			if err != nil {
				t.Fatalf("seed %d, %s: %v", seed, target, err)
			}
			got += sum.GetCount()
			// A call that is broken off may have been done all the same: it then counts for nobody.
			if got > want.GetCount() {
				t.Errorf("seed %d, %s: previewed %d, removed %d", seed, target, want.GetCount(), got)
			}
			if left := preview(t, s, target, cut, k); left.GetCount() != 0 {
				t.Errorf("seed %d, %s: %d are left", seed, target, left.GetCount())
			}
		}
		wantWorld(t, s, w)
	}
}

// A preview counts what a run that nobody breaks off removes.
func TestPreviewIsRun(t *testing.T) {
	t.Parallel()
	cut := epoch.Add(-100 * 24 * time.Hour)
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		s := service(t)
		w := populate(t, s, cut, 2, func(n int) int { return rnd.IntN(max(n, 1)) })
		previews := map[retentionv1.Target]int64{}
		keepOf := func(target retentionv1.Target) int32 {
			if target == retentionv1.Target_TARGET_RUNS {
				return 2
			}
			return 0
		}
		before := contents(t, s)
		for _, target := range allTargets {
			previews[target] = preview(t, s, target, cut, keepOf(target)).GetCount()
		}
		if after := contents(t, s); fmt.Sprint(before) != fmt.Sprint(after) {
			t.Fatal("a preview changes something")
		}
		for _, target := range allTargets {
			sum, err := removeAll(t.Context(), s, target, cut, keepOf(target), int32(1+rnd.IntN(40)))
			if err != nil {
				t.Fatal(err)
			}
			if sum.GetCount() != previews[target] {
				t.Errorf("seed %d, %s: previewed %d, removed %d", seed, target, previews[target], sum.GetCount())
			}
		}
		wantWorld(t, s, w)
		once := contents(t, s)
		for _, target := range allTargets {
			if sum, err := removeAll(t.Context(), s, target, cut, keepOf(target), 0); err != nil || sum.GetRows() != 0 {
				t.Errorf("%s, a second time: %v, %v", target, sum, err)
			}
		}
		if twice := contents(t, s); fmt.Sprint(once) != fmt.Sprint(twice) {
			t.Error("a second run changes something")
		}
	}
}

func TestRetentionBadInput(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	day := timestamppb.New(epoch.Add(-24 * time.Hour))
	runs := retentionv1.Target_TARGET_RUNS
	for name, c := range map[string]struct {
		req   *retentionv1.ApplyRetentionRequest
		field string
	}{
		"no target":      {&retentionv1.ApplyRetentionRequest{BeforeTime: day}, "target"},
		"unknown target": {&retentionv1.ApplyRetentionRequest{Target: 99, BeforeTime: day}, "target"},
		"no time":        {&retentionv1.ApplyRetentionRequest{Target: runs}, "before_time"},
		"no such time":   {&retentionv1.ApplyRetentionRequest{Target: runs, BeforeTime: &timestamppb.Timestamp{Nanos: -1}}, "before_time"},
		"young":          {&retentionv1.ApplyRetentionRequest{Target: runs, BeforeTime: timestamppb.New(epoch.Add(-59 * time.Minute))}, "before_time"},
		"future":         {&retentionv1.ApplyRetentionRequest{Target: runs, BeforeTime: timestamppb.New(epoch.Add(9999 * time.Hour))}, "before_time"},
		"keep below":     {&retentionv1.ApplyRetentionRequest{Target: runs, BeforeTime: day, Keep: -1}, "keep"},
		"keep above":     {&retentionv1.ApplyRetentionRequest{Target: runs, BeforeTime: day, Keep: 10_001}, "keep"},
		"keep of others": {&retentionv1.ApplyRetentionRequest{Target: retentionv1.Target_TARGET_OUTBOX, BeforeTime: day, Keep: 1}, "keep"},
		"limit below":    {&retentionv1.ApplyRetentionRequest{Target: runs, BeforeTime: day, Limit: -1}, "limit"},
		"limit above":    {&retentionv1.ApplyRetentionRequest{Target: runs, BeforeTime: day, Limit: 5001}, "limit"},
	} {
		_, err := s.ApplyRetention(t.Context(), c.req)
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != c.field {
			t.Errorf("apply, %s: %v", name, err)
		}
		if c.field == "limit" {
			continue
		}
		_, err = s.PreviewRetention(t.Context(), &retentionv1.PreviewRetentionRequest{Target: c.req.GetTarget(), BeforeTime: c.req.GetBeforeTime(), Keep: c.req.GetKeep()})
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != c.field {
			t.Errorf("preview, %s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		req   *retentionv1.ReportRetentionRequest
		field string
	}{
		"no target": {&retentionv1.ReportRetentionRequest{RunId: "r/1", BeforeTime: day}, "target"},
		"no time":   {&retentionv1.ReportRetentionRequest{RunId: "r/1", Target: runs}, "before_time"},
		"NUL":       {&retentionv1.ReportRetentionRequest{RunId: "r/\x00", Target: runs, BeforeTime: day}, "run_id"},
	} {
		_, err := s.ReportRetention(t.Context(), c.req)
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != c.field {
			t.Errorf("report, %s: %v", name, err)
		}
	}
}

func TestReportRetention(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		req  *retentionv1.ReportRetentionRequest
		want string
	}{
		"runs": {&retentionv1.ReportRetentionRequest{Target: retentionv1.Target_TARGET_RUNS, Count: 12, Rows: 340,
			Retained: []*retentionv1.Retained{{Reason: "they have not ended", Count: 1}, {Reason: "they are the newest of their job", Count: 20}}},
			"Removed 12 runs from before 2025-12-31 00:00, 340 rows with what belongs to them; kept 1 because they have not ended, 20 because they are the newest of their job."},
		"log": {&retentionv1.ReportRetentionRequest{Target: retentionv1.Target_TARGET_SYSTEM_LOG, Count: 1, Rows: 1, Partitions: 1},
			"Removed 1 entry of the system log from before 2025-12-31 00:00, 1 month dropped whole."},
		"dry":     {&retentionv1.ReportRetentionRequest{Target: retentionv1.Target_TARGET_OUTBOX, DryRun: true}, "Would remove 0 messages that cannot be published from before 2025-12-31 00:00."},
		"orphans": {&retentionv1.ReportRetentionRequest{Target: retentionv1.Target_TARGET_ORPHANS, Count: 2, Rows: 2}, "Marked 2 findings that no scan looks at any more."},
	} {
		before := epoch.Add(-24 * time.Hour)
		at := &before
		if c.req.GetTarget() == retentionv1.Target_TARGET_ORPHANS {
			at = nil
		}
		if got := targets[c.req.GetTarget()].report(c.req, at); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// Months go whole and give their space back; what is old in a month that is
// not, and in the default partition, goes by the row.
func TestSystemLogMonths(t *testing.T) {
	t.Parallel()
	s, clk := clocked(t)
	for m := range 5 {
		clk.set(epoch.AddDate(0, m, 0))
		if err := s.addPartitions(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	const each = 4000
	fill := func(from time.Time) {
		mustExec(t, s, `INSERT INTO system_log (time, level, event, message, service, job, run_id, account, region, attributes)
			SELECT ?::timestamptz + n * interval '9 minutes', 1, 'e', repeat('x', 200), '', '', '', '', '', '{}' FROM generate_series(0, ?) n`, from, each-1)
	}
	fill(epoch)                   // January
	fill(epoch.AddDate(0, 1, 0))  // February
	fill(epoch.AddDate(0, 2, 0))  // March
	fill(epoch.AddDate(-1, 0, 0)) // a clock that was wrong: the default partition
	size := func() (n int64) {
		if err := s.bun.NewRaw("SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'system_log'::regclass").Scan(t.Context(), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	cut := epoch.AddDate(0, 2, 5)
	clk.set(epoch.AddDate(0, 4, 0))
	full, want := size(), preview(t, s, retentionv1.Target_TARGET_SYSTEM_LOG, cut, 0)
	sum, err := removeAll(t.Context(), s, retentionv1.Target_TARGET_SYSTEM_LOG, cut, 0, 700)
	if err != nil {
		t.Fatal(err)
	}
	if sum.GetCount() != want.GetCount() || sum.GetPartitions() != 2 {
		t.Errorf("removed %d in %d months, previewed %d", sum.GetCount(), sum.GetPartitions(), want.GetCount())
	}
	if left := size(); left > full*6/10 {
		t.Errorf("%d bytes before, %d after", full, left)
	}
	var oldest time.Time
	if err := s.bun.NewRaw("SELECT min(time) FROM system_log").Scan(t.Context(), &oldest); err != nil || oldest.Before(cut) || oldest.After(cut.Add(10*time.Minute)) {
		t.Errorf("the oldest is of %s: %v", oldest, err)
	}

	// While somebody reads the log a month cannot be dropped: its entries go by the row, and nobody waits.
	fill(epoch.AddDate(0, 3, 0))
	clk.set(epoch.AddDate(0, 9, 0))
	reader, err := s.bun.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback()
	if _, err := reader.NewRaw("SELECT count(*) FROM system_log").Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	resp, err := s.ApplyRetention(t.Context(), &retentionv1.ApplyRetentionRequest{Target: retentionv1.Target_TARGET_SYSTEM_LOG, BeforeTime: timestamppb.New(epoch.AddDate(0, 4, 0)), Limit: 100})
	if err != nil || resp.GetCount() != 100 || resp.GetPartitions() != 0 || !resp.GetMore() {
		t.Errorf("beside a reader: %v, %v", resp, err)
	}
}

// A run with more details than the limit goes over several transactions, and
// itself last.
func TestRetentionOfBigRun(t *testing.T) {
	t.Parallel()
	s := service(t)
	at := epoch.Add(-1000 * time.Hour)
	mustExec(t, s, "INSERT INTO runs (id, job, kind, state, cause, requested_by, start_time, end_time, parameters, max_retries, planned) VALUES ('j/1', 'j', 'waste', 2, 1, '', ?, ?, '{}', 3, true)", at, at)
	mustExec(t, s, "INSERT INTO run_scopes (run_id, service, account, region, state, end_time) SELECT 'j/1', 'waste', '111122223333', 'r' || n, 3, ? FROM generate_series(1, 20) n", at)
	mustExec(t, s, "INSERT INTO tallies (run_id, service, account, region, rule_id, rule_version, resource_type, violations, compliant, not_applicable, insufficient_data, errors) SELECT 'j/1', 'waste', '111122223333', 'r' || n, 'r' || m, 1, 't', 0, 0, 0, 0, 0 FROM generate_series(1, 20) n, generate_series(1, 10) m")
	var steps []string
	for more := true; more; {
		resp, err := s.ApplyRetention(t.Context(), &retentionv1.ApplyRetentionRequest{Target: retentionv1.Target_TARGET_RUNS, BeforeTime: timestamppb.New(epoch), Limit: 60})
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, fmt.Sprintf("%d/%d", resp.GetCount(), resp.GetRows()))
		more = resp.GetMore()
	}
	if got := strings.Join(steps, " "); got != "0/60 0/60 0/60 1/41" {
		t.Errorf("removed %s", got)
	}
}

// Runs that go on, retries and scans at that very moment lose nothing.
func TestRetentionBesideRuns(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	s, _ := replica(t, dsn)
	other, _ := replica(t, dsn)
	if _, err := s.CreateAccount(t.Context(), &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: here.GetAccount()}}); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	const volumes = 30
	var ids []string
	scan := func(on *Service, n int, bad bool, when time.Time) error {
		id := fmt.Sprintf("waste-scan/%d", n)
		startRun(t, on, id, here)
		m := &findingv1.FindingsObserved{RunId: id, Scope: here, Execution: "1.1", Sequence: 1}
		for v := range volumes {
			o := violation(fmt.Sprint("vol-", v), when)
			if !bad {
				o = volume(here, fmt.Sprint("vol-", v), 2, when)
			}
			m.Observations = append(m.Observations, o)
		}
		observe(t, on, m)
		finishScope(t, on, finished(id, "1.1", 1, when, complete))
		return nil
	}
	for v := range volumes {
		ids = append(ids, violation(fmt.Sprint("vol-", v), now).GetFindingId())
	}
	// Old findings that were resolved long ago, and old runs.
	long := now.Add(-500 * 24 * time.Hour)
	for i := range 6 {
		if err := scan(s, i, i%2 == 0, long.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	mustExec(t, s, "DELETE FROM outbox")
	mustExec(t, s, "UPDATE runs SET start_time = start_time - interval '500 days', end_time = end_time - interval '500 days'")
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	for _, replica := range []*Service{s, other} {
		g.Go(func() error {
			for ctx.Err() == nil {
				for _, target := range []retentionv1.Target{retentionv1.Target_TARGET_FINDINGS, retentionv1.Target_TARGET_RUNS, retentionv1.Target_TARGET_SIGHTINGS, retentionv1.Target_TARGET_ORPHANS} {
					if _, err := removeAll(t.Context(), replica, target, now.Add(-100*24*time.Hour), 0, 7); err != nil {
						return fmt.Errorf("%s: %w", target, err)
					}
				}
			}
			return nil
		})
	}
	for i := 10; i < 22; i++ {
		if err := scan([]*Service{s, other}[i%2], i, true, now.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
		run := getRun(t, s, fmt.Sprintf("waste-scan/%d", i))
		if run.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED || run.GetScopes().GetTotal() != 1 {
			t.Fatalf("run %v", run)
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		f := getFinding(t, s, id)
		steps := transitions(t, s, id)
		if f.GetState() == findingv1.State_STATE_RESOLVED || len(steps) == 0 || steps[len(steps)-1].GetToState() != f.GetState() {
			t.Errorf("finding %s is %s after %d steps", id, f.GetState(), len(steps))
		}
	}
	if old := strs(t, s, "SELECT id FROM runs WHERE id = ANY(ARRAY['waste-scan/0','waste-scan/1','waste-scan/2','waste-scan/3','waste-scan/4','waste-scan/5'])"); len(old) != 0 {
		t.Errorf("old runs are left: %v", old)
	}
	for i := 10; i < 22; i++ {
		if r := getRun(t, s, fmt.Sprintf("waste-scan/%d", i)); r.GetId() == "" {
			t.Errorf("run %d is gone", i)
		}
	}
	// A retry of an old run that begins just then keeps it.
	at := now.Add(-200 * 24 * time.Hour)
	mustExec(t, s, "INSERT INTO runs (id, job, kind, state, cause, requested_by, start_time, end_time, parameters, max_retries, planned) VALUES ('old/1', 'old', 'waste', 4, 1, '', ?, ?, '{}', 3, true)", at, at)
	mustExec(t, s, "INSERT INTO run_scopes (run_id, service, account, region, state, end_time) VALUES ('old/1', 'waste', ?, 'eu-west-1', 5, ?)", here.GetAccount(), at)
	if _, err := s.RetryRun(t.Context(), &runv1.RetryRunRequest{Id: "old/1", RequestId: "again"}); err != nil {
		t.Fatal(err)
	}
	if p := preview(t, s, retentionv1.Target_TARGET_RUNS, now.Add(-100*24*time.Hour), 0); p.GetCount() != 0 || len(p.GetRetained()) != 1 || p.GetRetained()[0].GetReason() != "a run that stays does them again" {
		t.Errorf("preview %v", p)
	}
}

// Every target can be removed.
func TestRetentionTargets(t *testing.T) {
	t.Parallel()
	for n, name := range retentionv1.Target_name {
		if target := retentionv1.Target(n); target != 0 && (targets[target] == nil || !slices.Contains(allTargets, target)) {
			t.Errorf("%s cannot be removed, or is in no test", name)
		}
	}
}
