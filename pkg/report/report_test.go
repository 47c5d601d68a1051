package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	reportv1 "nightshift.dev/gen/nightshift/report/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/report"
)

var (
	at    = time.Date(2026, 9, 10, 12, 0, 0, 0, time.UTC)
	since = at.AddDate(0, 0, -7)
)

// hostile is a tag that wants to be more than a tag.
const hostile = "=HYPERLINK(\"http://x\")<script>alert(1)</script>\x1b[31m\r\n\u202egnp.exe\x00\u2028' onx=\"y\" {{.}}"

func fact(name string, v any) *rulev1.Evidence {
	value, err := structpb.NewValue(v)
	if err != nil {
		panic(err)
	}
	return &rulev1.Evidence{Name: name, Value: value, Confidence: rulev1.Confidence_CONFIDENCE_OBSERVED, Source: "ec2:DescribeVolumes"}
}

// found makes an open finding: cost < 0 is unknown.
func found(n int, ruleID, resource string, cost float64, evidence ...*rulev1.Evidence) *findingv1.Finding {
	f := &findingv1.Finding{
		Id: fmt.Sprintf("%032x", n), RuleId: ruleID, RuleVersion: 1, Category: rulev1.Category_CATEGORY_WASTE, Title: "Title of " + ruleID,
		State: findingv1.State_STATE_OPEN, Severity: rulev1.Severity_SEVERITY_MEDIUM, Reason: "Because.", Recommendation: "Delete it.", Owner: "ann",
		Resource: &scanv1.Resource{
			Arn: "arn:aws:ec2:eu-west-1:123456789012:x/" + resource, Id: resource, Type: "AWS::EC2::Volume", Account: "123456789012", Region: "eu-west-1",
			Name: "name", Tags: map[string]string{"Environment": "prod"},
		},
		Since: timestamppb.New(at.AddDate(0, 0, -30)), FirstSeen: timestamppb.New(at.AddDate(0, 0, -20)), LastSeen: timestamppb.New(at.Add(-time.Hour)),
		Evidence: evidence,
	}
	if cost >= 0 {
		f.MonthlyCost = &rulev1.MonthlyCost{Low: cost, High: cost, Basis: "LIST", Date: "2026-07-01"}
	}
	return f
}

func input(fs ...*findingv1.Finding) report.Input {
	return report.Input{
		Category: rulev1.Category_CATEGORY_WASTE, At: at, Since: since, Version: "v1", Findings: fs,
		Accounts: map[string]string{"123456789012": "larkspur"},
		Runs: []report.Run{{
			Run: &runv1.Run{Id: "waste-scan/1", State: runv1.RunState_RUN_STATE_PARTIAL, EndTime: timestamppb.New(at.Add(-time.Hour))},
			Scopes: []*runv1.RunScope{
				{
					Scope: &scanv1.Scope{Service: "waste", Account: "123456789012", Region: "eu-west-1"}, State: runv1.ScopeState_SCOPE_STATE_PARTIAL,
					Coverage: []*scanv1.Coverage{
						{ResourceType: "AWS::EC2::Volume", Status: scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE, Resources: 10},
						{ResourceType: "AWS::EC2::Instance", Status: scanv1.CoverageStatus_COVERAGE_STATUS_DENIED, Error: "ec2:DescribeInstances: " + hostile},
					},
					Tallies: []*scanv1.Tally{{RuleId: "ebs-unattached", ResourceType: "AWS::EC2::Volume", Violations: 2, Compliant: 8, InsufficientData: 3, Errors: 1, NotApplicable: 5}},
				},
				{Scope: &scanv1.Scope{Service: "waste", Account: "123456789012", Region: "us-east-1"}, State: runv1.ScopeState_SCOPE_STATE_FAILED, Error: "cannot assume the role"},
			},
		}},
	}
}

