package security

import (
	"fmt"
	"time"

	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// graceParam is how long whoever makes a resource has to finish it.
var graceParam = rule.Param{
	Name: "grace_minutes", Description: "Minutes a resource may exist before it is judged.", Unit: "minutes", Default: 60, Min: 0, Max: 10080,
}

// young is the verdict on a resource in its grace period, which counts from
// the earliest time known. One without a time has none, and neither has one
// from the future; an hour is more than clocks differ.
func young(in scan.In, created time.Time, source string) (rule.Verdict, bool) {
	grace, age := in.Params.Int("grace_minutes"), in.Ago(created)
	if created.IsZero() || age >= time.Duration(grace)*time.Minute || age < -time.Hour {
		return rule.Verdict{}, false
	}
	return rule.Verdict{
		Outcome: rule.NotApplicable,
		Reason:  fmt.Sprintf("It was created on %s, less than %d minutes before the scan.", when(created), grace),
		Evidence: []rule.Evidence{{
			Name: "age", Value: int(age / time.Minute), Threshold: grace, Unit: "minutes", Source: source, At: in.At, Confidence: rule.Observed,
		}},
	}, true
}
