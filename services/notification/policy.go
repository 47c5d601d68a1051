package notification

import (
	"cmp"
	"context"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"time"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/filter"
)

// policy is who hears of what: a configuration that has been understood. It
// does not change.
type policy struct {
	version   string
	routes    []*route
	byName    map[string]*route
	silences  []silence
	contacts  map[string][]string // receivers, by owner in lower case
	mail      bool                // owners can be written to
	mailHosts []string            // only there; empty: everywhere
}

// route is a route that has been understood.
type route struct {
	*notificationv1.Route
	where  *filter.Filter
	quiet  []quiet
	digest *digest
	broken error // it cannot be used; persistence does not let it come to that
}

type silence struct {
	*notificationv1.Silence
	where *filter.Filter
}

func (s *Service) newPolicy(c *notificationv1.GetConfigResponse) *policy {
	p := &policy{version: c.GetVersion(), byName: map[string]*route{}, contacts: map[string][]string{}, mail: s.cfg.SMTP != "", mailHosts: s.cfg.OwnerDomains}
	for _, r := range c.GetRoutes() {
		r := newRoute(r)
		if r.broken != nil {
			s.log.Error("a route cannot be used and takes nothing", "route", r.GetName(), "error", r.broken)
		}
		p.routes = append(p.routes, r)
		p.byName[r.GetName()] = r
	}
	slices.SortStableFunc(p.routes, func(a, b *route) int {
		return cmp.Or(cmp.Compare(a.GetPosition(), b.GetPosition()), cmp.Compare(a.GetName(), b.GetName()))
	})
	for _, x := range c.GetSilences() {
		where, err := filter.Compile(x.GetFilter(), filter.Notices)
		if err != nil || where == nil {
			s.log.Error("a silence cannot be used and silences nothing", "silence", x.GetId(), "error", err)
			continue
		}
		p.silences = append(p.silences, silence{x, where})
	}
	for _, c := range c.GetContacts() {
		p.contacts[strings.ToLower(c.GetOwner())] = c.GetReceivers()
	}
	return p
}

func newRoute(r *notificationv1.Route) *route {
	out := &route{Route: r}
	if out.where, out.broken = filter.Compile(r.GetFilter(), filter.Notices); out.broken != nil {
		return out
	}
	for _, q := range r.GetQuietHours() {
		hours, err := newQuiet(q)
		if err != nil {
			out.broken = err
			return out
		}
		out.quiet = append(out.quiet, hours)
	}
	out.digest, out.broken = newDigest(r.GetDigest())
	return out
}

// policyAge is how old a policy may be before it is asked for anew.
const policyAge = 2 * time.Second

// policies keep the newest policy that could be had.
type policies struct {
	mu    sync.Mutex
	known *policy
	asked time.Time // by the process's own clock
}

// policy is who hears of what, as of the last seconds, or as of when it could
// last be asked for. It fails when it never could.
func (s *Service) policy(ctx context.Context) (*policy, error) { return s.policyOf(ctx, policyAge) }

