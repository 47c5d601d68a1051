package aws

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	sdkarn "github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/schemas"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/transport/http/protocol/awsquery"
)

// Target is an account to look at, and how to get in.
type Target struct {
	// Account is the 12-digit account number. Empty means the role's, or the
	// caller's own.
	Account string
	// Partition is empty for the role's, or the caller's own.
	Partition string
	// RoleARN is the role to assume. Empty means the ambient credentials.
	RoleARN string
	// ExternalID is the role's external id; empty for none.
	ExternalID string
	// SessionName shows in the account's CloudTrail: the run's id. What AWS
	// does not allow in it is replaced. Empty means nightshift.
	SessionName string
}

// Session is one account and region: where calls are made. It is safe for
// concurrent use.
type Session struct {
	// Account is the 12-digit account number.
	Account string
	// Region such as eu-central-1, and its partition such as aws.
	Region, Partition string
	// Meter counts this session's calls.
	Meter *Meter

	cfg        sdk.Config
	ec2        func() *ec2.Client
	cloudWatch func() *cloudwatch.Client
	backoff    func(attempt int) time.Duration
	kept       sync.Map // by type: see Kept
}

// EC2 returns the session's EC2 client.
func (s *Session) EC2() *ec2.Client { return s.ec2() }

// CloudWatch returns the session's CloudWatch client.
func (s *Session) CloudWatch() *cloudwatch.Client { return s.cloudWatch() }

// ARN returns the full name of a resource of the session's account and
// region, such as service ec2 and resource volume/vol-0abc.
func (s *Session) ARN(service, resource string) string {
	return "arn:" + s.Partition + ":" + service + ":" + s.Region + ":" + s.Account + ":" + resource
}

