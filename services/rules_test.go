package services_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/scan"
	"nightshift.dev/services"
)

// docs/rules is made from the rules.
func TestRulePagesAreCurrent(t *testing.T) {
	t.Parallel()
	const dir = "../docs/rules"
	pages := scan.Docs(services.Rules...)
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	there, err := filepath.Glob(dir + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if _, ok := pages[filepath.Base(path)]; ok {
			continue
		}
		if !*update {
			t.Errorf("%s is the page of no rule: run make generate", path)
		} else if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		current(t, filepath.Join(dir, name), pages[name])
	}
}

// The read-only policy allows what the code calls in a scanned account, and
// nothing else.
func TestPolicyIsCurrent(t *testing.T) {
	t.Parallel()
	policy, err := scan.Policy([]string{"ec2:DescribeRegions", "sts:GetCallerIdentity"}, services.Rules...)
	if err != nil {
		t.Fatal(err)
	}
	current(t, "../deploy/iam/nightshift-readonly.json", policy)

	for _, a := range aws.Actions() {
		if strings.HasPrefix(a, "ec2:") && !strings.Contains(policy, `"`+a+`"`) {
			t.Errorf("%s is called in scanned accounts and not in the policy", a)
		}
	}
}

// current compares a generated file with what it should be, or writes it.
func current(t *testing.T, path, want string) {
	t.Helper()
	if !*update {
		if read(t, path) != want {
			t.Errorf("%s is not what the rules say: run make generate", path)
		}
		return
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
