package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
)

func (c *cli) health() (healthv1.HealthServiceClient, error) {
	conn, err := c.dial("health")
	if err != nil {
		return nil, err
	}
	return healthv1.NewHealthServiceClient(conn), nil
}

func componentPaint(s healthv1.ComponentState) paint {
	switch s {
	case healthv1.ComponentState_COMPONENT_STATE_UP:
		return green
	case healthv1.ComponentState_COMPONENT_STATE_DOWN:
		return boldRed
	default:
		return yellow
	}
}

var componentColumns = []column[*healthv1.Component]{
	{name: "component", head: "Component", text: (*healthv1.Component).GetName},
	{name: "title", head: "Name", flex: 12, spare: 2, text: (*healthv1.Component).GetTitle},
	{name: "state", head: "State", text: func(x *healthv1.Component) string { return name(x.GetState()) },
		paint: func(x *healthv1.Component) paint { return componentPaint(x.GetState()) }},
	{name: "since", head: "Since (UTC)", spare: 1, text: func(x *healthv1.Component) string { return when(x.GetSinceTime()) },
		csv: func(x *healthv1.Component) string { return stamp(x.GetSinceTime()) }},
	{name: "why", head: "Why", flex: 24, text: func(x *healthv1.Component) string {
		why := x.GetReason()
		if bad := x.GetState() == healthv1.ComponentState_COMPONENT_STATE_DOWN || x.GetState() == healthv1.ComponentState_COMPONENT_STATE_UNKNOWN; x.GetFailingTime() != nil && !bad {
			why = "the newest look failed, one more is a verdict: " + why
		}
		return why
	}, csv: (*healthv1.Component).GetReason},
	{name: "checked", text: func(x *healthv1.Component) string { return stamp(x.GetCheckTime()) }},
	{name: "kind", text: func(x *healthv1.Component) string { return name(x.GetKind()) }},
	{name: "attributes", text: func(x *healthv1.Component) string { return pairs(x.GetAttributes()) }},
}

const (
	healthEvery = 2 * time.Second
	ownDoctor   = "\"nightshift doctor\" looks by itself and says how to mend what it finds."
)

