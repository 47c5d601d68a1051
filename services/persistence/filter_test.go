package persistence

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/filter"
)

// estate is a service with findings that differ in all that can be asked for.
func estate(t testing.TB) *Service {
	t.Helper()
	s := service(t)
	var observations []*scanv1.Observation
	for i := range 48 {
		n := i / 24 // of the scan
		i %= 24
		observations = append(observations, violation(fmt.Sprintf("vol-%02d", i), at(n), func(o *scanv1.Observation) {
			o.Verdict.Severity = rulev1.Severity(i%5 + 1)
			o.Verdict.MonthlyCost = &rulev1.MonthlyCost{Low: float64(i % 4), High: float64(i%4) * 7.3}
			if i%5 == 0 {
				o.Verdict.MonthlyCost = nil
			}
			if i%3 == 0 {
				o.Verdict.Since = nil
			}
			o.Category = rulev1.Category(i%2 + 1)
			o.Title = []string{"Ünattached", "a'b\\c", "x%_y", ""}[i%4]
			o.Resource.Name = []string{"Web", "web", "10", "*"}[i%4]
			o.Resource.Tags = map[string]string{"Owner": []string{"ops", ""}[i%2]}
			if i%4 == 3 {
				o.Resource.Tags["a.b/c"], o.Resource.Tags["'"], o.Resource.Tags["?"] = "dev", "o'neill", "%"
			}
		}))
	}
	scanOnce(t, s, 0, complete, observations[:24]...)
	scanOnce(t, s, 1, complete, append(observations[29:], volume(here, "vol-01", rulev1.Outcome_OUTCOME_COMPLIANT, at(1)), volume(here, "vol-02", rulev1.Outcome_OUTCOME_NOT_APPLICABLE, at(1)))...)
	return s
}

func found(t testing.TB, s *Service, filter string) (ids []string, err error) {
	t.Helper()
	resp, err := s.ListFindings(t.Context(), &findingv1.ListFindingsRequest{Filter: filter, OrderBy: "id", PageSize: 1000})
	for _, f := range resp.GetFindings() {
		ids = append(ids, f.GetId())
	}
	return ids, err
}

