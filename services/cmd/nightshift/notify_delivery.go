package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/errs"
)

const noSuchDelivery = "\"nightshift notify deliveries list\" shows the deliveries there are."

func (c *cli) notifyDeliveries() *cobra.Command {
	return group("deliveries", "What was told, and how that went", c.deliveriesList(), c.deliveriesShow())
}

func deliveryPaint(d *notificationv1.Delivery) paint {
	switch d.GetState() {
	case notificationv1.DeliveryState_DELIVERY_STATE_DELIVERED:
		return green
	case notificationv1.DeliveryState_DELIVERY_STATE_DEAD:
		return red
	case notificationv1.DeliveryState_DELIVERY_STATE_SILENCED:
		return faint
	}
	return yellow
}

var deliveryColumns = []column[*notificationv1.Delivery]{
	{name: "id", head: "ID", text: (*notificationv1.Delivery).GetId, paint: func(*notificationv1.Delivery) paint { return faint }},
	{name: "create_time", head: "Made", text: func(d *notificationv1.Delivery) string { return when(d.GetCreateTime()) }, csv: func(d *notificationv1.Delivery) string { return stamp(d.GetCreateTime()) }},
	{name: "receiver", head: "To", flex: 10, text: (*notificationv1.Delivery).GetReceiver},
	{name: "route", head: "Route", flex: 8, spare: 2, text: (*notificationv1.Delivery).GetRoute},
	{name: "state", head: "State", text: func(d *notificationv1.Delivery) string { return name(d.GetState()) }, paint: deliveryPaint},
	{name: "attempts", head: "Attempts", number: true, spare: 1, text: func(d *notificationv1.Delivery) string { return strconv.Itoa(int(d.GetAttempts())) }},
	{name: "summary", head: "What", flex: 16, text: (*notificationv1.Delivery).GetSummary},
	{name: "last_error", head: "Last error", flex: 12, spare: 3, text: (*notificationv1.Delivery).GetLastError},
	{name: "end_time", csv: func(d *notificationv1.Delivery) string { return stamp(d.GetEndTime()) }},
}

func deliveryTree(d *notificationv1.Delivery) object { return tree(d) }

func (c *cli) printDelivery(d *notificationv1.Delivery) error {
	return printOne(c, d, deliveryTree, deliveryColumns, func() {
		m := d.GetMessage()
		var group []string
		for _, k := range slices.Sorted(maps.Keys(m.GetGroup())) {
			group = append(group, k+" "+m.GetGroup()[k])
		}
		events := ""
		if m.GetEvents() > 0 {
			events = many(m.GetEvents(), "event", "events")
		}
		c.card(d.GetSummary(),
			fact{"state", name(d.GetState()), deliveryPaint(d)},
			fact{name: "to", text: d.GetReceiver()},
			fact{name: "route", text: d.GetRoute()},
			fact{name: "about", text: strings.Join(group, ", ")},
			fact{name: "tells of", text: events},
			fact{name: "made", text: when(d.GetCreateTime())},
			fact{name: "tried next", text: when(d.GetNextAttemptTime())},
			fact{name: "ended", text: when(d.GetEndTime())},
			fact{name: "attempts", text: strconv.Itoa(int(d.GetAttempts()))},
			fact{name: "last error", text: d.GetLastError()},
			fact{name: "silence", text: d.GetSilenceId()},
			fact{name: "sends again", text: d.GetResendOf()},
			fact{name: "idempotency key", text: d.GetIdempotencyKey()},
			fact{name: "id", text: d.GetId()},
		)
		for _, a := range d.GetLog() {
			outcome, p := "failed", red
			if a.GetOk() {
				outcome, p = "arrived", green
			}
			c.print("  %s  %s  %s  %s\n", format(a.GetTime(), time.DateTime), c.outPaint(p, outcome), duration(a.GetDuration()), clean(a.GetDetail()))
		}
	})
}

