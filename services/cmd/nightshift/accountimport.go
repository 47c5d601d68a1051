package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	"nightshift.dev/pkg/access"
	"nightshift.dev/pkg/errs"
)

// importBatch is how many accounts one call imports.
const importBatch = 500

// imported is what became of one account of the organization.
type imported struct {
	*accountv1.OrganizationAccount
	outcome  string // CREATED, UNTOUCHED, LEFT_OUT or REFUSED
	why      string
	verified string // PASSED, FAILED or UNKNOWN; empty when it was not tried
}

func (i *imported) tree() object {
	return object{{"account", i.GetId()}, {"name", i.GetName()}, {"state", name(i.GetState())}, {"outcome", i.outcome}, {"why", i.why}, {"verified", i.verified}, {"role_arn", i.GetRoleArn()}}
}

var importColumns = []column[*imported]{
	{name: "account", head: "Account", text: func(i *imported) string { return i.GetId() }},
	{name: "name", head: "Name", flex: 12, text: func(i *imported) string { return i.GetName() }},
	{name: "state", head: "In the organization", spare: 1, text: func(i *imported) string { return name(i.GetState()) }},
	{name: "outcome", head: "Outcome", text: func(i *imported) string { return strings.ReplaceAll(i.outcome, "_", " ") }, csv: func(i *imported) string { return i.outcome },
		paint: func(i *imported) paint {
			switch i.outcome {
			case "CREATED":
				return green
			case "REFUSED":
				return red
			}
			return yellow
		}},
	{name: "verified", head: "Verified", text: func(i *imported) string { return i.verified }},
	{name: "why", head: "Why", flex: 20, text: func(i *imported) string { return i.why }},
	{name: "role_arn", text: func(i *imported) string { return i.GetRoleArn() }},
}

func (c *cli) accountsImport() *cobra.Command {
	var (
		roleName, externalID, trusted, owner string
		exclude                              []string
		dryRun, verify                       bool
	)
	cmd := &cobra.Command{
		Use: "import", Short: "Onboard every account of the organization", Args: cobra.NoArgs,
		Long: `Lists the organization that Nightshift's own credentials belong to and begins an onboarding for each account in it. Accounts
that are registered stay as they are; accounts that are suspended or closed are left out. All get the same external id, so that one
StackSet makes all roles.`,
		Example: `  nightshift accounts import --role-name NightshiftReadOnly --exclude 123456789012,sandbox --dry-run
  nightshift accounts import --role-name 'audit/nightshift-{account}' --verify`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			items, err := c.organization(ctx, roleName)
			if err != nil {
				return err
			}
			if err := leaveOut(items, exclude); err != nil {
				return err
			}
			if trusted == "" {
				trusted = c.trustedPrincipal(ctx)
			}
			onboarding, id, err := c.importAll(ctx, items, &accountv1.ImportAccountsRequest{ExternalId: externalID, TrustedPrincipal: trusted, ValidateOnly: dryRun}, owner)
			if err != nil {
				return err
			}
			if verify && !dryRun {
				if err := c.verifyImported(ctx, items); err != nil {
					return err
				}
			}
			p := newPrinter(c, (*imported).tree, importColumns)
			for _, i := range items {
				if err := p.add(i); err != nil {
					return err
				}
			}
			if err := p.close(); err != nil {
				return err
			}
			return c.sayImported(items, onboarding, id, dryRun)
		},
	}
	f := cmd.Flags()
	f.StringVar(&roleName, "role-name", "", "name of the role in each account; {account} stands for its number (default \""+access.DefaultRole+"\")")
	f.StringVar(&externalID, "external-id", "", "external id that all roles demand (default: that of the import before, or a new one)")
	f.StringVar(&trusted, "trusted-principal", "", "who the roles are to trust (default: who Nightshift is to AWS)")
	f.StringVar(&owner, "owner", "", "who answers for the accounts")
	f.StringSliceVar(&exclude, "exclude", nil, "accounts to leave out, by number or name")
	f.BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	f.BoolVar(&verify, "verify", false, "verify each account that is imported")
	return cmd
}

// organization reads all pages.
func (c *cli) organization(ctx context.Context, roleName string) ([]*imported, error) {
	api, err := c.verifications()
	if err != nil {
		return nil, err
	}
	var all []*imported
	req := &accountv1.ListOrganizationAccountsRequest{RoleName: roleName}
	for {
		r, err := api.ListOrganizationAccounts(ctx, req)
		if err != nil {
			return nil, withHint(err, errs.FailedPrecondition, "It takes credentials of the management account, or of a delegated administrator, with organizations:ListAccounts.")
		}
		for _, a := range r.GetAccounts() {
			i := &imported{OrganizationAccount: a}
			if a.GetExcluded() != "" {
				i.outcome, i.why = "LEFT_OUT", a.GetExcluded()
			}
			all = append(all, i)
		}
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			return all, nil
		}
	}
}

