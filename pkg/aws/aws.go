// Package aws is how Nightshift reaches AWS: credentials per account, clients
// per account and region, and what every call has in common — a transport
// that does not lose connections, a limiter per (account, region, action),
// retries by error class, clean errors and a meter.
//
// It exists so that a lister or a fact is only the call it makes. It takes the
// SDK's own default credential chain and invents nothing: profiles, SSO, web
// identity, container and instance roles, AWS_ENDPOINT_URL and AWS_CA_BUNDLE
// work as they do for the AWS CLI. It must not know resources, rules or the
// engine.
package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/organizations"
	organizationtypes "github.com/aws/aws-sdk-go-v2/service/organizations/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"
)

// Config is what can be set. The zero value is right for production.
type Config struct {
	// Region is the home region, used for STS and DescribeRegions. Empty means
	// what the SDK's chain says (AWS_REGION, the profile), else us-east-1.
	Region string
	// Endpoint stands in for AWS, as AWS_ENDPOINT_URL does: for emulators.
	Endpoint string
	// AccessKeyID and SecretAccessKey, both or neither, stand in for the
	// default credential chain and for all profiles: for emulators.
	AccessKeyID, SecretAccessKey string
	// CloudWatchProtocol is cbor, the default, or query, which emulators that
	// do not speak RPC v2 need.
	CloudWatchProtocol string
	// QuotaShare is how much of AWS's API quotas may be used, above 0 and up
	// to 1; the rest is left to the customer's own automation. 0 means 0.5.
	// The limiters are shared by the whole process: the first to use an
	// account's quota sets its share.
	QuotaShare float64
	// Backoff replaces the delay before retry number attempt, counted from 1.
	// Nil means exponential with full jitter, at most 20 s.
	Backoff func(attempt int) time.Duration
}

// Cloud is AWS as seen with one set of ambient credentials. It is safe for
// concurrent use.
type Cloud struct {
	cfg     sdk.Config
	cbor    bool
	share   float64
	backoff func(attempt int) time.Duration
	home    *Meter

	mu      sync.Mutex
	caller  *Caller
	assumed map[Target]*assumed
}

// New loads the configuration and credentials chain. It makes no call to AWS;
// credentials are looked for at the first one. The error says what is wrong
// with the configuration.
func New(ctx context.Context, c Config) (*Cloud, error) {
	if c.QuotaShare == 0 {
		c.QuotaShare = 0.5
	}
	if !(c.QuotaShare > 0 && c.QuotaShare <= 1) {
		return nil, fmt.Errorf("aws: quota share %v is not above 0 and at most 1", c.QuotaShare)
	}
	if !slices.Contains([]string{"", "cbor", "query"}, c.CloudWatchProtocol) {
		return nil, fmt.Errorf("aws: CloudWatch protocol %q is not cbor or query", c.CloudWatchProtocol)
	}
	if (c.AccessKeyID == "") != (c.SecretAccessKey == "") {
		return nil, errors.New("aws: an access key id and a secret access key go together")
	}
	options := []func(*config.LoadOptions) error{
		config.WithHTTPClient(newHTTPClient()),
		// What matters comes back as an error and is logged once, by the caller.
		config.WithLogger(logging.Nop{}),
	}
	if c.Region != "" {
		options = append(options, config.WithRegion(c.Region))
	}
	if c.Endpoint != "" {
		options = append(options, config.WithBaseEndpoint(c.Endpoint))
	}
	if c.AccessKeyID != "" {
		options = append(options,
			config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, "")),
			config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{}))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("aws: load configuration: %w", err)
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.AppID == "" {
		cfg.AppID = "nightshift"
	}
	// Both only now, for the SDK adds AWS_CA_BUNDLE only to a client of its own
	// and reads AWS_MAX_ATTEMPTS only without a retryer.
	cfg.HTTPClient = client{cfg.HTTPClient}
	retryer := newRetryer(c.Backoff)
	cfg.Retryer = func() sdk.Retryer { return retryer }
	return &Cloud{
		cfg:     cfg,
		cbor:    c.CloudWatchProtocol != "query",
		share:   c.QuotaShare,
		backoff: c.Backoff,
		home:    &Meter{},
		assumed: map[Target]*assumed{},
	}, nil
}

