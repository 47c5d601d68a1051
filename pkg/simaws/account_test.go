package simaws_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/organizations"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"nightshift.dev/pkg/simaws"
)

// watch is a clock a test moves.
type watch struct {
	mu sync.Mutex
	t  time.Time
}

func (w *watch) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.t
}

func (w *watch) add(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t = w.t.Add(d)
}

func TestAssumeRole(t *testing.T) {
	t.Parallel()
	clock := &watch{t: now}
	w := start(t, simaws.Options{Seed: 1, Accounts: 3}, simaws.Config{Clock: clock.now})
	target := w.estate.Accounts[1]
	assume := func(change func(*sts.AssumeRoleInput)) (*sts.AssumeRoleOutput, error) {
		in := &sts.AssumeRoleInput{RoleArn: aws.String(target.RoleARN(simaws.ReadOnlyRole)), RoleSessionName: aws.String("run-1"), ExternalId: &target.Roles[0].ExternalID, DurationSeconds: aws.Int32(900)}
		change(in)
		return w.sts().AssumeRole(t.Context(), in)
	}
	out, err := assume(func(*sts.AssumeRoleInput) {})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := *out.AssumedRoleUser.Arn, "arn:aws:sts::"+target.ID+":assumed-role/NightshiftReadOnly/run-1"; got != want || !out.Credentials.Expiration.Equal(now.Add(15*time.Minute)) {
		t.Errorf("assumed %s until %v, want %s", got, out.Credentials.Expiration, want)
	}
	cfg := w.as(w.management(), "us-east-1")
	cfg.Credentials = credentials.NewStaticCredentialsProvider(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
	id, err := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), nil)
	if err != nil || *id.Account != target.ID || *id.Arn != *out.AssumedRoleUser.Arn || !strings.HasSuffix(*id.UserId, ":run-1") {
		t.Errorf("the role is %+v, %v", id, err)
	}
	e := ec2.NewFromConfig(cfg)
	if v, err := e.DescribeVolumes(t.Context(), nil); err != nil || len(v.Volumes) != len(target.Regions[0].Volumes) {
		t.Errorf("the role does not see its account's volumes: %v", err)
	}
	_, err = sts.NewFromConfig(cfg).AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String(target.RoleARN(simaws.AdminRole)), RoleSessionName: aws.String("chained"), DurationSeconds: aws.Int32(7200)})
	wantCode(t, err, "ValidationError")
	_, err = organizations.NewFromConfig(cfg).ListAccounts(t.Context(), &organizations.ListAccountsInput{})
	wantCode(t, err, "AccessDeniedException")

	for _, tc := range []struct {
		name, want string
		change     func(*sts.AssumeRoleInput)
	}{
		{"no external id", "AccessDenied", func(in *sts.AssumeRoleInput) { in.ExternalId = nil }},
		{"wrong external id", "AccessDenied", func(in *sts.AssumeRoleInput) { in.ExternalId = aws.String("guess") }},
		{"no such role", "AccessDenied", func(in *sts.AssumeRoleInput) { in.RoleArn = aws.String(target.RoleARN("Nobody")) }},
		{"no such account", "AccessDenied", func(in *sts.AssumeRoleInput) { in.RoleArn = aws.String("arn:aws:iam::000000000000:role/X") }},
		{"not an ARN", "ValidationError", func(in *sts.AssumeRoleInput) { in.RoleArn = aws.String("the-role-we-want-here") }},
		{"session name", "ValidationError", func(in *sts.AssumeRoleInput) { in.RoleSessionName = aws.String("run 1") }},
		{"too short", "ValidationError", func(in *sts.AssumeRoleInput) { in.DurationSeconds = aws.Int32(60) }},
	} {
		if _, err := assume(tc.change); code(err) != tc.want {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
		}
	}
	if _, err := assume(func(in *sts.AssumeRoleInput) {
		in.RoleArn, in.ExternalId = aws.String(target.RoleARN(simaws.AdminRole)), nil
	}); err != nil {
		t.Errorf("the role without external id: %v", err)
	}

	clock.add(15 * time.Minute)
	_, err = e.DescribeVolumes(t.Context(), nil)
	wantCode(t, err, "RequestExpired")
	_, err = sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), nil)
	wantCode(t, err, "ExpiredToken")
	_, err = cloudwatch.NewFromConfig(cfg).ListMetrics(t.Context(), nil)
	wantCode(t, err, "ExpiredToken")

	// A server started anew with the same estate still knows the credentials it gave out.
	again := serve(t, simaws.Generate(simaws.Options{Seed: 1, Accounts: 3, Now: now}), simaws.Config{})
	cfg.BaseEndpoint = aws.String(again.server.URL())
	if _, err := ec2.NewFromConfig(cfg).DescribeVolumes(t.Context(), nil); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// The SDK's own provider of assumed roles works as it is.
