package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	"nightshift.dev/pkg/errs"
)

func (c *cli) accounts() (accountv1.AccountServiceClient, error) {
	conn, err := c.dial("persistence")
	if err != nil {
		return nil, err
	}
	return accountv1.NewAccountServiceClient(conn), nil
}

func (c *cli) accountsCommand() *cobra.Command {
	return group("accounts", "Manage the AWS accounts that are looked after", c.accountsList(), c.accountsGet(), c.accountsAdd(), c.accountsUpdate(), c.accountsRemove(),
		c.accountsOnboard(), c.accountsVerify(), c.accountsImport(), c.accountsOnboardings(), c.accountsTemplate(),
		c.accountsState("suspend", "Leave an account out of runs; its findings stay as they are", "suspended; \"nightshift accounts resume\" takes it up again", accountv1.AccountState_ACCOUNT_STATE_SUSPENDED),
		c.accountsState("resume", "Look at a suspended account again", "resumed; the next run looks at it", accountv1.AccountState_ACCOUNT_STATE_ACTIVE))
}

const noSuchAccount = "\"nightshift accounts list\" shows the accounts there are."

var accountColumns = []column[*accountv1.Account]{
	{name: "id", head: "Account", text: (*accountv1.Account).GetId},
	{name: "name", head: "Name", flex: 12, text: (*accountv1.Account).GetName},
	{name: "state", head: "State", text: func(a *accountv1.Account) string { return name(a.GetState()) },
		paint: func(a *accountv1.Account) paint {
			if a.GetState() == accountv1.AccountState_ACCOUNT_STATE_ACTIVE {
				return green
			}
			return yellow
		}},
	{name: "partition", text: (*accountv1.Account).GetPartition},
	{name: "regions", head: "Regions", flex: 10, csv: func(a *accountv1.Account) string { return strings.Join(a.GetRegions(), " ") },
		text: func(a *accountv1.Account) string {
			if len(a.GetRegions()) == 0 {
				return "all enabled"
			}
			return strings.Join(a.GetRegions(), " ")
		}},
	{name: "role_arn", head: "Role", flex: 16, csv: (*accountv1.Account).GetRoleArn,
		text: func(a *accountv1.Account) string {
			if a.GetRoleArn() == "" {
				return "(ambient credentials)"
			}
			return a.GetRoleArn()
		}},
	{name: "external_id", text: (*accountv1.Account).GetExternalId},
	{name: "owner", head: "Owner", flex: 8, spare: 1, text: (*accountv1.Account).GetOwner},
	{name: "labels", text: func(a *accountv1.Account) string { return pairs(a.GetLabels()) }},
	{name: "verify_time", text: func(a *accountv1.Account) string { return stamp(a.GetVerifyTime()) }},
}

func accountTree(a *accountv1.Account) object { return tree(a) }

func (c *cli) printAccount(a *accountv1.Account) error {
	return printOne(c, a, accountTree, accountColumns, func() {
		c.card(a.GetId(),
			fact{name: "name", text: a.GetName()},
			fact{name: "state", text: name(a.GetState())},
			fact{name: "owner", text: a.GetOwner()},
			fact{name: "partition", text: a.GetPartition()},
			fact{name: "role", text: accountColumns[5].text(a)},
			fact{name: "external id", text: a.GetExternalId()},
			fact{name: "regions", text: accountColumns[4].text(a)},
			fact{name: "labels", text: pairs(a.GetLabels())},
			fact{name: "verified", text: when(a.GetVerifyTime())},
			fact{name: "changed", text: when(a.GetUpdateTime())},
			fact{name: "etag", text: a.GetEtag()},
		)
	})
}

func (c *cli) accountsList() *cobra.Command {
	var (
		filter string
		l      limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the accounts", Args: cobra.NoArgs,
		Example: "  nightshift accounts list\n  nightshift accounts list --filter 'state = \"ACTIVE\"' -o csv",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.accounts()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, accountTree, accountColumns), func(size int32, token string) ([]*accountv1.Account, string, error) {
				r, err := api.ListAccounts(cmd.Context(), &accountv1.ListAccountsRequest{PageSize: size, PageToken: token, Filter: filter})
				return r.GetAccounts(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no accounts; \"nightshift accounts add\" registers one")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&filter, "filter", "", "condition on id, name, state and owner, such as 'state = \"ACTIVE\"'")
	l.add(cmd)
	return cmd
}

// accountCommand is a command about one account.
func (c *cli) accountCommand(use, short, example string, run func(ctx context.Context, api accountv1.AccountServiceClient, id string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " ACCOUNT", Short: short, Args: exactly(1, "the 12-digit number of an account"), Example: example,
		ValidArgsFunction: c.completing(c.accountIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.accounts()
			if err != nil {
				return err
			}
			return withHint(run(cmd.Context(), api, args[0]), errs.NotFound, noSuchAccount)
		},
	}
}

func (c *cli) accountsGet() *cobra.Command {
	cmd := c.accountCommand("get", "Show an account", "  nightshift accounts get 123456789012 -o yaml",
		func(ctx context.Context, api accountv1.AccountServiceClient, id string) error {
			r, err := api.GetAccount(ctx, &accountv1.GetAccountRequest{Id: id})
			if err != nil {
				return err
			}
			return c.printAccount(r.GetAccount())
		})
	cmd.Aliases = []string{"show"}
	return cmd
}

// accountFlags are the parts of an account that a person sets.
type accountFlags struct {
	name, partition, role, externalID, owner, state string
	regions                                         []string
	labels                                          map[string]string
}

