package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

func (c *cli) auths() (authv1.AuthServiceClient, error) {
	conn, err := c.dial("persistence")
	if err != nil {
		return nil, err
	}
	return authv1.NewAuthServiceClient(conn), nil
}

func (c *cli) tokensCommand() *cobra.Command {
	return group("tokens", "Decide who may call, and what", c.tokensCreate(), c.tokensList(), c.tokensRevoke())
}

func accountsOr(accounts []string, all string) string {
	if len(accounts) == 0 {
		return all
	}
	return strings.Join(accounts, " ")
}

var tokenColumns = []column[*authv1.Token]{
	{name: "id", head: "ID", text: (*authv1.Token).GetId, paint: func(*authv1.Token) paint { return faint }},
	{name: "name", head: "Name", flex: 8, text: (*authv1.Token).GetName},
	{name: "role", head: "Role", text: func(k *authv1.Token) string { return auth.RoleName(k.GetRole()) }},
	{name: "accounts", head: "Accounts", flex: 12, text: func(k *authv1.Token) string { return accountsOr(k.GetAccounts(), "all") },
		csv: func(k *authv1.Token) string { return strings.Join(k.GetAccounts(), " ") }},
	{name: "expire_time", head: "Until", text: func(k *authv1.Token) string { return tokenEnd(k) }, csv: func(k *authv1.Token) string { return stamp(k.GetExpireTime()) },
		paint: func(k *authv1.Token) paint {
			if k.GetRevokeTime() != nil {
				return faint
			}
			return plainPaint
		}},
	{name: "last_used_time", head: "Last used", text: func(k *authv1.Token) string {
		if k.GetLastUsedTime() == nil {
			return "never"
		}
		return when(k.GetLastUsedTime())
	}, csv: func(k *authv1.Token) string { return stamp(k.GetLastUsedTime()) }},
	{name: "created_by", head: "By", flex: 8, spare: 1, text: (*authv1.Token).GetCreatedBy},
	{name: "create_time", csv: func(k *authv1.Token) string { return stamp(k.GetCreateTime()) }},
	{name: "revoke_time", csv: func(k *authv1.Token) string { return stamp(k.GetRevokeTime()) }},
	{name: "revoked_by", text: (*authv1.Token).GetRevokedBy},
}

func tokenEnd(k *authv1.Token) string {
	if k.GetRevokeTime() != nil {
		return "revoked " + when(k.GetRevokeTime())
	}
	return when(k.GetExpireTime())
}

func tokenTree(k *authv1.Token) object { return tree(k) }

