package notify

import (
	"cmp"
	"context"
	"slices"
	"strings"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/plain"
)

// pagerDutyEndpoint is where events go unless a receiver says otherwise.
const pagerDutyEndpoint = "https://events.pagerduty.com"

// pagerDuty sends an event by the Events API v2. All messages of a group have
// one incident; it is resolved when nothing of the group is open any more. A
// test triggers one and resolves it.
func (a *attempt) pagerDuty(ctx context.Context, r *notificationv1.PagerDuty) (string, error) {
	key, err := a.secret(r.GetRoutingKeySecret())
	if err != nil {
		return "", err
	}
	to, err := a.address("the endpoint", cmp.Or(r.GetEndpoint(), pagerDutyEndpoint), true)
	if err != nil {
		return "", err
	}
	if !strings.HasSuffix(to.Path, "/v2/enqueue") {
		to = to.JoinPath("v2", "enqueue")
	}
	detail := ""
	for _, e := range a.pagerDutyEvents(a.content()) {
		e["routing_key"] = key
		if detail, err = a.post(ctx, to, e, nil); err != nil {
			return "", err
		}
	}
	return detail, nil
}

func (a *attempt) pagerDutyEvents(c *content) []object {
	m := a.Message
	dedup := cmp.Or(m.GetGroupKey(), a.IdempotencyKey)
	resolve := object{"event_action": "resolve", "dedup_key": dedup}
	test := m.GetKind() == notificationv1.MessageKind_MESSAGE_KIND_TEST
	// Runs, holds and components have no finding that could be open.
	if !test && m.GetOpenFindings() == 0 && !slices.ContainsFunc(m.GetNotices(), bad) {
		return []object{resolve}
	}
	details := object{}
	for _, f := range c.Facts {
		details[strings.ToLower(strings.ReplaceAll(f.Name, " ", "_"))] = f.Value
	}
	var items, links []object
	for _, it := range c.Items {
		o := object{"title": it.Title, "text": plain.Clip(strings.Join(it.Lines, "\n"), 1000)}
		if it.Severity != "" {
			o["severity"] = it.Severity
		}
		if it.Command != "" {
			o["command"] = it.Command
		}
		items = append(items, o)
		if it.Link != "" {
			links = append(links, object{"href": it.Link, "text": plain.Clip(it.Title, 200)})
		}
	}
	details["items"] = items
	if c.More > 0 {
		details["more"] = c.more()
	}
	if c.Note != "" {
		details["note"] = c.Note
	}
	source, component, class := "nightshift", "", ""
	if len(m.GetNotices()) > 0 {
		n := m.GetNotices()[0]
		class = cmp.Or(n.GetFinding().GetRuleId(), n.GetEvent())
		component = cmp.Or(n.GetFinding().GetResource().GetId(), n.GetComponent().GetName(), n.GetRun().GetJob())
		source = cmp.Or(n.GetFinding().GetResource().GetAccount(), n.GetHold().GetAccount(), source)
	}
	payload := object{
		"summary":        plain.Clip(c.Title, 1024),
		"source":         source,
		"severity":       pagerDutySeverity(m.GetSeverity(), slices.ContainsFunc(m.GetNotices(), bad)),
		"timestamp":      a.when().Format("2006-01-02T15:04:05.000Z07:00"),
		"custom_details": details,
	}
	for k, v := range map[string]string{"component": component, "class": class, "group": m.GetRoute()} {
		if v != "" {
			payload[k] = v
		}
	}
	e := object{"event_action": "trigger", "dedup_key": dedup, "client": "Nightshift", "payload": payload}
	if len(links) > 0 {
		e["links"] = links
	}
	if test {
		return []object{e, resolve}
	}
	return []object{e}
}

func pagerDutySeverity(s rulev1.Severity, bad bool) string {
	switch {
	case s >= rulev1.Severity_SEVERITY_CRITICAL:
		return "critical"
	case s >= rulev1.Severity_SEVERITY_HIGH, bad:
		return "error"
	case s >= rulev1.Severity_SEVERITY_MEDIUM:
		return "warning"
	}
	return "info"
}
