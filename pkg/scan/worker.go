package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
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
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
)

// Config is what every scanning service reads from its environment.
type Config struct {
	Scopes             int     `env:"NIGHTSHIFT_SCAN_SCOPES" envDefault:"4" help:"How many accounts and regions one process scans at once."`
	QuotaShare         float64 `env:"NIGHTSHIFT_AWS_QUOTA_SHARE" envDefault:"0.5" help:"Share of AWS's API quotas that scans may use, above 0 and up to 1."`
	PriceFile          string  `env:"NIGHTSHIFT_PRICE_FILE" help:"Price file whose regions replace those of the built-in price list. Default: none."`
	CloudWatchProtocol string  `env:"NIGHTSHIFT_CLOUDWATCH_PROTOCOL" envDefault:"cbor" help:"cbor, or query for emulators of AWS that need it."`
	Endpoint           string  `env:"NIGHTSHIFT_AWS_ENDPOINT" help:"URL of an emulator that stands in for AWS. Default: AWS, or what AWS_ENDPOINT_URL says."`
	AccessKeyID        string  `env:"NIGHTSHIFT_AWS_ACCESS_KEY_ID" help:"Access key id for an emulator. Default: the AWS SDK's own credential chain."`
	SecretAccessKey    string  `env:"NIGHTSHIFT_AWS_SECRET_ACCESS_KEY" help:"Secret access key for an emulator. Default: the AWS SDK's own credential chain."`
}

// Cloud opens AWS as configured.
func (c Config) Cloud(ctx context.Context) (*aws.Cloud, error) {
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

	mine, patient := bus.Filter(set.Service()), bus.MaxAttempts(maxAttempts)
	bus.On(w.bus, w.onJobTriggered, mine, patient)
	bus.On(w.bus, w.onJobRequested, mine, patient)
	bus.On(w.bus, w.onScopeRequested, mine, patient, bus.Concurrency(c.Scopes))
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

const (
	// maxAttempts bounds the attempts on the bus, which must never give up
	// before we do: the first one, the most retries a job can ask for, and as
	// many again that processes died in.
	maxAttempts = 22
	// defaultTimeout is the time allowed for a scope that does not say.
	defaultTimeout = 30 * time.Minute
	// rpcTimeout bounds one call to persistence. When it is down, work waits
	// on the bus, not here.
	rpcTimeout = 20 * time.Second
)

// await is the verdict on an error of persistence: while it cannot be reached
// the message comes back, which is no failure of the work.
func await(err error) error {
	for _, passing := range []error{
		errs.Unavailable, errs.DeadlineExceeded, errs.ResourceExhausted, errs.Canceled, context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, passing) {
			return fmt.Errorf("%w: %w", bus.Later(5*time.Second+rand.N(10*time.Second)), err)
		}
	}
	if errors.Is(err, errs.InvalidArgument) || errors.Is(err, errs.NotFound) {
		return bus.Drop(err)
	}
	return err
}

func (w *Worker) onJobTriggered(ctx context.Context, m *bus.Message[*jobv1.JobTriggered]) error {
	return w.trigger(ctx, m.Body.GetTrigger(), m.Attempt)
}

func (w *Worker) onJobRequested(ctx context.Context, m *bus.Message[*jobv1.JobRequested]) error {
	return w.trigger(ctx, m.Body.GetTrigger(), m.Attempt)
}

// trigger starts and plans a run. Doing it twice is doing it once.
func (w *Worker) trigger(ctx context.Context, t *jobv1.Trigger, attempt int) error {
	if t == nil { // an armed record fires nothing
		return nil
	}
	started, err := call(ctx, w.runs.StartRun, &runv1.StartRunRequest{Trigger: t})
	if err != nil {
		return await(fmt.Errorf("start run %s: %w", t.GetRunId(), err))
	}
	if started.GetRun().GetState() != runv1.RunState_RUN_STATE_RUNNING || started.GetPlanned() {
		return nil
	}
	scopes, err := w.planTrigger(ctx, t)
	switch passing := (*unreachable)(nil); {
	case err == nil:
	case errors.As(err, &passing):
		if attempt <= int(t.GetMaxRetries()) {
			return err
		}
		if err := w.failRun(ctx, t, passing.Error()); err != nil {
			return err
		}
		return bus.Drop(err)
	case errors.Is(err, errs.InvalidArgument), errors.Is(err, errs.FailedPrecondition):
		return w.failRun(ctx, t, err.Error())
	default:
		return await(fmt.Errorf("plan run %s: %w", t.GetRunId(), err))
	}
	if _, err := call(ctx, w.runs.PlanRun, &runv1.PlanRunRequest{RunId: t.GetRunId(), Scopes: scopes}); err != nil {
		return await(fmt.Errorf("plan run %s: %w", t.GetRunId(), err))
	}
	return nil
}

func (w *Worker) planTrigger(ctx context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
	sel, err := w.parameters(t.GetParameters())
	if err != nil {
		return nil, err
	}
	return w.plan(ctx, sel, t.GetRunId())
}

func (w *Worker) failRun(ctx context.Context, t *jobv1.Trigger, why string) error {
	if _, err := call(ctx, w.runs.FailRun, &runv1.FailRunRequest{RunId: t.GetRunId(), Error: text(why)}); err != nil {
		return await(fmt.Errorf("fail run %s: %w", t.GetRunId(), err))
	}
	return nil
}

