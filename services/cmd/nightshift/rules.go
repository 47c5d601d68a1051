package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/services"
)

// sets are the rules of every scanning service that is linked here. Commands, help
// and completions follow from them.
var sets = services.Rules

func setNames() []string {
	names := make([]string, len(sets))
	for i, s := range sets {
		names[i] = s.Service()
	}
	return names
}

func (c *cli) rulesCommand() *cobra.Command {
	return group("rules", "List and explain the rules", c.rulesList(), c.rulesExplain())
}

// allRules asks every scanning service for its rules with the figures in
// force in an account, ordered by id; an empty account has none of its own.
func (c *cli) allRules(ctx context.Context, account string) ([]*rulev1.Rule, error) {
	var rules []*rulev1.Rule
	for _, service := range setNames() {
		conn, err := c.dial(service)
		if err != nil {
			return nil, err
		}
		r, err := rulev1.NewRuleServiceClient(conn).ListRules(ctx, &rulev1.ListRulesRequest{Account: account})
		if err != nil {
			return nil, err
		}
		rules = append(rules, r.GetRules()...)
	}
	slices.SortFunc(rules, func(a, b *rulev1.Rule) int { return strings.Compare(a.GetId(), b.GetId()) })
	return rules, nil
}

var ruleColumns = []column[*rulev1.Rule]{
	{name: "id", head: "Rule", text: (*rulev1.Rule).GetId},
	{name: "version", text: func(r *rulev1.Rule) string { return strconv.Itoa(int(r.GetVersion())) }, number: true},
	{name: "category", head: "Category", text: func(r *rulev1.Rule) string { return name(r.GetCategory()) }},
	{name: "resource_type", head: "Resource type", text: (*rulev1.Rule).GetResourceType},
	{name: "title", head: "Title", flex: 20, text: (*rulev1.Rule).GetTitle},
	{name: "parameters", head: "Parameters", flex: 12, spare: 1, text: func(r *rulev1.Rule) string {
		var out []string
		for _, p := range r.GetParameters() {
			out = append(out, p.GetName()+"="+valueText(p.GetValue()))
		}
		return strings.Join(out, " ")
	}},
}

func (c *cli) rulesList() *cobra.Command {
	var account string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the rules with the parameters in force", Args: cobra.NoArgs,
		Example: "  nightshift rules list\n  nightshift rules list --account 123456789012\n  nightshift rules list -o json | jq '.[].actions[]' | sort -u",
		RunE: func(cmd *cobra.Command, _ []string) error {
			rules, err := c.allRules(cmd.Context(), account)
			if err != nil {
				return err
			}
			p := newPrinter(c, func(r *rulev1.Rule) object { return tree(r) }, ruleColumns)
			for _, r := range rules {
				if err := p.add(r); err != nil {
					return err
				}
			}
			return p.close()
		},
	}
	cmd.Flags().StringVar(&account, "account", "", "with the parameters in force in this account")
	return cmd
}

func (c *cli) rulesExplain() *cobra.Command {
	var account string
	cmd := &cobra.Command{
		Use: "explain RULE", Aliases: []string{"show", "get"}, Short: "Explain a rule: why, how it judges, what it costs to know, and examples",
		Args:              exactly(1, "the id of a rule"),
		Example:           "  nightshift rules explain ebs-unattached",
		ValidArgsFunction: c.completing(c.ruleIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := c.allRules(cmd.Context(), account)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(rules, func(r *rulev1.Rule) bool { return r.GetId() == args[0] })
			if i < 0 {
				return hint{errs.New(errs.NotFound, "RULE_UNKNOWN", "there is no rule %q", args[0]), "\"nightshift rules list\" shows the rules there are."}
			}
			r := rules[i]
			return printOne(c, r, func(r *rulev1.Rule) object { return tree(r) }, ruleColumns, func() { c.ruleCard(r) })
		},
	}
	cmd.Flags().StringVar(&account, "account", "", "with the parameters in force in this account")
	return cmd
}

