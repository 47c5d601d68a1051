package persistence

import (
	"time"

	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

const (
	// entriesPerMessage bounds a response of WatchEntries well below what a
	// client takes in one message.
	entriesPerMessage = 100
	// watchBack is how far before now a watch of entries may begin; a caller's
	// clock may be a little behind.
	watchBack = time.Hour + time.Minute
)

// WatchEntries implements SystemLogService. Ids of entries are drawn under the
// lock under which they are committed, like the numbers of transitions: they rise
// in the order in which entries become visible, so that a watch that has read up
// to an id has missed nothing before it. The other ways are worse: to look back
// over ids drawn and not yet seen is right only if no transaction takes longer
// than it looks back, and an order by transaction ids waits for the oldest
// transaction of the whole server. The lock is held for the last insert of a
// transaction and its commit, and only by those that have something to say.
func (s *Service) WatchEntries(req *systemlogv1.WatchEntriesRequest, stream systemlogv1.SystemLogService_WatchEntriesServer) error {
	ctx, caller := stream.Context(), auth.From(stream.Context())
	where, err := entryFields.parse(req.GetFilter())
	if err != nil {
		return err
	}
	since, err := s.watchSince(req)
	if err != nil {
		return err
	}
	wake, cancel := s.wakeup.subscribe(topicEntries)
	defer cancel()
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	// Up to now those after since count, and from now on all.
	var position, now int64
	if err := db.NewRaw("SELECT coalesce(max(id), 0) FROM system_log").Scan(ctx, &now); err != nil {
		return fault(err)
	}
	position = now
	if since != nil {
		if err := db.NewRaw("SELECT coalesce(min(id) - 1, ?) FROM system_log WHERE time > ?", now, *since).Scan(ctx, &position); err != nil {
			return fault(err)
		}
		position = min(position, now)
	}
	// The first response tells that the watch has begun, before anything happens.
	if err := stream.Send(&systemlogv1.WatchEntriesResponse{}); err != nil {
		return err
	}
	life := time.NewTicker(signOfLife)
	defer life.Stop()
	for {
		var rows []*entry
		if err := db.NewSelect().Model(&rows).Where("l.id > ?", position).Order("l.id").Limit(entriesPerMessage).Scan(ctx); err != nil {
			return fault(err)
		}
		resp := &systemlogv1.WatchEntriesResponse{}
		for _, e := range rows {
			position = e.ID
			if (e.ID > now || e.Time.After(*since)) && caller.Sees(e.Account) && where.match(e.value) {
				resp.Entries = append(resp.Entries, e.proto())
			}
		}
		if len(resp.GetEntries()) > 0 {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		if len(rows) == entriesPerMessage && ctx.Err() == nil {
			continue
		}
		select {
		case <-wake:
		case <-life.C:
			if err := stream.Send(&systemlogv1.WatchEntriesResponse{}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return stopped()
		}
	}
}

// watchSince is the time after which a watch begins, or nil for now.
func (s *Service) watchSince(req *systemlogv1.WatchEntriesRequest) (*time.Time, error) {
	if req.GetSinceTime() == nil {
		return nil, nil
	}
	since := timeOf(req.GetSinceTime())
	if since == nil || s.now().Sub(*since) > watchBack {
		return nil, errs.New(errs.InvalidArgument, "BAD_SINCE_TIME", "the watch cannot begin").
			Field("since_time", "is no time, or more than an hour ago; list the entries before, or leave it empty to begin now")
	}
	return since, nil
}

// value is a field of an entry as the filter asks for it. It is the
// counterpart of the columns in entryFields.
func (e *entry) value(name string) any {
	switch name {
	case "id":
		return e.ID
	case "time":
		return e.Time
	case "level":
		return int64(e.Level)
	case "event":
		return e.Event
	case "message":
		return e.Message
	case "service":
		return e.Service
	case "job":
		return e.Job
	case "run_id":
		return e.RunID
	case "account":
		return e.Account
	default: // region
		return e.Region
	}
}
