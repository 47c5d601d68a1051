package waste

import (
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// The words in which the examples of idle instances describe them.

// runningExample is an m5.large that runs since May 2026, of whose metrics
// nothing is known.
func runningExample(with ...func(*inventory.Instance)) inventory.Instance {
	i := stoppedExample("")
	i.State, i.Platform, i.Tenancy, i.TransitionReason = "running", "Linux/UNIX", "default", ""
	return apply(i, with)
}

func ofType(instanceType string) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.InstanceType = instanceType }
}

// week is a metric of which the newest n days are complete, each with that
// average and maximum.
func week(n int, average, maximum float64) rule.Fact[inventory.Usage] {
	var u inventory.Usage
	for d := range u {
		u[d].From = scan.ExampleTime.Truncate(time.Hour).Add(-scan.Days(d + 1))
		if d < n {
			u[d].Hours, u[d].Average, u[d].Maximum, u[d].Busiest = 24, average, maximum, u[d].From.Add(14*time.Hour)
		}
	}
	return rule.Known(u, getMetricData, scan.ExampleTime)
}

func cpu(days int, average, maximum float64) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.CPU = week(days, average, maximum) }
}

// onDay sets the CPU of one complete day; 0 is the newest.
func onDay(d int, average, maximum float64) func(*inventory.Instance) {
	return func(i *inventory.Instance) {
		u := &i.CPU.Value[d]
		u.Hours, u.Average, u.Maximum, u.Busiest = 24, average, maximum, u.From.Add(2*time.Hour)
	}
}

// missing sets the CPU of one day of which so many hours are missing; the
// other days are as they are.
func missing(d, hours int, average, maximum float64) func(*inventory.Instance) {
	return func(i *inventory.Instance) {
		if !i.CPU.Known {
			i.CPU = week(0, 0, 0)
		}
		onDay(d, average, maximum)(i)
		i.CPU.Value[d].Hours = 24 - hours
	}
}

func cpuUnread(i *inventory.Instance) {
	i.CPU = rule.Fact[inventory.Usage]{
		Failed: true, Source: getMetricData, Why: "cloudwatch:GetMetricData is denied (AccessDenied): no identity-based policy allows it",
	}
}

func memory(days int, average float64) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.Memory = week(days, average, 0) }
}

// memoryOn sets the memory of one complete day; 0 is the newest.
func memoryOn(d int, average float64) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.Memory.Value[d].Hours, i.Memory.Value[d].Average = 24, average }
}

func noAgent(i *inventory.Instance) {
	i.Memory = rule.Fact[inventory.Usage]{
		Source: "cloudwatch:ListMetrics", At: scan.ExampleTime, Why: "no CloudWatch agent has published it in the last two weeks",
	}
}

func memoryDenied(i *inventory.Instance) {
	i.Memory = rule.Fact[inventory.Usage]{
		Failed: true, Source: "cloudwatch:ListMetrics", Why: "cloudwatch:ListMetrics is denied (AccessDenied): no identity-based policy allows it",
	}
}
