package filter

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.einride.tech/aip/filtering"
)

// Match is the answer for something whose fields value tells: strings, times,
// float64s and int64s, nil for what is unknown.
func (f *Filter) Match(value func(name string) any) bool {
	if f == nil {
		return true
	}
	is, known := f.ask(value)
	return is && known
}

// ask answers in SQL's three values: what is compared with what is unknown is
// not known.
func (f *Filter) ask(value func(name string) any) (is, known bool) {
	switch f.Op {
	case And, Or:
		// One operand that is false decides AND, one that is true OR.
		decides := f.Op == Or
		known = true
		for _, o := range f.Operands {
			i, k := o.ask(value)
			if k && i == decides {
				return decides, true
			}
			known = known && k
		}
		return !decides, known
	case Not:
		is, known = f.Operands[0].ask(value)
		return !is, known
	}
	v := value(f.Name)
	if f.Op == Present {
		return v != nil && (v != "" || f.Kind == Map), true
	}
	if v == nil {
		return false, false
	}
	var c int
	switch want := f.Value.(type) {
	case string:
		if f.Op == Contains {
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
	switch f.Op {
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

// Explain says why something does not match, by the first part of the filter
// that it fails, such as `severity is "MEDIUM", and the filter wants severity
// >= "HIGH"`; it is empty for what matches.
func (f *Filter) Explain(fields Fields, value func(name string) any) string {
	if f.Match(value) {
		return ""
	}
	return f.explain(fields, value, true)
}

// explain says why the answer is not want.
func (f *Filter) explain(fields Fields, value func(name string) any, want bool) string {
	switch f.Op {
	case Not:
		return f.Operands[0].explain(fields, value, !want)
	case And, Or:
		var reasons []string
		for _, o := range f.Operands {
			if is, known := o.ask(value); known && is == want {
				continue
			}
			reason := o.explain(fields, value, want)
			if (f.Op == And) == want {
				return reason // one is enough
			}
			reasons = append(reasons, reason)
		}
		return strings.Join(reasons, "; ")
	}
	wish := "the filter wants " + f.String()
	if !want {
		wish = "the filter does not want " + f.String()
	}
	v := value(f.Name)
	if v == nil {
		return f.Name + " is not known, and " + wish
	}
	return fmt.Sprintf("%s is %s, and %s", f.Name, fields[f.Base].display(v), wish)
}

// display is a value as people write it.
func (f Field) display(v any) string {
	switch v := v.(type) {
	case string:
		if r := []rune(v); len(r) > 100 {
			v = string(r[:100]) + "…"
		}
		return strconv.Quote(v)
	case time.Time:
		return v.Format(time.RFC3339)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case int64:
		for name, n := range f.Values {
			if n == v {
				return name
			}
		}
		return strconv.FormatInt(v, 10)
	}
	return fmt.Sprint(v)
}
