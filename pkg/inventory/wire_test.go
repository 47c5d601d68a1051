package inventory_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/inventory"
)

// wire is an AWS that answers just what a test says.
type wire struct {
	mu      sync.Mutex
	ec2     func(form url.Values) string
	metrics func(metricRequest) metricAnswer
	asked   []metricRequest
	listed  func(listRequest) listAnswer
	*aws.Session
}

type metricRequest struct {
	MetricDataQueries []struct {
		ID         string `cbor:"Id"`
		MetricStat struct {
			Period int
			Stat   string
			Metric struct {
				Namespace, MetricName string
				Dimensions            []struct{ Name, Value string }
			}
		}
	}
	StartTime, EndTime time.Time
	NextToken          string
	ScanBy             string
}

type listRequest struct {
	Namespace, MetricName, NextToken string
	Dimensions                       []map[string]string
}

type listAnswer struct {
	Metrics   []listedMetric
	NextToken string `cbor:",omitempty"`
}

type listedMetric struct {
	Namespace, MetricName string
	Dimensions            []map[string]string
}

type metricAnswer struct {
	MetricDataResults []metricResult
	NextToken         string `cbor:",omitempty"`
}

type metricResult struct {
	ID         string `cbor:"Id"`
	Timestamps []cbor.Tag
	Values     []float64
	StatusCode string
}

// result is one series' answer with points at these times.
func result(id, status string, at ...time.Time) metricResult {
	r := metricResult{ID: id, StatusCode: status}
	for _, t := range at {
		r.Timestamps = append(r.Timestamps, cbor.Tag{Number: 1, Content: float64(t.Unix())})
		r.Values = append(r.Values, 1)
	}
	return r
}

func newWire(t testing.TB) *wire {
	t.Helper()
	w := &wire{}
	decode, err := cbor.DecOptions{}.DecMode()
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		reply := func(v any) {
			b, err := cbor.Marshal(v)
			if err != nil {
				t.Error(err)
			}
			out.Header().Set("Smithy-Protocol", "rpc-v2-cbor")
			_, _ = out.Write(b)
		}
		if strings.Contains(r.URL.Path, "ListMetrics") {
			var in listRequest
			if err := decode.Unmarshal(body, &in); err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			a := w.listed(in)
			w.mu.Unlock()
			reply(a)
			return
		}
		if strings.Contains(r.URL.Path, "GetMetricData") {
			var in metricRequest
			if err := decode.Unmarshal(body, &in); err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			w.asked = append(w.asked, in)
			a := w.metrics(in)
			w.mu.Unlock()
			reply(a)
			return
		}
		form, _ := url.ParseQuery(string(body))
		if form.Get("Action") == "GetCallerIdentity" {
			_, _ = io.WriteString(out, `<R><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/n</Arn><Account>111122223333</Account></GetCallerIdentityResult></R>`)
			return
		}
		_, _ = io.WriteString(out, w.ec2(form))
	}))
	t.Cleanup(h.Close)
	w.Session = connect(t, h.URL, "AKIA", "us-east-1")
	return w
}

func instances(n int) (is []*inventory.Instance) {
	for i := range n {
		is = append(is, &inventory.Instance{Resource: inventory.Resource{ID: "i-" + strconv.Itoa(i)}})
	}
	return is
}

// The shape of the questions is what they cost.
func TestMetricQuestions(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	last := now.Add(-100 * 24 * time.Hour).Truncate(time.Hour)
	w.metrics = func(in metricRequest) (out metricAnswer) {
		for _, q := range in.MetricDataQueries {
			at := last.Truncate(time.Duration(q.MetricStat.Period) * time.Second)
			out.MetricDataResults = append(out.MetricDataResults, result(q.ID, "Complete", at))
		}
		return out
	}
	is := instances(1200)
	is = append(is, is[0], &inventory.Instance{Resource: is[1].Resource}) // twice the same
	fill(t, w.Session, inventory.InstanceLastCPU, is)
	seen := map[string]int{}
	for _, in := range w.asked {
		if len(in.MetricDataQueries) > 500 {
			t.Errorf("%d queries in a call", len(in.MetricDataQueries))
		}
		for _, q := range in.MetricDataQueries {
			m := q.MetricStat.Metric
			if m.Namespace != "AWS/EC2" || m.MetricName != "CPUUtilization" || len(m.Dimensions) != 1 || m.Dimensions[0].Name != "InstanceId" {
				t.Errorf("asked for %+v", q)
			}
			seen[m.Dimensions[0].Value]++
			if points := int(in.EndTime.Sub(in.StartTime)/time.Second) / q.MetricStat.Period; points > 201 {
				t.Errorf("asked for %d points of a metric: an answer does not hold 500 of them", points)
			}
			if in.StartTime.Unix()%3600 != 0 || in.EndTime.Unix()%3600 != 0 {
				t.Errorf("window %v to %v is not of full hours", in.StartTime, in.EndTime)
			}
		}
	}
	if len(w.asked) != 6 {
		t.Errorf("%d calls for 1,200 instances that stopped in one week, want 3 and 3", len(w.asked))
	}
	if n := w.Meter.Snapshot().BilledMetrics; n != 2400 {
		t.Errorf("billed %d metrics, want 2,400", n)
	}
	for id, n := range seen {
		if n != 2 {
			t.Errorf("%s was asked for %d times, want twice", id, n)
		}
	}
	for _, i := range is {
		if f := i.LastCPU; !f.Known || !f.Value.Hour.Equal(last) || f.Source != "cloudwatch:GetMetricData" || !f.At.Equal(now) {
			t.Errorf("%s: %+v, want %v", i.ID, f, last)
		}
	}
}

