package scan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
)

// pagesInFlight bounds the pages of one scope that are held in memory at once,
// over all kinds: while AWS answers for one, the next is read.
const pagesInFlight = 4

// Sink takes what a scan finds out, while it finds it out. Functions that are
// nil take nothing. For one scope they are called one at a time; an error ends
// the scan of the scope.
type Sink struct {
	// Judged takes every verdict, of any outcome. The judgement and what it
	// points to must not be kept unchanged longer than the call, except by
	// converting it.
	Judged func(j *Judgement) error
	// Sighted takes each resource in a state that a rule follows.
	Sighted func(s *scanv1.Sighting) error
	// Progress takes how far the scope has come: after each page, and each
	// second in which a call was made, or in which the account is still being
	// entered. Who hears nothing for long may take the scan for hung.
	Progress func(s *scanv1.Scope, p *scanv1.Progress)
	// Finished takes how the scope ended.
	Finished func(r *scanv1.ScopeResult)
}

// Judgement is one verdict with what it is about.
type Judgement struct {
	Scope     *scanv1.Scope
	Partition string
	Rule      *rule.Meta
	Params    rule.Params
	Resource  *inventory.Resource
	Verdict   rule.Verdict
	At        time.Time
}

// scope is the scan of one scope, under way.
type scope struct {
	session   *aws.Session
	at        time.Time
	name      *scanv1.Scope
	partition string
	price     price.Region
	remember  func(arn, state string) rule.Sighting
	log       *slog.Logger
	slots     chan struct{}

	mu       sync.Mutex
	sink     Sink
	tallies  map[string]*scanv1.Tally // by rule id and resource type
	progress *scanv1.Progress
	counted  map[uint64]float64
	broken   map[string]int
}

// group is all rules of one kind of resource, which share its listing.
type group interface {
	takes(p *part) bool
	add(p *part, params rule.Params, run bool)
	list(ctx context.Context, s *scope) (*scanv1.Coverage, error)
}

// run lists every kind and judges what it lists. The error is that of the
// kinds when none showed anything, or the sink's.
func (s *scope) run(ctx context.Context, groups []group) ([]*scanv1.Coverage, error) {
	coverage := make([]*scanv1.Coverage, len(groups))
	failed := make([]error, len(groups))
	kinds, ctx := errgroup.WithContext(ctx)
	for i, g := range groups {
		kinds.Go(func() error {
			coverage[i], failed[i] = g.list(ctx, s)
			if errors.As(failed[i], new(sinkError)) {
				return failed[i]
			}
			return nil
		})
	}
	if err := kinds.Wait(); err != nil {
		return coverage, err
	}
	seen := slices.ContainsFunc(coverage, func(c *scanv1.Coverage) bool {
		return c.Status == scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE || c.Status == scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL
	})
	if seen {
		return coverage, nil
	}
	return coverage, errors.Join(failed...)
}

// sinkError is an error of the sink: it says nothing about AWS.
type sinkError struct{ error }

func (e sinkError) Unwrap() error { return e.error }

// StatusOf says what an error means for a listing that read some pages.
func StatusOf(err error, pages int32) scanv1.CoverageStatus {
	switch {
	case err == nil:
		return scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE
	case pages > 0:
		return scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL
	}
	switch aws.Classify(err) {
	case aws.Denied, aws.Credentials:
		return scanv1.CoverageStatus_COVERAGE_STATUS_DENIED
	case aws.RegionDisabled:
		return scanv1.CoverageStatus_COVERAGE_STATUS_REGION_DISABLED
	default:
		return scanv1.CoverageStatus_COVERAGE_STATUS_FAILED
	}
}

// errorText is an error that can be shown and stored.
func errorText(err error) string {
	var (
		ours *errs.Error
		bug  *panicked
		sink sinkError
	)
	switch {
	case errors.As(err, &ours): // such as that the time allowed is over
		return text(ours.Error())
	case errors.As(err, &bug):
		return bug.Error()
	case errors.As(err, &sink):
		return "what was seen could not be handed on"
	}
	return text(cmp.Or(aws.Explain(err).Error(), aws.Classify(err).String()))
}

// panicked is a panic as an error. The value is for the log only.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return "internal error, see the log" }

// guard calls f and turns a panic into an error.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{v, debug.Stack()}
		}
	}()
	return f()
}

// kindGroup is a group of the rules of a kind.
type kindGroup[T any] struct {
	kind  inventory.Kind[T]
	rules []bound[T]
}

// bound is a rule with its parameters in force. One that is not run is only
// asked what it follows: what is remembered is the service's, not the run's.
type bound[T any] struct {
	*Rule[T]
	params rule.Params
	run    bool
}

func (g *kindGroup[T]) takes(p *part) bool { _, ok := p.typed.(*Rule[T]); return ok }

func (g *kindGroup[T]) add(p *part, params rule.Params, run bool) {
	g.rules = append(g.rules, bound[T]{Rule: p.typed.(*Rule[T]), params: params, run: run})
}

