package persistence

import (
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/uptrace/bun"
	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/reflect/protoreflect"

	"nightshift.dev/pkg/errs"
)

// fields are what a list can be filtered by: names as in the API.
type fields map[string]field

type field struct {
	column string
	kind   fieldKind
	key    string // of a map
	// Of a number, or a time, that can be unknown: the same with what is unknown above, or
	// below, all others, as indexes have it.
	above, below string
	values       map[string]int64 // of an enum or a rank
	// Of an enum: what follows from its being a value, as an index knows it.
	implied map[int64]string
}

type fieldKind int

const (
	kindText    fieldKind = iota // compares by bytes; ":" is "contains"
	kindTime                     // RFC 3339 in quotes
	kindNumber                   // NULL is unknown, and matches no comparison
	kindInteger                  // a whole number
	kindEnum                     // a name; is or is not
	kindRank                     // a name; compares by rank
	kindMap                      // text by key, as in tags.Owner; a key that is missing is unknown
)

// enumValues are the values of a proto enum by the names people use: without
// the enum's prefix, and without the unspecified one.
func enumValues(e protoreflect.Enum) map[string]int64 {
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

// A predicate is a filter that has been understood: SQL can be made of it,
// and it can be asked about a row that is at hand. Both give the same answer.
// A nil predicate matches everything.
type predicate struct {
	op       string // AND, OR, NOT, a comparison, CONTAINS or PRESENT
	operands []*predicate
	name     string
	field    field
	value    any // string, time.Time, float64 or int64
}

// maxFilterParts bounds what a filter can ask of the database.
const maxFilterParts = 200

// parse understands a filter as in AIP-160. What it does not understand is
// INVALID_ARGUMENT, with what would be right.
func (fs fields) parse(filter string) (*predicate, error) {
	if strings.TrimSpace(filter) == "" {
		return nil, nil
	}
	if !utf8.ValidString(filter) || strings.ContainsRune(filter, 0) {
		return nil, badFilter("holds a character that is none")
	}
	var p filtering.Parser
	p.Init(filter)
	parsed, err := p.Parse()
	if err != nil {
		return nil, badFilter("cannot be read: %s", syntaxError(err))
	}
	parts := 0
	return fs.compile(parsed.GetExpr(), &parts)
}

func badFilter(format string, args ...any) *errs.Error {
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

func (fs fields) compile(e *expr.Expr, parts *int) (*predicate, error) {
	if *parts++; *parts > maxFilterParts {
		return nil, badFilter("has more than %d parts", maxFilterParts)
	}
	call := e.GetCallExpr()
	if call == nil {
		return nil, badFilter(`has %s alone; compare a field with a value, such as %s`, describe(e), fs.example())
	}
	args := call.GetArgs()
	switch op := call.GetFunction(); op {
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd, filtering.FunctionOr, filtering.FunctionNot:
		if op == filtering.FunctionFuzzyAnd {
			op = filtering.FunctionAnd
		}
		p := &predicate{op: op}
		for _, a := range args {
			operand, err := fs.compile(a, parts)
			if err != nil {
				return nil, err
			}
			p.operands = append(p.operands, operand)
		}
		return p, nil
	case filtering.FunctionEquals, filtering.FunctionNotEquals, filtering.FunctionLessThan, filtering.FunctionLessEquals,
		filtering.FunctionGreaterThan, filtering.FunctionGreaterEquals, filtering.FunctionHas:
		if len(args) != 2 {
			break // a function that somebody has called by such a name
		}
		return fs.compare(op, args[0], args[1])
	}
	return nil, badFilter("calls %s, which there is not; there are AND, OR, NOT, =, !=, <, <=, >, >= and :", call.GetFunction())
}

func (fs fields) compare(op string, left, right *expr.Expr) (*predicate, error) {
	text, isText := constantText(right)
	name, f, err := fs.field(op, left, text)
	if err != nil {
		return nil, err
	}
	p := &predicate{op: op, name: name, field: f}
	if f.kind == kindMap && left.GetIdentExpr() != nil {
		p.op = "PRESENT"
		return p, nil
	}
	if op == filtering.FunctionHas && isText && text == "*" {
		p.op = "PRESENT"
		return p, nil
	}
	switch f.kind {
	case kindText, kindMap:
		if !isText {
			return nil, badFilter(`compares %s with %s, which is no text; put it in quotes, as in %s = "…"`, name, describe(right), name)
		}
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return nil, badFilter("compares %s with text that holds a character that is none", name)
		}
		if op == filtering.FunctionHas {
			p.op = "CONTAINS"
		}
		p.value = text
		return p, nil
	case kindTime:
		t, err := time.Parse(time.RFC3339, text)
		if !isText || err != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9999 {
			return nil, badFilter(`compares %s with %s, which is no time; write it as in RFC 3339 and in quotes, such as "2026-01-02T15:04:05Z"`, name, describe(right))
		}
		p.value = micros(t)
	case kindNumber, kindInteger:
		c := right.GetConstExpr()
		switch c.GetConstantKind().(type) {
		case *expr.Constant_Int64Value:
			p.value = c.GetInt64Value()
			if f.kind == kindNumber {
				p.value = float64(c.GetInt64Value())
			}
		case *expr.Constant_DoubleValue:
			if f.kind == kindNumber && !math.IsInf(c.GetDoubleValue(), 0) && !math.IsNaN(c.GetDoubleValue()) {
				p.value = c.GetDoubleValue()
			}
		}
		if p.value == nil {
			return nil, badFilter("compares %s with %s, which is no number; write it without quotes, as in %s > 10", name, describe(right), name)
		}
	case kindEnum, kindRank:
		v, ok := f.values[strings.ToUpper(text)]
		if !isText || !ok {
			return nil, badFilter("compares %s with %s, which it cannot be; it can be %s", name, describe(right), strings.Join(f.valueNames(), ", "))
		}
		if f.kind == kindEnum && op != filtering.FunctionEquals && op != filtering.FunctionNotEquals {
			return nil, badFilter("compares %s by %s, but it has no order; use = or !=", name, op)
		}
		p.value = v
	}
	if op == filtering.FunctionHas {
		return nil, badFilter("asks what %s contains, but it is no text; use = or %s:*", name, name)
	}
	return p, nil
}

// field finds the field that is compared: one by its name, an entry of a map
// by name.key, or by name:key when it is asked whether there is one.
func (fs fields) field(op string, left *expr.Expr, right string) (string, field, error) {
	name, key, entry := left.GetIdentExpr().GetName(), right, false
	if s := left.GetSelectExpr(); s != nil {
		name, key, entry = s.GetOperand().GetIdentExpr().GetName(), s.GetField(), true
	}
	f, ok := fs[name]
	switch {
	case !ok || entry && f.kind != kindMap:
		return "", f, badFilter("compares %s, which is no field; the fields are %s", describe(left), strings.Join(fs.names(), ", "))
	case f.kind != kindMap:
		return name, f, nil
	case !entry && op != filtering.FunctionHas, key == "", !entry && key == "*":
		return "", f, badFilter(`compares %s by no key; write %s.Environment = "dev", or %s:"Environment" for those that have it; a key with other than letters and digits goes in quotes`, name, name, name)
	case !utf8.ValidString(key) || strings.ContainsRune(key, 0):
		return "", f, badFilter("asks for a key of %s that holds a character that is none", name)
	}
	f.key = key
	return name + "." + key, f, nil
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

func (fs fields) names() []string {
	names := make([]string, 0, len(fs))
	for name := range fs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (fs fields) example() string {
	if values := fs["state"].valueNames(); len(values) > 0 {
		return `state = "` + values[0] + `"`
	}
	return fs.names()[0] + " = …"
}

func (f field) valueNames() []string {
	names := make([]string, 0, len(f.values))
	for name := range f.values {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(f.values[a], f.values[b]) })
	return names
}

// apply adds the predicate to a query.
func (p *predicate) apply(q *bun.SelectQuery) *bun.SelectQuery {
	if p == nil {
		return q
	}
	sql, args := p.sql(nil)
	return p.hint(q.Where(sql, args...))
}

// hint adds conditions that follow from those there are, for indexes that
// cannot answer these.
func (p *predicate) hint(q *bun.SelectQuery) *bun.SelectQuery {
	switch {
	case p.op == filtering.FunctionAnd:
		for _, o := range p.operands {
			q = o.hint(q)
		}
	case p.op == filtering.FunctionEquals && p.field.kind == kindMap:
		entry, _ := json.Marshal(map[string]any{p.field.key: p.value}) // texts
		q = q.Where(p.field.column+" @> ?::jsonb", string(entry))
	case p.field.kind == kindTime && p.field.below != "" && p.value != nil && p.op != filtering.FunctionNotEquals:
		q = q.Where(p.field.below+" "+p.op+" ?::timestamptz", p.value)
	case p.op == filtering.FunctionEquals && p.field.kind == kindEnum:
		if implied := p.field.implied[p.value.(int64)]; implied != "" {
			q = q.Where(implied)
		}
	}
	return q
}

// never says that no row that matches has the value in an enum, as far as that is
// easily seen.
func (p *predicate) never(field string, value int64) bool {
	if p == nil {
		return false
	}
	never := func(o *predicate) bool { return o.never(field, value) }
	switch p.op {
	case filtering.FunctionAnd:
		return slices.ContainsFunc(p.operands, never)
	case filtering.FunctionOr:
		return !slices.ContainsFunc(p.operands, func(o *predicate) bool { return !never(o) })
	case filtering.FunctionNot:
		o := p.operands[0]
		return o.op == filtering.FunctionEquals && o.name == field && o.value == value
	case filtering.FunctionEquals:
		return p.name == field && p.value != value
	case filtering.FunctionNotEquals:
		return p.name == field && p.value == value
	}
	return false
}

// sql is the predicate with a placeholder for each value.
func (p *predicate) sql(args []any) (string, []any) {
	column := p.field.column
	if p.field.kind == kindMap {
		column = "((" + column + " ->> ?::text) COLLATE \"C\")"
		args = append(args, p.field.key)
	}
	switch p.op {
	case filtering.FunctionAnd, filtering.FunctionOr:
		parts := make([]string, len(p.operands))
		for i, o := range p.operands {
			parts[i], args = o.sql(args)
		}
		return "(" + strings.Join(parts, " "+p.op+" ") + ")", args
	case filtering.FunctionNot:
		part, args := p.operands[0].sql(args)
		return "(NOT " + part + ")", args
	case "PRESENT":
		if p.field.kind == kindText {
			return column + " <> ''", args
		}
		return column + " IS NOT NULL", args
	case "CONTAINS":
		return "strpos(" + column + ", ?) > 0", append(args, p.value)
	}
	switch p.field.kind {
	case kindNumber:
		compare := column + " " + p.op + " ?::float8"
		args = append(args, p.value)
		// The second says nothing new, also not of what is unknown: that it holds leaves the first to decide.
		switch {
		case p.field.above != "" && strings.HasPrefix(p.op, ">"):
			return "(" + compare + " AND " + p.field.above + " " + p.op + " ?::float8)", append(args, p.value)
		case p.field.below != "" && strings.HasPrefix(p.op, "<"):
			return "(" + compare + " AND " + p.field.below + " " + p.op + " ?::float8)", append(args, p.value)
		}
		return compare, args
	case kindTime:
		return column + " " + p.op + " ?::timestamptz", append(args, p.value)
	default:
		return column + " " + p.op + " ?", append(args, p.value)
	}
}

// match is the answer for a row whose fields value tells: strings, times,
// float64s and int64s as in the columns, nil for NULL.
func (p *predicate) match(value func(name string) any) bool {
	if p == nil {
		return true
	}
	is, known := p.ask(value)
	return is && known
}

// ask answers in SQL's three values: what is compared with NULL is not known.
func (p *predicate) ask(value func(name string) any) (is, known bool) {
	switch p.op {
	case filtering.FunctionAnd, filtering.FunctionOr:
		// One operand that is false decides AND, one that is true OR.
		decides := p.op == filtering.FunctionOr
		known = true
		for _, o := range p.operands {
			i, k := o.ask(value)
			if k && i == decides {
				return decides, true
			}
			known = known && k
		}
		return !decides, known
	case filtering.FunctionNot:
		is, known = p.operands[0].ask(value)
		return !is, known
	}
	v := value(p.name)
	if p.op == "PRESENT" {
		return v != nil && (v != "" || p.field.kind == kindMap), true
	}
	if v == nil {
		return false, false
	}
	var c int
	switch want := p.value.(type) {
	case string:
		if p.op == "CONTAINS" {
			return strings.Contains(v.(string), want), true
		}
		c = strings.Compare(v.(string), want)
	case time.Time:
		c = v.(time.Time).Compare(want)
	case float64:
		c = cmp.Compare(v.(float64), want)
	case int64:
		c = cmp.Compare(v.(int64), want)
	}
	switch p.op {
	case filtering.FunctionEquals:
		return c == 0, true
	case filtering.FunctionNotEquals:
		return c != 0, true
	case filtering.FunctionLessThan:
		return c < 0, true
	case filtering.FunctionLessEquals:
		return c <= 0, true
	case filtering.FunctionGreaterThan:
		return c > 0, true
	default:
		return c >= 0, true
	}
}