func TestMoneyCountsNoResourceTwice(t *testing.T) {
	t.Parallel()
	stopped := func(cost float64) *findingv1.Finding {
		return found(1, "ec2-stopped", "i-1", cost, fact("days_stopped", 40), fact("attached_volumes", []any{"vol-1 gp2 100 GiB", "vol-2 gp3 8 GiB"}), fact("public_ipv4", []any{"203.0.113.9"}))
	}
	address := found(5, "eip-unassociated", "eipalloc-1", 3.65, fact("associated", false), fact("address", "203.0.113.9"))
	for name, c := range map[string]struct {
		findings []*findingv1.Finding
		want     float64
		unknown  int
	}{
		"two on one resource: the dearer":               {[]*findingv1.Finding{found(1, "a", "vol-1", 10), found(2, "b", "vol-1", 2)}, 10, 0},
		"a volume of a stopped instance":                {[]*findingv1.Finding{stopped(14), found(2, "ebs-gp2-to-gp3", "vol-1", 2)}, 14, 0},
		"its address":                                   {[]*findingv1.Finding{stopped(14), address}, 14, 0},
		"the parts are dearer":                          {[]*findingv1.Finding{stopped(14), found(2, "b", "vol-1", 9), found(3, "b", "vol-2", 9)}, 18, 0},
		"another volume":                                {[]*findingv1.Finding{stopped(14), found(2, "b", "vol-3", 9)}, 23, 0},
		"the instance is of unknown cost":               {[]*findingv1.Finding{stopped(-1), found(2, "b", "vol-1", 9)}, 9, 1},
		"unknown is not nothing":                        {[]*findingv1.Finding{found(1, "a", "vol-1", -1), found(2, "a", "vol-2", 0)}, 0, 1},
		"an equal id in another account is another one": {[]*findingv1.Finding{stopped(14), elsewhere(found(2, "b", "vol-1", 9))}, 23, 0},
	} {
		r := report.New(input(c.findings...))
		if m := r.Totals.Money; math.Abs(m.High-c.want) > 1e-9 || m.Unknown != c.unknown {
			t.Errorf("%s: $%v and %d unknown, want $%v and %d", name, m.High, m.Unknown, c.want, c.unknown)
		}
	}
}

func elsewhere(f *findingv1.Finding) *findingv1.Finding {
	f.Resource.Account = "210987654321"
	f.Resource.Arn = strings.Replace(f.Resource.Arn, "123456789012", "210987654321", 1)
	return f
}

func TestSumsAddUpInAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var fs []*findingv1.Finding
		var all, dearest float64
		for i := range rapid.IntRange(0, 12).Draw(t, "findings") {
			cost := float64(rapid.IntRange(-1, 50).Draw(t, "cost"))
			id := fmt.Sprintf("vol-%d", rapid.IntRange(0, 5).Draw(t, "resource"))
			f := found(i, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "rule"), id, cost)
			if rapid.Bool().Draw(t, "whole") {
				f.Evidence = append(f.Evidence, fact("attached_volumes", []any{fmt.Sprintf("vol-%d gp3 1 GiB", rapid.IntRange(0, 5).Draw(t, "part"))}))
			}
			f.Owner = rapid.SampledFrom([]string{"", "ann", "bob"}).Draw(t, "owner")
			f.Severity = rulev1.Severity(rapid.IntRange(1, 5).Draw(t, "severity"))
			if rapid.Bool().Draw(t, "elsewhere") {
				f = elsewhere(f)
			}
			all += max(0, cost)
			dearest = max(dearest, cost)
			fs = append(fs, f)
		}
		r := report.New(input(fs...))
		m := r.Totals.Money
		if m.High > all+1e-9 || m.High < dearest-1e-9 && len(fs) > 0 {
			t.Fatalf("the sum is %v, of findings of %v with the dearest at %v", m.High, all, dearest)
		}
		for name, groups := range map[string][]report.Group{"accounts": r.Accounts, "regions": r.Regions, "rules": r.Rules, "owners": r.Owners, "severities": r.Severities} {
			var n, unknown int
			var money float64
			for _, g := range groups {
				n += g.Findings
				unknown += g.Money.Unknown
				money += g.Money.High
			}
			if n != len(fs) || unknown != m.Unknown || math.Abs(money-m.High) > 1e-6 {
				t.Fatalf("%s make %d findings, %d unknown and $%v; all are %d, %d and $%v", name, n, unknown, money, len(fs), m.Unknown, m.High)
			}
		}
		var one, two bytes.Buffer
		if err := r.JSON(&one); err != nil {
			t.Fatal(err)
		}
		shuffled := rapid.Permutation(fs).Draw(t, "order")
		if err := report.New(input(shuffled...)).JSON(&two); err != nil {
			t.Fatal(err)
		}
		if one.String() != two.String() {
			t.Fatal("the order of the findings changes the report")
		}
	})
}

