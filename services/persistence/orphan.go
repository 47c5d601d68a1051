package persistence

import (
	"context"
	"time"

	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
)

// newOrphans are findings that no scan looks at any more and that are not
// marked yet.
const newOrphans = `
	SELECT t.id, t.first_seen AS time, t.service, t.account, t.region, '' AS why,
		CASE WHEN EXISTS (SELECT FROM accounts a WHERE a.id = t.account) THEN 2 ELSE 1 END AS reason
	FROM findings t WHERE t.state <> 2 AND NOT EXISTS (SELECT FROM orphans o WHERE o.finding_id = t.id) AND NOT ` + inReach

// orphanRow is a row of orphans.
type orphanRow struct {
	ID, FindingID            string
	Service, Account, Region string
	Reason                   findingv1.OrphanReason
	Time                     time.Time
}

func (o *orphanRow) proto() *findingv1.Orphan {
	return &findingv1.Orphan{FindingId: o.FindingID, Reason: o.Reason, Time: timestamppb.New(o.Time)}
}

// orphansAtOnce bounds the findings of one transaction, which it reads in full
// for their events.
const orphansAtOnce = 1000

// markOrphans marks findings and says so; and takes away marks of those that a
// scan has looked at since, where the end of the scan has not.
func markOrphans(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		limit := min(r.limit, orphansAtOnce)
		var rows []*orphanRow
		err := tx.NewRaw("SELECT id, service, account, region FROM ("+newOrphans+") c ORDER BY account, region, service, id LIMIT ?", limit).Scan(ctx, &rows)
		if err != nil {
			return err
		}
		var back []*orphanRow
		if len(rows) < limit {
			if err := tx.NewRaw("SELECT finding_id AS id, service, account, region FROM ("+reclaimable+") o ORDER BY account, region, service, finding_id LIMIT ?", limit-len(rows)).Scan(ctx, &back); err != nil {
				return err
			}
		}
		var (
			keys []scopeKey
			ids  []string
		)
		for _, o := range append(rows, back...) {
			keys = append(keys, scopeKey{Service: o.Service, Account: o.Account, Region: o.Region})
			ids = append(ids, o.ID)
		}
		if len(ids) == 0 {
			return nil
		}
		if err := tx.lockScopes(ctx, keys); err != nil {
			return err
		}
		var marked []*orphanRow
		err = tx.NewRaw(`
			INSERT INTO orphans (finding_id, service, account, region, reason, time)
			SELECT id, service, account, region, reason, ?0 FROM (`+newOrphans+`) c WHERE id = ANY(?1) ORDER BY id
			RETURNING *`, micros(tx.now), pgdialect.Array(ids)).Scan(ctx, &marked)
		if err != nil {
			return err
		}
		err = tx.tellOrphans(ctx, marked, func(f *findingv1.Finding, o *findingv1.Orphan) {
			tx.publish(&findingv1.FindingOrphaned{Finding: f, Orphan: o})
		})
		if err != nil {
			return err
		}
		resp.Count = int64(len(marked))
		if resp.Reclaimed, err = tx.reclaim(ctx, "o.finding_id = ANY(?)", pgdialect.Array(ids)); err != nil {
			return err
		}
		resp.Rows = resp.Count + resp.Reclaimed
		resp.More = len(ids) == limit
		return nil
	})
}

// reclaimable are marks of findings that scans look at, and one has since the
// mark was made.
const reclaimable = `
	SELECT t.* FROM orphans t JOIN checks c ON c.id = t.finding_id WHERE c.checked_time >= t.time AND ` + inReach

// reclaim takes away the marks of findings that a scan has looked at, and says
// so. Their scopes are locked.
func (tx *transaction) reclaim(ctx context.Context, where string, args ...any) (int64, error) {
	var rows []*orphanRow
	err := tx.NewRaw("DELETE FROM orphans o WHERE "+where+" AND o.finding_id IN (SELECT finding_id FROM ("+reclaimable+") r) RETURNING *", args...).Scan(ctx, &rows)
	if err != nil {
		return 0, err
	}
	return int64(len(rows)), tx.tellOrphans(ctx, rows, func(f *findingv1.Finding, o *findingv1.Orphan) {
		tx.publish(&findingv1.FindingReclaimed{Finding: f, Orphan: o, Time: timestamppb.New(tx.now)})
	})
}

// tellOrphans hands over each mark with its finding.
func (tx *transaction) tellOrphans(ctx context.Context, rows []*orphanRow, tell func(*findingv1.Finding, *findingv1.Orphan)) error {
	if len(rows) == 0 {
		return nil
	}
	byID, ids := map[string]*orphanRow{}, make([]string, len(rows))
	for i, o := range rows {
		byID[o.FindingID], ids[i] = o, o.FindingID
	}
	var found []*finding
	if err := selectFindings(tx).Where("f.id = ANY(?)", pgdialect.Array(ids)).Order("f.id").Scan(ctx, &found); err != nil {
		return err
	}
	for _, f := range found {
		p, err := f.proto()
		if err != nil {
			return err
		}
		tell(p, byID[f.ID].proto())
	}
	return nil
}

// reclaimScope takes away the marks in a scope that a scan has just looked at.
func (tx *transaction) reclaimScope(ctx context.Context, k scopeKey) error {
	_, err := tx.reclaim(ctx, "o.account = ? AND o.region = ? AND o.service = ?", k.Account, k.Region, k.Service)
	return err
}