func (c *cli) deliveriesList() *cobra.Command {
	var (
		state, receiver, routeName, filter string
		l                                  limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List deliveries, the newest first", Args: cobra.NoArgs,
		Example: `  nightshift notify deliveries list --state dead
  nightshift notify deliveries list --receiver oncall --filter 'create_time > "2026-11-01T00:00:00Z"' -o csv`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var and []string
			if state != "" {
				names := enumNames(notificationv1.DeliveryState(0))
				if !slices.Contains(names, strings.ToUpper(state)) {
					return usage("--state %q is not one of %s", state, strings.ToLower(strings.Join(names, ", ")))
				}
				and = append(and, "state = "+quote(strings.ToUpper(state)))
			}
			if receiver != "" {
				and = append(and, "receiver = "+quote(receiver))
			}
			if routeName != "" {
				and = append(and, "route = "+quote(routeName))
			}
			if filter != "" {
				and = append(and, "("+filter+")")
			}
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, deliveryTree, deliveryColumns), func(size int32, token string) ([]*notificationv1.Delivery, string, error) {
				r, err := api.ListDeliveries(cmd.Context(), &notificationv1.ListDeliveriesRequest{PageSize: size, PageToken: token, Filter: strings.Join(and, " AND ")})
				return r.GetDeliveries(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no deliveries")
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&state, "state", "", "only those that are "+strings.ToLower(strings.Join(enumNames(notificationv1.DeliveryState(0)), ", ")))
	fl.StringVar(&receiver, "receiver", "", "only to this receiver, or mailto: and an address")
	fl.StringVar(&routeName, "route", "", "only by this route")
	fl.StringVar(&filter, "filter", "", "any other condition, such as 'attempts > 3'")
	complete(cmd, "state", enumNames(notificationv1.DeliveryState(0))...)
	_ = cmd.RegisterFlagCompletionFunc("receiver", c.completing(c.receiverNames))
	_ = cmd.RegisterFlagCompletionFunc("route", c.completing(c.routeNames))
	l.add(cmd)
	return cmd
}

// deliveryCommand is a command about one delivery.
func (c *cli) deliveryCommand(use, short, example string, run func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, id string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " DELIVERY", Short: short, Args: exactly(1, "the id of a delivery"), Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			return withHint(run(cmd.Context(), api, args[0]), errs.NotFound, noSuchDelivery)
		},
	}
}

func (c *cli) deliveriesShow() *cobra.Command {
	cmd := c.deliveryCommand("show", "Show a delivery with its message and its attempts", "  nightshift notify deliveries show 06F3K9QWX4T2Z8V5N1B7R0M6CD -o yaml",
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, id string) error {
			r, err := api.GetDelivery(ctx, &notificationv1.GetDeliveryRequest{Id: id})
			if err != nil {
				return err
			}
			return c.printDelivery(r.GetDelivery())
		})
	cmd.Aliases = []string{"get"}
	return cmd
}

func (c *cli) notifyResend() *cobra.Command {
	return c.deliveryCommand("resend", "Send the message of a delivery that has ended again", "  nightshift notify resend 06F3K9QWX4T2Z8V5N1B7R0M6CD",
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, id string) error {
			r, err := api.ResendDelivery(ctx, &notificationv1.ResendDeliveryRequest{Id: id})
			if err != nil {
				return err
			}
			c.say("is sent again")
			return c.printDelivery(r.GetDelivery())
		})
}

// tested is the outcome of a test.
type tested struct {
	receiver string
	*notificationv1.Attempt
}

func (t tested) tree() object { return append(object{{"receiver", t.receiver}}, tree(t.Attempt)...) }

var testedColumns = []column[tested]{
	{name: "receiver", text: func(t tested) string { return t.receiver }},
	{name: "ok", text: func(t tested) string { return strconv.FormatBool(t.GetOk()) }},
	{name: "duration_seconds", number: true, text: func(t tested) string {
		return strconv.FormatFloat(t.GetDuration().AsDuration().Seconds(), 'f', -1, 64)
	}},
	{name: "detail", text: func(t tested) string { return t.GetDetail() }},
}

func (c *cli) notifyTest() *cobra.Command {
	return &cobra.Command{
		Use: "test RECEIVER", Short: "Send a test message now, and say how it went", Args: exactly(1, "the name of a receiver"),
		Long:              "Sends a test message to a receiver now, once, and exits with 1 when it does not arrive.",
		Example:           "  nightshift notify test oncall",
		ValidArgsFunction: c.completing(c.receiverNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.notification()
			if err != nil {
				return err
			}
			r, err := api.TestReceiver(cmd.Context(), &notificationv1.TestReceiverRequest{Receiver: args[0]})
			if err != nil {
				return withHint(err, errs.NotFound, noSuchReceiver)
			}
			t := tested{args[0], r.GetAttempt()}
			err = printOne(c, t, tested.tree, testedColumns, func() {
				if t.GetOk() {
					c.print("%s  %s in %s\n", c.outPaint(green, "arrived"), clean(t.GetDetail()), duration(t.GetDuration()))
				}
			})
			if err == nil && !t.GetOk() {
				return fmt.Errorf("receiver %s did not take it: %s", clean(t.receiver), t.GetDetail())
			}
			return err
		},
	}
}

