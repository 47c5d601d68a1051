package persistence

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
)

type applied = retentionv1.ApplyRetentionResponse

// removal runs f in a transaction of its own, which leaves nothing behind when
// it is broken off.
func (s *Service) removal(ctx context.Context, f func(ctx context.Context, tx *transaction, resp *applied) error) (*applied, error) {
	var resp *applied
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		resp = &applied{}
		if _, err := tx.NewRaw("SET LOCAL statement_timeout = '5min'").Exec(ctx); err != nil {
			return err
		}
		return f(ctx, tx, resp)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// rows runs a statement and counts its rows.
func (tx *transaction) rows(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := tx.NewRaw(query, args...).Exec(ctx)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// The system log.

const oldEntries = `SELECT time, '' AS why FROM system_log WHERE time < ?0`

// dropPatience is how long dropping a month waits for those who read the log.
// Writers wait behind it for as long.
const dropPatience = 250 * time.Millisecond

// removeEntries drops a month when all of it is old, and otherwise deletes the
// oldest entries, wherever they are. When a month cannot be had for itself, its
// entries are deleted like others.
func removeEntries(ctx context.Context, s *Service, r retention) (*applied, error) {
	month := &applied{}
	err := s.inTxOnce(ctx, func(ctx context.Context, tx *transaction) (err error) {
		month.Count, err = tx.dropMonth(ctx, r.before)
		if month.Count >= 0 && err == nil {
			month.Rows, month.Partitions, month.More = month.Count, 1, true
		}
		return err
	})
	switch {
	case err != nil && !lost(err):
		return nil, fault(err)
	case err == nil && month.Partitions > 0:
		return month, nil
	}
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		var last []struct {
			Time time.Time
			ID   int64
		}
		// Up to the last of so many: a range of the primary key.
		err := tx.NewRaw(`
			SELECT time, id FROM (SELECT time, id FROM system_log WHERE time < ? ORDER BY time, id LIMIT ?) o ORDER BY time DESC, id DESC LIMIT 1`,
			r.before, r.limit).Scan(ctx, &last)
		if err != nil || len(last) == 0 {
			return err
		}
		resp.Count, err = tx.rows(ctx, "DELETE FROM system_log WHERE time <= ?0 AND (time, id) <= (?0, ?1)", last[0].Time, last[0].ID)
		resp.Rows, resp.More = resp.Count, resp.Count >= int64(r.limit)
		return err
	})
}

// dropMonth drops the oldest partition of the system log of which all is from
// before the time, and returns how many entries it had; -1 when there is none.
func (tx *transaction) dropMonth(ctx context.Context, before time.Time) (int64, error) {
	for _, step := range []string{"SET LOCAL statement_timeout = '5min'", fmt.Sprintf("SET LOCAL lock_timeout = %d", dropPatience.Milliseconds())} {
		if _, err := tx.NewRaw(step).Exec(ctx); err != nil {
			return 0, err
		}
	}
	if _, err := tx.NewRaw("SELECT pg_advisory_xact_lock(?)", partitionLock).Exec(ctx); err != nil {
		return 0, err
	}
	var entries int64
	err := tx.NewRaw("SELECT drop_system_log_month(?)", before).Scan(ctx, &entries)
	return entries, err
}

// Runs. Whatever a run refers to that stays, stays.

const oldRuns = `
	WITH RECURSIVE judged AS (
		SELECT r.id, r.retry_of, coalesce(r.end_time, r.start_time) AS time, CASE
			WHEN coalesce(r.end_time, r.start_time) >= ?0 THEN 'they are young'
			WHEN r.end_time IS NULL THEN 'they have not ended'
			WHEN row_number() OVER (PARTITION BY r.job ORDER BY r.start_time DESC, r.id) <= ?1 THEN 'they are the newest of their job'
			WHEN r.id IN (SELECT c.last_run_id FROM findings f JOIN checks c ON c.id = f.id WHERE f.state <> 2) THEN 'they were the last to see an open finding'
			WHEN r.id IN (SELECT h.run_id FROM held h) THEN 'what they found is held'
			ELSE ''
		END AS why
		FROM runs r
	), kept AS (
		SELECT id, retry_of FROM judged WHERE why <> ''
		UNION
		SELECT j.id, j.retry_of FROM kept k JOIN judged j ON j.id = k.retry_of
	)
	SELECT j.id, j.time, CASE WHEN j.why = '' AND k.id IS NOT NULL THEN 'a run that stays does them again' ELSE j.why END AS why
	FROM judged j LEFT JOIN kept k ON k.id = j.id WHERE j.time < ?0`

