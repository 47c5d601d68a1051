package simaws

import (
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkGenerate states what half a million resources take.
func BenchmarkGenerate(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		e := Generate(Options{Seed: 1, Accounts: 10, Regions: 4, Resources: 500_000})
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(e.Resources()), "B/resource")
		runtime.KeepAlive(e)
	}
}

// discard is a client that reads nothing: what remains is the endpoint's own time.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func BenchmarkPage(b *testing.B) {
	at := time.Date(2026, 8, 3, 4, 0, 0, 0, time.UTC)
	s := New(Generate(Options{Seed: 1, Accounts: 1, Regions: 1, Resources: 20_000, Now: at}), Config{NoQuotas: true, Clock: func() time.Time { return at }})
	var metrics strings.Builder
	metrics.WriteString("Action=GetMetricData&Version=2010-08-01&StartTime=2026-07-25T00:00:00Z&EndTime=2026-08-02T09:00:00Z")
	for i := range 500 {
		p := "&MetricDataQueries.member." + strconv.Itoa(i+1) + "."
		metrics.WriteString(p + "Id=m" + strconv.Itoa(i) + p + "MetricStat.Stat=Average" + p + "MetricStat.Period=3600" + p + "MetricStat.Metric.Namespace=AWS/EC2" +
			p + "MetricStat.Metric.MetricName=CPUUtilization" + p + "MetricStat.Metric.Dimensions.member.1.Name=InstanceId" +
			p + "MetricStat.Metric.Dimensions.member.1.Value=" + s.estate.Accounts[0].Regions[0].Instances[i].ID)
	}
	for _, tc := range []struct{ name, service, body string }{
		{"instances-1000", "ec2", "Action=DescribeInstances&MaxResults=1000"},
		{"volumes-500", "ec2", "Action=DescribeVolumes&MaxResults=500"},
		{"snapshots-1000", "ec2", "Action=DescribeSnapshots&MaxResults=1000&Owner.1=self"},
		{"metrics-500", "monitoring", metrics.String()},
	} {
		b.Run(tc.name, func(b *testing.B) {
			w := send(s, tc.service, "/", tc.body)
			if w.Code != 200 {
				b.Fatal(w.Body)
			}
			for b.Loop() {
				s.ServeHTTP(discard{http.Header{}}, signed(tc.service, "/", tc.body))
			}
			b.ReportMetric(float64(w.Body.Len()), "B/page")
		})
	}
}