var explanationColumns = []column[*notificationv1.RouteExplanation]{
	{name: "route", text: (*notificationv1.RouteExplanation).GetRoute},
	{name: "matches", text: func(x *notificationv1.RouteExplanation) string { return strconv.FormatBool(x.GetMatches()) }},
	{name: "reason", text: (*notificationv1.RouteExplanation).GetReason},
	{name: "receivers", text: func(x *notificationv1.RouteExplanation) string { return strings.Join(x.GetReceivers(), " ") }},
	{name: "receivers_reason", text: (*notificationv1.RouteExplanation).GetReceiversReason},
	{name: "due_time", text: func(x *notificationv1.RouteExplanation) string { return stamp(x.GetDueTime()) }},
	{name: "due_reason", text: (*notificationv1.RouteExplanation).GetDueReason},
	{name: "silence_id", text: (*notificationv1.RouteExplanation).GetSilenceId},
}

func (c *cli) notifyExplain() *cobra.Command {
	var event, at string
	cmd := &cobra.Command{
		Use: "explain FINDING", Short: "Say who would hear of a finding, and why", Args: exactly(1, "the id of a finding"),
		Long: `Goes through the routes in their order, up to the one that ends the search, and says of each whether it takes the event, who
hears by it, and when. Nothing is sent.`,
		Example: `  nightshift notify explain 3f2a9c01
  nightshift notify explain 3f2a9c01 --event FindingResolved --at 2026-12-24T22:00:00Z`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			req := &notificationv1.ExplainNotificationRequest{Event: event}
			if at != "" {
				t, err := time.Parse(time.RFC3339, at)
				if err != nil {
					return usage("--at %q is no time as in RFC 3339, such as 2026-12-24T22:00:00Z", at)
				}
				req.Time = timestamppb.New(t)
			}
			findings, err := c.findings()
			if err != nil {
				return err
			}
			f, err := findFinding(ctx, findings, args[0])
			if err != nil {
				return err
			}
			req.FindingId = f.GetId()
			api, err := c.notification()
			if err != nil {
				return err
			}
			r, err := api.ExplainNotification(ctx, req)
			if err != nil {
				return err
			}
			if c.output == formatTable {
				c.explained(r.GetRoutes())
				return nil
			}
			p := newPrinter(c, func(x *notificationv1.RouteExplanation) object { return tree(x) }, explanationColumns)
			for _, x := range r.GetRoutes() {
				if err := p.add(x); err != nil {
					return err
				}
			}
			return p.close()
		},
	}
	cmd.Flags().StringVar(&event, "event", "FindingOpened", "what happens to it")
	cmd.Flags().StringVar(&at, "at", "", "when, as in RFC 3339 (default: now)")
	complete(cmd, "event", "FindingOpened", "FindingReopened", "FindingChanged", "FindingResolved", "FindingExempted", "FindingAcknowledged", "FindingAssigned", "FindingCommented", "FindingOrphaned")
	return cmd
}

// explained shows what routes make of an event.
func (c *cli) explained(routes []*notificationv1.RouteExplanation) {
	heard := false
	for _, x := range routes {
		if !x.GetMatches() {
			c.card(x.GetRoute(), fact{"takes it", "no: " + x.GetReason(), faint})
			continue
		}
		var group []string
		for _, k := range slices.Sorted(maps.Keys(x.GetGroup())) {
			group = append(group, k+" "+x.GetGroup()[k])
		}
		hears := fact{"tells", strings.Join(x.GetReceivers(), ", "), bold}
		if len(x.GetReceivers()) == 0 {
			hears = fact{"tells", "nobody", yellow}
		}
		silenced := fact{"silence", x.GetSilenceId(), yellow}
		if x.GetSilenceId() != "" {
			silenced.text += " keeps it from being told"
		}
		heard = heard || len(x.GetReceivers()) > 0 && x.GetSilenceId() == ""
		c.card(x.GetRoute(),
			fact{"takes it", strings.TrimSuffix("yes: "+x.GetReason(), ": "), green}, hears,
			fact{name: "since", text: x.GetReceiversReason()},
			fact{name: "together by", text: strings.Join(group, ", ")},
			fact{name: "at the earliest", text: when(x.GetDueTime())},
			fact{name: "then", text: x.GetDueReason()}, silenced,
		)
	}
	if !heard {
		c.say("nobody would hear of it")
	}
}
