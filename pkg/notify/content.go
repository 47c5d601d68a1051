package notify

import (
	"cmp"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/plain"
)

// mostText bounds every text of a message, in characters.
const mostText = 2000

// harmless returns a copy of a message in which every text is one line of
// bounded length that shows what is there. Media escape it for themselves.
func harmless(m *notificationv1.Message) *notificationv1.Message {
	m = proto.CloneOf(m)
	if m == nil {
		m = &notificationv1.Message{}
	}
	scrub(m.ProtoReflect())
	return m
}

func scrub(m protoreflect.Message) {
	text := func(s string) string { return plain.Clean(plain.Clip(s, mostText)) }
	value := func(fd protoreflect.FieldDescriptor, v protoreflect.Value) (protoreflect.Value, bool) {
		switch fd.Kind() {
		case protoreflect.MessageKind, protoreflect.GroupKind:
			scrub(v.Message())
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(text(v.String())), true
		}
		return v, false
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			was := v.Map()
			is := m.NewField(fd).Map()
			was.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				if fd.MapKey().Kind() == protoreflect.StringKind {
					k = protoreflect.ValueOfString(text(k.String())).MapKey()
				}
				v, _ = value(fd.MapValue(), v)
				is.Set(k, v)
				return true
			})
			m.Set(fd, protoreflect.ValueOfMap(is))
		case fd.IsList():
			for i := range v.List().Len() {
				if v, changed := value(fd, v.List().Get(i)); changed {
					m.Get(fd).List().Set(i, v)
				}
			}
		default:
			if v, changed := value(fd, v); changed {
				m.Set(fd, v)
			}
		}
		return true
	})
}

// content is a message before a medium gives it a form. Its texts are single
// lines, harmless, and not escaped.
type content struct {
	// Title says it all in a line of at most 150 characters.
	Title string
	// Severity is the worst; unspecified where nothing has one.
	Severity rulev1.Severity
	// Facts are figures about all of it.
	Facts []fact
	// Items are the single events, the worst first.
	Items []item
	// More is how many events are not among them.
	More int64
	// Note is a last sentence; may be empty.
	Note string
}

type fact struct{ Name, Value string }

// item is one event.
type item struct {
	// Severity is empty where there is none.
	Severity string
	// Title says what happened.
	Title string
	// Lines say where, who, what it costs, why, and what changed.
	Lines []string
	// Command shows more of it; Link too, where findings have one.
	Command, Link string
}

func (a *attempt) content() *content {
	m := a.Message
	c := &content{Severity: m.GetSeverity(), More: max(0, m.GetEvents()-int64(len(m.GetNotices())))}
	for _, n := range m.GetNotices() {
		it := a.item(n)
		it.Title = plain.Clip(it.Title, 300)
		c.Items = append(c.Items, it)
	}
	c.Title = plain.Clip(title(m, c.Items), 150)
	add := func(name, value string) {
		if value != "" {
			c.Facts = append(c.Facts, fact{name, plain.Clip(value, 400)})
		}
	}
	if m.GetEvents() > 1 || m.GetKind() == notificationv1.MessageKind_MESSAGE_KIND_DIGEST {
		add("Events", counted(m.GetByEvent(), verb))
		add("Severity", counted(m.GetBySeverity(), nil))
		if len(m.GetByRule()) > 1 || len(m.GetNotices()) == 0 {
			add("Rules", counted(m.GetByRule(), nil))
		}
		if len(m.GetByAccount()) > 1 {
			add("Accounts", counted(m.GetByAccount(), nil))
		}
		add("New cost", money(m.GetMonthlyCostLow(), m.GetMonthlyCostHigh(), m.GetUnknownCosts()))
	}
	if group := groupText(m); group != "" {
		add("Group", group)
	}
	switch m.GetKind() {
	case notificationv1.MessageKind_MESSAGE_KIND_DIGEST:
		add("Open findings", open(m))
		add("Saved", saved(m.GetDays()))
		add("Open, day by day", trend(m.GetDays()))
	case notificationv1.MessageKind_MESSAGE_KIND_SUMMARY:
		c.Note = "More has happened than the route lets through; this stands for all of it. \"nightshift findings list\" has every finding."
	case notificationv1.MessageKind_MESSAGE_KIND_TEST:
		c.Note = "Somebody tries whether messages of Nightshift arrive here. They do."
	default: // the events say it all
	}
	if m.GetOpenFindings() > 0 && m.GetKind() != notificationv1.MessageKind_MESSAGE_KIND_DIGEST {
		add("Still open", plain.Many(m.GetOpenFindings(), "finding", "findings")+" of this group")
	}
	if m.GetRoute() != "" {
		add("Route", m.GetRoute())
	}
	return c
}

