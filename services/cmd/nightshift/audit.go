package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	"nightshift.dev/pkg/audit"
	"nightshift.dev/pkg/errs"
)

func (c *cli) auditCommand() *cobra.Command {
	return group("audit", "Who changed what, and who was not let, in a log that shows when it is tampered with",
		c.auditList(), c.auditShow(), c.auditVerify(), c.auditHead())
}

func (c *cli) auditAPI() (auditv1.AuditServiceClient, error) {
	conn, err := c.dial("persistence")
	if err != nil {
		return nil, err
	}
	return auditv1.NewAuditServiceClient(conn), nil
}

// auditCall is a call with what the log has of it.
type auditCall struct {
	began, ended *auditv1.Record // one of them can be missing; what was denied has only ended
}

// first is the record that says most of who and what.
func (a *auditCall) first() *auditv1.Record { return cmp.Or(a.began, a.ended) }

func (a *auditCall) add(r *auditv1.Record) {
	if r.GetPhase() == auditv1.Phase_PHASE_ATTEMPTED {
		a.began = r
	} else {
		a.ended = r
	}
}

func (a *auditCall) outcome() string {
	switch r := a.ended; {
	case r == nil:
		return "outcome unknown"
	case r.GetPhase() == auditv1.Phase_PHASE_SUCCEEDED:
		return "done"
	default:
		return strings.TrimSpace(strings.ToLower(name(r.GetPhase())) + " " + r.GetReason())
	}
}

// outcomes says also how many calls of a flood it stands for.
func (a *auditCall) outcomes() string {
	if n := a.first().GetCount(); n > 1 {
		return fmt.Sprintf("%s, %s times", a.outcome(), count(n))
	}
	return a.outcome()
}

func (a *auditCall) paint() paint {
	switch {
	case a.ended == nil, a.ended.GetPhase() == auditv1.Phase_PHASE_FAILED:
		return yellow
	case a.ended.GetPhase() == auditv1.Phase_PHASE_DENIED:
		return red
	default:
		return green
	}
}

// callerOf is who it was, for people.
func callerOf(p *auditv1.Principal) string {
	switch p.GetKind() {
	case auditv1.PrincipalKind_PRINCIPAL_KIND_UNSPECIFIED:
		return "many"
	case auditv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS:
		return "nobody known"
	case auditv1.PrincipalKind_PRINCIPAL_KIND_SERVICE:
		return "service " + p.GetName()
	default:
		return cmp.Or(p.GetName(), p.GetId())
	}
}

// shortMethod leaves out the package, and has what was called first: it is
// what may not be cut off.
func shortMethod(m string) string {
	pkg, call, ok := strings.Cut(m, "/")
	if !ok {
		return m
	}
	return call + " of " + pkg[strings.LastIndex(pkg, ".")+1:]
}

func host(peer string) string {
	if h, _, err := net.SplitHostPort(peer); err == nil {
		return h
	}
	return peer
}

var auditColumns = []column[*auditCall]{
	{name: "time", head: "Time (UTC)", text: func(a *auditCall) string { return format(a.first().GetTime(), time.DateTime) },
		csv: func(a *auditCall) string { return stamp(a.first().GetTime()) }},
	{name: "principal", head: "Who", flex: 12, text: func(a *auditCall) string { return callerOf(a.first().GetPrincipal()) }},
	{name: "method", head: "What", flex: 20, text: func(a *auditCall) string { return shortMethod(a.first().GetMethod()) },
		csv: func(a *auditCall) string { return a.first().GetMethod() }},
	{name: "outcome", head: "Outcome", flex: 24, text: (*auditCall).outcomes, paint: (*auditCall).paint, csv: (*auditCall).outcome},
	{name: "count", text: func(a *auditCall) string { return strconv.FormatInt(a.first().GetCount(), 10) }},
	{name: "peer", head: "From", flex: 9, spare: 1, text: func(a *auditCall) string { return host(a.first().GetPeer()) },
		csv: func(a *auditCall) string { return a.first().GetPeer() }},
	{name: "call_id", head: "Call", text: func(a *auditCall) string { return a.first().GetCallId() }},
	{name: "service", text: func(a *auditCall) string { return a.first().GetService() }},
	{name: "principal_kind", text: func(a *auditCall) string { return name(a.first().GetPrincipal().GetKind()) }},
	{name: "principal_id", text: func(a *auditCall) string { return a.first().GetPrincipal().GetId() }},
	{name: "end_time", text: func(a *auditCall) string { return stamp(a.ended.GetTime()) }},
}

