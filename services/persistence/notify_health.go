package persistence

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
)

// The breaker of a receiver. It opens after so many failures in a row that are
// the receiver's and not a message's. While it is open nothing is tried for a
// while, then one delivery; if that fails, twice as long nothing, and so on.
// Anything that arrives closes it.
const (
	breakerFailures = 5
	breakerFirst    = time.Minute
	breakerLongest  = 30 * time.Minute
	// longestHold is how long a receiver may ask to be left alone at a time.
	longestHold = 24 * time.Hour
)

// receiverHealth is a row of receiver_health.
type receiverHealth struct {
	bun.BaseModel `bun:"table:receiver_health,alias:h"`

	Receiver        string                      `bun:",pk"`
	Breaker         notificationv1.BreakerState `bun:""`
	Failures        int32                       `bun:""`
	Openings        int32                       `bun:""`
	RetryTime       *time.Time                  `bun:""`
	HoldTime        *time.Time                  `bun:""`
	LastSuccessTime *time.Time                  `bun:""`
	LastError       string                      `bun:""`
	UpdateTime      time.Time                   `bun:""`
}

const (
	breakerClosed   = notificationv1.BreakerState_BREAKER_STATE_CLOSED
	breakerOpen     = notificationv1.BreakerState_BREAKER_STATE_OPEN
	breakerHalfOpen = notificationv1.BreakerState_BREAKER_STATE_HALF_OPEN
)

// answered takes over how an attempt went, and says whether the breaker has
// opened or closed.
func (h *receiverHealth) answered(a *notificationv1.Attempt, failed bool, hold *time.Time, now time.Time) (opened, closed bool) {
	h.UpdateTime = now
	if hold != nil && hold.After(now) {
		until := *hold
		if longest := now.Add(longestHold); until.After(longest) {
			until = longest
		}
		if h.HoldTime == nil || until.After(*h.HoldTime) {
			h.HoldTime = &until
		}
	}
	was := h.Breaker
	if a.GetOk() {
		h.Breaker, h.Failures, h.Openings, h.RetryTime, h.LastError, h.LastSuccessTime = breakerClosed, 0, 0, nil, "", &now
		return false, was != breakerClosed
	}
	h.LastError = a.GetDetail()
	if !failed {
		// The receiver is there, and this message is nothing for it: that proves neither.
		if was == breakerHalfOpen {
			h.RetryTime = &now
		}
		return false, false
	}
	h.Failures++
	if was == breakerHalfOpen || was == breakerClosed && h.Failures >= breakerFailures {
		wait := breakerLongest
		if h.Openings < 10 {
			wait = min(wait, breakerFirst<<h.Openings)
		}
		until := now.Add(wait)
		h.Breaker, h.RetryTime = breakerOpen, &until
		h.Openings++
	}
	return was == breakerClosed && h.Breaker == breakerOpen, false
}

// receiverAnswered keeps how an attempt went.
func (tx *transaction) receiverAnswered(ctx context.Context, receiver string, a *notificationv1.Attempt, failed bool, hold *time.Time) error {
	now := micros(tx.now)
	if _, err := tx.NewRaw("INSERT INTO receiver_health (receiver, breaker, failures, openings, last_error, update_time) VALUES (?, 1, 0, 0, '', ?) ON CONFLICT DO NOTHING", receiver, now).Exec(ctx); err != nil {
		return err
	}
	h := &receiverHealth{}
	if err := tx.NewSelect().Model(h).Where("h.receiver = ?", receiver).For("UPDATE").Scan(ctx); err != nil {
		return err
	}
	opened, closed := h.answered(a, failed, hold, now)
	if _, err := tx.NewUpdate().Model(h).WherePK().Exec(ctx); err != nil {
		return err
	}
	e := entry{Service: "notification", Attributes: map[string]string{"receiver": receiver}}
	switch {
	case opened:
		e.Level, e.Event = systemlogv1.Level_LEVEL_WARN, "receiver_failing"
		e.Message = fmt.Sprintf("Receiver %s failed %d times in a row; the next is tried at %s: %s", receiver, h.Failures, h.RetryTime.Format(time.RFC3339), h.LastError)
	case closed:
		e.Level, e.Event = systemlogv1.Level_LEVEL_INFO, "receiver_recovered"
		e.Message = fmt.Sprintf("Receiver %s takes messages again.", receiver)
	default:
		return nil
	}
	tx.note(e)
	return nil
}

// healthOf is how deliveries to a receiver go.
func (tx *transaction) healthOf(ctx context.Context, receiver string) (*notificationv1.ReceiverHealth, error) {
	all, err := healths(ctx, tx, []string{receiver})
	return all[receiver], err
}

// healths are those of receivers, by name; each has one.
func healths(ctx context.Context, db bun.IDB, names []string) (map[string]*notificationv1.ReceiverHealth, error) {
	out := make(map[string]*notificationv1.ReceiverHealth, len(names))
	for _, name := range names {
		out[name] = &notificationv1.ReceiverHealth{}
	}
	var rows []*receiverHealth
	err := db.NewSelect().Model(&rows).Where("h.receiver = ANY(?)", pgdialect.Array(names)).Scan(ctx)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fault(err)
	}
	for _, h := range rows {
		out[h.Receiver] = &notificationv1.ReceiverHealth{
			Breaker: h.Breaker, ConsecutiveFailures: h.Failures, RetryTime: timestamp(h.RetryTime), LastSuccessTime: timestamp(h.LastSuccessTime), LastError: h.LastError,
		}
	}
	var pending []struct {
		Receiver string
		Count    int64
	}
	err = db.NewRaw("SELECT receiver, count(*) AS count FROM deliveries WHERE state = 1 AND receiver = ANY(?) GROUP BY receiver", pgdialect.Array(names)).Scan(ctx, &pending)
	for _, p := range pending {
		out[p.Receiver].Pending = p.Count
	}
	return out, fault(err)
}
