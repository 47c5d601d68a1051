package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	reportv1 "nightshift.dev/gen/nightshift/report/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/job"
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
)

// Config is what every scanning service reads from its environment.
type Config struct {
	Scopes    int    `env:"NIGHTSHIFT_SCAN_SCOPES" envDefault:"4" help:"How many accounts and regions one process scans at once."`
	PriceFile string `env:"NIGHTSHIFT_PRICE_FILE" help:"Price file whose regions replace those of the built-in price list. Default: none."`
	CloudConfig
}

// CloudConfig is what every service that reads AWS has in its environment.
type CloudConfig struct {
	QuotaShare         float64 `env:"NIGHTSHIFT_AWS_QUOTA_SHARE" envDefault:"0.5" help:"Share of AWS's API quotas that scans may use, above 0 and up to 1."`
	CloudWatchProtocol string  `env:"NIGHTSHIFT_CLOUDWATCH_PROTOCOL" envDefault:"cbor" help:"cbor, or query for emulators of AWS that need it."`
	Endpoint           string  `env:"NIGHTSHIFT_AWS_ENDPOINT" help:"URL of an emulator that stands in for AWS. Default: AWS, or what AWS_ENDPOINT_URL says."`
	AccessKeyID        string  `env:"NIGHTSHIFT_AWS_ACCESS_KEY_ID" help:"Access key id for an emulator. Default: the AWS SDK's own credential chain."`
	SecretAccessKey    string  `env:"NIGHTSHIFT_AWS_SECRET_ACCESS_KEY" help:"Secret access key for an emulator. Default: the AWS SDK's own credential chain."`
}

// Cloud opens AWS as configured.
func (c CloudConfig) Cloud(ctx context.Context) (*aws.Cloud, error) {
	return aws.New(ctx, aws.Config{
		Endpoint: c.Endpoint, AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey,
		CloudWatchProtocol: c.CloudWatchProtocol, QuotaShare: c.QuotaShare,
	})
}

// Worker is a scanning service: it plans the runs of its jobs, scans their
// scopes, and serves RuleService, ReportService and ScanService. Any number of replicas share
// the work through the bus.
type Worker struct {
	rulev1.UnimplementedRuleServiceServer
	reportv1.UnimplementedReportServiceServer
	scanv1.UnimplementedScanServiceServer

	set      *Set
	settings *Settings
	cloud    *aws.Cloud
	prices   *price.Table
	scopes   int
	log      *slog.Logger
	now      func() time.Time
	bus      *bus.Bus
	runs     runv1.RunServiceClient
	accounts accountv1.AccountServiceClient
	state    scanv1.ScopeStateServiceClient
	findings findingv1.FindingServiceClient
}

// New builds the service of a set of rules. params is what the deployment sets,
// as Set.Settings reads it. Handling begins when the bus runs.
func New(ctx context.Context, env *app.Env, set *Set, c Config, params string) (*Worker, error) {
	if c.Scopes < 1 || c.Scopes > 64 {
		return nil, errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used").
			Field("NIGHTSHIFT_SCAN_SCOPES", "%d is not between 1 and 64", c.Scopes)
	}
	w := &Worker{set: set, scopes: c.Scopes, log: env.Log, now: env.Now, bus: env.Bus}
	var err error
	if w.settings, err = set.Settings(params); err != nil {
		return nil, err
	}
	if w.prices, err = price.Load(c.PriceFile); err != nil {
		return nil, err
	}
	if w.cloud, err = c.Cloud(ctx); err != nil {
		return nil, err
	}
	persistence := env.Dial("persistence")
	w.runs = runv1.NewRunServiceClient(persistence)
	w.accounts = accountv1.NewAccountServiceClient(persistence)
	w.state = scanv1.NewScopeStateServiceClient(persistence)
	w.findings = findingv1.NewFindingServiceClient(persistence)

	job.Handle(env, job.Kind{Name: set.Service(), Plan: w.planRun, Do: w.scanScope, Concurrency: c.Scopes, MayPass: mayPass})
	return w, nil
}

// Register implements app.Service.
func (w *Worker) Register(s grpc.ServiceRegistrar) {
	rulev1.RegisterRuleServiceServer(s, w)
	scanv1.RegisterScanServiceServer(s, w)
	reportv1.RegisterReportServiceServer(s, w)
}

// Run implements app.Service. All work comes from the bus and from callers.
func (w *Worker) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// rpcTimeout bounds one call to persistence.
const rpcTimeout = 20 * time.Second

// call makes one call to persistence with a deadline.
func call[Q, R any](ctx context.Context, f func(context.Context, Q, ...grpc.CallOption) (R, error), req Q) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	return f(ctx, req)
}

