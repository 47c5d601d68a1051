package aws_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"nightshift.dev/pkg/aws"
)

// call is one request to the fake AWS.
type call struct {
	action string // such as DescribeVolumes
	form   url.Values
	key    string // the access key id it was signed with
	n      int    // how many of this action came before
}

// reply is its answer.
type reply struct {
	status int // 0 means 200
	body   string
	header map[string]string
}

// fakeAWS answers whatever the SDK sends by a function.
type fakeAWS struct {
	*httptest.Server
	mu    sync.Mutex
	calls map[string]int
	log   []call
}

func serve(t *testing.T, answer func(call) reply) *fakeAWS {
	t.Helper()
	f := &fakeAWS{calls: map[string]int{}}
	f.Server = httptest.NewServer(f.handler(answer))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAWS) handler(answer func(call) reply) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		c := call{}
		switch {
		case strings.Contains(r.URL.Path, "/operation/"): // RPC v2
			c.action = r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		case r.Header.Get("X-Amz-Target") != "": // JSON
			_, c.action, _ = strings.Cut(r.Header.Get("X-Amz-Target"), ".")
			var in map[string]any
			_ = json.Unmarshal(body, &in)
			c.form = url.Values{}
			for k, v := range in {
				c.form.Set(k, fmt.Sprint(v))
			}
		default:
			c.form, _ = url.ParseQuery(string(body))
			c.action = c.form.Get("Action")
		}
		if _, rest, ok := strings.Cut(r.Header.Get("Authorization"), "Credential="); ok {
			c.key, _, _ = strings.Cut(rest, "/")
		}
		f.mu.Lock()
		c.n = f.calls[c.action]
		f.calls[c.action]++
		f.log = append(f.log, c)
		f.mu.Unlock()
		a := answer(c)
		for k, v := range a.header {
			w.Header().Set(k, v)
		}
		if a.status != 0 {
			w.WriteHeader(a.status)
		}
		_, _ = io.WriteString(w, a.body)
	})
}

func (f *fakeAWS) count(action string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[action]
}

func (f *fakeAWS) of(action string) (cs []call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.log {
		if c.action == action {
			cs = append(cs, c)
		}
	}
	return cs
}

const account = "111122223333"

var identity = reply{body: `<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/night</Arn><UserId>U</UserId><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`}

func ec2Error(status int, code, message string) reply {
	return reply{status: status, body: `<Response><Errors><Error><Code>` + code + `</Code><Message>` + message + `</Message></Error></Errors><RequestID>r</RequestID></Response>`}
}

func stsError(status int, code, message string) reply {
	return reply{status: status, body: `<ErrorResponse><Error><Type>Sender</Type><Code>` + code + `</Code><Message>` + message + `</Message></Error><RequestId>r</RequestId></ErrorResponse>`}
}

func volumes(token string, ids ...string) reply {
	var b strings.Builder
	b.WriteString(`<DescribeVolumesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId><volumeSet>`)
	for _, id := range ids {
		b.WriteString("<item><volumeId>" + id + "</volumeId><size>8</size></item>")
	}
	b.WriteString("</volumeSet>")
	if token != "" {
		b.WriteString("<nextToken>" + token + "</nextToken>")
	}
	b.WriteString("</DescribeVolumesResponse>")
	return reply{body: b.String()}
}

// open returns a cloud on the server, without any delay between attempts.
func open(t *testing.T, endpoint string, change func(*aws.Config)) *aws.Cloud {
	t.Helper()
	c := aws.Config{
		Region: "us-east-1", Endpoint: endpoint, AccessKeyID: "AKIAHOMEHOMEHOME0000", SecretAccessKey: "very-secret", QuotaShare: 1,
		Backoff: func(int) time.Duration { return 0 },
	}
	if change != nil {
		change(&c)
	}
	cloud, err := aws.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return cloud
}

func session(t *testing.T, c *aws.Cloud, target aws.Target) *aws.Session {
	t.Helper()
	s, err := c.Session(t.Context(), target, "eu-central-1")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCaller(t *testing.T) {
	t.Parallel()
	f := serve(t, func(call) reply { return identity })
	c := open(t, f.URL, nil)
	for range 2 {
		got, err := c.Caller(t.Context())
		want := aws.Caller{Account: account, Partition: "aws", ARN: "arn:aws:iam::111122223333:user/night"}
		if err != nil || got != want {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	if n := f.count("GetCallerIdentity"); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestConfigRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]aws.Config{
		"share":    {QuotaShare: 1.5},
		"negative": {QuotaShare: -1},
		"protocol": {CloudWatchProtocol: "json"},
		"half key": {AccessKeyID: "AKIA"},
	} {
		if _, err := aws.New(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
