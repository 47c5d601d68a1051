package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
)

// facetValue is a line of facets.
type facetValue struct {
	facet findingv1.Facet
	*findingv1.FacetValue
}

var facetColumns = []column[facetValue]{
	{name: "facet", head: "By", text: func(v facetValue) string { return strings.ToLower(name(v.facet)) }, paint: func(facetValue) paint { return faint }},
	{name: "value", head: "Value", flex: 12, text: facetValue.GetValue},
	{name: "findings", head: "Findings", number: true, text: func(v facetValue) string { return count(v.GetTotals().GetFindings()) },
		csv: func(v facetValue) string { return strconv.FormatInt(v.GetTotals().GetFindings(), 10) }},
	{name: "monthly_cost_low", number: true, text: func(v facetValue) string { return strconv.FormatFloat(v.GetTotals().GetMonthlyCostLow(), 'f', 2, 64) }},
	{name: "monthly_cost_high", head: "Monthly", number: true, text: func(v facetValue) string {
		return dollars(v.GetTotals().GetMonthlyCostLow(), v.GetTotals().GetMonthlyCostHigh())
	},
		csv: func(v facetValue) string { return strconv.FormatFloat(v.GetTotals().GetMonthlyCostHigh(), 'f', 2, 64) }},
	{name: "unknown_costs", head: "Unknown", number: true, text: func(v facetValue) string { return strconv.FormatInt(v.GetTotals().GetUnknownCosts(), 10) }},
}

// facetNames are the facets there are, as the flags call them.
func facetNames() []string {
	var out []string
	for _, n := range enumNames(findingv1.Facet(0)) {
		out = append(out, strings.ToLower(n))
	}
	return out
}

func (c *cli) findingsFacets() *cobra.Command {
	var (
		f    findingFilter
		by   []string
		size int32
	)
	cmd := &cobra.Command{
		Use: "facets", Short: "Count findings by what tells them apart", Args: cobra.NoArgs,
		Example: `  nightshift findings facets
  nightshift findings facets --by owner,rule --severity high
  nightshift findings facets --by account --top 1000 -o csv`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &findingv1.SummarizeFindingsRequest{FacetSize: size}
			for _, b := range by {
				n := slices.Index(facetNames(), strings.ToLower(b))
				if n < 0 {
					return usage("--by %q is not one of %s", b, strings.Join(facetNames(), ", "))
				}
				req.Facets = append(req.Facets, findingv1.Facet(n+1))
			}
			var err error
			if req.Filter, err = f.text(); err != nil {
				return err
			}
			api, err := c.findings()
			if err != nil {
				return err
			}
			r, err := api.SummarizeFindings(cmd.Context(), req)
			if err != nil {
				return err
			}
			p := newPrinter(c, func(v facetValue) object {
				return append(object{{"facet", name(v.facet)}}, tree(v.FacetValue)...)
			}, facetColumns)
			for _, facet := range r.GetFacets() {
				for _, v := range facet.GetValues() {
					if err := p.add(facetValue{facet.GetFacet(), v}); err != nil {
						return err
					}
				}
				if n := facet.GetMoreValues(); n > 0 {
					c.say("%s more by %s; --top shows more", count(n), strings.ToLower(name(facet.GetFacet())))
				}
			}
			if r.GetTotals().GetFindings() == 0 {
				c.say("no findings")
			}
			return p.close()
		},
	}
	f.add(c, cmd, true)
	cmd.Flags().StringSliceVar(&by, "by", []string{"severity", "rule", "owner"}, "by what: "+strings.Join(facetNames(), ", "))
	cmd.Flags().Int32Var(&size, "top", 0, "most values of each, up to 1000 (default 20)")
	complete(cmd, "by", facetNames()...)
	return cmd
}

var totalsColumns = []column[*findingv1.Totals]{
	{name: "findings", text: func(t *findingv1.Totals) string { return strconv.FormatInt(t.GetFindings(), 10) }, number: true},
	{name: "monthly_cost_low", text: func(t *findingv1.Totals) string { return strconv.FormatFloat(t.GetMonthlyCostLow(), 'f', 2, 64) }, number: true},
	{name: "monthly_cost_high", text: func(t *findingv1.Totals) string { return strconv.FormatFloat(t.GetMonthlyCostHigh(), 'f', 2, 64) }, number: true},
	{name: "unknown_costs", text: func(t *findingv1.Totals) string { return strconv.FormatInt(t.GetUnknownCosts(), 10) }, number: true},
}