// Caller is who the ambient credentials belong to.
type Caller struct {
	// Account is the 12-digit account number.
	Account string
	// Partition is aws, aws-cn, aws-us-gov or an isolated one.
	Partition string
	// ARN of the user or the role session.
	ARN string
}

// Caller asks STS whose the ambient credentials are. A good answer is kept.
// It needs no permission.
func (c *Cloud) Caller(ctx context.Context) (Caller, error) {
	c.mu.Lock()
	known := c.caller
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	out, err := sts.NewFromConfig(c.config(c.cfg.Region, "", c.cfg.Credentials, c.home)).
		GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return Caller{}, Explain(err)
	}
	found, err := caller(out)
	if err != nil {
		return Caller{}, err
	}
	c.mu.Lock()
	c.caller = &found
	c.mu.Unlock()
	return found, nil
}

// Actions are the IAM actions this package's own methods need, beside the
// services' own: DescribeRegions in each account, ListAccounts in the
// management account, and AssumeRole on the roles given.
func Actions() []string {
	return []string{"ec2:DescribeRegions", "organizations:ListAccounts", "sts:AssumeRole"}
}

// Regions returns the names of the target's regions that can be used — opted
// in, or needing no opt-in — sorted.
func (c *Cloud) Regions(ctx context.Context, t Target) ([]string, error) {
	s, err := c.Session(ctx, t, c.cfg.Region)
	if err != nil {
		return nil, err
	}
	return s.regions(ctx)
}

// OrganizationAccount is one account of the organization.
type OrganizationAccount struct {
	// ID is the 12-digit account number.
	ID   string
	ARN  string
	Name string
	// State is PENDING_ACTIVATION, ACTIVE, SUSPENDED, PENDING_CLOSURE or
	// CLOSED.
	State string
	// Joined is zero when AWS does not tell.
	Joined time.Time
}

// OrganizationAccounts lists the accounts of the organization the ambient
// credentials belong to, in AWS's order. It works from the management account
// and from delegated administrators. The list is complete or an error.
func (c *Cloud) OrganizationAccounts(ctx context.Context) ([]OrganizationAccount, error) {
	api := organizations.NewFromConfig(c.config(c.cfg.Region, "", c.cfg.Credentials, c.home))
	var all []OrganizationAccount
	pages := organizations.NewListAccountsPaginator(api, &organizations.ListAccountsInput{})
	var turn Turn
	for pages.HasMorePages() {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, Explain(err)
		}
		for _, a := range out.Accounts {
			all = append(all, organizationAccount(a))
		}
		if err := turn.Page("organizations:ListAccounts", out.NextToken); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func organizationAccount(a organizationtypes.Account) OrganizationAccount {
	return OrganizationAccount{
		ID: sdk.ToString(a.Id), ARN: sdk.ToString(a.Arn), Name: sdk.ToString(a.Name),
		State: cmp.Or(string(a.State), string(a.Status)), Joined: sdk.ToTime(a.JoinedTimestamp),
	}
}

// Turn guards a paged listing against a token that AWS hands out twice, which
// would be an endless listing. The zero value is ready.
type Turn struct{ last string }

// Page is told each page's next token.
func (t *Turn) Page(action string, token *string) error {
	next := sdk.ToString(token)
	if next != "" && next == t.last {
		return Malformed(action, "the same page token twice")
	}
	t.last = next
	return nil
}

// config is the configuration of one service client.
func (c *Cloud) config(region, account string, creds sdk.CredentialsProvider, m *Meter) sdk.Config {
	cfg := c.cfg.Copy()
	cfg.Region = region
	cfg.Credentials = creds
	in := &instrument{
		scope: scope{endpoint: sdk.ToString(cfg.BaseEndpoint), account: account, region: region},
		share: c.share,
		meter: m,
	}
	cfg.APIOptions = append(slices.Clone(cfg.APIOptions), in.attach)
	return cfg
}
