package notification

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/filter"
)

const (
	// groupLimit is how many groups are claimed at a time: each can have 25 events of 16 KiB, and no answer may be above 4 MiB.
	groupLimit = 8
	groupLease = 2 * time.Minute
	// poolTime is how long groups are gathered for a summary: well within the lease.
	poolTime = time.Minute
	// poolGroups bounds a summary's groups.
	poolGroups = 5000
	// overRest is after which time a route that has had its messages of the hour is looked at again.
	overRest = 10 * time.Minute
)

// flush turns every group whose time has come into deliveries, and says when
// the next one is due.
func (s *Service) flush(ctx context.Context) (next time.Time, err error) {
	r := &round{s: s, begin: time.Now(), pools: map[string]*pool{}}
	for ctx.Err() == nil {
		if r.policy, err = s.policy(ctx); err != nil {
			return next, err
		}
		resp, err := s.queue.ClaimGroups(ctx, &notificationv1.ClaimGroupsRequest{Limit: groupLimit, Lease: durationpb.New(groupLease)})
		if err != nil {
			return next, errors.Join(err, r.summarize(ctx))
		}
		// What has been claimed is finished, also when ctx ends now.
		work := context.WithoutCancel(ctx)
		r.sent = map[string]int64{}
		for _, g := range resp.GetGroups() {
			if err := r.group(work, g); err != nil {
				return next, errors.Join(err, r.summarize(work))
			}
		}
		next = resp.GetNextDueTime().AsTime()
		if resp.GetNextDueTime() == nil {
			next = time.Time{}
		}
		if len(resp.GetGroups()) < groupLimit {
			break
		}
		if time.Since(r.begin) > poolTime {
			if err := r.summarize(work); err != nil {
				return next, err
			}
			r.begin = time.Now()
		}
	}
	return next, r.summarize(context.WithoutCancel(ctx))
}

// round is one round of flushing.
type round struct {
	s      *Service
	policy *policy
	begin  time.Time
	sent   map[string]int64 // since the newest claim, by route and receiver
	pools  map[string]*pool // by route and receivers
}

// pool are groups of one route and the same receivers that are told as one,
// because the route has had its messages of the hour.
type pool struct {
	route   *route
	main    *notificationv1.ClaimedGroup
	message *notificationv1.Message
	others  map[string]*notificationv1.ClaimedGroup
}

// group does with a group what its route says.
func (r *round) group(ctx context.Context, g *notificationv1.ClaimedGroup) error {
	m, now := g.GetMessage(), r.s.now()
	route := r.policy.byName[m.GetRoute()]
	switch {
	case route == nil || route.broken != nil: // another replica knew more, or it is being deleted
		return r.postpone(ctx, g, now.Add(5*time.Second))
	case g.GetRepeat() && (m.GetOpenFindings() == 0 || route.repeats() == 0):
		return r.flush(ctx, g, &notificationv1.FlushGroupRequest{})
	case g.GetRepeat() && r.policy.silencedGroup(m.GetGroup(), now) != "":
		return r.flush(ctx, g, &notificationv1.FlushGroupRequest{RepeatTime: timestamppb.New(now.Add(route.repeats()))})
	case !g.GetRepeat() && m.GetEvents() == 0 && g.GetSilenced() == 0:
		return r.flush(ctx, g, &notificationv1.FlushGroupRequest{RepeatTime: route.repeatTime(m, now)})
	case !g.GetRepeat() && m.GetEvents() == 0:
		return r.flush(ctx, g, &notificationv1.FlushGroupRequest{Deliveries: r.deliveries(g, m, g.GetSilenceId()), RepeatTime: route.repeatTime(m, now)})
	}
	if end := quietUntil(route.quiet, now); !end.IsZero() && !route.urgent(m.GetSeverity()) {
		return r.postpone(ctx, g, end)
	}
	sent := int64(0)
	for _, receiver := range g.GetReceivers() {
		sent = max(sent, g.GetSentLastHour()[receiver]+r.sent[m.GetRoute()+"/"+receiver])
	}
	key := m.GetRoute() + " " + strings.Join(g.GetReceivers(), " ")
	switch p := r.pools[key]; {
	case p != nil && len(p.others) < poolGroups:
		p.add(g)
		return nil
	case sent > route.hourly():
		return r.postpone(ctx, g, now.Add(overRest))
	case sent == route.hourly() && p == nil:
		r.pools[key] = newPool(route, g)
		return nil
	}
	m.Kind = notificationv1.MessageKind_MESSAGE_KIND_NEWS
	switch {
	case g.GetRepeat():
		m.Kind = notificationv1.MessageKind_MESSAGE_KIND_REMINDER
	case route.digest != nil:
		m.Kind = notificationv1.MessageKind_MESSAGE_KIND_DIGEST
		if err := r.s.trend(ctx, route, m); err != nil {
			return err
		}
	}
	err := r.flush(ctx, g, &notificationv1.FlushGroupRequest{
		Deliveries: r.deliveries(g, m, ""), RepeatTime: route.repeatTime(m, now), SentBelow: route.hourly(),
	})
	if errs.Reason(err) == reasonSent { // another replica was faster
		r.pools[key] = newPool(route, g)
		return nil
	}
	for _, receiver := range g.GetReceivers() {
		r.sent[m.GetRoute()+"/"+receiver]++
	}
	return err
}

// reasonSent is the reason of the error that says that a receiver has had as
// many messages as sent_below.
const reasonSent = "SENT_ENOUGH"

