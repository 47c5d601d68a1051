package waste

import (
	"testing"

	"nightshift.dev/pkg/scan/scantest"
)

func TestRules(t *testing.T) { scantest.Rules(t, Rules) }

func TestOwner(t *testing.T) {
	t.Parallel()
	for want, tags := range map[string]map[string]string{
		"":                                    {"Owner": "somebody"},
		"Kubernetes claim data":               {"kubernetes.io/created-for/pvc/name": "data", "eks:cluster-name": "main"},
		"Kubernetes claim shop/data":          {"kubernetes.io/created-for/pvc/name": "data", "kubernetes.io/created-for/pvc/namespace": "shop"},
		"Kubernetes volume pvc-1":             {"CSIVolumeName": "pvc-1"},
		"Kubernetes cluster main":             {"ebs.csi.aws.com/cluster": "true", "KubernetesCluster": "main"},
		"Kubernetes cluster (EBS CSI driver)": {"ebs.csi.aws.com/cluster": "true"},
		"Kubernetes cluster a":                {"kubernetes.io/cluster/c": "owned", "kubernetes.io/cluster/a": "owned", "kubernetes.io/cluster/b": "owned"},
		"Elastic Beanstalk environment web":   {"elasticbeanstalk:environment-name": "web", "aws:cloudformation:stack-name": "awseb"},
		"CloudFormation stack billing":        {"aws:cloudformation:stack-name": "billing"},
	} {
		// Several times: a map has no order.
		for range 5 {
			if got := owner(tags); got != want {
				t.Errorf("owner of %v is %q, want %q", tags, got, want)
			}
		}
	}
}