// removeRuns removes runs. Of one with more coverage and tallies than the
// limit, these go first, over several calls; it and its scopes go at once.
func removeRuns(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		old := func(and string, args ...any) (ids []string, err error) {
			err = tx.NewRaw("SELECT id FROM ("+oldRuns+") c WHERE why = '' "+and+" ORDER BY time, id LIMIT 200", append([]any{r.before, r.keep}, args...)...).Scan(ctx, &ids)
			return ids, err
		}
		ids, err := old("")
		if err != nil || len(ids) == 0 {
			return err
		}
		resp.More = len(ids) == 200
		var sizes []struct {
			ID              string
			Details, Scopes int64
		}
		err = tx.NewRaw(`
			SELECT id, (SELECT count(*) FROM run_scopes s WHERE s.run_id = id) AS scopes,
				(SELECT count(*) FROM coverage c WHERE c.run_id = id) + (SELECT count(*) FROM tallies t WHERE t.run_id = id) AS details
			FROM unnest(?::text[]) WITH ORDINALITY AS i (id, place) ORDER BY place`, pgdialect.Array(ids)).Scan(ctx, &sizes)
		if err != nil {
			return err
		}
		fit, whole := int64(0), 0
		for _, z := range sizes {
			if fit += 1 + z.Scopes + z.Details; fit > int64(r.limit) {
				break
			}
			whole++
		}
		resp.More = resp.More || whole < len(ids)
		trim := whole == 0 && sizes[0].Details > 0
		ids = ids[:max(whole, 1)]
		// Scopes before jobs, and then it is looked again whether they still go.
		if _, err := tx.NewRaw("SELECT FROM run_scopes WHERE run_id = ANY(?) ORDER BY run_id, account, region, service FOR UPDATE", pgdialect.Array(ids)).Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.lockRuns(ctx, ids...); err != nil {
			return err
		}
		if ids, err = old("AND id = ANY(?2)", pgdialect.Array(ids)); err != nil || len(ids) == 0 {
			return err
		}
		if trim {
			for _, table := range []string{"tallies", "coverage"} {
				n, err := tx.rows(ctx, "DELETE FROM ?0 WHERE ctid = ANY (ARRAY(SELECT ctid FROM ?0 WHERE run_id = ?1 LIMIT ?2))", bun.Ident(table), ids[0], int64(r.limit)-resp.Rows)
				if err != nil {
					return err
				}
				resp.Rows += n
			}
			resp.More = true
			return nil
		}
		for _, table := range []string{"tallies", "coverage", "batches", "finishes", "run_scopes"} {
			n, err := tx.rows(ctx, "DELETE FROM ? WHERE run_id = ANY(?)", bun.Ident(table), pgdialect.Array(ids))
			if err != nil {
				return err
			}
			resp.Rows += n
		}
		resp.Count, err = tx.rows(ctx, "DELETE FROM runs WHERE id = ANY(?)", pgdialect.Array(ids))
		resp.Rows += resp.Count
		return err
	})
}

// Findings. The newest transition of all stays: it is where watches go on from.

const oldFindings = `
	SELECT f.id, f.resolve_time AS time, f.service, f.account, f.region, CASE
		WHEN EXISTS (SELECT FROM orphans o WHERE o.finding_id = f.id) THEN 'no scan looks at them any more'
		WHEN EXISTS (SELECT FROM held h WHERE h.finding_id = f.id) THEN 'a change of theirs is held'
		WHEN f.id IN (SELECT t.finding_id FROM outbox o JOIN transitions t ON t.seq = o.transition WHERE o.error IS NULL) THEN 'a change of theirs is still to be published'
		WHEN f.id = (SELECT t.finding_id FROM transitions t ORDER BY t.seq DESC LIMIT 1) THEN 'they changed last of all'
		ELSE ''
	END AS why
	FROM findings f WHERE f.state = 2 AND f.resolve_time < ?0`

// removeFindings removes findings, each with all of its transitions.
func removeFindings(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		var rows []struct {
			ID                       string
			Service, Account, Region string
			Size                     int64
		}
		err := tx.NewRaw(`
			SELECT id, service, account, region, 2 + (SELECT count(*) FROM transitions t WHERE t.finding_id = o.id) AS size
			FROM (SELECT * FROM (`+oldFindings+`) c WHERE why = '' ORDER BY time, id LIMIT ?2) o ORDER BY time, id`,
			r.before, r.keep, r.limit/3+1).Scan(ctx, &rows)
		if err != nil || len(rows) == 0 {
			return err
		}
		var (
			keys []scopeKey
			ids  []string
			fit  int64
		)
		for _, row := range rows {
			if fit += row.Size; fit > int64(r.limit) && len(ids) > 0 {
				break
			}
			ids = append(ids, row.ID)
			keys = append(keys, scopeKey{Service: row.Service, Account: row.Account, Region: row.Region})
		}
		resp.More = len(ids) < len(rows) || len(rows) > r.limit/3
		if err := tx.lockScopes(ctx, keys); err != nil {
			return err
		}
		// Some may have been seen again until now.
		var gone []string
		if err := tx.NewRaw("SELECT id FROM ("+oldFindings+") c WHERE why = '' AND id = ANY(?2)", r.before, r.keep, pgdialect.Array(ids)).Scan(ctx, &gone); err != nil {
			return err
		}
		for _, of := range []string{"transitions WHERE finding_id", "checks WHERE id"} {
			n, err := tx.rows(ctx, "DELETE FROM "+of+" = ANY(?)", pgdialect.Array(gone))
			if err != nil {
				return err
			}
			resp.Rows += n
		}
		resp.Count, err = tx.rows(ctx, "DELETE FROM findings WHERE id = ANY(?)", pgdialect.Array(gone))
		resp.Rows += resp.Count
		return err
	})
}

