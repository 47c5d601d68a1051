package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/errs"
)

func isNotFound(err error) bool { return errors.Is(err, errs.NotFound) }

// How times are written, in flags and in files.

// days are those of the week, from Monday.
var days = []string{"MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"}

// parseDays reads days such as MON-FRI or SAT,SUN as 1 to 7.
func parseDays(s string) ([]int32, bool) {
	var out []int32
	for part := range strings.SplitSeq(strings.ToUpper(s), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, b := slices.Index(days, from), slices.Index(days, to)
		if a < 0 || b < 0 {
			return nil, false
		}
		for i := a; ; i = (i + 1) % 7 {
			if !slices.Contains(out, int32(i+1)) {
				out = append(out, int32(i+1))
			}
			if i == b {
				break
			}
		}
	}
	slices.Sort(out)
	return out, true
}

func daysText(list []int32) string {
	list = slices.Sorted(slices.Values(list))
	var parts []string
	for i := 0; i < len(list); {
		j := i
		for j+1 < len(list) && list[j+1] == list[j]+1 {
			j++
		}
		part := days[(list[i]+6)%7]
		switch {
		case j == i+1:
			part += "," + days[(list[j]+6)%7]
		case j > i:
			part += "-" + days[(list[j]+6)%7]
		}
		parts = append(parts, part)
		i = j + 1
	}
	return strings.Join(parts, ",")
}

// parseQuiet reads quiet hours such as "MON-FRI 18:00-08:00 Europe/Dublin";
// days and zone can be left out.
func parseQuiet(s string) (*notificationv1.QuietHours, error) {
	q := &notificationv1.QuietHours{}
	words := strings.Fields(s)
	if len(words) > 0 {
		if list, ok := parseDays(words[0]); ok {
			q.Weekdays, words = list, words[1:]
		}
	}
	ok := len(words) == 1 || len(words) == 2
	if ok {
		q.Start, q.End, ok = strings.Cut(words[0], "-")
	}
	if !ok || !clockText(q.GetStart()) || !clockText(q.GetEnd()) {
		return nil, usage(`quiet hours %q are not like "MON-FRI 18:00-08:00 Europe/Dublin"; days and zone can be left out`, s)
	}
	if len(words) == 2 {
		q.TimeZone = words[1]
	}
	return q, nil
}

func quietText(q *notificationv1.QuietHours) string {
	return strings.Join(strings.Fields(daysText(q.GetWeekdays())+" "+q.GetStart()+"-"+q.GetEnd()+" "+q.GetTimeZone()), " ")
}

// parseDigest reads the time of a digest such as "MON 08:00 Europe/Dublin"; day
// and zone can be left out.
func parseDigest(s string) (*notificationv1.Digest, error) {
	d := &notificationv1.Digest{}
	words := strings.Fields(s)
	if len(words) > 0 {
		if i := slices.Index(days, strings.ToUpper(words[0])); i >= 0 {
			d.Weekday, words = int32(i+1), words[1:]
		}
	}
	if len(words) < 1 || len(words) > 2 || !clockText(words[0]) {
		return nil, usage(`digest %q is not like "MON 08:00 Europe/Dublin"; without a day it is daily, without a zone it is UTC`, s)
	}
	d.Time = words[0]
	if len(words) == 2 {
		d.TimeZone = words[1]
	}
	return d, nil
}

func digestText(d *notificationv1.Digest) string {
	if d == nil {
		return ""
	}
	day := ""
	if d.GetWeekday() > 0 {
		day = daysText([]int32{d.GetWeekday()})
	}
	return strings.Join(strings.Fields(day+" "+d.GetTime()+" "+d.GetTimeZone()), " ")
}

func clockText(s string) bool {
	_, err := time.Parse("15:04", s)
	return err == nil && len(s) == 5
}

// parseSpan reads a length of time such as 30s, 4h, 7d or 2w.
func parseSpan(what, s string) (*durationpb.Duration, error) {
	if m := spanOf.FindStringSubmatch(s); m != nil {
		n, _ := strconv.Atoi(m[1]) // digits
		if m[2] == "w" {
			n *= 7
		}
		return durationpb.New(time.Duration(n) * 24 * time.Hour), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return nil, usage("%s %q is no length of time such as 30s, 4h or 7d", what, s)
	}
	return durationpb.New(d), nil
}

