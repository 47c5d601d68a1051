package services_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"nightshift.dev/pkg/access"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/scan"
	"nightshift.dev/services"
)

// What is handed out for accounts is made of the policy, which is made of the
// rules.
func TestAccessIsCurrent(t *testing.T) {
	t.Parallel()
	policy, err := scan.Policy([]string{"ec2:DescribeRegions", "sts:GetCallerIdentity"}, services.Rules...)
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Statement []struct{ Action []string } }
	if err := json.Unmarshal([]byte(policy), &document); err != nil || len(document.Statement) != 1 {
		t.Fatalf("the policy is %s: %v", policy, err)
	}
	current(t, "../pkg/access/policy.json", policy)
	current(t, "../deploy/cloudformation/nightshift-readonly.yaml", access.CloudFormation(document.Statement[0].Action))
	current(t, "../deploy/terraform/nightshift-readonly/main.tf", access.Terraform(document.Statement[0].Action))
}

// The template is YAML, its role demands the external id, trusts the parameter
// alone, and allows what the policy does.
func TestTheTemplateMakesTheRole(t *testing.T) {
	t.Parallel()
	text := read(t, "../deploy/cloudformation/nightshift-readonly.yaml")
	for _, tag := range []string{"!Ref ", "!GetAtt "} { // of CloudFormation, not of YAML
		text = strings.ReplaceAll(text, tag, tag[1:len(tag)-1]+":")
	}
	var template struct {
		Parameters map[string]struct{ Default, AllowedPattern string }
		Resources  struct {
			Role struct {
				Type       string
				Properties struct {
					AssumeRolePolicyDocument json.RawMessage
					Policies                 []struct{ PolicyDocument json.RawMessage }
				}
			}
		}
	}
	b, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = json.Unmarshal(b, &template)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{access.TrustedPrincipal, access.ExternalID, access.RoleName, access.RolePath} {
		if template.Parameters[name].AllowedPattern == "" {
			t.Errorf("parameter %s takes anything", name)
		}
	}
	role := template.Resources.Role.Properties
	var trust struct {
		Statement []struct {
			Effect, Action string
			Principal      struct{ AWS string }
			Condition      struct{ StringEquals map[string]string }
		}
	}
	if err := json.Unmarshal(role.AssumeRolePolicyDocument, &trust); err != nil || len(trust.Statement) != 1 {
		t.Fatalf("the trust policy is %s: %v", role.AssumeRolePolicyDocument, err)
	}
	if s := trust.Statement[0]; s.Effect != "Allow" || s.Action != "sts:AssumeRole" || s.Principal.AWS != "Ref:TrustedPrincipal" || s.Condition.StringEquals["sts:ExternalId"] != "Ref:ExternalId" {
		t.Errorf("the trust policy is %+v", s)
	}
	if len(role.Policies) != 1 {
		t.Fatalf("the role has %d policies", len(role.Policies))
	}
	var have, want any
	if json.Unmarshal(role.Policies[0].PolicyDocument, &have) != nil || json.Unmarshal([]byte(access.Policy()), &want) != nil || canonical(have) != canonical(want) {
		t.Errorf("the role may do\n%s\nand the policy says\n%s", canonical(have), canonical(want))
	}
	terraform := read(t, "../deploy/terraform/nightshift-readonly/main.tf")
	for _, a := range access.Actions() {
		if !strings.Contains(terraform, `      "`+a+`",`) {
			t.Errorf("the Terraform module does not allow %s", a)
		}
	}
}

func canonical(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// Every action of the policy can be tried without reading anything.
func TestEveryActionHasAProbe(t *testing.T) {
	t.Parallel()
	probes := aws.Probes()
	for _, a := range access.Actions() {
		if !slices.Contains(probes, a) {
			t.Errorf("%s is in the policy, and pkg/aws knows no cheap call to try it: add one to probes", a)
		}
	}
	for _, a := range probes {
		if !slices.Contains(access.Actions(), a) {
			t.Errorf("pkg/aws tries %s, which is not in the policy", a)
		}
	}
}
