package persistence

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// queueModel is what the queue is to do, said as plainly as possible.
type queueModel struct {
	groups     map[string]*queueGroup
	open       map[string]string // group by finding; absent: closed
	openTime   map[string]time.Time
	deliveries []*queueDelivery // in the order in which they were made
	health     map[string]*queueHealth
	paused     map[string]bool
	told       map[string]int // by group and event: in how many deliveries to the first receiver
}

type queueEvent struct {
	id      string
	due     time.Time
	urgent  bool
	silence bool
}

type queueGroup struct {
	receivers   []string
	seen        map[string]bool
	waiting     []queueEvent
	due, repeat time.Time // zero: none
	last        time.Time
	number      int64
	lease       string
	until       time.Time
	claimed     int // of waiting
}

type queueDelivery struct {
	id, receiver, group, lease string
	state                      notificationv1.DeliveryState
	next, until                time.Time
}

type queueHealth struct {
	open        bool
	failures    int
	retry, hold time.Time
}

const queueSpacing = 3 * time.Minute

func (m *queueModel) add(g *notificationv1.GroupedNotice, now time.Time) bool {
	q := m.groups[g.GetGroupKey()]
	if q == nil {
		q = &queueGroup{receivers: g.GetReceivers(), seen: map[string]bool{}}
		m.groups[g.GetGroupKey()] = q
	}
	id := g.GetNotice().GetEventId()
	if q.seen[id] {
		return false
	}
	q.seen[id] = true
	e := queueEvent{id, g.GetDueTime().AsTime(), g.GetUrgent(), g.GetSilenceId() != ""}
	was := len(q.waiting)
	q.waiting = append(q.waiting, e)
	due := latest(e.due, q.last.Add(queueSpacing))
	if q.last.IsZero() {
		due = e.due
	}
	if was == 0 || e.urgent && due.Before(q.due) {
		q.due = due
	}
	finding, when := g.GetNotice().GetFinding().GetId(), g.GetNotice().GetTime().AsTime()
	if !when.Before(m.openTime[finding]) {
		m.openTime[finding] = when
		delete(m.open, finding)
		if g.GetNotice().GetEvent() != "FindingResolved" {
			m.open[finding] = g.GetGroupKey()
		}
	}
	return true
}

func (m *queueModel) openIn(key string) (n int64) {
	for _, k := range m.open {
		if k == key {
			n++
		}
	}
	return n
}

