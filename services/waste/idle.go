package waste

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// What ec2-idle-cpu and ec2-idle-memory have in common.

// Defaults of the parameters of both rules.
const (
	idleCPU    = 5.0
	idleMemory = 10.0
	idleBurst  = 20.0
)

var idleDays = rule.Param{
	Name: "min_days", Description: "Days, each of 24 hours up to the scan's full hour, that must all be idle. CloudWatch is asked for seven.",
	Unit: "days", Default: inventory.UsageDays, Min: 1, Max: inventory.UsageDays,
}

func percentParam(name, description string, value float64) rule.Param {
	return rule.Param{Name: name, Description: description, Unit: "percent", Default: value, Min: 0.1, Max: 100}
}

// gauge is a metric that can tell an instance idle.
type gauge struct {
	// name as in evidence, title as in sentences.
	name, title string
	threshold   float64
	// burst is the hourly maximum from which on an instance is not idle,
	// however low its average; 0 for none.
	burst float64
}

func cpuGauge(in scan.In, threshold string) gauge {
	return gauge{name: "cpu", title: "CPU", threshold: in.Params.Float(threshold), burst: in.Params.Float("burst")}
}

func memoryGauge(in scan.In, threshold string) gauge {
	return gauge{name: "memory", title: "memory", threshold: in.Params.Float(threshold)}
}

// accelerated are the prefixes of instance families that work with GPUs or
// other accelerators while their CPU idles.
var accelerated = []string{"p", "g", "inf", "trn", "dl", "vt", "f"}

// isAccelerated tells whether CPU says nothing about an instance type.
func isAccelerated(instanceType string) bool {
	return slices.ContainsFunc(accelerated, func(prefix string) bool { return strings.HasPrefix(instanceType, prefix) })
}

// canBeJudged tells whether a metric can still change the verdict on a running
// instance: one that did not exist a day ago has no complete day.
func canBeJudged(in scan.In, i inventory.Instance) bool {
	day := in.At.Truncate(time.Hour).Add(-scan.Day)
	return i.State == "running" && (i.Created.IsZero() || !i.Created.After(day))
}

// judgeIdle judges by one metric; idle tells that every day was below the
// threshold, and the verdict is then the rule's to give.
func judgeIdle(in scan.In, i inventory.Instance, f rule.Fact[inventory.Usage], g gauge) (_ rule.Verdict, idle bool) {
	if i.State != "running" {
		return notApplicable(in, "It is "+cmp.Or(i.State, "in no known state")+", not running.", "state", i.State, describeInstances), false
	}
	n := min(max(in.Params.Int("min_days"), 1), inventory.UsageDays)
	window := f.Value[:n]
	if f.Known {
		// A disproof beats missing data.
		for _, d := range window {
			if isComplete(d, i.Launched) && (d.Average >= g.threshold || g.bursty(d)) {
				return g.inUse(f, d, d.Hours, 24), false
			}
		}
	}
	switch {
	case f.Failed:
		return g.unread(in, f), false
	case i.Launched.IsZero() || in.Ago(i.Launched) < scan.Days(n):
		return g.young(in, i, n), false
	case !f.Known:
		return g.unread(in, f), false
	}
	worst, peak, seen := window[0], window[0], 0
	for _, d := range window {
		seen += d.Hours
		if d.Average > worst.Average {
			worst = d
		}
		if d.Maximum > peak.Maximum {
			peak = d
		}
	}
	expected := 24 * n
	switch {
	case seen*10 < expected*9:
		return rule.Verdict{
			Outcome: rule.InsufficientData, Evidence: []rule.Evidence{g.day(f, worst, seen, expected)},
			Reason: fmt.Sprintf("CloudWatch has its %s for %d of the last %d hours, and what is missing is not zero.", g.title, seen, expected),
		}, false
	case worst.Average >= g.threshold:
		return g.inUse(f, worst, seen, expected), false
	case g.bursty(peak):
		return g.inUse(f, peak, seen, expected), false
	}
	evidence := []rule.Evidence{g.day(f, worst, seen, expected)}
	if g.burst > 0 {
		evidence = append(evidence, g.hour(f, peak, seen, expected))
	}
	averages := make([]string, n)
	for d, day := range window {
		averages[d] = when(day.From) + ": " + percent(day.Average)
	}
	return rule.Verdict{Evidence: append(evidence, rule.Evidence{
		Name: g.name + "_daily_averages", Value: averages, Source: f.Source, At: f.At, Confidence: rule.Observed,
		Note: "24 hours from each time",
	})}, true
}

