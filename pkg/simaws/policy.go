package simaws

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Policy is an IAM policy document as AWS writes it, as far as it is enforced here: statements that allow or deny actions on every resource. What no
// statement allows is denied, and a Deny beats every Allow.
type Policy struct {
	Version   string
	Statement []Statement
}

// Statement allows or denies actions; * and ? in them are wildcards, and case does not matter.
type Statement struct {
	Sid      string `json:",omitempty"`
	Effect   string // Allow or Deny
	Action   Words
	Resource Words
}

// Words is a list that may be written as a single text, as IAM does.
type Words []string

// UnmarshalJSON implements json.Unmarshaler.
func (w *Words) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*w = Words{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// LoadPolicy reads a policy document from a JSON or YAML file.
func LoadPolicy(path string) (*Policy, error) {
	p := new(Policy)
	if err := readFile(path, p); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// check says what could never work, or would mean more than is enforced here.
func (p *Policy) check() error {
	if p == nil {
		return nil
	}
	if p.Version != "2012-10-17" {
		return fmt.Errorf("policy version %q is not 2012-10-17", p.Version)
	}
	for i, s := range p.Statement {
		switch {
		case s.Effect != "Allow" && s.Effect != "Deny":
			return fmt.Errorf("policy statement %d: effect %q is not Allow or Deny", i+1, s.Effect)
		case len(s.Action) == 0:
			return fmt.Errorf("policy statement %d: it names no action", i+1)
		case len(s.Resource) != 1 || s.Resource[0] != "*":
			return fmt.Errorf("policy statement %d: resource %q is not \"*\", the only one that is enforced here", i+1, s.Resource)
		}
		for _, a := range s.Action {
			if service, _, ok := strings.Cut(a, ":"); a != "*" && (!ok || service == "") {
				return fmt.Errorf("policy statement %d: action %q is not like ec2:DescribeVolumes", i+1, a)
			}
		}
	}
	return nil
}

type decision int

const (
	allowed decision = iota
	notAllowed
	explicitlyDenied
)

// decide evaluates the policy; no policy allows everything.
func (p *Policy) decide(action string) decision {
	if p == nil {
		return allowed
	}
	d := notAllowed
	for _, s := range p.Statement {
		for _, a := range s.Action {
			// IAM's patterns have no escape.
			if !wildcard([]rune(strings.ToLower(strings.ReplaceAll(a, `\`, `\\`))), []rune(strings.ToLower(action))) {
				continue
			}
			if s.Effect == "Deny" {
				return explicitlyDenied
			}
			d = allowed
		}
	}
	return d
}

// authorize refuses what the caller's policies do not allow. Everybody may ask who they are.
func (c *call) authorize(action string) error {
	if action == "sts:GetCallerIdentity" || c.service == "sts" && action != "sts:AssumeRole" {
		return nil
	}
	policies := []*Policy{c.account.Policy}
	if c.session != nil {
		policies = []*Policy{c.s.config.Policy}
		c.s.estate.mu.RLock()
		defer c.s.estate.mu.RUnlock()
		for i := range c.account.Roles {
			if r := &c.account.Roles[i]; strings.HasSuffix("/"+r.Name, "/"+c.session.Role) {
				policies = append(policies, r.Policy)
			}
		}
	}
	worst := allowed
	for _, p := range policies {
		worst = max(worst, p.decide(action))
	}
	if worst == allowed {
		return nil
	}
	return c.refused(worst == explicitlyDenied)
}
