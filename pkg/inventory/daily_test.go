package inventory_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/simaws"
)

// wantDay is a day's figures, computed from the hours the other way round.
func wantDay(hours map[time.Time]simaws.HourTruth, day time.Time) inventory.DayFigures {
	var (
		w   inventory.DayFigures
		all []float64
	)
	for h, v := range hours {
		if h.Before(day) || !h.Before(day.AddDate(0, 0, 1)) {
			continue
		}
		all = append(all, v.Average)
		w.Average += v.Average
		w.Maximum = max(w.Maximum, v.Maximum)
	}
	if w.Hours = len(all); w.Hours == 0 {
		return w
	}
	w.Average /= float64(w.Hours)
	slices.Sort(all)
	w.P95 = all[int(math.Ceil(0.95*float64(len(all))))-1]
	return w
}

func TestDailyUseIsTheEstates(t *testing.T) {
	t.Parallel()
	const days = 30
	s := open(t, simaws.Options{Seed: 3, Resources: 2500, Accounts: 1, Regions: 1})
	rs, _ := list(t, s.Session, inventory.Instances)
	until := now.Truncate(24 * time.Hour)
	from := func(i *inventory.Instance) time.Time {
		// Instances begin on different days, as they do when some are new.
		return until.AddDate(0, 0, -days+len(i.ID)*int(i.ID[len(i.ID)-1])%5)
	}
	use, refused, err := inventory.DailyUse(t.Context(), s.Session, now, until, rs, from)
	if err != nil || refused != nil {
		t.Fatal(refused, err)
	}
	byID := map[string]*simaws.Instance{}
	for i := range s.region.Instances {
		byID[s.region.Instances[i].ID] = &s.region.Instances[i]
	}
	close := func(a, b float64) bool { return math.Abs(a-b) < 1e-5 }
	var full, partial, empty, remembered, unread int
	for _, i := range rs {
		in, u := byID[i.ID], use[i.ID]
		if in.MetricStatus != "" {
			if unread++; !u.CPU.Failed || u.CPU.Known {
				t.Errorf("%s answers %s, and its CPU is %+v", i.ID, in.MetricStatus, u.CPU)
			}
			continue
		}
		if !u.CPU.Known || len(u.CPU.Value.Days) != int(until.Sub(from(i)).Hours()/24) || !u.CPU.Value.From.Equal(from(i)) {
			t.Errorf("%s: %+v", i.ID, u.CPU)
			continue
		}
		hours := s.server.HoursTruth(s.account, s.region, in, false, from(i), until)
		for n, got := range u.CPU.Value.Days {
			want := wantDay(hours, from(i).AddDate(0, 0, n))
			if got.Hours != want.Hours || !close(got.Average, want.Average) || !close(got.P95, want.P95) || !close(got.Maximum, want.Maximum) {
				t.Errorf("%s, day %d: CPU %+v, want %+v", i.ID, n, got, want)
			}
			switch got.Hours {
			case 24:
				full++
			case 0:
				empty++
			default:
				partial++
			}
		}
		silent := !in.Reporting.To.IsZero() && now.Sub(in.Reporting.To) > 14*24*time.Hour
		if in.Agent == "" || silent {
			if u.Memory.Known || u.Memory.Failed || u.Memory.Why == "" {
				t.Errorf("%s has no agent that reports, and its memory is %+v", i.ID, u.Memory)
			}
			continue
		}
		if !u.Memory.Known {
			// CloudWatch lists no metric that was silent for two weeks: the instance was stopped.
			if in.State == "running" {
				t.Errorf("%s has agent %q, and its memory is %+v", i.ID, in.Agent, u.Memory)
			}
			continue
		}
		hours = s.server.HoursTruth(s.account, s.region, in, true, from(i), until)
		for n, got := range u.Memory.Value.Days {
			if want := wantDay(hours, from(i).AddDate(0, 0, n)); got.Hours != want.Hours || !close(got.Average, want.Average) || !close(got.Maximum, want.Maximum) {
				t.Errorf("%s, day %d: memory %+v, want %+v", i.ID, n, got, want)
			}
		}
		remembered++
	}
	t.Logf("%d instances: %d full days, %d partial, %d empty; %d with memory, %d unreadable", len(rs), full, partial, empty, remembered, unread)
	if full < 100 || partial < 5 || empty < 5 || remembered < 10 || unread < 1 {
		t.Error("the estate does not test everything")
	}
	// One metric for each instance and agent; those that fail are asked for again.
	calls := s.Meter.Snapshot().Actions["cloudwatch:GetMetricData"]
	if most := int64(len(rs) + remembered + 8*unread + 20); calls.BilledMetrics > most {
		t.Errorf("%d metrics were billed for %d instances, at most %d wanted", calls.BilledMetrics, len(rs), most)
	}
	if calls.Calls > int64(len(rs)/4) {
		t.Errorf("%d calls for %d instances", calls.Calls, len(rs))
	}
}

func TestDailyUseAsksOnlyForWhatIsNew(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 3, Resources: 400, Accounts: 1, Regions: 1})
	rs, _ := list(t, s.Session, inventory.Instances)
	until := now.Truncate(24 * time.Hour)
	use, refused, err := inventory.DailyUse(t.Context(), s.Session, now, until, rs, func(*inventory.Instance) time.Time { return until })
	if err != nil || refused != nil || len(use) != 0 {
		t.Errorf("%d answers, %v", len(use), err)
	}
	if n := s.Meter.Snapshot().Actions["cloudwatch:GetMetricData"].Calls; n != 0 {
		t.Errorf("%d calls for nothing", n)
	}
}

func TestDailyUseThatIsDenied(t *testing.T) {
	t.Parallel()
	for action, memoryOnly := range map[string]bool{"cloudwatch:GetMetricData": false, "cloudwatch:ListMetrics": true} {
		s := open(t, simaws.Options{Seed: 3, Resources: 200, Accounts: 1, Regions: 1})
		s.account.Denied = []string{action}
		rs, _ := list(t, s.Session, inventory.Instances)
		until := now.Truncate(24 * time.Hour)
		use, refused, err := inventory.DailyUse(t.Context(), s.Session, now, until, rs, func(*inventory.Instance) time.Time { return until.AddDate(0, 0, -1) })
		if err != nil || refused == nil {
			t.Errorf("%s is denied: %v, %v", action, refused, err)
		}
		known := 0
		for id, u := range use {
			if u.CPU.Known {
				known++
			}
			if u.Memory.Known || !u.Memory.Failed && u.Memory.Why == "" {
				t.Errorf("%s is denied, and the memory of %s is %+v", action, id, u.Memory)
			}
		}
		if memoryOnly != (known > 0) || len(use) != len(rs) {
			t.Errorf("%s is denied, and the CPU of %d of %d is known", action, known, len(rs))
		}
	}
}
