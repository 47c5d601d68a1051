package main

import (
	"cmp"

	"github.com/spf13/cobra"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/auth"
)

var whoColumns = []column[*authv1.WhoAmIResponse]{
	{name: "kind", text: (*authv1.WhoAmIResponse).GetKind},
	{name: "name", text: (*authv1.WhoAmIResponse).GetName},
	{name: "id", text: (*authv1.WhoAmIResponse).GetId},
	{name: "role", text: func(w *authv1.WhoAmIResponse) string { return auth.RoleName(w.GetRole()) }},
	{name: "accounts", text: func(w *authv1.WhoAmIResponse) string { return accountsOr(w.GetAccounts(), "") }},
	{name: "expire_time", csv: func(w *authv1.WhoAmIResponse) string { return stamp(w.GetExpireTime()) }},
}

func (c *cli) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Say who you are to Nightshift, and what you may do", Args: cobra.NoArgs,
		Example: "  nightshift whoami\n  nightshift whoami -o json | jq -r .role",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.auths()
			if err != nil {
				return err
			}
			w, err := api.WhoAmI(cmd.Context(), &authv1.WhoAmIRequest{})
			if err != nil {
				return err
			}
			return printOne(c, w, func(w *authv1.WhoAmIResponse) object { return tree(w) }, whoColumns, func() {
				facts := []fact{{name: "known by", text: map[string]string{
					"token": "API token", "oidc": "identity provider", "service": "certificate", "anonymous": "nothing: here nobody has to say who he is",
				}[w.GetKind()]}, {name: "role", text: auth.RoleName(w.GetRole())}, {name: "accounts", text: accountsOr(w.GetAccounts(), "all")}}
				if w.GetId() != "" {
					facts = append(facts, fact{name: "id", text: w.GetId()})
				}
				if w.GetExpireTime() != nil {
					facts = append(facts, fact{name: "until", text: when(w.GetExpireTime())})
				}
				c.card(cmp.Or(w.GetName(), "nobody known"), facts...)
			})
		},
	}
}
