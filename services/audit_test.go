package services_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	_ "nightshift.dev/gen/nightshift/notification/v1"
)

// What a field that could be a secret is called, and which of these are none:
// places in a list, and references to where a secret is kept.
var (
	secretive = regexp.MustCompile(`secret|password|token|credential|api_key|private_key|external_id|template_parameters`)
	harmless  = regexp.MustCompile(`^(next_|)page_token$|^resume_token$|^(url|routing_key|signing|token|password)_secret$`)
)

// Whatever is asked and answered goes into the audit log, except what is
// marked as secret. A field that has such a name and is not marked fails here.
func TestNoSecretReachesTheAuditLog(t *testing.T) {
	t.Parallel()
	seen := map[protoreflect.FullName]bool{}
	marked := 0
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			o, _ := f.Options().(*descriptorpb.FieldOptions)
			switch kind := f.Kind(); {
			case o.GetDebugRedact():
				marked++
			case slices.Contains([]protoreflect.Kind{protoreflect.StringKind, protoreflect.BytesKind}, kind) || f.IsMap():
				if name := string(f.Name()); secretive.MatchString(name) && !harmless.MatchString(name) {
					t.Errorf("%s: mark it debug_redact, or say here that it is harmless", f.FullName())
				}
			case f.Message() != nil:
				walk(f.Message())
			}
			if f.IsMap() && f.MapValue().Message() != nil {
				walk(f.MapValue().Message())
			}
		}
	}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(f.Path(), "nightshift/") {
			return true
		}
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				walk(methods.Get(j).Input())
				walk(methods.Get(j).Output())
			}
		}
		return true
	})
	if len(seen) < 100 || marked == 0 {
		t.Errorf("only %d messages were looked at, %d fields are marked", len(seen), marked)
	}
}
