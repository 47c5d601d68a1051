package simaws

import (
	"strings"
	"time"
)

// The truth about use is told from the shape a series was given and from when it has points; how the shapes come out in numbers is the series' affair, and a
// test reads them back.

const (
	idleFor = 7 * day
	// enough of the expected points of the window must be there.
	enough = 0.9
)

// window is the seven whole days that end at the full hour.
func window(now time.Time) Span {
	end := now.Truncate(time.Hour)
	return Span{end.Add(-idleFor), end}
}

// covered is how much of a stretch has points.
func covered(points []Span, in Span) time.Duration {
	var sum time.Duration
	for _, s := range points {
		if s.To.IsZero() || s.To.After(in.To) {
			s.To = in.To
		}
		if s.From.Before(in.From) {
			s.From = in.From
		}
		sum += max(0, s.To.Sub(s.From))
	}
	return sum
}

// wholeDay tells whether one of the window's seven days has all its points.
func wholeDay(points []Span, w Span) bool {
	for to := w.To; to.After(w.From); to = to.Add(-day) {
		if covered(points, Span{to.Add(-day), to}) == day {
			return true
		}
	}
	return false
}

// accelerated are the families whose CPU says nothing.
func accelerated(kind string) bool {
	for _, family := range []string{"p", "g", "inf", "trn", "dl", "vt"} {
		if rest, ok := strings.CutPrefix(kind, family); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return true
		}
	}
	return false
}

func ec2IdleCPU(r *Region, in *Instance, now time.Time) verdict {
	switch {
	case in.State != "running":
		return beside(in.State)
	case accelerated(in.Type):
		return undecided("what an accelerator does is not in the CPU's figures")
	}
	if why := r.silenced(in.MetricStatus); why != "" {
		return unreadable(why)
	}
	w, points := window(now), in.measured(false)
	switch in.Load {
	case "idle", "peak18":
	case "oneday": // its day is there when all are
		if covered(points, w) == idleFor {
			return good("one day was in use")
		}
	case "bursty", "peak20":
		if wholeDay(points, w) {
			return good("bursty")
		}
	default:
		if wholeDay(points, w) {
			return good("in use")
		}
	}
	if why := tooLittle(in, now, points, w); why != "" {
		return undecided(why)
	}
	cost := r.hourlyCost(in)
	return wasted(cost, cost, "every day of seven was idle")
}

// tooLittle says what is missing for a verdict on a week; empty if nothing is.
func tooLittle(in *Instance, now time.Time, points []Span, w Span) string {
	switch {
	case now.Sub(in.Launched) < idleFor:
		return "it has not run for seven days yet"
	case float64(covered(points, w)) < enough*float64(idleFor):
		return "too few points"
	}
	return ""
}

func ec2IdleMemory(r *Region, in *Instance, now time.Time) verdict {
	switch {
	case in.State != "running":
		return beside(in.State)
	case in.Agent == "":
		return undecided("no agent")
	}
	if why := r.silenced(in.MetricStatus); why != "" {
		return unreadable(why)
	}
	if r.account.denies("cloudwatch", "ListMetrics") {
		return unreadable("the account denies ListMetrics")
	}
	w, points := window(now), in.measured(true)
	if !in.Reporting.To.IsZero() && now.Sub(in.Reporting.To) > listedFor {
		return undecided("the agent fell silent so long ago that its metric is not listed")
	}
	switch in.Memory {
	case "low", "peaks":
	case "oneday":
		if covered(points, w) == idleFor {
			return good("one day was in use")
		}
	default:
		if wholeDay(points, w) {
			return good("in use")
		}
	}
	if why := tooLittle(in, now, points, w); why != "" {
		return undecided(why)
	}
	v := bad(Low, "every day of seven had its memory free: right-sizing")
	if cpu := ec2IdleCPU(r, in, now); cpu.outcome == Violation {
		v.severity, v.why = cpu.severity, "neither memory nor CPU was in use on any day of seven"
	}
	return v
}

// hourlyCost is what a running instance costs a month on demand. Of spot, Windows and types without a price there is no claim.
func (r *Region) hourlyCost(in *Instance) *float64 {
	if hour := regionPrices[r.Name].hour[in.Type]; hour > 0 && !in.Spot && !in.Windows {
		return cents(hour * 730)
	}
	return nil
}
