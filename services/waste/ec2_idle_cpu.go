package waste

import (
	"cmp"
	"fmt"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.Instance]{
	Meta: rule.Meta{
		ID:           "ec2-idle-cpu",
		Version:      1,
		Category:     rule.Waste,
		ResourceType: "AWS::EC2::Instance",
		Title:        "EC2 instance whose CPU idles",
		Why: "An instance that runs is paid for, whether or not it does anything. One whose CPU did next to nothing on every single day of a " +
			"week, without a burst in any hour, serves nobody, or would be served by a far smaller one. The mean of a week would not tell: " +
			"it hides the one busy day, and twenty minutes of hard work a night.",
		Fix: "Ask its owner. If nobody needs it, stop it, and terminate it when nobody has missed it. If it is needed at times, stop it in " +
			"between on a schedule. If it must run, take a smaller or a burstable type. A member of an Auto Scaling group, a cluster or an " +
			"environment would be replaced: lower the group's size instead.",
		Severity: severityText,
		Params: []rule.Param{
			idleDays,
			percentParam("threshold", "Average CPU of a day from which on an instance is not idle.", idleCPU),
			percentParam("burst", "Highest CPU in any hour from which on an instance is bursty, not idle.", idleBurst),
			percentParam("memory_threshold", "Average used memory of a day below which memory is idle, too.", idleMemory),
		},
		Citations: []string{
			"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/viewing_metrics_with_cloudwatch.html",
			"https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html",
			"https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/metrics-collected-by-CloudWatch-agent.html",
			"https://docs.aws.amazon.com/awssupport/latest/user/cost-optimization-checks.html",
			"https://aws.amazon.com/ec2/pricing/on-demand/",
		},
	},
	Kind: inventory.Instances,
	Facts: []scan.Need[inventory.Instance]{
		{Fact: inventory.InstanceCPU, When: func(in scan.In, i inventory.Instance) bool {
			return canBeJudged(in, i) && i.InstanceType != "" && !isAccelerated(i.InstanceType)
		}},
		{Fact: inventory.InstanceMemory, When: func(in scan.In, i inventory.Instance) bool {
			_, idle := idleByCPU(in, i, "threshold")
			return idle
		}},
	},
	Judge: judgeIdleCPU,
	Examples: []scan.Example[inventory.Instance]{
		{
			Name:     "below 5 % on each of seven days, no hour above 8 %, no agent",
			Resource: runningExample(cpu(7, 1.5, 8), noAgent),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08", Confidence: rule.Observed, Source: getMetricData,
				Says: []string{"memory unknown", "5 %", "20 %"},
			},
		},
		{
			Name:     "its memory idles, too",
			Resource: runningExample(cpu(7, 1.5, 8), memory(7, 4)),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08", Says: []string{"memory idle", "terminate"},
			},
		},
		{
			Name:     "its memory is in use: mind it when choosing another type",
			Resource: runningExample(cpu(7, 1.5, 8), memory(7, 64)),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08", Says: []string{"memory in use"}},
		},
		{
			Name:     "its memory may not be read: that does not change the verdict",
			Resource: runningExample(cpu(7, 1.5, 8), memoryDenied),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08", Says: []string{"memory unknown"}},
		},
		{
			Name:     "one day of seven at 9 %: the mean of the week is 2.6 %, and it is not idle",
			Resource: runningExample(cpu(7, 1.5, 8), onDay(3, 9, 14)),
			Want:     scan.Want{Outcome: rule.Compliant, Says: []string{"9 %"}},
		},
		{
			Name:     "one day at exactly 5 %: the threshold is inclusive",
			Resource: runningExample(cpu(7, 1.5, 8), onDay(6, 5, 8)),
			Want:     scan.Want{Outcome: rule.Compliant, Says: []string{"5 %"}},
		},
		{
			Name:     "20 minutes at 100 % a night average 1.4 % a day: bursty",
			Resource: runningExample(cpu(7, 1.4, 100)),
			Want:     scan.Want{Outcome: rule.Compliant, Says: []string{"bursty"}},
		},
		{
			Name:     "one hour at exactly 20 %",
			Resource: runningExample(cpu(7, 1.4, 8), onDay(5, 1.4, 20)),
			Want:     scan.Want{Outcome: rule.Compliant, Says: []string{"bursty"}},
		},
		{
			Name:     "running for exactly seven days",
			Resource: runningExample(launched("2026-08-25 12:00"), cpu(7, 1.5, 8), noAgent),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08"},
		},
		{
			Name:     "idle since it was started three days ago",
			Resource: runningExample(launched("2026-08-29 06:00"), cpu(3, 1.5, 8)),
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-09-05 06:00")},
		},
		{
			Name:     "started three days ago and busy on a complete day since: a disproof beats missing data",
			Resource: runningExample(launched("2026-08-29 06:00"), cpu(3, 1.5, 8), onDay(0, 31, 70)),
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "started three days ago and bursty on a complete day since",
			Resource: runningExample(launched("2026-08-29 06:00"), cpu(3, 1.5, 8), onDay(1, 1.5, 100)),
			Want:     scan.Want{Outcome: rule.Compliant, Says: []string{"bursty"}},
		},
		{
			Name:     "started three days ago, which took all of the CPU for a while: that day is not complete",
			Resource: runningExample(launched("2026-08-29 13:00"), cpu(3, 1.5, 8), onDay(2, 6, 100)),
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-09-05 13:00")},
		},
		{
			Name:     "started three days ago, and CloudWatch refused to answer",
			Resource: runningExample(launched("2026-08-29 06:00"), cpuUnread),
			Want:     scan.Want{Outcome: rule.Error, Says: []string{"cloudwatch:GetMetricData is denied"}},
		},
		{
			Name:     "started ten hours ago and busy: no day is complete",
			Resource: runningExample(launched("2026-09-01 02:00"), missing(0, 14, 60, 90)),
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-09-08 02:00")},
		},
		{
			Name:     "one datapoint in a week",
			Resource: runningExample(missing(0, 23, 1, 1)),
			Want:     scan.Want{Outcome: rule.InsufficientData, Says: []string{"1 of the last 168"}},
		},
		{
			Name:     "nine tenths of the hours are there: enough",
			Resource: runningExample(cpu(7, 1.5, 8), missing(2, 16, 1.5, 8), noAgent),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08"},
		},
		{
			Name:     "one hour less: not enough",
			Resource: runningExample(cpu(7, 1.5, 8), missing(2, 17, 1.5, 8)),
			Want:     scan.Want{Outcome: rule.InsufficientData, Says: []string{"151 of the last 168"}},
		},
		{
			Name:     "no datapoint at all: a missing metric is not zero",
			Resource: runningExample(cpu(0, 0, 0)),
			Want:     scan.Want{Outcome: rule.InsufficientData},
		},
		{
			Name:     "CloudWatch refused to answer",
			Resource: runningExample(cpuUnread),
			Want:     scan.Want{Outcome: rule.Error, Says: []string{"cloudwatch:GetMetricData is denied"}},
		},
		{
			Name:     "with a GPU, which may work hard while the CPU idles",
			Resource: runningExample(ofType("g5.xlarge"), cpu(7, 1.5, 8)),
			Want:     scan.Want{Outcome: rule.InsufficientData, Says: []string{"g5.xlarge"}},
		},
		{
			Name:     "a member of an Auto Scaling group, which would replace it",
			Resource: runningExample(cpu(7, 1.5, 8), noAgent, tagged("aws:autoscaling:groupName", "web")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08", Owner: "Auto Scaling group web",
				Says: []string{"Lower the size of Auto Scaling group web"},
			},
		},
		{
			Name:     "a Karpenter node",
			Resource: runningExample(cpu(7, 1.5, 8), noAgent, tagged("karpenter.sh/nodepool", "default")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08", Owner: "Karpenter node pool default",
				Says: []string{"Lower the size of Karpenter node pool default"},
			},
		},
		{
			Name:     "a spot instance: what it costs is not on the list",
			Resource: runningExample(cpu(7, 1.5, 8), noAgent, func(i *inventory.Instance) { i.Lifecycle = "spot" }),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown", Owner: "spot request", Says: []string{"Lower the size"},
			},
		},
		{
			Name:     "Windows: its price is not on the list",
			Resource: runningExample(cpu(7, 1.5, 8), noAgent, func(i *inventory.Instance) { i.Platform = "Windows" }),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown"},
		},
		{
			Name:     "dedicated tenancy: its price is not on the list",
			Resource: runningExample(cpu(7, 1.5, 8), noAgent, func(i *inventory.Instance) { i.Tenancy = "dedicated" }),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown"},
		},
		{
			Name:     "in a Local Zone, which has prices of its own",
			Resource: runningExample(cpu(7, 1.5, 8), noAgent, func(i *inventory.Instance) { i.Zone = "us-east-1-bos-1a" }),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown"},
		},
		{
			Name:     "large and idle",
			Resource: runningExample(ofType("m5.4xlarge"), cpu(7, 1.5, 8), noAgent),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.High, Cost: "560.64"},
		},
		{
			Name:     "stopped",
			Resource: runningExample(inState("stopped"), cpu(7, 0, 0)),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "terminated",
			Resource: runningExample(inState("terminated")),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "2 % as the deployment's threshold",
			Resource: runningExample(cpu(7, 3, 8)),
			Params:   map[string]string{"threshold": "2"},
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "three days as the deployment's window: what was before does not count",
			Resource: runningExample(launched("2026-08-29 06:00"), cpu(3, 1.5, 8), onDay(5, 40, 90), noAgent),
			Params:   map[string]string{"min_days": "3"},
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08"},
		},
	},
})