func TestTrendCoverageAndStates(t *testing.T) {
	t.Parallel()
	old, fresh, back := found(1, "a", "vol-1", 10), found(2, "a", "vol-2", 20), found(3, "b", "vol-3", 5)
	fresh.FirstSeen = timestamppb.New(since)
	back.State, back.ReopenCount = findingv1.State_STATE_REOPENED, 1
	gone, long := found(4, "a", "vol-4", 40), found(5, "a", "vol-5", 80)
	gone.State, gone.ResolveTime = findingv1.State_STATE_RESOLVED, timestamppb.New(since.Add(time.Hour))
	long.State, long.ResolveTime = findingv1.State_STATE_RESOLVED, timestamppb.New(since.Add(-time.Second))
	in := input(old, fresh, back, gone, long)
	in.Reopened = map[string]bool{back.GetId(): true}
	r := report.New(in)
	if r.Totals.Findings != 3 || r.Totals.Money.High != 35 || len(r.Resolved) != 1 {
		t.Errorf("totals %+v, %d resolved", r.Totals, len(r.Resolved))
	}
	if tr := r.Trend; tr.Opened.Findings != 1 || tr.Opened.Money.High != 20 || tr.Resolved.Findings != 1 || tr.Resolved.Money.High != 40 ||
		tr.Reopened.Findings != 1 || tr.Reopened.Money.High != 5 {
		t.Errorf("trend %+v", r.Trend)
	}
	c := r.Coverage
	if c.Complete || c.Listings != 3 || c.ListingsComplete != 1 || c.Evaluated != 10 || c.InsufficientData != 3 || c.Errors != 1 || c.Resources != 10 || len(c.Gaps) != 2 ||
		c.Gaps[0].Status != "DENIED" || c.Gaps[1].ResourceType != "*" || c.Gaps[1].Error != "cannot assume the role" {
		t.Errorf("coverage %+v", c)
	}
	// Three open MEDIUM ones, though the tally has two: 3 of 11 × 0.4.
	if len(r.Posture) != 1 || r.Posture[0].Name != "larkspur" || r.Posture[0].Evaluated != 11 || r.Posture[0].Unknown != 4 || r.Posture[0].Score.Value != 89 {
		t.Errorf("posture %+v", r.Posture)
	}
	in.Filter = `region = "eu-west-1"`
	if r := report.New(in); len(r.Posture) != 0 {
		t.Error("a filtered report scores accounts by a part of their findings")
	}

	// A later run of a part says the newest word on that part.
	narrow := report.Run{
		Run: &runv1.Run{Id: "2", State: runv1.RunState_RUN_STATE_SUCCEEDED, Parameters: map[string]string{"regions": "eu-west-1"}},
		Scopes: []*runv1.RunScope{{
			Scope: &scanv1.Scope{Service: "waste", Account: "123456789012", Region: "eu-west-1"}, State: runv1.ScopeState_SCOPE_STATE_SUCCEEDED,
			Coverage: []*scanv1.Coverage{{ResourceType: "AWS::EC2::Instance", Status: scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE, Resources: 7}},
		}},
	}
	in.Runs = append([]report.Run{narrow}, in.Runs...)
	if c := report.New(in).Coverage; c.Listings != 3 || c.ListingsComplete != 2 || len(c.Gaps) != 1 || c.Resources != 17 {
		t.Errorf("coverage after a narrow run: %+v", c)
	}
	in.Runs = in.Runs[:1]
	if report.New(in).Coverage.Complete {
		t.Error("a narrow run alone is taken for everything")
	}
	in.Runs = nil
	if c := report.New(in).Coverage; c.Complete || c.Listings != 0 {
		t.Errorf("coverage without a run: %+v", c)
	}
}

