package rule

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Param is a figure of a rule that can be set. Its type is the type of its
// default: int, float64, bool, string or []string.
type Param struct {
	// Name in snake_case.
	Name string
	// Description is one sentence.
	Description string
	// Unit such as days or percent; empty for lists and switches.
	Unit    string
	Default any
	// Min and Max bound a number, inclusive; both zero means no bounds.
	Min, Max float64
	// Valid says what is wrong with a text, or with an element of a list; nil
	// finds nothing wrong.
	Valid func(text string) error
}

// Parse reads a value for the parameter from text: numbers as in Go, true or
// false, lists with commas. The error says what would be right.
func (p Param) Parse(text string) (any, error) {
	text = strings.TrimSpace(text)
	var (
		v   any
		err error
	)
	switch p.Default.(type) {
	case int:
		v, err = strconv.Atoi(text)
	case float64:
		v, err = strconv.ParseFloat(text, 64)
	case bool:
		v, err = strconv.ParseBool(text)
	case string:
		v = text
	case []string:
		list := []string{}
		for s := range strings.SplitSeq(text, ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
		v = list
	default:
		return nil, fmt.Errorf("parameter %s has a default of type %T, which is not supported", p.Name, p.Default)
	}
	if err != nil {
		return nil, fmt.Errorf("parameter %s: %q is not %s", p.Name, text, p.Type())
	}
	return v, p.Check(v)
}

// Type returns the name of the parameter's type as people read it: an
// integer, a number, true or false, a text, a list.
func (p Param) Type() string {
	switch p.Default.(type) {
	case int:
		return "an integer"
	case float64:
		return "a number"
	case bool:
		return "true or false"
	case []string:
		return "a list"
	default:
		return "a text"
	}
}

// Check tells whether v has the parameter's type and lies within its bounds.
func (p Param) Check(v any) error {
	if fmt.Sprintf("%T", v) != fmt.Sprintf("%T", p.Default) {
		return fmt.Errorf("parameter %s: %v is not %s", p.Name, v, p.Type())
	}
	var n float64
	switch x := v.(type) {
	case int:
		n = float64(x)
	case float64:
		n = x
	case string:
		return p.valid(x)
	case []string:
		return p.valid(x...)
	default:
		return nil
	}
	if math.IsNaN(n) || math.IsInf(n, 0) || (p.Min != 0 || p.Max != 0) && (n < p.Min || n > p.Max) {
		return fmt.Errorf("parameter %s: %v is outside %v to %v%s", p.Name, v, p.Min, p.Max, unit(p.Unit))
	}
	return nil
}

func (p Param) valid(texts ...string) error {
	if p.Valid == nil {
		return nil
	}
	for _, t := range texts {
		if err := p.Valid(t); err != nil {
			return fmt.Errorf("parameter %s: %q %w", p.Name, t, err)
		}
	}
	return nil
}

func unit(u string) string {
	if u == "" {
		return ""
	}
	return " " + u
}

// Params are the values in force for one rule, by name. Build them with
// Meta.Defaults or Meta.With; a getter for a name the rule does not declare
// returns the zero value.
type Params map[string]any

// Int returns an integer parameter.
func (p Params) Int(name string) int { v, _ := p[name].(int); return v }

// Float returns a number parameter.
func (p Params) Float(name string) float64 { v, _ := p[name].(float64); return v }

// Bool returns a switch.
func (p Params) Bool(name string) bool { v, _ := p[name].(bool); return v }

// Text returns a text parameter.
func (p Params) Text(name string) string { v, _ := p[name].(string); return v }

// List returns a list parameter; it must not be changed.
func (p Params) List(name string) []string { v, _ := p[name].([]string); return v }

// Fingerprint is a stable text of all values, equal exactly when they are.
func (p Params) Fingerprint() string {
	names := make([]string, 0, len(p))
	for n := range p {
		names = append(names, n)
	}
	slices.Sort(names)
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteByte(';')
		}
		fmt.Fprintf(&b, "%s=%#v", n, p[n])
	}
	return b.String()
}

// Defaults returns the rule's parameters as it declares them.
func (m Meta) Defaults() Params {
	p := make(Params, len(m.Params))
	for _, d := range m.Params {
		p[d.Name] = d.Default
	}
	return p
}

// With returns the defaults with some values set from text, such as those of
// a configuration. The error names the first wrong one.
func (m Meta) With(set map[string]string) (Params, error) {
	p := m.Defaults()
	for name, text := range set {
		i := slices.IndexFunc(m.Params, func(d Param) bool { return d.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("rule %s has no parameter %q; it has %s", m.ID, name, strings.Join(m.paramNames(), ", "))
		}
		v, err := m.Params[i].Parse(text)
		if err != nil {
			return nil, fmt.Errorf("rule %s: %w", m.ID, err)
		}
		p[name] = v
	}
	return p, nil
}

func (m Meta) paramNames() []string {
	if len(m.Params) == 0 {
		return []string{"none"}
	}
	names := make([]string, len(m.Params))
	for i, d := range m.Params {
		names[i] = d.Name
	}
	return names
}
