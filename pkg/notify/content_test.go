package notify

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
)

// Until when something is accepted is said when it is, and not when that ends
// before its time.
func TestChangedSaysUntilWhenOfAnExemption(t *testing.T) {
	t.Parallel()
	for kind, want := range map[findingv1.TransitionKind]bool{findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED: true, findingv1.TransitionKind_TRANSITION_KIND_REOPENED: false} {
		got := changed(&findingv1.Transition{
			Kind: kind, Actor: "ana",
			Exemption: &rulev1.Exemption{By: "bob", ExpireTime: timestamppb.New(time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC))},
		})
		if strings.Contains(got, "until 2026-03-31") != want || !strings.Contains(got, "by ana") {
			t.Errorf("of %s is said %q", kind, got)
		}
	}
}
