package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	shared "nightshift.dev/pkg/plain"
)

// dangerous tells a character that can change what a terminal shows beside
// itself.
func dangerous(r rune) bool { return shared.Unsafe(r) }

// clean makes a foreign text fit for one line of a terminal.
func clean(s string) string { return shared.Clean(s) }

// cell makes a text fit for a spreadsheet: as clean, and no formula.
func cell(s string) string { return shared.Cell(s) }

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
func dollars(low, high float64) string { return shared.Dollars(low, high) }

// count writes a number of things.
func count(n int64) string { return shared.Count(n) }

// many is a number of things with its noun: 1 finding, 2 findings.
func many(n int64, one, more string) string { return shared.Many(n, one, more) }

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
