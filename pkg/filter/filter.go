// Package filter understands filters as in AIP-160, and answers them for what
// is at hand in memory. Persistence makes SQL of the same filters; both give
// the same answer.
//
// It exists so that a route of notifications, an exemption and a list mean the
// same by the same words. It must import nothing of ours but gen and errs.
package filter

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/reflect/protoreflect"

	"nightshift.dev/pkg/errs"
)

// Kind is what the values of a field are.
type Kind int

// The kinds. A value that is unknown matches no comparison of any kind.
const (
	Text    Kind = iota // compares by bytes; ":" is "contains"
	Time                // RFC 3339 in quotes, to the microsecond
	Number              // a float64
	Integer             // a whole number
	Enum                // a name; is or is not
	Rank                // a name; compares by rank
	Map                 // text by key, as in tags.Owner; a key that is missing is unknown
)

// Field is something that a filter can ask for.
type Field struct {
	// Kind of its values.
	Kind Kind
	// Values of an enum or a rank, by their names in upper case. A text that
	// has any can be none but these, as it is written here.
	Values map[string]int64
}

// Fields are all that a filter can ask for, by name.
type Fields map[string]Field

// Values are those of a proto enum by the names people use: without the
// enum's prefix, and without the unspecified one.
func Values(e protoreflect.Enum) map[string]int64 {
	values := map[string]int64{}
	all := e.Descriptor().Values()
	prefix := strings.TrimSuffix(string(all.ByNumber(0).Name()), "UNSPECIFIED")
	for i := range all.Len() {
		if v := all.Get(i); v.Number() != 0 {
			values[strings.TrimPrefix(string(v.Name()), prefix)] = int64(v.Number())
		}
	}
	return values
}

// Operations of a filter beside the comparisons =, !=, <, <=, > and >=.
const (
	And      = filtering.FunctionAnd
	Or       = filtering.FunctionOr
	Not      = filtering.FunctionNot
	Contains = "CONTAINS"
	Present  = "PRESENT"
)

// Filter is a filter that has been understood. Nil matches everything.
type Filter struct {
	// Op is And, Or, Not, a comparison, Contains or Present.
	Op string
	// Operands of And, Or and Not.
	Operands []*Filter
	// Name of the field, with the key of a map, such as tags.Owner.
	Name string
	// Base is the name without key, Key the key.
	Base, Key string
	// Kind of the field.
	Kind Kind
	// Value it is compared with: string, time.Time, float64 or int64.
	Value any

	text string // of the value, as people write it
}

// maxParts bounds what a filter can ask.
const maxParts = 200

// Compile understands a filter. What it does not understand is
// INVALID_ARGUMENT, with what would be right, and where.
func Compile(text string, fields Fields) (*Filter, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, Bad("holds a character that is none")
	}
	var p filtering.Parser
	p.Init(text)
	parsed, err := p.Parse()
	if err != nil {
		return nil, Bad("cannot be read: %s", syntaxError(err))
	}
	c := compiler{text: text, fields: fields, positions: parsed.GetSourceInfo().GetPositions()}
	return c.compile(parsed.GetExpr())
}

// Bad is the error about a filter that cannot be used.
func Bad(format string, args ...any) *errs.Error {
	return errs.New(errs.InvalidArgument, "BAD_FILTER", "the filter cannot be used").Field("filter", format, args...)
}

// syntaxError is the innermost of the parser's errors: those around it repeat
// the filter and say that it was being parsed.
func syntaxError(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	if e, ok := err.(interface {
		Position() filtering.Position
		Message() string
	}); ok {
		return e.Message() + " at character " + e.Position().String()
	}
	return err.Error()
}

type compiler struct {
	text      string
	fields    Fields
	positions map[int64]int32
	parts     int
}

// bad is Bad with the place of the expression.
func (c *compiler) bad(e *expr.Expr, format string, args ...any) *errs.Error {
	if at, ok := c.positions[e.GetId()]; ok && int(at) <= len(c.text) {
		before := c.text[:at]
		line := strings.Count(before, "\n") + 1
		column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
		format += " (at character %d:%d)"
		args = append(args, line, column)
	}
	return Bad(format, args...)
}