// auditEntryTree is an entry for programs: with its payload, which is what its
// hash is of.
func auditEntryTree(e *auditv1.Entry) object {
	return append(object{{"sequence", e.GetSequence()}, {"hash", hex.EncodeToString(e.GetHash())}, {"payload", tree(e)[2].value}}, tree(e.GetRecord())...)
}

func (c *cli) auditList() *cobra.Command {
	var (
		who, method, service, call, filter string
		since                              time.Duration
		denied                             bool
		l                                  limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List calls that changed something or were denied, newest first", Args: cobra.NoArgs,
		Long: `List calls that changed something or were denied, newest first.

A call is a line: when it began, who called, and how it ended. "outcome unknown" means that it began and that nobody said how it ended:
it goes on, or its service died in the middle. -o json, jsonl and yaml give the entries of the log one by one.`,
		Example: `  nightshift audit list --since 24h
  nightshift audit list --denied --since 1h
  nightshift audit list --who ana --method ExemptionService
  nightshift audit list --filter 'reason = "ROLE_TOO_LOW"' -o jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var and []string
			if since > 0 {
				and = append(and, "time > "+quote(c.now().Add(-since).UTC().Format(time.RFC3339)))
			}
			if denied {
				and = append(and, "phase = DENIED")
			}
			if who != "" {
				and = append(and, "(principal = "+quote(who)+" OR principal_id = "+quote(who)+")")
			}
			if method != "" {
				and = append(and, "method : "+quote(method))
			}
			if service != "" {
				and = append(and, "service = "+quote(service))
			}
			if call != "" {
				and = append(and, "call_id = "+quote(call))
			}
			if filter != "" {
				and = append(and, "("+filter+")")
			}
			api, err := c.auditAPI()
			if err != nil {
				return err
			}
			page := func(size int32, token string) ([]*auditv1.Entry, string, error) {
				r, err := api.ListAuditEntries(cmd.Context(), &auditv1.ListAuditEntriesRequest{PageSize: size, PageToken: token, Filter: strings.Join(and, " AND ")})
				return r.GetEntries(), r.GetNextPageToken(), err
			}
			var n int
			if c.output == formatTable || c.output == formatCSV {
				n, err = c.auditCalls(cmd.Context(), api, l, page)
			} else {
				n, err = listAll(cmd.Context(), c, l, newPrinter(c, auditEntryTree, []column[*auditv1.Entry]{}), page)
			}
			if err == nil && n == 0 {
				c.say("no entries")
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.DurationVar(&since, "since", 0, "not older than this, such as 24h")
	fl.StringVar(&who, "who", "", "by this person, token or service: its name or id")
	fl.StringVar(&method, "method", "", "with this text in the method, such as ExemptionService or Delete")
	fl.StringVar(&service, "service", "", "of this service")
	fl.BoolVar(&denied, "denied", false, "only what was denied")
	fl.StringVar(&call, "call", "", "of this call")
	fl.StringVar(&filter, "filter", "", "any other condition, such as 'reason = \"ROLE_TOO_LOW\"'")
	complete(cmd, "service", serviceNames()...)
	l.add(cmd)
	return cmd
}

// auditCalls prints calls, each as one line at the place of its newest entry.
func (c *cli) auditCalls(ctx context.Context, api auditv1.AuditServiceClient, l limit, page func(size int32, token string) ([]*auditv1.Entry, string, error)) (int, error) {
	most := max(int(l), 0)
	if l < 0 && c.output == formatTable {
		most = tableLimit
	}
	var lines []*auditCall
	byID := map[string]*auditCall{}
	more := false
	for token := ""; ; {
		entries, next, err := page(500, token)
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			r := e.GetRecord()
			a := byID[r.GetCallId()]
			if a == nil {
				if most > 0 && len(lines) == most {
					more = true
					continue // what follows can be the beginning of one that is shown
				}
				a = &auditCall{}
				byID[r.GetCallId()] = a
				lines = append(lines, a)
			}
			a.add(r)
		}
		if token = next; token == "" || more {
			break
		}
	}
	if err := completeCalls(ctx, api, byID); err != nil {
		return 0, err
	}
	p := newPrinter(c, func(*auditCall) object { return nil }, auditColumns)
	for _, a := range lines {
		if err := p.add(a); err != nil {
			return 0, err
		}
	}
	if err := p.close(); err != nil {
		return 0, err
	}
	if more {
		c.say("the newest %s; --limit 0 shows all", count(int64(len(lines))))
	}
	return len(lines), nil
}

// completeCalls looks for the other half of calls of which a filter, or the
// end of a page, has let one through.
func completeCalls(ctx context.Context, api auditv1.AuditServiceClient, byID map[string]*auditCall) error {
	var half []string
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		if a := byID[id]; a.began == nil && a.ended.GetPhase() != auditv1.Phase_PHASE_DENIED || a.ended == nil {
			half = append(half, "call_id = "+quote(id))
		}
	}
	for some := range slices.Chunk(half, 50) {
		r, err := api.ListAuditEntries(ctx, &auditv1.ListAuditEntriesRequest{PageSize: 1000, Filter: strings.Join(some, " OR ")})
		if err != nil {
			return err
		}
		for _, e := range r.GetEntries() {
			if a := byID[e.GetRecord().GetCallId()]; a != nil {
				a.add(e.GetRecord())
			}
		}
	}
	return nil
}

func (c *cli) auditShow() *cobra.Command {
	return &cobra.Command{
		Use: "show CALL", Aliases: []string{"get"}, Short: "Show a call: who, what, from where, and what it changed", Args: exactly(1, "the id of a call"),
		Example: "  nightshift audit show 3Q5ZJ4N7WB2KXH6VTLD5RYMC2A",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.auditAPI()
			if err != nil {
				return err
			}
			r, err := api.ListAuditEntries(cmd.Context(), &auditv1.ListAuditEntriesRequest{
				Filter: "call_id = " + quote(args[0]), PageSize: 10, Order: auditv1.AuditOrder_AUDIT_ORDER_OLDEST_FIRST})
			if err != nil {
				return err
			}
			if len(r.GetEntries()) == 0 {
				return hint{errs.New(errs.NotFound, "CALL_NOT_FOUND", "the audit log has no call %s", args[0]), "\"nightshift audit list\" shows those there are."}
			}
			a := &auditCall{}
			for _, e := range r.GetEntries() {
				a.add(e.GetRecord())
			}
			if c.output == formatTable {
				c.auditCard(a, r.GetEntries())
				return nil
			}
			p := newPrinter(c, auditEntryTree, []column[*auditv1.Entry]{
				{name: "sequence", number: true, text: func(e *auditv1.Entry) string { return strconv.FormatInt(e.GetSequence(), 10) }},
				{name: "phase", text: func(e *auditv1.Entry) string { return name(e.GetRecord().GetPhase()) }},
				{name: "time", text: func(e *auditv1.Entry) string { return stamp(e.GetRecord().GetTime()) }},
				{name: "request", text: func(e *auditv1.Entry) string { return e.GetRecord().GetRequest() }},
				{name: "before", text: func(e *auditv1.Entry) string { return e.GetRecord().GetBefore() }},
				{name: "after", text: func(e *auditv1.Entry) string { return e.GetRecord().GetAfter() }},
			})
			for _, e := range r.GetEntries() {
				if err := p.add(e); err != nil {
					return err
				}
			}
			return p.close()
		},
	}
}

func (c *cli) auditCard(a *auditCall, entries []*auditv1.Entry) {
	r, p := a.first(), a.first().GetPrincipal()
	who := callerOf(p)
	if role := name(p.GetRole()); role != "" {
		who += ", " + strings.ToLower(role)
	}
	if p.GetId() != "" {
		who += " (" + p.GetId() + ")"
	}
	var places []string
	for _, e := range entries {
		places = append(places, fmt.Sprintf("%d %s", e.GetSequence(), strings.ToLower(name(e.GetRecord().GetPhase()))))
	}
	cut := func(is bool) string {
		if is {
			return "; it was longer, and is cut off"
		}
		return ""
	}
	request := r.GetRequest()
	if request == "" {
		request = a.ended.GetRequest()
	}
	times := ""
	if r.GetCount() > 1 {
		times = many(r.GetCount(), "time", "times")
	}
	ended := ""
	if a.began != nil && a.ended != nil {
		ended = "after " + lasted(a.ended.GetTime().AsTime().Sub(a.began.GetTime().AsTime()))
	}
	c.card("Call "+r.GetCallId(),
		fact{"outcome", a.outcome(), a.paint()},
		fact{name: "who", text: who},
		fact{name: "accounts", text: strings.Join(p.GetAccounts(), ", ")},
		fact{name: "what", text: r.GetMethod()},
		fact{name: "when", text: format(r.GetTime(), time.DateTime)},
		fact{name: "ended", text: ended},
		fact{name: "times", text: times},
		fact{name: "from", text: r.GetPeer()},
		fact{name: "with", text: r.GetUserAgent()},
		fact{name: "service", text: r.GetService()},
		fact{name: "entries", text: strings.Join(places, ", ")},
		fact{name: "request", text: request + cut(a.began.GetRequestTruncated() || a.ended.GetRequestTruncated())},
	)
	lines, whole := changes(a.ended.GetBefore(), a.ended.GetAfter())
	switch {
	case !whole || a.ended.GetChangeTruncated():
		c.card("Change", fact{name: "before", text: a.ended.GetBefore(), paint: red}, fact{name: "after", text: a.ended.GetAfter() + cut(a.ended.GetChangeTruncated()), paint: green})
	case len(lines) > 0:
		c.print("%s\n", c.outPaint(bold, "Change"))
		for _, l := range lines {
			paint := green
			if strings.HasPrefix(l, "-") {
				paint = red
			}
			c.print("  %s\n", c.outPaint(paint, clean(l)))
		}
	}
}

// changes says what differs between two JSON texts, a line for each value that
// went or came. Empty text is nothing. False: one of them is no JSON.
func changes(before, after string) (lines []string, ok bool) {
	old, ok1 := flatten(before)
	now, ok2 := flatten(after)
	if !ok1 || !ok2 {
		return nil, false
	}
	keys := map[string]bool{}
	for _, m := range []map[string]string{old, now} {
		for k := range m {
			keys[k] = true
		}
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		was, had := old[k]
		is, has := now[k]
		if had && has && was == is {
			continue
		}
		if had {
			lines = append(lines, "- "+k+": "+was)
		}
		if has {
			lines = append(lines, "+ "+k+": "+is)
		}
	}
	return lines, true
}

// flatten is each value of a JSON text by its path.
func flatten(text string) (map[string]string, bool) {
	out := map[string]string{}
	if text == "" {
		return out, true
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, false
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(strings.TrimPrefix(path+"."+k, "."), x)
			}
		case []any:
			for i, x := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), x)
			}
		default:
			b, _ := json.Marshal(v)
			out[path] = string(b)
		}
	}
	walk("", v)
	return out, true
}

func (c *cli) auditHead() *cobra.Command {
	return &cobra.Command{
		Use: "head", Short: "Print place and hash of the newest entry, to be kept elsewhere", Args: cobra.NoArgs,
		Long: `Print place and hash of the newest entry. Kept elsewhere, it shows later that nothing before it was changed or cut off:
a chain alone cannot tell that its end is gone, or that all of it was written anew.`,
		Example: `  nightshift audit head >> /mnt/elsewhere/audit-heads
  nightshift audit verify --head "$(tail -1 /mnt/elsewhere/audit-heads)"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.auditAPI()
			if err != nil {
				return err
			}
			r, err := api.GetAuditHead(cmd.Context(), &auditv1.GetAuditHeadRequest{})
			if err != nil {
				return err
			}
			h := audit.Head{Sequence: r.GetSequence(), Hash: r.GetHash()}
			return printOne(c, h, headTree, []column[audit.Head]{
				{name: "sequence", number: true, text: func(h audit.Head) string { return strconv.FormatInt(h.Sequence, 10) }},
				{name: "hash", text: func(h audit.Head) string { return hex.EncodeToString(h.Hash) }},
			}, func() { c.print("%s\n", h) })
		},
	}
}

