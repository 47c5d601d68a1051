package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"time"

	"nightshift.dev/pkg/plain"
)

//go:embed page.html
var pageSource string

// shownFindings bounds how many findings the page lists.
const shownFindings = 250

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"clean": plain.Clean, "day": day, "lower": strings.ToLower,
	"count": func(n any) string {
		switch n := n.(type) {
		case int64:
			return plain.Count(n)
		case int:
			return plain.Count(n)
		}
		return ""
	},
	"when": func(t time.Time) string { return t.Format("2 January 2006, 15:04 UTC") },
	"date": func(t time.Time) string { return t.Format("2 January 2006") },
	"cost": (*Finding).cost,
	"accepted": func(f *Finding) string {
		if f.Exemption == nil {
			return ""
		}
		return f.Exemption.text()
	},
	"money": func(m *Money) string {
		switch {
		case m == nil:
			return ""
		case m.High == 0 && m.Unknown > 0:
			return "unknown"
		}
		return plain.Dollars(m.Low, m.High)
	},
	"points": func(v float64) string { return strings.Replace(fmt.Sprintf("%g", v), "-", "−", 1) },
}).Parse(pageSource))

// HTML writes one page that needs nothing else: no script, no font, no image
// from elsewhere.
func (r *Report) HTML(w io.Writer) error { return page.Execute(w, view{r}) }

// view is the report as the page shows it.
type view struct{ *Report }

// bar is a group with the length of its bar, from 0 to 100.
type bar struct {
	Label, Sub, Value, Note string
	Length                  float64
}

// chart is one grouping.
type chart struct {
	Head string
	Bars []bar
	More int
}

// bars makes a chart of groups, by money or by number of findings.
func (v view) bars(head string, groups []Group) chart {
	c := chart{Head: head, More: max(0, len(groups)-shownGroups)}
	var most float64
	for _, g := range groups {
		most = max(most, g.weight())
	}
	for _, g := range groups[:min(shownGroups, len(groups))] {
		b := bar{Label: g.Key, Value: plain.Many(g.Findings, "finding", "findings")}
		if g.Key == "" {
			b.Label = nobody
		}
		if g.Name != "" {
			b.Label, b.Sub = g.Name, g.Key
		}
		b.Label, b.Sub = plain.Clean(b.Label), plain.Clean(b.Sub)
		if g.Money != nil {
			b.Note = b.Value
			if b.Value = plain.Dollars(g.Money.Low, g.Money.High); g.Money.High == 0 && g.Money.Unknown > 0 {
				b.Value = "unknown"
			}
			if g.Money.Unknown > 0 && g.Money.Unknown < g.Findings {
				b.Note += fmt.Sprintf(", %s of unknown cost", plain.Count(g.Money.Unknown))
			}
		}
		if most > 0 {
			b.Length = math.Round(1000*g.weight()/most) / 10
		}
		c.Bars = append(c.Bars, b)
	}
	return c
}

func (g Group) weight() float64 {
	if g.Money != nil {
		return g.Money.High
	}
	return float64(g.Findings)
}

// Charts are the groupings that say something.
func (v view) Charts() []chart {
	var out []chart
	for _, c := range []chart{v.bars("By account", v.Accounts), v.bars("By region", v.Regions), v.bars("By rule", v.Rules), v.bars("By owner", v.Owners)} {
		if len(c.Bars) > 0 {
			out = append(out, c)
		}
	}
	return out
}

// part is a piece of a bar, placed in percent.
type part struct {
	Name  string
	N     int
	X, W  float64
	Class string
}

// SeverityParts are the pieces of one bar of all severities.
func (v view) SeverityParts() []part {
	var out []part
	var x float64
	for _, g := range v.Severities {
		if g.Findings == 0 {
			continue
		}
		w := 100 * float64(g.Findings) / float64(v.Totals.Findings)
		out = append(out, part{g.Key, g.Findings, x, w, strings.ToLower(g.Key)})
		x += w
	}
	return out
}

func (v view) HasMoney() bool { return v.Totals.Money != nil }

// Top are the findings shown as cards, Rest those in the table.
func (v view) Top() []*Finding { return v.Findings[:min(shownTop, len(v.Findings))] }

func (v view) Rest() []*Finding {
	return v.Findings[min(shownTop, len(v.Findings)):min(shownFindings, len(v.Findings))]
}

func (v view) Hidden() int { return max(0, len(v.Findings)-shownFindings) }

func (v view) ExemptShown() []*Finding { return v.Exempt[:min(shownFindings, len(v.Exempt))] }

func (v view) Gaps() []Gap { return v.Coverage.Gaps[:min(50, len(v.Coverage.Gaps))] }

func (v view) MoreGaps() int { return max(0, len(v.Coverage.Gaps)-50) }

func (v view) CoverageLine() string { return v.coverageLine() }

// Seen is the share of listings read to the end, for people.
func (v view) Seen() string {
	c := v.Coverage
	switch {
	case c.Listings == 0:
		return "—"
	case c.Listings == c.ListingsComplete:
		return "100 %"
	}
	return fmt.Sprintf("%.1f %%", math.Min(99.9, 100*float64(c.ListingsComplete)/float64(c.Listings)))
}

// change is a row of the trend.
type change struct {
	Name string
	Change
}

// Changes are the rows of the trend.
func (v view) Changes() []change {
	return []change{{"Opened", v.Trend.Opened}, {"Resolved", v.Trend.Resolved}, {"Reopened", v.Trend.Reopened}}
}

// Month is the figure that is remembered, to the dollar where cents say
// nothing; Year what it comes to in a year.
func (v view) Month() string { return rounded(*v.Totals.Money, 1) }
func (v view) Year() string  { return rounded(*v.Totals.Money, 12) }

func rounded(m Money, months float64) string {
	low, high := months*m.Low, months*m.High
	switch {
	case high == 0 && m.Unknown > 0:
		return "unknown"
	case high < 100:
		return plain.Dollars(low, high)
	}
	low, high = math.Round(low), math.Round(high)
	return strings.ReplaceAll(plain.Dollars(low, high), ".00", "")
}

// Calendar is the time of the report without its clock.
func (v view) Calendar() string { return v.CreateTime.Format("2 January 2006") }