func (c *cli) findingsTotals() *cobra.Command {
	var f findingFilter
	cmd := &cobra.Command{
		Use: "totals", Short: "Count findings and add up what they cost", Args: cobra.NoArgs,
		Long: `Counts findings and adds up what they cost a month, each by itself: a resource with two findings counts twice.`,
		Example: `  nightshift findings totals
  nightshift findings totals --owner shop --severity high -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.text()
			if err != nil {
				return err
			}
			api, err := c.findings()
			if err != nil {
				return err
			}
			r, err := api.SummarizeFindings(cmd.Context(), &findingv1.SummarizeFindingsRequest{Filter: filter})
			if err != nil {
				return err
			}
			t := r.GetTotals()
			return printOne(c, t, func(t *findingv1.Totals) object { return tree(t) }, totalsColumns, func() {
				c.card("",
					fact{name: "findings", text: count(t.GetFindings())},
					fact{"cost a month", dollars(t.GetMonthlyCostLow(), t.GetMonthlyCostHigh()), bold},
					fact{name: "of unknown cost", text: count(t.GetUnknownCosts())})
			})
		},
	}
	f.add(c, cmd, true)
	return cmd
}

// money writes an amount for the CSV.
func money(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

func number(of func(*findingv1.FindingDay) int64) func(*findingv1.FindingDay) string {
	return func(d *findingv1.FindingDay) string { return strconv.FormatInt(of(d), 10) }
}

// dayColumns are those of the trend, or of the savings: the CSV has all of
// them either way.
func dayColumns(savings bool) []column[*findingv1.FindingDay] {
	columns := []column[*findingv1.FindingDay]{
		{name: "date", head: "Day", text: (*findingv1.FindingDay).GetDate},
		{name: "open", head: "Open", number: true, text: func(d *findingv1.FindingDay) string { return count(d.GetOpen()) }, csv: number((*findingv1.FindingDay).GetOpen)},
		{name: "monthly_cost_low", number: true, text: func(d *findingv1.FindingDay) string { return money(d.GetMonthlyCostLow()) }},
		{name: "monthly_cost_high", head: "Monthly", number: true, text: func(d *findingv1.FindingDay) string { return dollars(d.GetMonthlyCostLow(), d.GetMonthlyCostHigh()) },
			csv: func(d *findingv1.FindingDay) string { return money(d.GetMonthlyCostHigh()) }},
		{name: "opened", head: "Opened", number: true, text: number((*findingv1.FindingDay).GetOpened)},
		{name: "reopened", head: "Reopened", number: true, text: number((*findingv1.FindingDay).GetReopened)},
		{name: "resolved", head: "Resolved", number: true, text: number((*findingv1.FindingDay).GetResolved)},
		{name: "exempted", head: "Exempted", number: true, text: number((*findingv1.FindingDay).GetExempted)},
		{name: "saved_low", number: true, text: func(d *findingv1.FindingDay) string { return money(d.GetSavedLow()) }},
		{name: "saved_high", head: "Saved a month", number: true, text: func(d *findingv1.FindingDay) string { return dollars(d.GetSavedLow(), d.GetSavedHigh()) },
			csv: func(d *findingv1.FindingDay) string { return money(d.GetSavedHigh()) }},
		{name: "saved_unknown", head: "Unknown", number: true, text: number((*findingv1.FindingDay).GetSavedUnknown)},
		{name: "lost_low", number: true, text: func(d *findingv1.FindingDay) string { return money(d.GetLostLow()) }},
		{name: "lost_high", head: "Came back", number: true, text: func(d *findingv1.FindingDay) string { return dollars(d.GetLostLow(), d.GetLostHigh()) },
			csv: func(d *findingv1.FindingDay) string { return money(d.GetLostHigh()) }},
	}
	hide := []string{"saved_unknown", "lost_high"}
	if savings {
		hide = []string{"open", "monthly_cost_high", "opened", "reopened", "exempted"}
	}
	for i := range columns {
		if slices.Contains(hide, columns[i].name) {
			columns[i].head = ""
		}
	}
	return columns
}

// happened says whether something was open on a day, or became of it.
func happened(d *findingv1.FindingDay) bool {
	return d.GetOpen()+d.GetOpened()+d.GetReopened()+d.GetResolved()+d.GetExempted() > 0
}

var lastDays = regexp.MustCompile(`^([0-9]{1,4})d$`)

// days is a command about what became of findings day by day.
func (c *cli) days(use, short, long, example string, savings bool) *cobra.Command {
	var (
		f                findingFilter
		since, until     string
		rules, accounts  []string
		regions          []string
		category, filter string
	)
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f = findingFilter{rules: rules, accounts: accounts, regions: regions, filter: filter}
			text, err := f.text()
			if err != nil {
				return err
			}
			if category != "" {
				text = strings.TrimPrefix(text+" AND category = "+quote(strings.ToUpper(category)), " AND ")
			}
			req := &findingv1.ListFindingDaysRequest{Filter: text, StartDate: since, EndDate: until}
			if m := lastDays.FindStringSubmatch(since); m != nil {
				n, _ := strconv.Atoi(m[1]) // digits
				end := c.now().UTC()
				if until != "" {
					if end, err = time.Parse(time.DateOnly, until); err != nil {
						return usage("--until %q is no day such as 2027-03-31", until)
					}
				}
				req.StartDate = end.AddDate(0, 0, 1-max(n, 1)).Format(time.DateOnly)
			}
			api, err := c.findings()
			if err != nil {
				return err
			}
			r, err := api.ListFindingDays(cmd.Context(), req)
			if err != nil {
				return err
			}
			p := newPrinter(c, func(d *findingv1.FindingDay) object { return tree(d) }, dayColumns(savings))
			var low, high, lostLow, lostHigh float64
			if c.output == formatTable { // nothing is known of days before the first finding
				r.Days = slices.Delete(r.Days, 0, max(0, slices.IndexFunc(r.Days, happened)))
			}
			for _, d := range r.GetDays() {
				low, high, lostLow, lostHigh = low+d.GetSavedLow(), high+d.GetSavedHigh(), lostLow+d.GetLostLow(), lostHigh+d.GetLostHigh()
				if savings && c.output == formatTable && d.GetResolved() == 0 && d.GetSavedHigh() == 0 && d.GetLostHigh() == 0 {
					continue
				}
				if err := p.add(d); err != nil {
					return err
				}
			}
			if err := p.close(); err != nil {
				return err
			}
			if savings {
				c.say("saved %s a month; waste of %s a month came back", dollars(low, high), dollars(lostLow, lostHigh))
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&since, "since", "30d", "first day, such as 2027-03-31 (UTC), or how many days up to the last, such as 90d")
	fl.StringVar(&until, "until", "", "last day (default: today)")
	fl.StringSliceVar(&rules, "rule", nil, "of these rules")
	fl.StringSliceVar(&accounts, "account", nil, "of these accounts")
	fl.StringSliceVar(&regions, "region", nil, "of these regions")
	fl.StringVar(&category, "category", "", "of this category, such as waste or security")
	fl.StringVar(&filter, "filter", "", `any other condition over rule_id, account, region and category, such as 'account != "123456789012"'`)
	_ = cmd.RegisterFlagCompletionFunc("rule", c.completing(c.ruleIDs))
	_ = cmd.RegisterFlagCompletionFunc("account", c.completing(c.accountIDs))
	return cmd
}

func (c *cli) findingsTrend() *cobra.Command {
	return c.days("trend", "Show day by day what is open, what it costs and what became of it", "",
		`  nightshift findings trend
  nightshift findings trend --since 90d --category waste -o csv > trend.csv`, false)
}

func (c *cli) findingsSavings() *cobra.Command {
	return c.days("savings", "Show what was saved: what waste had cost that is resolved",
		`Shows what waste had cost a month when it was resolved, by the day it was, and what of it came back. The table has days on which
something was; other formats have every day.`,
		`  nightshift findings savings --since 2027-01-01
  nightshift findings savings --since 365d --account 123456789012 -o json`, true)
}
