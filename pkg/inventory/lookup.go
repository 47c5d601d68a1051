package inventory

import (
	"context"
	"slices"
	"sync"
	"time"

	"nightshift.dev/pkg/rule"
)

// lookup remembers what was read of things that many resources refer to, by
// id, so that each is asked for once in a session, however many pages mention
// it. Its zero value is ready.
type lookup[V any] struct {
	mu    sync.Mutex
	facts map[string]rule.Fact[V]
}

// get returns a fact for each id. read is asked for those that are new, at most
// filterValues at a time, one call at a time; what it leaves out has failed
// when there is an error, and otherwise does not exist. A failure is
// remembered too: the SDK has tried often enough. What our own context cut off
// is not.
func (l *lookup[V]) get(ctx context.Context, source string, at time.Time, ids []string,
	read func(ctx context.Context, ids []string) (map[string]rule.Fact[V], error)) map[string]rule.Fact[V] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.facts == nil {
		l.facts = map[string]rule.Fact[V]{}
	}
	out := make(map[string]rule.Fact[V], len(ids))
	var missing []string
	for _, id := range ids {
		if f, ok := l.facts[id]; ok {
			out[id] = f
		} else if !slices.Contains(missing, id) {
			missing = append(missing, id)
		}
	}
	for some := range slices.Chunk(missing, filterValues) {
		found, err := read(ctx, some)
		for _, id := range some {
			f, ok := found[id]
			switch {
			case ok:
			case err != nil:
				f = rule.Failed[V](source, err)
			default:
				f = rule.Fact[V]{Source: source, At: at, Why: source + " does not show " + id}
			}
			out[id] = f
			if ctx.Err() == nil {
				l.facts[id] = f
			}
		}
	}
	return out
}

// known makes facts of what a call told.
func known[V any](values map[string]V, source string, at time.Time) map[string]rule.Fact[V] {
	facts := make(map[string]rule.Fact[V], len(values))
	for id, v := range values {
		facts[id] = rule.Known(v, source, at)
	}
	return facts
}

// parseTime reads a time as AWS writes it where it writes text, such as
// 2026-01-02T03:04:05.000Z. Other text, or none, is no time.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateOnly} {
		// EC2 did not exist before 2006: a smaller year is no time of it.
		if t, err := time.Parse(layout, s); err == nil && t.UTC().Year() >= 2006 && t.UTC().Year() <= 9999 {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
