package persistence

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/devstack/devtest"
)

const benchBatch = 250 // observations in a message

// durable is a service on a Postgres that syncs, as in production.
func durable(b *testing.B) (*Service, string) {
	b.Helper()
	pg, err := devstack.Postgres(b.Context(), devstack.PostgresOptions{Dir: b.TempDir(), Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pg.Stop)
	if err := migrated(b.Context(), pg.DSN()); err != nil {
		b.Fatal(err)
	}
	s, _ := replica(b, pg.DSN())
	return s, pg.DSN()
}

// ingestRun takes n observations of a run, the first of them that of volume
// from, and returns how long that took.
func ingestRun(b *testing.B, s *Service, run, from, n int) time.Duration {
	b.Helper()
	id := fmt.Sprintf("job/%d", run)
	startRun(b, s, id, here)
	var messages []*bus.Message[*findingv1.FindingsObserved]
	for i := range n / benchBatch {
		m := &findingv1.FindingsObserved{RunId: id, Scope: here, Execution: "1.1", Sequence: int32(i + 1)}
		for v := range benchBatch {
			m.Observations = append(m.Observations, benchViolation(from+i*benchBatch+v, at(run)))
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

// raw is the measure: the same rows through nothing but COPY into a temporary
// table and INSERT … SELECT … ON CONFLICT DO UPDATE into a table like findings,
// indexes and all, as many at a time as ingest takes.
type raw struct {
	c      *pgx.Conn
	upsert string
}

func newRaw(b *testing.B, dsn string) *raw {
	b.Helper()
	c, err := pgx.Connect(b.Context(), dsn)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close(context.WithoutCancel(b.Context())) })
	for _, sql := range []string{"CREATE TABLE raw (LIKE findings INCLUDING ALL)", "CREATE TEMP TABLE raw_staged (LIKE findings) ON COMMIT DELETE ROWS"} {
		if _, err := c.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	var set []string
	for _, c := range findingColumns[1:] {
		set = append(set, c+" = EXCLUDED."+c)
	}
	columns := strings.Join(findingColumns, ", ")
	return &raw{c, "INSERT INTO raw (" + columns + ") SELECT " + columns + " FROM raw_staged ON CONFLICT (id) DO UPDATE SET " + strings.Join(set, ", ")}
}

func (r *raw) write(b *testing.B, from, n int) time.Duration {
	b.Helper()
	rows := make([]*finding, n)
	for i := range rows {
		o := benchViolation(from+i, at(0))
		rows[i] = newFinding("job/0", here, o)
		if err := rows[i].fill(o); err != nil {
			b.Fatal(err)
		}
		rows[i].Tags = cleanTags(o.GetResource().GetTags())
	}
	start := time.Now()
	for chunk := range slices.Chunk(rows, ingestRows) {
		err := pgx.BeginFunc(b.Context(), r.c, func(tx pgx.Tx) error {
			_, err := tx.CopyFrom(b.Context(), pgx.Identifier{"raw_staged"}, findingColumns, pgx.CopyFromSlice(len(chunk), func(i int) ([]any, error) { return chunk[i].columns() }))
			if err == nil {
				_, err = tx.Exec(b.Context(), r.upsert)
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}

// BenchmarkIngest gives observations a second of findings that are new, with
// their transitions and events, and of findings that are as they were; and
// what a bare staged COPY does with the same rows, as the measure of the
// machine. Each round does all four on the same rows, one right after the
// other, and what is reported is the median of the rounds: figures of different
// minutes cannot be compared.
func BenchmarkIngest(b *testing.B) {
	const n, rounds = 20_000, 9
	for b.Loop() {
		s, dsn := durable(b)
		r := newRaw(b, dsn)
		var opened, unchanged, inserted, updated, openedShare, unchangedShare []float64
		for i := range rounds {
			o := ingestRun(b, s, 2*i, i*n, n).Seconds()
			in := r.write(b, i*n, n).Seconds()
			u := ingestRun(b, s, 2*i+1, i*n, n).Seconds()
			up := r.write(b, i*n, n).Seconds()
			if _, err := superuser(b, s).ExecContext(b.Context(), "TRUNCATE outbox"); err != nil { // the relay is not part of it
				b.Fatal(err)
			}
			if i == 0 {
				continue // caches and tables are cold
			}
			opened, inserted, unchanged, updated = append(opened, n/o), append(inserted, n/in), append(unchanged, n/u), append(updated, n/up)
			openedShare, unchangedShare = append(openedShare, 100*in/o), append(unchangedShare, 100*up/u)
		}
		for unit, values := range map[string][]float64{"opened/s": opened, "unchanged/s": unchanged, "raw-insert/s": inserted, "raw-update/s": updated, "%opened": openedShare, "%unchanged": unchangedShare} {
			slices.Sort(values)
			b.ReportMetric(values[len(values)/2], unit)
		}
		slices.Sort(openedShare)
		b.ReportMetric(openedShare[0], "%opened-worst")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkList gives the median time of a page of fifty out of 100,000
// findings: the first page, and one from the middle.
func BenchmarkList(b *testing.B) {
	s, _ := replica(b, devtest.DB(b, migrated))
	for i := range 2 {
		ingestRun(b, s, i, 0, 100_000)
	}
	if _, err := superuser(b, s).ExecContext(b.Context(), "ANALYZE findings"); err != nil {
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
