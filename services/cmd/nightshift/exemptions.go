package main

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	exemptionv1 "nightshift.dev/gen/nightshift/exemption/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	"nightshift.dev/pkg/errs"
)

func (c *cli) exemptions() (exemptionv1.ExemptionServiceClient, error) {
	conn, err := c.dial("persistence")
	if err != nil {
		return nil, err
	}
	return exemptionv1.NewExemptionServiceClient(conn), nil
}

func (c *cli) exemptionsCommand() *cobra.Command {
	return group("exemptions", "Accept findings until a day", c.exemptionsList(), c.exemptionsShow(), c.exemptionsAdd(), c.exemptionsUpdate(), c.exemptionsRemove())
}

const noSuchExemption = "\"nightshift exemptions list --expired\" shows the exemptions there are."

var exemptionColumns = []column[*exemptionv1.Exemption]{
	{name: "id", head: "ID", text: (*exemptionv1.Exemption).GetId, paint: func(*exemptionv1.Exemption) paint { return faint }},
	{name: "expire_time", head: "Until", text: func(x *exemptionv1.Exemption) string { return when(x.GetExpireTime()) },
		csv: func(x *exemptionv1.Exemption) string { return stamp(x.GetExpireTime()) },
		paint: func(x *exemptionv1.Exemption) paint {
			if x.GetExpired() {
				return faint
			}
			return yellow
		}},
	{name: "findings", head: "Findings", number: true, text: func(x *exemptionv1.Exemption) string { return count(x.GetFindings()) },
		csv: func(x *exemptionv1.Exemption) string { return strconv.FormatInt(x.GetFindings(), 10) }},
	{name: "by", head: "By", flex: 8, text: (*exemptionv1.Exemption).GetBy},
	{name: "filter", head: "For", flex: 20, text: (*exemptionv1.Exemption).GetFilter},
	{name: "reason", head: "Why", flex: 12, spare: 1, text: (*exemptionv1.Exemption).GetReason},
	{name: "create_time", csv: func(x *exemptionv1.Exemption) string { return stamp(x.GetCreateTime()) }},
	{name: "expired", csv: func(x *exemptionv1.Exemption) string { return strconv.FormatBool(x.GetExpired()) }},
}

func exemptionTree(x *exemptionv1.Exemption) object { return tree(x) }

func (c *cli) printExemption(x *exemptionv1.Exemption) error {
	return printOne(c, x, exemptionTree, exemptionColumns, func() {
		until := fact{"until", when(x.GetExpireTime()), yellow}
		if x.GetExpired() {
			until.text += ", expired"
		}
		c.card(x.GetFilter(),
			fact{name: "why", text: x.GetReason()},
			fact{name: "accepted by", text: x.GetBy()},
			until,
			fact{name: "findings", text: count(x.GetFindings())},
			fact{name: "made", text: when(x.GetCreateTime())},
			fact{name: "id", text: x.GetId()},
			fact{name: "etag", text: x.GetEtag()},
		)
	})
}

