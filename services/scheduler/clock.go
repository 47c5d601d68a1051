package scheduler

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// clock is the time as a replica has it.
type clock struct {
	now func() time.Time
	// at returns a channel that gives a value when now has reached t.
	at func(t time.Time) <-chan time.Time
	// server tells the time of the bus's server; nil when it is not to be asked.
	server func(context.Context) (time.Time, error)
}

// wallClock is the clock of this machine.
func wallClock(now func() time.Time, server func(context.Context) (time.Time, error)) clock {
	return clock{now: now, server: server, at: func(t time.Time) <-chan time.Time { return time.After(t.Sub(now())) }}
}

// corrected is a clock that is set by the server's, so that replicas agree.
// Nothing depends on it but punctuality: a clock that is wrong fires early or
// late, never twice.
type corrected struct {
	clock
	log    *slog.Logger
	offset atomic.Int64 // to be added to now, in nanoseconds
}

func (c *corrected) time() time.Time { return c.now().Add(time.Duration(c.offset.Load())).UTC() }

// until returns a channel that gives a value when time has reached t.
func (c *corrected) until(t time.Time) <-chan time.Time {
	return c.at(t.Add(-time.Duration(c.offset.Load())))
}

// skewWarning is the difference between the clocks that is worth a person's
// attention.
const skewWarning = 2 * time.Second

// follow compares the clocks at once and then every minute, until ctx ends.
func (c *corrected) follow(ctx context.Context) error {
	if c.server == nil {
		return nil
	}
	warned := false
	for {
		before := c.now()
		if server, err := c.server(ctx); err == nil {
			trip := c.now().Sub(before)
			offset := server.Sub(before.Add(trip / 2))
			c.offset.Store(int64(offset))
			if skewed := offset.Abs() > skewWarning+trip; skewed != warned {
				warned = skewed
				c.log.Warn("clock and NATS server's clock", "differ", skewed, "by", offset)
			}
		}
		select {
		case <-time.After(time.Minute):
		case <-ctx.Done():
			return nil
		}
	}
}