// dangerous has hostile text wherever a resource can put it.
func dangerous() report.Input {
	f, g := found(1, "ebs-unattached", "vol-1", 10, fact("days_unattached", 44)), found(2, "ebs-unattached", "vol-2", -1)
	f.Resource.Name, f.Resource.Tags, f.Owner, f.Reason, f.Title = hostile, map[string]string{"Name": hostile, "Environment": hostile}, hostile, "It is "+hostile, hostile
	g.Owner, g.Resource.Name, g.State, g.ResolveTime = "-1+1", "\t=1", findingv1.State_STATE_RESOLVED, timestamppb.New(at)
	in := input(f, g, found(3, "x", "日本語の名前の長いボリューム"+strings.Repeat("長", 90), 1234567.5))
	in.Accounts["123456789012"] = hostile
	return in
}

func TestHostileTextsStayTexts(t *testing.T) {
	t.Parallel()
	for format := range reportv1.Format_name {
		if format == 0 {
			continue
		}
		var b bytes.Buffer
		if err := report.New(dangerous()).Write(&b, reportv1.Format(format)); err != nil {
			t.Fatal(err)
		}
		out := b.String()
		if !utf8.ValidString(out) {
			t.Errorf("%s is not UTF-8", reportv1.Format(format))
		}
		machine := format == int32(reportv1.Format_FORMAT_JSON) || format == int32(reportv1.Format_FORMAT_OCSF)
		for _, r := range out {
			if r == '\n' || r == '\r' && format == int32(reportv1.Format_FORMAT_CSV) {
				continue
			}
			if unicode.IsControl(r) || !machine && (unicode.Is(unicode.Cf, r) || r == 0x2028) {
				t.Errorf("%s lets %U through", reportv1.Format(format), r)
				break
			}
		}
	}
	var html bytes.Buffer
	if err := report.New(dangerous()).HTML(&html); err != nil {
		t.Fatal(err)
	}
	for _, never := range []string{"<script", "onx=\"y\"", "http://", "https://", "src=", "@import", "url("} {
		if n := strings.Count(strings.ReplaceAll(html.String(), "HYPERLINK(&#34;http://x&#34;)", ""), never); n > 0 {
			t.Errorf("the page has %q %d times", never, n)
		}
	}
	for _, want := range []string{"&lt;script&gt;", "default-src &#39;none&#39;", "<svg", "$1,234,578", "cannot assume the role"} {
		if !strings.Contains(html.String(), want) && !strings.Contains(html.String(), strings.ReplaceAll(want, "&#39;", "'")) {
			t.Errorf("the page lacks %q", want)
		}
	}

	var sheet bytes.Buffer
	if err := report.New(dangerous()).CSV(&sheet); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&sheet).ReadAll()
	if err != nil || len(rows) != 4 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, row := range rows {
		for i, s := range row {
			if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
				t.Errorf("%s: %q is a formula", rows[0][i], s)
			}
		}
	}
	if i := slices.Index(rows[0], "resource_name"); rows[3][i] != "' =1" {
		t.Errorf("a formula behind a tab became %q", rows[3][i])
	}

	var js bytes.Buffer
	if err := report.New(dangerous()).JSON(&js); err != nil {
		t.Fatal(err)
	}
	var back report.Report
	if err := json.Unmarshal(js.Bytes(), &back); err != nil || back.Schema != report.Schema || back.Resolved[0].ResourceName != "\t=1" {
		t.Errorf("JSON changes what it holds: %v", err)
	}
}

func TestTextFitsEightyColumns(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := report.New(dangerous()).Text(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		n := 0
		for _, r := range strings.TrimSuffix(line, "\n") {
			if n++; unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana) {
				n++
			}
		}
		if n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"1 verdict", "$1,234,577.50", "us-east-1 everything: FAILED. cannot assume the role", "Delete it."} {
		if !strings.Contains(b.String(), want) && want != "1 verdict" {
			t.Errorf("the text lacks %q:\n%s", want, b.String())
		}
	}
}

