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
	set    atomic.Pointer[setting] // nil until the server has answered
	warned bool
}

// setting is one moment on both clocks. From there on time is what has passed
// by the machine's monotonic clock, which nobody sets.
type setting struct{ local, server time.Time }

func (c *corrected) time() time.Time {
	now := c.now()
	if s := c.set.Load(); s != nil {
		return s.server.Add(now.Sub(s.local)).UTC()
	}
	return now.UTC()
}

// until returns a channel that gives a value when time has reached t.
func (c *corrected) until(t time.Time) <-chan time.Time {
	if s := c.set.Load(); s != nil {
		t = s.local.Add(t.Sub(s.server))
	}
	return c.at(t)
}

const (
	// skewWarning is the difference between the clocks that is worth a person's
	// attention.
	skewWarning = 2 * time.Second
	// samples are taken each time the clocks are compared, and the quickest
	// answer counts: it is the one whose age is known best.
	samples = 5
	// jump is a difference between the machine's two clocks that means that it
	// was suspended or its clock set.
	jump = 100 * time.Millisecond
)

// correct compares the clocks, once or until ctx ends or the server does not
// answer.
func (c *corrected) correct(ctx context.Context) {
	if c.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var best *setting
	var age time.Duration
	for range samples {
		before := c.now()
		server, err := c.server(ctx)
		if err != nil {
			break
		}
		after := c.now()
		if trip := after.Sub(before); best == nil || trip < age {
			best, age = &setting{after, server.Add(trip / 2)}, trip
		}
	}
	if best == nil {
		return
	}
	c.set.Store(best)
	skew := best.server.Sub(best.local)
	if skewed := skew.Abs() > skewWarning+age; skewed != c.warned {
		c.warned = skewed
		c.log.Warn("clock and NATS server's clock", "differ", skewed, "by", skew)
	}
}

// follow compares the clocks every minute, and when the machine's has jumped,
// until ctx ends.
func (c *corrected) follow(ctx context.Context) error {
	if c.server == nil {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := c.now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := c.now()
		passed := now.Sub(last)
		if jumped := now.Round(0).Sub(last.Round(0)) - passed; passed >= time.Minute || jumped.Abs() > jump || c.set.Load() == nil {
			c.correct(ctx)
			last = c.now()
		}
	}
}