// What CloudWatch can answer that is not simply complete.
func TestMetricAnswers(t *testing.T) {
	t.Parallel()
	point := now.Add(-50 * time.Hour).Truncate(time.Hour)
	for name, test := range map[string]struct {
		answer func(n int, in metricRequest) metricAnswer // n-th answer
		known  bool
		none   bool
		failed string
		most   int // calls
	}{
		"over two pages, first partial": {func(n int, in metricRequest) metricAnswer {
			if in.NextToken == "" {
				return metricAnswer{[]metricResult{result("m0", "PartialData", point)}, "t"}
			}
			return metricAnswer{[]metricResult{result("m0", "Complete", point.Add(-10*time.Hour))}, ""}
		}, true, false, "", 4},
		"a page without the series": {func(n int, in metricRequest) metricAnswer {
			if in.NextToken == "" {
				return metricAnswer{nil, "t"}
			}
			return metricAnswer{[]metricResult{result("m0", "Complete", point)}, ""}
		}, true, false, "", 4},
		"partial for ever": {func(int, metricRequest) metricAnswer {
			return metricAnswer{[]metricResult{result("m0", "PartialData", point)}, ""}
		}, false, false, `answered "PartialData"`, 4},
		"internal error twice": {func(n int, _ metricRequest) metricAnswer {
			if n < 2 {
				return metricAnswer{[]metricResult{result("m0", "InternalError")}, ""}
			}
			return metricAnswer{[]metricResult{result("m0", "Complete", point)}, ""}
		}, true, false, "", 4},
		"forbidden": {func(int, metricRequest) metricAnswer {
			return metricAnswer{[]metricResult{result("m0", "Forbidden")}, ""}
		}, false, false, "forbidden", 1},
		"left out": {func(int, metricRequest) metricAnswer { return metricAnswer{} }, false, false, "left this metric out", 4},
		"never a point": {func(int, metricRequest) metricAnswer {
			return metricAnswer{[]metricResult{result("m0", "Complete")}, ""}
		}, true, true, "", 1},
		"points outside the window": {func(int, metricRequest) metricAnswer {
			return metricAnswer{[]metricResult{result("m0", "Complete", now.Add(1000*time.Hour), now.Add(-20000*time.Hour))}, ""}
		}, true, true, "", 1},
		"ids nobody asked for": {func(int, metricRequest) metricAnswer {
			return metricAnswer{[]metricResult{result("m7", "Complete", point), result("", "Complete", point), result("x", "Complete"), result("m-1", "Complete"), result("m0", "Complete", point)}, ""}
		}, true, false, "", 2},
		"the same page for ever": {func(int, metricRequest) metricAnswer {
			return metricAnswer{[]metricResult{result("m0", "PartialData", point)}, "t"}
		}, false, false, "the same page token twice", 2},
		"coarse, but no hour": {func(n int, in metricRequest) metricAnswer {
			if n == 0 {
				return metricAnswer{[]metricResult{result("m0", "Complete", point)}, ""}
			}
			return metricAnswer{[]metricResult{result("m0", "Complete")}, ""}
		}, false, false, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWire(t)
			w.metrics = func(in metricRequest) metricAnswer { return test.answer(len(w.asked)-1, in) }
			is := instances(1)
			fill(t, w.Session, inventory.InstanceLastCPU, is)
			f := is[0].LastCPU
			if f.Known != test.known || f.Failed != (test.failed != "") || !strings.Contains(f.Why, test.failed) || f.Known && f.Value.None() != test.none {
				t.Errorf("got %+v", f)
			}
			if f.Known && !test.none && !f.Value.Hour.Equal(point) {
				t.Errorf("got the hour %v, want %v", f.Value.Hour, point)
			}
			if !f.Known && f.Why == "" {
				t.Error("it does not say why")
			}
			if len(w.asked) > test.most {
				t.Errorf("asked %d times, want at most %d", len(w.asked), test.most)
			}
		})
	}
}

