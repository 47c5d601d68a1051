package report

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	reportv1 "nightshift.dev/gen/nightshift/report/v1"
	"nightshift.dev/pkg/plain"
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
				low, high, counted = plain.Cents(f.Cost.Low), plain.Cents(f.Cost.High), plain.Cents(f.Counted)
			}
			row := []string{
				f.ID, f.State, strconv.Itoa(f.Score.Value), f.Severity, f.Rule, f.Title, f.Account, f.Region, f.ResourceType, f.ResourceID, f.ResourceName, f.Owner,
				f.Environment, low, high, counted, f.CountedWith, stamp(f.Since), stamp(f.FirstSeen), stamp(f.LastSeen), stamp(f.ResolveTime),
				f.Reason, f.Recommendation, f.ARN,
			}
			for i, s := range row {
				row[i] = plain.Cell(s)
			}
			_ = c.Write(row)
		}
	}
	c.Flush()
	return c.Error()
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
	return plain.Dollars(f.Cost.Low, f.Cost.High)
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
		s = fmt.Sprintf("All %s were read to the end", plain.Many(c.Listings, "listing", "listings"))
	} else {
		s = fmt.Sprintf("%s of %s listings were read to the end", plain.Count(c.ListingsComplete), plain.Count(c.Listings))
	}
	s += fmt.Sprintf(": %s, %s.", plain.Many(c.Resources, "resource", "resources"), plain.Many(c.Evaluated, "verdict", "verdicts"))
	if n := c.InsufficientData + c.Errors; n > 0 {
		s += fmt.Sprintf(" %s could not be given for want of data.", plain.Many(n, "verdict", "verdicts"))
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
	s := plain.Dollars(m.Low, m.High) + " a month at list prices, no resource counted twice"
	if m.Unknown > 0 {
		s += "; " + plain.Many(m.Unknown, "finding", "findings") + " of unknown cost not included"
	}
	return s + "."
}
