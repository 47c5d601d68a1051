package persistence

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	"nightshift.dev/pkg/errs"
)

// mask is the fields that somebody wants to read, each with those of its own
// that he wants; nil is all.
type mask map[string]mask

// readMask understands a read_mask over Finding. Empty, or *, is all.
func readMask(m *fieldmaskpb.FieldMask) (mask, error) {
	var root mask
	for _, path := range m.GetPaths() {
		if path == "*" {
			return nil, nil
		}
		if _, err := fieldmaskpb.New(&findingv1.Finding{}, path); err != nil {
			return nil, errs.New(errs.InvalidArgument, "BAD_READ_MASK", "the fields cannot be read").
				Field("read_mask", "%q is no field of a finding, such as id, severity or resource.arn; maps and lists are read as a whole", clean(path))
		}
		if root == nil {
			root = mask{}
		}
		at := root
		names := strings.Split(path, ".")
		for i, name := range names {
			inner, named := at[name]
			switch {
			case i == len(names)-1:
				at[name] = nil
			case named && inner == nil: // all of it is wanted already
			case !named:
				at[name] = mask{}
			}
			if at = at[name]; at == nil {
				break
			}
		}
	}
	return root, nil
}

// prune clears all other fields.
func (k mask) prune(m protoreflect.ProtoMessage) {
	if k == nil {
		return
	}
	r := m.ProtoReflect()
	r.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		inner, wanted := k[string(fd.Name())]
		switch {
		case !wanted:
			r.Clear(fd)
		case inner != nil:
			inner.prune(v.Message().Interface())
		}
		return true
	})
}
