package security

import (
	"cmp"
	"strings"
	"time"

	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// Rules are all rules of this service. Each adds itself from the file of its
// name.
var Rules = scan.NewSet(rule.Security)

// Sources of evidence.
const (
	describeInstances     = "ec2:DescribeInstances"
	describeGroups        = "ec2:DescribeSecurityGroups"
	describeGroupRules    = "ec2:DescribeSecurityGroupRules"
	describeInterfaces    = "ec2:DescribeNetworkInterfaces"
	describePrefixLists   = "ec2:DescribeManagedPrefixLists"
	describeVolumes       = "ec2:DescribeVolumes"
	describeSnapshots     = "ec2:DescribeSnapshots"
	describeAddresses     = "ec2:DescribeAddresses"
	describeImages        = "ec2:DescribeImages"
	describeImageMetadata = "ec2:DescribeInstanceImageMetadata"
	describeRouteTables   = "ec2:DescribeRouteTables"
)

// gone tells that an instance is terminated or being terminated: no rule is
// about it.
func gone(state string) bool { return state == "terminated" || state == "shutting-down" }

// one is a verdict that one value of the listing decides.
func one(in scan.In, o rule.Outcome, reason, name string, value any, source string) rule.Verdict {
	return rule.Verdict{
		Outcome: o, Reason: reason,
		Evidence: []rule.Evidence{{Name: name, Value: value, Source: source, At: in.At, Confidence: rule.Observed}},
	}
}

// when is a time as reasons write it.
func when(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// unread says why a fact is not there.
func unread[T any](f rule.Fact[T]) string { return "unknown: " + cmp.Or(f.Why, "not read") }

// atOr is when a fact was read, or else the scan's time.
func atOr[T any](in scan.In, f rule.Fact[T]) time.Time {
	if f.At.IsZero() {
		return in.At
	}
	return f.At
}

// owner names who answers for a resource by its tags, beside the Owner tag: a
// Kubernetes claim or cluster, a stack, an Auto Scaling group; empty when none does.
func owner(tags map[string]string) string {
	if claim := tags["kubernetes.io/created-for/pvc/name"]; claim != "" {
		if ns := tags["kubernetes.io/created-for/pvc/namespace"]; ns != "" {
			claim = ns + "/" + claim
		}
		return "Kubernetes claim " + claim
	}
	if name := cmp.Or(tags["eks:cluster-name"], tags["aws:eks:cluster-name"], tags["KubernetesCluster"]); name != "" {
		return "Kubernetes cluster " + name
	}
	// Of several, the first by name counts, so that the answer never changes by
	// itself.
	cluster := ""
	for k := range tags {
		if name, ok := strings.CutPrefix(k, "kubernetes.io/cluster/"); ok && name != "" && (cluster == "" || name < cluster) {
			cluster = name
		}
	}
	if cluster != "" {
		return "Kubernetes cluster " + cluster
	}
	if name := tags["aws:autoscaling:groupName"]; name != "" {
		return "Auto Scaling group " + name
	}
	if name := tags["elasticbeanstalk:environment-name"]; name != "" {
		return "Elastic Beanstalk environment " + name
	}
	if name := tags["aws:cloudformation:stack-name"]; name != "" {
		return "CloudFormation stack " + name
	}
	return ""
}
