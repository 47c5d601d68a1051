package aws_test

import (
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"nightshift.dev/pkg/aws"
)

const roleARN = "arn:aws-us-gov:iam::444455556666:role/nightshift"

// assumeRole answers with keys that say how often it was asked.
func assumeRole(c call, life time.Duration) reply {
	return reply{body: fmt.Sprintf(`<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE%08d</AccessKeyId>`+
		`<SecretAccessKey>role-secret</SecretAccessKey><SessionToken>token</SessionToken><Expiration>%s</Expiration></Credentials>`+
		`</AssumeRoleResult></AssumeRoleResponse>`, c.n, time.Now().Add(life).UTC().Format(time.RFC3339Nano))}
}

func TestSessionAssumesTheRoleOnce(t *testing.T) {
	t.Parallel()
	f := serve(t, func(c call) reply {
		if c.action == "AssumeRole" {
			return assumeRole(c, time.Hour)
		}
		return volumes("")
	})
	c := open(t, f.URL, nil)
	target := aws.Target{Account: "444455556666", RoleARN: roleARN, ExternalID: "ext-1", SessionName: "jobs/waste/2026-01-02T03:04:05Z"}
	for range 3 {
		s := session(t, c, target)
		if s.Account != "444455556666" || s.Partition != "aws-us-gov" || s.Region != "eu-central-1" {
			t.Errorf("session is of %s %s %s", s.Account, s.Partition, s.Region)
		}
		if arn := s.ARN("ec2", "volume/vol-1"); arn != "arn:aws-us-gov:ec2:eu-central-1:444455556666:volume/vol-1" {
			t.Errorf("ARN %s", arn)
		}
		if _, err := s.EC2().DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{}); err != nil {
			t.Fatal(err)
		}
	}
	asked := f.of("AssumeRole")
	if len(asked) != 1 {
		t.Fatalf("assumed %d times, want once", len(asked))
	}
	for field, want := range map[string]string{
		"RoleArn": roleARN, "ExternalId": "ext-1", "RoleSessionName": "jobs-waste-2026-01-02T03-04-05Z", "DurationSeconds": "3600",
	} {
		if got := asked[0].form.Get(field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	for _, c := range f.of("DescribeVolumes") {
		if c.key != "ASIAROLE00000000" {
			t.Errorf("signed with %s, want the role's key", c.key)
		}
	}
}

func TestSessionRefuses(t *testing.T) {
	t.Parallel()
	f := serve(t, func(c call) reply {
		if c.action == "AssumeRole" {
			return stsError(403, "AccessDenied", "User: arn:aws:iam::111122223333:user/night is not authorized to perform: sts:AssumeRole on resource: "+roleARN)
		}
		return identity
	})
	c := open(t, f.URL, nil)
	for name, test := range map[string]struct {
		target aws.Target
		class  aws.Class
		says   string
	}{
		"role denied":            {aws.Target{RoleARN: roleARN}, aws.Denied, "sts:AssumeRole is denied"},
		"not a role":             {aws.Target{RoleARN: "nightshift"}, aws.Credentials, "is not like arn:"},
		"another account's role": {aws.Target{RoleARN: roleARN, Account: account}, aws.Credentials, "is not of account " + account},
		"another account":        {aws.Target{Account: "444455556666"}, aws.Credentials, "are of account 111122223333, not 444455556666"},
	} {
		_, err := c.Session(t.Context(), test.target, "us-east-1")
		if aws.Classify(err) != test.class || !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("%s: got %v (%v), want %v and %q", name, err, aws.Classify(err), test.class, test.says)
		}
	}
	if n := f.count("AssumeRole"); n != 1 {
		t.Errorf("a denial was tried %d times, want once", n)
	}
}

