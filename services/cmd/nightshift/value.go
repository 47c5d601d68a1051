package main

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
)

// An object is a value as JSON and YAML show it, its members in order. Values
// are nil, bool, int64, uint64, float64, string, []any and object.
type object []member

type member struct {
	name  string
	value any
}

// tree is a message as JSON and YAML show it. Every field is there, under its
// name in the proto; one that is not set is null. Evidence, of which there is
// much, has only the fields that are set. Names of enum values go without the
// enum's prefix, times are RFC 3339 in UTC, numbers are numbers.
func tree(m proto.Message) object { return messageTree(m.ProtoReflect()) }

func messageTree(m protoreflect.Message) object {
	fields := m.Descriptor().Fields()
	o := make(object, 0, fields.Len())
	_, sparse := m.Interface().(*rulev1.Evidence)
	for i := range fields.Len() {
		if f := fields.Get(i); !sparse || m.Has(f) {
			o = append(o, member{string(f.Name()), fieldTree(m, f)})
		}
	}
	return o
}

func fieldTree(m protoreflect.Message, f protoreflect.FieldDescriptor) any {
	v := m.Get(f)
	switch {
	case f.IsMap():
		var keys []string
		v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
			keys = append(keys, k.String())
			return true
		})
		slices.Sort(keys)
		o := make(object, len(keys))
		for i, k := range keys {
			o[i] = member{k, scalarTree(f.MapValue(), v.Map().Get(protoreflect.ValueOfString(k).MapKey()))}
		}
		return o
	case f.IsList():
		list := make([]any, v.List().Len())
		for i := range list {
			list[i] = scalarTree(f, v.List().Get(i))
		}
		return list
	case f.HasPresence() && !m.Has(f):
		return nil
	}
	return scalarTree(f, v)
}

func scalarTree(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.EnumKind:
		if v.Enum() == 0 {
			return nil
		}
		return enumText(f.Enum(), v.Enum())
	case protoreflect.MessageKind, protoreflect.GroupKind:
		switch m := v.Message().Interface().(type) {
		case *timestamppb.Timestamp:
			return stamp(m)
		case *durationpb.Duration:
			return strconv.FormatFloat(m.AsDuration().Seconds(), 'f', -1, 64) + "s"
		case *structpb.Value:
			return structTree(m)
		}
		return messageTree(v.Message())
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes())
	default:
		switch x := v.Interface().(type) {
		case int32:
			return int64(x)
		case uint32:
			return uint64(x)
		case float64:
			return rounded(x)
		default:
			return x
		}
	}
}

// rounded takes off what adding up cents leaves behind.
func rounded(v float64) float64 {
	out, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 12, 64), 64)
	if err != nil {
		return v
	}
	return out
}

// structTree is a figure of evidence or a parameter's value.
func structTree(v *structpb.Value) any {
	switch k := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return k.BoolValue
	case *structpb.Value_NumberValue:
		return k.NumberValue
	case *structpb.Value_StringValue:
		return k.StringValue
	case *structpb.Value_ListValue:
		list := make([]any, len(k.ListValue.GetValues()))
		for i, x := range k.ListValue.GetValues() {
			list[i] = structTree(x)
		}
		return list
	case *structpb.Value_StructValue:
		var o object
		for name, x := range k.StructValue.GetFields() {
			o = append(o, member{name, structTree(x)})
		}
		slices.SortFunc(o, func(a, b member) int { return strings.Compare(a.name, b.name) })
		return o
	}
	return nil
}

// enumText is the name of an enum's value without the enum's prefix; a number
// this program does not know stays a number.
func enumText(e protoreflect.EnumDescriptor, n protoreflect.EnumNumber) string {
	v := e.Values().ByNumber(n)
	if v == nil {
		return strconv.Itoa(int(n))
	}
	return strings.TrimPrefix(string(v.Name()), enumPrefix(e))
}

func enumPrefix(e protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(e.Values().ByNumber(0).Name()), "UNSPECIFIED")
}

// name is enumText of a value at hand; "" for the unspecified one.
func name(e protoreflect.Enum) string {
	if e.Number() == 0 {
		return ""
	}
	return enumText(e.Descriptor(), e.Number())
}

