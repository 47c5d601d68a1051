package aws_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"nightshift.dev/pkg/aws"
)

// describe opens a session on a server and asks it for volumes.
func describe(t *testing.T, endpoint string) (*aws.Session, *ec2.DescribeVolumesOutput, error) {
	t.Helper()
	s := session(t, open(t, endpoint, nil), aws.Target{})
	out, err := s.EC2().DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{})
	return s, out, err
}

// ambient answers GetCallerIdentity, and everything else by next.
func ambient(next func(call) reply) func(call) reply {
	return func(c call) reply {
		if c.action == "GetCallerIdentity" {
			return identity
		}
		return next(c)
	}
}

// What is worth another try gets it, up to 8 in all; what is a matter of
// permission or identity does not.
func TestRetriesByClass(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reply reply
		class aws.Class
		sent  int
	}{
		"throttled":            {ec2Error(503, "RequestLimitExceeded", "m"), aws.Throttled, 8},
		"throttled as a 400":   {ec2Error(400, "Throttling", "m"), aws.Throttled, 8},
		"internal error":       {ec2Error(500, "InternalError", "m"), aws.Unreachable, 8},
		"unavailable":          {ec2Error(503, "Unavailable", "m"), aws.Unreachable, 8},
		"a proxy's page":       {reply{status: 502, body: "<html>"}, aws.Unreachable, 8},
		"cut off":              {reply{body: volumes("", "vol-1").body[:150]}, aws.Failed, 8},
		"empty":                {reply{}, aws.Unreachable, 8},
		"unauthorized":         {ec2Error(403, "UnauthorizedOperation", "m"), aws.Denied, 1},
		"access denied":        {ec2Error(400, "AccessDenied", "m"), aws.Denied, 1},
		"some other 403":       {ec2Error(403, "Strange", "m"), aws.Denied, 1},
		"not opted in":         {ec2Error(401, "OptInRequired", "m"), aws.RegionDisabled, 1},
		"expired":              {ec2Error(400, "RequestExpired", "m"), aws.Credentials, 1},
		"expired token":        {ec2Error(400, "ExpiredToken", "m"), aws.Credentials, 1},
		"invalid":              {ec2Error(401, "AuthFailure", "m"), aws.Credentials, 1},
		"expired, with a 503":  {ec2Error(503, "ExpiredTokenException", "m"), aws.Credentials, 1},
		"a parameter is wrong": {ec2Error(400, "InvalidParameterValue", "m"), aws.Failed, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, ambient(func(call) reply { return test.reply }))
			s, _, err := describe(t, f.URL)
			if got := aws.Classify(err); got != test.class {
				t.Errorf("class %v of %v, want %v", got, err, test.class)
			}
			if n := f.count("DescribeVolumes"); n != test.sent {
				t.Errorf("sent %d times, want %d", n, test.sent)
			}
			if e := aws.Explain(err).Error(); !strings.Contains(e, "ec2:DescribeVolumes") || strings.Contains(e, f.URL) {
				t.Errorf("%q does not name the action, or names the address", e)
			}
			u := s.Meter.Snapshot().Actions["ec2:DescribeVolumes"]
			throttles := int64(0)
			if test.class == aws.Throttled {
				throttles = int64(test.sent)
			}
			if u.Waited = 0; u != (aws.Usage{Calls: int64(test.sent), Retries: int64(test.sent - 1), Throttles: throttles, Errors: 1}) {
				t.Errorf("metered %+v", u)
			}
		})
	}
}

func TestARetryThatSucceedsIsASuccess(t *testing.T) {
	t.Parallel()
	whole := volumes("", "vol-1", "vol-2")
	for name, first := range map[string]reply{
		"throttled": ec2Error(503, "RequestLimitExceeded", "m"),
		"cut off":   {body: whole.body[:len(whole.body)-30]},
		"empty":     {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, ambient(func(c call) reply {
				if c.n == 0 {
					return first
				}
				return whole
			}))
			s, out, err := describe(t, f.URL)
			if err != nil || len(out.Volumes) != 2 {
				t.Fatalf("got %v, %v", out, err)
			}
			if u := s.Meter.Snapshot(); u.Calls != 2 || u.Retries != 1 || u.Errors != 0 {
				t.Errorf("metered %+v", u)
			}
		})
	}
}

// A connection that ends is the end of a body where there is no length: then
// only the document itself tells that it is cut off. Whatever the place, the
// answer is all of it or an error: a list with less would prove resources
// gone, and one without its token would end too early.
func TestNoTruncationIsTakenForTheWhole(t *testing.T) {
	t.Parallel()
	whole := volumes("more", "vol-1", "vol-2").body
	var cut atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				r := &bytes.Buffer{}
				head := make([]byte, 8192)
				for !strings.Contains(r.String(), "Version=20") {
					n, err := conn.Read(head)
					if err != nil {
						return
					}
					r.Write(head[:n])
				}
				body := whole[:cut.Load()]
				if strings.Contains(r.String(), "GetCallerIdentity") {
					body = identity.body
				}
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/xml\r\n\r\n%s", body)
			})
		}
	})
	c := open(t, "http://"+l.Addr().String(), nil)
	once := func(o *ec2.Options) { o.RetryMaxAttempts = 1 }
	for n := range len(whole) {
		cut.Store(int64(n))
		// Another region every 90 calls, to stay within the quotas' bursts.
		s, err := c.Session(t.Context(), aws.Target{}, fmt.Sprintf("us-east-%d", n/90))
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.EC2().DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{}, once)
		if err == nil && (len(out.Volumes) != 2 || out.NextToken == nil) {
			t.Errorf("cut after %q: got %d volumes and no error", whole[:n][max(0, n-20):], len(out.Volumes))
		}
	}
}