func (c *cli) tokensCreate() *cobra.Command {
	var (
		role, until, out string
		accounts         []string
	)
	cmd := &cobra.Command{
		Use: "create NAME", Aliases: []string{"add"}, Short: "Make a token, and show it once", Args: exactly(1, "who is to bear it"),
		Long: `Makes a token and prints it to stdout, alone, or into the file of --out, which only its owner can read. It is shown this once:
Nightshift keeps only a hash. What its bearer does is done under NAME.

Nobody can make a token with more rights than his own.`,
		Example: `  nightshift tokens create ci --role viewer --out ci.token
  nightshift tokens create maria --role operator --account 123456789012 --until 30d
  nightshift tokens create grafana --role viewer --until 2027-03-31 -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, ok := auth.ParseRole(role)
			if !ok {
				return usage("--role %q is not one of viewer, operator, admin", role)
			}
			k := &authv1.Token{Name: args[0], Role: r, Accounts: accounts}
			if until != "" {
				var err error
				if k.ExpireTime, err = c.until(until); err != nil {
					return err
				}
			}
			// Before the token is there: it could not be had again.
			var file *os.File
			if out != "" {
				var err error
				if file, err = os.OpenFile(out, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600); err != nil {
					return err
				}
				defer file.Close()
			}
			api, err := c.auths()
			if err == nil {
				var resp *authv1.CreateTokenResponse
				if resp, err = api.CreateToken(cmd.Context(), &authv1.CreateTokenRequest{Token: k}); err == nil {
					return c.showToken(resp, file)
				}
			}
			if file != nil {
				_ = os.Remove(out)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&role, "role", "viewer", "what it may do: viewer, operator or admin")
	f.StringSliceVar(&accounts, "account", nil, "only in these accounts (default: in all)")
	f.StringVar(&until, "until", "", "when it ends: through a day such as 2027-03-31 (UTC), or after a time such as 90d, 12w or 36h; at most a year (default 90d)")
	f.StringVar(&out, "out", "", "write it into this new file instead of showing it")
	complete(cmd, "role", "viewer", "operator", "admin")
	_ = cmd.RegisterFlagCompletionFunc("account", c.completing(c.accountIDs))
	return cmd
}

// showToken hands a new token over.
func (c *cli) showToken(r *authv1.CreateTokenResponse, file *os.File) error {
	k := r.GetToken()
	if file != nil {
		if _, err := fmt.Fprintln(file, r.GetSecret()); err != nil {
			return err
		}
		c.say("token %s of %s with the role %s, until %s, is in %s", k.GetId(), clean(k.GetName()), auth.RoleName(k.GetRole()), when(k.GetExpireTime()), file.Name())
		if c.output == formatTable {
			return nil
		}
		return printOne(c, k, tokenTree, tokenColumns, nil)
	}
	if c.output == formatTable {
		c.say("token %s of %s with the role %s, until %s; it is shown this once:", k.GetId(), clean(k.GetName()), auth.RoleName(k.GetRole()), when(k.GetExpireTime()))
		c.print("%s\n", r.GetSecret())
		return nil
	}
	secret := column[*authv1.Token]{name: "secret", text: func(*authv1.Token) string { return r.GetSecret() }}
	return printOne(c, k, func(k *authv1.Token) object { return append(tree(k), member{"secret", r.GetSecret()}) }, append([]column[*authv1.Token]{secret}, tokenColumns...), nil)
}

func (c *cli) tokensList() *cobra.Command {
	var (
		ended bool
		l     limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List tokens, the newest first", Args: cobra.NoArgs,
		Example: "  nightshift tokens list\n  nightshift tokens list --ended -o csv",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.auths()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, tokenTree, tokenColumns), func(size int32, token string) ([]*authv1.Token, string, error) {
				r, err := api.ListTokens(cmd.Context(), &authv1.ListTokensRequest{PageSize: size, PageToken: token, ShowEnded: ended})
				return r.GetTokens(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no tokens")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&ended, "ended", false, "also those that have expired or were revoked")
	l.add(cmd)
	return cmd
}

func (c *cli) tokensRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke ID", Aliases: []string{"rm", "delete"}, Short: "End a token for good", Args: exactly(1, "the id of a token"),
		Long:              "Ends a token for good. All services follow within 15 seconds.",
		Example:           "  nightshift tokens revoke 3f2a9c01d4e5b677",
		ValidArgsFunction: c.completing(c.tokenIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.auths()
			if err != nil {
				return err
			}
			r, err := api.RevokeToken(cmd.Context(), &authv1.RevokeTokenRequest{Id: args[0]})
			if err != nil {
				return withHint(err, errs.NotFound, "\"nightshift tokens list\" shows the tokens there are.")
			}
			c.say("revoked the token of %s", clean(r.GetToken().GetName()))
			if c.output == formatTable {
				return nil
			}
			return printOne(c, r.GetToken(), tokenTree, tokenColumns, nil)
		},
	}
	return cmd
}

func (c *cli) tokenIDs(ctx context.Context) ([]string, error) {
	api, err := c.auths()
	if err != nil {
		return nil, err
	}
	r, err := api.ListTokens(ctx, &authv1.ListTokensRequest{PageSize: 100})
	var out []string
	for _, k := range r.GetTokens() {
		out = append(out, cobra.CompletionWithDesc(k.GetId(), clean(k.GetName())))
	}
	return out, err
}
