package simaws_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/organizations"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"nightshift.dev/pkg/simaws"
)

// now is the tests' clock: any full hour would do.
var now = time.Date(2026, 8, 3, 4, 0, 0, 0, time.UTC)

// world is a running endpoint with SDK clients in front of it.
type world struct {
	t      *testing.T
	estate *simaws.Estate
	server *simaws.Server
}

func start(t *testing.T, o simaws.Options, c simaws.Config) *world {
	t.Helper()
	if o.Now.IsZero() {
		o.Now = now
	}
	return serve(t, simaws.Generate(o), c)
}

func serve(t *testing.T, e *simaws.Estate, c simaws.Config) *world {
	t.Helper()
	if c.Clock == nil {
		c.Clock = func() time.Time { return e.Now }
	}
	s := simaws.New(e, c)
	ctx, cancel := context.WithCancel(context.Background())
	done, err := s.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &world{t, e, s}
}

// as gives an SDK configuration with the account's static credentials; nothing is retried.
func (w *world) as(account *simaws.Account, region string) aws.Config {
	return aws.Config{Region: region, BaseEndpoint: aws.String(w.server.URL()), HTTPClient: &http.Client{Transport: quiet{}},
		Credentials: credentials.NewStaticCredentialsProvider(account.AccessKey, simaws.FakeSecret, ""),
		Retryer:     func() aws.Retryer { return aws.NopRetryer{} }}
}

// quiet hides the request body's WriteTo: the SDK closes the body as soon as headers arrive, its WriteTo then reports EOF, and net/http drops the connection
// that is still being read.
type quiet struct{}

var transport = &http.Transport{MaxIdleConnsPerHost: 64}

func (quiet) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r = r.Clone(r.Context())
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return transport.RoundTrip(r)
}

func (w *world) management() *simaws.Account { return w.estate.Accounts[0] }

func (w *world) ec2(a *simaws.Account, region string) *ec2.Client {
	return ec2.NewFromConfig(w.as(a, region))
}

func (w *world) cloudwatch(a *simaws.Account, region string, o ...func(*cloudwatch.Options)) *cloudwatch.Client {
	return cloudwatch.NewFromConfig(w.as(a, region), o...)
}

func (w *world) sts() *sts.Client { return sts.NewFromConfig(w.as(w.management(), "us-east-1")) }

func (w *world) organizations() *organizations.Client {
	return organizations.NewFromConfig(w.as(w.management(), "us-east-1"))
}

// eachRegion calls fn with every region of every active account.
func (w *world) eachRegion(fn func(a *simaws.Account, r *simaws.Region)) {
	for _, a := range w.estate.Accounts {
		for _, r := range a.Regions {
			fn(a, r)
		}
	}
}
