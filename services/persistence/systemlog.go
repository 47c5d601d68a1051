package persistence

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/uptrace/bun"
	"google.golang.org/protobuf/types/known/timestamppb"

	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/page"
)

// entry is a row of the system log.
type entry struct {
	bun.BaseModel `bun:"table:system_log,alias:l"`

	ID         int64             `bun:",nullzero"`
	Time       time.Time         `bun:""`
	Level      systemlogv1.Level `bun:""`
	Event      string            `bun:""`
	Message    string            `bun:""`
	Service    string            `bun:""`
	Job        string            `bun:""`
	RunID      string            `bun:""`
	Account    string            `bun:""`
	Region     string            `bun:""`
	Attributes map[string]string `bun:"type:jsonb"`
}

// entryFields are what entries can be filtered by.
var entryFields = fields{
	"id":      {column: "l.id", kind: kindInteger},
	"time":    {column: "l.time", kind: kindTime},
	"level":   {column: "l.level", kind: kindRank, values: enumValues(systemlogv1.Level(0))},
	"event":   {column: "l.event", kind: kindText},
	"message": {column: "l.message", kind: kindText},
	"service": {column: "l.service", kind: kindText},
	"job":     {column: "l.job", kind: kindText},
	"run_id":  {column: "l.run_id", kind: kindText},
	"account": {column: "l.account", kind: kindText},
	"region":  {column: "l.region", kind: kindText},
}

var entryOrder = order[*entry]{
	{expr: "l.time", desc: true, key: timeKey(func(e *entry) time.Time { return e.Time })},
	{expr: "l.id", desc: true, key: intKey(func(e *entry) int64 { return e.ID })},
}

// ListEntries implements SystemLogService.
func (s *Service) ListEntries(ctx context.Context, req *systemlogv1.ListEntriesRequest) (*systemlogv1.ListEntriesResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := entryFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, entryOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"entries", req.GetFilter()},
		func() *bun.SelectQuery {
			return where.apply(only(ctx, "l.account", db.NewSelect().Model((*entry)(nil))))
		})
	if err != nil {
		return nil, err
	}
	resp := &systemlogv1.ListEntriesResponse{NextPageToken: next}
	for _, e := range rows {
		resp.Entries = append(resp.Entries, e.proto())
	}
	return resp, nil
}

func (e *entry) proto() *systemlogv1.Entry {
	return &systemlogv1.Entry{
		Id: e.ID, Time: timestamppb.New(e.Time), Level: e.Level, Event: e.Event, Message: e.Message,
		Service: e.Service, Job: e.Job, RunId: e.RunID, Account: e.Account, Region: e.Region, Attributes: e.Attributes,
	}
}

// note adds an entry to the system log, at the time the transaction began.
func (tx *transaction) note(e entry) {
	e.Time = tx.now
	e.Message = clean(e.Message)
	if e.Attributes == nil {
		e.Attributes = map[string]string{}
	}
	for k, v := range e.Attributes {
		e.Attributes[k] = clean(v)
	}
	tx.entries = append(tx.entries, e)
}

// partitionsAhead is how many months beyond the present one are there in advance.
const partitionsAhead = 2

// keepPartitions adds the system log's months until ctx ends.
func (s *Service) keepPartitions(ctx context.Context) {
	s.every(ctx, 6*time.Hour, "add a month to the system log, whose entries go to its default partition", s.addPartitions)
}

// addPartitions adds the present month and those ahead of it.
func (s *Service) addPartitions(ctx context.Context) error {
	now := s.now().UTC()
	for i := range partitionsAhead + 1 {
		from := time.Date(now.Year(), now.Month()+time.Month(i), 1, 0, 0, 0, 0, time.UTC)
		err := s.bun.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			if _, err := tx.NewRaw("SELECT pg_advisory_xact_lock(?)", partitionLock).Exec(ctx); err != nil {
				return err
			}
			_, err := tx.NewRaw("SELECT add_system_log_month(?::date)", from.Format(time.DateOnly)).Exec(ctx)
			return err
		})
		// The default partition holds entries of that month already, which a clock that was wrong has put there: they
		// are found as well where they are.
		if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == "23514" {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
