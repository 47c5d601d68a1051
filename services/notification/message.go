package notification

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/plain"
)

const (
	noticesListed = 25 // of a message
	countsListed  = 10 // of rules and of accounts
)

// merge adds what a message tells to another. Of rules and accounts that only
// the merged messages' tails have, some are missing.
func merge(into, m *notificationv1.Message) {
	into.Notices = append(into.GetNotices(), m.GetNotices()...)
	slices.SortStableFunc(into.Notices, worse)
	into.Notices = into.Notices[:min(len(into.Notices), noticesListed)]
	into.Events += m.GetEvents()
	into.ByEvent = sum(into.GetByEvent(), m.GetByEvent())
	slices.SortFunc(into.ByEvent, func(a, b *notificationv1.Count) int { return cmp.Compare(a.GetValue(), b.GetValue()) })
	into.BySeverity = sum(into.GetBySeverity(), m.GetBySeverity())
	slices.SortFunc(into.BySeverity, func(a, b *notificationv1.Count) int {
		return cmp.Compare(rulev1.Severity_value["SEVERITY_"+b.GetValue()], rulev1.Severity_value["SEVERITY_"+a.GetValue()])
	})
	into.ByRule = most(sum(into.GetByRule(), m.GetByRule()))
	into.ByAccount = most(sum(into.GetByAccount(), m.GetByAccount()))
	into.MonthlyCostLow += m.GetMonthlyCostLow()
	into.MonthlyCostHigh += m.GetMonthlyCostHigh()
	into.UnknownCosts += m.GetUnknownCosts()
	into.Severity = max(into.GetSeverity(), m.GetSeverity())
	into.OpenFindings += m.GetOpenFindings()
	if t := m.GetStartTime(); t != nil && (into.GetStartTime() == nil || t.AsTime().Before(into.GetStartTime().AsTime())) {
		into.StartTime = t
	}
	maps.DeleteFunc(into.Group, func(name, value string) bool { // what all share
		other, ok := m.GetGroup()[name]
		return !ok || other != value
	})
}

// worse orders events, the worst first.
func worse(a, b *notificationv1.Notice) int {
	return cmp.Or(
		cmp.Compare(rank(b), rank(a)),
		cmp.Compare(b.GetFinding().GetMonthlyCost().GetHigh(), a.GetFinding().GetMonthlyCost().GetHigh()),
	)
}

// rank is as in the queue: what has become worse before what is over or said.
func rank(n *notificationv1.Notice) int {
	const news = 10
	switch n.GetEvent() {
	case "FindingOpened", "FindingReopened", "FindingChanged":
		return news + int(n.GetFinding().GetSeverity())
	case "RunAlertRaised", "FindingsHeld", "ComponentChanged":
		return news + int(rulev1.Severity_SEVERITY_HIGH)
	}
	return int(n.GetFinding().GetSeverity())
}

func sum(a, b []*notificationv1.Count) []*notificationv1.Count {
	out := slices.Clone(a)
	for _, c := range b {
		if i := slices.IndexFunc(out, func(o *notificationv1.Count) bool { return o.GetValue() == c.GetValue() }); i >= 0 {
			out[i] = &notificationv1.Count{Value: c.GetValue(), Events: out[i].GetEvents() + c.GetEvents()}
		} else {
			out = append(out, c)
		}
	}
	return out
}

func most(counts []*notificationv1.Count) []*notificationv1.Count {
	slices.SortFunc(counts, func(a, b *notificationv1.Count) int {
		return cmp.Or(cmp.Compare(b.GetEvents(), a.GetEvents()), cmp.Compare(a.GetValue(), b.GetValue()))
	})
	return counts[:min(len(counts), countsListed)]
}

// eventWords are events in a line.
var eventWords = map[string]string{
	"FindingOpened": "opened", "FindingChanged": "changed", "FindingResolved": "resolved", "FindingReopened": "reopened", "FindingExempted": "exempted",
	"FindingOrphaned": "orphaned", "FindingReclaimed": "reclaimed", "FindingAcknowledged": "acknowledged", "FindingUnacknowledged": "unacknowledged",
	"FindingAssigned": "assigned", "FindingCommented": "commented", "FindingsHeld": "held back", "RunAlertRaised": "alert about a run", "ComponentChanged": "component changed",
}

// line is a message in one line, for the log of deliveries.
func line(m *notificationv1.Message, silenced int64) string {
	switch {
	case m.GetEvents() == 0 && silenced > 0:
		return fmt.Sprintf("%d silenced", silenced)
	case m.GetKind() == notificationv1.MessageKind_MESSAGE_KIND_REMINDER:
		return fmt.Sprintf("%d still open", m.GetOpenFindings())
	}
	var parts []string
	for _, c := range m.GetByEvent() {
		parts = append(parts, fmt.Sprintf("%d %s", c.GetEvents(), cmp.Or(eventWords[c.GetValue()], c.GetValue())))
	}
	out := strings.Join(parts, ", ")
	if m.GetSeverity() != rulev1.Severity_SEVERITY_UNSPECIFIED {
		out += ", " + strings.TrimPrefix(m.GetSeverity().String(), "SEVERITY_")
	}
	if m.GetMonthlyCostHigh() > 0 {
		out += ", up to " + plain.Dollars(m.GetMonthlyCostHigh(), m.GetMonthlyCostHigh()) + " a month"
	}
	return out
}