// list reads the kind's pages and judges each as it comes, a few at a time.
func (g *kindGroup[T]) list(ctx context.Context, s *scope) (*scanv1.Coverage, error) {
	c := &scanv1.Coverage{ResourceType: g.kind.Type}
	var mu sync.Mutex
	pages, pageCtx := errgroup.WithContext(ctx)
	listing := guard(func() error {
		return g.kind.List(pageCtx, s.session, func(ts []T) error {
			select {
			case s.slots <- struct{}{}:
			case <-pageCtx.Done():
				return context.Cause(pageCtx)
			}
			pages.Go(func() error {
				defer func() { <-s.slots }()
				if err := guard(func() error { return g.page(pageCtx, s, ts) }); err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				c.Pages++
				c.Resources += int64(len(ts))
				return nil
			})
			return nil
		})
	})
	// A page that failed has stopped the listing: it is the cause.
	err := pages.Wait()
	if err == nil {
		err = listing
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if bug := (*panicked)(nil); errors.As(err, &bug) {
		s.log.ErrorContext(ctx, "a listing panicked", "resource_type", g.kind.Type, "panic", bug.value, "stack", string(bug.stack))
	}
	c.Status = StatusOf(err, c.Pages)
	if err != nil {
		c.Error = errorText(err)
	}
	return c, err
}

// page fills in the facts of one page of resources, judges it and hands on the
// verdicts. The error is the context's or the sink's.
func (g *kindGroup[T]) page(ctx context.Context, s *scope, ts []T) error {
	p := &page[T]{scope: s, group: g, rs: make([]*T, len(ts)), broken: map[[2]int]*panicked{}}
	for i := range ts {
		p.rs[i] = &ts[i]
	}
	if err := p.fill(ctx); err != nil {
		return err
	}
	return p.judge(ctx)
}

// page is one page of resources at work.
type page[T any] struct {
	*scope
	group  *kindGroup[T]
	rs     []*T
	broken map[[2]int]*panicked // by rule and resource: a When that panicked
}

// in is what rule b may know beside resource t.
func (p *page[T]) in(b *bound[T], t *T) In {
	in := In{At: p.at, Params: b.params, Account: p.name.Account, Region: p.name.Region, Price: p.price}
	if b.Follow != nil && p.remember != nil {
		if state, ok := b.Follow(*t); ok {
			in.Sighting = p.remember(p.group.kind.Of(t).ARN, state)
		}
	}
	return in
}

// fill asks for the facts the rules need, stage by stage: each fact once for
// all rules that need it, and only for the resources where it can matter.
func (p *page[T]) fill(ctx context.Context) error {
	asked := map[string][]bool{}
	for stage := 0; ; stage++ {
		var wanted []needs[T]
		more := false
		for n := range p.group.rules {
			b := &p.group.rules[n]
			if !b.run || stage >= len(b.Facts) {
				continue
			}
			more = true
			need := b.Facts[stage]
			if asked[need.Fact.Name] == nil {
				asked[need.Fact.Name] = make([]bool, len(p.rs))
			}
			k := slices.IndexFunc(wanted, func(w needs[T]) bool { return w.fact.Name == need.Fact.Name })
			if k < 0 {
				k = len(wanted)
				wanted = append(wanted, needs[T]{fact: need.Fact})
			}
			for i, t := range p.rs {
				if !asked[need.Fact.Name][i] && p.wants(n, i, need) {
					asked[need.Fact.Name][i] = true
					wanted[k].of = append(wanted[k].of, t)
				}
			}
		}
		if !more {
			return nil
		}
		for _, w := range wanted {
			if len(w.of) == 0 {
				continue
			}
			if err := w.fact.Fill(ctx, p.session, p.at, w.of); err != nil {
				return err
			}
		}
	}
}

func (p *page[T]) wants(n, i int, need Need[T]) (yes bool) {
	if need.When == nil {
		return true
	}
	err := guard(func() error {
		b := &p.group.rules[n]
		yes = need.When(p.in(b, p.rs[i]), *p.rs[i])
		return nil
	})
	if bug := (*panicked)(nil); errors.As(err, &bug) {
		p.broken[[2]int{n, i}] = bug
	}
	return yes
}

// judge judges every resource of the page by every rule, then hands on the
// verdicts.
func (p *page[T]) judge(ctx context.Context) error {
	type result struct {
		Judgement
		parts []Part
		err   error
	}
	var (
		results  []result
		sighting []*scanv1.Sighting
	)
	for i, t := range p.rs {
		of := p.group.kind.Of(t)
		var states []string
		for n := range p.group.rules {
			b := &p.group.rules[n]
			err := guard(func() error {
				if b.Follow != nil {
					if state, ok := b.Follow(*t); ok && !slices.Contains(states, state) {
						states = append(states, state)
					}
				}
				return nil
			})
			if !b.run {
				continue
			}
			r := result{Judgement: Judgement{
				Scope: p.name, Partition: p.partition, Rule: &b.Meta, Params: b.params, Resource: of, At: p.at,
			}}
			switch bug := p.broken[[2]int{n, i}]; {
			case err != nil:
				r.Verdict, r.err = failed(), err
			case bug != nil:
				r.Verdict, r.err = failed(), bug
			default:
				in := p.in(b, t)
				r.Verdict, r.err = judge(b.Rule, in, *t)
				if r.Verdict.Outcome == rule.Violation {
					r.parts = []Part{{ARN: of.ARN, Cost: r.Verdict.Cost}}
					if b.Parts != nil {
						if err := guard(func() error { r.parts = b.Parts(in, *t); return nil }); err != nil {
							r.Verdict, r.err = failed(), err
						}
					}
				}
			}
			results = append(results, r)
		}
		for _, state := range states {
			sighting = append(sighting, &scanv1.Sighting{Arn: text(of.ARN), ResourceType: p.group.kind.Type, State: state})
		}
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range results {
		r := &results[i]
		if r.err != nil {
			p.report(ctx, r.Rule, r.Resource, r.err)
		}
		p.count(&r.Judgement, r.parts)
		if p.sink.Judged != nil {
			if err := p.sink.Judged(&r.Judgement); err != nil {
				return sinkError{err}
			}
		}
	}
	for _, seen := range sighting {
		if p.sink.Sighted != nil {
			if err := p.sink.Sighted(seen); err != nil {
				return sinkError{err}
			}
		}
	}
	p.progress.Resources += int64(len(p.rs))
	if p.sink.Progress != nil {
		p.sink.Progress(p.name, p.snapshot())
	}
	return nil
}

// judge judges one resource. A rule that panics or breaks the contract gives
// ERROR, and the error says how it failed.
func judge[T any](r *Rule[T], in In, t T) (v rule.Verdict, err error) {
	err = guard(func() error {
		v = r.Judge(in, t)
		return WellFormed(v)
	})
	if err != nil {
		return failed(), err
	}
	return v, nil
}

// failed is the verdict of a rule that failed.
func failed() rule.Verdict {
	return rule.Verdict{Outcome: rule.Error, Reason: "The rule failed on this resource; the log says how."}
}

// report logs a rule that failed, the first time in a scope only.
func (s *scope) report(ctx context.Context, m *rule.Meta, of *inventory.Resource, err error) {
	if s.broken[m.ID]++; s.broken[m.ID] > 1 {
		return
	}
	args := []any{"rule", m.ID, "version", m.Version, "arn", of.ARN, "error", err}
	if bug := (*panicked)(nil); errors.As(err, &bug) {
		args = append(args, "panic", fmt.Sprint(bug.value), "stack", string(bug.stack))
	}
	s.log.ErrorContext(ctx, "a rule failed; further failures of it in this scope are not logged", args...)
}

// count adds a verdict to the tallies and the progress. Of what several
// verdicts say one resource wastes, the most counts, whatever their order.
func (s *scope) count(j *Judgement, parts []Part) {
	t := s.tallies[j.Rule.ID+j.Rule.ResourceType]
	s.progress.Verdicts++
	switch j.Verdict.Outcome {
	case rule.Violation:
		t.Violations++
		s.progress.Violations++
	case rule.Compliant:
		t.Compliant++
	case rule.NotApplicable:
		t.NotApplicable++
	case rule.InsufficientData:
		t.InsufficientData++
	default:
		t.Errors++
	}
	for _, p := range parts {
		if !p.Cost.Known {
			continue
		}
		h := fnv.New64a()
		_, _ = h.Write([]byte(p.ARN))
		key := h.Sum64()
		if more := p.Cost.High - s.counted[key]; more > 0 {
			s.counted[key] = p.Cost.High
			s.progress.MonthlyCost += more
		}
	}
}

// snapshot returns how far the scope has come. The lock must be held.
func (s *scope) snapshot() *scanv1.Progress {
	p := &scanv1.Progress{
		Resources: s.progress.Resources, Verdicts: s.progress.Verdicts, Violations: s.progress.Violations,
		MonthlyCost: s.progress.MonthlyCost, Meter: &scanv1.Meter{},
	}
	if s.session != nil {
		u := s.session.Meter.Snapshot().Usage
		p.Meter = &scanv1.Meter{
			Calls: u.Calls, Retries: u.Retries, Throttles: u.Throttles,
			BilledMetrics: u.BilledMetrics, BilledCost: u.Dollars(),
		}
	}
	return p
}

// tellEvery is how often the sink hears of calls that end no page.
const tellEvery = time.Second

// telling tells the sink of progress between pages until stop is called: a
// scope that AWS throttles, or does not answer, is at work.
func (s *scope) telling() (stop func()) {
	if s.sink.Progress == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(tellEvery)
		defer tick.Stop()
		for told := (aws.Usage{}); ; {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			s.mu.Lock()
			if s.session == nil || s.session.Meter.Snapshot().Usage != told {
				s.sink.Progress(s.name, s.snapshot())
			}
			if s.session != nil {
				told = s.session.Meter.Snapshot().Usage
			}
			s.mu.Unlock()
		}
	}()
	return func() { close(quit); <-done }
}
