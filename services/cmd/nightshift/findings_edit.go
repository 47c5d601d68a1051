package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
)

// batchSize is how many findings one call changes.
const batchSize = 1000

var resultColumns = []column[*findingv1.FindingResult]{
	{name: "id", head: "ID", text: func(r *findingv1.FindingResult) string { return r.GetId()[:min(8, len(r.GetId()))] },
		csv: (*findingv1.FindingResult).GetId, paint: func(*findingv1.FindingResult) paint { return faint }},
	{name: "done", head: "Done", text: func(r *findingv1.FindingResult) string {
		if r.GetError() != nil {
			return "no"
		}
		return "yes"
	}},
	{name: "severity", head: "Severity", text: func(r *findingv1.FindingResult) string { return name(r.GetFinding().GetSeverity()) },
		paint: func(r *findingv1.FindingResult) paint { return severityPaint(r.GetFinding().GetSeverity()) }},
	{name: "rule_id", head: "Rule", text: func(r *findingv1.FindingResult) string { return r.GetFinding().GetRuleId() }},
	{name: "resource_id", head: "Resource", flex: 21, text: func(r *findingv1.FindingResult) string { return r.GetFinding().GetResource().GetId() }},
	{name: "owner", head: "Owner", flex: 8, text: func(r *findingv1.FindingResult) string { return r.GetFinding().GetOwner() }},
	{name: "error", head: "Why not", flex: 20, text: func(r *findingv1.FindingResult) string { return r.GetError().GetMessage() }},
}

// editing is a command that does something to findings: those named, or those
// that the flags choose.
func (c *cli) editing(use, short, long, example string, flags func(cmd *cobra.Command), action func(req *findingv1.BatchUpdateFindingsRequest) error) *cobra.Command {
	var (
		f    findingFilter
		by   string
		done string
	)
	cmd := &cobra.Command{
		Use: use + " [ID...]", Short: short, Example: example,
		Long: long + `

Findings are named by their ids or the beginnings of them, or chosen by flags: then all of them that are open. Each is changed by
itself; when some cannot be, the others are and the exit code is 1.`,
		ValidArgsFunction: c.completing(c.findingIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			req := &findingv1.BatchUpdateFindingsRequest{Actor: by}
			if err := action(req); err != nil {
				return err
			}
			f.state = ""
			filter, err := f.text()
			if err != nil {
				return err
			}
			if (len(args) == 0) == (filter == "") {
				return usage("name findings, or choose them by flags such as --rule or --account")
			}
			api, err := c.findings()
			if err != nil {
				return err
			}
			ids, err := c.chosen(ctx, api, args, filter)
			if err != nil {
				return err
			}
			p, failed := newPrinter(c, func(r *findingv1.FindingResult) object { return tree(r) }, resultColumns), 0
			for batch := range slices.Chunk(ids, batchSize) {
				req.Findings = nil
				for _, id := range batch {
					req.Findings = append(req.Findings, &findingv1.FindingRef{Id: id})
				}
				var random [16]byte
				_, _ = rand.Read(random[:]) // never fails
				req.RequestId = hex.EncodeToString(random[:])
				resp, err := api.BatchUpdateFindings(ctx, req)
				if err != nil {
					return err
				}
				for _, r := range resp.GetResults() {
					if r.GetError() != nil {
						failed++
					}
					if err := p.add(r); err != nil {
						return err
					}
				}
			}
			if err := p.close(); err != nil {
				return err
			}
			c.say("%s: %s", done, many(int64(len(ids)-failed), "finding", "findings"))
			if failed > 0 {
				return &exit{exitError, fmt.Sprintf("%s could not be changed", many(int64(failed), "finding", "findings"))}
			}
			return nil
		},
	}
	done = map[string]string{"ack": "acknowledged", "unack": "no longer acknowledged", "assign": "assigned", "comment": "commented"}[use]
	f.add(c, cmd, false)
	cmd.Flags().StringVar(&by, "by", requester(), "who does it")
	flags(cmd)
	return cmd
}

// chosen are the ids of the findings that are named, or of the open ones that
// a filter finds.
func (c *cli) chosen(ctx context.Context, api findingv1.FindingServiceClient, args []string, filter string) (ids []string, err error) {
	for _, a := range args {
		if len(a) == 32 && findingID.MatchString(strings.ToLower(a)) {
			ids = append(ids, strings.ToLower(a)) // one that is not there is told apart from the others
			continue
		}
		f, err := findFinding(ctx, api, a)
		if err != nil {
			return nil, err
		}
		ids = append(ids, f.GetId())
	}
	if len(args) > 0 {
		slices.Sort(ids)
		return slices.Compact(ids), nil
	}
	req := &findingv1.ListFindingsRequest{PageSize: batchSize, OrderBy: "id", Filter: `state != "RESOLVED" AND (` + filter + `)`, ReadMask: &fieldmaskpb.FieldMask{Paths: []string{"id"}}}
	for {
		r, err := api.ListFindings(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, f := range r.GetFindings() {
			ids = append(ids, f.GetId())
		}
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			return ids, nil
		}
	}
}

func (c *cli) findingsAck() *cobra.Command {
	var note, until string
	return c.editing("ack", "Say that somebody knows about findings",
		`Says that somebody knows about findings and that nobody else need look into them. They stay as they are and keep costing; to accept
them use "nightshift exemptions add". It ends when a finding is resolved and at --until; without it, when its severity, cost or
rule changes.`,
		`  nightshift findings ack 3f2a9c01 --note "gone with the migration" --until 2027-03-31
  nightshift findings ack --rule ebs-gp2-to-gp3 --owner shop --note "planned for May"`,
		func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&note, "note", "", "what is to be said about it")
			cmd.Flags().StringVar(&until, "until", "", "when it ends: through a day such as 2027-03-31 (UTC), or after a time such as 90d, 12w or 36h; at most two years")
		}, func(req *findingv1.BatchUpdateFindingsRequest) (err error) {
			ack := &findingv1.Acknowledge{Note: note}
			if until != "" {
				if ack.ExpireTime, err = c.until(until); err != nil {
					return err
				}
			}
			req.Action = &findingv1.BatchUpdateFindingsRequest_Acknowledge{Acknowledge: ack}
			return nil
		})
}

