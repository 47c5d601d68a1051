package simaws

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// xmlWriter appends XML to a buffer that is used again and again. It knows just what the answers need; encoding/xml takes about eight times as long.
type xmlWriter struct{ b []byte }

// reset empties the buffer, and lets go of one that grew far beyond a page.
func (x *xmlWriter) reset() {
	if cap(x.b) > 16<<20 {
		x.b = nil
	}
	x.b = x.b[:0]
}

func (x *xmlWriter) raw(s string) { x.b = append(x.b, s...) }

func (x *xmlWriter) open(tag string) {
	x.b = append(x.b, '<')
	x.b = append(x.b, tag...)
	x.b = append(x.b, '>')
}

func (x *xmlWriter) close(tag string) {
	x.b = append(x.b, '<', '/')
	x.b = append(x.b, tag...)
	x.b = append(x.b, '>')
}

func (x *xmlWriter) str(tag, v string) {
	x.open(tag)
	x.text(v)
	x.close(tag)
}

// opt writes the element unless v is empty.
func (x *xmlWriter) opt(tag, v string) {
	if v != "" {
		x.str(tag, v)
	}
}

func (x *xmlWriter) int(tag string, v int64) {
	x.open(tag)
	x.b = strconv.AppendInt(x.b, v, 10)
	x.close(tag)
}

func (x *xmlWriter) float(tag string, v float64) {
	x.open(tag)
	x.b = strconv.AppendFloat(x.b, v, 'g', -1, 64)
	x.close(tag)
}

func (x *xmlWriter) bool(tag string, v bool) {
	x.open(tag)
	x.b = strconv.AppendBool(x.b, v)
	x.close(tag)
}

func (x *xmlWriter) time(tag string, t time.Time) {
	x.open(tag)
	x.b = appendTime(x.b, t)
	x.close(tag)
}

func (x *xmlWriter) tags(tags []Tag) {
	if len(tags) == 0 {
		return
	}
	x.open("tagSet")
	for _, t := range tags {
		x.open("item")
		x.str("key", t.Key)
		x.str("value", t.Value)
		x.close("item")
	}
	x.close("tagSet")
}

// plain are the bytes that need no second look.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '&' && c != '<' && c != '>' && c != '"'
	}
	return t
}()

// text escapes; what XML cannot carry (control characters, bytes that are not UTF-8) becomes U+FFFD.
func (x *xmlWriter) text(s string) {
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		width, esc := 1, ""
		switch {
		case c == '&':
			esc = "&amp;"
		case c == '<':
			esc = "&lt;"
		case c == '>':
			esc = "&gt;"
		case c == '"':
			esc = "&quot;"
		case c == '\r':
			esc = "&#xD;"
		case c == '\n':
			esc = "&#xA;"
		case c == '\t':
			esc = "&#x9;"
		case c < 0x20:
			esc = "\uFFFD"
		case c >= utf8.RuneSelf:
			var r rune
			r, width = utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && width == 1 || r == 0xFFFE || r == 0xFFFF {
				esc = "\uFFFD"
			}
		}
		if esc != "" {
			x.b = append(x.b, s[from:i]...)
			x.b = append(x.b, esc...)
			from = i + width
		}
		i += width
	}
	x.b = append(x.b, s[from:]...)
}

// appendTime writes a time as EC2 does, with milliseconds.
func appendTime(b []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
}