func TestConnectionRefused(t *testing.T) {
	t.Parallel()
	f := serve(t, ambient(nil))
	s := session(t, open(t, f.URL, nil), aws.Target{})
	f.Close()
	_, err := s.EC2().DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{})
	if aws.Classify(err) != aws.Unreachable {
		t.Errorf("got %v, want unreachable", err)
	}
	if n := s.Meter.Snapshot().Calls; n != 8 {
		t.Errorf("tried %d times, want 8", n)
	}
}

func TestCancelledCallsAreNotRetried(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 8)
	hold := make(chan struct{})
	f := serve(t, ambient(func(call) reply {
		asked <- struct{}{}
		<-hold
		return volumes("")
	}))
	t.Cleanup(func() { close(hold) })
	s := session(t, open(t, f.URL, nil), aws.Target{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := s.EC2().DescribeVolumes(ctx, &ec2.DescribeVolumesInput{})
	if aws.Classify(err) != aws.Canceled {
		t.Errorf("got %v, want canceled", err)
	}
	if n := s.Meter.Snapshot().Calls; n != 1 {
		t.Errorf("sent %d, want 1", n)
	}
}

// A server that answers fast makes the SDK close the request's body while
// net/http still looks for its end. The connection must survive that: without
// the cure a few calls in a hundred fail and are retried.
func TestFastAnswersKeepTheirConnections(t *testing.T) {
	t.Parallel()
	big := volumes("", strings.Split(strings.Repeat("vol-0123456789abcdef0,", 3000), ",")...)
	var connections atomic.Int64
	f := &fakeAWS{calls: map[string]int{}}
	f.Server = httptest.NewUnstartedServer(f.handler(ambient(func(call) reply { return big })))
	f.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	f.Start()
	t.Cleanup(f.Close)
	s := session(t, open(t, f.URL, nil), aws.Target{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				if _, err := s.EC2().DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if u := s.Meter.Snapshot(); u.Retries != 0 || u.Calls != 100 {
		t.Errorf("metered %+v, want 100 calls and no retry", u.Usage)
	}
	if n := connections.Load(); n > 8 {
		t.Errorf("%d connections for 4 callers", n)
	}
}

// Up to five statistics of one metric are billed as one, failed calls not at
// all, and both protocols work.
func TestBilledMetrics(t *testing.T) {
	t.Parallel()
	query := func(id, instance, stat string) cwtypes.MetricDataQuery {
		ns, name, dim, period := "AWS/EC2", "CPUUtilization", "InstanceId", int32(3600)
		return cwtypes.MetricDataQuery{Id: &id, MetricStat: &cwtypes.MetricStat{Stat: &stat, Period: &period, Metric: &cwtypes.Metric{
			Namespace: &ns, MetricName: &name, Dimensions: []cwtypes.Dimension{{Name: &dim, Value: &instance}},
		}}}
	}
	for protocol, body := range map[string]string{
		"cbor":  "\xbf\xff",
		"query": `<GetMetricDataResponse><GetMetricDataResult><MetricDataResults/></GetMetricDataResult></GetMetricDataResponse>`,
	} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			f := serve(t, ambient(func(c call) reply {
				if (c.form == nil) != (protocol == "cbor") {
					t.Errorf("the request is not in the protocol %s", protocol)
				}
				return reply{body: body, header: map[string]string{"Smithy-Protocol": "rpc-v2-cbor"}}
			}))
			c := open(t, f.URL, func(c *aws.Config) { c.CloudWatchProtocol = protocol })
			s := session(t, c, aws.Target{})
			end := time.Now()
			start := end.Add(-24 * time.Hour)
			in := &cloudwatch.GetMetricDataInput{StartTime: &start, EndTime: &end}
			for _, stat := range []string{"Average", "Maximum", "Minimum", "Sum", "p50", "p99"} {
				in.MetricDataQueries = append(in.MetricDataQueries, query("a"+stat, "i-1", stat))
			}
			in.MetricDataQueries = append(in.MetricDataQueries, query("b", "i-2", "Average"))
			if _, err := s.CloudWatch().GetMetricData(t.Context(), in); err != nil {
				t.Fatal(err)
			}
			f.Close()
			_, _ = s.CloudWatch().GetMetricData(t.Context(), in)
			u := s.Meter.Snapshot()
			if u.BilledMetrics != 3 || u.Dollars() != 0.00003 {
				t.Errorf("billed %d metrics, $%v, want 3: six statistics are two", u.BilledMetrics, u.Dollars())
			}
		})
	}
}
