package simaws

import (
	"math"
	"slices"
	"strings"
	"time"
)

// CloudWatch keeps one-minute points 15 days, five-minute points 63 days and hourly points 455 days.
const (
	day             = 24 * time.Hour
	keepMinutes     = 15 * day
	keepFiveMinutes = 63 * day
	keepHours       = 455 * day
	// listedFor is how long ListMetrics shows a metric after its last point.
	listedFor = 14 * day
)

// series is one metric of one resource. Nothing is stored: every point follows from the estate's seed, the metric, the hour, and the times the resource ran.
type series struct {
	spans [][2]int64 // unix seconds of the first and behind the last point, both multiples of step
	step  int64      // seconds between points: 60 or 300
	seed  uint64
	hour  func(seed uint64, hour int64) (mean, peak float64)
	// status is what GetMetricData answers for the series instead of its points; empty for Complete.
	status string
}

type dimension struct {
	Name  string `json:"Name"`
	Value string `json:"Value"`
}

type metric struct {
	Namespace  string      `json:"Namespace"`
	MetricName string      `json:"MetricName"`
	Dimensions []dimension `json:"Dimensions"`
}

var (
	ec2Metrics = []string{"CPUUtilization", "NetworkIn", "NetworkOut", "StatusCheckFailed"}
	ebsMetrics = []string{"VolumeReadOps", "VolumeWriteOps", "VolumeReadBytes", "VolumeWriteBytes", "VolumeIdleTime", "VolumeQueueLength"}
)

const (
	memoryLinux   = "mem_used_percent"
	memoryWindows = "Memory % Committed Bytes In Use"
)

// find resolves a metric by its exact name and dimensions; nil if there is none.
func (c *call) findSeries(m metric) *series {
	one := func(name string) string {
		if len(m.Dimensions) == 1 && m.Dimensions[0].Name == name {
			return m.Dimensions[0].Value
		}
		return ""
	}
	switch m.Namespace {
	case "AWS/EC2":
		if in := c.region.instance(one("InstanceId")); in != nil && slices.Contains(ec2Metrics, m.MetricName) {
			return c.instanceSeries(in, m.MetricName)
		}
	case "AWS/EBS":
		if v := c.region.volume(one("VolumeId")); v != nil && slices.Contains(ebsMetrics, m.MetricName) && v.publishes(m.MetricName) {
			return c.volumeSeries(v, m.MetricName)
		}
	case "CWAgent":
		i := slices.IndexFunc(m.Dimensions, func(d dimension) bool { return d.Name == "InstanceId" })
		if i < 0 {
			return nil
		}
		in := c.region.instance(m.Dimensions[i].Value)
		if in == nil || in.Agent == "" || m.MetricName != in.memoryMetric() {
			return nil
		}
		byName := func(a, b dimension) int { return strings.Compare(a.Name, b.Name) }
		have, want := slices.SortedFunc(slices.Values(in.agentDimensions()), byName), slices.SortedFunc(slices.Values(m.Dimensions), byName)
		if slices.Equal(have, want) {
			return c.instanceSeries(in, m.MetricName)
		}
	}
	return nil
}

// publishes: a Multi-Attach volume has no VolumeIdleTime.
func (v *Volume) publishes(name string) bool { return !v.MultiAttach || name != "VolumeIdleTime" }

func (in *Instance) memoryMetric() string {
	if in.Windows {
		return memoryWindows
	}
	return memoryLinux
}

// agentDimensions are as CloudWatch agents are configured in practice: the append_dimensions differ from installation to installation.
func (in *Instance) agentDimensions() []dimension {
	d := []dimension{{"InstanceId", in.ID}}
	switch in.Agent {
	case "id+type":
		d = append(d, dimension{"InstanceType", in.Type})
	case "id+image+type":
		d = append(d, dimension{"ImageId", in.Image}, dimension{"InstanceType", in.Type})
	case "asg":
		group, _ := tagValue(in.Tags, "aws:autoscaling:groupName")
		d = append(d, dimension{"ImageId", in.Image}, dimension{"InstanceType", in.Type}, dimension{"AutoScalingGroupName", group})
	}
	if in.Windows {
		d = append(d, dimension{"objectname", "Memory"})
	}
	return d
}

