package persistence

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

const (
	attemptsListed  = 20  // of a delivery
	detailLength    = 500 // characters of what a receiver answered
	summaryLength   = 500
	mailtoReceivers = "mailto:" // and an address: made up for an owner who has no contact
)

// deliveryRow is a row of deliveries.
type deliveryRow struct {
	bun.BaseModel `bun:"table:deliveries,alias:d"`

	ID              string                       `bun:",pk"`
	Receiver        string                       `bun:""`
	Route           string                       `bun:""`
	GroupKey        string                       `bun:""`
	IdempotencyKey  string                       `bun:""`
	State           notificationv1.DeliveryState `bun:""`
	Message         []byte                       `bun:""`
	Summary         string                       `bun:""`
	CreateTime      time.Time                    `bun:""`
	NextAttemptTime *time.Time                   `bun:""`
	EndTime         *time.Time                   `bun:""`
	Attempts        int32                        `bun:""`
	Log             []byte                       `bun:""`
	LastError       string                       `bun:""`
	ResendOf        string                       `bun:""`
	SilenceID       string                       `bun:""`
	LeaseID         string                       `bun:""`
	LeaseTime       *time.Time                   `bun:""`
	FinishedLease   string                       `bun:""`
	Seq             int64                        `bun:",scanonly"`
}

var deliveryFields = fields{
	"id":          {column: "d.id", kind: kindText},
	"receiver":    {column: "d.receiver", kind: kindText},
	"route":       {column: "d.route", kind: kindText},
	"state":       {column: "d.state", kind: kindEnum, values: enumValues(notificationv1.DeliveryState(0))},
	"create_time": {column: "d.create_time", kind: kindTime},
	"end_time":    {column: "d.end_time", kind: kindTime},
	"attempts":    {column: "d.attempts", kind: kindInteger},
	"resend_of":   {column: "d.resend_of", kind: kindText},
}

// Ids rise with time.
var deliveryOrder = order[*deliveryRow]{{expr: "d.id", desc: true, key: textKey(func(d *deliveryRow) string { return d.ID })}}

// proto is the delivery without its message and its log.
func (d *deliveryRow) proto() *notificationv1.Delivery {
	return &notificationv1.Delivery{
		Id: d.ID, Receiver: d.Receiver, Route: d.Route, IdempotencyKey: d.IdempotencyKey, State: d.State, Summary: d.Summary, CreateTime: timestamppb.New(d.CreateTime),
		NextAttemptTime: timestamp(d.NextAttemptTime), EndTime: timestamp(d.EndTime), Attempts: d.Attempts, LastError: d.LastError, ResendOf: d.ResendOf, SilenceId: d.SilenceID,
	}
}

// whole is all of the delivery.
func (d *deliveryRow) whole() (*notificationv1.Delivery, error) {
	p := &notificationv1.Delivery{}
	if err := proto.Unmarshal(d.Log, p); err != nil {
		return nil, err
	}
	attempts := p.GetLog()
	p = d.proto()
	p.Log, p.Message = attempts, &notificationv1.Message{}
	return p, proto.Unmarshal(d.Message, p.GetMessage())
}

