package report

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strings"
	"unicode"

	"nightshift.dev/pkg/plain"
)

const (
	// width of a text report in columns.
	width = 80
	// shownGroups, shownTop and shownGaps bound what text and HTML list of a
	// kind; JSON and CSV have all.
	shownGroups = 10
	shownTop    = 10
	shownGaps   = 12

	// nobody stands where an owner would.
	nobody = "nobody named"
)

// Text writes the report for a terminal or a mail: 80 columns, no colours.
func (r *Report) Text(w io.Writer) error {
	b := &text{}
	b.line("%s · %s", "Nightshift "+strings.ToLower(r.Title()), r.CreateTime.Format("2006-01-02 15:04 UTC"))
	b.line("%s", strings.Repeat("═", width))
	if r.Filter != "" {
		b.wrapped("Only what matches "+r.Filter, "")
	}
	b.line("")
	b.wrapped(fmt.Sprintf("%s on %s.", plain.Many(r.Totals.Findings, "open finding", "open findings"), plain.Many(r.Totals.Resources, "resource", "resources")), "")
	if s := r.moneyLine(); s != "" {
		b.wrapped(s, "")
	}
	b.wrapped(r.coverageLine(), "")
	if r.Totals.Exempt > 0 {
		b.wrapped(plain.Many(r.Totals.Exempt, "finding is", "findings are")+" exempt, and listed apart.", "")
	}

	b.head("Since " + r.SinceTime.Format("2006-01-02 15:04 UTC"))
	for _, c := range []change{{"opened", r.Trend.Opened}, {"resolved", r.Trend.Resolved}, {"reopened", r.Trend.Reopened}} {
		b.line("  %s %6s  %s", pad(strings.ToLower(c.Name), 38), plain.Count(c.Findings), c.Money.text())
	}

	var severities []Group
	for _, g := range r.Severities {
		if g.Findings > 0 {
			severities = append(severities, g)
		}
	}
	key := func(g Group) string { return g.Key }
	b.groups("By severity", severities, key)
	b.groups("By account", r.Accounts, func(g Group) string { return g.Key + " " + g.Name })
	b.groups("By region", r.Regions, key)
	b.groups("By rule", r.Rules, key)
	b.groups("By owner", r.Owners, func(g Group) string { return cmp.Or(g.Key, nobody) })

	if len(r.Findings) > 0 {
		b.head("Top findings")
		for i, f := range r.Findings[:min(shownTop, len(r.Findings))] {
			b.finding(fmt.Sprintf("%2d. ", i+1), f, r.Totals.Money != nil)
		}
		if more := len(r.Findings) - shownTop; more > 0 {
			b.line("%s more are in the CSV and JSON reports.", plain.Count(more))
		}
	}
	if len(r.Exempt) > 0 {
		b.head("Exempt")
		for _, f := range r.Exempt[:min(shownTop, len(r.Exempt))] {
			b.finding("  - ", f, r.Totals.Money != nil)
		}
		if more := len(r.Exempt) - shownTop; more > 0 {
			b.line("%s more.", plain.Count(more))
		}
	}
	if len(r.Posture) > 0 {
		b.head("Posture by account (100 is the best)")
		for _, p := range r.Posture {
			score := "  none"
			if p.Score != nil {
				score = fmt.Sprintf("%6d", p.Score.Value)
			}
			b.line("  %s %s  %s", pad(p.Account+" "+p.Name, 38), score,
				clip(fmt.Sprintf("%d/%d listings, %s unknown", p.ListingsComplete, p.Listings, plain.Count(p.Unknown)), 31))
		}
	}
	if len(r.Coverage.Gaps) > 0 {
		b.head("What could not be seen")
		for _, g := range r.Coverage.Gaps[:min(shownGaps, len(r.Coverage.Gaps))] {
			b.wrapped(fmt.Sprintf("%s %s %s: %s. %s", g.Account, g.Region, g.kind(), g.Status, g.Error), "  ")
		}
		if more := len(r.Coverage.Gaps) - shownGaps; more > 0 {
			b.line("  %s more.", plain.Count(more))
		}
	}
	b.line("")
	if r.Totals.Money != nil {
		b.wrapped("Costs are list prices without discounts, for a month of 730 hours.", "")
	}
	b.wrapped("Scores are explained in docs/scores.md.", "")
	_, err := w.Write(b.Bytes())
	return err
}

