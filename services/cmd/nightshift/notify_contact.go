package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/errs"
)

func (c *cli) notifyContacts() *cobra.Command {
	return group("contacts", "Where owners hear", c.contactsList(), c.contactsGet(), c.contactsSet(), c.contactsDelete())
}

var contactColumns = []column[*notificationv1.Contact]{
	{name: "owner", head: "Owner", flex: 16, text: (*notificationv1.Contact).GetOwner},
	{name: "receivers", head: "Hears by", flex: 16, text: func(x *notificationv1.Contact) string { return strings.Join(x.GetReceivers(), ", ") },
		csv: func(x *notificationv1.Contact) string { return strings.Join(x.GetReceivers(), " ") }},
	{name: "update_time", head: "Changed", spare: 1, text: func(x *notificationv1.Contact) string { return when(x.GetUpdateTime()) },
		csv: func(x *notificationv1.Contact) string { return stamp(x.GetUpdateTime()) }},
}

func contactTree(x *notificationv1.Contact) object { return tree(x) }

func (c *cli) printContact(x *notificationv1.Contact) error {
	return printOne(c, x, contactTree, contactColumns, func() {
		c.card(x.GetOwner(),
			fact{"hears by", strings.Join(x.GetReceivers(), ", "), bold},
			fact{name: "changed", text: when(x.GetUpdateTime())},
			fact{name: "etag", text: x.GetEtag()},
		)
	})
}

func (c *cli) contactsList() *cobra.Command {
	var l limit
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List contacts by owner", Args: cobra.NoArgs,
		Example: "  nightshift notify contacts list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, contactTree, contactColumns), func(size int32, token string) ([]*notificationv1.Contact, string, error) {
				r, err := api.ListContacts(cmd.Context(), &notificationv1.ListContactsRequest{PageSize: size, PageToken: token})
				return r.GetContacts(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no contacts; owners that are e-mail addresses need none")
			}
			return err
		},
	}
	l.add(cmd)
	return cmd
}

// allContacts are all pages.
func allContacts(ctx context.Context, api notificationv1.NotificationConfigServiceClient) (out []*notificationv1.Contact, err error) {
	for req := (&notificationv1.ListContactsRequest{PageSize: 1000}); ; {
		r, err := api.ListContacts(ctx, req)
		if err != nil {
			return nil, err
		}
		out = append(out, r.GetContacts()...)
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			return out, nil
		}
	}
}

// contact finds the contact of an owner, without regard to case; nil when there
// is none.
func contact(ctx context.Context, api notificationv1.NotificationConfigServiceClient, owner string) (*notificationv1.Contact, error) {
	all, err := allContacts(ctx, api)
	for _, x := range all {
		if strings.EqualFold(x.GetOwner(), strings.TrimSpace(owner)) {
			return x, nil
		}
	}
	return nil, err
}

// contactCommand is a command about the contact of one owner.
func (c *cli) contactCommand(use, short, example string, run func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, owner string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " OWNER", Short: short, Args: exactly(1, "an owner as findings have it"), Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			return withHint(withHint(run(cmd.Context(), api, args[0]), errs.NotFound, "\"nightshift notify contacts list\" shows the contacts there are."), errs.Aborted, changedSince)
		},
	}
}

func (c *cli) contactsGet() *cobra.Command {
	cmd := c.contactCommand("get", "Show where an owner hears", "  nightshift notify contacts get team-web",
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, owner string) error {
			x, err := contact(ctx, api, owner)
			if err != nil {
				return err
			}
			if x == nil {
				return errs.New(errs.NotFound, "CONTACT_NOT_FOUND", "owner %s has no contact", owner)
			}
			return c.printContact(x)
		})
	cmd.Aliases = []string{"show"}
	return cmd
}

func (c *cli) contactsSet() *cobra.Command {
	var receivers []string
	cmd := c.contactCommand("set", "Say where an owner hears", "  nightshift notify contacts set team-web --receiver web-slack,web-mail",
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, owner string) error {
			if len(receivers) == 0 {
				return usage("say where the owner hears: --receiver")
			}
			r, err := api.SetContact(ctx, &notificationv1.SetContactRequest{Contact: &notificationv1.Contact{Owner: owner, Receivers: receivers}})
			if err != nil {
				return err
			}
			c.say("set")
			return c.printContact(r.GetContact())
		})
	cmd.Flags().StringSliceVar(&receivers, "receiver", nil, "receivers")
	_ = cmd.RegisterFlagCompletionFunc("receiver", c.completing(c.receiverNames))
	return cmd
}

func (c *cli) contactsDelete() *cobra.Command {
	cmd := c.contactCommand("delete", "Forget where an owner hears", "  nightshift notify contacts delete team-web",
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, owner string) error {
			if _, err := api.DeleteContact(ctx, &notificationv1.DeleteContactRequest{Owner: owner}); err != nil {
				return err
			}
			c.say("deleted the contact of %s", clean(owner))
			return nil
		})
	cmd.Aliases = []string{"rm", "remove"}
	return cmd
}

// Silences.

func (c *cli) notifySilences() *cobra.Command {
	return group("silences", "What is not told for a while", c.silencesList())
}