func TestAssumeRoleProvider(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1}, simaws.Config{Clock: time.Now})
	for _, a := range w.estate.Accounts {
		cfg := w.as(w.management(), "us-east-1")
		cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(w.sts(), a.RoleARN(simaws.ReadOnlyRole), func(o *stscreds.AssumeRoleOptions) { o.ExternalID = &a.Roles[0].ExternalID }))
		if id, err := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), nil); err != nil || *id.Account != a.ID {
			t.Errorf("role of %s: %v", a.ID, err)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1, Accounts: 12}, simaws.Config{})
	for _, a := range w.estate.Accounts[:12] {
		if id, err := sts.NewFromConfig(w.as(a, "us-east-1")).GetCallerIdentity(t.Context(), nil); err != nil || *id.Account != a.ID {
			t.Errorf("static key of %s: %v", a.ID, err)
		}
	}
	calls := map[string]func(aws.Config) error{
		"ec2": func(c aws.Config) error { _, err := ec2.NewFromConfig(c).DescribeRegions(t.Context(), nil); return err },
		"sts": func(c aws.Config) error {
			_, err := sts.NewFromConfig(c).GetCallerIdentity(t.Context(), nil)
			return err
		},
		"cbor": func(c aws.Config) error {
			_, err := cloudwatch.NewFromConfig(c).ListMetrics(t.Context(), nil)
			return err
		},
		"query": func(c aws.Config) error {
			_, err := cloudwatch.NewFromConfig(c, queryProtocol).ListMetrics(t.Context(), nil)
			return err
		},
		"organizations": func(c aws.Config) error {
			_, err := organizations.NewFromConfig(c).ListAccounts(t.Context(), &organizations.ListAccountsInput{})
			return err
		},
	}
	bad := map[string]struct {
		provider aws.CredentialsProvider
		want     map[string]string
	}{
		"unknown key":       {credentials.NewStaticCredentialsProvider("AKIANOBODYKNOWSTHIS0", "x", ""), map[string]string{"ec2": "AuthFailure", "organizations": "UnrecognizedClientException", "": "InvalidClientTokenId"}},
		"forged session":    {credentials.NewStaticCredentialsProvider("ASIANOBODYKNOWSTHIS0", "x", "forged"), map[string]string{"ec2": "AuthFailure", "organizations": "UnrecognizedClientException", "": "InvalidClientTokenId"}},
		"suspended account": {credentials.NewStaticCredentialsProvider(w.estate.Accounts[12].AccessKey, "x", ""), map[string]string{"ec2": "AuthFailure", "organizations": "UnrecognizedClientException", "": "InvalidClientTokenId"}},
		"unsigned":          {aws.AnonymousCredentials{}, map[string]string{"": "MissingAuthenticationToken"}},
	}
	for name, b := range bad {
		for service, call := range calls {
			cfg := w.as(w.management(), "us-east-1")
			cfg.Credentials = b.provider
			want, ok := b.want[service]
			if !ok {
				want = b.want[""]
			}
			if err := call(cfg); code(err) != want {
				t.Errorf("%s, %s: %v, want %s", name, service, err, want)
			}
		}
	}
	_, err := w.sts().AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String(w.estate.Accounts[12].RoleARN(simaws.AdminRole)), RoleSessionName: aws.String("run")})
	wantCode(t, err, "AccessDenied")
}