func (c *cli) exemptionsList() *cobra.Command {
	var (
		expired bool
		l       limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List exemptions, the one that ends first first", Args: cobra.NoArgs,
		Example: "  nightshift exemptions list\n  nightshift exemptions list --expired -o csv",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.exemptions()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, exemptionTree, exemptionColumns), func(size int32, token string) ([]*exemptionv1.Exemption, string, error) {
				r, err := api.ListExemptions(cmd.Context(), &exemptionv1.ListExemptionsRequest{PageSize: size, PageToken: token, ShowExpired: expired})
				return r.GetExemptions(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no exemptions")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&expired, "expired", false, "also those that have expired")
	l.add(cmd)
	return cmd
}

// exemptionCommand is a command about one exemption.
func (c *cli) exemptionCommand(use, short, example string, run func(ctx context.Context, api exemptionv1.ExemptionServiceClient, id string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: exactly(1, "the id of an exemption"), Example: example,
		ValidArgsFunction: c.completing(c.exemptionIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.exemptions()
			if err != nil {
				return err
			}
			return withHint(run(cmd.Context(), api, args[0]), errs.NotFound, noSuchExemption)
		},
	}
}

func (c *cli) exemptionIDs(ctx context.Context) ([]string, error) {
	api, err := c.exemptions()
	if err != nil {
		return nil, err
	}
	r, err := api.ListExemptions(ctx, &exemptionv1.ListExemptionsRequest{PageSize: 100})
	var out []string
	for _, x := range r.GetExemptions() {
		out = append(out, cobra.CompletionWithDesc(x.GetId(), clean(x.GetFilter())))
	}
	return out, err
}

func (c *cli) exemptionsShow() *cobra.Command {
	cmd := c.exemptionCommand("show", "Show an exemption", "  nightshift exemptions show 3f2a9c01d4e5b677 -o yaml",
		func(ctx context.Context, api exemptionv1.ExemptionServiceClient, id string) error {
			r, err := api.GetExemption(ctx, &exemptionv1.GetExemptionRequest{Id: id})
			if err != nil {
				return err
			}
			return c.printExemption(r.GetExemption())
		})
	cmd.Aliases = []string{"get"}
	return cmd
}

// exemptionFlags are the parts of an exemption that can be changed.
type exemptionFlags struct{ by, reason, until string }

func (f *exemptionFlags) add(cmd *cobra.Command, by string) {
	fl := cmd.Flags()
	fl.StringVar(&f.by, "by", by, "who accepts it")
	fl.StringVar(&f.reason, "reason", "", "why, for whoever asks")
	fl.StringVar(&f.until, "until", "", "when it ends: through a day such as 2027-03-31 (UTC), or after a time such as 90d, 12w or 36h; at most two years")
}

// limits are the flags that say what an exemption is for.
type limits struct {
	rules, accounts, regions, resources, tags, owners []string
	filter                                            string
}

func (f *limits) add(c *cli, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringSliceVar(&f.rules, "rule", nil, "findings of these rules")
	fl.StringSliceVar(&f.accounts, "account", nil, "in these accounts")
	fl.StringSliceVar(&f.regions, "region", nil, "in these regions")
	fl.StringSliceVar(&f.resources, "resource", nil, "on these resources, by id or ARN")
	fl.StringArrayVar(&f.tags, "tag", nil, "on resources with the tag KEY=VALUE; given several times, with all of them")
	fl.StringArrayVar(&f.owners, "owner", nil, "of this owner; may be given several times")
	fl.StringVar(&f.filter, "filter", "", `any other condition, such as 'resource_name:"web" AND NOT tags.Environment = "prod"'`)
	_ = cmd.RegisterFlagCompletionFunc("rule", c.completing(c.ruleIDs))
	_ = cmd.RegisterFlagCompletionFunc("account", c.completing(c.accountIDs))
}

// text is what is to be exempt, in the language of the API.
func (f *limits) text() (string, error) {
	base := findingFilter{rules: f.rules, accounts: f.accounts, regions: f.regions, owners: f.owners}
	first, err := base.text()
	if err != nil {
		return "", err
	}
	var and []string
	if first != "" {
		and = append(and, first)
	}
	if len(f.resources) > 0 {
		or := make([]string, len(f.resources))
		for i, r := range f.resources {
			field := "resource_id"
			if strings.HasPrefix(r, "arn:") {
				field = "resource_arn"
			}
			or[i] = field + " = " + quote(r)
		}
		and = append(and, "("+strings.Join(or, " OR ")+")")
	}
	for _, tag := range f.tags {
		k, v, ok := strings.Cut(tag, "=")
		if !ok || k == "" {
			return "", usage("--tag %q is not like Environment=dev", tag)
		}
		and = append(and, "tags."+quote(k)+" = "+quote(v))
	}
	if f.filter != "" {
		and = append(and, "("+f.filter+")")
	}
	if len(and) == 0 {
		return "", usage("say what is to be exempt: --rule, --account, --region, --resource, --tag, --owner or --filter")
	}
	return strings.Join(and, " AND "), nil
}

var spanOf = regexp.MustCompile(`^([0-9]{1,4})([dw])$`)

// until reads when an exemption ends: a day counts to its end, in UTC.
func (c *cli) until(s string) (*timestamppb.Timestamp, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return timestamppb.New(t.AddDate(0, 0, 1)), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return timestamppb.New(t), nil
	}
	if m := spanOf.FindStringSubmatch(s); m != nil {
		n, _ := strconv.Atoi(m[1]) // digits
		if m[2] == "w" {
			n *= 7
		}
		return timestamppb.New(c.now().Add(time.Duration(n) * 24 * time.Hour)), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return timestamppb.New(c.now().Add(d)), nil
	}
	return nil, usage("--until %q is no day such as 2027-03-31, time as in RFC 3339, or length such as 90d, 12w or 36h", s)
}

func (c *cli) exemptionsAdd() *cobra.Command {
	var (
		f   exemptionFlags
		l   limits
		dry bool
	)
	cmd := &cobra.Command{
		Use: "add", Aliases: []string{"create"}, Short: "Accept findings, present and future, until a day", Args: cobra.NoArgs,
		Long: `Accepts the findings that fit all that is given. They stay visible, in state EXEMPT, and reopen when the exemption ends.
--dry-run lists the open findings it would exempt today.`,
		Example: `  nightshift exemptions add --rule ec2-stopped --tag Environment=dev --reason "parked over the winter" --until 2027-03-31
  nightshift exemptions add --resource i-0abc12345678def01 --rule ec2-public --reason "the bastion" --until 90d --dry-run
  nightshift exemptions add --filter 'rule_id = "required-tags" AND resource_name:"legacy"' --reason "goes away with the migration" --until 26w`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := l.text()
			if err != nil {
				return err
			}
			if f.until == "" || strings.TrimSpace(f.reason) == "" {
				return usage("an exemption needs --reason and --until")
			}
			x := &exemptionv1.Exemption{Filter: filter, By: f.by, Reason: f.reason}
			if x.ExpireTime, err = c.until(f.until); err != nil {
				return err
			}
			api, err := c.exemptions()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			r, err := api.CreateExemption(ctx, &exemptionv1.CreateExemptionRequest{Exemption: x, ValidateOnly: dry})
			if err != nil {
				return err
			}
			if !dry {
				c.say("exempt: %s", many(r.GetExemption().GetFindings(), "finding", "findings"))
				return c.printExemption(r.GetExemption())
			}
			c.say("would be exempt until %s: %s", when(x.GetExpireTime()), many(r.GetExemption().GetFindings(), "finding", "findings"))
			findings, err := c.findings()
			if err != nil {
				return err
			}
			_, err = listAll(ctx, c, -1, newPrinter(c, findingTree, findingColumns), func(size int32, token string) ([]*findingv1.Finding, string, error) {
				r, err := findings.ListFindings(ctx, &findingv1.ListFindingsRequest{PageSize: size, PageToken: token, OrderBy: "monthly_cost desc",
					Filter: `state != "RESOLVED" AND state != "EXEMPT" AND ` + filter})
				return r.GetFindings(), r.GetNextPageToken(), err
			})
			return err
		},
	}
	f.add(cmd, requester())
	l.add(c, cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only list what it would exempt")
	return cmd
}

func (c *cli) exemptionsUpdate() *cobra.Command {
	var (
		f    exemptionFlags
		etag string
	)
	cmd := c.exemptionCommand("update", "Prolong or shorten an exemption, or say otherwise why",
		"  nightshift exemptions update 3f2a9c01d4e5b677 --until 2027-06-30 --reason \"migration is late\"",
		func(ctx context.Context, api exemptionv1.ExemptionServiceClient, id string) error {
			x := &exemptionv1.Exemption{Id: id, Etag: etag, By: f.by, Reason: f.reason}
			var paths []string
			if f.by != "" {
				paths = append(paths, "by")
			}
			if f.reason != "" {
				paths = append(paths, "reason")
			}
			if f.until != "" {
				var err error
				if x.ExpireTime, err = c.until(f.until); err != nil {
					return err
				}
				paths = append(paths, "expire_time")
			}
			if len(paths) == 0 {
				return usage("nothing to change: give --until, --reason or --by")
			}
			r, err := api.UpdateExemption(ctx, &exemptionv1.UpdateExemptionRequest{Exemption: x, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
			if err != nil {
				return withHint(err, errs.Aborted, "Somebody else changed it; \"nightshift exemptions show "+id+"\" shows what it is now.")
			}
			c.say("updated")
			return c.printExemption(r.GetExemption())
		})
	f.add(cmd, "")
	cmd.Flags().StringVar(&etag, "etag", "", "only when the exemption still has this etag")
	return cmd
}

func (c *cli) exemptionsRemove() *cobra.Command {
	var etag string
	cmd := c.exemptionCommand("remove", "Revoke an exemption; its findings reopen", "  nightshift exemptions remove 3f2a9c01d4e5b677",
		func(ctx context.Context, api exemptionv1.ExemptionServiceClient, id string) error {
			if _, err := api.DeleteExemption(ctx, &exemptionv1.DeleteExemptionRequest{Id: id, Etag: etag}); err != nil {
				return err
			}
			c.say("removed exemption %s", clean(id))
			return nil
		})
	cmd.Aliases = []string{"rm", "delete"}
	cmd.Flags().StringVar(&etag, "etag", "", "only when the exemption still has this etag")
	return cmd
}