// Pause waits before retry number attempt, counted from 1, of something the
// SDK cannot know it should retry. The error is the context's.
func (s *Session) Pause(ctx context.Context, attempt int) error {
	var d time.Duration
	if s.backoff != nil {
		d = s.backoff(attempt)
	} else {
		d = rand.N(min(500*time.Millisecond<<min(attempt-1, 5), 20*time.Second))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Session opens an account and region with a meter of its own. The account's
// role is assumed now, so that a denial is known before anything is listed;
// sessions of the same target share its credentials, which are held in memory
// only and renewed when 80 % of their life is over. The error is an *Error.
func (c *Cloud) Session(ctx context.Context, t Target, region string) (*Session, error) {
	s := &Session{Account: t.Account, Region: region, Partition: t.Partition, Meter: &Meter{}, backoff: c.backoff}
	creds := c.cfg.Credentials
	if t.RoleARN != "" {
		role, err := sdkarn.Parse(t.RoleARN)
		if err != nil || role.Service != "iam" || role.AccountID == "" || !strings.HasPrefix(role.Resource, "role/") {
			return nil, &Error{Class: Credentials, msg: fmt.Sprintf("role %q is not like arn:aws:iam::123456789012:role/name", t.RoleARN)}
		}
		if t.Account != "" && t.Account != role.AccountID {
			return nil, &Error{Class: Credentials, msg: fmt.Sprintf("role %s is not of account %s", t.RoleARN, t.Account)}
		}
		s.Account = role.AccountID
		if s.Partition == "" {
			s.Partition = role.Partition
		}
		creds = c.assume(t)
		if _, err := creds.Retrieve(ctx); err != nil {
			return nil, Explain(err)
		}
	} else {
		caller, err := c.Caller(ctx)
		if err != nil {
			return nil, err
		}
		if t.Account != "" && t.Account != caller.Account {
			return nil, &Error{Class: Credentials, msg: fmt.Sprintf(
				"the credentials at hand are of account %s, not %s: give the account a role", caller.Account, t.Account)}
		}
		s.Account = caller.Account
		if s.Partition == "" {
			s.Partition = caller.Partition
		}
	}
	cfg := c.config(region, s.Account, creds, s.Meter)
	s.cfg = cfg
	s.ec2 = sync.OnceValue(func() *ec2.Client { return ec2.NewFromConfig(cfg) })
	s.cloudWatch = sync.OnceValue(func() *cloudwatch.Client {
		return cloudwatch.NewFromConfig(cfg, func(o *cloudwatch.Options) {
			if !c.cbor {
				o.Protocol = awsquery.New(schemas.GraniteServiceVersion20100801)
			}
		})
	})
	return s, nil
}

// regions asks for the account's regions.
func (s *Session) regions(ctx context.Context) ([]string, error) {
	out, err := s.EC2().DescribeRegions(ctx, &ec2.DescribeRegionsInput{})
	if err != nil {
		return nil, Explain(err)
	}
	var names []string
	for _, r := range out.Regions {
		name := sdk.ToString(r.RegionName)
		// Older emulators leave the status out; AWS lists only enabled regions
		// unless asked for all.
		if name != "" && sdk.ToString(r.OptInStatus) != "not-opted-in" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// assumed is a target's credentials.
type assumed struct {
	*sdk.CredentialsCache
	used time.Time
}

// How long a target's credentials are kept without use. A run that comes back
// later assumes the role anew.
const assumedIdle = time.Hour

// assume returns the target's credentials, without asking for them yet.
func (c *Cloud) assume(t Target) sdk.CredentialsProvider {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.assumed[t]
	if a == nil {
		for k, v := range c.assumed {
			if now.Sub(v.used) > assumedIdle {
				delete(c.assumed, k)
			}
		}
		api := sts.NewFromConfig(c.config(c.cfg.Region, "", c.cfg.Credentials, c.home))
		a = &assumed{CredentialsCache: sdk.NewCredentialsCache(&role{
			provider: stscreds.NewAssumeRoleProvider(api, t.RoleARN, func(o *stscreds.AssumeRoleOptions) {
				// The longest a role assumed from a role may last, and the
				// shortest that a role can be limited to.
				o.Duration = time.Hour
				o.RoleSessionName = sessionName(t.SessionName)
				if t.ExternalID != "" {
					o.ExternalID = &t.ExternalID
				}
			}),
		})}
		c.assumed[t] = a
	}
	a.used = now
	return a.CredentialsCache
}

// role assumes a role and calls its credentials old at 80 % of their life,
// whatever life the server gave them.
type role struct {
	provider sdk.CredentialsProvider

	mu      sync.Mutex
	expires time.Time
}

// Retrieve assumes the role.
func (r *role) Retrieve(ctx context.Context) (sdk.Credentials, error) {
	creds, err := r.provider.Retrieve(ctx)
	if err != nil || !creds.CanExpire {
		return creds, err
	}
	now := time.Now()
	r.mu.Lock()
	r.expires = creds.Expires
	r.mu.Unlock()
	creds.Expires = now.Add(creds.Expires.Sub(now) * 4 / 5)
	return creds, nil
}

// HandleFailToRefresh goes on with the present credentials for as long as they
// really live: a hiccup of STS is no reason to fail a scan.
func (r *role) HandleFailToRefresh(_ context.Context, old sdk.Credentials, err error) (sdk.Credentials, error) {
	r.mu.Lock()
	left := time.Until(r.expires)
	r.mu.Unlock()
	if !old.HasKeys() || left < time.Minute || Classify(err) == Denied {
		return sdk.Credentials{}, err
	}
	old.Expires = time.Now().Add(min(left-30*time.Second, time.Minute))
	return old, nil
}

// sessionName makes a text fit for AWS: 2 to 64 of letters, digits and
// _+=,.@- characters.
func sessionName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 128 && (r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || strings.ContainsRune("_+=,.@-", r)) {
			return r
		}
		return '-'
	}, s)
	if len(s) > 64 {
		// The end tells runs of one job apart.
		s = s[len(s)-64:]
	}
	if len(s) < 2 {
		return "nightshift"
	}
	return s
}