func TestOrganization(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1, Accounts: 45, Regions: 1, Resources: 100}, simaws.Config{})
	c := w.organizations()
	var ids []string
	pages := 0
	for p := organizations.NewListAccountsPaginator(c, &organizations.ListAccountsInput{}); p.HasMorePages(); pages++ {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Accounts {
			ids = append(ids, *a.Id)
			want := w.estate.Account(*a.Id)
			if want == nil || *a.Name != want.Name || !a.JoinedTimestamp.Equal(want.Joined) || (string(a.State) == "ACTIVE") != (want.State == "") {
				t.Errorf("account %+v, want %+v", a, want)
			}
		}
	}
	if len(ids) != 46 || pages != 3 {
		t.Errorf("%d accounts in %d pages, want 46 in 3", len(ids), pages)
	}
	o, err := c.DescribeOrganization(t.Context(), nil)
	if err != nil || *o.Organization.MasterAccountId != w.management().ID || *o.Organization.Id != w.estate.Organization {
		t.Errorf("organization %+v: %v", o, err)
	}
	a, err := c.DescribeAccount(t.Context(), &organizations.DescribeAccountInput{AccountId: &ids[1]})
	if err != nil || *a.Account.Id != ids[1] {
		t.Errorf("account: %v", err)
	}
	_, err = c.DescribeAccount(t.Context(), &organizations.DescribeAccountInput{AccountId: aws.String("000000000000")})
	wantCode(t, err, "AccountNotFoundException")
	_, err = c.ListAccounts(t.Context(), &organizations.ListAccountsInput{NextToken: aws.String("zzz")})
	wantCode(t, err, "InvalidInputException")
	_, err = organizations.NewFromConfig(w.as(w.estate.Accounts[1], "us-east-1")).ListAccounts(t.Context(), &organizations.ListAccountsInput{})
	wantCode(t, err, "AccessDeniedException")
}

// The buckets hold as much and fill as fast as AWS says, per account, region and action.
func TestQuotas(t *testing.T) {
	t.Parallel()
	clock := &watch{t: now}
	w := start(t, simaws.Options{Seed: 1}, simaws.Config{Clock: clock.now})
	c := w.ec2(w.management(), "us-east-1")
	burst := func(call func() error, want string) (n int) {
		for ; ; n++ {
			if err := call(); err != nil {
				wantCode(t, err, want)
				return n
			}
			if n > 700 {
				return n
			}
		}
	}
	paged := func() error {
		_, err := c.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(5)})
		return err
	}
	unpaged := func() error { _, err := c.DescribeVolumes(t.Context(), nil); return err }
	addresses := func() error { _, err := c.DescribeAddresses(t.Context(), nil); return err }
	elsewhere := func() error {
		_, err := w.ec2(w.management(), "us-west-2").DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(5)})
		return err
	}
	cw := w.cloudwatch(w.management(), "us-east-1")
	metrics := func() error {
		_, err := cw.GetMetricData(t.Context(), &cloudwatch.GetMetricDataInput{StartTime: aws.Time(now.Add(-time.Hour)), EndTime: &now,
			MetricDataQueries: []cwtypes.MetricDataQuery{query("a", "AWS/EC2", "CPUUtilization", "Sum", 3600, "InstanceId", "i-x")}})
		return err
	}
	list := func() error { _, err := cw.ListMetrics(t.Context(), nil); return err }
	for _, tc := range []struct {
		name, code      string
		call            func() error
		first, inSecond int
	}{
		{"paged", "RequestLimitExceeded", paged, 100, 20},
		{"unpaged", "RequestLimitExceeded", unpaged, 50, 10},
		{"another action", "RequestLimitExceeded", addresses, 100, 20},
		{"another region", "RequestLimitExceeded", elsewhere, 100, 20},
		{"GetMetricData", "Throttling", metrics, 50, 50},
		{"ListMetrics", "Throttling", list, 25, 25},
	} {
		if n := burst(tc.call, tc.code); n != tc.first {
			t.Errorf("%s: %d calls at once, want %d", tc.name, n, tc.first)
		}
		clock.add(time.Second)
		if n := burst(tc.call, tc.code); n != tc.inSecond {
			t.Errorf("%s: %d calls after a second, want %d", tc.name, n, tc.inSecond)
		}
	}
	if err := paged(); err != nil { // a few seconds later
		t.Error(err)
	}
	clock.add(time.Hour)
	if n := burst(paged, "RequestLimitExceeded"); n != 100 {
		t.Errorf("after an hour: %d calls, want 100: the bucket is no larger", n)
	}
	if status(func() error { return paged() }()) != 503 {
		t.Error("a throttle of EC2 is not a 503")
	}
	throttles := int64(0)
	for _, s := range w.server.Stats() {
		throttles += s.Throttles
	}
	if throttles != 14 {
		t.Errorf("%d throttles counted, want 14", throttles)
	}
}
