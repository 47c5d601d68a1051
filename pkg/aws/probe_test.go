package aws

import (
	"strings"
	"testing"
)

// What a trust policy has to name, by who asks.
func TestPrincipal(t *testing.T) {
	t.Parallel()
	for arn, want := range map[string]string{
		"arn:aws:iam::123456789012:user/ops/nightshift":                                "arn:aws:iam::123456789012:user/ops/nightshift",
		"arn:aws:sts::123456789012:assumed-role/nightshift/i-0abc":                     "arn:aws:iam::123456789012:role/nightshift",
		"arn:aws-cn:sts::123456789012:assumed-role/nightshift/x/y":                     "arn:aws-cn:iam::123456789012:role/nightshift",
		"arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Admin_0a1b/ana@example": "arn:aws:iam::123456789012:root",
		"arn:aws:iam::123456789012:root":                                               "arn:aws:iam::123456789012:root",
		"arn:aws:sts::123456789012:federated-user/ana":                                 "arn:aws:iam::123456789012:root",
		"nonsense": "123456789012",
	} {
		partition := "aws"
		if strings.HasPrefix(arn, "arn:aws-cn") {
			partition = "aws-cn"
		}
		if got := (Caller{Account: "123456789012", Partition: partition, ARN: arn}).Principal(); got != want {
			t.Errorf("%s: %s, want %s", arn, got, want)
		}
	}
}
