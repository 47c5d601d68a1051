// Package plain makes foreign texts fit to be shown, and writes figures for
// people, in the same way everywhere.
//
// It exists so that what is dangerous about a tag is decided once: the command
// line, the reports and the notifications all show the same.
package plain

import (
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Unsafe tells a character that shows something else than is there: controls,
// overrides of the writing direction, and what cannot be seen. The two joiners
// that scripts and emoji need are not among them.
func Unsafe(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp) ||
		unicode.Is(unicode.Cf, r) && r != 0x200c && r != 0x200d ||
		r >= 0xe0000 && r <= 0xe0fff // tags and variation selectors, assigned or not
}

// Clean makes a foreign text fit for one line: white space is a blank, what is
// unsafe a replacement character.
func Clean(s string) string {
	if utf8.ValidString(s) && strings.IndexFunc(s, Unsafe) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r' || r == 0x2028 || r == 0x2029:
			return ' '
		case Unsafe(r):
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}

// Cell makes a text fit for a spreadsheet: as Clean, and no formula. A tab or
// a carriage return before a formula would not hide it.
func Cell(s string) string {
	formula := strings.TrimLeftFunc(s, func(r rune) bool { return unicode.IsSpace(r) || Unsafe(r) })
	if s != "" && (strings.ContainsRune("\t\r", rune(s[0])) || formula != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(formula)[0])) {
		return "'" + Clean(s)
	}
	return Clean(s)
}

// Clip cuts a text to n characters, an ellipsis included. n is at least 1.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	at, last := 0, 0
	for i := range s {
		if at++; at == n {
			last = i
		} else if at > n {
			return strings.TrimRight(s[:last], " ") + "…"
		}
	}
	return s
}

// Dollars is a range of dollars: $1,234.56, or $40.00–60.00.
func Dollars(low, high float64) string {
	if math.Round(low*100) == math.Round(high*100) {
		return "$" + grouped(Cents(high))
	}
	return "$" + grouped(Cents(low)) + "–" + grouped(Cents(high))
}

// Cents is an amount with two decimals.
func Cents(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

// Count is a number: 1,234.
func Count[T ~int | ~int32 | ~int64](n T) string { return grouped(strconv.FormatInt(int64(n), 10)) }

// Many is a number of things with their noun: 1 finding, 2 findings.
func Many[T ~int | ~int32 | ~int64](n T, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + more
}

// grouped sets commas between groups of three digits.
func grouped(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	whole, rest, point := strings.Cut(digits, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if point {
		whole += "." + rest
	}
	return sign + whole
}
