package persistence

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/schema"
	"google.golang.org/protobuf/proto"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

// listing is a row of listings.
type listing struct {
	bun.BaseModel `bun:"table:listings,alias:l"`

	Service      string     `bun:",pk"`
	Account      string     `bun:",pk"`
	Region       string     `bun:",pk"`
	ResourceType string     `bun:",pk"`
	ScanTime     time.Time  `bun:""`
	CompleteTime *time.Time `bun:""`
}

// sighting is a row of sightings.
type sighting struct {
	bun.BaseModel `bun:"table:sightings,alias:s"`

	Service      string     `bun:",pk"`
	Account      string     `bun:",pk"`
	Region       string     `bun:",pk"`
	ARN          string     `bun:"arn,pk"`
	State        string     `bun:",pk"`
	ResourceType string     `bun:""`
	FirstSeen    time.Time  `bun:""`
	Before       *time.Time `bun:""`
	ScanTime     time.Time  `bun:""`
}

// staleTypes are the resource types of which a newer scan has been taken in
// already. What an older one did not see proves nothing any more, since
// "twice in a row" is about the order of scans, not that of messages.
func (tx *transaction) staleTypes(ctx context.Context, k scopeKey, scan time.Time) (map[string]bool, error) {
	var types []string
	err := tx.NewSelect().Model((*listing)(nil)).Column("resource_type").
		Where("l.service = ?", k.Service).Where("l.account = ?", k.Account).Where("l.region = ?", k.Region).
		Where("l.scan_time > ?", scan).Scan(ctx, &types)
	stale := map[string]bool{}
	for _, t := range types {
		stale[t] = true
	}
	return stale, err
}

// recordListings remembers when each type was listed. Findings of the scope that
// were orphans and have been looked at are so no longer.
func (tx *transaction) recordListings(ctx context.Context, k scopeKey, scan time.Time, complete, stale map[string]bool) error {
	var rows []*listing
	for _, t := range slices.Sorted(maps.Keys(complete)) {
		if stale[t] {
			continue
		}
		l := &listing{Service: k.Service, Account: k.Account, Region: k.Region, ResourceType: t, ScanTime: scan}
		if complete[t] {
			l.CompleteTime = &scan
		}
		rows = append(rows, l)
	}
	if len(rows) == 0 {
		return nil
	}
	_, err := tx.NewInsert().Model(&rows).On("CONFLICT (service, account, region, resource_type) DO UPDATE").
		Set("scan_time = EXCLUDED.scan_time").Set("complete_time = coalesce(EXCLUDED.complete_time, l.complete_time)").Exec(ctx)
	if err != nil {
		return err
	}
	return tx.reclaimScope(ctx, k)
}

// ruleTypes are rules, each with a type it was run on.
type ruleTypes struct{ rules, types []string }

func (r *ruleTypes) add(t *tallyRow) {
	r.rules, r.types = append(r.rules, t.RuleID), append(r.types, t.ResourceType)
}

// of is the condition that a finding f is of one of them.
func (r *ruleTypes) of() schema.QueryAppender {
	return bun.SafeQuery("(f.rule_id, f.resource_type) IN (SELECT * FROM unnest(?::text[], ?::text[]))",
		pgdialect.Array(r.rules), pgdialect.Array(r.types))
}

// resolveAbsent counts the scans that did not show a resource although they
// listed all of its type, and resolves findings at the second in a row. A scan
// in between that did not list everything begins the count anew. It touches
// findings of the rules that were run, on the types they were run on, and if
// the whole scope failed, those of all rules of the service.
func (tx *transaction) resolveAbsent(ctx context.Context, row *runScope, scan time.Time, rules map[string]*tallyRow, complete, stale map[string]bool, failed bool) error {
	var listed, unlisted ruleTypes
	for _, t := range rules {
		switch {
		case stale[t.ResourceType]:
		case complete[t.ResourceType]:
			listed.add(t)
		default:
			unlisted.add(t)
		}
	}
	scope := []any{row.Account, row.Region, row.Service}
	if failed || len(unlisted.rules) > 0 {
		_, err := tx.NewRaw(`
			UPDATE checks c SET absent_runs = 0 FROM findings f
			WHERE c.id = f.id AND (f.account, f.region, f.service) = (?) AND (? OR ?) AND c.absent_runs > 0`,
			bun.List(scope), failed, unlisted.of()).Exec(ctx)
		if err != nil {
			return err
		}
	}
	if len(listed.rules) == 0 {
		return nil
	}
	var gone []*struct {
		finding
		goneFrom
	}
	if err := tx.holdAbsent(ctx, row, scan, &listed); err != nil {
		return err
	}
	err := tx.NewRaw(`
		UPDATE findings f SET state = 2, resolve_time = ?, exemption = NULL, exemption_id = '', ack = NULL, ack_until = NULL, revision = f.revision + 1
		FROM checks c JOIN findings o ON o.id = c.id
		WHERE c.id = f.id AND (f.account, f.region, f.service) = (?) AND ? AND f.state <> 2
			AND c.checked_run_id <> ? AND c.checked_time <= ? AND c.absent_runs > 0
			AND NOT EXISTS (SELECT FROM held h WHERE h.finding_id = f.id)
		RETURNING f.*, c.last_seen, c.last_run_id, o.state AS from_state, o.exemption AS from_exemption, o.ack AS from_ack`, scan, bun.List(scope), listed.of(), row.RunID, scan).Scan(ctx, &gone)
	if err != nil {
		return err
	}
	ids := make([]string, len(gone))
	for i, f := range gone {
		ids[i] = f.ID
	}
	_, err = tx.NewRaw("UPDATE checks SET checked_time = ?, checked_run_id = ?, absent_runs = 0 WHERE id = ANY(?)", scan, row.RunID, pgdialect.Array(ids)).Exec(ctx)
	if err != nil {
		return err
	}
	_, err = tx.NewRaw(`
		UPDATE checks c SET absent_runs = 1 FROM findings f
		WHERE c.id = f.id AND (f.account, f.region, f.service) = (?) AND ? AND f.state <> 2
			AND c.checked_run_id <> ? AND c.checked_time <= ?`, bun.List(scope), listed.of(), row.RunID, scan).Exec(ctx)
	if err != nil {
		return err
	}
	row.Resolved += int64(len(gone))
	for _, f := range gone {
		if err := tx.gone(&f.finding, f.goneFrom, row.RunID, scan); err != nil {
			return err
		}
	}
	return tx.countChanges(ctx, row.scopeKey, runChange{Resolved: int64(len(gone))})
}