// What scans remember.

// inReach is the condition that scans look at the account and region of t. Of
// what is not in a region, the account alone counts.
const inReach = `EXISTS (SELECT FROM accounts a WHERE a.id = t.account
		AND (cardinality(a.regions) = 0 OR t.region = ANY(a.regions) OR t.region !~ '^[a-z]{2}(-[a-z]+)+-[0-9]+$'))`

const oldSightings = `
	SELECT t.scan_time AS time, CASE WHEN ` + inReach + ` THEN 'scans look at their account and region' ELSE '' END AS why
	FROM (
		SELECT account, region, scan_time FROM sightings UNION ALL SELECT account, region, scan_time FROM listings
	) t WHERE t.scan_time < ?0 AND t.account <> '-'
	UNION ALL
	SELECT c.checked_time, '' FROM checks c WHERE c.checked_time < ?0 AND NOT EXISTS (SELECT FROM findings f WHERE f.id = c.id)`

// scopesAtOnce is how many scopes one removal locks.
const scopesAtOnce = 100

func removeSightings(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		const out = "t.scan_time < ?0 AND t.account <> '-' AND NOT " + inReach
		var keys []scopeKey
		err := tx.NewRaw(`
			SELECT service, account, region FROM sightings t WHERE `+out+` UNION SELECT service, account, region FROM listings t WHERE `+out+`
			ORDER BY account, region, service LIMIT ?1`, r.before, scopesAtOnce).Scan(ctx, &keys)
		if err != nil {
			return err
		}
		if len(keys) > 0 {
			if err := tx.lockScopes(ctx, keys); err != nil {
				return err
			}
		}
		services, accounts, regions := columnsOf(keys)
		for _, table := range []string{"sightings", "listings"} {
			n, err := tx.rows(ctx, `DELETE FROM ?1 WHERE ctid = ANY (ARRAY(SELECT t.ctid FROM ?1 t WHERE `+out+`
				AND (t.service, t.account, t.region) IN (SELECT * FROM unnest(?2::text[], ?3::text[], ?4::text[])) LIMIT ?5))`,
				r.before, bun.Ident(table), pgdialect.Array(services), pgdialect.Array(accounts), pgdialect.Array(regions), int64(r.limit)-resp.Count)
			if err != nil {
				return err
			}
			resp.Count += n
		}
		n, err := tx.rows(ctx, `DELETE FROM checks WHERE id = ANY (ARRAY(SELECT c.id FROM checks c
			WHERE c.checked_time < ? AND NOT EXISTS (SELECT FROM findings f WHERE f.id = c.id) LIMIT ?))`, r.before, int64(r.limit)-resp.Count)
		resp.Count += n
		resp.Rows, resp.More = resp.Count, resp.Count == int64(r.limit) || len(keys) == scopesAtOnce
		return err
	})
}

func columnsOf(keys []scopeKey) (services, accounts, regions []string) {
	services, accounts, regions = []string{}, []string{}, []string{}
	for _, k := range keys {
		services, accounts, regions = append(services, k.Service), append(accounts, k.Account), append(regions, k.Region)
	}
	return services, accounts, regions
}

// Figures of days, and what only they kept: instances that are gone. Of
// components, what became of them.

const oldDays = `
	SELECT d.account, d.region, d.instance, d.day,
		CASE WHEN i.gone_time IS NULL AND d.day = i.latest_day THEN 'they are the newest of an instance' ELSE '' END AS why
	FROM instance_days d JOIN instances i ON i.account = d.account AND i.region = d.region AND i.id = d.instance
	WHERE d.day < (?0 AT TIME ZONE 'UTC')::date`

const oldInstances = `
	SELECT i.account, i.region, i.id, i.gone_time AS time FROM instances i WHERE i.gone_time < ?0
		AND NOT EXISTS (SELECT FROM instance_days d WHERE d.account = i.account AND d.region = i.region AND d.instance = i.id
			AND d.day >= (?0 AT TIME ZONE 'UTC')::date)`