// title is the headline.
func title(m *notificationv1.Message, items []item) string {
	group := ""
	if g := groupText(m); g != "" {
		group = " · " + plain.Clip(g, 60)
	}
	worst := ""
	if s := severity(m.GetSeverity()); s != "" {
		worst = s + ": "
	}
	switch m.GetKind() {
	case notificationv1.MessageKind_MESSAGE_KIND_TEST:
		return "Test: messages of Nightshift arrive"
	case notificationv1.MessageKind_MESSAGE_KIND_DIGEST:
		t := "Digest: " + plain.Many(m.GetEvents(), "event", "events")
		if m.GetTotals() != nil {
			t += ", " + open(m)
		}
		return t + group
	case notificationv1.MessageKind_MESSAGE_KIND_SUMMARY:
		return worst + "summary of " + plain.Many(m.GetEvents(), "event", "events") + group
	case notificationv1.MessageKind_MESSAGE_KIND_REMINDER:
		return worst + "still open: " + plain.Many(m.GetOpenFindings(), "finding", "findings") + group
	default: // what has happened
	}
	if m.GetEvents() <= 1 && len(items) == 1 {
		t := items[0].Title
		if s := items[0].Severity; s != "" {
			t = s + ": " + t
		}
		return t
	}
	t := worst + plain.Many(m.GetEvents(), "event", "events")
	if parts := counted(m.GetByEvent(), verb); parts != "" {
		t += ": " + parts
	}
	return t + group
}

func groupText(m *notificationv1.Message) string {
	var parts []string
	for _, k := range slices.Sorted(func(yield func(string) bool) {
		for k := range m.GetGroup() {
			if !yield(k) {
				return
			}
		}
	}) {
		parts = append(parts, k+" "+plain.Clip(cmp.Or(m.GetGroup()[k], "none"), 64))
	}
	return strings.Join(parts, ", ")
}

// verb is an event for people.
func verb(event string) string {
	switch event {
	case "RunAlertRaised":
		return "run failed"
	case "FindingsHeld":
		return "held"
	case "ComponentChanged":
		return "component changed"
	case "FindingChanged":
		return "changed"
	}
	return strings.ToLower(strings.TrimPrefix(event, "Finding"))
}

// counted lists counts: 12 HIGH, 3 LOW.
func counted(counts []*notificationv1.Count, name func(string) string) string {
	var parts []string
	for _, c := range counts {
		v := cmp.Or(c.GetValue(), "none")
		if name != nil {
			v = name(v)
		}
		parts = append(parts, plain.Count(c.GetEvents())+" "+plain.Clip(v, 64))
	}
	return strings.Join(parts, ", ")
}

// money is a sum with what is not in it; "" when there is nothing to tell.
func money(low, high float64, unknown int64) string {
	var parts []string
	if high > 0 {
		parts = append(parts, plain.Dollars(low, high)+" a month")
	}
	if unknown > 0 {
		parts = append(parts, plain.Count(unknown)+" of unknown cost")
	}
	return strings.Join(parts, ", ")
}

func open(m *notificationv1.Message) string {
	t := m.GetTotals()
	if t == nil {
		return ""
	}
	s := plain.Count(t.GetFindings()) + " open"
	if sum := money(t.GetMonthlyCostLow(), t.GetMonthlyCostHigh(), t.GetUnknownCosts()); sum != "" {
		s += ", " + sum
	}
	return s
}

// saved sums up what resolved waste had cost.
func saved(days []*findingv1.FindingDay) string {
	var low, high float64
	var unknown int64
	for _, d := range days {
		low, high, unknown = low+d.GetSavedLow(), high+d.GetSavedHigh(), unknown+d.GetSavedUnknown()
	}
	s := money(low, high, unknown)
	if s != "" {
		s += " in " + plain.Many(len(days), "day", "days")
	}
	return s
}

// trend draws how many findings were open at the end of each day.
func trend(days []*findingv1.FindingDay) string {
	if len(days) < 2 {
		return ""
	}
	if len(days) > 31 {
		days = days[len(days)-31:]
	}
	bars := []rune("▁▂▃▄▅▆▇█")
	var most int64
	for _, d := range days {
		most = max(most, d.GetOpen())
	}
	var b strings.Builder
	for _, d := range days {
		at := 0
		if most > 0 {
			at = int(math.Round(float64(d.GetOpen()) / float64(most) * float64(len(bars)-1)))
		}
		b.WriteRune(bars[min(max(at, 0), len(bars)-1)])
	}
	return fmt.Sprintf("%s %s to %s", b.String(), plain.Count(days[0].GetOpen()), plain.Count(days[len(days)-1].GetOpen()))
}

