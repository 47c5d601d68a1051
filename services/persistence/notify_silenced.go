package persistence

import (
	"context"

	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/filter"
)

// silenceNotices marks the events of claimed groups that a silence covers
// which has begun since they came: events that are silenced when they come are
// marked by who adds them.
func (tx *transaction) silenceNotices(ctx context.Context, groups []*noticeGroup) error {
	var silences []*silence
	err := tx.NewSelect().Model(&silences).Where("x.start_time <= ?", tx.now).Where("x.expire_time > ?", tx.now).Order("x.id").Scan(ctx)
	if err != nil || len(silences) == 0 || len(groups) == 0 {
		return err
	}
	wheres := make([]*filter.Filter, len(silences))
	for i, x := range silences {
		wheres[i], _ = filter.Compile(x.Filter, filter.Notices) // one that cannot be read silences nothing, as in the notification service
	}
	ids := make([]int64, len(groups))
	for i, g := range groups {
		ids[i] = g.ID
	}
	const page = 2000 // of events in memory
	for last := int64(-1); ; {
		var rows []struct {
			Seq    int64
			Notice []byte
		}
		err := tx.NewRaw("SELECT n.seq, n.notice FROM notices n JOIN notice_groups g ON g.id = n.group_id WHERE "+waitingNotices+" AND n.silence_id = '' AND n.seq > ?1 ORDER BY n.seq LIMIT ?2",
			pgdialect.Array(ids), last, page).Scan(ctx, &rows)
		if err != nil {
			return err
		}
		covered := map[string][]int64{} // by silence
		for _, row := range rows {
			last = row.Seq
			n := &notificationv1.Notice{}
			if err := proto.Unmarshal(row.Notice, n); err != nil {
				return err
			}
			value := filter.Notice(n)
			for i, where := range wheres {
				if where != nil && where.Match(value) {
					covered[silences[i].ID] = append(covered[silences[i].ID], row.Seq)
					break
				}
			}
		}
		for id, seqs := range covered {
			if _, err := tx.NewRaw("UPDATE notices SET silence_id = ? WHERE group_id = ANY(?) AND seq = ANY(?)", id, pgdialect.Array(ids), pgdialect.Array(seqs)).Exec(ctx); err != nil {
				return err
			}
		}
		if len(rows) < page {
			return nil
		}
	}
}