// policyOf is a policy that was asked for no longer ago than age.
func (s *Service) policyOf(ctx context.Context, age time.Duration) (*policy, error) {
	s.policies.mu.Lock()
	defer s.policies.mu.Unlock()
	known := s.policies.known
	if known != nil && time.Since(s.policies.asked) < age {
		return known, nil
	}
	req := &notificationv1.GetConfigRequest{}
	if known != nil {
		req.Version = known.version
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := s.queue.GetConfig(ctx, req)
	switch {
	case err != nil && known == nil:
		return nil, err
	case err == nil && !resp.GetUnchanged():
		s.policies.known = s.newPolicy(resp)
	}
	s.policies.asked = time.Now()
	return s.policies.known, nil
}

// verdict is what one route makes of an event.
type verdict struct {
	route           *route
	takes           bool
	why             string
	receivers       []string
	receiversReason string
	group           map[string]string
	due             time.Time
	dueReason       string
	urgent          bool
	silence         string
}

// judge says what the routes make of an event, up to the one that ends the
// search.
func (p *policy) judge(n *notificationv1.Notice, now time.Time) []verdict {
	var out []verdict
	silence := p.silenced(n, now)
	for _, r := range p.routes {
		v := verdict{route: r}
		if v.takes, v.why = r.matches(n); v.takes {
			v.receivers, v.receiversReason = p.receivers(r, n)
			v.group = r.group(n)
			v.due, v.urgent, v.dueReason = r.due(n, now)
			v.silence = silence
		}
		out = append(out, v)
		// An event of which nobody would hear goes on, so that it is not lost by an owner without contact.
		if v.takes && len(v.receivers) > 0 && !r.GetProceed() {
			break
		}
	}
	return out
}

// silenced is the id of a silence that covers the event, or "".
func (p *policy) silenced(n *notificationv1.Notice, now time.Time) string {
	value := filter.Notice(n)
	for _, x := range p.silences {
		if !now.Before(x.GetStartTime().AsTime()) && now.Before(x.GetExpireTime().AsTime()) && x.where.Match(value) {
			return x.GetId()
		}
	}
	return ""
}

// matches says whether the route takes an event, and why or why not.
func (r *route) matches(n *notificationv1.Notice) (bool, string) {
	value := filter.Notice(n)
	switch {
	case r.GetPaused():
		return false, "the route is paused"
	case r.broken != nil:
		return false, "the route cannot be used: " + r.broken.Error()
	case !r.where.Match(value):
		return false, r.where.Explain(filter.Notices, value)
	case !r.where.Asks("event") && !news(n):
		return false, fmt.Sprintf("%s is told only by routes whose filter asks for it, as in event = %q", said(n), n.GetEvent())
	case r.where == nil:
		return true, "the filter is empty"
	default:
		return true, "the filter matches: " + r.where.String()
	}
}

// news says whether people need to hear of an event who have not asked for its
// kind.
func news(n *notificationv1.Notice) bool {
	switch n.GetEvent() {
	case "FindingOpened", "FindingReopened", "FindingResolved", "FindingExempted", "FindingsHeld", "RunAlertRaised", "ComponentChanged":
		return true
	case "FindingChanged":
		return n.GetTransition().GetToSeverity() > n.GetTransition().GetFromSeverity()
	}
	return false
}

func said(n *notificationv1.Notice) string {
	if n.GetEvent() == "FindingChanged" {
		return "FindingChanged without a rise in severity"
	}
	return n.GetEvent()
}

// receivers are those who hear of an event by the route, sorted, and how they
// were found.
func (p *policy) receivers(r *route, n *notificationv1.Notice) ([]string, string) {
	own := slices.Clone(r.GetReceivers())
	slices.Sort(own)
	if !r.GetToOwner() {
		return own, "receivers of the route"
	}
	owner := n.GetFinding().GetOwner()
	reason := fmt.Sprintf("owner %s has no contact", owner)
	switch contact := p.contacts[strings.ToLower(owner)]; {
	case n.GetFinding() == nil:
		reason = n.GetEvent() + " has no owner"
	case owner == "":
		reason = "the finding has no owner"
	case len(contact) > 0:
		contact = slices.Clone(contact)
		slices.Sort(contact)
		return contact, "contact of owner " + owner
	case isAddress(owner) && !p.mail:
		reason = fmt.Sprintf("owner %s has no contact, and mail cannot be sent: NIGHTSHIFT_SMTP_URL is not set", owner)
	case isAddress(owner) && !p.mayWrite(owner):
		reason = fmt.Sprintf("owner %s has no contact, and its domain is not among NIGHTSHIFT_NOTIFY_OWNER_DOMAINS", owner)
	case isAddress(owner):
		return []string{"mailto:" + strings.ToLower(owner)}, "owner " + owner + " is a mail address"
	}
	if len(own) == 0 {
		return nil, reason + ", and the route has no receivers; later routes are tried"
	}
	return own, reason + "; receivers of the route"
}

// isAddress says whether an owner is a mail address and nothing else. Owners
// come from tags, so from whoever may tag.
func isAddress(owner string) bool {
	if len(owner) > 254 || !strings.Contains(owner, "@") || strings.ContainsFunc(owner, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"'(),:;<>[\]`, r) }) {
		return false
	}
	a, err := mail.ParseAddress(owner)
	return err == nil && a.Address == owner && a.Name == ""
}

func (p *policy) mayWrite(address string) bool {
	_, domain, _ := strings.Cut(strings.ToLower(address), "@")
	return len(p.mailHosts) == 0 || slices.ContainsFunc(p.mailHosts, func(d string) bool { return strings.EqualFold(d, domain) })
}

// group is what the event is told together with.
func (r *route) group(n *notificationv1.Notice) map[string]string {
	value := filter.Notice(n)
	group := map[string]string{}
	for _, name := range r.GetGroupBy() {
		switch v := value(name).(type) {
		case string:
			group[name] = v
		case int64: // category and severity
			for text, number := range filter.Notices[name].Values {
				if number == v {
					group[name] = text
				}
			}
		}
	}
	return group
}

// The least that is waited, and the least between two messages of a group,
// where a route does not say.
const (
	defaultGroupWait     = 30 * time.Second
	defaultGroupInterval = 5 * time.Minute
	defaultHourly        = 30
)

func (r *route) interval() time.Duration {
	switch {
	case r.digest != nil:
		return 0
	case r.GetGroupInterval() == nil:
		return defaultGroupInterval
	}
	return r.GetGroupInterval().AsDuration()
}

func (r *route) hourly() int64 { return int64(cmp.Or(r.GetMaxMessagesPerHour(), defaultHourly)) }

// urgent says whether what is that bad does not wait for the end of quiet
// hours.
func (r *route) urgent(s rulev1.Severity) bool {
	return r.digest == nil && r.GetQuietBelow() != rulev1.Severity_SEVERITY_UNSPECIFIED && s >= r.GetQuietBelow()
}

// due is when an event is told at the earliest, and why then.
func (r *route) due(n *notificationv1.Notice, now time.Time) (due time.Time, urgent bool, reason string) {
	if r.digest != nil {
		due, reason = r.digest.next(now), r.digest.text
	} else {
		wait := defaultGroupWait
		if r.GetGroupWait() != nil {
			wait = r.GetGroupWait().AsDuration()
		}
		due, reason = now.Add(wait), fmt.Sprintf("%s group wait", wait)
		if wait == 0 {
			reason = "at once"
		}
	}
	end := quietUntil(r.quiet, due)
	switch urgent = r.urgent(n.GetFinding().GetSeverity()); {
	case end.IsZero():
	case urgent:
		reason += ", in spite of quiet hours"
	default:
		zone := r.quiet[0].zone
		due, reason = end, fmt.Sprintf("%s, then quiet hours until %s %s", reason, end.In(zone).Format("2006-01-02 15:04"), zone)
	}
	return due, urgent, reason
}