// spanText is what parseSpan reads, exactly.
func spanText(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	x := d.AsDuration()
	if day := 24 * time.Hour; x >= day && x%day == 0 {
		return strconv.Itoa(int(x/day)) + "d"
	}
	return trimZero(x.String())
}

func (c *cli) notifyRoutes() *cobra.Command {
	return group("routes", "Who hears of what, how much at a time, and when", c.routesList(), c.routesGet(), c.routesSet(), c.routesDelete())
}

// routeHears are those who hear by a route.
func routeHears(r *notificationv1.Route) string {
	to := strings.Join(r.GetReceivers(), ", ")
	if r.GetToOwner() {
		to = strings.TrimSuffix("the owner, or "+to, ", or ")
	}
	return to
}

// routeWhen says when a route tells.
func routeWhen(r *notificationv1.Route) string {
	if r.GetPaused() {
		return "paused"
	}
	if d := digestText(r.GetDigest()); d != "" {
		return "digest " + d
	}
	var quiet []string
	for _, q := range r.GetQuietHours() {
		quiet = append(quiet, quietText(q))
	}
	if len(quiet) > 0 {
		return "not " + strings.Join(quiet, "; ")
	}
	return "at once"
}

var routeColumns = []column[*notificationv1.Route]{
	{name: "position", head: "Position", number: true, text: func(r *notificationv1.Route) string { return strconv.Itoa(int(r.GetPosition())) }},
	{name: "name", head: "Route", text: (*notificationv1.Route).GetName},
	{name: "filter", head: "Takes", flex: 16, text: func(r *notificationv1.Route) string {
		if r.GetFilter() == "" {
			return "everything"
		}
		return r.GetFilter()
	}, csv: (*notificationv1.Route).GetFilter},
	{name: "receivers", head: "Tells", flex: 12, text: routeHears, csv: func(r *notificationv1.Route) string { return strings.Join(r.GetReceivers(), " ") }},
	{name: "group_by", head: "Together by", spare: 2, text: func(r *notificationv1.Route) string { return strings.Join(r.GetGroupBy(), ", ") },
		csv: func(r *notificationv1.Route) string { return strings.Join(r.GetGroupBy(), " ") }},
	{name: "when", head: "When", flex: 12, spare: 1, text: routeWhen, paint: func(r *notificationv1.Route) paint {
		if r.GetPaused() {
			return yellow
		}
		return plainPaint
	}},
	{name: "proceed", head: "Then", spare: 3, text: func(r *notificationv1.Route) string {
		if r.GetProceed() {
			return "the next"
		}
		return ""
	}, csv: func(r *notificationv1.Route) string { return strconv.FormatBool(r.GetProceed()) }},
}

func routeTree(r *notificationv1.Route) object { return tree(r) }

func (c *cli) printRoute(r *notificationv1.Route) error {
	return printOne(c, r, routeTree, routeColumns, func() {
		or := func(s, otherwise string) string {
			if s == "" {
				return otherwise
			}
			return s
		}
		most := r.GetMaxMessagesPerHour()
		if most == 0 {
			most = 30
		}
		then := "no other route"
		if r.GetProceed() {
			then = "later routes, too"
		}
		c.card(r.GetName(),
			fact{name: "for", text: r.GetDescription()},
			fact{name: "position", text: strconv.Itoa(int(r.GetPosition()))},
			fact{name: "takes", text: or(r.GetFilter(), "everything")},
			fact{"tells", routeHears(r), bold},
			fact{name: "together by", text: or(strings.Join(r.GetGroupBy(), ", "), "nothing: all is one group")},
			fact{name: "when", text: routeWhen(r)},
			fact{name: "not quiet from", text: name(r.GetQuietBelow())},
			fact{name: "waits", text: or(spanText(r.GetGroupWait()), "30s")},
			fact{name: "again after", text: or(spanText(r.GetGroupInterval()), "5m")},
			fact{name: "reminds after", text: or(spanText(r.GetRepeatInterval()), "never")},
			fact{name: "at most", text: fmt.Sprintf("%s an hour", many(int64(most), "message", "messages"))},
			fact{name: "then", text: then},
			fact{name: "changed", text: when(r.GetUpdateTime())},
			fact{name: "etag", text: r.GetEtag()},
		)
	})
}