func TestFilter(t *testing.T) {
	t.Parallel()
	s := estate(t)
	for filter, want := range map[string]int{
		"":                                    24,
		"  ":                                  24,
		`state = "RESOLVED"`:                  2,
		`state != "RESOLVED"`:                 22,
		`state = resolved`:                    2,
		`-state = RESOLVED`:                   22,
		`NOT state = RESOLVED`:                22,
		`severity >= "HIGH"`:                  9,
		`severity > CRITICAL`:                 0,
		`category = "WASTE"`:                  12,
		`monthly_cost > 10`:                   10,
		`monthly_cost >= 14.6`:                10,
		`monthly_cost > -1`:                   19,
		`NOT monthly_cost > 0`:                4, // unknown is neither
		`monthly_cost:*`:                      19,
		`NOT monthly_cost:*`:                  5,
		`resolve_time:*`:                      2,
		`since:*`:                             16,
		`owner:*`:                             12,
		`resource_name:"e"`:                   12,
		`resource_name = web`:                 6,
		`title:"%_"`:                          6,
		`title = "a'b\\c"`:                    6,
		`first_seen = "2026-01-01T00:00:00Z"`: 24,
		`last_seen > "2026-01-01T00:30:00+00:00"`:                            19,
		`last_run_id = "waste-scan/1" OR last_run_id = "waste-scan/0"`:       24,
		`account = "111122223333" AND region = "eu-west-1"`:                  24,
		`account = "111122223333" region = "us-east-1"`:                      0,
		`(severity = LOW OR severity = HIGH) AND (state = OPEN)`:             9,
		`rule_id = "ebs-unattached" AND resource_type = "AWS::EC2::Volume"`:  24,
		`resource_arn:"volume/vol-2" AND resource_id != "vol-20"`:            3,
		`id = "` + violation("vol-07", at(0)).GetFindingId() + `"`:           1,
		`severity = "INFO" AND state != "RESOLVED" OR severity = "CRITICAL"`: 5, // OR binds first
		`state != "RESOLVED" AND severity >= "HIGH" AND monthly_cost > 10`:   5,
		`title < "a"`:                        6,
		`tags.Owner = "ops"`:                 12,
		`tags.owner = "ops"`:                 0,
		`tags:"Owner"`:                       24,
		`tags.Owner:*`:                       24,
		`tags.Owner != "ops"`:                12,
		`tags."a.b/c" = "dev"`:               6,
		`tags."a.b/c" != "dev"`:              0, // missing is unknown
		`NOT tags:"a.b/c"`:                   18,
		`tags."'":"'n"`:                      6,
		`tags."?" = "%" AND tags:Owner`:      6,
		`tags."?" >= "" OR tags.none = "no"`: 6,
		`resource_name >= "W"`:               12,
	} {
		if got, err := found(t, s, filter); err != nil || len(got) != want {
			t.Errorf("%s: %d findings, want %d (%v)", filter, len(got), want, err)
		}
	}
	for filter, want := range map[string]string{
		`state`:                          "has state alone",
		`"state"`:                        `has "state" alone`,
		`state = "OPN"`:                  "it can be OPEN, RESOLVED, REOPENED",
		`state > "OPEN"`:                 "has no order",
		`severity = 3`:                   "it can be INFO, LOW, MEDIUM, HIGH, CRITICAL",
		`severity:"HIGH"`:                "is no text",
		`colour = "red"`:                 "colour, which is no field; the fields are account, acknowledged, assignee, category",
		`resource.id = "x"`:              "resource.id, which is no field",
		`monthly_cost > "10"`:            "without quotes",
		`tags = "dev"`:                   "by no key",
		`tags:*`:                         "by no key",
		`tags."" = "dev"`:                "by no key",
		`tags.a.b = "dev"`:               "no field",
		`tags.a = 3`:                     "put it in quotes",
		`state.x = "OPEN"`:               "state.x, which is no field",
		`monthly_cost = 1e999`:           "",
		`account = 111122223333`:         "put it in quotes",
		`since > "yesterday"`:            "RFC 3339",
		`since > "0000-01-01T00:00:00Z"`: "RFC 3339",
		`since:"2026"`:                   "RFC 3339",
		`state = "OPEN" AND`:             "cannot be read",
		`(state = "OPEN"`:                "cannot be read",
		`f(state)`:                       "calls f, which there is not",
		`state = f("x")`:                 "",
		`"a" = "b"`:                      `"a", which is no field`,
		`title = "a` + "\x00" + `b"`:     "a character that is none",
		strings.TrimSuffix(strings.Repeat(`id = "x" AND `, 150), " AND "): "more than 200 parts",
	} {
		_, err := found(t, s, filter)
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != "filter" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", filter, err, want)
		}
	}
}

// genFilter draws filters that are mostly right.
func genFilter() *rapid.Generator[string] {
	part := rapid.Custom(func(t *rapid.T) string {
		name := rapid.SampledFrom(slices.Sorted(maps.Keys(findingFields))).Draw(t, "field")
		f := findingFields[name]
		op := rapid.SampledFrom([]string{"=", "!=", "<", "<=", ">", ">=", ":", " = ", ":*"}).Draw(t, "op")
		if f.kind == kindMap {
			key := fmt.Sprintf("%q", rapid.SampledFrom([]string{"Owner", "owner", "a.b/c", "", "'", "none", "?"}).Draw(t, "key"))
			if rapid.IntRange(0, 3).Draw(t, "has") == 0 {
				return name + ":" + key
			}
			name += "." + key
		}
		if op == ":*" {
			return name + op
		}
		var value string
		switch f.kind {
		case kindText, kindMap:
			value = fmt.Sprintf("%q", rapid.SampledFrom([]string{"", "web", "Web", "W", "vol-1", "ops", "%", "_", "'", "waste-scan/1", "arn:aws", "Ü", "111122223333", "eu-west-1", "dev", "o'neill"}).Draw(t, "text"))
		case kindTime:
			value = `"` + at(rapid.IntRange(-800, 2).Draw(t, "hours")).Format(time.RFC3339) + `"`
		case kindNumber, kindInteger:
			value = rapid.SampledFrom([]string{"0", "7.3", "-1", "14.6", "1e3", "100"}).Draw(t, "number")
		default:
			value = rapid.SampledFrom(filter.Field{Values: f.values}.Names()).Draw(t, "name")
		}
		return name + op + value
	})
	var whole *rapid.Generator[string]
	whole = rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 5).Draw(t, "shape") {
		case 0:
			return "NOT (" + whole.Draw(t, "inner") + ")"
		case 1:
			return "(" + whole.Draw(t, "left") + " AND " + whole.Draw(t, "right") + ")"
		case 2:
			return "(" + whole.Draw(t, "left") + " OR " + whole.Draw(t, "right") + ")"
		default:
			return part.Draw(t, "part")
		}
	})
	return whole
}

