package notify

import (
	"context"
	"net/http"
	"strings"
	"time"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/plain"
)

const (
	// alertLife is how long an alert lasts that nobody ends: a day longer than
	// the longest time between two reminders. Alertmanager's resolve_timeout
	// would end it after minutes.
	alertLife = 91 * 24 * time.Hour
	// eventLife is how long one lasts that stands for an event without an end.
	eventLife = 24 * time.Hour
)

// alert is one alert of Alertmanager's API v2.
type alert struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     string            `json:"startsAt"`
	EndsAt       string            `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

// alertmanager posts an alert for each finding.
func (a *attempt) alertmanager(ctx context.Context, r *notificationv1.Alertmanager) (string, error) {
	to, err := a.address("the URL", r.GetUrl(), false)
	if err != nil {
		return "", err
	}
	var header http.Header
	if r.GetTokenSecret() != "" {
		token, err := a.secret(r.GetTokenSecret())
		if err != nil {
			return "", err
		}
		header = http.Header{"Authorization": {"Bearer " + token}}
	}
	alerts := a.alerts()
	if len(alerts) == 0 {
		return "nothing in it is an alert", nil
	}
	return a.post(ctx, to.JoinPath("api", "v2", "alerts"), alerts, header)
}

func (a *attempt) alerts() []alert {
	c := a.content()
	var out []alert
	add := func(start, end time.Time, link string, labels, annotations map[string]string) {
		labels["service"] = "nightshift"
		for _, m := range []map[string]string{labels, annotations} {
			for k, v := range m {
				if v == "" {
					delete(m, k)
				}
			}
		}
		// An alert that ends before it starts is refused.
		if end.Before(start) {
			start = end
		}
		out = append(out, alert{labels, annotations, start.UTC().Format(time.RFC3339Nano), end.UTC().Format(time.RFC3339Nano), link})
	}
	now := a.when()
	seen := map[string]bool{}
	for i, n := range a.Message.GetNotices() {
		it := c.Items[i]
		annotations := map[string]string{"summary": it.Title, "description": strings.Join(it.Lines, "\n"), "command": it.Command}
		start := now
		if n.GetTime() != nil {
			start = n.GetTime().AsTime()
		}
		switch {
		case n.GetFinding() != nil:
			f := n.GetFinding()
			if seen[f.GetId()] {
				continue // notices hold the finding as it is after each; one says it
			}
			seen[f.GetId()] = true
			f = newest(a.Message, f)
			annotations["owner"] = f.GetOwner()
			annotations["resource_name"] = f.GetResource().GetName()
			labels := func(s rulev1.Severity) map[string]string {
				return map[string]string{
					"alertname": f.GetRuleId(), "finding": f.GetId(), "severity": strings.ToLower(severity(s)),
					"category": strings.ToLower(strings.TrimPrefix(f.GetCategory().String(), "CATEGORY_")),
					"account":  f.GetResource().GetAccount(), "region": f.GetResource().GetRegion(), "resource": f.GetResource().GetId(),
				}
			}
			first := start
			if f.GetFirstSeen() != nil {
				first = f.GetFirstSeen().AsTime()
			}
			end := now.Add(alertLife)
			if s := f.GetState(); s == findingv1.State_STATE_RESOLVED || s == findingv1.State_STATE_EXEMPT {
				end = now
				if f.GetResolveTime() != nil {
					end = f.GetResolveTime().AsTime()
				}
			}
			// The severity is part of what an alert is known by: the one of
			// the old severity ends.
			if t := n.GetTransition(); severity(t.GetFromSeverity()) != "" && t.GetFromSeverity() != f.GetSeverity() {
				add(first, now, it.Link, labels(t.GetFromSeverity()), map[string]string{"summary": it.Title})
			}
			add(first, end, it.Link, labels(f.GetSeverity()), annotations)
		case n.GetComponent() != nil:
			end := now.Add(alertLife)
			if n.GetComponent().GetState() == healthv1.ComponentState_COMPONENT_STATE_UP {
				end = now
			}
			add(start, end, "", map[string]string{"alertname": "NightshiftComponent", "component": n.GetComponent().GetName()}, annotations)
		case n.GetRun() != nil:
			add(start, now.Add(eventLife), "", map[string]string{"alertname": "NightshiftRunFailed", "job": n.GetRun().GetJob(), "kind": n.GetRun().GetKind()}, annotations)
		case n.GetHold() != nil:
			h := n.GetHold()
			add(start, now.Add(eventLife), "", map[string]string{"alertname": "NightshiftFindingsHeld", "account": h.GetAccount(), "run": h.GetRunId()}, annotations)
		}
	}
	if c.More > 0 {
		add(now, now.Add(eventLife), "", map[string]string{"alertname": "NightshiftMoreEvents", "group": plain.Clip(a.Message.GetGroupKey(), 16), "route": a.Message.GetRoute()},
			map[string]string{"summary": c.Title, "description": c.more() + " than are alerts; \"nightshift findings list\" has all"})
	}
	if a.Message.GetKind() == notificationv1.MessageKind_MESSAGE_KIND_TEST {
		add(now, now.Add(5*time.Minute), "", map[string]string{"alertname": "NightshiftTest", "severity": "info"},
			map[string]string{"summary": c.Title, "description": c.Note})
	}
	return out
}

// newest is the finding as the newest of a message's notices has it.
func newest(m *notificationv1.Message, f *findingv1.Finding) *findingv1.Finding {
	var at time.Time
	for _, n := range m.GetNotices() {
		if n.GetFinding().GetId() == f.GetId() && !n.GetTime().AsTime().Before(at) {
			f, at = n.GetFinding(), n.GetTime().AsTime()
		}
	}
	return f
}