func (g Gap) kind() string {
	if g.ResourceType == "*" {
		return "everything"
	}
	return g.ResourceType
}

// text is a sum for people: unknown when all that is in it is.
func (m *Money) text() string {
	switch {
	case m == nil:
		return ""
	case m.Unknown == 0:
		return plain.Dollars(m.Low, m.High)
	case m.High == 0:
		return plain.Count(m.Unknown) + " unknown"
	}
	return plain.Dollars(m.Low, m.High) + ", " + plain.Count(m.Unknown) + " unknown"
}

type text struct{ bytes.Buffer }

// line writes one line.
func (b *text) line(format string, args ...any) {
	b.WriteString(strings.TrimRight(clip(plain.Clean(fmt.Sprintf(format, args...)), width), " ") + "\n")
}

func (b *text) head(s string) {
	b.line("")
	b.line("%s", s)
	b.line("%s", strings.Repeat("─", columns(s)))
}

func (b *text) groups(head string, gs []Group, name func(Group) string) {
	if len(gs) == 0 {
		return
	}
	if gs[0].Money != nil {
		head += ": findings, and dollars a month"
	}
	b.head(head)
	for _, g := range gs[:min(shownGroups, len(gs))] {
		b.line("  %s %6s  %s", pad(name(g), 38), plain.Count(g.Findings), g.Money.text())
	}
	if more := len(gs) - shownGroups; more > 0 {
		b.line("  and %s more", plain.Count(more))
	}
}

func (b *text) finding(lead string, f *Finding, money bool) {
	right := fmt.Sprintf("score %d", f.Score.Value)
	if money {
		right = f.cost() + "  " + right
	}
	left := lead + f.Severity + "  " + f.ResourceID
	if f.ResourceName != "" && f.ResourceName != f.ResourceID {
		left += " (" + f.ResourceName + ")"
	}
	b.line("%s  %s", pad(left, width-2-columns(right)), right)
	indent := strings.Repeat(" ", len(lead))
	b.wrapped(strings.Join(strings.Fields(f.Rule+" "+f.Account+" "+f.Region+" "+f.Owner), " · "), indent)
	b.wrapped(f.Reason, indent)
	if f.Exemption != nil {
		b.wrapped(f.Exemption.text(), indent+"✓ ")
		return
	}
	b.wrapped(f.Recommendation, indent+"→ ")
}

// text says who accepted it, until when and why.
func (x *Exemption) text() string {
	s := "Accepted by " + cmp.Or(x.By, nobody)
	if x.ExpireTime != nil {
		s += " until " + day(x.ExpireTime)
	}
	if x.Reason != "" {
		s += ": " + x.Reason
	}
	return s
}

// wrapped writes prose of at most the width, each line after the indent; the
// first after all of it, the others after as many blanks. A word longer than a
// line is cut.
func (b *text) wrapped(s, indent string) {
	at := 0
	for word := range strings.FieldsSeq(plain.Clean(s)) {
		word = clip(word, width-columns(indent))
		n := columns(word)
		switch {
		case at == 0:
			b.WriteString(indent)
			at = columns(indent)
		case at+1+n > width:
			b.WriteString("\n" + strings.Repeat(" ", columns(indent)))
			at = columns(indent)
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	if at > 0 {
		b.WriteByte('\n')
	}
}

// pad cuts or fills a text to n columns.
func pad(s string, n int) string {
	s = clip(plain.Clean(s), n)
	return s + strings.Repeat(" ", max(0, n-columns(s)))
}

// clip cuts a text to n columns.
func clip(s string, n int) string {
	if columns(s) <= n {
		return s
	}
	at := 0
	for i, r := range s {
		if at += column(r); at > n-1 {
			return s[:i] + "…"
		}
	}
	return s
}

func columns(s string) (n int) {
	for _, r := range s {
		n += column(r)
	}
	return n
}

// column is how many columns of a terminal a character takes.
func column(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case r >= 0x1f300 && r <= 0x1faff, r >= 0xff01 && r <= 0xff60, r >= 0x3000 && r <= 0x303f,
		unicode.In(r, unicode.Han, unicode.Hangul, unicode.Hiragana, unicode.Katakana):
		return 2
	}
	return 1
}
