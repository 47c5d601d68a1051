package inventory

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseTransition(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"User initiated (2026-01-02 03:04:05 GMT)":              at,
		"User initiated (2026-01-02 03:04:05 UTC)":              at,
		"Server.ScheduledStop (host) (2026-01-02 03:04:05 GMT)": at,
		"( 2026-01-02 03:04:05 GMT )":                           at,
		"":                                                      {},
		"User initiated":                                        {},
		"User initiated ()":                                     {},
		"Server.SpotInstanceShutdown: (no capacity)":            {},
		"Server.ScheduledStop: Stopped due to scheduled retirement": {},
		"User initiated (2026-01-02 03:04:05 CET)":                  {}, // AWS writes GMT; another zone's offset would be a guess
		"User initiated (2026-01-02 03:04:05)":                      {},
		"User initiated (2026-13-02 03:04:05 GMT)":                  {},
		"User initiated (2026-02-30 03:04:05 GMT)":                  {},
		"User initiated (0001-01-01 00:00:00 GMT)":                  {},
		"User initiated (2026-01-02 03:04:05 GMT":                   {},
		"2026-01-02 03:04:05 GMT":                                   {},
	} {
		i := Instance{TransitionReason: text}
		if got, ok := i.TransitionTime(); !got.Equal(want) || ok == want.IsZero() {
			t.Errorf("%q: got %v, %v, want %v", text, got, ok, want)
		}
	}
}

// Every time AWS can write is read back, whatever stands around it.
func TestParseTransitionReadsWhatAWSWrites(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(rapid.Int64Range(1136073600, 4102444800).Draw(t, "unix"), 0).UTC()
		before := rapid.StringMatching(`[ -'*-~]{0,30}`).Draw(t, "before")
		after := rapid.StringMatching(`[ -'*-~]{0,30}`).Draw(t, "after")
		got, ok := parseTransition(before + "(" + at.Format("2006-01-02 15:04:05 GMT") + ")" + after)
		if !ok || !got.Equal(at) {
			t.Errorf("got %v, %v, want %v", got, ok, at)
		}
	})
}

func FuzzParseTransition(f *testing.F) {
	f.Add("User initiated (2026-01-02 03:04:05 GMT)")
	f.Add("((2026-01-02 03:04:05 GMT)")
	f.Add("(\xff GMT)(2026-01-02 24:00:00 GMT)")
	f.Fuzz(func(t *testing.T, text string) {
		at, ok := parseTransition(text)
		if ok != !at.IsZero() {
			t.Errorf("%q: %v and %v", text, at, ok)
		}
		if ok && (at.Location() != time.UTC || !strings.Contains(text, at.Format(time.DateTime)[:16])) {
			t.Errorf("%q: read %v", text, at)
		}
	})
}
