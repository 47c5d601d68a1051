package notification

import (
	"testing"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
)

func TestLine(t *testing.T) {
	t.Parallel()
	m := &notificationv1.Message{
		Events: 3, ByEvent: []*notificationv1.Count{{Value: "FindingReopened", Events: 2}, {Value: "FindingResolved", Events: 1}},
		Severity: rulev1.Severity_SEVERITY_HIGH, MonthlyCostHigh: 4181,
	}
	if got, want := line(m, 0), "2 reopened, 1 resolved, HIGH, up to $4,181.00 a month"; got != want {
		t.Errorf("the line is %q, want %q", got, want)
	}
	if got, want := line(&notificationv1.Message{}, 8), "8 silenced"; got != want {
		t.Errorf("the line is %q, want %q", got, want)
	}
}
