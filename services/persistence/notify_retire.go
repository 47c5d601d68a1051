package persistence

import "context"

// oldNotices are events, by when they came. Those that wait to be told stay.
const oldNotices = `
	SELECT n.group_id, n.event_id, n.seq, n.add_time AS time, CASE WHEN n.seq > g.told THEN 'they wait to be told' ELSE '' END AS why
	FROM notices n JOIN notice_groups g ON g.id = n.group_id WHERE n.add_time < ?0`

const oldDeliveries = `SELECT d.id, d.end_time AS time, '' AS why FROM deliveries d WHERE d.end_time < ?0`

const oldSilences = `SELECT x.id, x.expire_time AS time, '' AS why FROM silences x WHERE x.expire_time < ?0`

// removeNotices removes events, and with them what is as old: that findings
// are closed in a group, and groups. A group counts its messages, and the count
// is in their keys: it stays until receivers have forgotten those.
func removeNotices(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) (err error) {
		// What was told stays so: none of these can wait again.
		resp.Count, err = tx.rows(ctx, `
			DELETE FROM notices WHERE (group_id, event_id) IN (SELECT group_id, event_id FROM (`+oldNotices+`) c WHERE why = '' ORDER BY time, seq LIMIT ?1)`, r.before, r.limit)
		if err != nil {
			return err
		}
		closed, err := tx.rows(ctx, `
			DELETE FROM group_findings WHERE (route, finding_id) IN (
				SELECT route, finding_id FROM group_findings WHERE NOT open AND time < ? ORDER BY time LIMIT ? FOR UPDATE SKIP LOCKED)`, r.before, r.limit)
		if err != nil {
			return err
		}
		groups, err := tx.rows(ctx, `
			DELETE FROM notice_groups WHERE id IN (
				SELECT id FROM notice_groups g
				WHERE due_time IS NULL AND (lease_time IS NULL OR lease_time < ?0) AND coalesce(last_message_time, create_time) < ?0::timestamptz - interval '90 days'
					AND NOT EXISTS (SELECT FROM notices n WHERE n.group_id = g.id) AND NOT EXISTS (SELECT FROM group_findings o WHERE o.group_id = g.id)
				LIMIT ?1 FOR UPDATE SKIP LOCKED)`, r.before, r.limit)
		resp.Rows = resp.Count + closed + groups
		resp.More = max(resp.Count, closed, groups) >= int64(r.limit)
		return err
	})
}

// removeDeliveries removes deliveries, and the health of made-up receivers that
// nothing has gone to since.
func removeDeliveries(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		if err := tx.removeByID(ctx, "deliveries", oldDeliveries, r, resp); err != nil {
			return err
		}
		health, err := tx.rows(ctx, "DELETE FROM receiver_health h WHERE starts_with(receiver, 'mailto:') AND update_time < ? AND NOT EXISTS (SELECT FROM deliveries d WHERE d.receiver = h.receiver)", r.before)
		resp.Rows += health
		return err
	})
}

func removeSilences(ctx context.Context, s *Service, r retention) (*applied, error) {
	return s.removal(ctx, func(ctx context.Context, tx *transaction, resp *applied) error {
		return tx.removeByID(ctx, "silences", oldSilences, r, resp)
	})
}