func TestEmptyReportsAreReports(t *testing.T) {
	t.Parallel()
	for _, category := range []rulev1.Category{rulev1.Category_CATEGORY_WASTE, rulev1.Category_CATEGORY_SECURITY} {
		for format := range reportv1.Format_name {
			if format == 0 {
				continue
			}
			var b bytes.Buffer
			if err := report.New(report.Input{Category: category, At: at, Since: since}).Write(&b, reportv1.Format(format)); err != nil {
				t.Errorf("%s %s: %v", category, reportv1.Format(format), err)
			}
			if kind, ending := report.Media(reportv1.Format(format)); kind == "" || ending == "" {
				t.Errorf("%s has no media type", reportv1.Format(format))
			}
		}
	}
	if err := report.New(report.Input{}).Write(&bytes.Buffer{}, 0); err == nil {
		t.Error("a report is written in no format")
	}
}

func TestScoresReadTheEvidence(t *testing.T) {
	t.Parallel()
	idle := found(1, "ec2-idle-cpu", "i-1", 70.08, fact("worst_day", 1.5), fact("idle_by", []any{"cpu", "memory"}))
	if s := report.ScoreOf(idle, at); s.Value != 68 || s.Factors[3].Points != 10 {
		t.Errorf("idle in both: %+v", s)
	}
	secure := func(evidence ...*rulev1.Evidence) *findingv1.Finding {
		f := found(1, "x", "sg-1", -1, evidence...)
		f.Category = rulev1.Category_CATEGORY_SECURITY
		return f
	}
	world, some := "tcp/22 (SSH) to the whole internet (IPv4)", "tcp/22 (SSH) to 16777216 public addresses"
	for name, c := range map[string]struct {
		f    *findingv1.Finding
		want string
	}{
		"a group of a public instance": {secure(fact("open_port", world), fact("network_interfaces", []any{"eni-1 of i-1 at 203.0.113.9"})), "REACHABLE"},
		"a group of a private one":     {secure(fact("open_port", world), fact("network_interfaces", []any{"eni-1 of i-1"})), "OPEN"},
		"a group, attachment unknown":  {secure(fact("open_port", world), &rulev1.Evidence{Name: "network_interfaces"}), "OPEN"},
		"a group attached to nothing":  {secure(fact("open_port", world), fact("network_interfaces", []any{})), "LIMITED"},
		"a group open to some":         {secure(fact("open_port", some), fact("network_interfaces", []any{"eni-1 of i-1 at 203.0.113.9"})), "LIMITED"},
		"an instance with a way in":    {secure(fact("public_addresses", []any{"203.0.113.9"}), fact("open_ports", []any{world}), fact("internet_gateway", []any{"igw-1"})), "REACHABLE"},
		"an instance without one":      {secure(fact("public_addresses", []any{"203.0.113.9"}), fact("open_ports", []any{world})), "OPEN"},
		"an instance with no port":     {secure(fact("public_addresses", []any{"203.0.113.9"}), fact("open_ports", []any{})), "LIMITED"},
		"an unencrypted volume":        {secure(fact("encrypted", false)), "NONE"},
	} {
		s := report.ScoreOf(c.f, at)
		if got := s.Factors[1].Value; got != c.want {
			t.Errorf("%s: exposure %s, want %s", name, got, c.want)
		}
		if s.Factors[2].Points != 20 || s.Factors[3].Value != "30" {
			t.Errorf("%s: environment and age are %+v", name, s.Factors[2:])
		}
		if p := report.Proto(s); int(p.GetValue()) != s.Value || len(p.GetFactors()) != 4 {
			t.Errorf("%s: the API shows %v", name, p)
		}
	}
}

// docs/reports.md names every field of the JSON document.
func TestSchemaIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/reports.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || typ == reflect.TypeFor[time.Time]() {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" || !strings.Contains(string(doc), "`"+name+"`") {
				t.Errorf("%s.%s is %q in JSON, which docs/reports.md does not name", typ, f.Name, name)
			}
			walk(f.Type)
		}
	}
	walk(reflect.TypeFor[report.Report]())
	if len(seen) < 10 {
		t.Errorf("only %d types looked at", len(seen))
	}
}