// keepSightings takes over what an execution saw in states that rules follow,
// and forgets what a complete listing did not show any more.
func (tx *transaction) keepSightings(ctx context.Context, f *finish, scan time.Time, complete, stale map[string]bool) error {
	var batches [][]byte
	err := tx.NewSelect().Model((*batch)(nil)).Column("sightings").ApplyQueryBuilder(f.where).
		Where("execution = ?", f.Execution).Where("sightings IS NOT NULL").Scan(ctx, &batches)
	if err != nil {
		return err
	}
	seen := map[[2]string]string{} // type by ARN and state
	for _, b := range batches {
		m := &findingv1.FindingsObserved{}
		if err := proto.Unmarshal(b, m); err != nil {
			return err
		}
		for _, s := range m.GetSightings() {
			if t := clean(s.GetResourceType()); !stale[t] {
				seen[[2]string{clean(s.GetArn()), clean(s.GetState())}] = t
			}
		}
	}
	if len(seen) > 0 {
		_, err := tx.NewRaw(`CREATE TEMP TABLE IF NOT EXISTS sighted (arn text COLLATE "C", state text COLLATE "C", resource_type text COLLATE "C") ON COMMIT DELETE ROWS`).Exec(ctx)
		if err != nil {
			return err
		}
		// Two scopes may end in one transaction.
		if _, err := tx.NewRaw("TRUNCATE sighted").Exec(ctx); err != nil {
			return err
		}
		keys := slices.SortedFunc(maps.Keys(seen), func(a, b [2]string) int { return strings.Compare(a[0]+"\x00"+a[1], b[0]+"\x00"+b[1]) })
		err = tx.copyInto(ctx, "sighted", []string{"arn", "state", "resource_type"}, len(keys), func(i int) ([]any, error) {
			return []any{keys[i][0], keys[i][1], seen[keys[i]]}, nil
		})
		if err != nil {
			return err
		}
		// Seen otherwise: the state it was in has ended, however long ago it began.
		_, err = tx.NewRaw(`
			DELETE FROM sightings s USING sighted g
			WHERE s.service = ? AND s.account = ? AND s.region = ? AND s.arn = g.arn AND s.state <> g.state AND s.scan_time < ?
				AND NOT EXISTS (SELECT FROM sighted o WHERE o.arn = s.arn AND o.state = s.state)`,
			f.Service, f.Account, f.Region, scan).Exec(ctx)
		if err != nil {
			return err
		}
		_, err = tx.NewRaw(`
			INSERT INTO sightings AS s (service, account, region, arn, state, resource_type, first_seen, before, scan_time)
			SELECT ?0, ?1, ?2, g.arn, g.state, g.resource_type, ?3::timestamptz, l.complete_time, ?3::timestamptz
			FROM sighted g LEFT JOIN listings l ON l.service = ?0 AND l.account = ?1 AND l.region = ?2 AND l.resource_type = g.resource_type
			ON CONFLICT (service, account, region, arn, state) DO UPDATE SET scan_time = greatest(s.scan_time, EXCLUDED.scan_time)`,
			f.Service, f.Account, f.Region, scan).Exec(ctx)
		if err != nil {
			return err
		}
	}
	listed := []string{}
	for t, all := range complete {
		if all && !stale[t] {
			listed = append(listed, t)
		}
	}
	_, err = tx.NewDelete().Model((*sighting)(nil)).
		Where("s.service = ?", f.Service).Where("s.account = ?", f.Account).Where("s.region = ?", f.Region).
		Where("s.resource_type = ANY(?)", pgdialect.Array(listed)).Where("s.scan_time < ?", scan).Exec(ctx)
	return err
}

// sightingsOf is what a batch keeps for the end of its scope, or nil.
func sightingsOf(m *findingv1.FindingsObserved) ([]byte, error) {
	var kept []*scanv1.Sighting
	for _, s := range m.GetSightings() {
		if s.GetArn() != "" && s.GetState() != "" {
			kept = append(kept, &scanv1.Sighting{Arn: s.GetArn(), ResourceType: s.GetResourceType(), State: s.GetState()})
		}
	}
	if len(kept) == 0 {
		return nil, nil
	}
	return proto.Marshal(&findingv1.FindingsObserved{Sightings: kept})
}
