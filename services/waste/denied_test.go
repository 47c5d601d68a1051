package waste

import (
	"strings"
	"testing"

	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/simaws"
)

// A call that is denied makes no verdict wrong: what hangs on it is an error
// that names it, and the rest is as it was.
func TestDeniedCallsMakeNoFalseVerdict(t *testing.T) {
	t.Parallel()
	for action, needs := range map[string][]string{
		"cloudwatch:GetMetricData":      {"ec2-idle-cpu", "ec2-idle-memory", "ec2-stopped", "ebs-unattached"},
		"cloudwatch:ListMetrics":        {"ec2-idle-memory"},
		"ec2:DescribeImages":            {"ebs-snapshot-old"},
		"ec2:DescribeVolumes":           {"ebs-snapshot-old"},
		"ec2:DescribeNetworkInterfaces": {"eip-unassociated"},
	} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			w := serve(t, simaws.Options{Seed: 31, Resources: 1200}, simaws.Config{})
			_, name, _ := strings.Cut(action, ":")
			if err := w.server.SetFaults(simaws.Fault{Kind: "deny", Action: name}); err != nil {
				t.Fatal(err)
			}
			s := w.scan(t)
			failed := map[string]int{}
			for _, truth := range w.estate.Truth() {
				v, ok := s.verdicts[truth.RuleID+" "+truth.ARN]
				switch {
				case !ok: // its listing is what was denied, or it is another service's rule
				case v.Outcome.String() == truth.Outcome:
				case v.Outcome != rule.Error:
					t.Errorf("%s %s: %s (%s); the truth is %s (%s)", truth.RuleID, truth.ARN, v.Outcome, v.Reason, truth.Outcome, truth.Why)
				case !strings.Contains(v.Reason, action):
					t.Errorf("%s %s: %s does not name %s", truth.RuleID, truth.ARN, v.Reason, action)
				default:
					failed[truth.RuleID]++
				}
			}
			for _, id := range needs {
				if failed[id] == 0 {
					t.Errorf("no verdict of %s hangs on it: nothing was tested", id)
				}
				delete(failed, id)
			}
			if len(failed) > 0 {
				t.Errorf("errors of rules that do not need it: %v", failed)
			}
		})
	}
}
