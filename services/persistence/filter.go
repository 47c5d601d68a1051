package persistence

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"go.einride.tech/aip/filtering"

	"nightshift.dev/pkg/filter"
)

// fields are what a list can be filtered by: names as in the API.
type fields map[string]field

type field struct {
	column string
	kind   filter.Kind
	// Of a number, or a time, that can be unknown: the same with what is unknown above, or
	// below, all others, as indexes have it.
	above, below string
	values       map[string]int64 // of an enum or a rank
	// Of an enum: what follows from its being a value, as an index knows it.
	implied map[int64]string
}

const (
	kindText    = filter.Text
	kindTime    = filter.Time
	kindNumber  = filter.Number // NULL is unknown, and matches no comparison
	kindInteger = filter.Integer
	kindEnum    = filter.Enum
	kindRank    = filter.Rank
	kindMap     = filter.Map
)

var (
	enumValues = filter.Values
	badFilter  = filter.Bad
)

// A predicate is a filter of which SQL can be made, and that can be asked
// about a row that is at hand. Both give the same answer. A nil predicate
// matches everything.
type predicate struct {
	*filter.Filter
	fields fields
}

// parse understands a filter as in AIP-160. What it does not understand is
// INVALID_ARGUMENT, with what would be right.
func (fs fields) parse(text string) (*predicate, error) {
	known := make(filter.Fields, len(fs))
	for name, f := range fs {
		known[name] = filter.Field{Kind: f.kind, Values: f.values}
	}
	f, err := filter.Compile(text, known)
	if err != nil || f == nil {
		return nil, err
	}
	return &predicate{f, fs}, nil
}

func (p *predicate) operand(f *filter.Filter) *predicate { return &predicate{f, p.fields} }

// names says whether the predicate asks for the field.
func (p *predicate) names(field string) bool { return p != nil && p.Asks(field) }

// match is the answer for a row whose fields value tells: strings, times,
// float64s and int64s as in the columns, nil for NULL.
func (p *predicate) match(value func(name string) any) bool { return p == nil || p.Match(value) }

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
	case p.Op == filter.And:
		for _, o := range p.Operands {
			q = p.operand(o).hint(q)
		}
	case p.Op == filtering.FunctionEquals && p.Kind == kindMap:
		entry, _ := json.Marshal(map[string]any{p.Key: p.Value}) // texts
		q = q.Where(p.fields[p.Base].column+" @> ?::jsonb", string(entry))
	case p.Kind == kindTime && p.fields[p.Base].below != "" && p.Value != nil && p.Op != filtering.FunctionNotEquals:
		q = q.Where(p.fields[p.Base].below+" "+p.Op+" ?::timestamptz", p.Value)
	case p.Op == filtering.FunctionEquals && p.Kind == kindEnum:
		if implied := p.fields[p.Base].implied[p.Value.(int64)]; implied != "" {
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
	never := func(o *filter.Filter) bool { return p.operand(o).never(field, value) }
	switch p.Op {
	case filter.And:
		return slices.ContainsFunc(p.Operands, never)
	case filter.Or:
		return !slices.ContainsFunc(p.Operands, func(o *filter.Filter) bool { return !never(o) })
	case filter.Not:
		o := p.Operands[0]
		return o.Op == filtering.FunctionEquals && o.Name == field && o.Value == value
	case filtering.FunctionEquals:
		return p.Name == field && p.Value != value
	case filtering.FunctionNotEquals:
		return p.Name == field && p.Value == value
	}
	return false
}

// sql is the predicate with a placeholder for each value.
func (p *predicate) sql(args []any) (string, []any) {
	f := p.fields[p.Base]
	column := f.column
	if p.Kind == kindMap {
		column = "((" + column + " ->> ?::text) COLLATE \"C\")"
		args = append(args, p.Key)
	}
	switch p.Op {
	case filter.And, filter.Or:
		parts := make([]string, len(p.Operands))
		for i, o := range p.Operands {
			parts[i], args = p.operand(o).sql(args)
		}
		return "(" + strings.Join(parts, " "+p.Op+" ") + ")", args
	case filter.Not:
		part, args := p.operand(p.Operands[0]).sql(args)
		return "(NOT " + part + ")", args
	case filter.Present:
		if p.Kind == kindText {
			return column + " <> ''", args
		}
		return column + " IS NOT NULL", args
	case filter.Contains:
		return "strpos(" + column + ", ?) > 0", append(args, p.Value)
	}
	switch p.Kind {
	case kindNumber:
		compare := column + " " + p.Op + " ?::float8"
		args = append(args, p.Value)
		// The second says nothing new, also not of what is unknown: that it holds leaves the first to decide.
		switch {
		case f.above != "" && strings.HasPrefix(p.Op, ">"):
			return "(" + compare + " AND " + f.above + " " + p.Op + " ?::float8)", append(args, p.Value)
		case f.below != "" && strings.HasPrefix(p.Op, "<"):
			return "(" + compare + " AND " + f.below + " " + p.Op + " ?::float8)", append(args, p.Value)
		}
		return compare, args
	case kindTime:
		return column + " " + p.Op + " ?::timestamptz", append(args, p.Value)
	default:
		return column + " " + p.Op + " ?", append(args, p.Value)
	}
}
