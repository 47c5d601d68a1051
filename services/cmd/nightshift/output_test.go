package main

import (
	"encoding/csv"
	"encoding/json"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/goccy/go-yaml"
	"pgregory.net/rapid"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
)

func TestTableIsCleanAndAligned(t *testing.T) {
	t.Parallel()
	_, env := serve(t, 0)
	r := execute(t, env, "findings", "list")
	want := "" +
		"ID        Severity       Monthly  Rule            Resource  Name                                          Account       Region     Since       Owner\n" +
		strings.Repeat("─", 148) + "\n" +
		"a1a1a1a1  HIGH         $1,234.50  ebs-unattached  vol-1     =HYPERLINK(\"http://x\")\uFFFD[31mred  \uFFFDgnp.exe\uFFFD\uFFFD2J  123456789012  eu-west-1  2026-09-01  -1+1\n" +
		"b2b2b2b2  MEDIUM    $40.00–60.00  ec2-stopped     i-2       web                                           123456789012  eu-west-1\n" +
		"c3c3c3c3  LOW            unknown  ec2-stopped     i-3                                                     123456789012  eu-west-1\n"
	if r.code != 0 || r.out != want {
		t.Errorf("code %d\n%s%s\nwant\n%s", r.code, r.out, r.err, want)
	}
}

func TestTableFitsTheTerminal(t *testing.T) {
	t.Parallel()
	_, env := serve(t, 0)
	for _, width := range []int{70, 80, 100, 120, 200} {
		r := terminal(t.Context(), width, env, "findings", "list", "--color", "never")
		for line := range strings.Lines(r.out) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > width {
				t.Errorf("at width %d a line has %d columns: %s", width, n, line)
			}
		}
		if !strings.Contains(r.out, "vol-1") || !strings.Contains(r.out, "$1,234.50") {
			t.Errorf("at width %d what matters is gone:\n%s", width, r.out)
		}
	}
}

func TestColours(t *testing.T) {
	t.Parallel()
	_, env := serve(t, 0)
	with := func(name, value string) map[string]string {
		e := map[string]string{name: value}
		maps.Copy(e, env)
		return e
	}
	for _, x := range []struct {
		what  string
		width int
		env   map[string]string
		args  []string
		want  bool
	}{
		{"a terminal", 120, env, nil, true},
		{"no terminal", 0, env, nil, false},
		{"NO_COLOR", 120, with("NO_COLOR", "1"), nil, false},
		{"an empty NO_COLOR", 120, with("NO_COLOR", ""), nil, true},
		{"a dumb terminal", 120, with("TERM", "dumb"), nil, false},
		{"--color never", 120, env, []string{"--color", "never"}, false},
		{"--color always beats NO_COLOR", 0, with("NO_COLOR", "1"), []string{"--color", "always"}, true},
	} {
		r := terminal(t.Context(), x.width, x.env, append([]string{"findings", "list"}, x.args...)...)
		if got := strings.Contains(r.out, "\x1b[31mHIGH\x1b[0m"); got != x.want {
			t.Errorf("%s: coloured %v, want %v", x.what, got, x.want)
		}
		if strings.Contains(r.out, "\x1b[31mred") {
			t.Errorf("%s: a name coloured the terminal", x.what)
		}
	}
}

