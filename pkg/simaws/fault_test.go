package simaws_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"nightshift.dev/pkg/simaws"
)

func TestFaults(t *testing.T) {
	t.Parallel()
	volumes := func(w *world, account int, region string) error {
		_, err := w.ec2(w.estate.Accounts[account], region).DescribeVolumes(t.Context(), nil)
		return err
	}
	for _, tc := range []struct {
		name  string
		fault simaws.Fault
		// want is in the error of DescribeVolumes of the management account in us-east-1; other must stay without error.
		want  string
		other func(*world) error
	}{
		{"throttle", simaws.Fault{Kind: "throttle", Action: "DescribeVolumes"}, "RequestLimitExceeded", func(w *world) error {
			_, err := w.ec2(w.management(), "us-east-1").DescribeInstances(t.Context(), nil)
			return err
		}},
		{"deny an action in an account", simaws.Fault{Kind: "deny", Account: "ACCOUNT", Action: "Describe*"}, "UnauthorizedOperation", func(w *world) error { return volumes(w, 1, "us-east-1") }},
		{"error", simaws.Fault{Kind: "error", Service: "ec2"}, "InternalError", func(w *world) error {
			_, err := w.sts().GetCallerIdentity(t.Context(), nil)
			return err
		}},
		{"unavailable", simaws.Fault{Kind: "error", Status: 503, Region: "us-east-1"}, "Unavailable", func(w *world) error { return volumes(w, 0, "us-west-2") }},
		{"expired", simaws.Fault{Kind: "expired", Account: "ACCOUNT"}, "RequestExpired", func(w *world) error { return volumes(w, 1, "us-east-1") }},
		{"truncate", simaws.Fault{Kind: "truncate", Region: "us-east-*"}, "unexpected EOF", func(w *world) error { return volumes(w, 0, "us-west-2") }},
		{"lost region", simaws.Fault{Kind: "reset", Region: "us-east-1"}, "connection reset", func(w *world) error { return volumes(w, 0, "us-west-2") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := simaws.Generate(simaws.Options{Seed: 1, Now: now})
			tc.fault.Account = strings.ReplaceAll(tc.fault.Account, "ACCOUNT", e.Accounts[0].ID)
			w := serve(t, e, simaws.Config{Faults: []simaws.Fault{tc.fault}})
			if err := volumes(w, 0, "us-east-1"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
			if err := tc.other(w); err != nil {
				t.Errorf("hits what it should not: %v", err)
			}
			if err := w.server.SetFaults(); err != nil {
				t.Fatal(err)
			}
			if err := volumes(w, 0, "us-east-1"); err != nil {
				t.Errorf("after it was lifted: %v", err)
			}
		})
	}
}

func TestFaultShareAfterTimes(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1}, simaws.Config{NoQuotas: true})
	c := w.ec2(w.management(), "us-east-1")
	run := func(f simaws.Fault, n int) (hits []int) {
		t.Helper()
		if err := w.server.SetFaults(f); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if _, err := c.DescribeAddresses(t.Context(), nil); err != nil {
				hits = append(hits, i)
			}
		}
		return hits
	}
	if n := len(run(simaws.Fault{Kind: "throttle", Share: 0.2}, 300)); n < 40 || n > 80 {
		t.Errorf("a fifth of 300 is %d", n)
	}
	if hits := run(simaws.Fault{Kind: "reset", After: 3}, 6); len(hits) != 3 || hits[0] != 3 {
		t.Errorf("after three: %v", hits)
	}
	if hits := run(simaws.Fault{Kind: "error", Times: 2}, 6); len(hits) != 2 || hits[1] != 1 {
		t.Errorf("twice: %v", hits)
	}
	began := time.Now()
	if err := w.server.SetFaults(simaws.Fault{Kind: "latency", Delay: simaws.Duration(40 * time.Millisecond)}, simaws.Fault{Kind: "latency", Delay: simaws.Duration(20 * time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DescribeAddresses(t.Context(), nil); err != nil || time.Since(began) < 60*time.Millisecond {
		t.Errorf("60 ms of latency took %v: %v", time.Since(began), err)
	}
	for _, f := range []simaws.Fault{{Kind: "gremlin"}, {Kind: "latency"}, {Kind: "zone"}, {Kind: "deny", Share: 2}, {Kind: "metric", MetricStatus: "Odd"}} {
		if w.server.SetFaults(f) == nil {
			t.Errorf("%+v was taken", f)
		}
	}
}

// A region lost in the middle of a listing leaves the pages before it.
func TestRegionLostAfterPages(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1}, simaws.Config{Faults: []simaws.Fault{{Kind: "reset", Region: "us-east-1", Action: "DescribeVolumes", After: 2}}})
	p := ec2.NewDescribeVolumesPaginator(w.ec2(w.estate.Accounts[1], "us-east-1"), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(5)})
	for range 2 {
		if _, err := p.NextPage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.NextPage(t.Context()); err == nil {
		t.Error("the third page came")
	}
}

