package persistence

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// facetSize is how many values of a facet are returned unless told otherwise.
const facetSize = 20

// facets are what findings are counted by: columns of findings and of their
// sums, in the order of the enum.
var facets = []struct {
	facet  findingv1.Facet
	column string
	values map[string]int64 // of an enum
}{
	{findingv1.Facet_FACET_SEVERITY, "severity", enumValues(rulev1.Severity(0))},
	{findingv1.Facet_FACET_RULE, "rule_id", nil},
	{findingv1.Facet_FACET_ACCOUNT, "account", nil},
	{findingv1.Facet_FACET_REGION, "region", nil},
	{findingv1.Facet_FACET_OWNER, "owner", nil},
	{findingv1.Facet_FACET_CATEGORY, "category", enumValues(rulev1.Category(0))},
	{findingv1.Facet_FACET_STATE, "state", enumValues(findingv1.State(0))},
}

// sumFields are the fields of findings that their sums tell apart.
var sumFields = func() fields {
	fs := fields{}
	for _, name := range []string{"rule_id", "category", "state", "severity", "account", "region", "owner"} {
		fs[name] = findingFields[name]
	}
	fs["acknowledged"] = field{column: "f.acknowledged", kind: kindEnum, values: findingFields["acknowledged"].values}
	return fs
}()

// dayFields are those that days tell apart.
var dayFields = func() fields {
	fs := fields{}
	for _, name := range []string{"rule_id", "category", "account", "region"} {
		fs[name] = findingFields[name]
	}
	return fs
}()

// SummarizeFindings implements FindingService. What only asks for what the
// sums tell apart is answered from them, anything else by looking at findings;
// the answers are the same.
func (s *Service) SummarizeFindings(ctx context.Context, req *findingv1.SummarizeFindingsRequest) (*findingv1.SummarizeFindingsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := findingFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	// The columns and those of findings have the same names.
	source := db.NewSelect().TableExpr("finding_sums AS f").ColumnExpr("findings AS n, cost_low AS low, cost_high AS high, CASE WHEN category = 1 THEN unpriced ELSE 0 END AS unknown")
	if sums, err := sumFields.parse(req.GetFilter()); err == nil {
		source = sums.apply(source)
	} else {
		source = db.NewSelect().TableExpr("findings AS f").ColumnExpr("1 AS n, millionths(f.cost_low) AS low, millionths(f.cost_high) AS high, CASE WHEN f.category = 1 AND f.cost_high IS NULL THEN 1 ELSE 0 END AS unknown")
		if where.names("last_seen") || where.names("last_run_id") {
			source = source.Join("JOIN checks AS c ON c.id = f.id")
		}
		if where.names("orphan_time") {
			source = source.Join("LEFT JOIN orphans AS o ON o.finding_id = f.id")
		}
		source = where.apply(source)
	}
	source = only(ctx, "f.account", source)
	size := facetSize
	if req.GetFacetSize() > 0 {
		size = page.Size(req.GetFacetSize())
	}
	resp := &findingv1.SummarizeFindingsResponse{Totals: &findingv1.Totals{}}
	counts := map[int]*findingv1.FacetCounts{}
	var names, sets, value []string
	for _, want := range req.GetFacets() {
		i := slices.IndexFunc(facets, func(f struct {
			facet  findingv1.Facet
			column string
			values map[string]int64
		}) bool {
			return f.facet == want
		})
		if i < 0 || counts[i] != nil {
			return nil, errs.New(errs.InvalidArgument, "BAD_FACET", "the findings cannot be counted").Field("facets", "%s is none, or is named twice", want)
		}
		counts[i] = &findingv1.FacetCounts{Facet: want}
		resp.Facets = append(resp.Facets, counts[i])
		column := facets[i].column
		names = append(names, "f."+column)
		sets = append(sets, "("+column+")")
		value = append(value, fmt.Sprintf("WHEN grouping(%s) = 0 THEN %s::text", column, column))
	}
	which, text := "-1", "''"
	if len(names) > 0 {
		source = source.ColumnExpr(strings.Join(names, ", "))
		text = "CASE " + strings.Join(value, " ") + " ELSE '' END"
		var places []string
		for _, want := range req.GetFacets() {
			column := facets[want-1].column
			places = append(places, fmt.Sprintf("WHEN grouping(%s) = 0 THEN %d", column, want-1))
		}
		which = "CASE " + strings.Join(places, " ") + " ELSE -1 END"
	}
	var rows []struct {
		Which                 int
		Value                 string
		N, Low, High, Unknown int64
		Values                int64
	}
	err = db.NewRaw(`
		SELECT which, value, n, low, high, unknown, values FROM (
			SELECT g.*, row_number() OVER (PARTITION BY which ORDER BY n DESC, value) AS place, count(*) OVER (PARTITION BY which) AS values
			FROM (
				SELECT ? AS which, ? AS value, coalesce(sum(n), 0)::bigint AS n, coalesce(sum(low), 0)::bigint AS low,
					coalesce(sum(high), 0)::bigint AS high, coalesce(sum(unknown), 0)::bigint AS unknown
				FROM (?) s GROUP BY GROUPING SETS (?)
			) g
			WHERE n > 0
		) r
		WHERE place <= ? ORDER BY which, place`, bun.Safe(which), bun.Safe(text), source, bun.Safe(strings.Join(append([]string{"()"}, sets...), ", ")), size).Scan(ctx, &rows)
	if err != nil {
		return nil, fault(err)
	}
	for _, r := range rows {
		t := &findingv1.Totals{Findings: r.N, MonthlyCostLow: float64(r.Low) / 1e6, MonthlyCostHigh: float64(r.High) / 1e6, UnknownCosts: r.Unknown}
		if r.Which < 0 {
			resp.Totals = t
			continue
		}
		if values := facets[r.Which].values; values != nil {
			r.Value = nameOf(values, r.Value)
		}
		c := counts[r.Which]
		c.Values = append(c.Values, &findingv1.FacetValue{Value: r.Value, Totals: t})
		c.MoreValues = r.Values - int64(len(c.Values))
	}
	return resp, nil
}