// makeDeliveries writes what is to be sent of a group, whose row is locked.
// What cannot be sent, because its receiver has been deleted, is dead at once.
func (tx *transaction) makeDeliveries(ctx context.Context, g *noticeGroup, deliveries []*notificationv1.Delivery) ([]*deliveryRow, error) {
	if len(deliveries) == 0 {
		return nil, nil
	}
	var names, there []string
	for _, d := range deliveries {
		names = append(names, clean(d.GetReceiver()))
	}
	if err := tx.NewRaw("SELECT name FROM receivers WHERE name = ANY(?) ORDER BY name FOR KEY SHARE", pgdialect.Array(names)).Scan(ctx, &there); err != nil {
		return nil, err
	}
	now := micros(tx.now)
	rows := make([]*deliveryRow, len(deliveries))
	for i, d := range deliveries {
		body, err := proto.Marshal(d.GetMessage())
		if err != nil {
			return nil, err
		}
		row := &deliveryRow{
			ID: newID(tx.now), Receiver: names[i], Route: g.Route, GroupKey: g.Key, State: notificationv1.DeliveryState_DELIVERY_STATE_PENDING, Message: append([]byte{}, body...),
			IdempotencyKey: clean(cmp.Or(d.GetIdempotencyKey(), fmt.Sprintf("%s-%d", g.Key, g.Number+1))), Summary: shorten(d.GetSummary(), summaryLength),
			CreateTime: now, NextAttemptTime: &now, SilenceID: clean(d.GetSilenceId()), Log: []byte{},
		}
		switch {
		case row.SilenceID != "":
			row.State, row.NextAttemptTime, row.EndTime = notificationv1.DeliveryState_DELIVERY_STATE_SILENCED, nil, &now
		case !strings.HasPrefix(row.Receiver, mailtoReceivers) && !slices.Contains(there, row.Receiver):
			row.State, row.NextAttemptTime, row.EndTime = notificationv1.DeliveryState_DELIVERY_STATE_DEAD, nil, &now
			row.LastError = receiverDeleted
		}
		rows[i] = row
	}
	_, err := tx.NewInsert().Model(&rows).Exec(ctx)
	return rows, err
}

const receiverDeleted = "the receiver has been deleted"

// claim checks what claims have in common.
func claim(limit int32, lease *durationpb.Duration) (int, time.Duration, error) {
	e := errs.New(errs.InvalidArgument, "BAD_CLAIM", "nothing can be claimed so")
	if limit < 1 || limit > 100 {
		e.Field("limit", "is %d; must be 1 to 100", limit)
	}
	d := lease.AsDuration()
	if lease == nil || !lease.IsValid() || d < time.Second || d > 10*time.Minute {
		e.Field("lease", "is %s; must be 1s to 10m", d)
	}
	if len(e.Violations()) > 0 {
		return 0, 0, e
	}
	return int(limit), d, nil
}

// laneHeads are the deliveries that are the oldest of their receiver and group
// to wait, with when each is ready. Of a receiver whose breaker is not closed
// one is ready at a time (alone).
const laneHeads = `
	SELECT d.id, d.receiver, d.seq, d.next_attempt_time, d.lease_id, d.lease_time, coalesce(h.breaker, 1) > 1 AS alone,
		greatest(d.next_attempt_time, d.lease_time, h.hold_time, CASE WHEN h.breaker > 1 THEN h.retry_time END) AS ready
	FROM (SELECT DISTINCT ON (receiver, group_key) id, receiver, seq, next_attempt_time, lease_id, lease_time FROM deliveries WHERE state = 1 ORDER BY receiver, group_key, seq) d
	LEFT JOIN receivers r ON r.name = d.receiver
	LEFT JOIN receiver_health h ON h.receiver = d.receiver
	WHERE NOT coalesce(r.paused, NOT starts_with(d.receiver, 'mailto:'))`

