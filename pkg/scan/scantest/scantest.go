// Package scantest holds rules to their contract: their examples are tests.
//
// It exists so that a rule added to a service is tested by being there. Only
// tests may import it.
package scantest

import (
	"testing"

	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// Rules runs the examples of every rule of a set, each as a test of its own,
// and checks that every rule shows good, bad and unknown cases.
func Rules(t *testing.T, set *scan.Set) {
	t.Helper()
	for _, m := range set.Metas() {
		t.Run(m.ID, func(t *testing.T) {
			t.Parallel()
			shown := map[rule.Outcome]bool{}
			names := map[string]bool{}
			for _, x := range set.Examples(m.ID) {
				shown[x.Verdict.Outcome] = true
				if names[x.Name] {
					t.Errorf("two examples are called %q", x.Name)
				}
				names[x.Name] = true
				t.Run(x.Name, func(t *testing.T) {
					t.Parallel()
					if x.Err != nil {
						t.Errorf("%v\nverdict: %s: %s", x.Err, x.Verdict.Outcome, x.Verdict.Reason)
					}
					if len(x.Verdict.Evidence) == 0 {
						t.Error("the verdict has no evidence")
					}
				})
			}
			if !shown[rule.Violation] {
				t.Error("no example is a violation")
			}
			if !shown[rule.Compliant] && !shown[rule.NotApplicable] {
				t.Error("no example is in order")
			}
			if !shown[rule.InsufficientData] && !shown[rule.Error] {
				t.Error("no example is unknown")
			}
		})
	}
}
