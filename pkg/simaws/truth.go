package simaws

import (
	"regexp"
	"strings"
	"time"
)

// Truth is the right answer of one rule for one resource.
type Truth struct {
	RuleID       string `json:"rule_id"`
	Account      string `json:"account"`
	Region       string `json:"region"`
	ResourceType string `json:"resource_type"`
	ResourceID   string `json:"resource_id"`
	ARN          string `json:"arn"`
	// Outcome: VIOLATION, COMPLIANT, NOT_APPLICABLE, INSUFFICIENT_DATA or ERROR.
	Outcome string `json:"outcome"`
	// MonthlyCostLow and High are the waste in USD at list price. Null: no violation, or the truth has no prices for the region.
	MonthlyCostLow  *float64 `json:"monthly_cost_low"`
	MonthlyCostHigh *float64 `json:"monthly_cost_high"`
	// Severity: CRITICAL, HIGH, MEDIUM, LOW or INFO. Empty: no violation, or the truth makes no claim, as where it has no prices.
	Severity string `json:"severity,omitempty"`
	// Exempt: a violation that the resource's own tag exempts.
	Exempt bool `json:"exempt,omitempty"`
	// Why names the situation, and the trap in it.
	Why string `json:"why"`
}

// Outcomes of a rule.
const (
	Violation        = "VIOLATION"
	Compliant        = "COMPLIANT"
	NotApplicable    = "NOT_APPLICABLE"
	InsufficientData = "INSUFFICIENT_DATA"
	Errored          = "ERROR"
)

// Severities of a finding.
const (
	Critical = "CRITICAL"
	High     = "HIGH"
	Medium   = "MEDIUM"
	Low      = "LOW"
	Info     = "INFO"
)

// truthRules are the rules with a truth, each for one kind of resource. A further rule is a file with a function, and a line here.
var truthRules = []truthRule{
	{"ec2-stopped", "AWS::EC2::Instance", "DescribeInstances", instances(ec2Stopped)},
	{"ebs-unattached", "AWS::EC2::Volume", "DescribeVolumes", volumes(ebsUnattached)},
	{"ec2-idle-cpu", "AWS::EC2::Instance", "DescribeInstances", instances(ec2IdleCPU)},
	{"ec2-idle-memory", "AWS::EC2::Instance", "DescribeInstances", instances(ec2IdleMemory)},
	{"ebs-snapshot-old", "AWS::EC2::Snapshot", "DescribeSnapshots", ebsSnapshotOld},
	{"eip-unassociated", "AWS::EC2::EIP", "DescribeAddresses", addresses(eipUnassociated)},
	{"ebs-gp2-to-gp3", "AWS::EC2::Volume", "DescribeVolumes", volumes(ebsGP2)},
	{"ebs-unencrypted", "AWS::EC2::Volume", "DescribeVolumes", volumes(ebsUnencrypted)},
	{"ec2-public", "AWS::EC2::Instance", "DescribeInstances", ec2Public},
	{"sg-open-sensitive-port", "AWS::EC2::SecurityGroup", "DescribeSecurityGroups", sgOpenSensitivePort},
	{"ami-outdated", "AWS::EC2::Instance", "DescribeInstances", instances(amiOutdated)},
	{"required-tags", "AWS::EC2::Instance", "DescribeInstances", instances(taggedInstance)},
	{"required-tags", "AWS::EC2::Volume", "DescribeVolumes", volumes(taggedVolume)},
	{"required-tags", "AWS::EC2::Snapshot", "DescribeSnapshots", taggedSnapshots},
	{"required-tags", "AWS::EC2::SecurityGroup", "DescribeSecurityGroups", taggedGroups},
	{"required-tags", "AWS::EC2::Image", "DescribeImages", taggedImages},
	{"required-tags", "AWS::EC2::EIP", "DescribeAddresses", addresses(func(_ *Region, a *Address, _ time.Time) verdict { return tagged(a.Tags) })},
}

type truthRule struct {
	id, resourceType string
	listedBy         string // without it nothing can be judged, and there is no truth
	judge            func(r *Region, now time.Time, yield yield)
}

// yield takes a verdict on the resource with that ARN kind and id; about is the situation the estate made it for.
type yield = func(kind, id, about string, v verdict)

type verdict struct {
	outcome   string
	low, high *float64 // USD a month
	severity  string
	exempt    bool
	why       string
}

func good(why string) verdict       { return verdict{outcome: Compliant, why: why} }
func beside(why string) verdict     { return verdict{outcome: NotApplicable, why: why} }
func undecided(why string) verdict  { return verdict{outcome: InsufficientData, why: why} }
func unreadable(why string) verdict { return verdict{outcome: Errored, why: why} }

func bad(severity, why string) verdict {
	return verdict{outcome: Violation, severity: severity, why: why}
}

// wasted is a violation whose severity follows from the high end of its cost; unknown costs are no claim.
func wasted(low, high *float64, why string) verdict {
	v := verdict{outcome: Violation, low: low, high: high, why: why}
	switch {
	case high == nil:
	case *high < 10:
		v.severity = Low
	case *high < 100:
		v.severity = Medium
	default:
		v.severity = High
	}
	return v
}

func instances(judge func(*Region, *Instance, time.Time) verdict) func(*Region, time.Time, yield) {
	return func(r *Region, now time.Time, yield yield) {
		for i := range r.Instances {
			in := &r.Instances[i]
			yield("instance", in.ID, in.Case, judge(r, in, now))
		}
	}
}

func addresses(judge func(*Region, *Address, time.Time) verdict) func(*Region, time.Time, yield) {
	return func(r *Region, now time.Time, yield yield) {
		for i := range r.Addresses {
			a := &r.Addresses[i]
			yield("elastic-ip", a.Allocation, a.Case, judge(r, a, now))
		}
	}
}