// A series that fails for a while is whole again when asked again.
func TestMetricFault(t *testing.T) {
	t.Parallel()
	w := serve(t, tiny(), simaws.Config{Faults: []simaws.Fault{{Kind: "metric", Times: 2}}})
	in := &cloudwatch.GetMetricDataInput{StartTime: aws.Time(now.Add(-day)), EndTime: &now, MetricDataQueries: []cwtypes.MetricDataQuery{
		query("a", "AWS/EC2", "CPUUtilization", "Sum", 3600, "InstanceId", "i-running"), query("b", "AWS/EC2", "CPUUtilization", "Sum", 3600, "InstanceId", "i-running"),
		query("c", "AWS/EC2", "CPUUtilization", "Sum", 3600, "InstanceId", "i-running")}}
	var got []string
	for range 2 {
		res, err := w.cloudwatch(w.management(), "us-east-1").GetMetricData(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range res.MetricDataResults {
			got = append(got, string(r.StatusCode))
		}
	}
	if s := strings.Join(got, " "); s != "InternalError InternalError Complete Complete Complete Complete" {
		t.Error(s)
	}
}

func TestDisruptedZone(t *testing.T) {
	t.Parallel()
	clock := &watch{t: now}
	w := serve(t, tiny(), simaws.Config{Clock: clock.now, Faults: []simaws.Fault{{Kind: "zone", Zone: "us-east-1a"}}})
	clock.add(3 * time.Hour)
	zones, err := w.ec2(w.management(), "us-east-1").DescribeAvailabilityZones(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, z := range zones.AvailabilityZones {
		if bad := *z.ZoneName == "us-east-1a"; bad != (z.State == types.AvailabilityZoneStateImpaired) || bad != (len(z.Messages) > 0) {
			t.Errorf("%s is %s", *z.ZoneName, z.State)
		}
	}
	c := w.cloudwatch(w.management(), "us-east-1")
	if ts, _ := cpu(t, c, "i-running", "Average", now.Add(-2*time.Hour), now.Add(3*time.Hour), time.Hour); len(ts) != 2 {
		t.Errorf("%d hours of points, want the 2 before the disruption", len(ts))
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1}, simaws.Config{})
	do := func(method, path, body string, header ...string) (int, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, w.server.URL()+"/_simaws/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, b
	}
	identity := func() error {
		_, err := w.sts().GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		return err
	}
	if code, b := do("PUT", "faults", `[{"kind":"throttle","service":"sts"}]`); code != 204 {
		t.Fatalf("%d %s", code, b)
	}
	wantCode(t, identity(), "Throttling")
	if code, _ := do("POST", "faults", `{"kind":"latency","delay":"1ms"}`); code != 204 {
		t.Error("a fault was not added")
	}
	if _, b := do("GET", "faults", ""); !bytes.Contains(b, []byte(`"delay":"1ms"`)) || !bytes.Contains(b, []byte(`"throttle"`)) {
		t.Errorf("faults are %s", b)
	}
	if code, _ := do("DELETE", "faults", ""); code != 204 || identity() != nil {
		t.Error("the faults are still there")
	}
	var stats []simaws.Stat
	if _, b := do("GET", "stats", ""); json.Unmarshal(b, &stats) != nil || len(stats) != 1 || stats[0] != (simaws.Stat{Account: w.management().ID, Region: "us-east-1", Service: "sts", Action: "GetCallerIdentity", Calls: 2, Throttles: 1, Errors: 1}) {
		t.Errorf("stats are %s", b)
	}
	if code, _ := do("DELETE", "stats", ""); code != 204 || len(w.server.Stats()) != 0 {
		t.Error("the stats are still there")
	}
	if _, b := do("GET", "truth", ""); bytes.Count(b, []byte("\n")) != len(w.estate.Truth()) {
		t.Error("the truth is of another length")
	}
	var running, stopped string
	for _, in := range w.management().Regions[0].Instances {
		switch in.State {
		case "running":
			running = in.ID
		case "stopped":
			stopped = in.ID
		}
	}
	if code, b := do("POST", "estate", `{"action":"stop","id":"`+running+`"}`); code != 204 {
		t.Errorf("stop: %d %s", code, b)
	}
	if code, b := do("POST", "estate", `{"action":"stop","id":"`+stopped+`"}`); code != 400 || !bytes.Contains(b, []byte("would have to be running")) {
		t.Errorf("stop again: %d %s", code, b)
	}
	path := t.TempDir() + "/estate.json"
	_, b := do("GET", "estate", "")
	writeFile(t, path, b)
	if e, err := simaws.Load(path); err != nil || e.Resources() != w.estate.Resources() {
		t.Errorf("the estate does not load: %v", err)
	}
	for _, bad := range [][3]string{{"PUT", "faults", `[{"kind":"x"}]`}, {"PUT", "faults", "{"}, {"POST", "estate", `{"action":"fly","id":"` + running + `"}`}, {"POST", "estate", `{"action":"stop","id":"i-0"}`}} {
		if code, _ := do(bad[0], bad[1], bad[2]); code != 400 {
			t.Errorf("%v: %d", bad, code)
		}
	}
	if code, _ := do("GET", "nothing", ""); code != 404 {
		t.Errorf("unknown path: %d", code)
	}
	if code, _ := do("DELETE", "stats", "", "Origin", "http://evil.example"); code != 403 {
		t.Errorf("from a browser: %d", code)
	}
}
