package main

import (
	"strconv"

	"github.com/spf13/cobra"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	"nightshift.dev/pkg/errs"
)

const nothingHeld = "\"nightshift findings held\" shows what is held."

func held(n func(*findingv1.Hold) int64) func(*findingv1.Hold) string {
	return func(h *findingv1.Hold) string { return strconv.FormatInt(n(h), 10) }
}

var holdColumns = []column[*findingv1.Hold]{
	{name: "run_id", head: "Run", flex: 20, text: (*findingv1.Hold).GetRunId},
	{name: "account", head: "Account", text: (*findingv1.Hold).GetAccount},
	{name: "service", head: "Service", spare: 1, text: (*findingv1.Hold).GetService},
	{name: "time", head: "Since", text: func(h *findingv1.Hold) string { return when(h.GetTime()) }, csv: func(h *findingv1.Hold) string { return stamp(h.GetTime()) }},
	{name: "findings_before", head: "Findings", number: true, text: held((*findingv1.Hold).GetFindingsBefore)},
	{name: "opens", head: "Would open", number: true, text: held((*findingv1.Hold).GetOpens)},
	{name: "reopens", head: "Reopen", number: true, text: held((*findingv1.Hold).GetReopens)},
	{name: "resolves", head: "Resolve", number: true, text: held((*findingv1.Hold).GetResolves)},
}

var heldColumns = []column[*findingv1.HeldTransition]{
	{name: "finding_id", head: "ID", text: func(t *findingv1.HeldTransition) string { return t.GetFindingId()[:min(8, len(t.GetFindingId()))] },
		csv: (*findingv1.HeldTransition).GetFindingId, paint: func(*findingv1.HeldTransition) paint { return faint }},
	{name: "kind", head: "What", text: func(t *findingv1.HeldTransition) string { return name(t.GetKind()) }},
	{name: "severity", head: "Severity", text: func(t *findingv1.HeldTransition) string { return name(t.GetSeverity()) },
		paint: func(t *findingv1.HeldTransition) paint { return severityPaint(t.GetSeverity()) }},
	{name: "monthly_cost_high", number: true, text: func(t *findingv1.HeldTransition) string { return high(t.GetMonthlyCost()) }},
	{name: "rule_id", head: "Rule", text: (*findingv1.HeldTransition).GetRuleId},
	{name: "region", head: "Region", spare: 1, text: (*findingv1.HeldTransition).GetRegion},
	{name: "arn", head: "Resource", flex: 20, text: (*findingv1.HeldTransition).GetResourceArn},
	{name: "time", head: "Seen", spare: 2, text: func(t *findingv1.HeldTransition) string { return when(t.GetTime()) }, csv: func(t *findingv1.HeldTransition) string { return stamp(t.GetTime()) }},
	{name: "reason", head: "Why", flex: 20, text: (*findingv1.HeldTransition).GetReason},
}

func (c *cli) findingsHeld() *cobra.Command {
	var l limit
	cmd := &cobra.Command{
		Use: "held [RUN]", Short: "Show what is held because a run would have changed too much", Args: cobra.MaximumNArgs(1),
		Long: `A run that would open or resolve a large share of an account's findings at once is stopped: more often than not something is
wrong with the run, its permissions or a rule. What it found after that is held until somebody releases or discards it, or a later
scan says the contrary. With a run, shows what is held one by one.`,
		Example: `  nightshift findings held
  nightshift findings held waste-scan/2027-03-31T02:00:00Z -o csv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			api, err := c.findings()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				_, err := listAll(ctx, c, l, newPrinter(c, func(t *findingv1.HeldTransition) object { return tree(t) }, heldColumns), func(size int32, token string) ([]*findingv1.HeldTransition, string, error) {
					r, err := api.ListHeldTransitions(ctx, &findingv1.ListHeldTransitionsRequest{RunId: args[0], PageSize: size, PageToken: token})
					return r.GetTransitions(), r.GetNextPageToken(), err
				})
				return withHint(err, errs.NotFound, nothingHeld)
			}
			n, err := listAll(ctx, c, l, newPrinter(c, func(h *findingv1.Hold) object { return tree(h) }, holdColumns), func(size int32, token string) ([]*findingv1.Hold, string, error) {
				r, err := api.ListHolds(ctx, &findingv1.ListHoldsRequest{PageSize: size, PageToken: token})
				return r.GetHolds(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("nothing is held")
			}
			return err
		},
	}
	l.add(cmd)
	return cmd
}

func (c *cli) findingsRelease() *cobra.Command {
	var account, by string
	cmd := &cobra.Command{
		Use: "release RUN", Short: "Let happen what is held of a run", Args: exactly(1, "the id of a run"),
		Long: "Opens, reopens and resolves what is held of a run. The run is not stopped again.",
		Example: `  nightshift findings release waste-scan/2027-03-31T02:00:00Z
  nightshift findings release waste-scan/2027-03-31T02:00:00Z --account 123456789012`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.findings()
			if err != nil {
				return err
			}
			r, err := api.ReleaseHold(cmd.Context(), &findingv1.ReleaseHoldRequest{RunId: args[0], Account: account, Actor: by})
			if err != nil {
				return withHint(err, errs.NotFound, nothingHeld)
			}
			return printOne(c, r, func(r *findingv1.ReleaseHoldResponse) object { return tree(r) }, []column[*findingv1.ReleaseHoldResponse]{
				{name: "released", number: true, text: func(r *findingv1.ReleaseHoldResponse) string { return strconv.FormatInt(r.GetReleased(), 10) }},
				{name: "outdated", number: true, text: func(r *findingv1.ReleaseHoldResponse) string { return strconv.FormatInt(r.GetOutdated(), 10) }},
			}, func() {
				c.print("released %s\n", many(r.GetReleased(), "transition", "transitions"))
				if r.GetOutdated() > 0 {
					c.say("%s came to nothing: newer scans had said otherwise", count(r.GetOutdated()))
				}
			})
		},
	}
	cmd.Flags().StringVar(&account, "account", "", "only in this account")
	cmd.Flags().StringVar(&by, "by", requester(), "who does it")
	return cmd
}

func (c *cli) findingsDiscard() *cobra.Command {
	var account, by string
	cmd := &cobra.Command{
		Use: "discard RUN", Short: "Forget what is held of a run", Args: exactly(1, "the id of a run"),
		Long:    "Forgets what is held of a run. Findings stay as they are; the next scan is judged anew.",
		Example: `  nightshift findings discard waste-scan/2027-03-31T02:00:00Z`,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.findings()
			if err != nil {
				return err
			}
			r, err := api.DiscardHold(cmd.Context(), &findingv1.DiscardHoldRequest{RunId: args[0], Account: account, Actor: by})
			if err != nil {
				return withHint(err, errs.NotFound, nothingHeld)
			}
			return printOne(c, r, func(r *findingv1.DiscardHoldResponse) object { return tree(r) }, []column[*findingv1.DiscardHoldResponse]{
				{name: "discarded", number: true, text: func(r *findingv1.DiscardHoldResponse) string { return strconv.FormatInt(r.GetDiscarded(), 10) }},
			}, func() { c.print("discarded %s\n", many(r.GetDiscarded(), "transition", "transitions")) })
		},
	}
	cmd.Flags().StringVar(&account, "account", "", "only in this account")
	cmd.Flags().StringVar(&by, "by", requester(), "who does it")
	return cmd
}