func TestJSONLinesYAMLAndCSVAgree(t *testing.T) {
	t.Parallel()
	_, env := serve(t, 0)
	var fromJSON, fromLines, fromYAML []map[string]any
	r := execute(t, env, "findings", "list", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &fromJSON); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	r = execute(t, env, "findings", "list", "-o", "jsonl")
	for line := range strings.Lines(r.out) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v\n%s", err, line)
		}
		fromLines = append(fromLines, v)
	}
	if strings.IndexFunc(r.out, func(r rune) bool { return r != '\n' && dangerous(r) }) >= 0 {
		t.Error("a dangerous character is not escaped in JSON")
	}
	r = execute(t, env, "findings", "list", "-o", "yaml")
	var read []map[string]any
	if err := yaml.Unmarshal([]byte(r.out), &read); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	// Through JSON, so that numbers have one type.
	asJSON, err := json.Marshal(read)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(asJSON, &fromYAML); err != nil {
		t.Fatal(err)
	}
	if len(fromJSON) != 3 || !reflect.DeepEqual(fromJSON, fromLines) || !reflect.DeepEqual(fromJSON, fromYAML) {
		t.Errorf("they differ:\n%v\n%v\n%v", fromJSON, fromLines, fromYAML)
	}

	f := fromJSON[0]
	resource := f["resource"].(map[string]any)
	for path, got := range map[string][2]any{
		"name":       {resource["name"], hostile},
		"severity":   {f["severity"], "HIGH"},
		"state":      {f["state"], "OPEN"},
		"since":      {f["since"], "2026-09-01T12:30:00Z"},
		"version":    {f["rule_version"], 2.0},
		"resolved":   {f["resolve_time"], nil},
		"cost":       {f["monthly_cost"].(map[string]any)["high"], 1234.5},
		"unknown":    {fromJSON[2]["monthly_cost"], nil},
		"confidence": {f["evidence"].([]any)[0].(map[string]any)["confidence"], "OBSERVED"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s is %v, want %v", path, got[0], got[1])
		}
	}

	r = execute(t, env, "findings", "list", "-o", "csv")
	rows, err := csv.NewReader(strings.NewReader(r.out)).ReadAll()
	if err != nil || len(rows) != 4 {
		t.Fatalf("%v: %d rows\n%s", err, len(rows), r.out)
	}
	if got := strings.Join(rows[0], ","); got != "id,state,severity,monthly_cost_low,monthly_cost_high,rule_id,resource_id,resource_name,account,region,since,owner,first_seen,last_seen,resource_type,arn,title,reason,recommendation,exempt_until,exempt_by,exempt_reason,assignee,acknowledged_by,orphan_time,orphan_reason" {
		t.Errorf("the header is not what it was: %s", got)
	}
	column := func(row int, name string) string { return rows[row][slices.Index(rows[0], name)] }
	for _, x := range [][2]string{
		{column(1, "owner"), "'-1+1"},
		{column(1, "monthly_cost_high"), "1234.50"},
		{column(3, "monthly_cost_high"), ""},
		{column(1, "since"), "2026-09-01T12:30:00Z"},
	} {
		if x[0] != x[1] {
			t.Errorf("the CSV has %q, want %q", x[0], x[1])
		}
	}
	if !strings.HasPrefix(column(1, "resource_name"), "'=HYPERLINK") {
		t.Errorf("a formula got into the CSV: %q", column(1, "resource_name"))
	}
}

func TestEmptyListsAreLists(t *testing.T) {
	t.Parallel()
	_, env := serve(t, 0)
	for format, want := range map[string]string{
		"json": "[]\n", "jsonl": "", "yaml": "[]\n", "table": "",
		"csv": "id,state,severity,monthly_cost_low,monthly_cost_high,rule_id,resource_id,resource_name,account,region,since,owner,first_seen,last_seen,resource_type,arn,title,reason,recommendation,exempt_until,exempt_by,exempt_reason,assignee,acknowledged_by,orphan_time,orphan_reason\n",
	} {
		r := execute(t, env, "findings", "list", "--severity", "critical", "-o", format)
		if r.code != 0 || r.out != want || !strings.Contains(r.err, "no findings") {
			t.Errorf("%s: code %d, out %q, err %q", format, r.code, r.out, r.err)
		}
	}
}

