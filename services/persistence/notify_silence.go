package persistence

import (
	"context"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// longestSilence is how long a silence may be. What is to be silent for longer
// is a matter of routes.
const longestSilence = 366 * 24 * time.Hour

// silence is a row of silences.
type silence struct {
	bun.BaseModel `bun:"table:silences,alias:x"`

	ID         string    `bun:",pk"`
	Filter     string    `bun:""`
	Author     string    `bun:""`
	Comment    string    `bun:""`
	StartTime  time.Time `bun:""`
	ExpireTime time.Time `bun:""`
	CreateTime time.Time `bun:""`
	Version    string    `bun:""`
}

var silenceOrder = order[*silence]{
	{expr: "x.expire_time", desc: true, key: timeKey(func(x *silence) time.Time { return x.ExpireTime })},
	{expr: "x.id", desc: true, key: textKey(func(x *silence) string { return x.ID })},
}

func (x *silence) proto() *notificationv1.Silence {
	return &notificationv1.Silence{
		Id: x.ID, Filter: x.Filter, Author: x.Author, Comment: x.Comment, StartTime: timestamppb.New(x.StartTime), ExpireTime: timestamppb.New(x.ExpireTime),
		Etag: x.Version, CreateTime: timestamppb.New(x.CreateTime),
	}
}

// CreateSilence implements NotificationConfigService.
func (s *Service) CreateSilence(ctx context.Context, req *notificationv1.CreateSilenceRequest) (*notificationv1.CreateSilenceResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	p := req.GetSilence()
	var x *silence
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) (err error) {
		now := micros(tx.now)
		x = &silence{
			ID: newID(tx.now), Filter: strings.TrimSpace(p.GetFilter()), Author: strings.TrimSpace(auth.Actor(ctx, p.GetAuthor())), Comment: strings.TrimSpace(p.GetComment()),
			StartTime: now, CreateTime: now,
		}
		e := errs.New(errs.InvalidArgument, "BAD_SILENCE", "the silence cannot be kept")
		if p.GetId() != "" {
			e.Field("silence.id", "is set; leave it empty, it is made")
		}
		if x.Filter == "" {
			e.Field("silence.filter", "is empty, which would silence everything; say what is to be silent")
		} else if err := checkRouteFilter(x.Filter); err != nil {
			e.Field("silence.filter", "%s", err)
		}
		if x.Author == "" {
			e.Field("silence.author", "is empty; say who wants it")
		}
		if x.Comment == "" {
			e.Field("silence.comment", "is empty; say why, for whoever asks")
		}
		if t := timeOf(p.GetStartTime()); t != nil {
			x.StartTime = *t
		} else if p.GetStartTime() != nil {
			e.Field("silence.start_time", "is no time between the years 1 and 9999")
		}
		switch end := timeOf(p.GetExpireTime()); {
		case end == nil:
			e.Field("silence.expire_time", "is missing or no time; say when it ends")
		case !end.After(now):
			e.Field("silence.expire_time", "is %s, which is past; it must be in the future", end.Format(time.RFC3339))
		case !end.After(x.StartTime):
			e.Field("silence.expire_time", "is %s, which is not after the start", end.Format(time.RFC3339))
		case end.After(x.StartTime.Add(longestSilence)):
			e.Field("silence.expire_time", "is %s; it must be within a year from the start", end.Format(time.RFC3339))
		default:
			x.ExpireTime = *end
		}
		if len(e.Violations()) > 0 {
			return e
		}
		if x.Version, err = tx.configChanges(ctx); err != nil {
			return err
		}
		n, err := tx.NewSelect().Model((*silence)(nil)).Where("x.expire_time > ?", tx.now).Count(ctx)
		if err != nil {
			return err
		}
		if int(n) >= maxSilences {
			return errs.New(errs.FailedPrecondition, "TOO_MANY", "there are %d silences, and may be no more; expire one first", n)
		}
		_, err = tx.NewInsert().Model(x).Exec(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	app.After(ctx, x.proto())
	return &notificationv1.CreateSilenceResponse{Silence: x.proto()}, nil
}

// ListSilences implements NotificationConfigService.
func (s *Service) ListSilences(ctx context.Context, req *notificationv1.ListSilencesRequest) (*notificationv1.ListSilencesResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	bind := "running"
	if req.GetShowExpired() {
		bind = "all"
	}
	now := s.now()
	rows, next, err := list(ctx, silenceOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"silences", bind}, func() *bun.SelectQuery {
		q := db.NewSelect().Model((*silence)(nil))
		if !req.GetShowExpired() {
			q = q.Where("x.expire_time > ?", now)
		}
		return q
	})
	if err != nil {
		return nil, err
	}
	resp := &notificationv1.ListSilencesResponse{NextPageToken: next}
	for _, x := range rows {
		resp.Silences = append(resp.Silences, x.proto())
	}
	return resp, nil
}

// ExpireSilence implements NotificationConfigService.
func (s *Service) ExpireSilence(ctx context.Context, req *notificationv1.ExpireSilenceRequest) (*notificationv1.ExpireSilenceResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	x := &silence{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		version, err := tx.configChanges(ctx)
		if err != nil {
			return err
		}
		there, err := scanOne(ctx, tx.NewSelect().Model(x).Where("x.id = ?", req.GetId()))
		switch {
		case err != nil:
			return err
		case !there:
			return errs.New(errs.NotFound, "SILENCE_NOT_FOUND", "there is no silence %s", req.GetId())
		}
		app.Before(ctx, x.proto())
		if now := micros(tx.now); x.ExpireTime.After(now) {
			x.ExpireTime, x.Version = now, version
			if x.StartTime.After(now) {
				x.StartTime = now
			}
		}
		_, err = tx.NewUpdate().Model(x).WherePK().Exec(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	app.After(ctx, x.proto())
	return &notificationv1.ExpireSilenceResponse{Silence: x.proto()}, nil
}