// What a list finds and what a watch lets through is the same.
func TestFilterMeansTheSameInSQLAndInMemory(t *testing.T) {
	t.Parallel()
	s := estate(t)
	all, err := s.ListFindings(t.Context(), &findingv1.ListFindingsRequest{OrderBy: "id", PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		filter := genFilter().Draw(rt, "filter")
		p, err := findingFields.parse(filter)
		if err != nil {
			if !errors.Is(err, errs.InvalidArgument) {
				rt.Fatal(err)
			}
			return
		}
		got, err := found(t, s, filter)
		if err != nil {
			rt.Fatal(err)
		}
		var want []string
		for _, f := range all.GetFindings() {
			if p.match(func(name string) any { return valueOf(f, name) }) {
				want = append(want, f.GetId())
			}
		}
		if !slices.Equal(got, want) {
			rt.Errorf("%s: SQL finds %d, memory %d", filter, len(got), len(want))
		}
		// What is known to have no end is listed without looking at it.
		for _, order := range []string{"resolve_time", "resolve_time desc"} {
			resp, err := s.ListFindings(t.Context(), &findingv1.ListFindingsRequest{Filter: filter, OrderBy: order, PageSize: 1000})
			if err != nil || len(resp.GetFindings()) != len(want) || !slices.IsSortedFunc(resp.GetFindings(), byOrder(order+", id")) {
				rt.Errorf("%s: by %s %d findings, want %d (%v)", filter, order, len(resp.GetFindings()), len(want), err)
			}
		}
	})
}

// Whatever is asked, the answer is findings or INVALID_ARGUMENT.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{
		"", `state = "OPEN"`, `severity >= HIGH AND -monthly_cost > 1.5e3`, `title:"x" OR (since < "2026-01-01T00:00:00Z")`, `id = "\x00\xff"`,
		`((((((((`, `a(b(c(d(`, `NOT NOT NOT x`, `"'; DROP TABLE findings; --" = 1`, `title = "?"`, `title = "\\'"`, `monthly_cost > 99999999999999999999`,
		`monthly_cost = 0x7fffffffffffffff`, `since = "9999-12-31T23:59:59.999999999-14:00"`, `first_seen > "0001-01-01T00:00:00+14:00"`, `monthly_cost > 1e-320`, `a.b.c:d`, `x = -y`, `tags."a.b" = "c"`, `tags:"'"`, `tags."?" != "?"`, `tags."\\" > ""`, `tags.a.b.c:*`, "title = \"\U000E0001\"",
	} {
		f.Add(seed, "")
		f.Add("", seed)
	}
	for _, order := range []string{"monthly_cost desc, id", "severity", "id desc", "last_seen asc,state desc", ",", "id id id"} {
		f.Add("", order)
	}
	dsn := devtest.DB(f, migrated)
	s, _ := replica(f, dsn)
	scanOnce(f, s, 0, complete, violation("vol-1", at(0)), violation("vol-2", at(0)))
	f.Fuzz(func(t *testing.T, filter, order string) {
		if len(filter) > 4000 || len(order) > 200 { // as protovalidate holds them
			return
		}
		_, err := s.ListFindings(t.Context(), &findingv1.ListFindingsRequest{Filter: filter, OrderBy: order, PageSize: 1})
		if err != nil && !errors.Is(err, errs.InvalidArgument) {
			t.Errorf("filter %q, order %q: %v", filter, order, err)
		}
	})
}
