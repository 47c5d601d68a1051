package simaws

import "time"

// HourTruth is what a metric of an instance is in one hour.
type HourTruth struct{ Average, Maximum float64 }

// HoursTruth are the hours from a time until another, both full hours, in
// which CPUUtilization of an instance, or with memory its agent's memory metric,
// has points, by their start. Unlike GetMetricData it fails for nobody.
func (s *Server) HoursTruth(a *Account, r *Region, in *Instance, memory bool, from, until time.Time) map[time.Time]HourTruth {
	name := "CPUUtilization"
	if memory {
		if in.Agent == "" {
			return nil
		}
		name = in.memoryMetric()
	}
	c := &call{s: s, now: s.clock(), region: r}
	c.account = a
	all := c.instanceSeries(in, name)
	out := map[time.Time]HourTruth{}
	for h := from; h.Before(until); h = h.Add(time.Hour) {
		if st := all.over(h.Unix(), h.Unix()+3600); st.n > 0 {
			out[h] = HourTruth{st.value("Average"), st.value("Maximum")}
		}
	}
	return out
}
