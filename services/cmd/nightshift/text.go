package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/text"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
)

// dangerous tells a character that can change what a terminal shows beside
// itself: controls, the overrides of writing direction, and what cannot be
// seen.
func dangerous(r rune) bool {
	switch {
	case r < ' ' || r >= 0x7f && r <= 0x9f: // C0, delete, C1
		return true
	case r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0x061c: // direction
		return true
	case r == 0x2028 || r == 0x2029 || r == 0xfeff || r == 0x200b || r >= 0xfff9 && r <= 0xfffb: // lines, nothing
		return true
	case r >= 0xe0000 && r <= 0xe0fff: // tags and variation selectors
		return true
	}
	return false
}

// clean makes a foreign text fit for one line of a terminal: what is dangerous
// becomes visible.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if strings.IndexFunc(s, dangerous) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r' || r == 0x2028 || r == 0x2029:
			return ' '
		case dangerous(r):
			return '\uFFFD'
		}
		return r
	}, s)
}

// cell makes a text fit for a spreadsheet: as clean, and no formula.
func cell(s string) string {
	s = clean(s)
	if t := strings.TrimLeftFunc(s, unicode.IsSpace); t != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(t)[0]) {
		return "'" + s
	}
	return s
}

// clip cuts a text to a width in terminal columns.
func clip(s string, width int) string {
	if text.StringWidthWithoutEscSequences(s) <= width {
		return s
	}
	return text.Snip(s, width, "…")
}

var colors = []string{"auto", "always", "never"}

// paint is a way to show a text on a terminal.
type paint string

const (
	plainPaint paint = ""
	bold       paint = "1"
	faint      paint = "2"
	red        paint = "31"
	boldRed    paint = "1;31"
	green      paint = "32"
	yellow     paint = "33"
	cyan       paint = "36"
)

// colored decides for one of the two outputs.
func (c *cli) colored(tty bool) bool {
	switch c.color {
	case "always":
		return true
	case "never":
		return false
	}
	return tty && c.env("NO_COLOR") == "" && c.env("TERM") != "dumb"
}

func (c *cli) outPaint(p paint, s string) string { return dye(c.colored(c.outTTY), p, s) }
func (c *cli) errPaint(p paint, s string) string { return dye(c.colored(c.errTTY), p, s) }

func dye(on bool, p paint, s string) string {
	if !on || p == plainPaint || s == "" {
		return s
	}
	return "\x1b[" + string(p) + "m" + s + "\x1b[0m"
}

// severityPaint colours a severity, alike everywhere.
func severityPaint(s rulev1.Severity) paint {
	switch s {
	case rulev1.Severity_SEVERITY_CRITICAL:
		return boldRed
	case rulev1.Severity_SEVERITY_HIGH:
		return red
	case rulev1.Severity_SEVERITY_MEDIUM:
		return yellow
	case rulev1.Severity_SEVERITY_LOW:
		return cyan
	default:
		return faint
	}
}

// cost is a monthly cost for people. Waste without one costs an unknown amount;
// anything else costs nothing by itself, which is "".
func cost(of rulev1.Category, m *rulev1.MonthlyCost) string {
	switch {
	case m != nil:
		return dollars(m.GetLow(), m.GetHigh())
	case of == rulev1.Category_CATEGORY_WASTE:
		return "unknown"
	default:
		return ""
	}
}

// dollars is a range of dollars for people: $1,234.56, or $40.00–60.00.
func dollars(low, high float64) string {
	if math.Round(low*100) == math.Round(high*100) {
		return "$" + thousands(high)
	}
	return "$" + thousands(low) + "–" + thousands(high)
}

// thousands writes a figure with two decimals and commas.
func thousands(v float64) string {
	s := strconv.FormatFloat(v, 'f', 2, 64)
	whole, cents, _ := strings.Cut(s, ".")
	return commas(whole) + "." + cents
}

// commas groups digits by three.
func commas(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// count writes a number of things.
func count(n int64) string { return commas(strconv.FormatInt(n, 10)) }

// many is a number of things with its noun: 1 finding, 2 findings.
func many(n int64, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + more
}

// day is a time's day, when is it to the minute; both in UTC, "" when unset.
func day(t *timestamppb.Timestamp) string  { return format(t, time.DateOnly) }
func when(t *timestamppb.Timestamp) string { return format(t, "2006-01-02 15:04") }

func format(t *timestamppb.Timestamp, layout string) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(layout)
}

// lasted is a length of time for people: 850ms, 2.4s, 3m12s, 5h, 3d.
func lasted(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return strconv.FormatFloat(math.Round(d.Seconds()*10)/10, 'f', -1, 64) + "s"
	case d < time.Hour:
		return trimZero(d.Round(time.Second).String())
	case d < 48*time.Hour:
		return trimZero(d.Round(time.Minute).String())
	default:
		return strconv.Itoa(int(d.Hours()/24)) + "d"
	}
}

func trimZero(s string) string {
	if t, ok := strings.CutSuffix(s, "m0s"); ok {
		s = t + "m"
	}
	if t, ok := strings.CutSuffix(s, "h0m"); ok {
		s = t + "h"
	}
	return s
}

func duration(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return lasted(d.AsDuration())
}

// wrap breaks prose into lines of at most width columns, each after prefix. A
// word that is longer than a line keeps its own: addresses can be copied.
func wrap(s, prefix string, width int) string {
	var b strings.Builder
	at := 0
	for word := range strings.FieldsSeq(clean(s)) {
		w := text.StringWidth(word)
		switch {
		case at == 0:
			b.WriteString(prefix)
			at = len(prefix)
		case at+1+w > width:
			b.WriteString("\n" + prefix)
			at = len(prefix)
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += w
	}
	return b.String()
}
