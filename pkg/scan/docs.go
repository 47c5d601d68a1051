package scan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"nightshift.dev/pkg/rule"
)

// generated marks what must not be edited.
const generated = "<!-- Generated from the rules by \"make generate\"; do not edit. -->\n\n"

// Docs returns the documentation pages of the sets' rules and their index, as
// Markdown by file name. The same rules give the same pages.
func Docs(sets ...*Set) map[string]string {
	pages := map[string]string{}
	var index strings.Builder
	index.WriteString(generated + "# Rules\n\n" +
		"What is looked for, by the service that looks. Each page is made from the rule itself; its examples are the rule's tests.\n\n" +
		"Set a parameter for a whole deployment with the service's `…_PARAMS` variable, such as\n" +
		"`NIGHTSHIFT_WASTE_PARAMS=\"ec2-stopped.min_days=45\"`, and for one account with its number before it:\n" +
		"`123456789012/ec2-stopped.min_days=60`. Settings are separated by commas.\n")
	for _, s := range sets {
		name := s.Service()
		fmt.Fprintf(&index, "\n## %s\n\n| rule | looks for | judges | parameters |\n|---|---|---|---|\n", strings.ToUpper(name[:1])+name[1:])
		for _, e := range s.rules {
			fmt.Fprintf(&index, "| [%s](%s.md) | %s | %s | %s |\n", e.meta.ID, e.meta.ID, cell(e.meta.Title), e.meta.ResourceType, paramsText(e.meta))
			pages[e.meta.ID+".md"] = e.page()
		}
	}
	pages["README.md"] = index.String()
	return pages
}

func paramsText(m rule.Meta) string {
	var list []string
	for _, p := range m.Params {
		list = append(list, fmt.Sprintf("`%s` = %s", p.Name, strings.TrimSpace(paramText(p.Default)+" "+p.Unit)))
	}
	return cmp.Or(strings.Join(list, ", "), "none")
}

func (e *entry) page() string {
	m := e.meta
	var b strings.Builder
	fmt.Fprintf(&b, "%s# %s: %s\n\n", generated, m.ID, m.Title)
	fmt.Fprintf(&b, "Category %s · judges %s · version %d\n\n", m.Category, m.ResourceType, m.Version)
	fmt.Fprintf(&b, "## Why it matters\n\n%s\n\n## How to fix it\n\n%s\n\n## Severity\n\n%s\n\n", m.Why, m.Fix, m.Severity)

	b.WriteString("## Parameters\n\n")
	if len(m.Params) == 0 {
		b.WriteString("None.\n\n")
	} else {
		b.WriteString("| name | default | allowed | meaning |\n|---|---|---|---|\n")
		for _, p := range m.Params {
			allowed := p.Type()
			if p.Min != 0 || p.Max != 0 {
				allowed = fmt.Sprintf("%s, %v to %v", allowed, p.Min, p.Max)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.Name, strings.TrimSpace(paramText(p.Default)+" "+p.Unit), allowed, cell(p.Description))
		}
		b.WriteString("\n")
	}

	b.WriteString("## What it reads\n\n")
	if len(e.facts) > 0 {
		fmt.Fprintf(&b, "Beside the listing, and only where the answer can change the verdict or its cost: `%s`.\n\n", strings.Join(e.facts, "`, `"))
	}
	b.WriteString("IAM actions:\n\n")
	for _, a := range e.actions {
		fmt.Fprintf(&b, "- `%s`\n", a)
	}

	b.WriteString("\n## Examples\n\n")
	// Exposure has no price.
	priced := m.Category != rule.Security
	if priced {
		b.WriteString("| case | verdict | a month | because |\n|---|---|---|---|\n")
	} else {
		b.WriteString("| case | verdict | because |\n|---|---|---|\n")
	}
	for _, x := range e.examples() {
		verdict := x.Verdict.Outcome.String()
		if x.Verdict.Severity != 0 {
			verdict += ", " + x.Verdict.Severity.String()
		}
		if x.Verdict.Exempt != (rule.Exemption{}) {
			verdict += ", exempt"
		}
		because := x.Verdict.Reason
		if !x.Verdict.DecidableAt.IsZero() {
			because += " Decidable on " + x.Verdict.DecidableAt.Format("2006-01-02") + "."
		}
		if !priced {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(x.Name), verdict, cell(because))
			continue
		}
		cost := CostText(x.Verdict)
		if x.Verdict.Cost.Known {
			cost = "$" + cost
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", cell(x.Name), verdict, cost, cell(because))
	}
	fmt.Fprintf(&b, "\nThe examples are scanned on %s", ExampleTime.Format("2006-01-02 15:04 UTC"))
	if priced {
		b.WriteString(", with prices of us-east-1 unless they say otherwise")
	}
	b.WriteString(".\n")

	b.WriteString("\n## Sources\n\n")
	for _, c := range m.Citations {
		fmt.Fprintf(&b, "- <%s>\n", c)
	}
	return b.String()
}

// cell makes a text fit for a cell of a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s)
}

// Policy returns the IAM policy, as JSON, that allows exactly the actions the
// sets' rules need and more, the ones named besides.
func Policy(more []string, sets ...*Set) (string, error) {
	actions := slices.Clone(more)
	for _, s := range sets {
		actions = append(actions, s.Actions("")...)
	}
	slices.Sort(actions)
	type statement struct {
		Sid, Effect string
		Action      []string
		Resource    string
	}
	b, err := json.MarshalIndent(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", []statement{{"NightshiftReadOnly", "Allow", slices.Compact(actions), "*"}}}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("policy: %w", err)
	}
	return string(b) + "\n", nil
}