// idleByCPU judges by CPU alone.
func idleByCPU(in scan.In, i inventory.Instance, threshold string) (_ rule.Verdict, idle bool) {
	g := cpuGauge(in, threshold)
	if i.State == "running" && (i.InstanceType == "" || isAccelerated(i.InstanceType)) {
		return rule.Verdict{
			Outcome: rule.InsufficientData,
			Reason:  "CPU says nothing about " + cmp.Or(i.InstanceType, "an unknown instance type") + ": its accelerators may be at work.",
			Evidence: []rule.Evidence{{
				Name: "instance_type", Value: i.InstanceType, Source: describeInstances, At: in.At, Confidence: rule.Observed,
			}},
		}, false
	}
	return judgeIdle(in, i, i.CPU, g)
}

func judgeIdleCPU(in scan.In, i inventory.Instance) rule.Verdict {
	v, idle := idleByCPU(in, i, "threshold")
	if !idle {
		return v
	}
	g, memory := cpuGauge(in, "threshold"), memoryGauge(in, "memory_threshold")
	byMemory, both := judgeIdle(in, i, i.Memory, memory)
	said, evidence := memory.other(in, i.Memory, byMemory, both)
	v.Reason = fmt.Sprintf("Its CPU averaged less than %s on each of the last %d days, and no hour reached %s; %s.",
		percent(g.threshold), in.Params.Int("min_days"), percent(g.burst), said)
	v.Evidence = append(v.Evidence, evidence)
	by := []string{"cpu"}
	v.Recommendation = "Ask whether anybody needs it; if not, stop it, and if it must run, take a smaller or a burstable type."
	if both {
		by = append(by, "memory")
		v.Recommendation = "Neither CPU nor memory is in use: ask whether anybody needs it, stop it, and terminate it when nobody has missed it."
	}
	return idleVerdict(in, i, v, by...)
}
