package scan

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
)

func TestFindingID(t *testing.T) {
	t.Parallel()
	// The identity of every finding ever stored: it must never change.
	got := FindingID("aws", "123456789012", "us-east-1", "ebs-unattached", "arn:aws:ec2:us-east-1:123456789012:volume/vol-0abc")
	if want := "4c5a3e3fee4b44771d511745e2470a34"; got != want {
		t.Errorf("finding id is %s, want %s", got, want)
	}
	if FindingID("aws", "1", "2", "3", "4") == FindingID("aws", "12", "", "3", "4") {
		t.Error("parts run into each other")
	}
}

// The words of the rules and of the API are the same numbers.
func TestEnumsAgree(t *testing.T) {
	t.Parallel()
	for _, o := range rule.Outcomes() {
		if got := rulev1.Outcome(o).String(); got != "OUTCOME_"+o.String() {
			t.Errorf("%s is %s", o, got)
		}
	}
	for _, s := range rule.Severities() {
		if got := rulev1.Severity(s).String(); got != "SEVERITY_"+s.String() {
			t.Errorf("%s is %s", s, got)
		}
	}
	for _, c := range []rule.Category{rule.Waste, rule.Security} {
		if got := rulev1.Category(c).String(); got != "CATEGORY_"+c.String() {
			t.Errorf("%s is %s", c, got)
		}
	}
	for _, c := range []rule.Confidence{rule.Observed, rule.Derived, rule.LowerBound} {
		if got := rulev1.Confidence(c).String(); got != "CONFIDENCE_"+c.String() {
			t.Errorf("%s is %s", c, got)
		}
	}
}

func TestExemptionGoesWithTheVerdict(t *testing.T) {
	t.Parallel()
	until := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	got := Verdict(rule.Verdict{Outcome: rule.Violation, Exempt: rule.Exemption{By: "tag:public-allowed", Why: "tagged \x00", Until: until}}).GetExemption()
	if got.GetBy() != "tag:public-allowed" || got.GetReason() != "tagged \uFFFD" || !got.GetExpireTime().AsTime().Equal(until) {
		t.Errorf("exemption is %v", got)
	}
	if got := Verdict(rule.Verdict{Outcome: rule.Violation, Exempt: rule.Exemption{By: "tag:public-allowed"}}).GetExemption(); got == nil || got.GetExpireTime() != nil {
		t.Errorf("exemption without an end is %v", got)
	}
	if got := Verdict(rule.Verdict{Outcome: rule.Violation}).GetExemption(); got != nil {
		t.Errorf("no exemption is %v", got)
	}
}

// hostile draws what somebody could type into a tag, and what AWS would never
// let through.
func hostile() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		rapid.SampledFrom([]string{"", "\x00", "a\x00b", "\xff\xfe", "\xed\xa0\x80", strings.Repeat("é", 5000), strings.Repeat("\xff", 9000)}),
	)
}

func TestObservationIsFitForTheWire(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := hostile()
		v := rule.Verdict{
			Outcome: rule.Violation, Severity: rule.Low, Reason: h.Draw(t, "reason"), Recommendation: h.Draw(t, "recommendation"), Owner: h.Draw(t, "owner"),
			Since: testTime,
			Cost:  rule.Cost{Known: true, Low: 1, High: 2},
			Evidence: []rule.Evidence{{
				Name: "n", Source: h.Draw(t, "source"), Note: h.Draw(t, "note"), Threshold: math.Inf(1),
				Value: rapid.SampledFrom([]any{math.NaN(), 1, true, testTime, time.Time{}, h.Draw(t, "value"), rapid.SliceOfN(h, 0, 300).Draw(t, "list"), struct{}{}, nil}).Draw(t, "any"),
			}},
		}
		j := &Judgement{
			Scope: &scanv1.Scope{Service: "waste", Account: "123456789012", Region: "us-east-1"}, Partition: "aws", Rule: &rule.Meta{ID: "r", Title: "T", Version: 3},
			Params: rule.Params{"min_days": 7, "keys": []string{h.Draw(t, "key"), "b"}},
			Resource: &inventory.Resource{
				ARN: h.Draw(t, "arn"), ID: h.Draw(t, "id"), Zone: h.Draw(t, "zone"),
				Tags: rapid.MapOf(h, h).Draw(t, "tags"),
			},
			Verdict: v, At: testTime,
		}
		o := j.Observation()
		if _, err := proto.Marshal(o); err != nil {
			t.Fatal(err)
		}
		text, err := protojson.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.Valid(text) || strings.Contains(string(text), `\u0000`) || !json.Valid(text) {
			t.Fatalf("not fit: %q", text)
		}
		if !proto.Equal(o, j.Observation()) {
			t.Fatal("twice the same judgement is not the same observation")
		}
		for _, s := range append([]string{o.Verdict.Reason, o.Resource.Arn, o.Parameters["keys"]}, o.Resource.Name) {
			if len(s) > maxText {
				t.Fatalf("%d bytes of text", len(s))
			}
		}
	})
}

func FuzzText(f *testing.F) {
	f.Add("plain")
	f.Add("\x00\xff" + strings.Repeat("ü", maxText))
	f.Fuzz(func(t *testing.T, s string) {
		got := text(s)
		if !utf8.ValidString(got) || strings.IndexByte(got, 0) >= 0 || len(got) > maxText {
			t.Errorf("%q", got)
		}
		if text(got) != got {
			t.Error("a fit text was changed")
		}
		if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 && len(s) <= maxText && got != s {
			t.Error("a good text was changed")
		}
	})
}