// flush flushes a group; that its claim was lost is no error.
func (r *round) flush(ctx context.Context, g *notificationv1.ClaimedGroup, req *notificationv1.FlushGroupRequest) error {
	req.GroupKey, req.LeaseId, req.Through = g.GetGroupKey(), g.GetLeaseId(), g.GetThrough()
	_, err := r.s.queue.FlushGroup(ctx, req)
	if errors.Is(err, errs.Aborted) {
		r.s.log.Info("a group has gone to another replica", "group", g.GetGroupKey(), "error", err)
		return nil
	}
	if err == nil && len(req.GetDeliveries()) > 0 {
		r.s.wake()
	}
	return err
}

func (r *round) postpone(ctx context.Context, g *notificationv1.ClaimedGroup, until time.Time) error {
	return r.flush(ctx, g, &notificationv1.FlushGroupRequest{PostponeTime: timestamppb.New(until)})
}

// deliveries are those of a message, to each receiver of the group.
func (r *round) deliveries(g *notificationv1.ClaimedGroup, m *notificationv1.Message, silence string) []*notificationv1.Delivery {
	m.Time = timestamppb.New(r.s.now())
	out := make([]*notificationv1.Delivery, len(g.GetReceivers()))
	for i, receiver := range g.GetReceivers() {
		out[i] = &notificationv1.Delivery{
			Receiver: receiver, Route: m.GetRoute(), IdempotencyKey: idempotencyKey(g.GetGroupKey(), g.GetNumber(), receiver),
			Message: m, Summary: line(m, g.GetSilenced()), SilenceId: silence,
		}
	}
	return out
}

func newPool(route *route, g *notificationv1.ClaimedGroup) *pool {
	return &pool{route: route, main: g, message: g.GetMessage(), others: map[string]*notificationv1.ClaimedGroup{}}
}

func (p *pool) add(g *notificationv1.ClaimedGroup) {
	merge(p.message, g.GetMessage())
	g.Message = nil
	p.others[g.GetGroupKey()] = g
}

// summarize tells each pool as one message.
func (r *round) summarize(ctx context.Context) error {
	var all []error
	for key, p := range r.pools {
		delete(r.pools, key)
		absorbed := map[string]int64{}
		for key, g := range p.others {
			absorbed[key] = g.GetThrough()
		}
		p.message.Kind = notificationv1.MessageKind_MESSAGE_KIND_SUMMARY
		err := r.flush(ctx, p.main, &notificationv1.FlushGroupRequest{
			Deliveries: r.deliveries(p.main, p.message, ""), Absorbed: absorbed, RepeatTime: p.route.repeatTime(p.message, r.s.now()), SentBelow: p.route.hourly() + 1,
		})
		if errs.Reason(err) == reasonSent {
			err = nil
			until := r.s.now().Add(overRest)
			for _, g := range append([]*notificationv1.ClaimedGroup{p.main}, slices.Collect(maps.Values(p.others))...) {
				if err = r.postpone(ctx, g, until); err != nil {
					break
				}
			}
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

func (r *route) repeats() time.Duration {
	if r.digest != nil {
		return 0
	}
	return r.GetRepeatInterval().AsDuration()
}

// repeatTime is when a group is told again if nothing new comes; nil: never.
func (r *route) repeatTime(m *notificationv1.Message, now time.Time) *timestamppb.Timestamp {
	if r.repeats() == 0 || m.GetOpenFindings() == 0 {
		return nil
	}
	return timestamppb.New(now.Add(r.repeats()))
}

// silencedGroup is the id of a silence that covers whatever has these values,
// or "".
func (p *policy) silencedGroup(group map[string]string, now time.Time) string {
	value := func(name string) any {
		text, ok := group[name]
		if !ok {
			return nil
		}
		if f := filter.Notices[name]; f.Kind == filter.Enum || f.Kind == filter.Rank {
			return f.Values[text]
		}
		return text
	}
	for _, x := range p.silences {
		if !now.Before(x.GetStartTime().AsTime()) && now.Before(x.GetExpireTime().AsTime()) && x.where.Match(value) {
			return x.GetId()
		}
	}
	return ""
}

// trend adds to a digest what is open and what became of it day by day, within
// what route and group are about.
func (s *Service) trend(ctx context.Context, route *route, m *notificationv1.Message) error {
	open := `(state = "OPEN" OR state = "REOPENED")`
	if within := route.terms(m, "account", "rule_id", "category", "region", "severity", "owner"); within != "" {
		open += " AND " + within
	}
	sums, err := s.findings.SummarizeFindings(ctx, &findingv1.SummarizeFindingsRequest{Filter: open})
	if err == nil {
		m.Totals = sums.GetTotals()
		days := 14
		if route.digest.weekday > 0 {
			days = 28
		}
		var resp *findingv1.ListFindingDaysResponse
		resp, err = s.findings.ListFindingDays(ctx, &findingv1.ListFindingDaysRequest{
			Filter: route.terms(m, "account", "rule_id", "category", "region"), StartDate: s.now().UTC().AddDate(0, 0, 1-days).Format(time.DateOnly), EndDate: s.now().UTC().Format(time.DateOnly),
		})
		m.Days = resp.GetDays()
	}
	if errors.Is(err, errs.InvalidArgument) { // telling what happened matters more
		s.log.Error("a digest has no totals", "route", route.GetName(), "error", err)
		return nil
	}
	return err
}

// terms are those of route and group that ask for nothing but these fields, as
// a filter.
func (r *route) terms(m *notificationv1.Message, fields ...string) string {
	var all []string
	if within := r.where.Within(fields...); within != nil {
		all = append(all, within.String())
	}
	for _, name := range fields {
		if v, ok := m.GetGroup()[name]; ok {
			all = append(all, fmt.Sprintf("%s = %q", name, v))
		}
	}
	return strings.Join(all, " AND ")
}