func (c *cli) findingsUnack() *cobra.Command {
	return c.editing("unack", "Take acknowledgements back", "Takes acknowledgements back. Nothing happens to findings that have none.",
		`  nightshift findings unack 3f2a9c01
  nightshift findings unack --acknowledged yes --account 123456789012`,
		func(*cobra.Command) {}, func(req *findingv1.BatchUpdateFindingsRequest) error {
			req.Action = &findingv1.BatchUpdateFindingsRequest_Unacknowledge{Unacknowledge: &findingv1.Unacknowledge{}}
			return nil
		})
}

func (c *cli) findingsAssign() *cobra.Command {
	var to string
	var nobody bool
	return c.editing("assign", "Give findings to an owner",
		`Gives findings to an owner, over what the resource, its group or its account says. It lasts until somebody else is assigned, also
when a finding is resolved and comes back.`,
		`  nightshift findings assign 3f2a9c01 77be --to team-shop
  nightshift findings assign --owner "Auto Scaling group web" --to team-web
  nightshift findings assign --assignee team-web --to-nobody`,
		func(cmd *cobra.Command) {
			cmd.Flags().StringVar(&to, "to", "", "who answers from now on, such as a team or an address")
			cmd.Flags().BoolVar(&nobody, "to-nobody", false, "give them back to the owner they have by themselves")
		}, func(req *findingv1.BatchUpdateFindingsRequest) error {
			if (to == "") != nobody {
				return usage("say to whom: --to or --to-nobody")
			}
			req.Action = &findingv1.BatchUpdateFindingsRequest_Assign{Assign: &findingv1.Assign{Assignee: to}}
			return nil
		})
}

func (c *cli) findingsComment() *cobra.Command {
	var text string
	return c.editing("comment", "Say something about findings", "Says something about findings. It is kept in their history.",
		`  nightshift findings comment 3f2a9c01 --text "asked the shop team, see OPS-4711"`,
		func(cmd *cobra.Command) {
			cmd.Flags().StringVarP(&text, "text", "m", "", "what")
		}, func(req *findingv1.BatchUpdateFindingsRequest) error {
			if strings.TrimSpace(text) == "" {
				return usage("say something: --text")
			}
			req.Action = &findingv1.BatchUpdateFindingsRequest_Comment{Comment: &findingv1.Comment{Text: text}}
			return nil
		})
}

var historyColumns = []column[*findingv1.Transition]{
	{name: "time", head: "When", text: func(t *findingv1.Transition) string { return when(t.GetTime()) }, csv: func(t *findingv1.Transition) string { return stamp(t.GetTime()) }},
	{name: "kind", head: "What", text: func(t *findingv1.Transition) string { return name(t.GetKind()) }},
	{name: "cause", head: "Cause", text: func(t *findingv1.Transition) string { return name(t.GetCause()) }},
	{name: "actor", head: "By", flex: 8, text: (*findingv1.Transition).GetActor},
	{name: "from_state", text: func(t *findingv1.Transition) string { return name(t.GetFromState()) }},
	{name: "to_state", head: "State", text: func(t *findingv1.Transition) string { return name(t.GetToState()) },
		paint: func(t *findingv1.Transition) paint { return statePaint(t.GetToState()) }},
	{name: "to_severity", head: "Severity", spare: 1, text: func(t *findingv1.Transition) string { return name(t.GetToSeverity()) },
		paint: func(t *findingv1.Transition) paint { return severityPaint(t.GetToSeverity()) }},
	{name: "from_cost_high", number: true, text: func(t *findingv1.Transition) string { return high(t.GetFromCost()) }},
	{name: "to_cost_high", number: true, text: func(t *findingv1.Transition) string { return high(t.GetToCost()) }},
	{name: "run_id", head: "Run", flex: 12, spare: 2, text: (*findingv1.Transition).GetRunId},
	{name: "reason", head: "Why", flex: 20, text: (*findingv1.Transition).GetReason},
	{name: "from_owner", text: (*findingv1.Transition).GetFromOwner},
	{name: "to_owner", text: (*findingv1.Transition).GetToOwner},
}

func (c *cli) findingsHistory() *cobra.Command {
	var l limit
	cmd := &cobra.Command{
		Use: "history ID", Short: "Show everything that happened to a finding, oldest first", Args: exactly(1, "the id of a finding, or its beginning"),
		Example: `  nightshift findings history 3f2a9c01
  nightshift findings history 3f2a9c01 -o json | jq '.[].evidence'`,
		ValidArgsFunction: c.completing(c.findingIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			api, err := c.findings()
			if err != nil {
				return err
			}
			f, err := findFinding(ctx, api, args[0])
			if err != nil {
				return err
			}
			_, err = listAll(ctx, c, l, newPrinter(c, func(t *findingv1.Transition) object { return tree(t) }, historyColumns), func(size int32, token string) ([]*findingv1.Transition, string, error) {
				r, err := api.ListTransitions(ctx, &findingv1.ListTransitionsRequest{FindingId: f.GetId(), PageSize: size, PageToken: token})
				return r.GetTransitions(), r.GetNextPageToken(), err
			})
			return err
		},
	}
	l.add(cmd)
	return cmd
}
