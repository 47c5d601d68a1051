package waste

import (
	"cmp"
	"math"
	"strings"
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// Rules are all rules of this service. Each adds itself from the file of its
// name.
var Rules = scan.NewSet(rule.Waste)

// severityText says how waste gets its severity, for every rule here.
const severityText = "By the upper end of the monthly cost: under $10 LOW, under $100 MEDIUM, from $100 HIGH; LOW when the cost is unknown."

// severity is the severity of waste: what a person reads in dollars and cents
// decides.
func severity(c rule.Cost) rule.Severity {
	switch high := math.Round(c.High * 100); {
	case !c.Known || high < 10_00:
		return rule.Low
	case high < 100_00:
		return rule.Medium
	default:
		return rule.High
	}
}

// Sources of evidence beside API calls.
const (
	// observation is what earlier scans saw.
	observation = "nightshift:observation"
)

// notApplicable is the verdict on what a rule is not about, told by one value
// of the listing.
func notApplicable(in scan.In, reason, name string, value any, source string) rule.Verdict {
	return rule.Verdict{
		Outcome: rule.NotApplicable, Reason: reason,
		Evidence: []rule.Evidence{{Name: name, Value: value, Source: source, At: in.At, Confidence: rule.Observed}},
	}
}

// days is how many whole days before the scan t was.
func days(in scan.In, t time.Time) int { return int(in.Ago(t) / scan.Day) }

// when is a time as reasons write it: to the minute, so that it says no more
// than is known.
func when(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// lasting is how long a state has lasted, as far as one source tells: it began
// between earliest and latest.
type lasting struct {
	// earliest is zero when nothing bounds it.
	earliest, latest time.Time
	source           string
	at               time.Time
	confidence       rule.Confidence
	note             string
}

// decides tells whether the source is enough to say that the state has lasted
// for at least d, or has not.
func (l lasting) decides(in scan.In, d time.Duration) bool {
	return in.Ago(l.latest) >= d || !l.earliest.IsZero() && in.Ago(l.earliest) < d
}

// sighted is what our own observation of a transition tells.
func sighted(in scan.In, s rule.Sighting) lasting {
	return lasting{
		earliest: s.Before, latest: s.FirstSeen, source: observation, at: in.At, confidence: rule.Observed,
		note: "the transition was seen between the scans of " + when(s.Before) + " and " + when(s.FirstSeen),
	}
}

// narrowed is what two sources tell together: l, a transition we saw ourselves,
// and another that says more precisely when. It is false when the other
// contradicts what we saw, and then tells nothing.
func (l lasting) narrowed(by lasting) (lasting, bool) {
	if by.latest.Before(l.earliest) || by.earliest.After(l.latest) {
		return l, false
	}
	if by.earliest.After(l.earliest) {
		l.earliest = by.earliest
	}
	if by.latest.Before(l.latest) {
		l.latest = by.latest
	}
	l.confidence, l.note = by.confidence, l.note+"; "+by.note
	return l, true
}

// firstSeen is what the first sight of a state tells, when nobody saw it
// begin.
func firstSeen(in scan.In, s rule.Sighting) lasting {
	return lasting{
		latest: s.FirstSeen, source: observation, at: in.At, confidence: rule.LowerBound,
		note: "first scan that saw it in this state",
	}
}

// silence is what a metric tells that only an active resource publishes.
func silence(f rule.Fact[inventory.LastDatapoint]) lasting {
	return lasting{
		earliest: f.Value.Hour, latest: f.Value.Hour.Add(time.Hour), source: f.Source, at: f.At, confidence: rule.Derived,
		note: "the last datapoint is in the hour from " + when(f.Value.Hour),
	}
}

// owner names who answers for a resource by its tags, beside the Owner tag: a
// Kubernetes claim, a cluster, an environment, a stack; empty when none does.
func owner(tags map[string]string) string {
	if claim := tags["kubernetes.io/created-for/pvc/name"]; claim != "" {
		if ns := tags["kubernetes.io/created-for/pvc/namespace"]; ns != "" {
			claim = ns + "/" + claim
		}
		return "Kubernetes claim " + claim
	}
	if volume := tags["CSIVolumeName"]; volume != "" {
		return "Kubernetes volume " + volume
	}
	if tags["ebs.csi.aws.com/cluster"] != "" {
		return "Kubernetes cluster " + cmp.Or(clusterName(tags), "(EBS CSI driver)")
	}
	if name := clusterName(tags); name != "" {
		return "Kubernetes cluster " + name
	}
	if name := tags["elasticbeanstalk:environment-name"]; name != "" {
		return "Elastic Beanstalk environment " + name
	}
	if name := tags["aws:cloudformation:stack-name"]; name != "" {
		return "CloudFormation stack " + name
	}
	return ""
}

// clusterName is the Kubernetes cluster that tags name. Of several, the first
// by name counts, so that the answer never changes by itself.
func clusterName(tags map[string]string) string {
	if name := cmp.Or(tags["eks:cluster-name"], tags["aws:eks:cluster-name"], tags["KubernetesCluster"]); name != "" {
		return name
	}
	found := ""
	for k := range tags {
		if name, ok := strings.CutPrefix(k, "kubernetes.io/cluster/"); ok && name != "" && (found == "" || name < found) {
			found = name
		}
	}
	return found
}
