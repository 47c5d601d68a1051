package notification

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
)

// zones change their clocks in all the ways there are: in spring and autumn,
// by half an hour, at midnight, and not at all.
var zones = []string{"", "Europe/Dublin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo", "Asia/Kolkata", "Pacific/Apia", "Africa/Casablanca"}

func genClock(t *rapid.T, label string) string {
	return rapid.OneOf(
		rapid.SampledFrom([]string{"00:00", "01:00", "01:30", "02:00", "02:30", "03:00", "23:00", "23:30", "23:59", "08:00", "18:00"}),
		rapid.Custom(func(t *rapid.T) string {
			return time.Date(2026, 1, 1, 0, rapid.IntRange(0, 1439).Draw(t, "minute"), 0, 0, time.UTC).Format("15:04")
		}),
	).Draw(t, label)
}

// genTime draws a time, often one near a change of a zone's clocks.
func genTime(t *rapid.T, zone *time.Location) time.Time {
	at := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.Int64Range(0, 3*365*24*60).Draw(t, "minute")) * time.Minute)
	if _, change := at.In(zone).ZoneBounds(); !change.IsZero() && rapid.Bool().Draw(t, "near a change") {
		at = change.Add(time.Duration(rapid.IntRange(-30*60, 30*60).Draw(t, "around")) * time.Minute)
	}
	return at.UTC().Add(time.Duration(rapid.IntRange(0, 59).Draw(t, "second")) * time.Second)
}

// Quiet hours end when a clock that is looked at every minute says so.
func TestQuietHoursMinuteByMinute(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var all []*notificationv1.QuietHours
		zone := time.UTC
		for range rapid.IntRange(1, 3).Draw(t, "number") {
			q := &notificationv1.QuietHours{Start: genClock(t, "start"), End: genClock(t, "end"), TimeZone: rapid.SampledFrom(zones).Draw(t, "zone")}
			q.Weekdays = rapid.SliceOfNDistinct(rapid.Int32Range(1, 7), 0, 7, rapid.ID[int32]).Draw(t, "weekdays")
			all = append(all, q)
			zone, _ = time.LoadLocation(q.GetTimeZone())
		}
		var where []*time.Location
		for _, q := range all {
			zone, _ := time.LoadLocation(q.GetTimeZone())
			where = append(where, zone)
		}
		oracle := func(at time.Time) bool {
			for i, q := range all {
				wall := at.In(where[i])
				begins := func(wall time.Time) bool {
					for _, day := range q.GetWeekdays() {
						if time.Weekday(day%7) == wall.Weekday() {
							return true
						}
					}
					return len(q.GetWeekdays()) == 0
				}
				clock := wall.Format("15:04")
				yesterday := time.Date(wall.Year(), wall.Month(), wall.Day()-1, 12, 0, 0, 0, time.UTC)
				if q.GetStart() < q.GetEnd() {
					if begins(wall) && clock >= q.GetStart() && clock < q.GetEnd() {
						return true
					}
				} else if begins(wall) && clock >= q.GetStart() || begins(yesterday) && clock < q.GetEnd() {
					return true
				}
			}
			return false
		}
		at := genTime(t, zone)
		var hours []quiet
		for _, q := range all {
			h, err := newQuiet(q)
			if err != nil {
				t.Fatal(err)
			}
			hours = append(hours, h)
		}
		got := quietUntil(hours, at)
		var want time.Time
		if oracle(at) {
			want = at.Truncate(time.Minute).Add(time.Minute)
			for oracle(want) && want.Before(at.Add(9*24*time.Hour)) {
				want = want.Add(time.Minute)
			}
		}
		if oracle(want) { // for as long as anybody looks
			if got.Before(at.Add(24*time.Hour)) && !oracle(got) {
				t.Fatalf("at %s it is quiet for ever, and not until %s", at, got)
			}
			return
		}
		if !got.Equal(want) {
			t.Fatalf("at %s it is quiet until %s, want %s", at, got, want)
		}
	})
}

// A digest comes at the first minute of its day at which the clock shows its
// time or a later one, and never twice a day.
func TestDigestMinuteByMinute(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := &notificationv1.Digest{Time: genClock(t, "time"), Weekday: rapid.SampledFrom([]int32{0, 0, 1, 5, 7}).Draw(t, "weekday"), TimeZone: rapid.SampledFrom(zones).Draw(t, "zone")}
		d, err := newDigest(p)
		if err != nil {
			t.Fatal(err)
		}
		at := genTime(t, d.zone)
		got := d.next(at)
		told := map[string]bool{} // days
		for minute := at.Truncate(time.Minute).Add(-50 * time.Hour); ; minute = minute.Add(time.Minute) {
			wall := minute.In(d.zone)
			day := wall.Format(time.DateOnly)
			if p.GetWeekday() > 0 && int32(wall.Weekday()) != p.GetWeekday()%7 || wall.Format("15:04") < p.GetTime() || told[day] {
				continue
			}
			told[day] = true
			if minute.After(at) {
				if !got.Equal(minute) {
					t.Fatalf("after %s it comes at %s, want %s", at, got, minute)
				}
				return
			}
		}
	})
}

func TestClocks(t *testing.T) {
	t.Parallel()
	night := &notificationv1.QuietHours{Weekdays: []int32{1, 2, 3, 4, 5}, Start: "18:00", End: "08:00", TimeZone: "Europe/Dublin"}
	weekend := &notificationv1.QuietHours{Weekdays: []int32{6, 7}, Start: "00:00", End: "00:00", TimeZone: "Europe/Dublin"}
	var hours []quiet
	for _, q := range []*notificationv1.QuietHours{night, weekend} {
		h, err := newQuiet(q)
		if err != nil {
			t.Fatal(err)
		}
		hours = append(hours, h)
	}
	for at, want := range map[string]string{
		"2026-03-26T17:59:59Z": "",
		"2026-03-26T18:00:00Z": "2026-03-27T08:00:00Z",
		"2026-03-27T18:00:00Z": "2026-03-29T23:00:00Z", // the weekend, in which summer time begins; Sunday's night is not among the nights
		"2026-06-01T17:30:00Z": "2026-06-02T07:00:00Z",
	} {
		when, _ := time.Parse(time.RFC3339, at)
		got := quietUntil(hours, when)
		if want == "" && !got.IsZero() || want != "" && got.Format(time.RFC3339) != want {
			t.Errorf("at %s: quiet until %s, want %q", at, got, want)
		}
	}
	for _, bad := range []*notificationv1.QuietHours{{Start: "25:00", End: "08:00"}, {Start: "08:00", End: "8"}, {Start: "08:00", End: "09:00", TimeZone: "Mars/Olympus"}} {
		if _, err := newQuiet(bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
