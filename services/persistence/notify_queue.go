package persistence

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/errs"
)

// The queue of what is to be told. Events wait in groups (notices); a group
// whose time has come is claimed, and flushed, which makes deliveries of its
// events; what happens to those is in notify_delivery.go.
//
// A flush moves the place up to which a group is told and touches no event:
// they stay for as long as they may come again, and are removed by the cleanup.
//
// Locks are taken in this order: rows of notice_groups in the order of their
// keys, or without waiting; routes and receivers, shared, so that they stay;
// rows of deliveries, one or without waiting; rows of receiver_health.
const (
	noticesListed  = 25 // of a message
	countsListed   = 10 // of rules and accounts of a message
	ratePeriod     = time.Hour
	waitingNotices = "n.group_id = ANY(?0) AND n.seq > g.told AND n.seq <= g.lease_told"
)

// noticeColumns are those of staged_notices.
var noticeColumns = []string{"n", "key", "route", "receivers", "labels", "spacing", "event_id", "event_time", "due_time", "urgent", "silence_id", "event",
	"rank", "finding_id", "severity", "rule_id", "account", "waste", "cost_low", "cost_high", "open", "ending", "untold", "notice"}

const (
	createStagedNotices = `
		CREATE TEMP TABLE IF NOT EXISTS staged_notices (
			n integer, key text COLLATE "C", route text COLLATE "C", receivers text[] COLLATE "C", labels jsonb, spacing double precision,
			event_id text COLLATE "C", event_time timestamptz, due_time timestamptz, urgent boolean, silence_id text COLLATE "C", event text COLLATE "C",
			rank smallint, finding_id text COLLATE "C", severity smallint, rule_id text COLLATE "C", account text COLLATE "C", waste boolean,
			cost_low double precision, cost_high double precision, open boolean, ending boolean, untold boolean, notice bytea
		) ON COMMIT DELETE ROWS`
	// The order is that of the keys for everyone, so that nobody waits for who waits for him.
	lockNoticeGroups = `
		INSERT INTO notice_groups AS g (key, route, receivers, labels, spacing, create_time)
		SELECT DISTINCT ON (key) key, route, receivers, labels, spacing, ?::timestamptz FROM staged_notices ORDER BY key, n DESC
		ON CONFLICT (key) DO UPDATE SET spacing = EXCLUDED.spacing`
	// An event that is there already changes nothing, nor whether its finding is open: it has been said.
	addNotices = `
		WITH added AS (
			INSERT INTO notices AS a (group_id, event_id, add_time, event_time, due_time, urgent, silence_id, event, rank, finding_id, severity,
				rule_id, account, waste, cost_low, cost_high, notice)
			SELECT g.id, s.event_id, ?0::timestamptz, s.event_time, s.due_time, s.urgent, s.silence_id, s.event, s.rank, s.finding_id, s.severity,
				s.rule_id, s.account, s.waste, s.cost_low, s.cost_high, s.notice
			FROM staged_notices s JOIN notice_groups g USING (key) ORDER BY s.n
			ON CONFLICT (group_id, event_id) DO NOTHING
			RETURNING group_id, event_id, seq, due_time, urgent
		), first AS (
			SELECT DISTINCT ON (group_id) group_id, due_time FROM added ORDER BY group_id, seq
		), urgent AS (
			SELECT group_id, min(due_time) AS due_time FROM added WHERE urgent GROUP BY group_id
		), waiting AS (
			UPDATE notice_groups g SET due_time = least(
				CASE WHEN g.due_time IS NOT NULL THEN g.due_time ELSE greatest(f.due_time, g.last_message_time + make_interval(secs => g.spacing)) END,
				CASE WHEN u.due_time IS NOT NULL THEN greatest(u.due_time, g.last_message_time + make_interval(secs => g.spacing)) END)
			FROM first f LEFT JOIN urgent u USING (group_id) WHERE g.id = f.group_id
		), findings AS (
			INSERT INTO group_findings AS o (route, finding_id, group_id, open, time)
			SELECT DISTINCT ON (s.route, s.finding_id) s.route, s.finding_id, g.id, s.open, s.event_time
			FROM staged_notices s JOIN notice_groups g USING (key) JOIN added a ON a.group_id = g.id AND a.event_id = s.event_id
			WHERE s.open IS NOT NULL ORDER BY s.route, s.finding_id, s.event_time DESC, s.n DESC
			ON CONFLICT (route, finding_id) DO UPDATE SET group_id = EXCLUDED.group_id, open = EXCLUDED.open, time = EXCLUDED.time
				WHERE o.time <= EXCLUDED.time
		)
		SELECT count(*) FROM added`
)