// planner divides the runs of this service.
func (w *Worker) planner() *Planner {
	return &Planner{Service: w.set.Service(), Cloud: w.cloud, Accounts: w.accounts}
}

// planRun is the plan of a run.
func (w *Worker) planRun(ctx context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
	sel, err := w.parameters(t.GetParameters())
	if err != nil {
		return nil, job.Permanent(err)
	}
	return w.planner().Plan(ctx, sel.accounts, sel.regions, t.GetRunId())
}

// scanScope scans one scope. What it observed is on the bus before it returns.
func (w *Worker) scanScope(ctx context.Context, t *job.Task) error {
	sel, err := w.parameters(t.Parameters)
	if err != nil { // the run was planned with them: its rules have changed since
		return job.Permanent(err)
	}
	at := precise(w.now())
	t.End.StartTime = timestamppb.New(at)
	scanner, err := newScanner(w.cloud, w.set, Options{Rules: sel.rules, Settings: w.settings, Prices: w.prices, At: at, Log: w.log})
	if err != nil {
		return err
	}
	known, err := w.remembered(ctx, t, scanner)
	if err != nil {
		return job.Await(fmt.Errorf("read what is known of the scope: %w", err))
	}

	// What was seen until the time allowed was over is told.
	telling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(tellTimeout, cancel) })()
	out := newBatches(
		&findingv1.FindingsObserved{RunId: t.Run, Scope: t.Scope, Execution: t.Execution},
		func(_ context.Context, b *findingv1.FindingsObserved) error { return w.bus.Publish(telling, b) },
	)
	stop := out.flushing(ctx)
	result, scanErr := scanner.scan(ctx, Target{Region: t.Scope.GetRegion(), Target: aws.Target{
		Account: t.Scope.GetAccount(), Partition: t.Request.GetPartition(), RoleARN: t.Request.GetRoleArn(), ExternalID: t.Request.GetExternalId(),
		SessionName: t.Run,
	}}, known.sighting, Sink{
		Judged: func(j *Judgement) error {
			if j.Verdict.Outcome == rule.Violation || known.open[j.FindingID()] {
				return out.observe(ctx, j.Observation())
			}
			return nil
		},
		Sighted: func(s *scanv1.Sighting) error { return out.sight(ctx, s) },
		Progress: func(_ *scanv1.Scope, p *scanv1.Progress) {
			out.tell(p)
			t.Progress(p)
		},
	})
	stop()
	if failed := (sinkError{}); errors.As(scanErr, &failed) {
		return job.Await(fmt.Errorf("publish what was observed: %w", failed.error))
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errs.DeadlineExceeded) {
		return cause
	}
	if err := out.flush(ctx); err != nil {
		return job.Await(fmt.Errorf("publish what was observed: %w", err))
	}
	t.End.Batches, t.End.Coverage, t.End.Tallies, t.End.Error = out.count(), result.GetCoverage(), result.GetTallies(), result.GetError()
	t.End.Progress = result.GetProgress()
	if scanErr == nil {
		scanErr = context.Cause(ctx)
	}
	return scanErr
}

// tellTimeout is how long batches may be published after a scope's context has
// ended; less than a handler is given to return.
const tellTimeout = time.Second

// known is what earlier scans left behind in a scope.
type known struct {
	open      map[string]bool // ids of open findings
	sightings map[[2]string]rule.Sighting
}

func (k *known) sighting(arn, state string) rule.Sighting {
	return k.sightings[[2]string{text(arn), state}]
}

// remembered reads what earlier scans left behind.
func (w *Worker) remembered(ctx context.Context, t *job.Task, s *scanner) (*known, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req := &scanv1.ListScopeStateRequest{Scope: t.Scope}
	for _, e := range s.run {
		req.Rules = append(req.Rules, e.meta.ID)
	}
	stream, err := w.state.ListScopeState(ctx, req)
	if err != nil {
		return nil, err
	}
	k := &known{open: map[string]bool{}, sightings: map[[2]string]rule.Sighting{}}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return k, nil
		}
		if err != nil {
			return nil, err
		}
		t.Heartbeat()
		for _, id := range part.GetOpenFindingIds() {
			k.open[id] = true
		}
		for _, s := range part.GetSightings() {
			var r rule.Sighting
			if t := s.GetFirstSeen(); t != nil {
				r.FirstSeen = t.AsTime()
			}
			if t := s.GetBefore(); t != nil {
				r.Before = t.AsTime()
			}
			k.sightings[[2]string{s.GetArn(), s.GetState()}] = r
		}
	}
}
