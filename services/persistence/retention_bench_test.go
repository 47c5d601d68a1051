package persistence

import (
	"testing"
	"time"

	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
)

// BenchmarkRetention gives rows a second: entries of the system log deleted in
// batches, and dropped with their month; findings with their transitions; runs
// with their details. On a Postgres that syncs.
func BenchmarkRetention(b *testing.B) {
	const entries, findings, runs = 200_000, 20_000, 500
	s, _ := durable(b)
	clk := &clock{}
	s.now = clk.now
	timed := func(target retentionv1.Target, before time.Time, what string) {
		begun := time.Now()
		sum, err := removeAll(b.Context(), s, target, before, 0, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(sum.GetRows())/time.Since(begun).Seconds(), what+"/s")
	}
	for b.Loop() {
		clk.set(epoch)
		if err := s.addPartitions(b.Context()); err != nil {
			b.Fatal(err)
		}
		fill := func() {
			mustExec(b, s, `INSERT INTO system_log (time, level, event, message, service, job, run_id, account, region, attributes)
				SELECT ?::timestamptz + n * interval '10 seconds', 1, 'run_finished', repeat('x', 200), 'waste', 'waste-scan', 'waste-scan/' || n, '', '', '{"a": "b"}' FROM generate_series(0, ?) n`, epoch, entries-1)
		}
		fill()
		clk.set(epoch.AddDate(0, 6, 0))
		timed(retentionv1.Target_TARGET_SYSTEM_LOG, epoch.AddDate(0, 0, 30), "deleted-entries")
		fill()
		timed(retentionv1.Target_TARGET_SYSTEM_LOG, epoch.AddDate(0, 1, 0), "dropped-entries")

		mustExec(b, s, `INSERT INTO findings (id, service, account, region, rule_id, rule_version, category, state, severity, resource_arn, resource_id, resource_type, resource_name, title, owner,
			parameters, tags, detail, resource_hash, fingerprint, first_seen, evidence_time, resolve_time)
			SELECT md5(n::text), 'waste', '111122223333', 'eu-west-1', 'r', 1, 1, 2, 2, 'arn' || n, 'id' || n, 't', '', '', '', '{}', '{"a": "b"}', repeat('x', 600)::bytea, 0, 0, ?0, ?0, ?0 FROM generate_series(1, ?1) n`, epoch, findings)
		mustExec(b, s, "INSERT INTO checks (id, last_seen, last_run_id, checked_time, checked_run_id) SELECT id, first_seen, '', first_seen, '' FROM findings")
		mustExec(b, s, "INSERT INTO transitions (seq, finding_id, kind, cause, time, run_id, event) SELECT nextval('transitions_seq'), id, 1, 1, first_seen, '', repeat('x', 800)::bytea FROM findings, generate_series(1, 4)")
		timed(retentionv1.Target_TARGET_FINDINGS, epoch.AddDate(0, 1, 0), "findings-rows")

		mustExec(b, s, "INSERT INTO runs (id, job, kind, state, cause, requested_by, start_time, end_time, parameters, max_retries, planned) SELECT 'j/' || n, 'j', 'waste', 2, 1, '', ?0, ?0, '{}', 3, true FROM generate_series(1, ?1) n", epoch, runs)
		mustExec(b, s, "INSERT INTO run_scopes (run_id, service, account, region, state, end_time) SELECT id, 'waste', '111122223333', 'r' || n, 3, end_time FROM runs, generate_series(1, 20) n")
		mustExec(b, s, "INSERT INTO coverage (run_id, service, account, region, resource_type, status, pages, resources, error) SELECT run_id, service, account, region, 't' || n, 1, 1, 1, '' FROM run_scopes, generate_series(1, 5) n")
		mustExec(b, s, "INSERT INTO tallies (run_id, service, account, region, rule_id, rule_version, resource_type, violations, compliant, not_applicable, insufficient_data, errors) SELECT run_id, service, account, region, 'r' || n, 1, 't', 0, 0, 0, 0, 0 FROM run_scopes, generate_series(1, 12) n")
		timed(retentionv1.Target_TARGET_RUNS, epoch.AddDate(0, 1, 0), "runs-rows")
	}
	b.ReportMetric(0, "ns/op")
}
