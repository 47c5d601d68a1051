package plain_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"nightshift.dev/pkg/plain"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"web-01":              "web-01",
		"a\tb\nc\r\nd":        "a b c  d",
		"\x1b[31mred":         "\uFFFD[31mred",
		"pay\u202Egnp.exe":    "pay\uFFFDgnp.exe",
		"a\u2066b\u2069c":     "a\uFFFDb\uFFFDc",
		"zero\u200Bwidth\xff": "zero\uFFFDwidth\uFFFD",
		"a\u00adb\ufeffc":     "a\uFFFDb\uFFFDc",
		"tag\U000E0041s":      "tag\uFFFDs",
		"👩\u200d💻 שלום":       "👩\u200d💻 שלום",
	} {
		if got := plain.Clean(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestCell(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"=1+1": "'=1+1", "\t=1": "' =1", "  @x": "'  @x", "＝1": "'＝1", "\u202e=1": "'\uFFFD=1", "a=1": "a=1", "": "",
	} {
		if got := plain.Cell(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestFigures(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		plain.Dollars(40, 60):                          "$40.00–60.00",
		plain.Dollars(1234567.891, 1234567.891):        "$1,234,567.89",
		plain.Count(-1234):                             "-1,234",
		plain.Count(-123):                              "-123",
		plain.Many(1, "finding", "findings"):           "1 finding",
		plain.Many(int64(2000), "finding", "findings"): "2,000 findings",
		plain.Clip("ümlaut", 6):                        "ümlaut",
		plain.Clip("ümlauts", 6):                       "ümlau…",
		plain.Clip("a bc", 3):                          "a…",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b]0;x\x07=cmd|'/C calc'!A0 \u202e")
	f.Fuzz(func(t *testing.T, s string) {
		c := plain.Clean(s)
		if !utf8.ValidString(c) || strings.ContainsFunc(c, plain.Unsafe) || strings.ContainsFunc(c, unicode.IsControl) {
			t.Errorf("%q became %q", s, c)
		}
		if plain.Clean(c) != c {
			t.Errorf("%q is not clean after cleaning", c)
		}
		if n := utf8.RuneCountInString(plain.Clip(c, 7)); n > 7 {
			t.Errorf("%q is cut to %d characters", c, n)
		}
	})
}