// isComplete tells whether a day has every hour, and the instance was not just
// started in it: an hour that it ran in part would count as a whole one.
func isComplete(d inventory.UsageDay, launched time.Time) bool {
	return d.Hours == 24 && (!launched.After(d.From) || !launched.Before(d.From.Add(scan.Day)))
}

// day is the evidence of a day's average.
func (g gauge) day(f rule.Fact[inventory.Usage], d inventory.UsageDay, seen, expected int) rule.Evidence {
	return rule.Evidence{
		Name: g.name + "_busiest_day", Value: d.Average, Threshold: g.threshold, Unit: "percent", Statistic: "Average",
		WindowStart: d.From, WindowEnd: d.From.Add(scan.Day), PointsSeen: seen, PointsExpected: expected,
		Source: f.Source, At: f.At, Confidence: rule.Observed,
	}
}

// bursty tells whether an hour of the day was work, however low its average.
func (g gauge) bursty(d inventory.UsageDay) bool { return g.burst > 0 && d.Maximum >= g.burst }

// hour is the evidence of a day's busiest hour.
func (g gauge) hour(f rule.Fact[inventory.Usage], d inventory.UsageDay, seen, expected int) rule.Evidence {
	return rule.Evidence{
		Name: g.name + "_busiest_hour", Value: d.Maximum, Threshold: g.burst, Unit: "percent", Statistic: "Maximum",
		WindowStart: d.Busiest, WindowEnd: d.Busiest.Add(time.Hour), PointsSeen: seen, PointsExpected: expected,
		Source: f.Source, At: f.At, Confidence: rule.Observed, Note: "a burst is work, however low the day's average",
	}
}

// inUse is the verdict that a day disproves that the instance idles: by its
// average, or else by its busiest hour.
func (g gauge) inUse(f rule.Fact[inventory.Usage], d inventory.UsageDay, seen, expected int) rule.Verdict {
	v := rule.Verdict{Outcome: rule.Compliant, Evidence: []rule.Evidence{g.day(f, d, seen, expected)}}
	if d.Average >= g.threshold {
		v.Reason = fmt.Sprintf("Its %s averaged %s on the day from %s.", g.title, percent(d.Average), when(d.From))
		return v
	}
	v.Reason = fmt.Sprintf("It is bursty: on the day from %s its %s averaged %s and reached %s in the hour from %s.",
		when(d.From), g.title, percent(d.Average), percent(d.Maximum), when(d.Busiest))
	v.Evidence = append([]rule.Evidence{g.hour(f, d, seen, expected)}, v.Evidence...)
	return v
}

// young is the verdict on an instance that has not run for long enough.
func (g gauge) young(in scan.In, i inventory.Instance, n int) rule.Verdict {
	running := rule.Evidence{
		Name: "days_running", Value: "unknown", Threshold: n, Unit: "days", Source: describeInstances, At: in.At, Confidence: rule.Observed,
		Note: "since the last start",
	}
	if i.Launched.IsZero() {
		return rule.Verdict{
			Outcome: rule.InsufficientData, Reason: "AWS does not tell when it was started.", Evidence: []rule.Evidence{running},
		}
	}
	running.Value = max(days(in, i.Launched), 0)
	return rule.Verdict{
		Outcome: rule.InsufficientData, DecidableAt: i.Launched.Add(scan.Days(n)),
		Reason:   fmt.Sprintf("It runs since %s, which is less than %d days.", when(i.Launched), n),
		Evidence: []rule.Evidence{running},
	}
}

// unread is the verdict when there is nothing to judge by.
func (g gauge) unread(in scan.In, f rule.Fact[inventory.Usage]) rule.Verdict {
	why := orNotRead(f.Why)
	v := rule.Verdict{
		Outcome: rule.InsufficientData, Reason: "Its " + g.title + " is unknown: " + why + ".",
		Evidence: []rule.Evidence{{
			Name: g.name + "_busiest_day", Value: "unknown", Threshold: g.threshold, Unit: "percent",
			Source: cmp.Or(f.Source, getMetricData), At: in.At, Confidence: rule.Observed, Note: why,
		}},
	}
	if f.Failed {
		v.Outcome, v.Reason = rule.Error, "Its "+g.title+" could not be read: "+why
	}
	return v
}

// percent writes a figure with as many digits as it needs and no more than
// two.
func percent(v float64) string {
	text := strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	return text + " %"
}

