package report

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	reportv1 "nightshift.dev/gen/nightshift/report/v1"
)

// Media returns the media type of a format and the ending of its files,
// without the dot; "" for none of ours.
func Media(f reportv1.Format) (contentType, ending string) {
	switch f {
	case reportv1.Format_FORMAT_TEXT:
		return "text/plain; charset=utf-8", "txt"
	case reportv1.Format_FORMAT_JSON:
		return "application/json", "json"
	case reportv1.Format_FORMAT_CSV:
		return "text/csv; charset=utf-8", "csv"
	case reportv1.Format_FORMAT_HTML:
		return "text/html; charset=utf-8", "html"
	case reportv1.Format_FORMAT_OCSF:
		return "application/x-ndjson", "ocsf.jsonl"
	}
	return "", ""
}

// Write writes the report in a format.
func (r *Report) Write(w io.Writer, f reportv1.Format) error {
	switch f {
	case reportv1.Format_FORMAT_TEXT:
		return r.Text(w)
	case reportv1.Format_FORMAT_JSON:
		return r.JSON(w)
	case reportv1.Format_FORMAT_CSV:
		return r.CSV(w)
	case reportv1.Format_FORMAT_HTML:
		return r.HTML(w)
	case reportv1.Format_FORMAT_OCSF:
		return r.OCSF(w)
	}
	return fmt.Errorf("a report cannot be written as %s", f)
}

// JSON writes one document. Texts are as AWS gave them.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

var csvHead = []string{
	"id", "state", "score", "severity", "rule_id", "title", "account", "region", "resource_type", "resource_id", "resource_name", "owner",
	"environment", "monthly_cost_low", "monthly_cost_high", "counted", "counted_with", "since", "first_seen", "last_seen", "resolve_time",
	"reason", "recommendation", "arn",
}

// CSV writes one line per finding, open, exempt and resolved, in RFC 4180's
// form. No cell is a formula, and none holds controls.
func (r *Report) CSV(w io.Writer) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	_ = c.Write(csvHead) // Flush tells
	for _, list := range [][]*Finding{r.Findings, r.Exempt, r.Resolved} {
		for _, f := range list {
			low, high, counted := "", "", ""
			if f.Cost != nil {
				low, high, counted = cents(f.Cost.Low), cents(f.Cost.High), cents(f.Counted)
			}
			row := []string{
				f.ID, f.State, strconv.Itoa(f.Score.Value), f.Severity, f.Rule, f.Title, f.Account, f.Region, f.ResourceType, f.ResourceID, f.ResourceName, f.Owner,
				f.Environment, low, high, counted, f.CountedWith, stamp(f.Since), stamp(f.FirstSeen), stamp(f.LastSeen), stamp(f.ResolveTime),
				f.Reason, f.Recommendation, f.ARN,
			}
			for i, s := range row {
				row[i] = cell(s)
			}
			_ = c.Write(row)
		}
	}
	c.Flush()
	return c.Error()
}

// cell makes a text fit for a spreadsheet: as clean, and no formula. A tab or
// a carriage return before a formula would not hide it.
func cell(s string) string {
	formula := strings.TrimLeftFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unsafe(r) })
	if s != "" && (strings.ContainsRune("\t\r", rune(s[0])) || formula != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(formula)[0])) {
		return "'" + clean(s)
	}
	return clean(s)
}

// unsafe tells a character that shows something else than is there: controls,
// overrides of the writing direction, and what cannot be seen.
func unsafe(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp) || unicode.Is(unicode.Cf, r) && r != 0x200c && r != 0x200d
}

// clean makes a foreign text fit for one line: white space is a blank, what is
// unsafe a replacement character.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r' || r == 0x2028 || r == 0x2029:
			return ' '
		case unsafe(r):
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}

// dollars is a range of dollars for people: $1,234.56, or $40.00–60.00.
func dollars(low, high float64) string {
	if math.Round(low*100) == math.Round(high*100) {
		return "$" + grouped(cents(high))
	}
	return "$" + grouped(cents(low)) + "–" + grouped(cents(high))
}

func cents(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

// count is a number for people: 1,234.
func count[T ~int | ~int64](n T) string { return grouped(strconv.FormatInt(int64(n), 10)) }

func grouped(digits string) string {
	whole, rest, point := strings.Cut(digits, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if point {
		whole += "." + rest
	}
	return whole
}

// many is a number of things with their noun.
func many[T ~int | ~int64](n T, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + more
}

func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func day(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

// cost is a finding's monthly cost for people.
func (f *Finding) cost() string {
	if f.Cost == nil {
		return "unknown"
	}
	return dollars(f.Cost.Low, f.Cost.High)
}

// Title is the report's headline.
func (r *Report) Title() string {
	if r.Category == "" {
		return "Report"
	}
	return r.Category[:1] + strings.ToLower(r.Category[1:]) + " report"
}

// coverageLine says in a sentence how much was seen.
func (r *Report) coverageLine() string {
	c := r.Coverage
	if len(c.Runs) == 0 {
		return "No scan has finished yet: nothing is known."
	}
	var s string
	if len(c.Gaps) == 0 {
		s = fmt.Sprintf("All %s were read to the end", many(c.Listings, "listing", "listings"))
	} else {
		s = fmt.Sprintf("%s of %s listings were read to the end", count(c.ListingsComplete), count(c.Listings))
	}
	s += fmt.Sprintf(": %s, %s.", many(c.Resources, "resource", "resources"), many(c.Evaluated, "verdict", "verdicts"))
	if n := c.InsufficientData + c.Errors; n > 0 {
		s += fmt.Sprintf(" %s could not be given for want of data.", many(n, "verdict", "verdicts"))
	}
	return s
}

// moneyLine says in a sentence what the open findings cost; "" where money is
// not what they are about.
func (r *Report) moneyLine() string {
	m := r.Totals.Money
	if m == nil {
		return ""
	}
	s := dollars(m.Low, m.High) + " a month at list prices, no resource counted twice"
	if m.Unknown > 0 {
		s += "; " + many(m.Unknown, "finding", "findings") + " of unknown cost not included"
	}
	return s + "."
}
