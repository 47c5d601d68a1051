package persistence

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/errs"
)

// watchPace is the least time between two looks at a run that is watched: its
// scopes change with every batch.
const watchPace = 200 * time.Millisecond

// scopesPerMessage bounds a response of WatchRun well below what a client
// takes in one message.
const scopesPerMessage = 500

// WatchRun implements RunService.
func (s *Service) WatchRun(req *runv1.WatchRunRequest, stream runv1.RunService_WatchRunServer) error {
	if err := refuseNUL(req, ""); err != nil {
		return err
	}
	ctx := stream.Context()
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	wake, cancel := s.wakeup.subscribe(topicRun + req.GetId())
	defer cancel()
	poll := time.NewTicker(5 * time.Second)
	defer poll.Stop()
	sent := map[scopeKey]string{}
	var sentRun string
	for {
		// Of one moment, so that the last response has the end of every scope.
		var (
			r      *runv1.Run
			scopes []*runv1.RunScope
		)
		err := db.RunInTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, func(ctx context.Context, tx bun.Tx) (err error) {
			if _, r, err = readRun(ctx, tx, tx.NewSelect(), req.GetId()); err != nil {
				return err
			}
			var rows []*runScope
			if err := tx.NewSelect().Model(&rows).Where("rs.run_id = ?", req.GetId()).Order("account", "region", "service").Scan(ctx); err != nil {
				return err
			}
			changed := rows[:0]
			for _, row := range rows {
				if v := row.version(); sent[row.scopeKey] != v {
					sent[row.scopeKey] = v
					changed = append(changed, row)
				}
			}
			scopes, err = readScopes(ctx, tx, changed)
			return err
		})
		if err != nil && !errors.Is(err, errs.NotFound) {
			return fault(err)
		}
		if err == nil {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
			if err != nil {
				return err
			}
			if len(scopes) > 0 || string(b) != sentRun {
				sentRun = string(b)
				for first := true; first || len(scopes) > 0; first = false {
					n := min(len(scopes), scopesPerMessage)
					if err := stream.Send(&runv1.WatchRunResponse{Run: r, Scopes: scopes[:n]}); err != nil {
						return err
					}
					scopes = scopes[n:]
				}
			}
			if r.GetEndTime() != nil {
				return nil
			}
		}
		pace := time.NewTimer(watchPace)
		select {
		case <-pace.C:
		case <-ctx.Done():
			pace.Stop()
			return ctx.Err()
		case <-s.stopping:
			pace.Stop()
			return stopped()
		}
		select {
		case <-wake:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return stopped()
		}
	}
}

// stopped ends what watches when the service stops.
func stopped() error {
	return errs.New(errs.Unavailable, "STOPPING", "the service is stopping; watch again").RetryAfter(time.Second)
}