func (f *accountFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "name for people")
	fl.StringVar(&f.role, "role-arn", "", "read-only role to assume; none: the scanning service's own credentials")
	fl.StringVar(&f.externalID, "external-id", "", "external id the role demands; none, with a role: the server chooses one")
	fl.StringSliceVar(&f.regions, "regions", nil, "regions to scan; none: every enabled one")
	fl.StringVar(&f.owner, "owner", "", "who answers for the account")
	fl.StringVar(&f.partition, "partition", "", "aws, aws-cn or aws-us-gov")
	fl.StringToStringVar(&f.labels, "label", nil, "label NAME=VALUE; may be given several times")
	fl.StringVar(&f.state, "state", "", "active, or suspended to leave it out of runs")
	complete(cmd, "state", "active", "suspended")
	complete(cmd, "partition", "aws", "aws-cn", "aws-us-gov")
}

func (f *accountFlags) fill(cmd *cobra.Command, a *accountv1.Account) (fields []string, err error) {
	for _, x := range []struct {
		flag, field string
		set         func()
	}{
		{"name", "name", func() { a.Name = f.name }},
		{"partition", "partition", func() { a.Partition = f.partition }},
		{"role-arn", "role_arn", func() { a.RoleArn = f.role }},
		{"external-id", "external_id", func() { a.ExternalId = f.externalID }},
		{"regions", "regions", func() { a.Regions = f.regions }},
		{"owner", "owner", func() { a.Owner = f.owner }},
		{"label", "labels", func() { a.Labels = f.labels }},
		{"state", "state", func() {
			a.State = accountv1.AccountState(accountv1.AccountState_value["ACCOUNT_STATE_"+strings.ToUpper(f.state)])
		}},
	} {
		if cmd.Flags().Changed(x.flag) {
			x.set()
			fields = append(fields, x.field)
		}
	}
	if cmd.Flags().Changed("state") && a.GetState() == 0 {
		return nil, usage("--state %q is not active or suspended", f.state)
	}
	return fields, nil
}

func (c *cli) accountsAdd() *cobra.Command {
	var f accountFlags
	cmd := &cobra.Command{
		Use: "add ACCOUNT", Aliases: []string{"create"}, Short: "Register an account", Args: exactly(1, "the 12-digit number of the account"),
		Example: `  nightshift accounts add 123456789012 --name production --role-arn arn:aws:iam::123456789012:role/NightshiftReadOnly --external-id ns-1f2e3d
  nightshift accounts add 123456789012 --regions us-east-1,eu-west-1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a := &accountv1.Account{Id: args[0]}
			if _, err := f.fill(cmd, a); err != nil {
				return err
			}
			api, err := c.accounts()
			if err != nil {
				return err
			}
			r, err := api.CreateAccount(cmd.Context(), &accountv1.CreateAccountRequest{Account: a})
			if err != nil {
				return withHint(err, errs.AlreadyExists, "\"nightshift accounts update\" changes it.")
			}
			c.say("registered; the next run looks at it, and \"nightshift accounts verify %s\" tries whether it can", a.GetId())
			return c.printAccount(r.GetAccount())
		},
	}
	f.add(cmd)
	return cmd
}

func (c *cli) accountsUpdate() *cobra.Command {
	var (
		f    accountFlags
		etag string
	)
	var cmd *cobra.Command
	cmd = c.accountCommand("update", "Change what is given of an account, and leave the rest", "  nightshift accounts update 123456789012 --state suspended",
		func(ctx context.Context, api accountv1.AccountServiceClient, id string) error {
			a := &accountv1.Account{Id: id, Etag: etag}
			fields, err := f.fill(cmd, a)
			if err != nil {
				return err
			}
			if len(fields) == 0 {
				return usage("nothing to change: give --name, --role-arn, --external-id, --regions, --owner, --partition, --label or --state")
			}
			r, err := api.UpdateAccount(ctx, &accountv1.UpdateAccountRequest{Account: a, UpdateMask: &fieldmaskpb.FieldMask{Paths: fields}})
			if err != nil {
				return withHint(err, errs.Aborted, "Somebody else changed it; \"nightshift accounts get "+id+"\" shows what it is now.")
			}
			c.say("updated")
			return c.printAccount(r.GetAccount())
		})
	f.add(cmd)
	cmd.Flags().StringVar(&etag, "etag", "", "only when the account still has this etag")
	return cmd
}

func (c *cli) accountsRemove() *cobra.Command {
	var etag string
	cmd := c.accountCommand("remove", "Take an account out of runs; its findings stay", "  nightshift accounts remove 123456789012",
		func(ctx context.Context, api accountv1.AccountServiceClient, id string) error {
			if _, err := api.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: id, Etag: etag}); err != nil {
				return err
			}
			c.say("removed account %s", id)
			return nil
		})
	cmd.Aliases = []string{"rm", "delete"}
	cmd.Flags().StringVar(&etag, "etag", "", "only when the account still has this etag")
	return cmd
}

func (c *cli) accountIDs(ctx context.Context) ([]string, error) {
	api, err := c.accounts()
	if err != nil {
		return nil, err
	}
	r, err := api.ListAccounts(ctx, &accountv1.ListAccountsRequest{PageSize: 1000})
	var out []string
	for _, a := range r.GetAccounts() {
		out = append(out, cobra.CompletionWithDesc(a.GetId(), clean(a.GetName())))
	}
	return out, err
}
