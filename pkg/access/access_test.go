package access

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRoleARN(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"":                         "arn:aws:iam::123456789012:role/NightshiftReadOnly",
		"Reader":                   "arn:aws:iam::123456789012:role/Reader",
		"audit/ns-{account}":       "arn:aws:iam::123456789012:role/audit/ns-123456789012",
		"/audit/Reader":            "arn:aws:iam::123456789012:role/audit/Reader",
		"{account}/{account}":      "arn:aws:iam::123456789012:role/123456789012/123456789012",
		"a b":                      "",
		"audit/":                   "",
		"a//b":                     "",
		"{region}":                 "",
		"*":                        "",
		"x;rm":                     "",
		strings.Repeat("x", 65):    "",
		strings.Repeat("xxx/", 99): "",
	} {
		got, err := RoleARN("aws", "123456789012", name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", name, got, err, want)
		}
	}
}

// A role taken apart is the role, and fits the parameters of the templates.
func TestSplitRole(t *testing.T) {
	t.Parallel()
	valid := regexp.MustCompile(`^/([A-Za-z0-9+=,.@_-]+/)*$`)
	rapid.Check(t, func(t *rapid.T) {
		role := rapid.StringMatching(`([A-Za-z0-9+=,.@_-]{1,8}/){0,3}[A-Za-z0-9+=,.@_-]{1,64}`).Draw(t, "role")
		path, name := SplitRole(role)
		if path+name != "/"+role || !valid.MatchString(path) || strings.Contains(name, "/") || name == "" {
			t.Fatalf("%q is %q and %q", role, path, name)
		}
		if arn, err := RoleARN("aws", "123456789012", role); err != nil || !strings.HasSuffix(arn, ":role"+path+name) {
			t.Fatalf("%q is %s, %v", role, arn, err)
		}
	})
}

// Neither the whole world nor an external id that can be guessed gets past the
// parameters.
func TestTheParametersOfTemplates(t *testing.T) {
	t.Parallel()
	principal, id := regexp.MustCompile(principalPattern), regexp.MustCompile(externalIDPattern)
	for text, good := range map[string]bool{
		"123456789012": true, "arn:aws:iam::123456789012:root": true, "arn:aws:iam::123456789012:role/x/nightshift": true, "arn:aws-cn:iam::123456789012:user/n": true,
		"*": false, "": false, "arn:aws:iam::*:root": false, "arn:aws:iam::123456789012:role/*": false, "arn:aws:sts::123456789012:assumed-role/x/y": false,
	} {
		if principal.MatchString(text) != good {
			t.Errorf("principal %q", text)
		}
	}
	for text, good := range map[string]bool{"ns-abcdefghijklmnopqrstuvwxyz": true, "": false, "short": false, "ns-*************": false, "with a space in it all": false} {
		if id.MatchString(text) != good {
			t.Errorf("external id %q", text)
		}
	}
	if strings.Contains(CloudFormation(Actions())+Terraform(Actions()), "\t") {
		t.Error("a template holds a tab")
	}
}