func TestSessionNameIsWhatAWSAllows(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	names := map[string]bool{}
	f := serve(t, func(c call) reply {
		mu.Lock()
		names[c.form.Get("RoleSessionName")] = true
		mu.Unlock()
		return assumeRole(c, time.Hour)
	})
	c := open(t, f.URL, nil)
	long := strings.Repeat("x", 60) + "/2026"
	for _, n := range []string{"", "a", "a b", "ü/ö", long} {
		session(t, c, aws.Target{RoleARN: roleARN, SessionName: n})
	}
	want := map[string]bool{"nightshift": true, "a-b": true, "---": true, long[1:60] + "-2026": true}
	if !reflect.DeepEqual(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestRegionsAreTheEnabledOnes(t *testing.T) {
	t.Parallel()
	f := serve(t, func(c call) reply {
		if c.action == "GetCallerIdentity" {
			return identity
		}
		return reply{body: `<DescribeRegionsResponse><regionInfo>` +
			`<item><regionName>us-east-1</regionName><optInStatus>opt-in-not-required</optInStatus></item>` +
			`<item><regionName>me-south-1</regionName><optInStatus>not-opted-in</optInStatus></item><item/>` +
			`<item><regionName>af-south-1</regionName><optInStatus>opted-in</optInStatus></item>` +
			`</regionInfo></DescribeRegionsResponse>`}
	})
	got, err := open(t, f.URL, nil).Regions(t.Context(), aws.Target{})
	if want := []string{"af-south-1", "us-east-1"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestOrganizationAccounts(t *testing.T) {
	t.Parallel()
	answer := func(pages ...string) func(call) reply {
		return func(c call) reply {
			return reply{body: pages[c.n], header: map[string]string{"Content-Type": "application/x-amz-json-1.1"}}
		}
	}
	t.Run("all pages and both names of the state", func(t *testing.T) {
		t.Parallel()
		f := serve(t, answer(
			`{"Accounts":[{"Id":"111111111111","Name":"a","State":"ACTIVE","Status":"SUSPENDED","JoinedTimestamp":1700000000}],"NextToken":"t"}`,
			`{"Accounts":[{"Id":"222222222222","Status":"SUSPENDED"}]}`))
		got, err := open(t, f.URL, nil).OrganizationAccounts(t.Context())
		want := []aws.OrganizationAccount{
			{ID: "111111111111", Name: "a", State: "ACTIVE", Joined: time.Unix(1700000000, 0).UTC()},
			{ID: "222222222222", State: "SUSPENDED"},
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	})
	t.Run("a token twice is no endless listing", func(t *testing.T) {
		t.Parallel()
		f := serve(t, answer(`{"Accounts":[],"NextToken":"t"}`, `{"Accounts":[],"NextToken":"t"}`))
		got, err := open(t, f.URL, nil).OrganizationAccounts(t.Context())
		if aws.Classify(err) != aws.Failed || got != nil {
			t.Errorf("got %v, %v, want an error", got, err)
		}
	})
}

// AWS_CA_BUNDLE can only be set for the whole process: not parallel.
func TestCABundle(t *testing.T) {
	f := &fakeAWS{calls: map[string]int{}}
	f.Server = httptest.NewTLSServer(f.handler(func(call) reply { return identity }))
	t.Cleanup(f.Close)
	if _, err := open(t, f.URL, nil).Caller(t.Context()); aws.Classify(err) != aws.Unreachable {
		t.Fatalf("without the bundle: got %v, want unreachable", err)
	}
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", bundle)
	if _, err := open(t, f.URL, nil).Caller(t.Context()); err != nil {
		t.Errorf("with the bundle: %v", err)
	}
}

// The SDK's own environment works: not parallel.
func TestEnvironment(t *testing.T) {
	f := serve(t, func(c call) reply {
		if c.n < 2 {
			return stsError(500, "InternalFailure", "m")
		}
		return identity
	})
	t.Setenv("AWS_MAX_ATTEMPTS", "2")
	t.Setenv("AWS_ENDPOINT_URL", f.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAENVENVENVENV0000")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	c, err := aws.New(t.Context(), aws.Config{Backoff: func(int) time.Duration { return 0 }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Caller(t.Context()); aws.Classify(err) != aws.Unreachable {
		t.Errorf("got %v, want two attempts to fail", err)
	}
	if _, err := c.Caller(t.Context()); err != nil {
		t.Error(err)
	}
	if got := f.of("GetCallerIdentity"); len(got) != 3 || got[2].key != "AKIAENVENVENVENV0000" {
		t.Errorf("got %v, want three calls with the environment's key", got)
	}
}
