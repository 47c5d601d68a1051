package persistence

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	"nightshift.dev/pkg/devstack/devtest"
)

// million is a service with a million findings, or as many as
// NIGHTSHIFT_FINDINGS says: of a hundred accounts with four owners each, five
// regions and twelve rules, a third of them open, each with one transition. They
// are kept in the database that NIGHTSHIFT_MILLION names, if it does, and not
// made again.
func million(b *testing.B) (*Service, int) {
	b.Helper()
	n := 1_000_000
	if text := os.Getenv("NIGHTSHIFT_FINDINGS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	dsn := os.Getenv("NIGHTSHIFT_MILLION")
	if dsn == "" {
		dsn = devtest.DB(b, migrated)
	} else if err := migrated(b.Context(), dsn); err != nil {
		b.Fatal(err)
	}
	s, _ := replica(b, dsn)
	// Without the service's time limit.
	cc, err := pgx.ParseConfig(dsn)
	if err != nil {
		b.Fatal(err)
	}
	cc.RuntimeParams["work_mem"] = "256MB"
	raw := bun.NewDB(stdlib.OpenDB(*cc), pgdialect.New())
	defer raw.Close()
	if there, err := raw.NewSelect().Table("findings").Count(b.Context()); err != nil || there >= int64(n) {
		if err != nil {
			b.Fatal(err)
		}
		return s, n
	}
	// Indexes and sums are made when all is there.
	var indexes []struct{ Indexname, Indexdef string }
	err = raw.NewRaw("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'findings' AND indexname <> 'findings_pkey'").Scan(b.Context(), &indexes)
	if err != nil {
		b.Fatal(err)
	}
	run := func(sql string) {
		b.Helper()
		if _, err := raw.ExecContext(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	for _, i := range indexes {
		run("DROP INDEX " + i.Indexname)
	}
	run("ALTER TABLE findings DISABLE TRIGGER USER")
	o := benchViolation(7, at(0))
	f := newFinding("job/0", here, o)
	if err := f.fill(o); err != nil {
		b.Fatal(err)
	}
	p, err := f.proto()
	if err != nil {
		b.Fatal(err)
	}
	event, err := proto.Marshal(&findingv1.FindingOpened{Finding: p, Transition: &findingv1.Transition{FindingId: f.ID, Kind: findingv1.TransitionKind_TRANSITION_KIND_OPENED}})
	if err != nil {
		b.Fatal(err)
	}
	const chunk = 100_000
	for from := 0; from < n; from += chunk {
		// Mixed by a multiplication: neighbours in one column are none in another.
		_, err := raw.NewRaw(`
			WITH g AS (SELECT i, (i::bigint * 2654435761) % 4294967296 AS h FROM generate_series(?0::int, ?1::int - 1) i), inserted AS (
				INSERT INTO findings (id, service, account, region, rule_id, rule_version, category, state, severity, resource_arn, resource_id, resource_type, resource_name, title, owner, resource_owner,
					cost_low, cost_high, cost, parameters, tags, exemption, detail, resource_hash, fingerprint, since, first_seen, evidence_time, resolve_time)
				SELECT md5(i::text), 'waste', lpad((h % 100)::text, 12, '0'), 'region-' || h / 100 % 5, 'rule-' || h / 500 % 12, 1, h / 500 % 12 % 2 + 1,
					CASE WHEN h / 6007 % 100 < 30 THEN 1 WHEN h / 6007 % 100 < 90 THEN 2 WHEN h / 6007 % 100 < 95 THEN 3 ELSE 4 END, CASE WHEN h / 7 % 10 = 0 THEN 5 ELSE h / 500 % 12 % 4 + 1 END,
					'arn:aws:ec2:region:' || lpad((h % 100)::text, 12, '0') || ':volume/vol-' || i, 'vol-' || i, 'AWS::EC2::Volume', 'disk ' || i, 'Unattached volume', 'team-' || h % 40 + h / 11 % 4, 'team-' || h % 40 + h / 11 % 4,
					CASE WHEN h / 13 % 10 > 0 THEN h / 13 % 50000 / 100.0 END, CASE WHEN h / 13 % 10 > 0 THEN h / 13 % 50000 / 100.0 END, ?2, '{"days": "14"}', jsonb_build_object('Owner', 'team-' || h % 40 + h / 11 % 4, 'env', 'production', 'app', 'app-' || h % 977),
					CASE WHEN h / 6007 % 100 >= 95 THEN '\x0a00'::bytea END, ?3, i, i, now(), timestamptz '2026-01-01' + make_interval(secs => h % 20000000), now(),
					CASE WHEN h / 6007 % 100 BETWEEN 30 AND 89 THEN timestamptz '2026-09-01' + make_interval(secs => h % 5000000) END
				FROM g RETURNING id)
			INSERT INTO checks (id, last_seen, last_run_id, checked_time, checked_run_id)
			SELECT md5(i::text), timestamptz '2026-09-01' + make_interval(secs => h % 5000000), 'job/' || h % 50, now(), 'job/' || h % 50 FROM g`, from, min(from+chunk, n), f.Cost, f.Detail).Exec(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		_, err = raw.NewRaw("INSERT INTO transitions SELECT nextval('transitions_seq'), md5(i::text), 1, 1, now(), 'job/0', ? FROM generate_series(?::int, ?::int - 1) i", event, from, min(from+chunk, n)).Exec(b.Context())
		if err != nil {
			b.Fatal(err)
		}
	}
	for _, i := range indexes {
		run(i.Indexdef)
	}
	run("ALTER TABLE findings ENABLE TRIGGER USER")
	run(`INSERT INTO finding_sums SELECT account, region, service, rule_id, category, state, severity, owner, 0,
		count(*), count(*) FILTER (WHERE cost_high IS NULL), sum(millionths(cost_low)), sum(millionths(cost_high)) FROM findings GROUP BY 1, 2, 3, 4, 5, 6, 7, 8`)
	run("VACUUM ANALYZE findings, checks, transitions, finding_sums")
	return s, n
}

// percentiles times calls, a hundred or as many as fit into ten seconds, and
// reports the median and the 99th percentile.
func percentiles(b *testing.B, call func(i int) error) {
	b.Helper()
	var took []time.Duration
	for i, began := 0, time.Now(); i < 100 && (i < 3 || time.Since(began) < 10*time.Second); i++ {
		start := time.Now()
		if err := call(i); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	ms := func(p int) float64 { return float64(took[min(len(took)*p/100, len(took)-1)].Microseconds()) / 1000 }
	b.ReportMetric(ms(50), "p50-ms")
	b.ReportMetric(ms(99), "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkMillion gives how long it takes to list, count, add up and watch a
// million findings: go test ./services/persistence -run ^$ -bench Million -benchtime 1x
func BenchmarkMillion(b *testing.B) {
	s, n := million(b)
	filters := map[string]string{
		"all": "", "open": `state != "RESOLVED" AND state != "EXEMPT"`, "account": `account = "000000000042"`, "account-open": `account = "000000000042" AND state = "OPEN"`,
		"severe": `severity >= "HIGH" AND state = "OPEN"`, "owner": `owner = "team-7" AND state = "OPEN"`, "rule": `rule_id = "rule-3" AND region = "region-2"`,
		"dear": `monthly_cost > 400 AND state = "OPEN"`, "tag": `tags.app = "app-77"`, "acknowledged": `acknowledged = true`,
	}
	orders := []string{"first_seen desc", "first_seen", "monthly_cost desc", "monthly_cost", "severity desc", "severity", "rule_id", "account", "region", "owner", "state", "id", "last_seen desc", "last_seen", "resolve_time desc", "resolve_time"}
	for _, order := range orders {
		for name, filter := range filters {
			for _, deep := range []int{0, 20} {
				place := map[int]string{0: "first", 20: "deep"}[deep]
				b.Run(fmt.Sprintf("list/%s/%s/%s", order, name, place), func(b *testing.B) {
					req := &findingv1.ListFindingsRequest{OrderBy: order, Filter: filter, PageSize: 50}
					for range deep {
						resp, err := s.ListFindings(b.Context(), req)
						if err != nil {
							b.Fatal(err)
						}
						if resp.GetNextPageToken() == "" {
							b.Skip("there are not so many")
						}
						req.PageToken = resp.GetNextPageToken()
					}
					percentiles(b, func(int) error { _, err := s.ListFindings(b.Context(), req); return err })
				})
			}
		}
	}
	for name, filter := range filters {
		b.Run("facets/"+name, func(b *testing.B) {
			percentiles(b, func(int) error {
				_, err := s.SummarizeFindings(b.Context(), &findingv1.SummarizeFindingsRequest{Filter: filter, Facets: allFacets})
				return err
			})
		})
		b.Run("totals/"+name, func(b *testing.B) {
			percentiles(b, func(int) error {
				_, err := s.SummarizeFindings(b.Context(), &findingv1.SummarizeFindingsRequest{Filter: filter})
				return err
			})
		})
	}
	b.Run("get", func(b *testing.B) {
		ids, err := found(b, s, "")
		if err != nil {
			b.Fatal(err)
		}
		percentiles(b, func(i int) error {
			_, err := s.GetFinding(b.Context(), &findingv1.GetFindingRequest{Id: ids[i%len(ids)]})
			return err
		})
	})
	b.Run("batch", func(b *testing.B) {
		ids, err := found(b, s, `state = "OPEN"`)
		if err != nil {
			b.Fatal(err)
		}
		percentiles(b, func(i int) error {
			req := comment("hm")
			for _, id := range ids[:100] {
				req.Findings = append(req.Findings, &findingv1.FindingRef{Id: id})
			}
			_, err := s.BatchUpdateFindings(b.Context(), req)
			return err
		})
	})
	// From the first transition to a thousand further on, and from the middle to the first.
	for name, from := range map[string]int{"thousand": 0, "one": n / 2} {
		b.Run("watch/"+name, func(b *testing.B) {
			percentiles(b, func(int) error {
				ctx, cancel := context.WithCancel(b.Context())
				defer cancel()
				req := &findingv1.WatchFindingsRequest{FromStart: from == 0}
				want := 1000
				if from > 0 {
					req.ResumeToken, want = watchToken(int64(from)), 1
				}
				c, ended := follow(ctx, s, req)
				for got := 0; got < want; {
					select {
					case m := <-c:
						if m.GetFinding() != nil {
							got++
						}
					case err := <-ended:
						return err
					}
				}
				cancel()
				<-ended
				return nil
			})
		})
	}
}