func headTree(h audit.Head) object {
	return object{{"sequence", h.Sequence}, {"hash", hex.EncodeToString(h.Hash)}}
}

// shownBreaks bounds what a verification says of a log that is all wrong.
const shownBreaks = 100

func (c *cli) auditVerify() *cobra.Command {
	var (
		from  int64
		heads []string
	)
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that no entry of the audit log was changed, left out or moved", Args: cobra.NoArgs,
		Long: `Check that no entry of the audit log was changed, left out or moved.

The chain is computed here, from what was written: neither the service nor the database is believed. Whoever can write to the database
can cut off the end of the log, or write all of it anew: that shows when it is compared with a head that was kept elsewhere
("nightshift audit head"). The exit code is 1 when something is wrong.`,
		Example: `  nightshift audit verify
  nightshift audit verify --head 1204:5f0c7f4be5a8d0c7f6a9b0f1d2c3e4f5061728394a5b6c7d8e9fa0b1c2d3e4f5
  nightshift audit verify --from 100000 -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if from < 1 {
				return usage("--from %d is no place: they begin with 1", from)
			}
			var known []audit.Head
			for _, text := range heads {
				h, err := audit.ParseHead(text)
				if err != nil {
					return usage("--head %v", err)
				}
				if h.Sequence < from-1 {
					return usage("--head %d is before --from %d, and would not be looked at", h.Sequence, from)
				}
				known = append(known, h)
			}
			api, err := c.auditAPI()
			if err != nil {
				return err
			}
			v, breaks, err := verifyAudit(cmd.Context(), api, from, known)
			if err != nil {
				return err
			}
			return c.auditVerdict(v, from, len(known), breaks)
		},
	}
	cmd.Flags().Int64Var(&from, "from", 1, "begin with this entry, and believe the one before it")
	cmd.Flags().StringArrayVar(&heads, "head", nil, "a head that was kept elsewhere, SEQUENCE:HASH; may be given several times")
	return cmd
}

// verifyAudit computes the chain from an entry on.
func verifyAudit(ctx context.Context, api auditv1.AuditServiceClient, from int64, heads []audit.Head) (*audit.Verifier, []audit.Break, error) {
	var (
		v      *audit.Verifier
		breaks []audit.Break
	)
	if from == 1 {
		v = audit.NewVerifier(audit.Head{}, heads...)
	}
	req := &auditv1.ListAuditEntriesRequest{PageSize: 1000, Order: auditv1.AuditOrder_AUDIT_ORDER_OLDEST_FIRST, Filter: fmt.Sprint("sequence >= ", max(from-1, 1))}
	for {
		r, err := api.ListAuditEntries(ctx, req)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range r.GetEntries() {
			if v == nil { // the entry before, of which the hash is believed and the rest is not looked at
				if e.GetSequence() == from-1 {
					v = audit.NewVerifier(audit.Head{Sequence: from - 1, Hash: e.GetHash()}, heads...)
					breaks = append(breaks, v.Compare()...)
					continue
				}
				v = audit.NewVerifier(audit.Head{Sequence: from - 2}, heads...)
			}
			breaks = append(breaks, v.Next(e)...)
		}
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if v == nil {
		return nil, nil, usage("--from %d is beyond the end of the log", from)
	}
	return v, append(breaks, v.End()...), nil
}

// auditVerdict says how a verification ended, and is an error when not well.
func (c *cli) auditVerdict(v *audit.Verifier, from int64, heads int, breaks []audit.Break) error {
	columns := []column[audit.Break]{
		{name: "sequence", head: "Entry", number: true, text: func(b audit.Break) string { return strconv.FormatInt(b.Sequence, 10) }},
		{name: "what", head: "What is wrong", text: func(b audit.Break) string { return b.What }, paint: func(audit.Break) paint { return red }},
	}
	asTree := func(b audit.Break) object { return object{{"sequence", b.Sequence}, {"what", b.What}} }
	switch c.output {
	case formatJSON, formatYAML, formatJSONL:
		list := make([]any, len(breaks))
		for i, b := range breaks {
			list[i] = asTree(b)
		}
		err := printOne(c, v, func(*audit.Verifier) object {
			return object{{"intact", len(breaks) == 0}, {"from", from}, {"entries", v.Count()}, {"head", headTree(v.Head())}, {"breaks", list}}
		}, nil, nil)
		if err != nil {
			return err
		}
	default:
		p := newPrinter(c, asTree, columns)
		for _, b := range breaks[:min(len(breaks), shownBreaks)] {
			if err := p.add(b); err != nil {
				return err
			}
		}
		if err := p.close(); err != nil {
			return err
		}
	}
	if len(breaks) > 0 {
		if len(breaks) > shownBreaks && c.output == formatTable {
			c.say("… and %s more", count(int64(len(breaks)-shownBreaks)))
		}
		return &exit{exitError, fmt.Sprintf("the audit log is not what was written: %s, the first at entry %d", many(int64(len(breaks)), "break", "breaks"), breaks[0].Sequence)}
	}
	if c.output == formatTable {
		c.print("%s %s, from %d to %d, each after the one before\n", c.outPaint(green, "intact:"), many(v.Count(), "entry", "entries"), from, v.Head().Sequence)
		c.print("head    %s\n", v.Head())
		if heads == 0 {
			c.say("without --head nobody can tell whether the end was cut off, or all of it written anew")
		}
	}
	return nil
}