// severity is "HIGH"; "" when unset.
func severity(s rulev1.Severity) string {
	if s == rulev1.Severity_SEVERITY_UNSPECIFIED {
		return ""
	}
	return strings.TrimPrefix(s.String(), "SEVERITY_")
}

func (a *attempt) item(n *notificationv1.Notice) item {
	switch {
	case n.GetFinding() != nil:
		return a.finding(n)
	case n.GetRun() != nil:
		return runItem(n)
	case n.GetHold() != nil:
		h := n.GetHold()
		return item{
			Title: "Held: " + plain.Many(h.GetOpens()+h.GetReopens()+h.GetResolves(), "change", "changes") + " of findings in account " + h.GetAccount(),
			Lines: lines(
				fmt.Sprintf("%s would open %s, reopen %s and resolve %s of %s findings.", cmp.Or(h.GetService(), "A run"), plain.Count(h.GetOpens()),
					plain.Count(h.GetReopens()), plain.Count(h.GetResolves()), plain.Count(h.GetFindingsBefore())),
				"Nothing of it counts until somebody releases it.", h.GetRunId()),
			Command: command("findings held", h.GetRunId()),
		}
	case n.GetComponent() != nil:
		c := n.GetComponent()
		name := c.GetName()
		if c.GetTitle() != "" {
			name += " (" + plain.Clip(c.GetTitle(), 80) + ")"
		}
		return item{
			Title:   name + " is " + strings.TrimPrefix(c.GetState().String(), "COMPONENT_STATE_"),
			Lines:   lines(c.GetReason(), since("since ", c.GetSinceTime())),
			Command: "nightshift health",
		}
	}
	return item{Title: cmp.Or(n.GetEvent(), "Event"), Lines: lines(since("", n.GetTime()))}
}

func runItem(n *notificationv1.Notice) item {
	r := n.GetRun()
	state := strings.ToLower(strings.TrimPrefix(r.GetState().String(), "RUN_STATE_"))
	if r.GetState() == runv1.RunState_RUN_STATE_UNSPECIFIED {
		state = "failed"
	}
	it := item{Title: "Run of " + r.GetJob() + " " + state, Command: command("runs show", r.GetId())}
	if n.GetConsecutive() > 1 {
		it.Title += fmt.Sprintf(", %s in a row", plain.Count(n.GetConsecutive()))
	}
	scopes := ""
	if s := r.GetScopes(); s.GetTotal() > 0 {
		scopes = fmt.Sprintf("%s of %s seen in full", plain.Count(s.GetSucceeded()), plain.Many(s.GetTotal(), "scope", "scopes"))
	}
	it.Lines = lines(r.GetId(), r.GetError(), scopes)
	return it
}

func (a *attempt) finding(n *notificationv1.Notice) item {
	f, t := n.GetFinding(), n.GetTransition()
	r := f.GetResource()
	name := cmp.Or(r.GetId(), r.GetArn())
	if r.GetName() != "" && r.GetName() != r.GetId() {
		name += " (" + plain.Clip(r.GetName(), 80) + ")"
	}
	it := item{
		Severity: severity(f.GetSeverity()),
		Title:    cmp.Or(f.GetTitle(), f.GetRuleId()) + ": " + name,
	}
	if v := verb(n.GetEvent()); v != "opened" && v != "" {
		it.Title = v + " · " + it.Title
	}
	owner := "nobody named"
	if f.GetOwner() != "" {
		owner = f.GetOwner()
	}
	price := ""
	switch m := f.GetMonthlyCost(); {
	case m != nil:
		price = plain.Dollars(m.GetLow(), m.GetHigh()) + " a month"
		if f.GetState() == findingv1.State_STATE_RESOLVED {
			price = "it was " + price
		}
	case f.GetCategory() == rulev1.Category_CATEGORY_WASTE:
		price = "cost unknown"
	}
	it.Lines = lines(
		joined("account "+r.GetAccount(), r.GetRegion(), "owner "+plain.Clip(owner, 80), f.GetRuleId()),
		price, changed(t))
	// Why it was found says nothing any more about one that is gone.
	if t.GetReason() == "" || f.GetState() != findingv1.State_STATE_RESOLVED {
		it.Lines = append(it.Lines, lines(f.GetReason())...)
	}
	if t.GetReason() != f.GetReason() {
		it.Lines = append(it.Lines, lines(t.GetReason())...)
	}
	if len(f.GetId()) >= 8 {
		it.Command = command("findings show", f.GetId()[:8])
		if a.cfg.Link != "" {
			it.Link = strings.ReplaceAll(a.cfg.Link, "{id}", url.PathEscape(f.GetId()))
		}
	}
	return it
}