func (c *cli) ruleCard(r *rulev1.Rule) {
	c.card(r.GetTitle(),
		fact{name: "rule", text: fmt.Sprintf("%s, version %d", r.GetId(), r.GetVersion())},
		fact{name: "judges", text: r.GetResourceType()},
		fact{name: "why", text: r.GetWhy()},
		fact{name: "how to mend it", text: r.GetFix()},
		fact{name: "severity", text: r.GetSeverity()},
		fact{name: "needs", text: strings.Join(r.GetActions(), ", ")},
		fact{name: "stands on", text: strings.Join(r.GetCitations(), " ")},
	)
	if len(r.GetParameters()) > 0 {
		c.print("\n%s\n%s\n", c.outPaint(bold, "Parameters"), renderTable(c, parameterColumns, r.GetParameters()))
	}
	if len(r.GetExamples()) > 0 {
		c.print("\n%s\n%s\n", c.outPaint(bold, "Examples"), renderTable(c, exampleColumns(r.GetCategory()), r.GetExamples()))
	}
}

var parameterColumns = []column[*rulev1.Parameter]{
	{head: "Name", text: (*rulev1.Parameter).GetName},
	{head: "Value", text: func(p *rulev1.Parameter) string { return withUnit(valueText(p.GetValue()), p.GetUnit()) }},
	{head: "Default", text: func(p *rulev1.Parameter) string { return withUnit(valueText(p.GetDefaultValue()), p.GetUnit()) }},
	{head: "What it is", flex: 20, text: (*rulev1.Parameter).GetDescription},
}

func exampleColumns(of rulev1.Category) []column[*rulev1.Example] {
	return []column[*rulev1.Example]{
		{head: "Case", flex: 20, text: (*rulev1.Example).GetName},
		{head: "Verdict", text: func(e *rulev1.Example) string { return name(e.GetVerdict().GetOutcome()) },
			paint: func(e *rulev1.Example) paint { return outcomePaint(e.GetVerdict().GetOutcome()) }},
		{head: "Severity", text: func(e *rulev1.Example) string { return name(e.GetVerdict().GetSeverity()) },
			paint: func(e *rulev1.Example) paint { return severityPaint(e.GetVerdict().GetSeverity()) }},
		{head: "Monthly cost", number: true, text: func(e *rulev1.Example) string {
			if e.GetVerdict().GetOutcome() != rulev1.Outcome_OUTCOME_VIOLATION {
				return ""
			}
			return cost(of, e.GetVerdict().GetMonthlyCost())
		}},
		{head: "Because", flex: 24, spare: 1, text: func(e *rulev1.Example) string { return e.GetVerdict().GetReason() }},
	}
}

func outcomePaint(o rulev1.Outcome) paint {
	switch o {
	case rulev1.Outcome_OUTCOME_VIOLATION:
		return yellow
	case rulev1.Outcome_OUTCOME_COMPLIANT:
		return green
	case rulev1.Outcome_OUTCOME_ERROR:
		return red
	default:
		return faint
	}
}

// valueText is a figure for people; "" when there is none.
func valueText(v *structpb.Value) string {
	switch x := structTree(v).(type) {
	case nil:
		return ""
	case string:
		return x
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(x)
	case []any:
		var out []string
		for _, e := range v.GetListValue().GetValues() {
			out = append(out, valueText(e))
		}
		return strings.Join(out, ", ")
	default:
		return string(appendJSON(nil, x, "", ""))
	}
}

// ruleIDs are the rules that are linked: a shell gets them without asking.
func (c *cli) ruleIDs(context.Context) ([]string, error) {
	var out []string
	for _, s := range sets {
		for _, m := range s.Metas() {
			out = append(out, cobra.CompletionWithDesc(m.ID, m.Title))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no rules")
	}
	return out, nil
}
