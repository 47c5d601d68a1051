package simaws

import (
	"regexp"
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

// truthRules are the rules with a truth, each for one kind of resource. A further rule is a file with a function, and a line here.
var truthRules = []truthRule{
	{"ec2-stopped", "AWS::EC2::Instance", "DescribeInstances", instances(ec2Stopped)},
	{"ebs-unattached", "AWS::EC2::Volume", "DescribeVolumes", volumes(ebsUnattached)},
}

type truthRule struct {
	id, resourceType string
	listedBy         string // without it nothing can be judged, and there is no truth
	judge            func(r *Region, now time.Time, yield func(kind, id, why string, v verdict))
}

type verdict struct {
	outcome string
	cost    *float64
	why     string
}

func instances(judge func(*Region, *Instance, time.Time) verdict) func(*Region, time.Time, func(string, string, string, verdict)) {
	return func(r *Region, now time.Time, yield func(string, string, string, verdict)) {
		for i := range r.Instances {
			in := &r.Instances[i]
			yield("instance", in.ID, in.Case, judge(r, in, now))
		}
	}
}

func volumes(judge func(*Region, *Volume, time.Time) verdict) func(*Region, time.Time, func(string, string, string, verdict)) {
	return func(r *Region, now time.Time, yield func(string, string, string, verdict)) {
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
				rule.judge(r, now, func(kind, id, why string, v verdict) {
					if why == "" {
						why = v.why
					} else if v.why != "" {
						why += ": " + v.why
					}
					out = append(out, Truth{RuleID: rule.id, Account: a.ID, Region: r.Name, ResourceType: rule.resourceType, ResourceID: id,
						ARN: r.arn(kind, id), Outcome: v.outcome, MonthlyCostLow: v.cost, MonthlyCostHigh: v.cost, Why: why})
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
		return verdict{Violation, cost, why}
	}
	return verdict{Compliant, nil, why}
}

func ec2Stopped(r *Region, in *Instance, now time.Time) verdict {
	if in.State != "stopped" {
		return verdict{NotApplicable, nil, in.State}
	}
	if _, member := tagValue(in.Tags, "aws:autoscaling:groupName"); member {
		return verdict{NotApplicable, nil, "a warm-pool member"}
	}
	cost := r.stoppedCost(in)
	if m := reasonDate.FindStringSubmatch(in.Reason); m != nil {
		if at, err := time.Parse(time.DateTime, m[1]); err == nil {
			return sinceVerdict(at, now, stoppedFor, cost, "the reason has the date")
		}
	}
	if now.Sub(in.Launched) < stoppedFor {
		return verdict{Compliant, nil, "started too recently to be stopped so long"}
	}
	if why := r.silenced(in.MetricStatus); why != "" {
		return verdict{Errored, nil, why}
	}
	if last, ok := lastVisible(in.running(), now); ok {
		return sinceVerdict(last, now, stoppedFor, cost, "CPU points tell when it ran last")
	}
	if now.Sub(in.Launched) > keepHours {
		return verdict{Violation, cost, "no CPU point in the whole retention, and started before it"}
	}
	return verdict{InsufficientData, nil, "no date, and it never ran long enough to leave a CPU point"}
}

func ebsUnattached(r *Region, v *Volume, now time.Time) verdict {
	if v.State != "available" {
		return verdict{NotApplicable, nil, v.State}
	}
	if why := r.silenced(v.MetricStatus); why != "" {
		return verdict{Errored, nil, why}
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
