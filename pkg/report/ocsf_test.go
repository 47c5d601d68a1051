package report_test

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/report"
)

// ocsfObjects are the attributes that OCSF 1.8 requires or recommends of the
// class Compliance Finding and of the objects we use in it, and the values its
// enums allow. Written down from https://schema.ocsf.io/1.8.0/classes/compliance_finding
// with the profile cloud.
var ocsfObjects = map[string]struct {
	required []string
	allowed  map[string][]float64
}{
	"": {
		required: []string{
			"activity_id", "category_uid", "class_uid", "cloud", "compliance", "finding_info", "metadata", "severity_id", "time", "type_uid",
			"message", "observables", "remediation", "resources", "status_id",
		},
		allowed: map[string][]float64{
			"activity_id": {1, 2, 3}, "category_uid": {2}, "class_uid": {2003}, "severity_id": {1, 2, 3, 4, 5}, "status_id": {1, 2, 3, 4}, "type_uid": {200301, 200302, 200303},
		},
	},
	"metadata":         {required: []string{"product", "version", "profiles"}},
	"metadata.product": {required: []string{"name", "vendor_name"}},
	"finding_info":     {required: []string{"uid", "title"}},
	"compliance": {
		required: []string{"control", "standards", "status", "status_id"},
		allowed:  map[string][]float64{"status_id": {1, 3}},
	},
	"cloud":         {required: []string{"provider", "region", "account"}},
	"cloud.account": {required: []string{"uid", "type_id"}, allowed: map[string][]float64{"type_id": {10}}},
	"remediation":   {required: []string{"desc"}},
}

// attributes that the class and the profile know, at the top.
var ocsfTop = []string{
	"activity_id", "activity_name", "category_uid", "category_name", "class_uid", "class_name", "type_uid", "type_name", "time", "start_time",
	"severity_id", "severity", "status_id", "status", "message", "metadata", "finding_info", "compliance", "resources", "cloud", "remediation",
	"observables", "unmapped",
}

func TestOCSF(t *testing.T) {
	t.Parallel()
	in := dangerous()
	in.Category = rulev1.Category_CATEGORY_SECURITY
	accepted, fresh := found(7, "ec2-public", "i-7", -1), found(8, "ec2-public", "i-8", -1)
	fresh.FirstSeen, fresh.Severity = fresh.LastSeen, rulev1.Severity_SEVERITY_CRITICAL
	fresh.Parameters = map[string]string{"ports": "22"}
	in.Findings = append(in.Findings, accepted, fresh)
	for _, f := range in.Findings {
		f.Category = in.Category
	}
	var b bytes.Buffer
	if err := report.New(in).OCSF(&b); err != nil {
		t.Fatal(err)
	}
	events := map[string]map[string]any{}
	for line := range strings.Lines(b.String()) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		uid, _ := dig(e, "finding_info.uid").(string)
		events[uid] = e
		for k := range e {
			if !slices.Contains(ocsfTop, k) {
				t.Errorf("%s is no attribute of the class", k)
			}
		}
		for path, object := range ocsfObjects {
			o, ok := dig(e, path).(map[string]any)
			if !ok {
				t.Errorf("there is no %s", path)
				continue
			}
			for _, name := range object.required {
				switch v := o[name].(type) {
				case nil:
					t.Errorf("%s lacks %s", path, name)
				case string:
					if v == "" {
						t.Errorf("%s has an empty %s", path, name)
					}
				case []any:
					if len(v) == 0 {
						t.Errorf("%s has no %s", path, name)
					}
				}
			}
			for name, values := range object.allowed {
				if v, ok := o[name].(float64); !ok || !slices.Contains(values, v) {
					t.Errorf("%s has %s %v, which is not one of %v", path, name, o[name], values)
				}
			}
		}
		if e["type_uid"] != e["class_uid"].(float64)*100+e["activity_id"].(float64) {
			t.Errorf("type_uid is %v", e["type_uid"])
		}
		if v := dig(e, "metadata.version"); v != "1.8.0" {
			t.Errorf("the schema's version is %v", v)
		}
		// Milliseconds: seconds would be in 1970, microseconds far ahead.
		if ms := e["time"].(float64); ms < 1.7e12 || ms > 1.9e12 {
			t.Errorf("the time is %v", ms)
		}
		for _, list := range []string{"resources", "observables"} {
			for _, o := range e[list].([]any) {
				for _, name := range map[string][]string{"resources": {"uid", "type", "region"}, "observables": {"name", "type_id", "value"}}[list] {
					if v := o.(map[string]any)[name]; v == nil || v == "" {
						t.Errorf("%s has no %s", list, name)
					}
				}
			}
		}
	}
	if len(events) != len(in.Findings) {
		t.Fatalf("%d events of %d findings", len(events), len(in.Findings))
	}
	for id, want := range map[string][3]float64{ // activity, status of the finding, status of the check
		fresh.GetId(): {1, 1, 3}, accepted.GetId(): {2, 1, 3}, in.Findings[1].GetId(): {3, 4, 1},
	} {
		e := events[id]
		if got := [3]float64{e["activity_id"].(float64), e["status_id"].(float64), dig(e, "compliance.status_id").(float64)}; got != want {
			t.Errorf("%s has activity, status and check %v, want %v", id, got, want)
		}
	}
	if e := events[fresh.GetId()]; e["severity_id"] != 5.0 || e["severity"] != "Critical" {
		t.Errorf("CRITICAL became %v %v", e["severity_id"], e["severity"])
	}
}

func dig(v any, path string) any {
	if path == "" {
		return v
	}
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func TestExemptIsListedApart(t *testing.T) {
	t.Parallel()
	f := found(1, "a", "vol-1", 10)
	f.State = findingv1.State_STATE_EXEMPT
	f.Exemption = &rulev1.Exemption{By: "ann", Reason: "a test bed " + hostile, ExpireTime: timestamppb.New(at.AddDate(0, 1, 0))}
	r := report.New(input(f, found(2, "a", "vol-2", 5)))
	if len(r.Exempt) != 1 || len(r.Findings) != 1 || r.Totals.Money.High != 5 || r.Totals.Exempt != 1 {
		t.Errorf("%d exempt, %d open, %+v", len(r.Exempt), len(r.Findings), r.Totals)
	}
	for name, write := range map[string]func(io.Writer) error{"text": r.Text, "page": r.HTML} {
		var b bytes.Buffer
		if err := write(&b); err != nil || !strings.Contains(b.String(), "Accepted by ann until 2026-10-10: a test bed") {
			t.Errorf("the %s does not say who accepted it (%v)", name, err)
		}
	}
	var b bytes.Buffer
	if err := r.OCSF(&b); err != nil || strings.Count(b.String(), `"status":"Suppressed"`) != 1 || !strings.Contains(b.String(), `"by":"ann"`) {
		t.Errorf("OCSF does not say that it is suppressed: %v\n%s", err, b.String())
	}
}
