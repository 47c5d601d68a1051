package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// strike is one thing that is done to a victim.
type strike struct {
	victim string
	action string
	at     time.Time     // when
	down   time.Duration // how long it was away
}

func (s strike) String() string {
	return fmt.Sprintf("%s %s for %s at %s", s.action, s.victim, s.down.Round(100*time.Millisecond), s.at.UTC().Format("15:04:05.000"))
}

// driver strikes victims at random times in random ways. All that is random is drawn from the seed, in one order: the same
// seed makes the same sequence, also where a victim is still away from the strike before and is left alone.
type driver struct {
	t       *testing.T
	victims []victim
	rng     *rand.Rand
	every   time.Duration // between strikes, on average
	longest time.Duration // freeze
	// after is called once a victim is back.
	actions []string // drawn from, evenly

	mu   sync.Mutex
	busy map[victim]bool
	done []strike
	away sync.WaitGroup
}

const (
	actKill   = "kill"
	actFreeze = "freeze"
	actStop   = "stop"
)

func newDriver(t *testing.T, stream uint64, every time.Duration, victims ...victim) *driver {
	return &driver{
		t: t, victims: victims, rng: rand.New(rand.NewPCG(*seed, stream)), every: every, longest: either(40*time.Second, 8*time.Second),
		actions: []string{actKill, actKill, actKill, actFreeze, actStop}, busy: map[victim]bool{},
	}
}

// run strikes until it has done so n times, or ctx ends, and returns when everything is back.
func (d *driver) run(ctx context.Context, n int) []strike {
	defer func() { d.away.Wait() }()
	for struck := 0; struck < n; {
		// Drawn whether used or not.
		pause := d.every/2 + time.Duration(d.rng.Int64N(int64(d.every)))
		v := d.victims[d.rng.IntN(len(d.victims))]
		action := d.actions[d.rng.IntN(len(d.actions))]
		down := 100*time.Millisecond + time.Duration(d.rng.Int64N(int64(3*time.Second)))
		frozen := time.Second + time.Duration(d.rng.Int64N(int64(d.longest-time.Second)))
		if !sleep(ctx, pause) {
			break
		}
		if action == actFreeze {
			down = frozen
		}
		if d.take(v) {
			struck++
			d.away.Go(func() { d.strike(ctx, v, action, down) })
		}
	}
	d.away.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

func (d *driver) take(v victim) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[v] {
		return false
	}
	d.busy[v] = true
	return true
}

// strike does it, and undoes it.
func (d *driver) strike(ctx context.Context, v victim, action string, down time.Duration) {
	s := strike{victim: v.String(), action: action, at: time.Now()}
	do, undo := v.kill, v.start
	switch action {
	case actFreeze:
		do, undo = v.freeze, v.thaw
	case actStop:
		do = v.stop
	}
	if err := do(); err != nil {
		d.t.Errorf("%s %s: %v", action, v, err)
	}
	sleep(ctx, down)
	if err := undo(); err != nil {
		d.t.Errorf("after %s %s: %v", action, v, err)
	}
	s.down = time.Since(s.at)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy[v] = false
	d.done = append(d.done, s)
}

// count is what was done, by action.
func count(strikes []strike) map[string]int {
	n := map[string]int{}
	for _, s := range strikes {
		n[s.action]++
	}
	return n
}