func (c *call) instanceSeries(in *Instance, name string) *series {
	s := &series{step: 300, seed: mix(c.s.estate.Seed, hashString(in.ID+name)), status: in.MetricStatus}
	if in.Detailed || name == memoryLinux || name == memoryWindows {
		s.step = 60
	}
	agent := name == memoryLinux || name == memoryWindows
	s.cover(c, in.measured(agent), in.Zone)
	switch name {
	case "CPUUtilization":
		s.hour = cpuLoad(in.Load)
	case memoryLinux, memoryWindows:
		s.hour = memoryUse(in.Memory)
	case "StatusCheckFailed":
		s.hour = steady(0, 0)
	default:
		s.hour = steady(20_000, 4_000_000)
	}
	return s
}

func (c *call) volumeSeries(v *Volume, name string) *series {
	s := &series{step: 60, seed: mix(c.s.estate.Seed, hashString(v.ID+name)), status: v.MetricStatus}
	s.cover(c, c.region.active(v), v.Zone)
	switch name {
	case "VolumeIdleTime":
		s.hour = steady(48, 10)
	case "VolumeQueueLength":
		s.hour = steady(0.01, 0.2)
	case "VolumeReadBytes", "VolumeWriteBytes":
		s.hour = steady(50_000, 900_000)
	default:
		// A quarter of the volumes are attached and never used: their points are there, and zero.
		s.hour = steady(2, 60)
		if hashString(v.ID)&3 == 0 {
			s.hour = steady(0, 0)
		}
	}
	return s
}

// cover sets the times of which there are points: a point stands for a whole step during which the resource ran.
func (s *series) cover(c *call, spans []Span, zone string) {
	end := c.now.Unix()
	if since, bad := c.s.faults.disrupted(zone, c.account.ID); bad {
		end = min(end, since.Unix())
	}
	for _, sp := range spans {
		from, to := sp.From.Unix(), end
		if !sp.To.IsZero() {
			to = min(to, sp.To.Unix())
		}
		from, to = (from+s.step-1)/s.step*s.step, to/s.step*s.step
		if from < to {
			s.spans = append(s.spans, [2]int64{from, to})
		}
	}
}

// last is the time behind the last point; zero if there never was one.
func (s *series) last() int64 {
	var t int64
	for _, sp := range s.spans {
		t = max(t, sp[1])
	}
	return t
}

// stat is the statistic set of one period.
type stat struct{ n, sum, min, max float64 }

func (s stat) value(name string) float64 {
	switch name {
	case "Average":
		return s.sum / s.n
	case "Sum":
		return s.sum
	case "Minimum":
		return s.min
	case "Maximum":
		return s.max
	}
	return s.n // SampleCount
}

// over aggregates the points of [from, to), unix seconds.
func (s *series) over(from, to int64) (out stat) {
	out.min, out.max = math.Inf(1), math.Inf(-1)
	for _, sp := range s.spans {
		// The first point at or after from, and behind the last before to.
		a, b := max(sp[0], (from+s.step-1)/s.step*s.step), min(sp[1], (to+s.step-1)/s.step*s.step)
		for t := a; t < b; {
			hour := t / 3600
			endOfHour := min(b, (hour+1)*3600)
			mean, peak := s.hour(s.seed, hour)
			n := float64((endOfHour - t) / s.step)
			// Inside an hour one slot of five minutes has the peak, the other eleven share the rest of the mean.
			low := mean - (peak-mean)/11
			if t == hour*3600 && endOfHour == (hour+1)*3600 {
				out.n, out.sum = out.n+n, out.sum+n*mean
				out.min, out.max = min(out.min, low), max(out.max, peak)
				t = endOfHour
				continue
			}
			peakSlot := int64(mix(s.seed, uint64(hour)^0xabcdef) % 12)
			for t < endOfHour {
				slot := t % 3600 / 300
				endOfSlot := min(endOfHour, hour*3600+(slot+1)*300)
				v := low
				if slot == peakSlot {
					v = peak
				}
				n := float64((endOfSlot - t + s.step - 1) / s.step)
				out.n, out.sum = out.n+n, out.sum+n*v
				out.min, out.max = min(out.min, v), max(out.max, v)
				t = endOfSlot
			}
		}
	}
	return out
}