func volumes(judge func(*Region, *Volume, time.Time) verdict) func(*Region, time.Time, yield) {
	return func(r *Region, now time.Time, yield yield) {
		for i := range r.Volumes {
			if v := &r.Volumes[i]; v.State != "deleted" {
				yield("volume", v.ID, v.Case, judge(r, v, now))
			}
		}
	}
}

// Truth is what a first scan at Estate.Now must find, with nothing observed before: every rule for every resource it is about.
func (e *Estate) Truth() []Truth { return e.TruthAt(e.Now) }

// TruthAt is what a first scan at that time must find.
func (e *Estate) TruthAt(now time.Time) []Truth {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var out []Truth
	for _, rule := range truthRules {
		for _, a := range e.Accounts {
			for _, r := range a.Regions {
				if a.State != "" || !r.enabled() || a.denies("ec2", rule.listedBy) {
					continue
				}
				rule.judge(r, now, func(kind, id, about string, v verdict) {
					if !concerns(about, rule.id) {
						about = ""
					}
					out = append(out, Truth{RuleID: rule.id, Account: a.ID, Region: r.Name, ResourceType: rule.resourceType, ResourceID: id,
						ARN: r.arn(kind, id), Outcome: v.outcome, MonthlyCostLow: v.low, MonthlyCostHigh: v.high, Severity: v.severity, Exempt: v.exempt,
						Why: strings.Trim(about+": "+v.why, ": ")})
				})
			}
		}
	}
	return out
}

// Thresholds of the rules.
const (
	stoppedFor    = 30 * day
	unattachedFor = 14 * day
)

// The truth is told from what really happened and from what of it can still be seen: it knows the real times, and asks for each rung of a rule's ladder
// only whether that rung has evidence. It never looks at the series the endpoint serves.

// leftPoints tells whether a stretch of time left a point that is still kept: long enough for one, and ended within the retention.
func leftPoints(s Span, now time.Time) bool {
	const longEnough = 10 * time.Minute
	return (s.To.IsZero() || s.To.Sub(s.From) >= longEnough) && (s.To.IsZero() || now.Sub(s.To) < keepHours-time.Hour)
}

// lastVisible is the end of the last stretch that left a point; ok is false if none did.
func lastVisible(spans []Span, now time.Time) (last time.Time, ok bool) {
	for _, s := range spans {
		if s.To.IsZero() || s.To.After(now) {
			s.To = now
		}
		if leftPoints(s, now) && s.To.After(last) {
			last, ok = s.To, true
		}
	}
	return last, ok
}

var reasonDate = regexp.MustCompile(`\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) GMT\)`)

// since judges a time against a threshold; both bounds inclusive.
func sinceVerdict(from, now time.Time, threshold time.Duration, cost *float64, why string) verdict {
	if now.Sub(from) >= threshold {
		return wasted(cost, cost, why)
	}
	return good(why)
}

func ec2Stopped(r *Region, in *Instance, now time.Time) verdict {
	if in.State != "stopped" {
		return beside(in.State)
	}
	if _, member := tagValue(in.Tags, "aws:autoscaling:groupName"); member {
		return beside("a warm-pool member")
	}
	cost := r.stoppedCost(in)
	if m := reasonDate.FindStringSubmatch(in.Reason); m != nil {
		if at, err := time.Parse(time.DateTime, m[1]); err == nil {
			return sinceVerdict(at, now, stoppedFor, cost, "the reason has the date")
		}
	}
	if now.Sub(in.Launched) < stoppedFor {
		return good("started too recently to be stopped so long")
	}
	if why := r.silenced(in.MetricStatus); why != "" {
		return unreadable(why)
	}
	if last, ok := lastVisible(in.running(), now); ok {
		return sinceVerdict(last, now, stoppedFor, cost, "CPU points tell when it ran last")
	}
	if now.Sub(in.Launched) > keepHours {
		return wasted(cost, cost, "no CPU point in the whole retention, and started before it")
	}
	return undecided("no date, and it never ran long enough to leave a CPU point")
}

func ebsUnattached(r *Region, v *Volume, now time.Time) verdict {
	if v.State != "available" {
		return beside(v.State)
	}
	if why := r.silenced(v.MetricStatus); why != "" {
		return unreadable(why)
	}
	cost := r.volumeCost(v)
	if last, ok := lastVisible(v.History, now); ok {
		return sinceVerdict(last, now, unattachedFor, cost, "I/O points tell when it was in use last")
	}
	from, why := v.Created, "no I/O point since its creation"
	if now.Sub(from) > keepHours {
		from, why = now.Add(-keepHours), "no I/O point in the whole retention"
	}
	return sinceVerdict(from, now, unattachedFor, cost, why)
}

// silenced says why a resource's metrics cannot be read; empty if they can.
func (r *Region) silenced(status string) string {
	if r.account.denies("cloudwatch", "GetMetricData") {
		return "the account denies GetMetricData"
	}
	if status != "" {
		return "its metrics answer " + status
	}
	return ""
}

// stoppedCost is what a stopped instance goes on costing: its volumes, and its Elastic IPs.
func (r *Region) stoppedCost(in *Instance) *float64 {
	p, ok := regionPrices[r.Name]
	if !ok || r.account.denies("ec2", "DescribeVolumes") || r.account.denies("ec2", "DescribeAddresses") {
		return nil
	}
	sum := float64(len(r.eips[in.ID])) * p.publicIPv4
	for _, d := range in.disks {
		sum += p.volume(&r.Volumes[d])
	}
	return cents(sum)
}

func (r *Region) volumeCost(v *Volume) *float64 {
	if p, ok := regionPrices[r.Name]; ok {
		return cents(p.volume(v))
	}
	return nil
}