// enumNames are the names a person can give, in the enum's order.
func enumNames(e protoreflect.Enum) []string {
	var out []string
	values := e.Descriptor().Values()
	for i := range values.Len() {
		if n := values.Get(i).Number(); n != 0 {
			out = append(out, enumText(e.Descriptor(), n))
		}
	}
	return out
}

// stamp is a time in RFC 3339 and UTC, to the fraction it has; "" when unset.
func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339Nano)
}

// appendJSON writes v as JSON, indented when indent is not empty. Characters
// that could do something to a terminal are escaped, which reads back the
// same.
func appendJSON(b []byte, v any, indent, prefix string) []byte {
	in := prefix + indent
	newline := func(p string) {
		if indent != "" {
			b = append(append(b, '\n'), p...)
		}
	}
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case uint64:
		return strconv.AppendUint(b, v, 10)
	case float64:
		return appendFloat(b, v)
	case string:
		return appendString(b, v)
	case []any:
		if len(v) == 0 {
			return append(b, "[]"...)
		}
		b = append(b, '[')
		for i, x := range v {
			if i > 0 {
				b = append(b, ',')
			}
			newline(in)
			b = appendJSON(b, x, indent, in)
		}
		newline(prefix)
		return append(b, ']')
	case object:
		if len(v) == 0 {
			return append(b, "{}"...)
		}
		b = append(b, '{')
		for i, m := range v {
			if i > 0 {
				b = append(b, ',')
			}
			newline(in)
			b = append(appendString(b, m.name), ':')
			if indent != "" {
				b = append(b, ' ')
			}
			b = appendJSON(b, m.value, indent, in)
		}
		newline(prefix)
		return append(b, '}')
	}
	panic("nightshift: a value of an unknown type") // tree makes no other
}

func appendFloat(b []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, "null"...)
	}
	out, _ := json.Marshal(v)
	return append(b, out...)
}

func appendString(b []byte, s string) []byte {
	var enc strings.Builder
	e := json.NewEncoder(&enc)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)
	for _, r := range strings.TrimSuffix(enc.String(), "\n") {
		if !dangerous(r) {
			b = utf8.AppendRune(b, r)
			continue
		}
		for _, unit := range utf16.AppendRune(nil, r) {
			b = append(append(b, `\u`...), strconv.FormatInt(0x10000|int64(unit), 16)[1:]...)
		}
	}
	return b
}

// plain are the texts that YAML takes for texts without quotes.
var plain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9 _./@()+-]*(:[A-Za-z0-9_./@()+-]+)*$`)

// notTexts are what YAML takes for something else.
var notTexts = []string{"true", "false", "yes", "no", "on", "off", "null", "y", "n"}

// appendYAML writes v as block YAML, to be read by YAML 1.1 and 1.2 alike.
func appendYAML(b []byte, v any, prefix string) []byte {
	switch v := v.(type) {
	case string:
		if plain.MatchString(v) && !strings.HasSuffix(v, " ") && !slices.Contains(notTexts, strings.ToLower(v)) {
			return append(b, v...)
		}
		return appendString(b, v)
	case []any:
		if len(v) == 0 {
			return append(b, "[]"...)
		}
		for i, x := range v {
			if i > 0 {
				b = append(append(b, '\n'), prefix...)
			}
			b = appendYAML(append(b, "- "...), x, prefix+"  ")
		}
		return b
	case object:
		if len(v) == 0 {
			return append(b, "{}"...)
		}
		for i, m := range v {
			if i > 0 {
				b = append(append(b, '\n'), prefix...)
			}
			b = append(appendYAML(b, m.name, ""), ':')
			b = appendNested(b, m.value, prefix)
		}
		return b
	default:
		return appendJSON(b, v, "", "")
	}
}

// appendNested writes a member's value: on the line of its name, or below.
func appendNested(b []byte, v any, prefix string) []byte {
	list, isList := v.([]any)
	o, isObject := v.(object)
	if isList && len(list) > 0 || isObject && len(o) > 0 {
		prefix += "  "
		return appendYAML(append(append(b, '\n'), prefix...), v, prefix)
	}
	return appendYAML(append(b, ' '), v, prefix)
}