// ready are the groups that are to be claimed now.
func (m *queueModel) ready(now time.Time) []string {
	var keys []string
	for key, q := range m.groups {
		if q.lease != "" && q.until.After(now) {
			continue
		}
		if q.due.IsZero() && !q.repeat.IsZero() && !q.repeat.After(now) && m.openIn(key) == 0 {
			q.repeat = time.Time{}
		}
		next := q.due
		if next.IsZero() {
			next = q.repeat
		}
		if !next.IsZero() && !next.After(now) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// flushed moves a group behind what was claimed.
func (q *queueGroup) flushed(now time.Time, spoken, made bool, repeat time.Time) {
	q.waiting = slices.Clone(q.waiting[q.claimed:])
	q.lease, q.claimed, q.due, q.repeat = "", 0, time.Time{}, repeat
	if made {
		q.number++
	}
	if spoken {
		q.last = now
	}
	for i, e := range q.waiting {
		if i == 0 || e.urgent && e.due.Before(q.due) {
			q.due = e.due
		}
	}
	if len(q.waiting) > 0 && !q.last.IsZero() {
		q.due = latest(q.due, q.last.Add(queueSpacing))
	}
}

// heads are the deliveries that are to be handed out now.
func (m *queueModel) heads(now time.Time) []*queueDelivery {
	var heads []*queueDelivery
	lanes := map[string]bool{}
	for _, d := range m.deliveries {
		if d.state != notificationv1.DeliveryState_DELIVERY_STATE_PENDING || lanes[d.receiver+d.group] {
			continue
		}
		lanes[d.receiver+d.group] = true
		h := m.of(d.receiver)
		if m.paused[d.receiver] || d.next.After(now) || d.lease != "" && d.until.After(now) || h.hold.After(now) || h.open && h.retry.After(now) {
			continue
		}
		heads = append(heads, d)
	}
	slices.SortStableFunc(heads, func(a, b *queueDelivery) int { return a.next.Compare(b.next) })
	alone := map[string]bool{}
	return slices.DeleteFunc(heads, func(d *queueDelivery) bool {
		another := m.of(d.receiver).open && alone[d.receiver]
		alone[d.receiver] = true
		return another
	})
}

func (m *queueModel) of(receiver string) *queueHealth {
	if m.health[receiver] == nil {
		m.health[receiver] = &queueHealth{}
	}
	return m.health[receiver]
}

func TestQueueIsAsItsModel(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, Migrate)
	c := &clock{}
	var replicas []*Service
	for range 2 {
		s, _ := replica(t, dsn)
		s.now = c.now
		replicas = append(replicas, s)
	}
	for _, name := range []string{"one", "two"} {
		setReceiver(t, replicas[0], slackTo(name))
	}
	setRoute(t, replicas[0], &notificationv1.Route{Name: "everything", Receivers: []string{"one"}})
	shapes := map[string][]string{"a": {"one"}, "b": {"one", "two"}, "c": {"mailto:ops@example.com"}}

	rapid.Check(t, func(r *rapid.T) {
		if _, err := replicas[0].bun.NewRaw("DELETE FROM notice_groups; DELETE FROM deliveries; DELETE FROM receiver_health").Exec(t.Context()); err != nil {
			r.Fatal(err)
		}
		c.set(epoch)
		m := &queueModel{groups: map[string]*queueGroup{}, open: map[string]string{}, openTime: map[string]time.Time{}, health: map[string]*queueHealth{}, paused: map[string]bool{}, told: map[string]int{}}
		type groupClaim struct {
			*notificationv1.ClaimedGroup
			events []queueEvent
		}
		var (
			groups  []groupClaim
			handed  []*notificationv1.ClaimedDelivery
			some    = func() *Service { return rapid.SampledFrom(replicas).Draw(r, "replica") }
			lease   = func() time.Duration { return time.Duration(rapid.IntRange(1, 4).Draw(r, "lease")) * time.Minute }
			content = map[string][]string{} // of deliveries
		)
		claim := func(r *rapid.T) {
			now, d := c.now(), lease()
			want := m.ready(now)
			resp, err := some().ClaimGroups(t.Context(), &notificationv1.ClaimGroupsRequest{Limit: 100, Lease: durationpb.New(d)})
			if err != nil {
				r.Fatal(err)
			}
			var got []string
			for _, g := range resp.GetGroups() {
				got = append(got, g.GetGroupKey())
				q := m.groups[g.GetGroupKey()]
				if q == nil {
					r.Fatalf("claimed %s, which there is not", g.GetGroupKey())
				}
				q.lease, q.until, q.claimed = g.GetLeaseId(), now.Add(d), len(q.waiting)
				groups = append(groups, groupClaim{g, slices.Clone(q.waiting)})
				var loud []string
				for _, e := range q.waiting {
					if !e.silence {
						loud = append(loud, e.id)
					}
				}
				told := eventIDs(g.GetMessage())
				slices.Sort(told)
				slices.Sort(loud)
				if !slices.Equal(told, loud) || g.GetMessage().GetEvents() != int64(len(loud)) || g.GetSilenced() != int64(len(q.waiting)-len(loud)) {
					r.Fatalf("claim tells %v and %d silenced, want %v of %d", told, g.GetSilenced(), loud, len(q.waiting))
				}
				if g.GetRepeat() != q.due.IsZero() || g.GetNumber() != q.number+1 || g.GetMessage().GetOpenFindings() != m.openIn(g.GetGroupKey()) {
					r.Fatalf("claim %v; model %+v, open %d", g, q, m.openIn(g.GetGroupKey()))
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				r.Fatalf("claimed %v, want %v", got, want)
			}
		}
		flush := func(r *rapid.T, i int, postpone bool) {
			g := groups[i]
			groups = slices.Delete(groups, i, i+1)
			now, q := c.now(), m.groups[g.GetGroupKey()]
			req := &notificationv1.FlushGroupRequest{GroupKey: g.GetGroupKey(), LeaseId: g.GetLeaseId(), Through: g.GetThrough()}
			var repeat time.Time
			switch {
			case postpone:
				req.PostponeTime = timestamppb.New(now.Add(10 * time.Minute))
			default:
				if rapid.Bool().Draw(r, "repeats") {
					repeat = now.Add(20 * time.Minute)
					req.RepeatTime = timestamppb.New(repeat)
				}
				for _, to := range g.GetReceivers() {
					d := &notificationv1.Delivery{Receiver: to, Message: g.GetMessage()}
					if g.GetMessage().GetEvents() == 0 && !g.GetRepeat() {
						d.SilenceId = g.GetSilenceId()
					}
					req.Deliveries = append(req.Deliveries, d)
				}
			}
			resp, err := some().FlushGroup(t.Context(), req)
			if q.lease != g.GetLeaseId() {
				if !errors.Is(err, errs.Aborted) {
					r.Fatalf("flush of a lost lease: %v, %v", resp, err)
				}
				return
			}
			if err != nil {
				r.Fatal(err)
			}
			if rapid.Bool().Draw(r, "again") {
				again, err := some().FlushGroup(t.Context(), req)
				if err != nil || !slices.Equal(again.GetDeliveryIds(), resp.GetDeliveryIds()) {
					r.Fatalf("flush again: %v, %v, want %v", again, err, resp)
				}
			}
			if postpone {
				q.lease, q.claimed = "", 0
				if q.due.IsZero() {
					q.repeat = req.GetPostponeTime().AsTime()
				} else {
					q.due = req.GetPostponeTime().AsTime()
				}
				return
			}
			spoken := g.GetMessage().GetEvents() > 0 || g.GetRepeat()
			for _, e := range g.events {
				m.told[g.GetGroupKey()+e.id]++
			}
			for i, id := range resp.GetDeliveryIds() {
				d := &queueDelivery{id: id, receiver: g.GetReceivers()[i], group: g.GetGroupKey(), state: notificationv1.DeliveryState_DELIVERY_STATE_PENDING, next: now}
				if !spoken {
					d.state = notificationv1.DeliveryState_DELIVERY_STATE_SILENCED
				}
				m.deliveries = append(m.deliveries, d)
				content[id] = eventIDs(g.GetMessage())
			}
			q.flushed(now, spoken, true, repeat)
		}
		send := func(r *rapid.T) {
			now, d := c.now(), lease()
			want := m.heads(now)
			resp, err := some().ClaimDeliveries(t.Context(), &notificationv1.ClaimDeliveriesRequest{Limit: 100, Lease: durationpb.New(d)})
			if err != nil {
				r.Fatal(err)
			}
			var got, ids []string
			for _, x := range resp.GetDeliveries() {
				got = append(got, x.GetDelivery().GetId())
				if x.GetReceiver().GetName() != x.GetDelivery().GetReceiver() {
					r.Fatalf("claimed %v", x)
				}
				if !slices.Equal(eventIDs(x.GetDelivery().GetMessage()), content[x.GetDelivery().GetId()]) {
					r.Fatalf("delivery %v, want events %v", x, content[x.GetDelivery().GetId()])
				}
			}
			for _, x := range want {
				ids = append(ids, x.id)
				x.lease, x.until = "", now.Add(d)
				if h := m.of(x.receiver); h.open {
					h.retry = now.Add(d)
				}
			}
			for _, x := range resp.GetDeliveries() {
				for _, y := range want {
					if y.id == x.GetDelivery().GetId() {
						y.lease = x.GetLeaseId()
					}
				}
			}
			slices.Sort(got)
			slices.Sort(ids)
			if !slices.Equal(got, ids) {
				r.Fatalf("handed out %v, want %v", got, ids)
			}
			handed = append(handed, resp.GetDeliveries()...)
		}
		finish := func(r *rapid.T, i int, how string) {
			x, now := handed[i], c.now()
			handed = slices.Delete(handed, i, i+1)
			d := m.deliveries[slices.IndexFunc(m.deliveries, func(d *queueDelivery) bool { return d.id == x.GetDelivery().GetId() })]
			req := &notificationv1.FinishDeliveryRequest{Id: d.id, LeaseId: x.GetLeaseId(), Attempt: &notificationv1.Attempt{Ok: how == "ok"}}
			switch how {
			case "receiver":
				req.ReceiverFailed, req.NextAttemptTime = true, timestamppb.New(now.Add(30*time.Second))
			case "message":
				req.NextAttemptTime = timestamppb.New(now.Add(2 * time.Minute))
			case "busy":
				req.ReceiverFailed, req.NextAttemptTime, req.ReceiverRetryTime = true, timestamppb.New(now), timestamppb.New(now.Add(5*time.Minute))
			}
			resp, err := some().FinishDelivery(t.Context(), req)
			if d.lease != x.GetLeaseId() {
				if !errors.Is(err, errs.Aborted) {
					r.Fatalf("finish of a lost lease: %v, %v", resp, err)
				}
				return
			}
			if err != nil {
				r.Fatal(err)
			}
			d.lease = ""
			h := m.of(d.receiver)
			if how == "busy" {
				h.hold = latest(h.hold, now.Add(5*time.Minute))
			}
			switch {
			case how == "ok":
				d.state = notificationv1.DeliveryState_DELIVERY_STATE_DELIVERED
				h.open, h.failures, h.retry = false, 0, time.Time{}
			case req.NextAttemptTime == nil:
				d.state = notificationv1.DeliveryState_DELIVERY_STATE_DEAD
			default:
				d.next = req.GetNextAttemptTime().AsTime()
			}
			if req.GetReceiverFailed() {
				h.failures++
			}
			// Whether a failure while the breaker is open is that of the one delivery that was tried is the queue's to know; what
			// is asked of it is said here: it stays open, and not for ever.
			switch got := resp.GetHealth(); {
			case int(got.GetConsecutiveFailures()) != h.failures:
				r.Fatalf("health %v, want %d failures", got, h.failures)
			case (got.GetBreaker() != notificationv1.BreakerState_BREAKER_STATE_CLOSED) != (h.open || h.failures >= 5):
				r.Fatalf("health %v after %d failures, open %v", got, h.failures, h.open)
			case got.GetBreaker() != notificationv1.BreakerState_BREAKER_STATE_CLOSED:
				if !h.open && !got.GetRetryTime().AsTime().Equal(now.Add(time.Minute)) {
					r.Fatalf("health %v: opened at %v for another time than a minute", got, now)
				}
				if got.GetRetryTime().AsTime().After(now.Add(30 * time.Minute)) {
					r.Fatalf("health %v: open for more than half an hour from %v", got, now)
				}
				h.open, h.retry = true, got.GetRetryTime().AsTime()
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"add": func(r *rapid.T) {
				var notices []*notificationv1.GroupedNotice
				var want int64
				for range rapid.IntRange(1, 4).Draw(r, "n") {
					group := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "group")
					when := c.now().Add(time.Duration(rapid.IntRange(0, 3).Draw(r, "when")) * time.Minute)
					event := rapid.SampledFrom([]string{"FindingOpened", "FindingResolved"}).Draw(r, "event")
					notices = append(notices, grouped(group, event, fmt.Sprint("f", rapid.IntRange(0, 3).Draw(r, "finding")), when, func(g *notificationv1.GroupedNotice) {
						g.Receivers, g.Interval = shapes[group], durationpb.New(queueSpacing)
						g.Urgent = rapid.IntRange(0, 4).Draw(r, "urgent") == 0
						if rapid.IntRange(0, 3).Draw(r, "silenced") == 0 {
							g.SilenceId = "s"
						}
					}))
				}
				// Two of one id are the same event.
				for i, n := range notices {
					for _, o := range notices[:i] {
						if o.GetNotice().GetEventId() == n.GetNotice().GetEventId() && o.GetGroupKey() == n.GetGroupKey() {
							n.SilenceId, n.Urgent = o.GetSilenceId(), o.GetUrgent()
						}
					}
				}
				for _, n := range notices {
					if m.add(n, c.now()) {
						want++
					}
				}
				got, err := some().AddNotices(t.Context(), &notificationv1.AddNoticesRequest{Notices: notices})
				if err != nil || got.GetAdded() != want {
					r.Fatalf("added %v, %v, want %d", got, err, want)
				}
			},
			"wait":  func(r *rapid.T) { c.advance(time.Duration(rapid.IntRange(1, 300).Draw(r, "seconds")) * time.Second) },
			"claim": claim,
			"flush": func(r *rapid.T) {
				if len(groups) == 0 {
					r.Skip()
				}
				flush(r, rapid.IntRange(0, len(groups)-1).Draw(r, "claim"), rapid.IntRange(0, 3).Draw(r, "postpone") == 0)
			},
			"send": send,
			"finish": func(r *rapid.T) {
				if len(handed) == 0 {
					r.Skip()
				}
				finish(r, rapid.IntRange(0, len(handed)-1).Draw(r, "delivery"), rapid.SampledFrom([]string{"ok", "receiver", "receiver", "message", "dead", "busy"}).Draw(r, "how"))
			},
			"crash": func(r *rapid.T) { groups, handed = nil, nil },
			"pause": func(r *rapid.T) {
				m.paused["two"] = !m.paused["two"]
				p := slackTo("two")
				p.Paused = m.paused["two"]
				if _, err := some().SetReceiver(t.Context(), &notificationv1.SetReceiverRequest{Receiver: p}); err != nil {
					r.Fatal(err)
				}
			},
		})
		// In the end everything is told, and once.
		groups, handed = nil, nil
		if m.paused["two"] {
			m.paused["two"] = false
			setReceiver(t, replicas[0], slackTo("two"))
		}
		for n := 0; ; n++ {
			waiting := func(d *queueDelivery) bool { return d.state == notificationv1.DeliveryState_DELIVERY_STATE_PENDING }
			left := slices.ContainsFunc(m.deliveries, waiting)
			for _, q := range m.groups {
				left = left || len(q.waiting) > 0
			}
			if !left {
				break
			}
			if n > 200 {
				r.Fatalf("there is no end: %+v", m.deliveries)
			}
			c.advance(10 * time.Minute)
			claim(r)
			for len(groups) > 0 {
				flush(r, 0, false)
			}
			send(r)
			for len(handed) > 0 {
				finish(r, 0, "ok")
			}
		}
		for key, q := range m.groups {
			for _, id := range slices.Sorted(maps.Keys(q.seen)) {
				if m.told[key+id] != 1 {
					r.Fatalf("event %s of group %s was told %d times", id, key, m.told[key+id])
				}
			}
		}
	})
}

func TestQueueUnderManyHands(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, Migrate)
	first, _ := replica(t, dsn)
	second, _ := replica(t, dsn)
	oncall(t, first)
	const events, groups = 100, 5
	var (
		mu   sync.Mutex
		told = map[string]int{}
		last = map[string]int64{} // number by group
		g    errgroup.Group
	)
	when := time.Now().Add(-time.Minute)
	for w, s := range []*Service{first, second, first, second} {
		g.Go(func() error {
			for i := range events {
				// Everybody adds everything, in another order.
				n := (i*7 + w*31) % events
				notice := grouped(fmt.Sprint(n%groups), "FindingOpened", fmt.Sprintf("f%d", n), when, func(g *notificationv1.GroupedNotice) { g.Interval = durationpb.New(0) })
				other := grouped(fmt.Sprint((n+1)%groups), "FindingOpened", fmt.Sprintf("f%d", n), when)
				if _, err := s.AddNotices(t.Context(), &notificationv1.AddNoticesRequest{Notices: []*notificationv1.GroupedNotice{notice, other}}); err != nil {
					return err
				}
				if i%10 != 0 {
					continue
				}
				claimed, err := s.ClaimGroups(t.Context(), &notificationv1.ClaimGroupsRequest{Limit: 3, Lease: aMinute})
				if err != nil {
					return err
				}
				for _, c := range claimed.GetGroups() {
					req := flushOf(c)
					req.Deliveries[0].Summary = fmt.Sprint(c.GetNumber())
					mu.Lock()
					told[c.GetGroupKey()] += int(c.GetMessage().GetEvents())
					mu.Unlock()
					if _, err := s.FlushGroup(t.Context(), req); err != nil {
						return err
					}
				}
				sending, err := s.ClaimDeliveries(t.Context(), &notificationv1.ClaimDeliveriesRequest{Limit: 3, Lease: aMinute})
				if err != nil {
					return err
				}
				for _, d := range sending.GetDeliveries() {
					var number int64
					_, _ = fmt.Sscan(d.GetDelivery().GetSummary(), &number)
					key := d.GetDelivery().GetMessage().GetGroupKey()
					mu.Lock()
					before := last[key]
					last[key] = number
					mu.Unlock()
					if number != before+1 {
						return fmt.Errorf("message %d of group %s went out after %d", number, key, before)
					}
					if _, err := s.FinishDelivery(t.Context(), &notificationv1.FinishDeliveryRequest{Id: d.GetDelivery().GetId(), LeaseId: d.GetLeaseId(), Attempt: &notificationv1.Attempt{Ok: true}}); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for {
		claimed := claimGroups(t, first)
		if len(claimed.GetGroups()) == 0 {
			break
		}
		for _, c := range claimed.GetGroups() {
			told[c.GetGroupKey()] += int(c.GetMessage().GetEvents())
			flush(t, first, flushOf(c))
		}
	}
	for n := range groups {
		if got := told[keyOfGroup(fmt.Sprint(n))]; got != 2*events/groups {
			t.Errorf("%d events of group %d were told, want %d", got, n, 2*events/groups)
		}
	}
}