func (c *cli) healthCommand() *cobra.Command {
	var now, watch bool
	cmd := &cobra.Command{
		Use: "health", Short: "Show how every part and every account is; 1 when one is DOWN", Args: noneOf,
		Long: `Shows every service, NATS, Postgres and every account: UP, DEGRADED, DOWN or UNKNOWN, since when and why. The health service
looks at everything once a minute; DOWN takes two failed looks in a row.

The exit code is 1 when something is DOWN.`,
		Example: `  nightshift health
  nightshift health --watch
  nightshift health --now -o json | jq '.[] | select(.state != "UP")'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.health()
			if err != nil {
				return err
			}
			if watch {
				return c.watchHealth(cmd.Context(), api, now)
			}
			all, recorded, err := components(cmd.Context(), api, now)
			if err != nil {
				return healthHint(err)
			}
			if err := c.printComponents(all, recorded); err != nil {
				return err
			}
			return healthExit(all)
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "look now instead of showing the newest look")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until Ctrl-C: the table as it changes, or with -o jsonl each component that changed")
	cmd.AddCommand(c.healthHistory())
	return cmd
}

func healthHint(err error) error {
	return hint{err, ownDoctor}
}

func components(ctx context.Context, api healthv1.HealthServiceClient, now bool) ([]*healthv1.Component, bool, error) {
	if now {
		r, err := api.CheckComponents(ctx, &healthv1.CheckComponentsRequest{})
		return r.GetComponents(), r.GetRecorded(), err
	}
	r, err := api.ListComponents(ctx, &healthv1.ListComponentsRequest{})
	return r.GetComponents(), r.GetRecorded(), err
}

func componentTree(x *healthv1.Component) object { return tree(x) }

func (c *cli) printComponents(all []*healthv1.Component, recorded bool) error {
	p := newPrinter(c, componentTree, componentColumns)
	for _, x := range all {
		if err := p.add(x); err != nil {
			return err
		}
	}
	if err := p.close(); err != nil {
		return err
	}
	switch {
	case len(all) == 0:
		c.say("nothing was looked at yet; \"nightshift health --now\" looks now")
	case !recorded:
		c.say("persistence does not answer: this is what one replica of the health service has seen itself")
	}
	return nil
}

// healthExit is 1 when something is DOWN.
func healthExit(all []*healthv1.Component) error {
	var names []string
	for _, x := range all {
		if x.GetState() == healthv1.ComponentState_COMPONENT_STATE_DOWN {
			names = append(names, x.GetName())
		}
	}
	if len(names) == 0 {
		return nil
	}
	return hint{&exit{exitError, strings.Join(names, ", ") + plural(len(names), " is DOWN", " are DOWN")}, ownDoctor}
}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// watchHealth shows the components whenever one has changed, until ctx ends. A
// health service that goes away is waited for.
func (c *cli) watchHealth(ctx context.Context, api healthv1.HealthServiceClient, now bool) error {
	p := newPrinter(c, componentTree, componentColumns)
	shown := map[string]string{}
	away := false
	c.say("watching; Ctrl-C ends it")
	for {
		all, recorded, err := components(ctx, api, now)
		switch {
		case ctx.Err() != nil:
			return p.close()
		case err != nil && !away:
			away = true
			c.say("%v; waiting for it", err)
		case err == nil:
			away = false
			var changed []*healthv1.Component
			for _, x := range all {
				key := name(x.GetState()) + "\x00" + x.GetSinceTime().AsTime().String()
				if shown[x.GetName()] != key {
					shown[x.GetName()] = key
					changed = append(changed, x)
				}
			}
			switch {
			case len(changed) == 0:
			case c.output == formatTable:
				if c.outTTY {
					c.print("\x1b[2J\x1b[H")
				}
				c.print("%s  %s\n", c.outPaint(bold, "Health"), c.outPaint(faint, c.now().UTC().Format(time.DateTime)))
				if err := c.printComponents(all, recorded); err != nil {
					return err
				}
			default:
				for _, x := range changed {
					if err := p.add(x); err != nil {
						return err
					}
				}
			}
		}
		t := time.NewTimer(healthEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return p.close()
		}
	}
}

var componentTransitionColumns = []column[*healthv1.ComponentTransition]{
	{name: "time", head: "Time (UTC)", text: func(t *healthv1.ComponentTransition) string { return format(t.GetTime(), time.DateTime) },
		csv: func(t *healthv1.ComponentTransition) string { return stamp(t.GetTime()) }},
	{name: "component", head: "Component", text: (*healthv1.ComponentTransition).GetComponent},
	{name: "from", head: "From", text: func(t *healthv1.ComponentTransition) string { return name(t.GetFromState()) }},
	{name: "to", head: "To", text: func(t *healthv1.ComponentTransition) string { return name(t.GetToState()) },
		paint: func(t *healthv1.ComponentTransition) paint { return componentPaint(t.GetToState()) }},
	{name: "why", head: "Why", flex: 24, text: (*healthv1.ComponentTransition).GetReason},
	{name: "id", number: true, text: func(t *healthv1.ComponentTransition) string { return count(t.GetId()) }},
}

func (c *cli) healthHistory() *cobra.Command {
	var (
		filter string
		l      limit
	)
	cmd := &cobra.Command{
		Use: "history [COMPONENT]", Short: "Show how components changed, newest first", Args: cobra.MaximumNArgs(1),
		Example: `  nightshift health history nats
  nightshift health history --filter 'to_state = "DOWN" AND time > "2026-09-01T00:00:00Z"' -o csv`,
		ValidArgsFunction: c.completing(func(ctx context.Context) ([]string, error) {
			api, err := c.health()
			if err != nil {
				return nil, err
			}
			all, _, err := components(ctx, api, false)
			var out []string
			for _, x := range all {
				out = append(out, cobra.CompletionWithDesc(x.GetName(), clean(x.GetTitle())))
			}
			return out, err
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			var and []string
			if len(args) > 0 {
				and = append(and, "component = "+quote(args[0]))
			}
			if filter != "" {
				and = append(and, "("+filter+")")
			}
			api, err := c.health()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, func(t *healthv1.ComponentTransition) object { return tree(t) }, componentTransitionColumns),
				func(size int32, token string) ([]*healthv1.ComponentTransition, string, error) {
					r, err := api.ListComponentTransitions(cmd.Context(), &healthv1.ListComponentTransitionsRequest{PageSize: size, PageToken: token, Filter: strings.Join(and, " AND ")})
					return r.GetTransitions(), r.GetNextPageToken(), err
				})
			if err == nil && n == 0 {
				c.say("no changes of state; \"nightshift health\" shows the components there are")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&filter, "filter", "", `any other condition, such as 'to_state = "DOWN"'`)
	l.add(cmd)
	return cmd
}