// changed says what a transition changed; "" when nothing that is not said
// elsewhere.
func changed(t *findingv1.Transition) string {
	if t == nil {
		return ""
	}
	var parts []string
	if from, to := severity(t.GetFromSeverity()), severity(t.GetToSeverity()); from != "" && to != "" && from != to {
		parts = append(parts, "severity "+from+" → "+to)
	}
	if t.GetKind() == findingv1.TransitionKind_TRANSITION_KIND_CHANGED {
		if from, to := costText(t.GetFromCost()), costText(t.GetToCost()); from != to {
			parts = append(parts, "cost "+from+" → "+to)
		}
	}
	if t.GetFromOwner() != t.GetToOwner() {
		parts = append(parts, "owner "+cmp.Or(t.GetFromOwner(), "nobody")+" → "+cmp.Or(t.GetToOwner(), "nobody"))
	}
	if by := cmp.Or(t.GetAcknowledgement().GetBy(), t.GetActor()); by != "" {
		parts = append(parts, "by "+by)
	}
	// An end of an exemption names it, too, and until when it would have been.
	if x := t.GetExemption(); x.GetExpireTime() != nil && t.GetKind() == findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED {
		parts = append(parts, since("until ", x.GetExpireTime()))
	}
	if note := t.GetAcknowledgement().GetNote(); note != "" {
		parts = append(parts, "\""+note+"\"")
	}
	return strings.Join(parts, ", ")
}

func costText(m *rulev1.MonthlyCost) string {
	if m == nil {
		return "unknown"
	}
	return plain.Dollars(m.GetLow(), m.GetHigh())
}

func since(word string, t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return word + t.AsTime().UTC().Format("2006-01-02 15:04 UTC")
}

// command is what shows more. What is not fit to be typed is left out: nobody
// shall copy a command that a tag has written.
func command(verb, id string) string {
	for _, r := range id {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/:-_.", r)) {
			return ""
		}
	}
	if id == "" || id[0] == '-' {
		return ""
	}
	return "nightshift " + verb + " " + id
}

// lines drops what is empty and bounds the rest.
func lines(texts ...string) (out []string) {
	for _, t := range texts {
		if t = strings.TrimSpace(t); t != "" {
			out = append(out, plain.Clip(t, 300))
		}
	}
	return out
}

func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " · ")
}

// text is the content as plain text of at most n characters.
func (c *content) text(n int) string {
	var b strings.Builder
	b.WriteString(c.Title + "\n")
	for _, f := range c.Facts {
		if b.Len() > n/3 {
			break
		}
		b.WriteString("\n" + f.Name + ": " + plain.Clip(f.Value, n/4))
	}
	if len(c.Facts) > 0 {
		b.WriteByte('\n')
	}
	for i, it := range c.Items {
		var p strings.Builder
		p.WriteString("\n")
		if it.Severity != "" {
			p.WriteString(it.Severity + "  ")
		}
		p.WriteString(it.Title + "\n")
		for _, l := range append(slices.Clone(it.Lines), nonEmpty(it.Link, it.Command)...) {
			p.WriteString("  " + l + "\n")
		}
		if utf8.RuneCountInString(b.String())+utf8.RuneCountInString(p.String()) > n-60 {
			c := *c
			c.More += int64(len(c.Items) - i)
			b.WriteString("\n" + c.more() + "\n")
			return plain.Clip(b.String(), n)
		}
		b.WriteString(p.String())
	}
	if s := c.more(); s != "" {
		b.WriteString("\n" + s + "\n")
	}
	if c.Note != "" {
		b.WriteString("\n" + c.Note + "\n")
	}
	return plain.Clip(b.String(), n)
}

func nonEmpty(texts ...string) []string {
	return slices.DeleteFunc(texts, func(s string) bool { return s == "" })
}

// within is the content with as many items as n characters hold.
func (c *content) within(n int) *content {
	fewer := *c
	for i, it := range c.Items {
		for _, t := range append([]string{it.Title, it.Command, it.Link}, it.Lines...) {
			n -= utf8.RuneCountInString(t)
		}
		if n < 0 {
			fewer.Items, fewer.More = c.Items[:i], c.More+int64(len(c.Items)-i)
			break
		}
	}
	return &fewer
}

// more says how many events are not listed; "" when all are.
func (c *content) more() string {
	if c.More == 0 {
		return ""
	}
	return "and " + plain.Many(c.More, "more event", "more events")
}

// bad tells an event that is not about a finding and that somebody must look
// at.
func bad(n *notificationv1.Notice) bool {
	if c := n.GetComponent(); c != nil {
		return c.GetState() != healthv1.ComponentState_COMPONENT_STATE_UP
	}
	return n.GetRun() != nil || n.GetHold() != nil
}

// when is the time of the message.
func (a *attempt) when() time.Time {
	if t := a.Message.GetTime(); t != nil {
		return t.AsTime().UTC()
	}
	return a.Time.UTC()
}
