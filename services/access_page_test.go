package services_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/auth"
)

// docs/access.md is made from the protos.
func TestAccessPageIsCurrent(t *testing.T) {
	t.Parallel()
	var services []protoreflect.ServiceDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(string(f.Package()), "nightshift.") {
			for i := range f.Services().Len() {
				services = append(services, f.Services().Get(i))
			}
		}
		return true
	})
	slices.SortFunc(services, func(a, b protoreflect.ServiceDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	var b strings.Builder
	b.WriteString("<!-- Generated from the protos by \"make generate\"; do not edit. -->\n" +
		"# Who may call what\n\n" +
		"The least role that may call a method, or the services that may, and how callers who may see only some accounts are kept to those:\n\n" +
		"- *their own*: they see and touch only what is of their accounts\n" +
		"- *one of their own*: the request must name one\n" +
		"- *nothing of accounts*: the method has nothing to do with accounts\n" +
		"- *denied*: the method is about all accounts, and they may not call it\n\n" +
		"Calls with a dot under *audited* are in the audit log, before and after; denials always are. [security.md](security.md) says who has which role.\n" +
		"`grpc.health.v1.Health` is open to everybody; reflection needs a viewer.\n")
	for _, s := range services {
		fmt.Fprintf(&b, "\n## %s\n\n| method | role | services | of some accounts | audited |\n|---|---|---|---|---|\n", s.FullName())
		info := grpc.ServiceInfo{}
		for i := range s.Methods().Len() {
			info.Methods = append(info.Methods, grpc.MethodInfo{Name: string(s.Methods().Get(i).Name())})
		}
		methods := auth.MethodsOf(map[string]grpc.ServiceInfo{string(s.FullName()): info})
		for _, i := range info.Methods {
			a := methods[string(s.FullName())+"/"+i.Name].Access
			role, accounts, audited := "", "", ""
			if a.GetRole() != 0 {
				role = auth.RoleName(a.GetRole())
				accounts = map[authv1.AccountScope]string{
					authv1.AccountScope_ACCOUNT_SCOPE_UNSPECIFIED: "denied", authv1.AccountScope_ACCOUNT_SCOPE_NONE: "nothing of accounts",
					authv1.AccountScope_ACCOUNT_SCOPE_FIELD: "one of their own, in `" + a.GetAccountField() + "`", authv1.AccountScope_ACCOUNT_SCOPE_NARROWED: "their own",
				}[a.GetAccountScope()]
			}
			if a.GetChanges() {
				audited = "•"
			}
			who := strings.Join(a.GetServices(), ", ")
			if who == "*" {
				who = "every one"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", i.Name, role, who, accounts, audited)
		}
	}
	current(t, "../docs/access.md", b.String())
}