// points evaluates the series over [start, end) in periods counted from start. Points beyond their retention are gone.
func (s *series) points(start, end, period int64, statistic string, now int64, yield func(t int64, v float64) bool, descending bool) {
	n := (end - start + period - 1) / period
	for i := range n {
		if descending {
			i = n - 1 - i
		}
		t := start + i*period
		age := time.Duration(now-t) * time.Second
		if age > keepHours || age > keepFiveMinutes && period%3600 != 0 || age > keepMinutes && period%300 != 0 {
			continue
		}
		if st := s.over(t, min(t+period, end)); st.n > 0 && !yield(t, st.value(statistic)) {
			return
		}
	}
}

func unit(h uint64) float64 { return float64(h>>11) / (1 << 53) }

// steady wanders between base and base+spread/10, with peaks up to base+spread.
func steady(base, spread float64) func(uint64, int64) (float64, float64) {
	return func(seed uint64, hour int64) (float64, float64) {
		h := mix(seed, uint64(hour))
		mean := base + spread/10*unit(h)
		return mean, min(mean+spread*0.9*unit(mix(h, 1)), 12*mean)
	}
}

// cpuLoad are the shapes of CPUUtilization, in percent.
func cpuLoad(shape string) func(uint64, int64) (float64, float64) {
	idle := steady(0.6+1, 5)
	switch shape {
	case "idle": // daily averages below 3 %, no hour above 8 %
		return idle
	case "bursty": // idle, but one hour a night works at 100 %
		return oneHour(idle, 33, 100)
	case "oneday": // idle, but one day of seven at 12 % with no hour at 20 %; any way to cut days leaves one with half of it
		return oneDay(idle, 12, 16)
	case "peak18": // idle, with one hour a night that comes close to a burst
		return oneHour(idle, 3, 18)
	case "peak20": // idle, with one hour a night that is just a burst
		return oneHour(idle, 3, 20)
	case "flat5": // at the threshold
		return func(uint64, int64) (float64, float64) { return 5, 5 }
	case "office": // works from 8 to 18 UTC
		return func(seed uint64, hour int64) (float64, float64) {
			if h := hour % 24; h >= 8 && h < 18 {
				return steady(25, 40)(seed, hour)
			}
			return idle(seed, hour)
		}
	}
	return steady(22, 55)
}

type shape = func(seed uint64, hour int64) (mean, peak float64)

// oneHour is another shape but for one hour a night, oneDay but for one UTC day of seven.
func oneHour(other shape, mean, peak float64) shape {
	return func(seed uint64, hour int64) (float64, float64) {
		if hour%24 == 2 {
			return mean, peak
		}
		return other(seed, hour)
	}
}

func oneDay(other shape, mean, peak float64) shape {
	return func(seed uint64, hour int64) (float64, float64) {
		if hour/24%7 == int64(seed%7) {
			return mean, peak
		}
		return other(seed, hour)
	}
}

// memoryUse are the shapes of the agent's memory metric, in percent.
func memoryUse(shape string) shape {
	low := steady(3, 4)
	switch shape {
	case "low": // daily averages below 4 %
		return low
	case "peaks": // the same, but one hour a night fills half of it
		return oneHour(low, 20, 50)
	case "oneday":
		return oneDay(low, 30, 40)
	case "flat10":
		return func(uint64, int64) (float64, float64) { return 10, 10 }
	}
	return steady(35, 40)
}

// measured are the times of which there are points: CPU's whenever it ran but for the gaps, the agent's while it reported.
func (in *Instance) measured(agent bool) []Span {
	all := in.running()
	if agent {
		if in.Reporting == (Span{}) {
			return all
		}
		return []Span{in.Reporting}
	}
	for _, g := range in.Gaps {
		var out []Span
		for _, s := range all {
			if before := (Span{s.From, g.From}); s.From.Before(g.From) {
				if !s.To.IsZero() && s.To.Before(g.From) {
					before.To = s.To
				}
				out = append(out, before)
			}
			if after := (Span{g.To, s.To}); s.To.IsZero() || g.To.Before(s.To) {
				if s.From.After(g.To) {
					after.From = s.From
				}
				out = append(out, after)
			}
		}
		all = out
	}
	return all
}