// call makes one call to persistence with a deadline.
func call[Q, R any](ctx context.Context, f func(context.Context, Q, ...grpc.CallOption) (R, error), req Q) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	return f(ctx, req)
}

// onScopeRequested scans one scope. What it observed is on the bus before it
// says so, and it says so before the request is done with: a worker that dies
// on the way leaves the request to another, which scans again under another
// execution.
func (w *Worker) onScopeRequested(ctx context.Context, m *bus.Message[*scanv1.ScopeRequested]) error {
	req := m.Body
	execution := fmt.Sprintf("%d.%d", m.Sequence, m.Deliveries)
	started, err := call(ctx, w.runs.StartScope, &runv1.StartScopeRequest{RunId: req.GetRunId(), Scope: req.GetScope(), Execution: execution})
	if err != nil {
		return await(fmt.Errorf("start scope: %w", err))
	}
	if !started.GetWanted() {
		return nil
	}
	sel, err := w.parameters(req.GetParameters())
	if err != nil { // the run was planned with them: its rules have changed since
		return w.finish(ctx, req, execution, w.now(), &scanv1.ScopeResult{Error: err.Error()}, 0, err)
	}
	scanner, err := newScanner(w.cloud, w.set, Options{Rules: sel.rules, Settings: w.settings, Prices: w.prices, At: w.now(), Log: w.log})
	if err != nil {
		return err
	}
	known, err := w.remembered(ctx, req.GetScope(), scanner)
	if err != nil {
		return await(fmt.Errorf("read what is known of the scope: %w", err))
	}

	out := newBatches(
		&findingv1.FindingsObserved{RunId: req.GetRunId(), Scope: req.GetScope(), Execution: execution},
		func(ctx context.Context, b *findingv1.FindingsObserved) error { return w.bus.Publish(ctx, b) },
	)
	timeout := defaultTimeout
	if t := req.GetTimeout().AsDuration(); t > 0 {
		timeout = t
	}
	scanCtx, cancel := context.WithTimeoutCause(ctx, timeout, &timeLimit{timeout})
	defer cancel()
	stop := out.flushing(ctx)
	begun := w.now()
	result, scanErr := scanner.scan(scanCtx, Target{Region: req.GetScope().GetRegion(), Target: aws.Target{
		Account: req.GetScope().GetAccount(), Partition: req.GetPartition(), RoleARN: req.GetRoleArn(), ExternalID: req.GetExternalId(),
		SessionName: req.GetRunId(),
	}}, known.sighting, Sink{
		Judged: func(j *Judgement) error {
			if j.Verdict.Outcome == rule.Violation || known.open[j.FindingID()] {
				return out.observe(ctx, j.Observation())
			}
			return nil
		},
		Sighted:  func(s *scanv1.Sighting) error { return out.sight(ctx, s) },
		Progress: func(_ *scanv1.Scope, p *scanv1.Progress) { out.tell(p) },
	})
	stop()
	if ctx.Err() != nil { // the process is stopping; another will do it
		return context.Cause(ctx)
	}
	if failed := (sinkError{}); errors.As(scanErr, &failed) {
		return fmt.Errorf("publish what was observed: %w", failed.error)
	}
	if err := out.flush(ctx); err != nil {
		return fmt.Errorf("publish what was observed: %w", err)
	}
	timedOut := scanCtx.Err() != nil
	if (timedOut || mayPass(scanErr)) && m.Attempt <= int(req.GetMaxRetries()) {
		if scanErr == nil {
			scanErr = context.Cause(scanCtx)
		}
		return scanErr
	}
	return w.finish(ctx, req, execution, begun, result, out.count(), scanErr)
}

// finish says that the scope is done with, for good. A scope that failed for a
// reason that might have passed is kept as a dead letter.
func (w *Worker) finish(ctx context.Context, req *scanv1.ScopeRequested, execution string, begun time.Time, r *scanv1.ScopeResult, n int32, failed error) error {
	done := &scanv1.ScopeFinished{
		RunId: req.GetRunId(), Scope: req.GetScope(), Execution: execution, Batches: n,
		Coverage: r.GetCoverage(), Tallies: r.GetTallies(), Meter: r.GetProgress().GetMeter(), Progress: r.GetProgress(),
		Error: text(r.GetError()), StartTime: timestamppb.New(begun), EndTime: timestamppb.New(w.now()),
	}
	if err := w.bus.Publish(ctx, done); err != nil {
		return fmt.Errorf("publish the end of the scope: %w", err)
	}
	if mayPass(failed) {
		return bus.Drop(failed)
	}
	return nil
}

// known is what earlier scans left behind in a scope.
type known struct {
	open      map[string]bool // ids of open findings
	sightings map[[2]string]rule.Sighting
}

func (k *known) sighting(arn, state string) rule.Sighting {
	return k.sightings[[2]string{text(arn), state}]
}

// remembered reads what earlier scans left behind.
func (w *Worker) remembered(ctx context.Context, scope *scanv1.Scope, s *scanner) (*known, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req := &scanv1.ListScopeStateRequest{Scope: scope}
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
