package waste

import (
	"fmt"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.Instance]{
	Meta: rule.Meta{
		ID:           "ec2-idle-memory",
		Version:      1,
		Category:     rule.Waste,
		ResourceType: "AWS::EC2::Instance",
		Title:        "EC2 instance whose memory lies idle",
		Why: "Memory is what tells the sizes and families of instances apart in price. One that used less than a tenth of it on every day of " +
			"a week would fit into a smaller one, or a family with less memory; if its CPU idles, too, it serves nobody. EC2 itself does not " +
			"measure memory: only the CloudWatch agent does.",
		Fix: "Take a smaller size, or a family with less memory for each CPU, such as c instead of r. If its CPU idles as well, ask its " +
			"owner whether it is needed at all. A member of an Auto Scaling group, a cluster or an environment would be replaced: lower the " +
			"group's size, or change its instance type.",
		Severity: "LOW, for low memory alone is a matter of size. With CPU idle, too: " + severityText,
		Params: []rule.Param{
			idleDays,
			percentParam("threshold", "Average used memory of a day from which on an instance is not idle.", idleMemory),
			percentParam("cpu_threshold", "Average CPU of a day below which CPU is idle, too.", idleCPU),
			percentParam("burst", "Highest CPU in any hour from which on CPU is not idle.", idleBurst),
		},
		Citations: []string{
			"https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/metrics-collected-by-CloudWatch-agent.html",
			"https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-Agent-Configuration-File-Details.html",
			"https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_ListMetrics.html",
			"https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html",
			"https://aws.amazon.com/ec2/pricing/on-demand/",
		},
	},
	Kind: inventory.Instances,
	Facts: []scan.Need[inventory.Instance]{
		{Fact: inventory.InstanceMemory, When: canBeJudged},
		{Fact: inventory.InstanceCPU, When: func(in scan.In, i inventory.Instance) bool {
			_, idle := judgeIdle(in, i, i.Memory, memoryGauge(in, "threshold"))
			return idle && i.InstanceType != "" && !isAccelerated(i.InstanceType)
		}},
	},
	Judge: judgeIdleMemory,
	Examples: []scan.Example[inventory.Instance]{
		{
			Name:     "below 10 % on each of seven days, while its CPU works: a matter of size, and of part of its price",
			Resource: runningExample(memory(7, 4), cpu(7, 40, 90)),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–70.08", Confidence: rule.Observed, Source: getMetricData,
				Says: []string{"10 %", "CPU in use", "smaller"},
			},
		},
		{
			Name:     "its CPU idles, too",
			Resource: runningExample(memory(7, 4), cpu(7, 1.5, 8)),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "70.08", Says: []string{"CPU idle", "terminate"}},
		},
		{
			Name:     "its CPU is bursty",
			Resource: runningExample(memory(7, 4), cpu(7, 1.5, 100)),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–70.08"},
		},
		{
			Name:     "its CPU may not be read",
			Resource: runningExample(memory(7, 4), cpuUnread),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–70.08", Says: []string{"CPU unknown"}},
		},
		{
			Name:     "one day at exactly 10 %: the threshold is inclusive",
			Resource: runningExample(memory(7, 4), memoryOn(2, 10)),
			Want:     scan.Want{Outcome: rule.Compliant, Says: []string{"10 %"}},
		},
		{
			Name:     "started two days ago, and a complete day above the threshold",
			Resource: runningExample(launched("2026-08-30 06:00"), memory(2, 4), memoryOn(0, 35)),
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "started two days ago",
			Resource: runningExample(launched("2026-08-30 06:00"), memory(2, 4)),
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-09-06 06:00")},
		},
		{
			Name:     "no CloudWatch agent: memory is unknown",
			Resource: runningExample(noAgent),
			Want:     scan.Want{Outcome: rule.InsufficientData, Says: []string{"no CloudWatch agent"}},
		},
		{
			Name:     "the agent was installed four days ago",
			Resource: runningExample(memory(4, 4)),
			Want:     scan.Want{Outcome: rule.InsufficientData, Says: []string{"96 of the last 168"}},
		},
		{
			Name:     "metrics may not be listed",
			Resource: runningExample(memoryDenied),
			Want:     scan.Want{Outcome: rule.Error, Says: []string{"cloudwatch:ListMetrics is denied"}},
		},
		{
			Name:     "with a GPU: its memory can be judged, its CPU cannot",
			Resource: runningExample(ofType("g5.xlarge"), memory(7, 4)),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–734.38", Says: []string{"CPU unknown"}},
		},
		{
			Name:     "a member of an Auto Scaling group",
			Resource: runningExample(memory(7, 4), cpu(7, 40, 90), tagged("aws:autoscaling:groupName", "web")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–70.08", Owner: "Auto Scaling group web",
				Says: []string{"Auto Scaling group web"},
			},
		},
		{
			Name:     "a region without prices",
			Resource: runningExample(memory(7, 4), cpu(7, 40, 90)),
			Region:   "xx-nowhere-1",
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown"},
		},
		{
			Name:     "stopped",
			Resource: runningExample(inState("stopped"), memory(7, 4)),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "3 % as the deployment's threshold",
			Resource: runningExample(memory(7, 4)),
			Params:   map[string]string{"threshold": "3"},
			Want:     scan.Want{Outcome: rule.Compliant},
		},
	},
})

func judgeIdleMemory(in scan.In, i inventory.Instance) rule.Verdict {
	g := memoryGauge(in, "threshold")
	v, idle := judgeIdle(in, i, i.Memory, g)
	if !idle {
		return v
	}
	cpu := cpuGauge(in, "cpu_threshold")
	byCPU, both := idleByCPU(in, i, "cpu_threshold")
	said, evidence := cpu.other(in, i.CPU, byCPU, both)
	v.Reason = fmt.Sprintf("Less than %s of its memory was in use on each of the last %d days; %s.",
		percent(g.threshold), in.Params.Int("min_days"), said)
	v.Evidence = append(v.Evidence, evidence)
	if both {
		v.Recommendation = "Neither memory nor CPU is in use: ask whether anybody needs it, stop it, and terminate it when nobody has missed it."
		return idleVerdict(in, i, v, "memory", "cpu")
	}
	v.Recommendation = "Take a smaller size, or a family with less memory for each CPU."
	v = idleVerdict(in, i, v, "memory")
	// What a smaller one would save is somewhere between nothing and all.
	v.Severity, v.Cost.Low = rule.Low, 0
	return v
}