func (c *compiler) compile(e *expr.Expr) (*Filter, error) {
	if c.parts++; c.parts > maxParts {
		return nil, Bad("has more than %d parts", maxParts)
	}
	call := e.GetCallExpr()
	if call == nil {
		return nil, c.bad(e, `has %s alone; compare a field with a value, such as %s`, describe(e), c.fields.example())
	}
	args := call.GetArgs()
	switch op := call.GetFunction(); op {
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd, filtering.FunctionOr, filtering.FunctionNot:
		if op == filtering.FunctionFuzzyAnd {
			op = And
		}
		f := &Filter{Op: op}
		for _, a := range args {
			operand, err := c.compile(a)
			if err != nil {
				return nil, err
			}
			f.Operands = append(f.Operands, operand)
		}
		return f, nil
	case filtering.FunctionEquals, filtering.FunctionNotEquals, filtering.FunctionLessThan, filtering.FunctionLessEquals,
		filtering.FunctionGreaterThan, filtering.FunctionGreaterEquals, filtering.FunctionHas:
		if len(args) != 2 {
			break // a function that somebody has called by such a name
		}
		return c.compare(op, args[0], args[1])
	}
	return nil, c.bad(e, "calls %s, which there is not; there are AND, OR, NOT, =, !=, <, <=, >, >= and :", call.GetFunction())
}

func (c *compiler) compare(op string, left, right *expr.Expr) (*Filter, error) {
	text, isText := constantText(right)
	base, key, err := c.field(op, left, text)
	if err != nil {
		return nil, err
	}
	field := c.fields[base]
	f := &Filter{Op: op, Name: base, Base: base, Key: key, Kind: field.Kind}
	if field.Kind == Map {
		f.Name += "." + key
	}
	name := f.Name
	if field.Kind == Map && left.GetIdentExpr() != nil {
		f.Op = Present
		return f, nil
	}
	if op == filtering.FunctionHas && isText && text == "*" {
		f.Op = Present
		return f, nil
	}
	switch field.Kind {
	case Text, Map:
		if !isText {
			return nil, c.bad(right, `compares %s with %s, which is no text; put it in quotes, as in %s = "…"`, name, describe(right), name)
		}
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return nil, c.bad(right, "compares %s with text that holds a character that is none", name)
		}
		if _, ok := field.Values[text]; !ok && len(field.Values) > 0 && (op == filtering.FunctionEquals || op == filtering.FunctionNotEquals) {
			return nil, c.bad(right, "compares %s with %s, which it cannot be; it can be %s", name, describe(right), strings.Join(field.Names(), ", "))
		}
		if op == filtering.FunctionHas {
			f.Op = Contains
		}
		f.Value, f.text = text, strconv.Quote(text)
		return f, nil
	case Time:
		t, err := time.Parse(time.RFC3339, text)
		if !isText || err != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9999 {
			return nil, c.bad(right, `compares %s with %s, which is no time; write it as in RFC 3339 and in quotes, such as "2026-01-02T15:04:05Z"`, name, describe(right))
		}
		f.Value, f.text = t.UTC().Truncate(time.Microsecond), strconv.Quote(text)
	case Number, Integer:
		number := right.GetConstExpr()
		switch number.GetConstantKind().(type) {
		case *expr.Constant_Int64Value:
			f.Value = number.GetInt64Value()
			if field.Kind == Number {
				f.Value = float64(number.GetInt64Value())
			}
			f.text = strconv.FormatInt(number.GetInt64Value(), 10)
		case *expr.Constant_DoubleValue:
			if v := number.GetDoubleValue(); field.Kind == Number && !math.IsInf(v, 0) && !math.IsNaN(v) {
				f.Value, f.text = v, strconv.FormatFloat(v, 'f', -1, 64)
			}
		}
		if f.Value == nil {
			return nil, c.bad(right, "compares %s with %s, which is no number; write it without quotes, as in %s > 10", name, describe(right), name)
		}
	case Enum, Rank:
		v, ok := field.Values[strings.ToUpper(text)]
		if !isText || !ok {
			return nil, c.bad(right, "compares %s with %s, which it cannot be; it can be %s", name, describe(right), strings.Join(field.Names(), ", "))
		}
		if field.Kind == Enum && op != filtering.FunctionEquals && op != filtering.FunctionNotEquals {
			return nil, c.bad(right, "compares %s by %s, but it has no order; use = or !=", name, op)
		}
		f.Value, f.text = v, strconv.Quote(strings.ToUpper(text))
	}
	if op == filtering.FunctionHas {
		return nil, c.bad(right, "asks what %s contains, but it is no text; use = or %s:*", name, name)
	}
	return f, nil
}