// nameOf is the name of an enum's value as the database writes its number.
func nameOf(values map[string]int64, number string) string {
	for name, n := range values {
		if fmt.Sprint(n) == number {
			return name
		}
	}
	return number
}

// cents is money as days count it. It rounds as Postgres does, which decides
// whether a cost has changed.
func cents(usd float64) int64 { return int64(math.RoundToEven(usd * 100)) }

type dayKey struct {
	day, account, region, rule string
	category                   rulev1.Category
}

type dayCounts struct {
	Open, CostLow, CostHigh, Opened, Reopened, Resolved, Exempted, SavedLow, SavedHigh, SavedUnknown, LostLow, LostHigh int64
}

// countDays adds the transaction's transitions to finding_days. One
// transaction at a time does: see flush.
func (tx *transaction) countDays(ctx context.Context) error {
	days := map[dayKey]*dayCounts{}
	for _, c := range tx.changes {
		f, t := c.finding, c.transition
		d := dayCounts{}
		open := func(s findingv1.State) int64 {
			if s == findingv1.State_STATE_OPEN || s == findingv1.State_STATE_REOPENED {
				return 1
			}
			return 0
		}
		from, to := open(t.GetFromState()), open(t.GetToState())
		d.Open = to - from
		d.CostLow = to*cents(t.GetToCost().GetLow()) - from*cents(t.GetFromCost().GetLow())
		d.CostHigh = to*cents(t.GetToCost().GetHigh()) - from*cents(t.GetFromCost().GetHigh())
		waste := f.GetCategory() == rulev1.Category_CATEGORY_WASTE
		switch t.GetKind() {
		case findingv1.TransitionKind_TRANSITION_KIND_OPENED:
			d.Opened = 1
		case findingv1.TransitionKind_TRANSITION_KIND_REOPENED:
			d.Reopened = 1
			if waste && t.GetFromState() == findingv1.State_STATE_RESOLVED {
				d.LostLow, d.LostHigh = cents(t.GetToCost().GetLow()), cents(t.GetToCost().GetHigh())
			}
		case findingv1.TransitionKind_TRANSITION_KIND_RESOLVED:
			d.Resolved = 1
			switch {
			case waste && t.GetFromCost() == nil:
				d.SavedUnknown = 1
			case waste:
				d.SavedLow, d.SavedHigh = cents(t.GetFromCost().GetLow()), cents(t.GetFromCost().GetHigh())
			}
		case findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED:
			d.Exempted = 1
		}
		if d == (dayCounts{}) {
			continue
		}
		k := dayKey{t.GetTime().AsTime().Format(time.DateOnly), clean(f.GetResource().GetAccount()), clean(f.GetResource().GetRegion()), f.GetRuleId(), f.GetCategory()}
		if days[k] == nil {
			days[k] = &dayCounts{}
		}
		days[k].add(d)
	}
	if len(days) == 0 {
		return nil
	}
	values := make([]string, 0, len(days))
	var args []any
	for k, d := range days {
		values = append(values, "(?::date, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
		args = append(args, k.day, k.account, k.region, k.rule, int(k.category), d.Open, d.CostLow, d.CostHigh, d.Opened, d.Reopened, d.Resolved, d.Exempted,
			d.SavedLow, d.SavedHigh, d.SavedUnknown, d.LostLow, d.LostHigh)
	}
	var set []string
	for _, c := range dayColumns {
		set = append(set, c+" = d."+c+" + EXCLUDED."+c)
	}
	_, err := tx.NewRaw("INSERT INTO finding_days AS d (day, account, region, rule_id, category, "+strings.Join(dayColumns, ", ")+") VALUES "+strings.Join(values, ", ")+
		" ON CONFLICT (day, account, region, rule_id, category) DO UPDATE SET "+strings.Join(set, ", "), args...).Exec(ctx)
	return err
}

var dayColumns = []string{"open", "cost_low", "cost_high", "opened", "reopened", "resolved", "exempted", "saved_low", "saved_high", "saved_unknown", "lost_low", "lost_high"}

func (d *dayCounts) add(o dayCounts) {
	d.Open, d.CostLow, d.CostHigh = d.Open+o.Open, d.CostLow+o.CostLow, d.CostHigh+o.CostHigh
	d.Opened, d.Reopened, d.Resolved, d.Exempted = d.Opened+o.Opened, d.Reopened+o.Reopened, d.Resolved+o.Resolved, d.Exempted+o.Exempted
	d.SavedLow, d.SavedHigh, d.SavedUnknown = d.SavedLow+o.SavedLow, d.SavedHigh+o.SavedHigh, d.SavedUnknown+o.SavedUnknown
	d.LostLow, d.LostHigh = d.LostLow+o.LostLow, d.LostHigh+o.LostHigh
}

// mostDays is how many days can be asked for.
const mostDays = 1100

// ListFindingDays implements FindingService.
func (s *Service) ListFindingDays(ctx context.Context, req *findingv1.ListFindingDaysRequest) (*findingv1.ListFindingDaysResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := dayFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	bad := errs.New(errs.InvalidArgument, "BAD_DAYS", "the days cannot be listed")
	day := func(field, text string, otherwise time.Time) (time.Time, error) {
		if text == "" {
			return otherwise, nil
		}
		t, err := time.Parse(time.DateOnly, text)
		if err != nil || t.Year() < 1970 {
			return t, bad.Field(field, "%q is no day from 1970 on, such as 2026-03-31", clean(text))
		}
		return t, nil
	}
	end, err := day("end_date", req.GetEndDate(), s.now().UTC().Truncate(24*time.Hour))
	if err != nil {
		return nil, err
	}
	start, err := day("start_date", req.GetStartDate(), end.AddDate(0, 0, -29))
	if err != nil {
		return nil, err
	}
	n := int(end.Sub(start).Hours()/24) + 1
	switch {
	case n < 1:
		return nil, bad.Field("start_date", "is %s, which is after end_date, %s", start.Format(time.DateOnly), end.Format(time.DateOnly))
	case n > mostDays:
		return nil, bad.Field("start_date", "is %s, which is %d days before end_date; may be 0 to %d", start.Format(time.DateOnly), n-1, mostDays-1)
	}
	q := db.NewSelect().TableExpr("finding_days AS f").Where("f.day <= ?::date", end.Format(time.DateOnly)).
		ColumnExpr("greatest(f.day - ?::date, -1) AS place", start.Format(time.DateOnly)).GroupExpr("1")
	for _, c := range dayColumns {
		q = q.ColumnExpr("sum(f." + c + ")::bigint AS " + c)
	}
	var rows []struct {
		Place int
		dayCounts
	}
	if err := where.apply(only(ctx, "f.account", q)).Scan(ctx, &rows); err != nil {
		return nil, fault(err)
	}
	byPlace := map[int]dayCounts{}
	for _, r := range rows {
		byPlace[r.Place] = r.dayCounts
	}
	usd := func(cents int64) float64 { return float64(cents) / 100 }
	resp, sum := &findingv1.ListFindingDaysResponse{}, byPlace[-1]
	for i := range n {
		d := byPlace[i]
		sum.add(d)
		resp.Days = append(resp.Days, &findingv1.FindingDay{
			Date: start.AddDate(0, 0, i).Format(time.DateOnly), Open: sum.Open, MonthlyCostLow: usd(sum.CostLow), MonthlyCostHigh: usd(sum.CostHigh),
			Opened: d.Opened, Reopened: d.Reopened, Resolved: d.Resolved, Exempted: d.Exempted,
			SavedLow: usd(d.SavedLow), SavedHigh: usd(d.SavedHigh), SavedUnknown: d.SavedUnknown, LostLow: usd(d.LostLow), LostHigh: usd(d.LostHigh),
		})
	}
	return resp, nil
}