// Whenever each of many metrics ended, its hour is found, in few calls.
func TestMetricWindows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWire(t)
		ends := map[string]time.Time{}
		is := instances(rapid.IntRange(1, 40).Draw(rt, "instances"))
		for _, i := range is {
			if hours := rapid.IntRange(0, 11000).Draw(rt, "hours ago"); hours <= 10800 {
				ends[i.ID] = now.Add(-time.Duration(hours) * time.Hour)
			}
		}
		w.metrics = func(in metricRequest) (out metricAnswer) {
			for _, q := range in.MetricDataQueries {
				period := time.Duration(q.MetricStat.Period) * time.Second
				var at []time.Time
				if end, ok := ends[q.MetricStat.Metric.Dimensions[0].Value]; ok {
					for b := in.StartTime; b.Before(in.EndTime) && !b.After(end); b = b.Add(period) {
						at = append(at, b)
					}
				}
				out.MetricDataResults = append(out.MetricDataResults, result(q.ID, "Complete", at...))
			}
			return out
		}
		fill(t, w.Session, inventory.InstanceLastCPU, is)
		for _, i := range is {
			if f := i.LastCPU; !f.Known || !f.Value.Hour.Equal(ends[i.ID]) {
				rt.Errorf("%s: %+v, want %v", i.ID, f, ends[i.ID])
			}
		}
		if n := len(w.asked); n > 1+len(ends) || n > 1+58 {
			rt.Errorf("%d calls for %d metrics", n, len(is))
		}
	})
}

// Whatever AWS leaves out or writes strangely, nothing panics; and what has no
// id is an error, not left out.
func TestPartialAnswers(t *testing.T) {
	t.Parallel()
	leaf := func(names ...string) func(t *rapid.T) string {
		return func(t *rapid.T) string {
			var b strings.Builder
			for _, n := range names {
				if rapid.Bool().Draw(t, n) {
					v := rapid.SampledFrom([]string{"", "x", "true", "7", "2026-01-02T03:04:05.000Z"}).Draw(t, "value of "+n)
					switch n { // what would not decode is another matter
					case "launchTime", "attachTime", "createTime":
						v = "2026-01-02T03:04:05.000Z"
					case "size", "iops", "throughput", "deviceIndex":
						v = "-7"
					case "primary", "encrypted", "multiAttachEnabled", "deleteOnTermination", "configured":
						v = "true"
					}
					fmt.Fprintf(&b, "<%s>%s</%s>", n, v, n)
				}
			}
			return b.String()
		}
	}
	some := func(name string, inner ...func(*rapid.T) string) func(*rapid.T) string {
		return func(t *rapid.T) string {
			var b strings.Builder
			if rapid.Bool().Draw(t, name) {
				b.WriteString("<" + name + ">")
				for _, f := range inner {
					b.WriteString(f(t))
				}
				b.WriteString("</" + name + ">")
			}
			return b.String()
		}
	}
	association := some("association", leaf("publicIp", "ipOwnerId", "carrierIp"))
	groups := some("groupSet", some("item", leaf("groupId", "groupName")), some("item"))
	tags := some("tagSet", some("item", leaf("key", "value")), some("item", leaf("key", "value")))
	instance := []func(*rapid.T) string{
		leaf("launchTime", "reason", "instanceType", "imageId", "rootDeviceName", "subnetId", "platformDetails", "instanceLifecycle"),
		some("instanceState", leaf("name")), some("stateReason", leaf("code", "message")), some("placement", leaf("availabilityZone", "tenancy")),
		some("hibernationOptions", leaf("configured")), groups, tags,
		some("blockDeviceMapping", some("item", leaf("deviceName"), some("ebs", leaf("volumeId", "attachTime", "status", "deleteOnTermination"))), some("item")),
		some("networkInterfaceSet", some("item", leaf("networkInterfaceId", "privateIpAddress"), association, groups, some("attachment", leaf("deviceIndex")),
			some("privateIpAddressesSet", some("item", leaf("privateIpAddress", "primary"), association), some("item", leaf("privateIpAddress"))),
			some("ipv6AddressesSet", some("item", leaf("ipv6Address")))), some("item")),
	}
	volume := []func(*rapid.T) string{
		leaf("size", "iops", "throughput", "volumeType", "status", "createTime", "encrypted", "kmsKeyId", "snapshotId", "multiAttachEnabled", "availabilityZone"), tags,
		some("attachmentSet", some("item", leaf("instanceId", "device", "status", "attachTime", "deleteOnTermination")), some("item")),
	}
	w := newWire(t)
	rapid.Check(t, func(rt *rapid.T) {
		var body strings.Builder
		ids, nameless := 0, false
		item := func(idName string, parts []func(*rapid.T) string) string {
			s := "<item>"
			if rapid.IntRange(0, 9).Draw(rt, "has an id") > 0 {
				s += "<" + idName + ">id-" + strconv.Itoa(ids) + "</" + idName + ">"
				ids++
			} else {
				nameless = true
			}
			for _, p := range parts {
				s += p(rt)
			}
			return s + "</item>"
		}
		isInstance := rapid.Bool().Draw(rt, "instances")
		n := rapid.IntRange(0, 3).Draw(rt, "items")
		for range n {
			if isInstance {
				body.WriteString("<item><instancesSet>" + item("instanceId", instance) + "</instancesSet></item>")
			} else {
				body.WriteString(item("volumeId", volume))
			}
		}
		w.ec2 = func(url.Values) string {
			if isInstance {
				return "<DescribeInstancesResponse><requestId>r</requestId><reservationSet>" + body.String() + "</reservationSet></DescribeInstancesResponse>"
			}
			return "<DescribeVolumesResponse><requestId>r</requestId><volumeSet>" + body.String() + "</volumeSet></DescribeVolumesResponse>"
		}
		got := 0
		var err error
		if isInstance {
			err = inventory.Instances.List(t.Context(), w.Session, func(is []inventory.Instance) error {
				for i := range is {
					got++
					_, _ = is[i].TransitionTime()
					_, _, _ = is[i].PublicIPv4s(), is[i].Name(), is[i].AutoScalingGroup()
				}
				return nil
			})
		} else {
			err = inventory.Volumes.List(t.Context(), w.Session, func(vs []inventory.Volume) error { got += len(vs); return nil })
		}
		if (err != nil) != nameless || err == nil && got != n {
			rt.Errorf("got %d of %d and %v, nameless %v", got, n, err, nameless)
		}
	})
}

