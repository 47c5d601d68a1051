// Package access is what Nightshift needs in an account it looks at: a
// read-only role with the generated policy, and the templates that make it.
//
// It exists so that whoever hands out the role, whoever tries it and whoever
// writes the files in deploy speak of the same one. It calls nobody and must
// not import anything of ours.
package access

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// DefaultRole is the name of the role unless another is chosen.
const DefaultRole = "NightshiftReadOnly"

// The parameters of the templates.
const (
	// TrustedPrincipal is who may assume the role: the ARN of a role or user, or
	// an account.
	TrustedPrincipal = "TrustedPrincipal"
	// ExternalID is what they have to say to do so.
	ExternalID = "ExternalId"
	// RoleName is the name without path.
	RoleName = "RoleName"
	// RolePath begins and ends with a slash.
	RolePath = "RolePath"
)

//go:embed policy.json
var policy string

// Policy is the read-only policy as JSON: deploy/iam/nightshift-readonly.json.
// A test holds it equal to the calls that the code makes.
func Policy() string { return policy }

// Actions are the IAM actions of the policy, sorted.
func Actions() []string {
	var document struct{ Statement []struct{ Action []string } }
	if err := json.Unmarshal([]byte(policy), &document); err != nil || len(document.Statement) != 1 {
		panic(fmt.Sprintf("access: policy.json is not the policy that \"make generate\" writes: %v", err))
	}
	return document.Statement[0].Action
}

var roleName = regexp.MustCompile(`^([A-Za-z0-9+=,.@_-]+/)*[A-Za-z0-9+=,.@_-]{1,64}$`)

// RoleARN is the role of an account. name may begin with the role's path,
// without slash in front, and may hold {account}, which stands for the
// account's number; empty means DefaultRole. The error says what is wrong with name.
func RoleARN(partition, account, name string) (string, error) {
	if name == "" {
		name = DefaultRole
	}
	full := strings.ReplaceAll(strings.TrimPrefix(name, "/"), "{account}", account)
	if !roleName.MatchString(full) || len(full) > 512 {
		return "", fmt.Errorf("%q is not the name of a role: at most 64 letters, digits and +=,.@_- after a path such as audit/, with {account} for the account's number", name)
	}
	return "arn:" + partition + ":iam::" + account + ":role/" + full, nil
}

// SplitRole takes what stands after role/ in an ARN apart: the path, which
// begins and ends with a slash, and the name.
func SplitRole(role string) (path, name string) {
	i := strings.LastIndexByte(role, '/') + 1
	return "/" + role[:i], role[i:]
}
