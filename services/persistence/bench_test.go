package persistence

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/devstack/devtest"
)

const benchBatch = 250 // observations in a message

// durable is a service on a Postgres that syncs, as in production.
func durable(b *testing.B) *Service {
	b.Helper()
	pg, err := devstack.Postgres(b.Context(), devstack.PostgresOptions{Dir: b.TempDir(), Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pg.Stop)
	if err := Migrate(b.Context(), pg.DSN()); err != nil {
		b.Fatal(err)
	}
	s, _ := replica(b, pg.DSN())
	return s
}

// ingestRun takes n observations of a run and returns how long that took.
func ingestRun(b *testing.B, s *Service, run, n int) time.Duration {
	b.Helper()
	id := fmt.Sprintf("job/%d", run)
	startRun(b, s, id, here)
	var messages []*bus.Message[*findingv1.FindingsObserved]
	for i := range n / benchBatch {
		m := &findingv1.FindingsObserved{RunId: id, Scope: here, Execution: "1.1", Sequence: int32(i + 1)}
		for v := range benchBatch {
			m.Observations = append(m.Observations, benchViolation(i*benchBatch+v, at(run)))
		}
		messages = append(messages, message(m))
	}
	start := time.Now()
	for chunk := range slices.Chunk(messages, ingestMessages) {
		for _, err := range s.onFindingsObserved(b.Context(), chunk) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	took := time.Since(start)
	finishScope(b, s, finished(id, "1.1", n/benchBatch, at(run), complete))
	return took
}

func benchViolation(i int, when time.Time) *scanv1.Observation {
	return violation(fmt.Sprintf("vol-%017x", i), when, func(o *scanv1.Observation) {
		o.Resource.Tags = map[string]string{"Owner": "team-" + fmt.Sprint(i%40), "env": "production", "cost-centre": fmt.Sprint(i % 97), "app": "a-service-with-a-name"}
		o.Verdict.Reason = "The volume has been attached to nothing for 43 days, and nobody read from it since."
		o.Verdict.MonthlyCost.High = float64(i%500) / 10
		o.Verdict.Severity = rulev1.Severity(i%5 + 1)
		for range 3 {
			o.Verdict.Evidence = append(o.Verdict.Evidence, o.Verdict.Evidence[0])
		}
	})
}

// rawStaged is the measure: the same rows through nothing but COPY into a
// temporary table and INSERT … SELECT … ON CONFLICT DO UPDATE into a table like
// findings, indexes and all. It returns the time of new rows and of rows that
// are there already.
func rawStaged(b *testing.B, s *Service, n int) (inserted, updated time.Duration) {
	b.Helper()
	rows := make([]*finding, n)
	for i := range rows {
		o := benchViolation(i, at(0))
		rows[i] = newFinding("job/0", here, o)
		if err := rows[i].fill(o); err != nil {
			b.Fatal(err)
		}
	}
	var set []string
	for _, c := range findingColumns[1:] {
		set = append(set, c+" = EXCLUDED."+c)
	}
	columns := strings.Join(findingColumns, ", ")
	upsert := "INSERT INTO raw (" + columns + ") SELECT " + columns + " FROM raw_staged ON CONFLICT (id) DO UPDATE SET " + strings.Join(set, ", ")
	err := s.pool.AcquireFunc(b.Context(), func(c *pgxpool.Conn) error {
		for _, sql := range []string{"CREATE TABLE raw (LIKE findings INCLUDING ALL)", "CREATE TEMP TABLE raw_staged (LIKE findings) ON COMMIT DELETE ROWS"} {
			if _, err := c.Exec(b.Context(), sql); err != nil {
				return err
			}
		}
		for _, took := range []*time.Duration{&inserted, &updated} {
			start := time.Now()
			for chunk := range slices.Chunk(rows, ingestRows) {
				err := pgx.BeginFunc(b.Context(), c, func(tx pgx.Tx) error {
					_, err := tx.CopyFrom(b.Context(), pgx.Identifier{"raw_staged"}, findingColumns, pgx.CopyFromSlice(len(chunk), func(i int) ([]any, error) { return chunk[i].columns() }))
					if err == nil {
						_, err = tx.Exec(b.Context(), upsert)
					}
					return err
				})
				if err != nil {
					return err
				}
			}
			*took = time.Since(start)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return inserted, updated
}

// BenchmarkIngest gives observations a second of findings that are new, with
// their transitions and events, and of findings that are as they were; and
// what a bare staged COPY does with the same rows, as the measure of the
// machine.
func BenchmarkIngest(b *testing.B) {
	const n = 50_000
	for b.Loop() {
		s := durable(b)
		opened := ingestRun(b, s, 0, n)
		unchanged := ingestRun(b, s, 1, n)
		inserted, updated := rawStaged(b, s, n)
		b.ReportMetric(n/opened.Seconds(), "opened/s")
		b.ReportMetric(n/unchanged.Seconds(), "unchanged/s")
		b.ReportMetric(n/inserted.Seconds(), "raw-insert/s")
		b.ReportMetric(n/updated.Seconds(), "raw-update/s")
		b.ReportMetric(100*inserted.Seconds()/opened.Seconds(), "%opened")
		b.ReportMetric(100*updated.Seconds()/unchanged.Seconds(), "%unchanged")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkList gives the median time of a page of fifty out of 100,000
// findings: the first page, and one from the middle.
func BenchmarkList(b *testing.B) {
	s, _ := replica(b, devtest.DB(b, Migrate))
	for i := range 2 {
		ingestRun(b, s, i, 100_000)
	}
	if _, err := s.bun.ExecContext(b.Context(), "ANALYZE findings"); err != nil {
		b.Fatal(err)
	}
	for name, req := range map[string]*findingv1.ListFindingsRequest{
		"newest":  {},
		"dearest": {OrderBy: "monthly_cost desc, id", Filter: `state != "RESOLVED"`},
		"worst":   {OrderBy: "severity desc", Filter: `severity >= "HIGH" AND monthly_cost > 10`},
		"owner":   {Filter: `owner = "team-7"`},
		"one":     {Filter: `resource_id = "vol-00000000000000abc"`},
		"last":    {OrderBy: "last_seen desc"},
	} {
		for page, pages := range map[string]int{"first": 0, "deep": 200} {
			if page == "deep" && (name == "owner" || name == "one") {
				continue
			}
			b.Run(name+"/"+page, func(b *testing.B) {
				req := &findingv1.ListFindingsRequest{OrderBy: req.GetOrderBy(), Filter: req.GetFilter(), PageSize: 50}
				for range pages {
					resp, err := s.ListFindings(b.Context(), req)
					if err != nil {
						b.Fatal(err)
					}
					req.PageToken = resp.GetNextPageToken()
				}
				var took []time.Duration
				for b.Loop() {
					start := time.Now()
					if _, err := s.ListFindings(b.Context(), req); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(start))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			})
		}
	}
}