// Pages that never end are an error, and a volume an instance shows but no
// listing does is not taken for none.
func TestStrangeListings(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.ec2 = func(url.Values) string {
		return "<DescribeVolumesResponse><volumeSet/><nextToken>again</nextToken></DescribeVolumesResponse>"
	}
	err := inventory.Volumes.List(t.Context(), w.Session, func([]inventory.Volume) error { return nil })
	if aws.Classify(err) != aws.Failed || !strings.Contains(err.Error(), "the same page token twice") {
		t.Errorf("endless pages: %v", err)
	}
	w.ec2 = func(form url.Values) string {
		if form.Get("Filter.1.Name") != "attachment.instance-id" || form.Get("Filter.1.Value.1") != "i-0" {
			t.Errorf("asked for %v", form)
		}
		return "<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>"
	}
	is := instances(1)
	is[0].Devices = []inventory.Device{{VolumeID: "vol-1", Status: "attached"}}
	fill(t, w.Session, inventory.InstanceVolumes, is)
	if f := is[0].Volumes; f.Known || f.Failed || !strings.Contains(f.Why, "vol-1") {
		t.Errorf("got %+v, want unknown for vol-1", f)
	}
}

// A stopped instance keeps its Elastic IPs, wherever they sit; an address of
// Amazon's pool is its own, one of the account's pool is free.
func TestAddresses(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.ec2 = func(url.Values) string {
		return `<DescribeAddressesResponse><addressesSet>
			<item><publicIp>1.1.1.1</publicIp><allocationId>eipalloc-1</allocationId><instanceId>i-0</instanceId><networkInterfaceId>eni-1</networkInterfaceId><publicIpv4Pool>amazon</publicIpv4Pool></item>
			<item><publicIp>3.3.3.3</publicIp><instanceId>i-0</instanceId><publicIpv4Pool>ipv4pool-ec2-012</publicIpv4Pool></item>
			<item><publicIp>9.9.9.9</publicIp></item><item/></addressesSet></DescribeAddressesResponse>`
	}
	is := instances(2)
	is[0].Interfaces = []inventory.Interface{{ID: "eni-1", PublicIPv4: []inventory.PublicIPv4{{IP: "1.1.1.1", Elastic: true}, {IP: "2.2.2.2"}}}}
	fill(t, w.Session, inventory.InstanceAddresses, is)
	want := []inventory.Address{
		{IP: "1.1.1.1", AllocationID: "eipalloc-1", InterfaceID: "eni-1"}, {IP: "3.3.3.3", Own: true}, {IP: "2.2.2.2", InterfaceID: "eni-1"},
	}
	if f := is[0].Addresses; !f.Known || !slices.Equal(f.Value, want) {
		t.Errorf("got %+v, want %+v", f, want)
	}
	if f := is[1].Addresses; !f.Known || len(f.Value) != 0 {
		t.Errorf("got %+v, want none", f)
	}
}

