package auth

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/errs"
)

// Method is a method and who may call it.
type Method struct {
	// Name is the full one without leading slash, such as
	// "nightshift.job.v1.JobService/RunJob".
	Name string
	// Access is what its proto says; nil denies everybody.
	Access *authv1.Access
	// Public methods are for everybody, also without credentials.
	Public bool
}

// Methods are the methods of a server by name.
type Methods map[string]*Method

// foreign are the methods that are not ours and have no option of ours.
var foreign = map[string]*Method{
	// What probes of orchestrators and balancers ask; they have no credentials.
	"grpc.health.v1.Health": {Public: true},
	// What there is to call, for tools.
	"grpc.reflection.v1.ServerReflection":      {Access: &authv1.Access{Role: authv1.Role_ROLE_VIEWER, AccountScope: authv1.AccountScope_ACCOUNT_SCOPE_NONE}},
	"grpc.reflection.v1alpha.ServerReflection": {Access: &authv1.Access{Role: authv1.Role_ROLE_VIEWER, AccountScope: authv1.AccountScope_ACCOUNT_SCOPE_NONE}},
}

// MethodsOf reads who may call the methods of a server.
func MethodsOf(services map[string]grpc.ServiceInfo) Methods {
	ms := Methods{}
	for service, info := range services {
		for _, m := range info.Methods {
			one := &Method{Name: service + "/" + m.Name}
			if f := foreign[service]; f != nil {
				one.Access, one.Public = f.Access, f.Public
			} else {
				one.Access = accessOf(service, m.Name)
			}
			ms[one.Name] = one
		}
	}
	return ms
}

// accessOf is the option of a method of a linked proto, nil when it has none.
func accessOf(service, method string) *authv1.Access {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	md := sd.Methods().ByName(protoreflect.Name(method))
	if md == nil || !proto.HasExtension(md.Options(), authv1.E_Access) {
		return nil
	}
	return proto.GetExtension(md.Options(), authv1.E_Access).(*authv1.Access)
}

// Allow decides whether p may call the method, as far as that does not depend
// on the request. The error is PERMISSION_DENIED and says what it would take.
func (m *Method) Allow(p Principal) error {
	switch {
	case m.Public:
		return nil
	case m.Access == nil:
		return denied("METHOD_WITHOUT_ACCESS", "nobody may call %s: its proto does not say who may", m.Name)
	case m.forService(p):
		return nil
	}
	need := m.Access.GetRole()
	switch {
	case need == authv1.Role_ROLE_UNSPECIFIED && !isService(p):
		return denied("ROLE_TOO_LOW", "%s is for services of Nightshift alone (%s), and the caller is %s", m.Name, strings.Join(m.Access.GetServices(), ", "), Describe(p))
	case need == authv1.Role_ROLE_UNSPECIFIED || isService(p) && p.Role == authv1.Role_ROLE_UNSPECIFIED:
		return denied("SERVICE_NOT_ALLOWED", "%s may be called by %s, and the caller is %s", m.Name, m.Callers(), Describe(p))
	case p.Role < need:
		return denied("ROLE_TOO_LOW", "%s needs the role %s, and the caller is %s", m.Name, RoleName(need), Describe(p))
	case len(p.Accounts) > 0 && m.Access.GetAccountScope() == authv1.AccountScope_ACCOUNT_SCOPE_UNSPECIFIED:
		return denied("ACCOUNT_OUT_OF_SCOPE", "%s is about all accounts, and the caller may see only %s", m.Name, strings.Join(p.Accounts, ", "))
	}
	return nil
}

// AllowRequest decides whether p, whom Allow let pass, may make this request:
// whether the account that it names is one of p's.
func (m *Method) AllowRequest(p Principal, req proto.Message) error {
	if m.Public || len(p.Accounts) == 0 || m.forService(p) || m.Access.GetAccountScope() != authv1.AccountScope_ACCOUNT_SCOPE_FIELD {
		return nil
	}
	field := m.Access.GetAccountField()
	account, err := textAt(req, field)
	switch {
	case err != nil:
		return denied("METHOD_WITHOUT_ACCESS", "%s: %v", m.Name, err)
	case account == "":
		return denied("ACCOUNT_OUT_OF_SCOPE", "%s needs %s: the caller may see only %s", m.Name, field, strings.Join(p.Accounts, ", "))
	}
	return p.Require(account)
}

// Require is the error of one who may not see an account: the same whether
// there is such an account or not.
func (p Principal) Require(account string) error {
	if p.Sees(account) {
		return nil
	}
	return denied("ACCOUNT_OUT_OF_SCOPE", "the caller may see only %s", strings.Join(p.Accounts, ", "))
}

// RequireRole is the error of one who may call a method, but for this needs a
// higher role.
func (p Principal) RequireRole(role authv1.Role, what string) error {
	if p.Kind == auditv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS || p.Role >= role {
		return nil
	}
	return denied("ROLE_TOO_LOW", "%s needs the role %s, and the caller is %s", what, RoleName(role), Describe(p))
}

// forService tells whether p is a service that the method is meant for.
func (m *Method) forService(p Principal) bool {
	return isService(p) && (slices.Contains(m.Access.GetServices(), p.Name) || slices.Contains(m.Access.GetServices(), "*"))
}

func isService(p Principal) bool { return p.Kind == auditv1.PrincipalKind_PRINCIPAL_KIND_SERVICE }

// Callers says who may call the method, such as "viewer or higher, and waste".
func (m *Method) Callers() string {
	switch {
	case m.Public:
		return "everybody"
	case m.Access == nil:
		return "nobody"
	}
	var who []string
	if r := m.Access.GetRole(); r != authv1.Role_ROLE_UNSPECIFIED {
		who = append(who, "the role "+RoleName(r))
	}
	for _, s := range m.Access.GetServices() {
		if s == "*" {
			s = "every service"
		}
		who = append(who, s)
	}
	return strings.Join(who, ", ")
}

// Describe says who somebody is, for error messages.
func Describe(p Principal) string {
	switch p.Kind {
	case auditv1.PrincipalKind_PRINCIPAL_KIND_SERVICE:
		return fmt.Sprintf("service %q", p.Name)
	case auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, auditv1.PrincipalKind_PRINCIPAL_KIND_OIDC:
		if p.Role == authv1.Role_ROLE_UNSPECIFIED {
			return fmt.Sprintf("%q, to whom NIGHTSHIFT_OIDC_ROLES gives no role", p.Name)
		}
		return fmt.Sprintf("%q with the role %s", p.Name, RoleName(p.Role))
	default:
		return "nobody known"
	}
}

// textAt is the text in a field of a message, whose path has dots; empty where
// a message on the way is not set.
func textAt(m proto.Message, path string) (string, error) {
	at := m.ProtoReflect()
	names := strings.Split(path, ".")
	for i, name := range names {
		fd := at.Descriptor().Fields().ByName(protoreflect.Name(name))
		last := i == len(names)-1
		switch {
		case fd == nil || fd.IsList() || fd.IsMap() || last != (fd.Kind() == protoreflect.StringKind) || !last && fd.Kind() != protoreflect.MessageKind:
			return "", fmt.Errorf("its account_field %q is no text of the request", path)
		case last:
			return at.Get(fd).String(), nil
		}
		at = at.Get(fd).Message()
	}
	return "", nil
}

func denied(reason, format string, args ...any) *errs.Error {
	return errs.New(errs.PermissionDenied, reason, format, args...)
}
