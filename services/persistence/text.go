package persistence

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"nightshift.dev/pkg/errs"
)

// clean makes text that Postgres can hold of text that came from outside:
// its text type has no NUL, and must be UTF-8. What is replaced becomes U+FFFD.
func clean(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

// refuseNUL refuses a request that holds text Postgres cannot: what a caller
// wants kept is kept as it is or not at all.
func refuseNUL(m proto.Message, path string) (err error) {
	refuse := func(path string, v protoreflect.Value, fd protoreflect.FieldDescriptor) error {
		switch {
		case fd.Message() != nil:
			return refuseNUL(v.Message().Interface(), path)
		case fd.Kind() == protoreflect.StringKind && strings.ContainsRune(v.String(), 0):
			return errs.New(errs.InvalidArgument, "BAD_TEXT", "the request cannot be kept").Field(path, "holds a NUL character; leave it out")
		}
		return nil
	}
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		at := strings.TrimPrefix(path+"."+string(fd.Name()), ".")
		switch {
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				if err = refuse(at, k.Value(), fd.MapKey()); err == nil {
					err = refuse(at, v, fd.MapValue())
				}
				return err == nil
			})
		case fd.IsList():
			for i := range v.List().Len() {
				if err = refuse(at, v.List().Get(i), fd); err != nil {
					break
				}
			}
		default:
			err = refuse(at, v, fd)
		}
		return err == nil
	})
	return err
}

// micros is a time as Postgres keeps it.
func micros(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func timestamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// timeOf is the time of a timestamp, or nil when it is unset or none.
func timeOf(ts *timestamppb.Timestamp) *time.Time {
	if ts == nil || !ts.IsValid() {
		return nil
	}
	t := micros(ts.AsTime())
	return &t
}
