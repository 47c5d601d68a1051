package persistence

import (
	"testing"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

// A finding comes with its score, whose factors add up to it.
func TestFindingsHaveScores(t *testing.T) {
	t.Parallel()
	s := service(t)
	o := violation("vol-1", at(0))
	scanOnce(t, s, 0, scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE, o)
	list, err := s.ListFindings(t.Context(), &findingv1.ListFindingsRequest{})
	if err != nil || len(list.GetFindings()) != 1 {
		t.Fatalf("%v %v", list, err)
	}
	for _, f := range []*findingv1.Finding{getFinding(t, s, o.GetFindingId()), list.GetFindings()[0]} {
		sum := 0.0
		for _, factor := range f.GetScore().GetFactors() {
			sum += factor.GetPoints()
		}
		if v := f.GetScore().GetValue(); v <= 0 || v > 100 || sum < float64(v)-0.51 || sum > float64(v)+0.51 {
			t.Errorf("score %d of factors that add up to %g", v, sum)
		}
	}
}
