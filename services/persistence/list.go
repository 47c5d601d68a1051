package persistence

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/uptrace/bun"

	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// order is what a list is sorted by, first things first. The last of its
// terms is unique or makes the others so: every row has its own place, and a
// page begins after the place of the last row of the one before, whatever was
// added meanwhile.
type order[R any] []term[R]

type term[R any] struct {
	name string // as in order_by; empty where a caller has no choice
	expr string // never NULL
	desc bool
	key  sortKey[R]
	// crowd is the place of many rows that are first in the order; nil: there are none
	// such. An index that has the terms after this one the other way round has them in order only where they all share it.
	crowd any
}

// sortKey reads a row's place from the row, and from a page token.
type sortKey[R any] struct {
	of    func(R) string
	value func(string) (any, error)
}

func textKey[R any](of func(R) string) sortKey[R] {
	return sortKey[R]{of, func(s string) (any, error) {
		if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return nil, strconv.ErrSyntax
		}
		return s, nil
	}}
}

func intKey[R any](of func(R) int64) sortKey[R] {
	return sortKey[R]{
		func(r R) string { return strconv.FormatInt(of(r), 10) },
		func(s string) (any, error) { return strconv.ParseInt(s, 10, 64) },
	}
}

func timeKey[R any](of func(R) time.Time) sortKey[R] {
	return sortKey[R]{
		func(r R) string { return strconv.FormatInt(of(r).UnixMicro(), 10) },
		func(s string) (any, error) {
			n, err := strconv.ParseInt(s, 10, 64)
			t := time.UnixMicro(n).UTC()
			if err == nil && (t.Year() < 1 || t.Year() > 9999) {
				err = strconv.ErrRange
			}
			return t, err
		},
	}
}

func floatKey[R any](of func(R) float64) sortKey[R] {
	return sortKey[R]{
		func(r R) string { return strconv.FormatFloat(of(r), 'g', -1, 64) },
		func(s string) (any, error) {
			f, err := strconv.ParseFloat(s, 64)
			if math.IsNaN(f) {
				err = strconv.ErrRange
			}
			return f, err
		},
	}
}

// sortable are the terms a caller can choose from, by name: rising, and
// falling.
type sortable[R any] map[string][2]term[R]

// both is a term whose expression is the same either way.
func both[R any](name, expr string, key sortKey[R]) [2]term[R] {
	return [2]term[R]{{name: name, expr: expr, key: key}, {name: name, expr: expr, desc: true, key: key}}
}

// parse understands an order_by as in AIP-132. last is added unless it is named.
func (ts sortable[R]) parse(orderBy, fallback, last string) (order[R], error) {
	if strings.TrimSpace(orderBy) == "" {
		orderBy = fallback
	}
	bad := func(format string, args ...any) error {
		return errs.New(errs.InvalidArgument, "BAD_ORDER", "the order cannot be used").Field("order_by", format, args...)
	}
	var o order[R]
	for part := range strings.SplitSeq(orderBy, ",") {
		words := strings.Fields(part)
		if len(words) == 0 || len(words) > 2 || len(words) == 2 && words[1] != "asc" && words[1] != "desc" {
			return nil, bad(`%q is no field with asc or desc; write it as in "monthly_cost desc, id"`, strings.TrimSpace(part))
		}
		both, ok := ts[words[0]]
		if !ok {
			names := make([]string, 0, len(ts))
			for name := range ts {
				names = append(names, name)
			}
			slices.Sort(names)
			return nil, bad("cannot sort by %q; there are %s", words[0], strings.Join(names, ", "))
		}
		if slices.ContainsFunc(o, func(t term[R]) bool { return t.name == words[0] }) {
			return nil, bad("names %s twice", words[0])
		}
		t := both[0]
		if len(words) == 2 && words[1] == "desc" {
			t = both[1]
		}
		o = append(o, t)
	}
	if i := slices.IndexFunc(o, func(t term[R]) bool { return t.name == last }); i >= 0 {
		return o[:i+1], nil // what follows decides nothing
	}
	return append(o, ts[last][0]), nil
}

// list returns a page and the token of the next. query makes the query anew,
// with its filter and without order; bind is what the token depends on.
//
// A page after a place (a, b) of an order by x, y is what has x = a and y
// after b, and when that is used up what has x after a: each a range of an
// index on (x, y), also where x rises and y falls, and where a million rows
// share one x.
func list[R any](ctx context.Context, o order[R], token string, size int, bind []string, query func() *bun.SelectQuery) ([]R, string, error) {
	var place []string
	more, err := page.Parse(token, &place, bind...)
	if err != nil {
		return nil, "", err
	}
	var after []any
	if more {
		if after, err = o.parsePlace(place); err != nil {
			return nil, "", err
		}
	}
	rows, err := o.rowsAfter(ctx, after, size+1, query)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(rows) > size {
		rows = rows[:size]
		next = page.Token(o.place(rows[size-1]), bind...)
	}
	return rows, next, nil
}

// place is where a row stands in the order.
func (o order[R]) place(row R) []string {
	place := make([]string, len(o))
	for i, t := range o {
		place[i] = t.key.of(row)
	}
	return place
}

func (o order[R]) parsePlace(place []string) ([]any, error) {
	bad := errs.New(errs.InvalidArgument, "BAD_PAGE_TOKEN", "the page cannot be found").
		Field("page_token", "is not a token this service gave; take next_page_token as it came, or leave it empty for the first page")
	if len(place) != len(o) {
		return nil, bad
	}
	values := make([]any, len(o))
	for i, t := range o {
		v, err := t.key.value(place[i])
		if err != nil {
			return nil, bad
		}
		values[i] = v
	}
	return values, nil
}

// rowsAfter returns up to n rows after a place, or from the first on.
func (o order[R]) rowsAfter(ctx context.Context, after []any, n int, query func() *bun.SelectQuery) ([]R, error) {
	fetch := func(same int, n int) (rows []R, err error) {
		q := query().Limit(int64(n))
		for i := range same {
			q = q.Where("? = ?", bun.Safe(o[i].expr), after[i])
		}
		if same < len(after) {
			compare := ">"
			if o[same].desc {
				compare = "<"
			}
			q = q.Where("? ? ?", bun.Safe(o[same].expr), bun.Safe(compare), after[same])
		}
		for _, t := range o[same:] {
			direction := "ASC"
			if t.desc {
				direction = "DESC"
			}
			q = q.OrderExpr("? ?", bun.Safe(t.expr), bun.Safe(direction))
		}
		return rows, fault(q.Scan(ctx, &rows))
	}
	same := len(o) - 1
	if after == nil {
		if o[0].crowd == nil {
			return fetch(0, n)
		}
		after, same = []any{o[0].crowd}, 1
	}
	var rows []R
	for ; same >= 0 && len(rows) < n; same-- {
		more, err := fetch(same, n-len(rows))
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}