// page is a page of n instances as AWS writes them, all told about 5 kB each.
func page(n int, token string) string {
	var b strings.Builder
	b.WriteString(`<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId><reservationSet>`)
	for i := range n {
		fmt.Fprintf(&b, `<item><reservationId>r-%[1]d</reservationId><ownerId>111122223333</ownerId><groupSet/><instancesSet><item><instanceId>i-%[1]d</instanceId>`+
			`<imageId>ami-0</imageId><instanceState><code>80</code><name>stopped</name></instanceState><reason>User initiated (2026-01-02 03:04:05 GMT)</reason>`+
			`<instanceType>m5.large</instanceType><launchTime>2026-01-01T00:00:00.000Z</launchTime><placement><availabilityZone>us-east-1a</availabilityZone>`+
			`<tenancy>default</tenancy></placement><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs>`+
			`<volumeId>vol-%[1]d</volumeId><status>attached</status><attachTime>2026-01-01T00:00:00.000Z</attachTime></ebs></item></blockDeviceMapping>`, i)
		b.WriteString(`<networkInterfaceSet><item><networkInterfaceId>eni-0</networkInterfaceId><subnetId>subnet-0</subnetId><vpcId>vpc-0</vpcId><groupSet><item><groupId>sg-0</groupId>` +
			`<groupName>default</groupName></item></groupSet><privateIpAddressesSet><item><privateIpAddress>10.0.0.1</privateIpAddress><primary>true</primary></item>` +
			`</privateIpAddressesSet></item></networkInterfaceSet><tagSet>`)
		for k := range 20 {
			fmt.Fprintf(&b, "<item><key>company:cost:key-%d</key><value>%s</value></item>", k, strings.Repeat("value", 12))
		}
		b.WriteString(`</tagSet></item></instancesSet></item>`)
	}
	b.WriteString("</reservationSet>")
	if token != "" {
		b.WriteString("<nextToken>" + token + "</nextToken>")
	}
	b.WriteString("</DescribeInstancesResponse>")
	return b.String()
}

// Listing keeps a page, not the account: the live heap after 10 pages is that
// after a few.
func TestListingMemoryIsBounded(t *testing.T) {
	const pages = 10
	w := newWire(t)
	n := 0
	bodies := map[bool]string{true: page(1000, "TOKEN"), false: page(1000, "")}
	w.ec2 = func(url.Values) string {
		n++
		return strings.Replace(bodies[n < pages], "TOKEN", "token-"+strconv.Itoa(n), 1)
	}
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	seen, most, start := 0, uint64(0), live()
	err := inventory.Instances.List(t.Context(), w.Session, func(is []inventory.Instance) error {
		seen += len(is)
		if seen%5000 == 0 {
			most = max(most, live())
		}
		return nil
	})
	if err != nil || seen != pages*1000 {
		t.Fatalf("listed %d, %v", seen, err)
	}
	if grown := int64(most) - int64(start); grown > 24<<20 {
		t.Errorf("listing %d instances holds %d MiB more than before", seen, grown>>20)
	}
}

// A page of 1,000 instances, from the wire to our type.
func BenchmarkInstancesPage(b *testing.B) {
	w := newWire(b)
	body := page(1000, "")
	w.ec2 = func(url.Values) string { return body }
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := inventory.Instances.List(b.Context(), w.Session, func(is []inventory.Instance) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func TestTagsAreKeptAsTheyCome(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.ec2 = func(url.Values) string {
		return `<DescribeVolumesResponse><volumeSet><item><volumeId>vol-1</volumeId><tagSet><item><key>Name</key><value>&lt;script&gt;</value></item>` +
			`<item><key>owner</key><value/></item><item><key>Owner</key></item></tagSet></item></volumeSet></DescribeVolumesResponse>`
	}
	vs, _ := list(t, w.Session, inventory.Volumes)
	if want := (map[string]string{"Name": "<script>", "owner": "", "Owner": ""}); !maps.Equal(vs[0].Tags, want) || vs[0].Name() != "<script>" {
		t.Errorf("got %v, want %v", vs[0].Tags, want)
	}
}
