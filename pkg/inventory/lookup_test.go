package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"nightshift.dev/pkg/rule"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 7, 14, 3, 0, 0, 0, time.UTC)
	var (
		l     lookup[int]
		asked [][]string
	)
	read := func(_ context.Context, ids []string) (map[string]rule.Fact[int], error) {
		asked = append(asked, slices.Clone(ids))
		found := map[string]rule.Fact[int]{}
		for _, id := range ids {
			if id[0] == 'a' {
				found[id] = rule.Known(len(id), "x", at)
			}
		}
		if slices.Contains(ids, "bad") {
			return found, errors.New("denied")
		}
		return found, nil
	}
	got := l.get(t.Context(), "x", at, []string{"a", "none", "a"}, read)
	if !got["a"].Known || got["a"].Value != 1 || got["none"].Known || got["none"].Failed || got["none"].Why == "" {
		t.Errorf("%+v", got)
	}
	got = l.get(t.Context(), "x", at, []string{"a", "none", "bad", "aa"}, read)
	if !got["a"].Known || !got["aa"].Known || !got["bad"].Failed || got["bad"].Why != "denied" {
		t.Errorf("%+v", got)
	}
	// A failure is remembered, and so is what does not exist.
	got = l.get(t.Context(), "x", at, []string{"bad", "none"}, read)
	if !got["bad"].Failed || len(asked) != 2 || !slices.Equal(asked[1], []string{"bad", "aa"}) {
		t.Errorf("%+v after asking for %v", got, asked)
	}

	// What our own context cut off is not.
	ctx, cancel := context.WithCancel(t.Context())
	cut := func(context.Context, []string) (map[string]rule.Fact[int], error) {
		cancel()
		return nil, context.Canceled
	}
	if got := l.get(ctx, "x", at, []string{"ab"}, cut); !got["ab"].Failed {
		t.Errorf("%+v", got)
	}
	if got := l.get(t.Context(), "x", at, []string{"ab"}, read); !got["ab"].Known {
		t.Errorf("%+v", got)
	}
}

func TestLookupAsksOnce(t *testing.T) {
	t.Parallel()
	var (
		l     lookup[string]
		mu    sync.Mutex
		asked = map[string]int{}
		ids   []string
		all   sync.WaitGroup
	)
	for i := range 450 {
		ids = append(ids, fmt.Sprint(i))
	}
	for n := range 8 {
		all.Go(func() {
			mine := append(slices.Clone(ids[n*50:]), ids[:n*50]...)
			got := l.get(t.Context(), "x", time.Time{}, mine, func(_ context.Context, ids []string) (map[string]rule.Fact[string], error) {
				if len(ids) > filterValues {
					t.Errorf("%d at once", len(ids))
				}
				found := map[string]rule.Fact[string]{}
				mu.Lock()
				defer mu.Unlock()
				for _, id := range ids {
					asked[id]++
					found[id] = rule.Known(id, "x", time.Time{})
				}
				return found, nil
			})
			for _, id := range mine {
				if got[id].Value != id {
					t.Errorf("%s is %+v", id, got[id])
				}
			}
		})
	}
	all.Wait()
	for id, n := range asked {
		if n != 1 {
			t.Errorf("%s was asked for %d times", id, n)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05+02:00", "2026-01-02T03:04:05", "2026-01-02", "0001-01-01T00:00:00Z", "", "x", "99999-01-01T00:00:00Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseTime(s)
		if ok != !got.IsZero() {
			t.Errorf("%q is %v, %v", s, got, ok)
		}
		if !ok {
			return
		}
		if got.Location() != time.UTC || got.Year() < 2006 {
			t.Errorf("%q is %v", s, got)
		}
		if again, ok := parseTime(got.Format(time.RFC3339Nano)); !ok || !again.Equal(got) {
			t.Errorf("%q is %v and then %v", s, got, again)
		}
	})
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]time.Time{
		"2026-01-02T03:04:05.678Z":  time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC),
		"2026-01-02T03:04:05Z":      time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"2026-01-02T03:04:05+02:00": time.Date(2026, 1, 2, 1, 4, 5, 0, time.UTC),
		"2026-01-02T03:04:05":       time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"2026-01-02":                time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
		"1970-01-01T00:00:00Z":      {},
		"yesterday":                 {},
		"":                          {},
	} {
		if got, _ := parseTime(s); !got.Equal(want) {
			t.Errorf("%q is %v, want %v", s, got, want)
		}
	}
}