// idleCost is what running an idle instance costs a month, all of which the
// window was paid for.
func idleCost(in scan.In, i inventory.Instance) (rule.Cost, rule.Evidence) {
	price := rule.Evidence{
		Name: "fraction_running", Value: 1.0, Source: describeInstances, At: in.At, Confidence: rule.Derived,
		Note: "of the window, for it runs since " + when(i.Launched) + "; the cost is the hourly price × 730 × this",
	}
	unknown := func(why string) (rule.Cost, rule.Evidence) {
		price.Note += "; the price is unknown: " + why
		return rule.Cost{}, price
	}
	switch {
	case i.Lifecycle != "":
		return unknown("a " + i.Lifecycle + " instance is not paid by the list")
	case i.Platform != "" && i.Platform != "Linux/UNIX":
		return unknown("the list has Linux/UNIX, and not " + i.Platform)
	case i.Tenancy != "" && i.Tenancy != "default":
		return unknown("the list has shared tenancy, and not " + i.Tenancy)
	case !inRegion(in, i.Zone):
		return unknown(i.Zone + " has prices of its own")
	}
	c := in.Price.Instance(i.InstanceType)
	if !c.Known {
		return unknown("the list has no " + i.InstanceType + " in " + in.Region)
	}
	return c, price
}

// managers are what would replace an instance that is stopped, or has made it:
// the most telling first.
func managers(i inventory.Instance) []string {
	var all []string
	add := func(text string, value string) {
		all = append(all, strings.TrimSpace(text+" "+value))
	}
	named := func(text string, keys ...string) {
		for _, k := range keys {
			if v, ok := i.Tags[k]; ok {
				add(text, v)
				return
			}
		}
	}
	// of names by the first tag with the prefix when the telling one is not
	// there.
	of := func(text, prefix, telling string) {
		if _, ok := i.Tags[prefix+telling]; ok {
			named(text, prefix+telling)
			return
		}
		for _, k := range slices.Sorted(maps.Keys(i.Tags)) {
			if strings.HasPrefix(k, prefix) {
				add(text, "")
				return
			}
		}
	}
	named("Auto Scaling group", "aws:autoscaling:groupName")
	named("Karpenter node pool", "karpenter.sh/nodepool")
	named("EKS cluster", "eks:cluster-name", "aws:eks:cluster-name")
	of("ECS cluster", "aws:ecs:", "clusterName")
	of("EMR cluster", "aws:elasticmapreduce:", "job-flow-id")
	of("Elastic Beanstalk environment", "elasticbeanstalk:", "environment-name")
	if i.Lifecycle == "spot" {
		add("spot request", "")
	}
	return all
}

// idleVerdict completes the verdict on an idle instance: what it costs, who
// manages it and what to do. by are the metrics that say so.
func idleVerdict(in scan.In, i inventory.Instance, v rule.Verdict, by ...string) rule.Verdict {
	cost, fraction := idleCost(in, i)
	v.Outcome, v.Cost, v.Severity, v.Owner = rule.Violation, cost, severity(cost), owner(i.Tags)
	v.Evidence = append(v.Evidence, fraction,
		rule.Evidence{
			Name: "instance", Value: strings.TrimSpace(i.InstanceType + " " + i.Platform), Source: describeInstances, At: in.At, Confidence: rule.Observed,
		},
		rule.Evidence{
			Name: "idle_by", Value: by, Source: getMetricData, At: in.At, Confidence: rule.Derived, Note: "both together weigh more",
		})
	if m := managers(i); len(m) > 0 {
		v.Owner = cmp.Or(v.Owner, m[0])
		v.Reason += " It is a member of " + strings.Join(m, ", ") + "."
		v.Recommendation = "Lower the size of " + m[0] + " rather than stop this member: it would be replaced."
		v.Evidence = append(v.Evidence, rule.Evidence{
			Name: "managed_by", Value: m, Source: describeInstances, At: in.At, Confidence: rule.Observed,
		})
	}
	return v
}

// other tells what a second metric says beside the first: idle, in use or
// unknown. The reason keeps to words, so that it is the same in every scan; the
// evidence has the figure.
func (g gauge) other(in scan.In, f rule.Fact[inventory.Usage], judged rule.Verdict, idle bool) (string, rule.Evidence) {
	switch {
	case idle && len(judged.Evidence) > 0:
		return g.title + " idle, too", judged.Evidence[0]
	case judged.Outcome == rule.Compliant && len(judged.Evidence) > 0:
		return g.title + " in use", judged.Evidence[0]
	}
	why := judged.Reason
	if !f.Known {
		why = orNotRead(f.Why)
	}
	return g.title + " unknown", rule.Evidence{
		Name: g.name + "_busiest_day", Value: "unknown", Threshold: g.threshold, Unit: "percent",
		Source: cmp.Or(f.Source, getMetricData), At: in.At, Confidence: rule.Observed, Note: why,
	}
}