const oldComponents = `
	SELECT t.id, t.time, CASE WHEN t.id = (SELECT n.id FROM component_transitions n WHERE n.component = t.component ORDER BY n.time DESC LIMIT 1)
		THEN 'they are the newest of a component' ELSE '' END AS why
	FROM component_transitions t WHERE t.time < ?0`

const oldMetrics = `
	SELECT day::timestamp AT TIME ZONE 'UTC' AS time, why FROM (` + oldDays + `) d
	UNION ALL SELECT time, '' FROM (` + oldInstances + `) i
	UNION ALL SELECT time, why FROM (` + oldComponents + `) t`

func removeMetrics(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		n, err := tx.rows(ctx, `
			DELETE FROM instance_days d USING (SELECT * FROM (`+oldDays+`) c WHERE why = '' ORDER BY day LIMIT ?1) o
			WHERE d.account = o.account AND d.region = o.region AND d.instance = o.instance AND d.day = o.day`, r.before, r.limit)
		if err != nil {
			return err
		}
		resp.Count += n
		if left := int64(r.limit) - resp.Count; left > 0 {
			// Whoever is to write a day of one has it: a day that has come by then is seen by the next statement.
			var keys []struct{ Account, Region, ID string }
			err := tx.NewRaw("SELECT account, region, id FROM instances WHERE (account, region, id) IN (SELECT account, region, id FROM ("+oldInstances+") c LIMIT ?1) ORDER BY account, region, id FOR UPDATE",
				r.before, left).Scan(ctx, &keys)
			if err != nil {
				return err
			}
			var accounts, regions, ids []string
			for _, k := range keys {
				accounts, regions, ids = append(accounts, k.Account), append(regions, k.Region), append(ids, k.ID)
			}
			n, err := tx.rows(ctx, `
				DELETE FROM instances i WHERE (i.account, i.region, i.id) IN (SELECT * FROM unnest(?1::text[], ?2::text[], ?3::text[])) AND i.gone_time < ?0
					AND NOT EXISTS (SELECT FROM instance_days d WHERE d.account = i.account AND d.region = i.region AND d.instance = i.id)`,
				r.before, pgdialect.Array(accounts), pgdialect.Array(regions), pgdialect.Array(ids))
			if err != nil {
				return err
			}
			resp.Count += n
		}
		if left := int64(r.limit) - resp.Count; left > 0 {
			n, err := tx.rows(ctx, "DELETE FROM component_transitions WHERE id = ANY (ARRAY(SELECT id FROM ("+oldComponents+") c WHERE why = '' ORDER BY time LIMIT ?1))", r.before, left)
			if err != nil {
				return err
			}
			resp.Count += n
		}
		resp.Rows, resp.More = resp.Count, resp.Count == int64(r.limit)
		return nil
	})
}

// Small tables, of which rows go one by one.

const oldExemptions = `
	SELECT x.id, x.expire_time AS time, CASE WHEN EXISTS (SELECT FROM findings f WHERE f.exemption_id = x.id) THEN 'findings point at them' ELSE '' END AS why
	FROM exemptions x WHERE x.expired AND x.expire_time < ?0`

const oldMessages = `
	SELECT o.id, o.time, CASE WHEN o.error IS NULL THEN 'they are still to be published' ELSE '' END AS why
	FROM outbox o WHERE o.time < ?0`

const oldOnboardings = `
	SELECT o.id, o.update_time AS time, CASE WHEN o.state IN (3, 5) THEN '' ELSE 'they are under way' END AS why
	FROM onboardings o WHERE o.update_time < ?0`

func removeExemptions(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		// Whoever changes findings shares it, and points at no expired one.
		if err := tx.lockScopes(ctx, nil); err != nil {
			return err
		}
		return tx.removeByID(ctx, "exemptions", oldExemptions, r, resp)
	})
}

func removeMessages(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		return tx.removeByID(ctx, "outbox", oldMessages, r, resp)
	})
}

func removeOnboardings(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		return tx.removeByID(ctx, "onboardings", oldOnboardings, r, resp)
	})
}

// removeByID removes rows that never change once they are to go.
func (tx *transaction) removeByID(ctx context.Context, table, candidates string, r retention, resp *applied) (err error) {
	resp.Count, err = tx.rows(ctx, "DELETE FROM ?2 WHERE id = ANY (ARRAY(SELECT id FROM ("+candidates+") c WHERE why = '' ORDER BY time, id LIMIT ?3))",
		r.before, r.keep, bun.Ident(table), r.limit)
	resp.Rows, resp.More = resp.Count, resp.Count == int64(r.limit)
	return err
}