func (c *cli) routesList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List routes in the order in which they are tried", Args: cobra.NoArgs,
		Example: "  nightshift notify routes list\n  nightshift notify routes list -o csv",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, 0, newPrinter(c, routeTree, routeColumns), func(int32, string) ([]*notificationv1.Route, string, error) {
				r, err := api.ListRoutes(cmd.Context(), &notificationv1.ListRoutesRequest{})
				return r.GetRoutes(), "", err
			})
			if err == nil && n == 0 {
				c.say("no routes: nobody hears of anything; \"nightshift notify routes set\" makes one")
			}
			return err
		},
	}
}

// route finds a route; nil when there is none of that name.
func route(ctx context.Context, api notificationv1.NotificationConfigServiceClient, name string) (*notificationv1.Route, error) {
	r, err := api.ListRoutes(ctx, &notificationv1.ListRoutesRequest{})
	for _, x := range r.GetRoutes() {
		if x.GetName() == name {
			return x, nil
		}
	}
	return nil, err
}

func (c *cli) routeNames(ctx context.Context) ([]string, error) {
	api, err := c.notifyConfig()
	if err != nil {
		return nil, err
	}
	r, err := api.ListRoutes(ctx, &notificationv1.ListRoutesRequest{})
	var out []string
	for _, x := range r.GetRoutes() {
		out = append(out, cobra.CompletionWithDesc(x.GetName(), clean(x.GetFilter())))
	}
	return out, err
}

// routeCommand is a command about one route.
func (c *cli) routeCommand(use, short, example string, run func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, name string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: exactly(1, "the name of a route"), Example: example,
		ValidArgsFunction: c.completing(c.routeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			return withHint(withHint(run(cmd.Context(), api, args[0]), errs.NotFound, noSuchRoute), errs.Aborted, changedSince)
		},
	}
}

func (c *cli) routesGet() *cobra.Command {
	cmd := c.routeCommand("get", "Show a route", "  nightshift notify routes get finops -o yaml",
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, name string) error {
			r, err := route(ctx, api, name)
			if err != nil {
				return err
			}
			if r == nil {
				return errs.New(errs.NotFound, "ROUTE_NOT_FOUND", "there is no route %s", name)
			}
			return c.printRoute(r)
		})
	cmd.Aliases = []string{"show"}
	return cmd
}

// routeFlags are the parts of a route.
type routeFlags struct {
	description, filter, digest, quietBelow, wait, interval, repeat string
	receivers, groupBy, quiet                                       []string
	position, most                                                  int32
	owner, proceed, paused                                          bool
}

func (f *routeFlags) add(c *cli, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.description, "description", "", "what it is for")
	fl.Int32Var(&f.position, "position", 0, "lower ones are tried first, 0 to 10000")
	fl.StringVar(&f.filter, "filter", "", `what it takes, such as 'category = "SECURITY" AND severity >= "HIGH"'; empty: everything`)
	fl.StringSliceVar(&f.receivers, "receiver", nil, "who hears; with --to-owner, who hears when the owner has no contact")
	fl.BoolVar(&f.owner, "to-owner", false, "the owner of a finding hears")
	fl.BoolVar(&f.proceed, "proceed", false, "later routes are tried, too")
	fl.StringSliceVar(&f.groupBy, "group-by", nil, "what is told together: category, severity, rule_id, account, region, owner, event, job; none: all is")
	fl.StringVar(&f.wait, "wait", "", "how long the first event waits for others, up to 1h (default 30s)")
	fl.StringVar(&f.interval, "interval", "", "least time between two messages about a group, up to 7d (default 5m)")
	fl.StringVar(&f.repeat, "repeat", "", "after which time a group that is still open is told again, such as 24h; none: never")
	fl.StringArrayVar(&f.quiet, "quiet", nil, `when nothing is sent, such as "MON-FRI 18:00-08:00 Europe/Dublin"; may be given several times; none: never`)
	fl.StringVar(&f.quietBelow, "quiet-below", "", "findings of this severity and above do not wait for the end of quiet hours: "+severityNames()+", none")
	fl.StringVar(&f.digest, "digest", "", `when everything is told together, such as "MON 08:00 Europe/Dublin", or "08:00" daily; none: no digest`)
	fl.Int32Var(&f.most, "max-per-hour", 0, "messages an hour to each receiver before the rest is one summary (default 30)")
	fl.BoolVar(&f.paused, "paused", false, "take nothing; --paused=false takes again")
	complete(cmd, "group-by", "category", "severity", "rule_id", "account", "region", "owner", "event", "job")
	complete(cmd, "quiet-below", append(enumNames(rulev1.Severity(0)), none)...)
	_ = cmd.RegisterFlagCompletionFunc("receiver", c.completing(c.receiverNames))
}