var silenceColumns = []column[*notificationv1.Silence]{
	{name: "id", head: "ID", text: (*notificationv1.Silence).GetId, paint: func(*notificationv1.Silence) paint { return faint }},
	{name: "start_time", head: "From", spare: 2, text: func(x *notificationv1.Silence) string { return when(x.GetStartTime()) }, csv: func(x *notificationv1.Silence) string { return stamp(x.GetStartTime()) }},
	{name: "expire_time", head: "Until", text: func(x *notificationv1.Silence) string { return when(x.GetExpireTime()) }, csv: func(x *notificationv1.Silence) string { return stamp(x.GetExpireTime()) }},
	{name: "filter", head: "What", flex: 20, text: (*notificationv1.Silence).GetFilter},
	{name: "author", head: "By", flex: 8, text: (*notificationv1.Silence).GetAuthor},
	{name: "comment", head: "Why", flex: 12, spare: 1, text: (*notificationv1.Silence).GetComment},
}

func silenceTree(x *notificationv1.Silence) object { return tree(x) }

func (c *cli) printSilence(x *notificationv1.Silence) error {
	return printOne(c, x, silenceTree, silenceColumns, func() {
		c.card(x.GetFilter(),
			fact{name: "why", text: x.GetComment()},
			fact{name: "by", text: x.GetAuthor()},
			fact{name: "from", text: when(x.GetStartTime())},
			fact{"until", when(x.GetExpireTime()), yellow},
			fact{name: "id", text: x.GetId()},
		)
	})
}

func (c *cli) silencesList() *cobra.Command {
	var (
		expired bool
		l       limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List silences, those that end last first", Args: cobra.NoArgs,
		Example: "  nightshift notify silences list\n  nightshift notify silences list --expired -o csv",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, silenceTree, silenceColumns), func(size int32, token string) ([]*notificationv1.Silence, string, error) {
				r, err := api.ListSilences(cmd.Context(), &notificationv1.ListSilencesRequest{PageSize: size, PageToken: token, ShowExpired: expired})
				return r.GetSilences(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no silences")
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&expired, "expired", false, "also those that have expired")
	l.add(cmd)
	return cmd
}

func (c *cli) notifySilence() *cobra.Command {
	var span, until, from, comment, filter, author string
	cmd := &cobra.Command{
		Use: "silence", Short: "Keep events from being told for a while", Args: cobra.NoArgs,
		Long: `Keeps events that the filter fits from being told. They are in the log of deliveries, as silenced, and findings stay as they are.
The filter is that of routes.`,
		Example: `  nightshift notify silence --for 4h --comment "moving the shop" --filter 'account = "123456789012"'
  nightshift notify silence --until 2026-12-27 --from 2026-12-24T16:00:00Z --comment "Christmas" --filter 'severity <= "MEDIUM"'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (span == "") == (until == "") {
				return usage("say how long: --for or --until")
			}
			if strings.TrimSpace(filter) == "" || strings.TrimSpace(comment) == "" {
				return usage("a silence needs --filter and --comment")
			}
			x := &notificationv1.Silence{Filter: filter, Comment: comment, Author: author}
			start := c.now()
			if from != "" {
				t, err := c.until(from)
				if err != nil {
					return usage("--from %q is no time as in RFC 3339, day, or length from now such as 2h", from)
				}
				x.StartTime, start = t, t.AsTime()
			}
			if span != "" {
				d, err := parseSpan("--for", span)
				if err != nil {
					return err
				}
				x.ExpireTime = timestamppb.New(start.Add(d.AsDuration()))
			} else {
				var err error
				if x.ExpireTime, err = c.until(until); err != nil {
					return err
				}
			}
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			r, err := api.CreateSilence(cmd.Context(), &notificationv1.CreateSilenceRequest{Silence: x})
			if err != nil {
				return err
			}
			c.say("silent until %s", when(r.GetSilence().GetExpireTime()))
			return c.printSilence(r.GetSilence())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&span, "for", "", "how long, such as 90m, 4h or 7d; at most a year")
	fl.StringVar(&until, "until", "", "or until when: through a day (UTC), or a time as in RFC 3339")
	fl.StringVar(&from, "from", "", "from when on, as in RFC 3339, or a length from now (default: now)")
	fl.StringVar(&filter, "filter", "", `what, such as 'rule_id = "ec2-public" AND owner = "team-web"'`)
	fl.StringVar(&comment, "comment", "", "why, for whoever asks")
	fl.StringVar(&author, "by", requester(), "who wants it; who is known to the server is named by it")
	return cmd
}

func (c *cli) silenceIDs(ctx context.Context) ([]string, error) {
	api, err := c.notifyConfig()
	if err != nil {
		return nil, err
	}
	r, err := api.ListSilences(ctx, &notificationv1.ListSilencesRequest{PageSize: 100})
	var out []string
	for _, x := range r.GetSilences() {
		out = append(out, cobra.CompletionWithDesc(x.GetId(), clean(x.GetFilter())))
	}
	return out, err
}

func (c *cli) notifyExpire() *cobra.Command {
	return &cobra.Command{
		Use: "expire SILENCE", Short: "End a silence now", Args: exactly(1, "the id of a silence"),
		Example:           "  nightshift notify expire 06F3K9QWX4T2Z8V5N1B7R0M6CD",
		ValidArgsFunction: c.completing(c.silenceIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			r, err := api.ExpireSilence(cmd.Context(), &notificationv1.ExpireSilenceRequest{Id: args[0]})
			if err != nil {
				return withHint(err, errs.NotFound, "\"nightshift notify silences list\" shows the silences there are.")
			}
			c.say("ended")
			return c.printSilence(r.GetSilence())
		},
	}
}