// field finds the field that is compared: one by its name, an entry of a map
// by name.key, or by name:key when it is asked whether there is one.
func (c *compiler) field(op string, left *expr.Expr, right string) (name, key string, err error) {
	name, key, entry := left.GetIdentExpr().GetName(), right, false
	if s := left.GetSelectExpr(); s != nil {
		name, key, entry = s.GetOperand().GetIdentExpr().GetName(), s.GetField(), true
	}
	f, ok := c.fields[name]
	switch {
	case !ok || entry && f.Kind != Map:
		return "", "", c.bad(left, "compares %s, which is no field; the fields are %s", describe(left), strings.Join(c.fields.names(), ", "))
	case f.Kind != Map:
		return name, "", nil
	case !entry && op != filtering.FunctionHas, key == "", !entry && key == "*":
		return "", "", c.bad(left, `compares %s by no key; write %s.Environment = "dev", or %s:"Environment" for those that have it; a key with other than letters and digits goes in quotes`, name, name, name)
	case !utf8.ValidString(key) || strings.ContainsRune(key, 0):
		return "", "", c.bad(left, "asks for a key of %s that holds a character that is none", name)
	}
	return name, key, nil
}

// constantText is the text of a quoted string or of a bare word.
func constantText(e *expr.Expr) (string, bool) {
	if s, ok := e.GetConstExpr().GetConstantKind().(*expr.Constant_StringValue); ok {
		return s.StringValue, true
	}
	if id := e.GetIdentExpr(); id != nil {
		return id.GetName(), true
	}
	return "", false
}

// describe names an expression in an error, shortened.
func describe(e *expr.Expr) string {
	var s string
	switch {
	case e.GetIdentExpr() != nil:
		s = e.GetIdentExpr().GetName()
	case e.GetSelectExpr() != nil:
		s = describe(e.GetSelectExpr().GetOperand()) + "." + e.GetSelectExpr().GetField()
	case e.GetConstExpr() != nil:
		if text, ok := constantText(e); ok {
			s = `"` + text + `"`
		} else {
			s = "a number"
		}
	default:
		s = "an expression"
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60]) + "…"
	}
	return s
}

func (fs Fields) names() []string {
	names := make([]string, 0, len(fs))
	for name := range fs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (fs Fields) example() string {
	if names := fs["state"].Names(); len(names) > 0 {
		return `state = "` + names[0] + `"`
	}
	return fs.names()[0] + " = …"
}

// Names are the values by name, in their order.
func (f Field) Names() []string {
	names := make([]string, 0, len(f.Values))
	for name := range f.Values {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(f.Values[a], f.Values[b]) })
	return names
}

// Asks says whether the filter asks for the field.
func (f *Filter) Asks(field string) bool {
	return f != nil && (f.Base == field || slices.ContainsFunc(f.Operands, func(o *Filter) bool { return o.Asks(field) }))
}

// Within is the part of the filter that restricts nothing but these fields:
// what matches the filter matches it, too. Nil when there is none.
func (f *Filter) Within(fields ...string) *Filter {
	switch {
	case f == nil:
		return nil
	case f.only(fields):
		return f
	case f.Op != And:
		return nil
	}
	part := &Filter{Op: And}
	for _, o := range f.Operands {
		if o := o.Within(fields...); o != nil {
			part.Operands = append(part.Operands, o)
		}
	}
	switch len(part.Operands) {
	case 0:
		return nil
	case 1:
		return part.Operands[0]
	}
	return part
}

func (f *Filter) only(fields []string) bool {
	if len(f.Operands) == 0 {
		return slices.Contains(fields, f.Base)
	}
	return !slices.ContainsFunc(f.Operands, func(o *Filter) bool { return !o.only(fields) })
}

// String is the filter as text that means the same. Nil is empty.
func (f *Filter) String() string {
	if f == nil {
		return ""
	}
	switch f.Op {
	case And, Or:
		parts := make([]string, len(f.Operands))
		for i, o := range f.Operands {
			parts[i] = o.String()
		}
		return "(" + strings.Join(parts, " "+f.Op+" ") + ")"
	case Not:
		return "NOT (" + f.Operands[0].String() + ")"
	}
	name := f.Base
	if f.Key != "" {
		name += "." + key(f.Key)
	}
	switch f.Op {
	case Present:
		return name + ":*"
	case Contains:
		return name + ":" + f.text
	}
	return name + " " + f.Op + " " + f.text
}

// key is the key of a map, in quotes where it must be.
func key(k string) string {
	for i, r := range k {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' && (i == 0 || r < '0' || r > '9') {
			return strconv.Quote(k)
		}
	}
	return k
}