// none takes a setting back.
const none = "none"

// set takes over what was given.
func (f *routeFlags) set(cmd *cobra.Command, r *notificationv1.Route) (err error) {
	given := cmd.Flags().Changed
	if given("description") {
		r.Description = f.description
	}
	if given("position") {
		r.Position = f.position
	}
	if given("filter") {
		r.Filter = f.filter
	}
	if given("receiver") {
		r.Receivers = without(f.receivers)
	}
	if given("to-owner") {
		r.ToOwner = f.owner
	}
	if given("proceed") {
		r.Proceed = f.proceed
	}
	if given("group-by") {
		r.GroupBy = without(f.groupBy)
	}
	if given("max-per-hour") {
		r.MaxMessagesPerHour = f.most
	}
	if given("paused") {
		r.Paused = f.paused
	}
	for _, x := range []struct {
		flag, text string
		into       **durationpb.Duration
	}{{"wait", f.wait, &r.GroupWait}, {"interval", f.interval, &r.GroupInterval}, {"repeat", f.repeat, &r.RepeatInterval}} {
		switch {
		case !given(x.flag):
		case x.text == none:
			*x.into = nil
		default:
			if *x.into, err = parseSpan("--"+x.flag, x.text); err != nil {
				return err
			}
		}
	}
	if given("quiet") {
		r.QuietHours = nil
		for _, s := range without(f.quiet) {
			q, err := parseQuiet(s)
			if err != nil {
				return err
			}
			r.QuietHours = append(r.QuietHours, q)
		}
	}
	if given("quiet-below") {
		if r.QuietBelow = 0; f.quietBelow != none {
			if r.QuietBelow, err = parseSeverity("--quiet-below", f.quietBelow); err != nil {
				return err
			}
		}
	}
	if given("digest") {
		if r.Digest = nil; f.digest != none {
			if r.Digest, err = parseDigest(f.digest); err != nil {
				return err
			}
		}
	}
	return nil
}

// without is a list that was given, none being an empty one.
func without(list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == none || s == "" })
}

func (c *cli) routesSet() *cobra.Command {
	var f routeFlags
	var cmd *cobra.Command
	cmd = c.routeCommand("set", "Make a route, or change what is given of one",
		`  nightshift notify routes set finops --filter 'category = "WASTE" AND monthly_cost > 100' --receiver finops --group-by account,owner --digest "MON 08:00 Europe/Dublin"
  nightshift notify routes set urgent --position 1 --filter 'severity >= "CRITICAL"' --receiver pager --repeat 4h --proceed
  nightshift notify routes set owners --to-owner --receiver oncall --group-by owner --quiet "MON-FRI 18:00-08:00 Europe/Dublin" --quiet "SAT,SUN 00:00-00:00 Europe/Dublin" --quiet-below critical
  nightshift notify routes set finops --digest none --paused`,
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, name string) error {
			r, err := route(ctx, api, name)
			if err != nil {
				return err
			}
			made := r == nil
			if made {
				r = &notificationv1.Route{Name: name}
			}
			if err := f.set(cmd, r); err != nil {
				return err
			}
			set, err := api.SetRoute(ctx, &notificationv1.SetRouteRequest{Route: r, CreateOnly: made})
			if err != nil {
				return err
			}
			c.sayMade(made)
			return c.printRoute(set.GetRoute())
		})
	f.add(c, cmd)
	return cmd
}

func (c *cli) routesDelete() *cobra.Command {
	var etag string
	cmd := c.routeCommand("delete", "Delete a route; what waits in it is told to nobody", "  nightshift notify routes delete finops",
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, name string) error {
			r, err := api.DeleteRoute(ctx, &notificationv1.DeleteRouteRequest{Name: name, Etag: etag})
			if err != nil {
				return err
			}
			c.say("deleted route %s, and %s that waited", clean(name), many(r.GetDroppedEvents(), "event", "events"))
			return nil
		})
	cmd.Aliases = []string{"rm", "remove"}
	cmd.Flags().StringVar(&etag, "etag", "", "only when the route still has this etag")
	return cmd
}