// ClaimDeliveries implements NotificationQueueService.
func (s *Service) ClaimDeliveries(ctx context.Context, req *notificationv1.ClaimDeliveriesRequest) (*notificationv1.ClaimDeliveriesResponse, error) {
	limit, lease, err := claim(req.GetLimit(), req.GetLease())
	if err != nil {
		return nil, err
	}
	var resp *notificationv1.ClaimDeliveriesResponse
	err = s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		resp = &notificationv1.ClaimDeliveriesResponse{}
		id, until := newID(tx.now), tx.now.Add(lease)
		rows, err := tx.claimDeliveries(ctx, limit, id, until)
		if err != nil {
			return err
		}
		receivers := map[string]*notificationv1.Receiver{}
		for _, row := range rows {
			to := receivers[row.Receiver]
			if to == nil {
				if to, err = tx.receiverOf(ctx, row.Receiver); err != nil {
					return err
				}
				receivers[row.Receiver] = to
			}
			d, err := row.whole()
			if err != nil {
				return err
			}
			resp.Deliveries = append(resp.Deliveries, &notificationv1.ClaimedDelivery{Delivery: d, LeaseId: id, Receiver: to})
		}
		var next *time.Time
		err = tx.NewRaw("SELECT min(ready) FROM ("+laneHeads+") d WHERE lease_id <> ?", id).Scan(ctx, &next)
		resp.NextDueTime = timestamp(next)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// atOnce is how many deliveries to one receiver may be tried at a time, so
// that one that is slow does not hold up the others.
const atOnce = 4

// claimDeliveries gives the caller what is ready and what nobody else is about
// to take.
func (tx *transaction) claimDeliveries(ctx context.Context, limit int, lease string, until time.Time) ([]*deliveryRow, error) {
	var ready []struct {
		ID       string
		Receiver string
		Alone    bool
	}
	err := tx.NewRaw(`
		SELECT id, receiver, alone FROM (
			SELECT *, row_number() OVER (PARTITION BY receiver, ready <= ?0 ORDER BY next_attempt_time, seq) AS place,
				count(*) FILTER (WHERE lease_time > ?0) OVER (PARTITION BY receiver) AS busy FROM (`+laneHeads+`) d
		) d WHERE ready <= ?0 AND CASE WHEN alone THEN place = 1 ELSE place + busy <= ?2 END ORDER BY next_attempt_time, seq LIMIT ?1`, tx.now, limit, atOnce).Scan(ctx, &ready)
	if err != nil || len(ready) == 0 {
		return nil, err
	}
	ids := make([]string, len(ready))
	for i, d := range ready {
		ids[i] = d.ID
	}
	var free []string
	err = tx.NewRaw("SELECT id FROM deliveries WHERE id = ANY(?) AND state = 1 AND next_attempt_time <= ? AND (lease_time IS NULL OR lease_time <= ?) FOR UPDATE SKIP LOCKED",
		pgdialect.Array(ids), tx.now, tx.now).Scan(ctx, &free)
	if err != nil {
		return nil, err
	}
	var alone []string // receivers that get one
	for _, d := range ready {
		if d.Alone && slices.Contains(free, d.ID) {
			alone = append(alone, d.Receiver)
		}
	}
	if len(alone) > 0 {
		var open []string
		err = tx.NewRaw(`
			UPDATE receiver_health SET breaker = 3, retry_time = ?0, update_time = ?1 WHERE receiver IN (
				SELECT receiver FROM receiver_health WHERE receiver = ANY(?2) AND breaker > 1 AND retry_time <= ?1 FOR UPDATE SKIP LOCKED)
			RETURNING receiver`, until, tx.now, pgdialect.Array(alone)).Scan(ctx, &open)
		if err != nil {
			return nil, err
		}
		for _, d := range ready {
			if d.Alone && !slices.Contains(open, d.Receiver) { // another was faster
				free = slices.DeleteFunc(free, func(id string) bool { return id == d.ID })
			}
		}
	}
	var rows []*deliveryRow
	err = tx.NewRaw("UPDATE deliveries SET lease_id = ?, lease_time = ? WHERE id = ANY(?) RETURNING *", lease, until, pgdialect.Array(free)).Scan(ctx, &rows)
	place := func(d *deliveryRow) int { return slices.Index(ids, d.ID) }
	slices.SortFunc(rows, func(a, b *deliveryRow) int { return cmp.Compare(place(a), place(b)) })
	return rows, err
}

// receiverOf is the receiver of a delivery, also a made-up one.
func (tx *transaction) receiverOf(ctx context.Context, name string) (*notificationv1.Receiver, error) {
	if address, ok := strings.CutPrefix(name, mailtoReceivers); ok {
		return &notificationv1.Receiver{Name: name, Medium: &notificationv1.Receiver_Email{Email: &notificationv1.Email{To: []string{address}}}}, nil
	}
	r, err := readReceiver(ctx, tx.NewSelect(), name)
	if err != nil {
		return nil, err
	}
	return r.proto()
}

// FinishDelivery implements NotificationQueueService. Done again with the same
// lease it changes nothing.
func (s *Service) FinishDelivery(ctx context.Context, req *notificationv1.FinishDeliveryRequest) (*notificationv1.FinishDeliveryResponse, error) {
	attempt := req.GetAttempt()
	e := errs.New(errs.InvalidArgument, "BAD_ATTEMPT", "the attempt cannot be kept")
	if attempt == nil {
		e.Field("attempt", "is missing; say how it went")
	}
	if req.GetLeaseId() == "" {
		e.Field("lease_id", "is empty; it is in the claim")
	}
	next, hold := timeOf(req.GetNextAttemptTime()), timeOf(req.GetReceiverRetryTime())
	if req.GetNextAttemptTime() != nil && next == nil {
		e.Field("next_attempt_time", "is no time between the years 1 and 9999")
	}
	if attempt.GetOk() && (next != nil || req.GetReceiverFailed()) {
		e.Field("attempt.ok", "is true, with next_attempt_time or receiver_failed, which are for failures")
	}
	if len(e.Violations()) > 0 {
		return nil, e
	}
	attempt = proto.CloneOf(attempt)
	attempt.Detail = shorten(attempt.GetDetail(), detailLength)
	resp := &notificationv1.FinishDeliveryResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		d, err := readDelivery(ctx, tx.NewSelect().For("UPDATE"), req.GetId())
		switch {
		case errors.Is(err, errs.NotFound):
			return errs.New(errs.Aborted, "DELIVERY_GONE", "there is no delivery %s any more", req.GetId())
		case err != nil:
			return err
		case d.FinishedLease == req.GetLeaseId():
			resp.Health, err = tx.healthOf(ctx, d.Receiver)
			return err
		case d.LeaseID != req.GetLeaseId():
			return errs.New(errs.Aborted, "LEASE_LOST", "the claim of delivery %s has ended; it may be tried by another", d.ID)
		}
		now := micros(tx.now)
		d.LeaseID, d.LeaseTime, d.FinishedLease = "", nil, req.GetLeaseId()
		if err := d.tried(attempt); err != nil {
			return err
		}
		switch {
		case attempt.GetOk():
			d.State, d.NextAttemptTime, d.EndTime = notificationv1.DeliveryState_DELIVERY_STATE_DELIVERED, nil, &now
		case next != nil:
			d.NextAttemptTime = next
		default:
			d.State, d.NextAttemptTime, d.EndTime = notificationv1.DeliveryState_DELIVERY_STATE_DEAD, nil, &now
			tx.noteDead(d)
		}
		if _, err := tx.NewUpdate().Model(d).Column("state", "next_attempt_time", "end_time", "attempts", "log", "last_error", "lease_id", "lease_time", "finished_lease").WherePK().Exec(ctx); err != nil {
			return err
		}
		if err := tx.receiverAnswered(ctx, d.Receiver, attempt, req.GetReceiverFailed(), hold); err != nil {
			return err
		}
		resp.Health, err = tx.healthOf(ctx, d.Receiver)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// tried adds an attempt to the log.
func (d *deliveryRow) tried(a *notificationv1.Attempt) error {
	kept := &notificationv1.Delivery{}
	if err := proto.Unmarshal(d.Log, kept); err != nil {
		return err
	}
	kept.Log = append(kept.GetLog(), a)
	kept.Log = kept.GetLog()[max(0, len(kept.GetLog())-attemptsListed):]
	var err error
	d.Log, err = proto.Marshal(kept)
	d.Attempts++
	if !a.GetOk() {
		d.LastError = cmp.Or(a.GetDetail(), "it failed")
	}
	return err
}

// noteDead says in the system log that a message was given up.
func (tx *transaction) noteDead(d *deliveryRow) {
	tx.note(entry{
		Level: systemlogv1.Level_LEVEL_WARN, Event: "notification_dead", Service: "notification",
		Message:    fmt.Sprintf("Delivery %s to %s was given up after %s: %s. \"nightshift notify resend %s\" tries again.", d.ID, d.Receiver, count(int(d.Attempts), "attempt"), strings.TrimSuffix(d.LastError, "."), d.ID),
		Attributes: map[string]string{"delivery_id": d.ID, "receiver": d.Receiver, "route": d.Route},
	})
}

func readDelivery(ctx context.Context, q *bun.SelectQuery, id string) (*deliveryRow, error) {
	d := &deliveryRow{}
	err := q.Model(d).Where("d.id = ?", id).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errs.New(errs.NotFound, "DELIVERY_NOT_FOUND", "there is no delivery %s", id)
	}
	return d, fault(err)
}

// ListDeliveries implements NotificationConfigService.
func (s *Service) ListDeliveries(ctx context.Context, req *notificationv1.ListDeliveriesRequest) (*notificationv1.ListDeliveriesResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := deliveryFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, deliveryOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"deliveries", req.GetFilter()}, func() *bun.SelectQuery {
		return where.apply(db.NewSelect().Model((*deliveryRow)(nil)).ExcludeColumn("message", "log"))
	})
	if err != nil {
		return nil, err
	}
	resp := &notificationv1.ListDeliveriesResponse{NextPageToken: next}
	for _, d := range rows {
		resp.Deliveries = append(resp.Deliveries, d.proto())
	}
	return resp, nil
}

