// Package job is what a service handles a kind of job with. A service says what
// its kind is called, how a run of it is divided and how one part is done;
// everything else about runs is done here: taking triggers, each once; planning;
// spreading the parts over all replicas; signs of life, cancelling, time limits,
// retries, dead letters and their replay.
//
// It exists so that a schedule is as reliable for another team's work as for
// Nightshift's own, and that nobody writes this twice. It must not import a
// service, NATS or SQL.
//
//	job.Handle(env, job.Kind{Name: "certificates", Do: check})
//
// # What is promised
//
// A run is planned once, and each of its scopes ends once, whatever dies in
// between. A scope may be begun more than once: when its worker dies, hangs,
// stops or fails, another begins it anew. So what Do does to the world must be
// the same done twice; [Task.Execution] tells attempts apart where that helps.
//
// While Do runs, persistence hears of it every 3 seconds. The answer may be that
// the run was cancelled: then Do's context ends, and whatever it returns is
// left unsaid. A Do that says nothing of itself for a minute, by [Task.Count],
// [Task.Progress] or [Task.Heartbeat], counts as hung: its context ends, and 2
// seconds later the scope goes to another worker, even if Do does not return.
//
// # Errors
//
// An error of Do or Plan that may pass is tried again, as often and with the
// waits that the job says; after the last try the scope, or the run, has FAILED
// and the request is a dead letter, which can be replayed. An error that cannot
// pass ends it as FAILED at once. Which is which:
//
//	error                                                 passes
//	----------------------------------------------------  ------------------------
//	nil                                                   success
//	made by Permanent                                     no
//	made by Await from an error of a service that is      yes, and is not counted
//	away, slow or overloaded
//	of errs or a gRPC status: INVALID_ARGUMENT,           no
//	NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED,
//	UNAUTHENTICATED, FAILED_PRECONDITION, OUT_OF_RANGE,
//	UNIMPLEMENTED
//	of AWS, by its class: denied, region disabled,        no
//	credentials
//	with a method Permanent() bool                        what it says
//	a panic; the time limit                               yes
//	anything else                                         yes
//
// [Kind.MayPass] replaces the lines below Await's.
package job

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"google.golang.org/grpc"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
)

// Kind is a kind of job. Name and Do are required.
type Kind struct {
	// Name is what jobs name as their kind: lower-case letters, digits and
	// hyphens, 1 to 63. All processes that handle the same kind share its work.
	Name string
	// Plan divides a run into scopes, which are done side by side by all
	// replicas and succeed or fail one by one. Nil: the run is one scope. It may
	// be called more than once for a run; the first plan that is stored counts.
	// It has 5 minutes.
	Plan func(ctx context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error)
	// Do does one scope. Its context ends with the process, the time allowed by
	// the job, a cancelled run, and when it hangs; it then returns an error soon.
	Do func(ctx context.Context, t *Task) error
	// Concurrency is how many scopes this process does at once, 1 to 1000. 0
	// means 4.
	Concurrency int
	// MayPass tells whether trying again can help against an error. Nil: MayPass
	// of this package.
	MayPass func(error) bool
}

// Handle has the kind's triggers handled from when the bus runs. It is called
// once for each kind, before that; a kind that cannot be one panics. A process
// that is not built on pkg/app fills in the env's Bus, and Dial with a function
// that returns its connection to persistence, made with [app.ClientOptions].
func Handle(env *app.Env, k Kind) {
	if !kindName.MatchString(k.Name) || k.Do == nil || k.Concurrency < 0 || k.Concurrency > 1000 {
		panic(fmt.Sprintf("job: kind %q with concurrency %d: want a name of lower-case letters, digits and hyphens, a Do, and 0 to 1000", k.Name, k.Concurrency))
	}
	if k.Plan == nil {
		k.Plan = func(context.Context, *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
			return []*runv1.PlannedScope{Part("-")}, nil
		}
	}
	if k.Concurrency == 0 {
		k.Concurrency = 4
	}
	if k.MayPass == nil {
		k.MayPass = MayPass
	}
	w := &worker{
		kind: k, bus: env.Bus, runs: runv1.NewRunServiceClient(env.Dial("persistence")), log: env.Log, now: env.Now,
	}
	if w.log == nil {
		w.log = slog.Default()
	}
	if w.now == nil {
		w.now = time.Now
	}
	mine := []bus.Option{bus.Filter(k.Name), bus.Group(k.Name), bus.MaxAttempts(bus.Unlimited)}
	bus.On(w.bus, func(ctx context.Context, m *bus.Message[*jobv1.JobTriggered]) error {
		return w.onTrigger(ctx, m.Body.GetTrigger(), m.Attempt, m.Sequence, m.Replayed)
	}, mine...)
	bus.On(w.bus, func(ctx context.Context, m *bus.Message[*jobv1.JobRequested]) error {
		return w.onTrigger(ctx, m.Body.GetTrigger(), m.Attempt, m.Sequence, m.Replayed)
	}, mine...)
	bus.On(w.bus, func(ctx context.Context, m *bus.Message[*runv1.RunReleased]) error {
		return w.onTrigger(ctx, m.Body.GetTrigger(), m.Attempt, m.Sequence, m.Replayed)
	}, mine...)
	bus.On(w.bus, w.onScopeRequested, append(mine, bus.Concurrency(k.Concurrency))...)
}

var kindName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

const (
	// beatEvery is how often persistence hears of a scope at work; a cancelled
	// run is stopped at the next beat.
	beatEvery = 3 * time.Second
	// stallAfter is how long a handler may say nothing of itself.
	stallAfter = time.Minute
	// abandonAfter is how long a handler whose context has ended may take to
	// return; while the process is stopping, half of it.
	abandonAfter = 2 * time.Second
	// lapseAfter is how old the last answer to a beat may be before another is
	// wanted to believe it: others may have begun the scope by then, as when the
	// process was frozen. Others wait for 15 s.
	lapseAfter = 10 * time.Second
	// planTimeout is the time allowed for planning.
	planTimeout = 5 * time.Minute
	// defaultTimeout is the time allowed for a scope that does not say.
	defaultTimeout = 30 * time.Minute
	// rpcTimeout bounds one call to persistence. When it is down, work waits
	// on the bus, not here.
	rpcTimeout = 20 * time.Second
	// beatTimeout bounds one sign of life.
	beatTimeout = 5 * time.Second
	// maxDeaths is how many workers may die of a plan until it is given up.
	// Persistence allows as many for a scope.
	maxDeaths = 10
)

// worker handles a kind.
type worker struct {
	kind Kind
	bus  *bus.Bus
	runs runv1.RunServiceClient
	log  *slog.Logger
	now  func() time.Time
}

// call makes one call to persistence with a deadline.
func call[Q, R any](ctx context.Context, f func(context.Context, Q, ...grpc.CallOption) (R, error), req Q) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	return f(ctx, req)
}

// Part is the scope of a part of the work, which concerns no account. The name
// can be any text: one that a scope cannot have is made to fit, and
// Task.IsPart tells which one it was.
func Part(name string) *runv1.PlannedScope {
	return &runv1.PlannedScope{Scope: &scanv1.Scope{Account: "-", Region: partName(name)}}
}
