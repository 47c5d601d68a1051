package filter_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/filter"
)

var opened = &notificationv1.Notice{
	Event: "FindingOpened",
	Finding: &findingv1.Finding{
		RuleId: "ebs-unattached", Category: rulev1.Category_CATEGORY_WASTE, State: findingv1.State_STATE_OPEN, Severity: rulev1.Severity_SEVERITY_MEDIUM,
		Owner: "team-web", MonthlyCost: &rulev1.MonthlyCost{Low: 10, High: 12.5},
		Resource: &scanv1.Resource{Account: "111122223333", Region: "eu-west-1", Tags: map[string]string{"Env": "dev", "a.b": "x"}},
	},
	Transition: &findingv1.Transition{Cause: findingv1.Cause_CAUSE_SCAN},
}

var alert = &notificationv1.Notice{
	Event: "RunAlertRaised",
	Run:   &runv1.Run{Job: "waste-scan", Kind: "waste", State: runv1.RunState_RUN_STATE_FAILED},
}

func TestNotice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		notice *notificationv1.Notice
		filter string
		why    string // empty: it matches
	}{
		{opened, ``, ""},
		{opened, `event = "FindingOpened" AND severity >= MEDIUM AND cause = SCAN`, ""},
		{opened, `monthly_cost > 12 OR severity = CRITICAL`, ""},
		{opened, `tags.Env = "dev" AND tags:"a.b" AND NOT tags:none`, ""},
		{opened, `owner:"web" AND account = "111122223333"`, ""},
		{opened, `acknowledged = false`, ""},
		{opened, `severity >= "HIGH"`, `severity is MEDIUM, and the filter wants severity >= "HIGH"`},
		{opened, `account = "111122223333" AND severity >= HIGH AND region = "us-east-1"`, `severity is MEDIUM, and the filter wants severity >= "HIGH"`},
		{opened, `severity = HIGH OR monthly_cost > 500`, `severity is MEDIUM, and the filter wants severity = "HIGH"; monthly_cost is 12.5, and the filter wants monthly_cost > 500`},
		{opened, `NOT owner = "team-web"`, `owner is "team-web", and the filter does not want owner = "team-web"`},
		{opened, `NOT (owner = "team-web" AND severity = MEDIUM)`, `owner is "team-web", and the filter does not want owner = "team-web"; severity is MEDIUM, and the filter does not want severity = "MEDIUM"`},
		{opened, `NOT tags.Team = "x"`, `tags.Team is not known, and the filter does not want tags.Team = "x"`},
		{opened, `event = "FindingResolved"`, `event is "FindingOpened", and the filter wants event = "FindingResolved"`},
		{opened, `job = "waste-scan"`, `job is not known, and the filter wants job = "waste-scan"`},
		{alert, `job = "waste-scan" AND run_state = FAILED`, ""},
		{alert, `severity >= INFO`, `severity is not known, and the filter wants severity >= "INFO"`},
		{alert, `NOT severity >= INFO`, `severity is not known, and the filter does not want severity >= "INFO"`},
	} {
		f, err := filter.Compile(c.filter, filter.Notices)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Explain(filter.Notices, filter.Notice(c.notice)); got != c.why || f.Match(filter.Notice(c.notice)) != (c.why == "") {
			t.Errorf("%s:\ngot  %s\nwant %s", c.filter, got, c.why)
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`colour = "red"`:                                       "compares colour, which is no field; the fields are account, acknowledged",
		`severity = HIGH AND colour = "red"`:                   "(at character 1:21)",
		"severity = HIGH AND\n  ünter = 3":                     "(at character 2:3)",
		`owner = "ü" AND severity >= "HIGHER"`:                 `compares severity with "HIGHER", which it cannot be; it can be INFO, LOW, MEDIUM, HIGH, CRITICAL (at character 1:29)`,
		`event = "FindingOpend"`:                               `compares event with "FindingOpend", which it cannot be; it can be FindingOpened, FindingChanged`,
		`severity = HIGH AND (owner = "a" OR owner)`:           "has owner alone",
		`severity = HIGH AND`:                                  "cannot be read",
		`owner = 3`:                                            `put it in quotes, as in owner = "…" (at character 1:9)`,
		strings.Repeat(`owner = "x" OR `, 150) + `owner = "x"`: "more than 200 parts",
	} {
		_, err := filter.Compile(text, filter.Notices)
		if !errors.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A filter as text means what it did, and its part within some fields matches
// whatever the whole does.
func TestTextAndParts(t *testing.T) {
	t.Parallel()
	var draw func(t *rapid.T, depth int) string
	draw = func(t *rapid.T, depth int) string {
		if depth > 0 {
			switch rapid.IntRange(0, 4).Draw(t, "shape") {
			case 0:
				return "NOT (" + draw(t, depth-1) + ")"
			case 1:
				return "(" + draw(t, depth-1) + " AND " + draw(t, depth-1) + ")"
			case 2:
				return "(" + draw(t, depth-1) + " OR " + draw(t, depth-1) + ")"
			}
		}
		return rapid.OneOf(
			rapid.SampledFrom([]string{
				`severity >= "HIGH"`, `severity != MEDIUM`, `account = "111122223333"`, `-account = 'x'`, `rule_id:"ebs"`, `monthly_cost >= 12.5`, `monthly_cost:*`,
				`tags."a.b" = "x"`, `tags:Env`, `tags.Env:*`, `category = WASTE`, `event = "FindingOpened"`, `monthly_cost < 1e3`, `monthly_cost > 7`,
			}),
			rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("owner > %q", rapid.String().Draw(t, "owner")) }),
			rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("tags.%q = %q", rapid.String().Draw(t, "key"), "v") }),
		).Draw(t, "part")
	}
	rapid.Check(t, func(t *rapid.T) {
		f, err := filter.Compile(draw(t, 3), filter.Notices)
		if err != nil {
			return
		}
		again, err := filter.Compile(f.String(), filter.Notices)
		if err != nil || again.String() != f.String() || !reflect.DeepEqual(again, f) {
			t.Fatalf("%s became %s (%v)", f, again, err)
		}
		value := filter.Notice(opened)
		if part := f.Within("account", "rule_id", "category"); f.Match(value) && !part.Match(value) {
			t.Fatalf("%s matches, and its part %s does not", f, part)
		}
		if (f.Explain(filter.Notices, value) == "") != f.Match(value) {
			t.Fatalf("%s is not explained", f)
		}
	})
}

func FuzzCompile(f *testing.F) {
	for _, seed := range []string{`severity >= HIGH AND -monthly_cost > 1.5e3`, `a(b(c(d(`, `NOT NOT x`, `tags."a.b":"'"`, "title = \"\U000E0001\"", "\n\nx = (", `owner = "\x00\xff"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4000 {
			return
		}
		got, err := filter.Compile(text, filter.Notices)
		if err != nil {
			if !errors.Is(err, errs.InvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		got.Explain(filter.Notices, filter.Notice(opened))
		if _, err := filter.Compile(got.String(), filter.Notices); err != nil {
			t.Fatalf("%q became %q: %v", text, got, err)
		}
	})
}