// openBefore is the group in which the finding of an event is open before it.
const openBefore = "SELECT o.group_id FROM group_findings o WHERE o.route = s.route AND o.finding_id = s.finding_id AND o.open AND o.time <= s.event_time"

// AddNotices implements NotificationQueueService.
func (s *Service) AddNotices(ctx context.Context, req *notificationv1.AddNoticesRequest) (*notificationv1.AddNoticesResponse, error) {
	resp := &notificationv1.AddNoticesResponse{}
	if len(req.GetNotices()) == 0 {
		return resp, nil
	}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		rows := make([][]any, len(req.GetNotices()))
		for i, n := range req.GetNotices() {
			var err error
			if rows[i], err = noticeRow(i, n, tx.now); err != nil {
				return err
			}
		}
		if _, err := tx.NewRaw(createStagedNotices).Exec(ctx); err != nil {
			return err
		}
		err := tx.copyInto(ctx, "staged_notices", noticeColumns, len(rows), func(i int) ([]any, error) { return rows[i], nil })
		if err != nil {
			return err
		}
		// What is of a route that has been deleted meanwhile is told to nobody, as what waited in it.
		for _, step := range []string{
			"SELECT name FROM routes WHERE name IN (SELECT route FROM staged_notices) ORDER BY name FOR KEY SHARE",
			"DELETE FROM staged_notices s WHERE NOT EXISTS (SELECT FROM routes r WHERE r.name = s.route)",
			"DELETE FROM staged_notices s WHERE s.ending AND NOT EXISTS (" + openBefore + ")",
			"UPDATE staged_notices s SET key = g.key, receivers = g.receivers, labels = g.labels, spacing = g.spacing FROM notice_groups g WHERE s.ending AND g.id = (" + openBefore + ")",
		} {
			if _, err := tx.NewRaw(step).Exec(ctx); err != nil {
				return err
			}
		}
		if _, err := tx.NewRaw(lockNoticeGroups, tx.now).Exec(ctx); err != nil {
			return err
		}
		for _, step := range []string{
			"UPDATE group_findings o SET open = false, time = s.event_time FROM staged_notices s WHERE s.untold AND o.route = s.route AND o.finding_id = s.finding_id AND o.time <= s.event_time",
			"DELETE FROM staged_notices WHERE untold",
		} {
			if _, err := tx.NewRaw(step).Exec(ctx); err != nil {
				return err
			}
		}
		return tx.NewRaw(addNotices, tx.now).Scan(ctx, &resp.Added)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// noticeRow is a row of staged_notices.
func noticeRow(i int, g *notificationv1.GroupedNotice, now time.Time) ([]any, error) {
	n := g.GetNotice()
	bad := func(field, format string, args ...any) error {
		return errs.New(errs.InvalidArgument, "BAD_NOTICE", "the events cannot be added").Field(fmt.Sprintf("notices[%d].%s", i, field), format, args...)
	}
	due := timeOf(g.GetDueTime())
	switch {
	case n.GetEventId() == "":
		return nil, bad("notice.event_id", "is empty; it tells the event from others")
	case g.GetRoute() == "":
		return nil, bad("route", "is empty; say which route took the event")
	case due == nil:
		return nil, bad("due_time", "is missing or no time")
	}
	when := micros(now)
	if t := timeOf(n.GetTime()); t != nil {
		when = *t
	}
	labels := map[string]string{}
	for k, v := range g.GetGroup() {
		labels[clean(k)] = clean(v)
	}
	text, err := json.Marshal(labels)
	if err != nil {
		return nil, err
	}
	receivers := make([]string, len(g.GetReceivers()))
	for i, r := range g.GetReceivers() {
		receivers[i] = clean(r)
	}
	// What comes from outside may hold what text cannot; it is told as it is.
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(n)
	if err != nil {
		return nil, err
	}
	f := n.GetFinding()
	var low, high *float64
	if c := f.GetMonthlyCost(); c != nil && finite(c.GetLow()) && finite(c.GetHigh()) {
		low, high = &c.Low, &c.High
	}
	event := n.GetEvent()
	waste := f.GetCategory() == rulev1.Category_CATEGORY_WASTE && (event == "FindingOpened" || event == "FindingReopened")
	account := f.GetResource().GetAccount()
	return []any{
		int32(i), g.GetGroupKey(), clean(g.GetRoute()), receivers, text, max(0, g.GetInterval().AsDuration().Seconds()), clean(n.GetEventId()), when, *due,
		g.GetUrgent(), clean(g.GetSilenceId()), clean(event), noticeRank(n), clean(f.GetId()), int16(f.GetSeverity()), clean(f.GetRuleId()), clean(account), waste,
		low, high, opens(n), g.GetEnding(), g.GetUntold(), body,
	}, nil
}

// noticeRank orders events by how much they matter, the most last: what has
// become worse by severity, then what is over or said.
func noticeRank(n *notificationv1.Notice) int16 {
	const news = 10
	switch n.GetEvent() {
	case "FindingOpened", "FindingReopened", "FindingChanged":
		return news + int16(n.GetFinding().GetSeverity())
	case "RunAlertRaised", "FindingsHeld", "ComponentChanged":
		return news + int16(rulev1.Severity_SEVERITY_HIGH)
	}
	return int16(n.GetFinding().GetSeverity())
}

// opens says whether the finding of an event is open after it; nil: the event
// says nothing about that.
func opens(n *notificationv1.Notice) *bool {
	var open bool
	switch f := n.GetFinding(); {
	case f.GetId() == "":
		return nil
	default:
		switch n.GetEvent() {
		case "FindingOpened", "FindingReopened", "FindingChanged", "FindingReclaimed":
			open = f.GetState() != findingv1.State_STATE_RESOLVED && f.GetState() != findingv1.State_STATE_EXEMPT
		case "FindingResolved", "FindingExempted", "FindingOrphaned":
		default:
			return nil
		}
	}
	return &open
}

// noticeGroup is a row of notice_groups.
type noticeGroup struct {
	ID              int64
	Key             string
	Route           string
	Receivers       []string `bun:",array"`
	Labels          map[string]string
	DueTime         *time.Time
	RepeatTime      *time.Time
	Told            int64
	Number          int64
	LastMessageTime *time.Time
	LeaseID         string
	LeaseTold       int64
	FlushedLease    string
	FlushedIDs      []string `bun:"flushed_ids,array"`
}

// ClaimGroups implements NotificationQueueService. All groups of an answer
// have one lease, so that one flush may take in others.
func (s *Service) ClaimGroups(ctx context.Context, req *notificationv1.ClaimGroupsRequest) (*notificationv1.ClaimGroupsResponse, error) {
	limit, lease, err := claim(req.GetLimit(), req.GetLease())
	if err != nil {
		return nil, err
	}
	var resp *notificationv1.ClaimGroupsResponse
	err = s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		resp = &notificationv1.ClaimGroupsResponse{}
		// Whom there is nothing left to remind of is not reminded.
		_, err := tx.NewRaw(`
			UPDATE notice_groups SET repeat_time = NULL WHERE id IN (
				SELECT id FROM notice_groups g WHERE next_time <= ?0 AND due_time IS NULL AND (lease_time IS NULL OR lease_time <= ?0)
					AND NOT EXISTS (SELECT FROM group_findings o WHERE o.group_id = g.id AND o.open)
				FOR UPDATE SKIP LOCKED)`, tx.now).Exec(ctx)
		if err != nil {
			return err
		}
		id := newID(tx.now)
		var groups []*noticeGroup
		err = tx.NewRaw(`
			WITH due AS (
				SELECT id, next_time FROM notice_groups WHERE next_time <= ?0 AND (lease_time IS NULL OR lease_time <= ?0)
				ORDER BY next_time, id LIMIT ?1 FOR UPDATE SKIP LOCKED
			), claimed AS (
				UPDATE notice_groups g SET lease_id = ?2, lease_time = ?3,
					lease_told = greatest(g.told, (SELECT max(seq) FROM notices n WHERE n.group_id = g.id))
				FROM due WHERE g.id = due.id
				RETURNING g.id, g.key, g.route, g.receivers, g.labels, g.due_time, g.repeat_time, g.told, g.number, g.last_message_time, g.lease_told, due.next_time
			)
			SELECT id, key, route, receivers, labels, due_time, repeat_time, told, number, last_message_time, lease_told FROM claimed ORDER BY next_time, id`,
			tx.now, limit, id, tx.now.Add(lease)).Scan(ctx, &groups)
		if err != nil {
			return err
		}
		if err := tx.silenceNotices(ctx, groups); err != nil {
			return err
		}
		if resp.Groups, err = tx.describeGroups(ctx, groups, id); err != nil {
			return err
		}
		var next *time.Time
		err = tx.NewRaw("SELECT min(greatest(next_time, lease_time)) FROM notice_groups WHERE next_time IS NOT NULL AND lease_id <> ?", id).Scan(ctx, &next)
		resp.NextDueTime = timestamp(next)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// describeGroups says what is to be told of claimed groups.
func (tx *transaction) describeGroups(ctx context.Context, groups []*noticeGroup, lease string) ([]*notificationv1.ClaimedGroup, error) {
	var (
		out    []*notificationv1.ClaimedGroup
		byID   = map[int64]*notificationv1.ClaimedGroup{}
		routes = map[string]map[string]int64{} // messages by receiver
		ids    []int64
	)
	for _, g := range groups {
		c := &notificationv1.ClaimedGroup{
			GroupKey: g.Key, LeaseId: lease, Number: g.Number + 1, Receivers: g.Receivers, Through: g.LeaseTold, Repeat: g.DueTime == nil,
			LastMessageTime: timestamp(g.LastMessageTime), SentLastHour: map[string]int64{},
			Message: &notificationv1.Message{Route: g.Route, Group: g.Labels, GroupKey: g.Key, Time: timestamppb.New(micros(tx.now))},
		}
		out, ids, byID[g.ID], routes[g.Route] = append(out, c), append(ids, g.ID), c, nil
	}
	if len(groups) == 0 {
		return nil, nil
	}
	var totals []struct {
		GroupID         int64
		Events          int64
		Silenced        int64
		SilenceID       string
		Severity        rulev1.Severity
		StartTime       *time.Time
		Low, High       float64
		Unknown, Opened int64
	}
	err := tx.NewRaw(`
		SELECT g.id AS group_id, coalesce(q.events, 0) AS events, coalesce(q.silenced, 0) AS silenced, coalesce(q.silence_id, '') AS silence_id,
			coalesce(q.severity, 0) AS severity, q.start_time, coalesce(c.low, 0) AS low, coalesce(c.high, 0) AS high, coalesce(c.unknown, 0) AS unknown,
			(SELECT count(*) FROM group_findings o WHERE o.group_id = g.id AND o.open) AS opened
		FROM notice_groups g
		LEFT JOIN (
			SELECT n.group_id, count(*) FILTER (WHERE n.silence_id = '') AS events, count(*) FILTER (WHERE n.silence_id <> '') AS silenced,
				max(n.silence_id) AS silence_id, max(n.severity) FILTER (WHERE n.silence_id = '') AS severity, min(n.event_time) FILTER (WHERE n.silence_id = '') AS start_time
			FROM notices n JOIN notice_groups g ON g.id = n.group_id WHERE `+waitingNotices+` GROUP BY n.group_id
		) q ON q.group_id = g.id
		LEFT JOIN (
			SELECT group_id, sum(cost_low) AS low, sum(cost_high) AS high, count(*) FILTER (WHERE cost_high IS NULL) AS unknown
			FROM (
				SELECT DISTINCT ON (n.group_id, n.finding_id) n.group_id, n.cost_low, n.cost_high
				FROM notices n JOIN notice_groups g ON g.id = n.group_id WHERE `+waitingNotices+` AND n.silence_id = '' AND n.waste
				ORDER BY n.group_id, n.finding_id, n.event_time DESC, n.seq DESC
			) f GROUP BY group_id
		) c ON c.group_id = g.id
		WHERE g.id = ANY(?0)`, pgdialect.Array(ids)).Scan(ctx, &totals)
	if err != nil {
		return nil, err
	}
	for _, t := range totals {
		c := byID[t.GroupID]
		c.Silenced, c.SilenceId = t.Silenced, t.SilenceID
		m := c.Message
		m.Events, m.Severity, m.StartTime, m.OpenFindings = t.Events, t.Severity, timestamp(t.StartTime), t.Opened
		m.MonthlyCostLow, m.MonthlyCostHigh, m.UnknownCosts = t.Low, t.High, t.Unknown
	}
	if err := tx.countNotices(ctx, ids, byID); err != nil {
		return nil, err
	}
	var worst []struct {
		GroupID int64
		Notice  []byte
	}
	err = tx.NewRaw(`
		SELECT g.id AS group_id, w.notice FROM notice_groups g CROSS JOIN LATERAL (
			SELECT n.rank, n.cost_high, n.seq, n.notice FROM notices n
			WHERE n.group_id = g.id AND n.seq > g.told AND n.seq <= g.lease_told AND n.silence_id = ''
			ORDER BY n.rank DESC, coalesce(n.cost_high, 0) DESC, n.seq LIMIT ?1
		) w WHERE g.id = ANY(?0) ORDER BY g.id, w.rank DESC, coalesce(w.cost_high, 0) DESC, w.seq`, pgdialect.Array(ids), noticesListed).Scan(ctx, &worst)
	if err != nil {
		return nil, err
	}
	for _, w := range worst {
		n := &notificationv1.Notice{}
		if err := proto.Unmarshal(w.Notice, n); err != nil {
			return nil, err
		}
		m := byID[w.GroupID].Message
		m.Notices = append(m.Notices, n)
	}
	var sent []struct {
		Route, Receiver string
		N               int64
	}
	err = tx.NewRaw(sentLastHour+" GROUP BY route, receiver",
		pgdialect.Array(slices.Sorted(maps.Keys(routes))), tx.now.Add(-ratePeriod)).Scan(ctx, &sent)
	for _, r := range sent {
		if routes[r.Route] == nil {
			routes[r.Route] = map[string]int64{}
		}
		routes[r.Route][r.Receiver] = r.N
	}
	for _, c := range out {
		maps.Copy(c.SentLastHour, routes[c.GetMessage().GetRoute()])
	}
	return out, err
}

// countNotices counts the events of claimed groups by what they are.
func (tx *transaction) countNotices(ctx context.Context, ids []int64, byID map[int64]*notificationv1.ClaimedGroup) error {
	var counts []struct {
		GroupID  int64
		Event    *string
		Severity *rulev1.Severity
		RuleID   *string
		Account  *string
		Events   int64
	}
	err := tx.NewRaw(`
		SELECT n.group_id, n.event, CASE WHEN n.finding_id <> '' THEN n.severity END AS severity, CASE WHEN n.finding_id <> '' THEN n.rule_id END AS rule_id,
			CASE WHEN n.finding_id <> '' THEN n.account END AS account, count(*) AS events
		FROM notices n JOIN notice_groups g ON g.id = n.group_id WHERE `+waitingNotices+` AND n.silence_id = ''
		GROUP BY GROUPING SETS ((1, 2), (1, 3), (1, 4), (1, 5))`, pgdialect.Array(ids)).Scan(ctx, &counts)
	if err != nil {
		return err
	}
	type severityCount struct {
		severity rulev1.Severity
		count    *notificationv1.Count
	}
	severities := map[int64][]severityCount{}
	for _, c := range counts {
		m := byID[c.GroupID].Message
		switch {
		case c.Event != nil:
			m.ByEvent = append(m.ByEvent, &notificationv1.Count{Value: *c.Event, Events: c.Events})
		case c.Severity != nil:
			severities[c.GroupID] = append(severities[c.GroupID], severityCount{*c.Severity, &notificationv1.Count{Value: strings.TrimPrefix(c.Severity.String(), "SEVERITY_"), Events: c.Events}})
		case c.RuleID != nil:
			m.ByRule = append(m.ByRule, &notificationv1.Count{Value: *c.RuleID, Events: c.Events})
		case c.Account != nil:
			m.ByAccount = append(m.ByAccount, &notificationv1.Count{Value: *c.Account, Events: c.Events})
		}
	}
	most := func(counts []*notificationv1.Count) []*notificationv1.Count {
		slices.SortFunc(counts, func(a, b *notificationv1.Count) int {
			return cmp.Or(cmp.Compare(b.GetEvents(), a.GetEvents()), cmp.Compare(a.GetValue(), b.GetValue()))
		})
		return counts[:min(len(counts), countsListed)]
	}
	for id, c := range byID {
		m := c.Message
		slices.SortFunc(m.ByEvent, func(a, b *notificationv1.Count) int { return cmp.Compare(a.GetValue(), b.GetValue()) })
		slices.SortFunc(severities[id], func(a, b severityCount) int { return cmp.Compare(b.severity, a.severity) })
		for _, s := range severities[id] {
			m.BySeverity = append(m.BySeverity, s.count)
		}
		m.ByRule, m.ByAccount = most(m.ByRule), most(m.ByAccount)
	}
	return nil
}

// FlushGroup implements NotificationQueueService. Done again with the same
// lease it gives the same answer.
func (s *Service) FlushGroup(ctx context.Context, req *notificationv1.FlushGroupRequest) (*notificationv1.FlushGroupResponse, error) {
	var postpone, repeat *time.Time
	e := errs.New(errs.InvalidArgument, "BAD_FLUSH", "the group cannot be flushed so")
	if req.GetPostponeTime() != nil {
		if postpone = timeOf(req.GetPostponeTime()); postpone == nil {
			e.Field("postpone_time", "is no time between the years 1 and 9999")
		}
		if len(req.GetDeliveries()) > 0 || len(req.GetAbsorbed()) > 0 {
			e.Field("postpone_time", "is set together with deliveries or absorbed; a group is postponed or flushed")
		}
	}
	if req.GetRepeatTime() != nil {
		if repeat = timeOf(req.GetRepeatTime()); repeat == nil {
			e.Field("repeat_time", "is no time between the years 1 and 9999")
		}
	}
	if req.GetLeaseId() == "" {
		e.Field("lease_id", "is empty; it is in the claim")
	}
	for i, d := range req.GetDeliveries() {
		if d.GetReceiver() == "" {
			e.Field(fmt.Sprintf("deliveries[%d].receiver", i), "is empty; say where it goes")
		}
	}
	if _, ok := req.GetAbsorbed()[req.GetGroupKey()]; ok {
		e.Field("absorbed", "holds the group itself; it is flushed anyway")
	}
	if len(e.Violations()) > 0 {
		return nil, e
	}
	resp := &notificationv1.FlushGroupResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		resp.DeliveryIds = nil
		keys := append(slices.Collect(maps.Keys(req.GetAbsorbed())), req.GetGroupKey())
		var groups []*noticeGroup
		err := tx.NewRaw(`
			SELECT id, key, route, due_time, repeat_time, number, lease_id, lease_told, flushed_lease, flushed_ids FROM notice_groups
			WHERE key = ANY(?) ORDER BY key FOR UPDATE`, pgdialect.Array(keys)).Scan(ctx, &groups)
		if err != nil {
			return err
		}
		byKey := map[string]*noticeGroup{}
		for _, g := range groups {
			byKey[g.Key] = g
		}
		g := byKey[req.GetGroupKey()]
		if g != nil && g.FlushedLease == req.GetLeaseId() {
			resp.DeliveryIds = g.FlushedIDs
			return nil
		}
		if err := g.held(req.GetGroupKey(), req.GetLeaseId()); err != nil {
			return err
		}
		if postpone != nil {
			_, err := tx.NewRaw(`
				UPDATE notice_groups SET due_time = CASE WHEN due_time IS NOT NULL THEN ?1::timestamptz END,
					repeat_time = CASE WHEN due_time IS NULL THEN ?1::timestamptz ELSE repeat_time END,
					lease_id = '', lease_time = NULL, flushed_lease = ?2, flushed_ids = '{}' WHERE id = ?0`, g.ID, *postpone, req.GetLeaseId()).Exec(ctx)
			return err
		}
		if req.GetThrough() != g.LeaseTold {
			return e.Field("through", "is %d, and the claim said %d", req.GetThrough(), g.LeaseTold)
		}
		flushed := []int64{g.ID}
		for _, key := range slices.Sorted(maps.Keys(req.GetAbsorbed())) {
			other := byKey[key]
			if other == nil || other.LeaseID == "" {
				return errs.New(errs.Aborted, "LEASE_LOST", "the claim of group %s has ended; claim it again", key)
			}
			if other.Route != g.Route {
				return e.Field("absorbed", "holds group %s, which is of route %s and not of %s", key, other.Route, g.Route)
			}
			if through := req.GetAbsorbed()[key]; through != other.LeaseTold {
				return e.Field("absorbed", "holds group %s up to %d, and the claim said %d", key, through, other.LeaseTold)
			}
			flushed = append(flushed, other.ID)
		}
		if err := tx.sentBelow(ctx, g.Route, req); err != nil {
			return err
		}
		told, err := tx.makeDeliveries(ctx, g, req.GetDeliveries())
		if err != nil {
			return err
		}
		for _, d := range told {
			resp.DeliveryIds = append(resp.DeliveryIds, d.ID)
		}
		spoken := slices.ContainsFunc(told, func(d *deliveryRow) bool { return d.State != notificationv1.DeliveryState_DELIVERY_STATE_SILENCED })
		return tx.groupsTold(ctx, flushed, g.ID, req.GetLeaseId(), resp.GetDeliveryIds(), spoken, repeat)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// sentBelow refuses deliveries to a receiver that has had its messages of the
// hour. Flushes of one route wait here for each other, so that none is
// counted by nobody.
func (tx *transaction) sentBelow(ctx context.Context, route string, req *notificationv1.FlushGroupRequest) error {
	if req.GetSentBelow() == 0 || len(req.GetDeliveries()) == 0 {
		return nil
	}
	if _, err := tx.NewRaw("SELECT pg_advisory_xact_lock(hashtextextended('notify ' || ?, 0))", route).Exec(ctx); err != nil {
		return err
	}
	var receivers []string
	for _, d := range req.GetDeliveries() {
		receivers = append(receivers, clean(d.GetReceiver()))
	}
	var most int64
	err := tx.NewRaw("SELECT coalesce(max(n), 0) FROM ("+sentLastHour+" AND receiver = ANY(?) GROUP BY route, receiver) s",
		pgdialect.Array([]string{route}), tx.now.Add(-ratePeriod), pgdialect.Array(receivers)).Scan(ctx, &most)
	if err != nil {
		return err
	}
	if most >= req.GetSentBelow() {
		return errs.New(errs.FailedPrecondition, "SENT_ENOUGH", "a receiver has had %d messages of route %s in the last hour", most, route)
	}
	return nil
}

// sentLastHour counts messages of routes.
const sentLastHour = "SELECT route, receiver, count(*) AS n FROM deliveries WHERE route = ANY(?) AND create_time > ? AND state <> 4 AND resend_of = ''"

// held refuses a group whose claim has ended and is another's, or nobody's.
func (g *noticeGroup) held(key, lease string) error {
	switch {
	case g == nil:
		return errs.New(errs.Aborted, "GROUP_GONE", "there is no group %s any more; its route has been deleted", key)
	case g.LeaseID != lease:
		return errs.New(errs.Aborted, "LEASE_LOST", "the claim of group %s has ended; claim it again", key)
	}
	return nil
}

// groupsTold moves groups behind the events that have been claimed. Those that
// came since wait for their own time.
func (tx *transaction) groupsTold(ctx context.Context, ids []int64, main int64, lease string, deliveries []string, spoken bool, repeat *time.Time) error {
	if deliveries == nil {
		deliveries = []string{}
	}
	_, err := tx.NewRaw(`
		WITH left_over AS (
			SELECT DISTINCT ON (n.group_id) n.group_id, n.due_time,
				(SELECT min(u.due_time) FROM notices u WHERE u.group_id = n.group_id AND u.seq > g.lease_told AND u.urgent) AS urgent_time
			FROM notices n JOIN notice_groups g ON g.id = n.group_id WHERE g.id = ANY(?0) AND n.seq > g.lease_told ORDER BY n.group_id, n.seq
		), spoken AS (
			SELECT id, CASE WHEN ?4 THEN ?5::timestamptz ELSE last_message_time END AS time FROM notice_groups WHERE id = ANY(?0)
		)
		UPDATE notice_groups g SET told = g.lease_told, lease_id = '', lease_time = NULL, last_message_time = s.time, repeat_time = ?6,
			due_time = greatest(least(l.due_time, l.urgent_time), CASE WHEN l.group_id IS NOT NULL THEN s.time + make_interval(secs => g.spacing) END),
			number = g.number + CASE WHEN g.id = ?1 AND cardinality(?3::text[]) > 0 THEN 1 ELSE 0 END,
			flushed_lease = ?2, flushed_ids = CASE WHEN g.id = ?1 THEN ?3::text[] ELSE '{}' END
		FROM spoken s LEFT JOIN left_over l ON l.group_id = s.id WHERE g.id = s.id`,
		pgdialect.Array(ids), main, lease, pgdialect.Array(deliveries), spoken, tx.now, repeat).Exec(ctx)
	return err
}