// leaveOut takes out what --exclude names. A name that fits none is an error:
// the account it was meant for would be imported.
func leaveOut(items []*imported, exclude []string) error {
	for _, x := range exclude {
		x, fits := strings.TrimSpace(x), false
		for _, i := range items {
			if i.GetId() != x && i.GetName() != x {
				continue
			}
			fits = true
			if i.outcome == "" {
				i.outcome, i.why = "LEFT_OUT", "named by --exclude"
			}
		}
		if !fits {
			return usage("--exclude %q is neither the number nor the name of an account of the organization", x)
		}
	}
	return nil
}

// importAll registers what is not left out, in batches that share an external
// id, and returns one of the onboardings and that id.
func (c *cli) importAll(ctx context.Context, items []*imported, req *accountv1.ImportAccountsRequest, owner string) (some *accountv1.Onboarding, id string, err error) {
	api, err := c.onboardings()
	if err != nil {
		return nil, "", err
	}
	wanted := slices.DeleteFunc(slices.Clone(items), func(i *imported) bool { return i.outcome != "" })
	for batch := range slices.Chunk(wanted, importBatch) {
		req.Accounts = nil
		for _, i := range batch {
			req.Accounts = append(req.Accounts, &accountv1.Account{Id: i.GetId(), Name: i.GetName(), Partition: i.GetPartition(), RoleArn: i.GetRoleArn(), Owner: owner})
		}
		r, err := api.ImportAccounts(ctx, req)
		if err != nil {
			return nil, "", err
		}
		if r.GetExternalId() != "" {
			id = r.GetExternalId()
			req.ExternalId = id
		}
		if len(r.GetResults()) != len(batch) {
			return nil, "", fmt.Errorf("%d results for %d accounts", len(r.GetResults()), len(batch))
		}
		for n, x := range r.GetResults() {
			batch[n].outcome, batch[n].why = name(x.GetOutcome()), x.GetError()
			if x.GetOutcome() == accountv1.ImportOutcome_IMPORT_OUTCOME_UNTOUCHED {
				batch[n].why = "registered before"
			}
			if x.GetOnboarding() != nil {
				some = x.GetOnboarding()
			}
		}
	}
	return some, id, nil
}

// verifyImported verifies what has just been imported.
func (c *cli) verifyImported(ctx context.Context, items []*imported) error {
	created := slices.DeleteFunc(slices.Clone(items), func(i *imported) bool { return i.outcome != "CREATED" })
	var ids []string
	for _, i := range created {
		ids = append(ids, i.GetId())
	}
	found, failed, err := c.verifyAll(ctx, ids)
	if err != nil {
		return err
	}
	for n, i := range created {
		if i.verified, i.why = name(found[n].GetOutcome()), wrongWith(found[n]); failed[n] != nil {
			i.verified, i.why = "UNKNOWN", failed[n].Error()
		}
	}
	return nil
}

// sayImported sums up on stderr, says how to make the roles, and decides how
// the command ends.
func (c *cli) sayImported(items []*imported, some *accountv1.Onboarding, externalID string, dryRun bool) error {
	counts, failed, verified := map[string]int64{}, int64(0), false
	for _, i := range items {
		counts[i.outcome]++
		if i.verified != "" {
			verified = true
			if i.verified != "PASSED" {
				failed++
			}
		}
	}
	would := ""
	if dryRun {
		would = "would be "
	}
	c.say("%s %simported, %s registered before, %s left out, %s refused", count(counts["CREATED"]), would, count(counts["UNTOUCHED"]), count(counts["LEFT_OUT"]), count(counts["REFUSED"]))
	if some != nil && (!verified || failed > 0) {
		p := some.GetTemplateParameters()
		trusted := p[access.TrustedPrincipal]
		if trusted == "" {
			trusted = trustUnknown
		}
		role := fmt.Sprintf("RoleName=%s RolePath=%s", p[access.RoleName], p[access.RolePath])
		c.say("make the roles with a StackSet of \"nightshift accounts template cloudformation\", in one region, and a stack in the management account, with")
		c.say("  TrustedPrincipal=%s ExternalId=%s %s", clean(trusted), clean(externalID), clean(strings.ReplaceAll(role, some.GetAccount().GetId(), "{account}")))
		c.say("then \"nightshift accounts verify --pending\" tries them")
	}
	switch {
	case counts["REFUSED"] > 0:
		return &exit{exitError, many(counts["REFUSED"], "account", "accounts") + " could not be imported"}
	case failed > 0:
		return &exit{exitPartial, many(failed, "account", "accounts") + " did not verify"}
	}
	return nil
}