// Every command prints every format without escape sequences and without
// anything but data on stdout.
func TestEveryFormatOfEveryCommand(t *testing.T) {
	t.Parallel()
	_, env := serve(t, runv1.RunState_RUN_STATE_SUCCEEDED)
	for _, cmd := range [][]string{
		{"findings", "show", strings.Repeat("a1", 16)}, {"runs", "list"}, {"runs", "show"}, {"runs", "watch"}, {"jobs", "list"}, {"jobs", "next", "waste-scan"},
		{"jobs", "get", "everything"}, {"jobs", "next", "--schedule", "@daily", "--time-zone", "Asia/Tokyo"},
		{"jobs", "backfill", "waste-scan", "--from", "2026-09-01", "--to", "2026-09-02"},
		{"jobs", "create", "x", "--kind", "waste", "--schedule", "* * * * *"}, {"jobs", "run", "waste-scan"}, {"jobs", "run", "waste-scan", "--watch"},
		{"rules", "list"}, {"rules", "explain", "ebs-unattached"}, {"logs"}, {"deadletters", "list"}, {"version"},
		{"accounts", "update", "123456789012", "--name", hostile},
		{"exemptions", "list"}, {"exemptions", "show", "e1"}, {"exemptions", "update", "e1", "--reason", hostile},
		{"exemptions", "add", "--tag", "a=" + hostile, "--reason", hostile, "--until", "9d"}, {"findings", "list", "--state", "exempt"},
	} {
		for _, format := range formats {
			r := execute(t, env, append(slices.Clone(cmd), "-o", format)...)
			if r.code != 0 || r.out == "" {
				t.Errorf("%v -o %s: code %d, out %q, err %s", cmd, format, r.code, r.out, r.err)
				continue
			}
			if i := strings.IndexFunc(r.out+r.err, func(r rune) bool { return r != '\n' && dangerous(r) }); i >= 0 {
				t.Errorf("%v -o %s lets %q through", cmd, format, (r.out + r.err)[i:min(i+10, len(r.out+r.err))])
			}
			var v any
			switch format {
			case "json":
				if err := json.Unmarshal([]byte(r.out), &v); err != nil {
					t.Errorf("%v -o json: %v\n%s", cmd, err, r.out)
				}
			case "jsonl":
				for line := range strings.Lines(r.out) {
					if err := json.Unmarshal([]byte(line), &v); err != nil {
						t.Errorf("%v -o jsonl: %v\n%s", cmd, err, r.out)
					}
				}
			case "yaml":
				if err := yaml.Unmarshal([]byte(r.out), &v); err != nil {
					t.Errorf("%v -o yaml: %v\n%s", cmd, err, r.out)
				}
			case "csv":
				if rows, err := csv.NewReader(strings.NewReader(r.out)).ReadAll(); err != nil || len(rows) < 2 {
					t.Errorf("%v -o csv: %v\n%s", cmd, err, r.out)
				}
			}
		}
	}
}

func TestDollars(t *testing.T) {
	t.Parallel()
	for want, v := range map[string][2]float64{
		"$0.00": {0, 0}, "$1,234.56": {1234.56, 1234.56}, "$40.00–60.00": {40, 60}, "$999.99": {999.99, 999.99},
		"$1,000,000.00": {1e6, 1e6}, "$0.00–25.00": {0, 25}, "$11.65": {11.647, 11.653},
	} {
		if got := dollars(v[0], v[1]); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
}

// Whatever a text holds, JSON and YAML read back what was written, a table
// shows one harmless line of it, and a spreadsheet sees no formula.
func TestTextsSurvive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
			hostile, "true", "null", "~", "1e3", "0x1f", "- a", "a: b", "a #b", "yes", "12:30:00", "2026-01-01", "'", "\"", "\\", " x", "x ", "", "a\nb", "@x", "%x", "!x", "&x", "*x", "{a", "[a", "?", ":", "\ufeff", "\U000e0041", "…",
		})).Draw(t, "text")
		n := rapid.Float64().Draw(t, "number")
		if math.IsNaN(n) || math.IsInf(n, 0) {
			n = 0
		}
		o := object{{"k " + s, s}, {"list", []any{s, object{{"n", n}, {"empty", object{}}}, []any{}}}, {"none", nil}, {"flag", true}}
		want := map[string]any{"k " + s: s, "list": []any{s, map[string]any{"n": n, "empty": map[string]any{}}, []any{}}, "none": nil, "flag": true}
		for _, indent := range []string{"", "  "} {
			var got map[string]any
			if err := json.Unmarshal(appendJSON(nil, o, indent, ""), &got); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("JSON: %v\n%v\n%v", err, got, want)
			}
		}
		written := appendYAML(nil, object{{"text", s}, {"in", []any{s, object{{"x", s}}}}}, "")
		var got map[string]any
		if err := yaml.Unmarshal(written, &got); err != nil || !reflect.DeepEqual(got, map[string]any{"text": s, "in": []any{s, map[string]any{"x": s}}}) {
			t.Fatalf("YAML: %v\n%q\n%s", err, got, written)
		}
		if c := clean(s); strings.IndexFunc(c, func(r rune) bool { return dangerous(r) || unicode.IsControl(r) }) >= 0 {
			t.Fatalf("%q is shown as %q", s, c)
		}
		if c := strings.TrimSpace(cell(s)); c != "" && strings.ContainsRune("=+-@\t\r", rune(c[0])) {
			t.Fatalf("%q becomes the formula %q", s, c)
		}
	})
}
