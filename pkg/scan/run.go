package scan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
)

// Target is a scope to scan and how to get in.
type Target struct {
	aws.Target
	// Region such as eu-central-1.
	Region string
}

// Options say how to scan. The zero value runs every rule with its defaults.
type Options struct {
	// Rules are the ids to run; empty means all.
	Rules []string
	// Settings are the parameters in force; nil means the defaults.
	Settings *Settings
	// Prices is the price table; nil means the one that ships.
	Prices *price.Table
	// At is the scan's time; zero means the time at which each scope begins.
	At time.Time
	// Scopes is how many are scanned at once; 0 means 4.
	Scopes int
	// Log takes what a person should look into; nil discards it.
	Log *slog.Logger
}

// Run scans the targets and tells sink everything, one call at a time. It
// needs AWS and nothing else, and remembers nothing. A scope that fails has a
// result that says so, and the others go on. The error is the context's, the
// sink's, or says what is wrong with the options.
func Run(ctx context.Context, cloud *aws.Cloud, targets []Target, rules *Set, o Options, sink Sink) error {
	s, err := newScanner(cloud, rules, o)
	if err != nil {
		return err
	}
	sink = sink.serial()
	scopes, scopeCtx := errgroup.WithContext(ctx)
	scopes.SetLimit(cmp.Or(max(o.Scopes, 0), 4))
	for _, t := range targets {
		if scopeCtx.Err() != nil {
			break
		}
		scopes.Go(func() error {
			r, err := s.scan(scopeCtx, t, nil, sink)
			if failed := (sinkError{}); errors.As(err, &failed) {
				return failed.error
			}
			if scopeCtx.Err() != nil {
				return context.Cause(scopeCtx)
			}
			if sink.Finished != nil {
				sink.Finished(r)
			}
			return nil
		})
	}
	if err := scopes.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// serial is the sink with its calls one at a time.
func (s Sink) serial() Sink {
	var mu sync.Mutex
	out := s
	if s.Judged != nil {
		out.Judged = func(j *Judgement) error { mu.Lock(); defer mu.Unlock(); return s.Judged(j) }
	}
	if s.Sighted != nil {
		out.Sighted = func(x *scanv1.Sighting) error { mu.Lock(); defer mu.Unlock(); return s.Sighted(x) }
	}
	if s.Progress != nil {
		out.Progress = func(x *scanv1.Scope, p *scanv1.Progress) { mu.Lock(); defer mu.Unlock(); s.Progress(x, p) }
	}
	if s.Finished != nil {
		out.Finished = func(r *scanv1.ScopeResult) { mu.Lock(); defer mu.Unlock(); s.Finished(r) }
	}
	return out
}

// scanner scans scopes with rules and options that have been checked.
type scanner struct {
	cloud    *aws.Cloud
	set      *Set
	run      []*entry
	settings *Settings
	prices   *price.Table
	at       time.Time
	log      *slog.Logger
}

func newScanner(cloud *aws.Cloud, set *Set, o Options) (*scanner, error) {
	s := &scanner{cloud: cloud, set: set, settings: o.Settings, prices: o.Prices, at: o.At, log: o.Log}
	var err error
	if s.run, err = set.pick(o.Rules); err != nil {
		return nil, err
	}
	if s.settings == nil {
		if s.settings, err = set.Settings(""); err != nil {
			return nil, err
		}
	}
	if s.prices == nil {
		if s.prices, err = price.Load(""); err != nil {
			return nil, err
		}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// precise is a scan's time as everybody keeps it: what is said of its verdicts
// and of its end must be the same instant, and of two scans in the same second
// one came first.
func precise(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// scan scans one scope. remember tells what earlier scans left behind; nil
// remembers nothing. The result is never nil. The error says why the scope
// failed as a whole — no listing showed anything — or is the sink's.
func (s *scanner) scan(ctx context.Context, t Target, remember func(arn, state string) rule.Sighting, sink Sink) (*scanv1.ScopeResult, error) {
	x := &scope{
		at: s.at, remember: remember, log: s.log, sink: sink,
		name:     &scanv1.Scope{Service: s.set.Service(), Account: t.Account, Region: t.Region},
		slots:    make(chan struct{}, pagesInFlight),
		tallies:  map[string]*scanv1.Tally{},
		progress: &scanv1.Progress{},
		counted:  map[uint64]float64{},
		broken:   map[string]int{},
	}
	if x.at.IsZero() {
		x.at = time.Now()
	}
	x.at = precise(x.at)
	result := &scanv1.ScopeResult{Scope: x.name}
	for _, e := range s.run {
		for _, p := range e.parts {
			t := &scanv1.Tally{RuleId: e.meta.ID, RuleVersion: int32(e.meta.Version), ResourceType: p.resourceType}
			x.tallies[e.meta.ID+p.resourceType] = t
			result.Tallies = append(result.Tallies, t)
		}
	}

	stop := x.telling()
	session, err := s.open(ctx, t)
	x.mu.Lock()
	x.session = session
	if err == nil {
		x.name.Account, x.partition = session.Account, session.Partition
	}
	x.mu.Unlock()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		result.Coverage = []*scanv1.Coverage{{ResourceType: "*", Status: StatusOf(err, 0), Error: errorText(err)}}
	} else {
		x.price = s.prices.Region(t.Region)
		result.Coverage, err = x.run(ctx, s.groups(x.name.Account))
	}
	stop()
	x.mu.Lock()
	result.Progress = x.snapshot()
	x.mu.Unlock()
	if err != nil {
		result.Error = errorText(err)
		return result, fmt.Errorf("scan of %s in %s: %w", x.name.Account, t.Region, err)
	}
	return result, nil
}

// open opens the session; without a cloud, which tests of the engine do
// without, there is one that can make no call.
func (s *scanner) open(ctx context.Context, t Target) (*aws.Session, error) {
	if s.cloud == nil {
		return &aws.Session{Account: t.Account, Region: t.Region, Partition: cmp.Or(t.Partition, "aws"), Meter: &aws.Meter{}}, nil
	}
	return s.cloud.Session(ctx, t.Target, t.Region)
}

// groups makes the listings of one scope: each kind once that a rule to run
// judges, with all rules of the set on it.
func (s *scanner) groups(account string) []group {
	var (
		kinds  []string
		groups []group
	)
	for _, e := range s.run {
		for _, p := range e.parts {
			if slices.Contains(kinds, p.resourceType) {
				continue
			}
			g := p.newGroup()
			for _, o := range s.set.rules {
				for _, q := range o.parts {
					if q.resourceType == p.resourceType {
						g.add(q, s.settings.For(account, o.meta.ID), slices.Contains(s.run, o))
					}
				}
			}
			kinds, groups = append(kinds, p.resourceType), append(groups, g)
		}
	}
	return groups
}