// GetDelivery implements NotificationConfigService.
func (s *Service) GetDelivery(ctx context.Context, req *notificationv1.GetDeliveryRequest) (*notificationv1.GetDeliveryResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	row, err := readDelivery(ctx, db.NewSelect(), req.GetId())
	if err != nil {
		return nil, err
	}
	d, err := row.whole()
	if err != nil {
		return nil, err
	}
	return &notificationv1.GetDeliveryResponse{Delivery: d}, nil
}

// ResendDelivery implements NotificationConfigService. While a re-send of the
// same delivery waits, that one is returned.
func (s *Service) ResendDelivery(ctx context.Context, req *notificationv1.ResendDeliveryRequest) (*notificationv1.ResendDeliveryResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	var sent *notificationv1.Delivery
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		d, err := readDelivery(ctx, tx.NewSelect().For("UPDATE"), req.GetId())
		if err != nil {
			return err
		}
		if d.State == notificationv1.DeliveryState_DELIVERY_STATE_PENDING {
			return errs.New(errs.FailedPrecondition, "DELIVERY_PENDING", "delivery %s is pending; it is tried again by itself", d.ID)
		}
		if !strings.HasPrefix(d.Receiver, mailtoReceivers) {
			there, err := tx.rows(ctx, "SELECT FROM receivers WHERE name = ? FOR KEY SHARE", d.Receiver)
			if err != nil {
				return err
			}
			if there == 0 {
				return errs.New(errs.FailedPrecondition, "RECEIVER_NOT_FOUND", "receiver %s of delivery %s has been deleted", d.Receiver, d.ID)
			}
		}
		before := d.proto()
		app.Before(ctx, before)
		waiting := &deliveryRow{}
		err = tx.NewSelect().Model(waiting).Where("d.resend_of = ?", d.ID).Where("d.state = 1").Limit(1).Scan(ctx)
		if errors.Is(err, sql.ErrNoRows) {
			now := micros(tx.now)
			waiting = &deliveryRow{
				ID: newID(tx.now), Receiver: d.Receiver, Route: d.Route, GroupKey: d.GroupKey, IdempotencyKey: d.IdempotencyKey, State: notificationv1.DeliveryState_DELIVERY_STATE_PENDING,
				Message: d.Message, Summary: d.Summary, CreateTime: now, NextAttemptTime: &now, ResendOf: d.ID, Log: []byte{},
			}
			_, err = tx.NewInsert().Model(waiting).Exec(ctx)
		}
		if err != nil {
			return err
		}
		sent, err = waiting.whole()
		return err
	})
	if err != nil {
		return nil, err
	}
	after := proto.CloneOf(sent)
	after.Message = nil
	app.After(ctx, after)
	return &notificationv1.ResendDeliveryResponse{Delivery: sent}, nil
}

// shorten cuts text to so many characters, and makes it text.
func shorten(s string, n int) string {
	s = clean(s)
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// newID is an id of 26 characters that sorts by time, to a millisecond: a ULID
// but for the place of the bits that are always 0.
func newID(now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	_, _ = rand.Read(b[6:]) // never fails
	return crockford.EncodeToString(b[:])
}
