package notification

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

const (
	// eventBatch is how many events are routed and stored together.
	eventBatch = 500
	// addLimit and addBytes bound one AddNotices: a server takes no request above 4 MiB.
	addLimit = 1000
	addBytes = 2 << 20
	// noticeBytes bounds an event in the queue: 25 of them make a message, and some messages an answer.
	noticeBytes = 16 << 10
)

// about is an event about a finding.
type about interface {
	proto.Message
	GetFinding() *findingv1.Finding
}

// consume registers the handlers.
func (s *Service) consume(b *bus.Bus) {
	finding[*findingv1.FindingOpened](s, b)
	finding[*findingv1.FindingChanged](s, b)
	finding[*findingv1.FindingResolved](s, b)
	finding[*findingv1.FindingReopened](s, b)
	finding[*findingv1.FindingExempted](s, b)
	finding[*findingv1.FindingAcknowledged](s, b)
	finding[*findingv1.FindingUnacknowledged](s, b)
	finding[*findingv1.FindingAssigned](s, b)
	finding[*findingv1.FindingCommented](s, b)
	finding[*findingv1.FindingOrphaned](s, b)
	finding[*findingv1.FindingReclaimed](s, b)
	on(s, b, func(m *findingv1.FindingsHeld) *notificationv1.Notice {
		return &notificationv1.Notice{Hold: m.GetHold(), Time: m.GetHold().GetTime()}
	})
	on(s, b, func(m *runv1.RunAlertRaised) *notificationv1.Notice {
		return &notificationv1.Notice{Run: m.GetRun(), Consecutive: m.GetConsecutive(), Time: m.GetRun().GetEndTime()}
	})
	on(s, b, func(m *healthv1.ComponentChanged) *notificationv1.Notice {
		t := m.GetTransition()
		if t.GetFromState() == healthv1.ComponentState_COMPONENT_STATE_UNSPECIFIED && t.GetToState() == healthv1.ComponentState_COMPONENT_STATE_UP {
			return nil // the first look, and all is well
		}
		c := proto.CloneOf(m.GetComponent())
		if c == nil {
			c = &healthv1.Component{}
		}
		c.Name, c.State, c.Reason, c.SinceTime = t.GetComponent(), t.GetToState(), t.GetReason(), t.GetTime() // as of then
		return &notificationv1.Notice{Component: c, Time: t.GetTime()}
	})
}

// finding has events of type T told.
func finding[T about](s *Service, b *bus.Bus) {
	on(s, b, func(m T) *notificationv1.Notice {
		n := &notificationv1.Notice{Finding: proto.CloneOf(m.GetFinding())}
		switch m := any(m).(type) {
		case interface{ GetTransition() *findingv1.Transition }:
			n.Transition, n.Time = proto.CloneOf(m.GetTransition()), m.GetTransition().GetTime()
		case *findingv1.FindingReclaimed:
			n.Time = m.GetTime()
		case *findingv1.FindingOrphaned:
			n.Time = m.GetOrphan().GetTime()
		}
		slim(n)
		return n
	})
}

// slim leaves out what no message tells.
func slim(n *notificationv1.Notice) {
	f := n.GetFinding()
	f.Evidence, f.Parameters = nil, nil
	if n.GetTransition() != nil {
		n.Transition.Evidence = nil
	}
	if proto.Size(n) > noticeBytes && f.GetResource() != nil {
		f.Resource.Tags = nil // the one part without a bound worth the name
	}
}

// on has events of type T told. A nil notice is told to nobody.
func on[T proto.Message](s *Service, b *bus.Bus, notice func(T) *notificationv1.Notice) {
	var zero T
	event := string(zero.ProtoReflect().Descriptor().Name())
	bus.OnBatch(b, eventBatch, func(ctx context.Context, batch []*bus.Message[T]) []error {
		notices := make([]*notificationv1.Notice, 0, len(batch))
		for _, m := range batch {
			n := notice(m.Body)
			if n == nil {
				continue
			}
			n.EventId, n.Event = m.ID, event
			if !n.GetTime().IsValid() {
				n.Time = timestamppb.New(m.Time)
			}
			notices = append(notices, n)
		}
		return slices.Repeat([]error{s.add(ctx, notices)}, len(batch))
	}, bus.Concurrency(2))
}

// add puts events into the groups of their routes. It can be done again.
func (s *Service) add(ctx context.Context, notices []*notificationv1.Notice) error {
	p, err := s.policy(ctx)
	if err != nil {
		return later(err)
	}
	now := s.now()
	var part []*notificationv1.GroupedNotice
	bytes := 0
	send := func() error {
		if len(part) == 0 {
			return nil
		}
		_, err := s.queue.AddNotices(ctx, &notificationv1.AddNoticesRequest{Notices: part})
		part, bytes = nil, 0
		return later(err)
	}
	for _, n := range notices {
		for _, g := range p.grouped(n, now) {
			size := proto.Size(g)
			if len(part) == addLimit || bytes+size > addBytes {
				if err := send(); err != nil {
					return err
				}
			}
			part, bytes = append(part, g), bytes+size
		}
	}
	return send()
}

// grouped are the places of an event in the queue.
func (p *policy) grouped(n *notificationv1.Notice, now time.Time) []*notificationv1.GroupedNotice {
	var out []*notificationv1.GroupedNotice
	taken := map[string]bool{}
	for _, v := range p.judge(n, now) {
		if !v.takes || len(v.receivers) == 0 {
			continue
		}
		taken[v.route.GetName()] = true
		out = append(out, &notificationv1.GroupedNotice{
			Route: v.route.GetName(), Receivers: v.receivers, GroupKey: groupKey(v.route.GetName(), v.receivers, v.group), Group: v.group, Notice: n,
			DueTime: timestamppb.New(v.due), Interval: durationpb.New(v.route.interval()), Urgent: v.urgent, SilenceId: v.silence,
		})
	}
	if !ends(n) {
		return out
	}
	// Who heard of the finding hears of its end, also where the filter or an earlier route would not have it any more, since its
	// severity, cost or owner is another now.
	for _, r := range p.routes {
		if taken[r.GetName()] || r.broken != nil {
			continue
		}
		due, urgent, _ := r.due(n, now)
		out = append(out, &notificationv1.GroupedNotice{
			Route: r.GetName(), GroupKey: groupKey(r.GetName(), nil, nil), Notice: n, DueTime: timestamppb.New(due), Interval: durationpb.New(r.interval()), Urgent: urgent,
			SilenceId: p.silenced(n, now), Ending: true, Untold: r.where.Asks("event") || r.GetPaused() || !news(n),
		})
	}
	return out
}

// ends says whether a finding is open no more after the event.
func ends(n *notificationv1.Notice) bool {
	switch n.GetEvent() {
	case "FindingResolved", "FindingExempted", "FindingOrphaned":
		return true
	}
	return false
}

// later is the verdict on messages that could not be stored: none is to blame
// for persistence being away.
func later(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errs.InvalidArgument), errors.Is(err, errs.Internal), errors.Is(err, errs.PermissionDenied), errors.Is(err, errs.Unimplemented):
		return err
	}
	return fmt.Errorf("%w: %w", bus.Later(max(errs.RetryDelay(err), time.Second)), err)
}
