package main

import (
	"context"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/errs"
)

func (c *cli) notifyConfig() (notificationv1.NotificationConfigServiceClient, error) {
	conn, err := c.dial("persistence")
	if err != nil {
		return nil, err
	}
	return notificationv1.NewNotificationConfigServiceClient(conn), nil
}

func (c *cli) notification() (notificationv1.NotificationServiceClient, error) {
	conn, err := c.dial("notification")
	if err != nil {
		return nil, err
	}
	return notificationv1.NewNotificationServiceClient(conn), nil
}

func (c *cli) notifyCommand() *cobra.Command {
	return group("notify", "Say who hears of what, and see what was told",
		c.notifyReceivers(), c.notifyRoutes(), c.notifyContacts(), c.notifySilences(), c.notifySilence(), c.notifyExpire(),
		c.notifyApply(), c.notifyExport(), c.notifyDeliveries(), c.notifyResend(), c.notifyTest(), c.notifyExplain())
}

const (
	noSuchReceiver = "\"nightshift notify receivers list\" shows the receivers there are."
	noSuchRoute    = "\"nightshift notify routes list\" shows the routes there are."
	changedSince   = "Somebody else changed it meanwhile; look at what it is now and try again."
)

func (c *cli) notifyReceivers() *cobra.Command {
	return group("receivers", "Where notifications go to", c.receiversList(), c.receiversGet(), c.receiversSet(), c.receiversDelete())
}

// medium is what a receiver is, and where it goes, without secrets.
func medium(r *notificationv1.Receiver) (kind, to string) {
	switch m := r.GetMedium().(type) {
	case *notificationv1.Receiver_Slack:
		return "slack", m.Slack.GetUrlSecret()
	case *notificationv1.Receiver_Teams:
		return "teams", m.Teams.GetUrlSecret()
	case *notificationv1.Receiver_Pagerduty:
		return "pagerduty", m.Pagerduty.GetRoutingKeySecret()
	case *notificationv1.Receiver_Email:
		return "email", strings.Join(m.Email.GetTo(), ", ")
	case *notificationv1.Receiver_Webhook:
		return "webhook", m.Webhook.GetUrl()
	case *notificationv1.Receiver_Alertmanager:
		return "alertmanager", m.Alertmanager.GetUrl()
	case *notificationv1.Receiver_Shoutrrr:
		return "shoutrrr", m.Shoutrrr.GetUrlSecret()
	}
	return "", ""
}

func mediumKind(r *notificationv1.Receiver) string { kind, _ := medium(r); return kind }
func mediumTo(r *notificationv1.Receiver) string   { _, to := medium(r); return to }

// receiverState is how deliveries to a receiver go, in a word.
func receiverState(r *notificationv1.Receiver) string {
	switch {
	case r.GetPaused():
		return "PAUSED"
	case r.GetHealth().GetBreaker() == notificationv1.BreakerState_BREAKER_STATE_OPEN, r.GetHealth().GetBreaker() == notificationv1.BreakerState_BREAKER_STATE_HALF_OPEN:
		return "FAILING"
	case r.GetHealth().GetBreaker() == 0:
		return "NEW"
	}
	return "OK"
}

func receiverPaint(r *notificationv1.Receiver) paint {
	switch receiverState(r) {
	case "OK":
		return green
	case "FAILING":
		return red
	}
	return yellow
}

var receiverColumns = []column[*notificationv1.Receiver]{
	{name: "name", head: "Receiver", text: (*notificationv1.Receiver).GetName},
	{name: "medium", head: "Medium", text: mediumKind},
	{name: "to", head: "To", flex: 16, text: mediumTo},
	{name: "state", head: "State", text: receiverState, paint: receiverPaint},
	{name: "pending", head: "Pending", number: true, text: func(r *notificationv1.Receiver) string { return count(r.GetHealth().GetPending()) },
		csv: func(r *notificationv1.Receiver) string { return strconv.FormatInt(r.GetHealth().GetPending(), 10) }},
	{name: "last_success_time", head: "Last arrived", spare: 1, text: func(r *notificationv1.Receiver) string { return when(r.GetHealth().GetLastSuccessTime()) },
		csv: func(r *notificationv1.Receiver) string { return stamp(r.GetHealth().GetLastSuccessTime()) }},
	{name: "last_error", head: "Last error", flex: 12, spare: 2, text: func(r *notificationv1.Receiver) string { return r.GetHealth().GetLastError() }},
	{name: "description", text: (*notificationv1.Receiver).GetDescription},
}

func receiverTree(r *notificationv1.Receiver) object { return tree(r) }

func (c *cli) printReceiver(r *notificationv1.Receiver) error {
	return printOne(c, r, receiverTree, receiverColumns, func() {
		h := r.GetHealth()
		failures := ""
		if n := h.GetConsecutiveFailures(); n > 0 {
			failures = many(int64(n), "attempt", "attempts") + " in a row"
		}
		c.card(r.GetName(),
			fact{name: "for", text: r.GetDescription()},
			fact{name: mediumKind(r), text: mediumTo(r)},
			fact{"state", receiverState(r), receiverPaint(r)},
			fact{name: "pending", text: count(h.GetPending())},
			fact{name: "failed", text: failures},
			fact{name: "last error", text: h.GetLastError()},
			fact{name: "tried next", text: when(h.GetRetryTime())},
			fact{name: "last arrived", text: when(h.GetLastSuccessTime())},
			fact{name: "changed", text: when(r.GetUpdateTime())},
			fact{name: "etag", text: r.GetEtag()},
		)
	})
}

func (c *cli) receiversList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List receivers, and how deliveries to them go", Args: cobra.NoArgs,
		Example: "  nightshift notify receivers list\n  nightshift notify receivers list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, 0, newPrinter(c, receiverTree, receiverColumns), func(int32, string) ([]*notificationv1.Receiver, string, error) {
				r, err := api.ListReceivers(cmd.Context(), &notificationv1.ListReceiversRequest{})
				return r.GetReceivers(), "", err
			})
			if err == nil && n == 0 {
				c.say("no receivers; \"nightshift notify receivers set\" makes one")
			}
			return err
		},
	}
}

func (c *cli) receiverNames(ctx context.Context) ([]string, error) {
	api, err := c.notifyConfig()
	if err != nil {
		return nil, err
	}
	r, err := api.ListReceivers(ctx, &notificationv1.ListReceiversRequest{})
	var out []string
	for _, x := range r.GetReceivers() {
		out = append(out, cobra.CompletionWithDesc(x.GetName(), mediumKind(x)))
	}
	return out, err
}

// receiverCommand is a command about one receiver.
func (c *cli) receiverCommand(use, short, example string, run func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, name string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: exactly(1, "the name of a receiver"), Example: example,
		ValidArgsFunction: c.completing(c.receiverNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			return withHint(withHint(run(cmd.Context(), api, args[0]), errs.NotFound, noSuchReceiver), errs.Aborted, changedSince)
		},
	}
}

func (c *cli) receiversGet() *cobra.Command {
	cmd := c.receiverCommand("get", "Show a receiver", "  nightshift notify receivers get oncall -o yaml",
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, name string) error {
			r, err := api.GetReceiver(ctx, &notificationv1.GetReceiverRequest{Name: name})
			if err != nil {
				return err
			}
			return c.printReceiver(r.GetReceiver())
		})
	cmd.Aliases = []string{"show"}
	return cmd
}

// receiverFlags are the parts of a receiver. Secrets are named, not given.
type receiverFlags struct {
	slack, teams, pagerduty, endpoint, webhook, signing, alertmanager, token, shoutrrr, description string
	email                                                                                           []string
	paused                                                                                          bool
}

func (f *receiverFlags) add(cmd *cobra.Command) {
	const ref = ": env:NIGHTSHIFT_SECRET_<NAME> or file:<name>"
	fl := cmd.Flags()
	fl.StringVar(&f.slack, "slack", "", "a Slack channel; where the secret URL of its incoming webhook is"+ref)
	fl.StringVar(&f.teams, "teams", "", "a Teams channel; where the secret URL of its workflow is")
	fl.StringVar(&f.pagerduty, "pagerduty", "", "a PagerDuty service; where its secret routing key is")
	fl.StringVar(&f.endpoint, "endpoint", "", "PagerDuty's, when it is not https://events.pagerduty.com")
	fl.StringSliceVar(&f.email, "email", nil, "mailboxes, such as finops@example.com")
	fl.StringVar(&f.webhook, "webhook", "", "the URL of an HTTP endpoint")
	fl.StringVar(&f.signing, "signing-secret", "", "where the secret is that requests to --webhook are signed with")
	fl.StringVar(&f.alertmanager, "alertmanager", "", "the URL of an Alertmanager, such as http://alertmanager:9093")
	fl.StringVar(&f.token, "token", "", "where the secret bearer token for --alertmanager is")
	fl.StringVar(&f.shoutrrr, "shoutrrr", "", "anything else; where the secret service URL of the shoutrrr library is")
	fl.StringVar(&f.description, "description", "", "what it is for")
	fl.BoolVar(&f.paused, "paused", false, "send nothing, and let wait what comes; --paused=false sends it")
}

var secretRef = regexp.MustCompile(`^(env:NIGHTSHIFT_SECRET_[A-Z0-9_]{1,100}|file:[A-Za-z0-9][A-Za-z0-9._-]{0,99})$`)

// checkSecrets refuses a secret where it is to be said where the secret is. It
// repeats nothing of it.
func checkSecrets(r *notificationv1.Receiver) error {
	for _, ref := range []string{r.GetSlack().GetUrlSecret(), r.GetTeams().GetUrlSecret(), r.GetPagerduty().GetRoutingKeySecret(), r.GetWebhook().GetSigningSecret(),
		r.GetAlertmanager().GetTokenSecret(), r.GetShoutrrr().GetUrlSecret()} {
		if ref != "" && !secretRef.MatchString(ref) {
			return usage("receiver %s: say where the secret is, env:NIGHTSHIFT_SECRET_<NAME> or file:<name>, and not the secret itself", clean(r.GetName()))
		}
	}
	return nil
}

// set takes over what was given.
func (f *receiverFlags) set(cmd *cobra.Command, r *notificationv1.Receiver) error {
	given := cmd.Flags().Changed
	var media []string
	for _, flag := range []string{"slack", "teams", "pagerduty", "email", "webhook", "alertmanager", "shoutrrr"} {
		if given(flag) {
			media = append(media, "--"+flag)
		}
	}
	if len(media) > 1 {
		return usage("a receiver is one thing, not both %s", strings.Join(media, " and "))
	}
	if given("description") {
		r.Description = f.description
	}
	if given("paused") {
		r.Paused = f.paused
	}
	switch {
	case given("slack"):
		r.Medium = &notificationv1.Receiver_Slack{Slack: &notificationv1.Slack{UrlSecret: f.slack}}
	case given("teams"):
		r.Medium = &notificationv1.Receiver_Teams{Teams: &notificationv1.Teams{UrlSecret: f.teams}}
	case given("pagerduty"):
		r.Medium = &notificationv1.Receiver_Pagerduty{Pagerduty: &notificationv1.PagerDuty{RoutingKeySecret: f.pagerduty, Endpoint: r.GetPagerduty().GetEndpoint()}}
	case given("email"):
		r.Medium = &notificationv1.Receiver_Email{Email: &notificationv1.Email{To: f.email}}
	case given("webhook"):
		r.Medium = &notificationv1.Receiver_Webhook{Webhook: &notificationv1.Webhook{Url: f.webhook, SigningSecret: r.GetWebhook().GetSigningSecret()}}
	case given("alertmanager"):
		r.Medium = &notificationv1.Receiver_Alertmanager{Alertmanager: &notificationv1.Alertmanager{Url: f.alertmanager, TokenSecret: r.GetAlertmanager().GetTokenSecret()}}
	case given("shoutrrr"):
		r.Medium = &notificationv1.Receiver_Shoutrrr{Shoutrrr: &notificationv1.Shoutrrr{UrlSecret: f.shoutrrr}}
	case r.GetMedium() == nil:
		return usage("say what the receiver is: --slack, --teams, --pagerduty, --email, --webhook, --alertmanager or --shoutrrr")
	}
	for flag, is := range map[string]bool{"endpoint": r.GetPagerduty() != nil, "signing-secret": r.GetWebhook() != nil, "token": r.GetAlertmanager() != nil} {
		if given(flag) && !is {
			return usage("--%s does not go with a receiver of %s", flag, mediumKind(r))
		}
	}
	if given("endpoint") {
		r.GetPagerduty().Endpoint = f.endpoint
	}
	if given("signing-secret") {
		r.GetWebhook().SigningSecret = f.signing
	}
	if given("token") {
		r.GetAlertmanager().TokenSecret = f.token
	}
	return checkSecrets(r)
}

func (c *cli) receiversSet() *cobra.Command {
	var f receiverFlags
	var cmd *cobra.Command
	cmd = c.receiverCommand("set", "Make a receiver, or change what is given of one",
		`  nightshift notify receivers set oncall --slack env:NIGHTSHIFT_SECRET_SLACK
  nightshift notify receivers set pager --pagerduty file:pagerduty --endpoint https://events.eu.pagerduty.com
  nightshift notify receivers set finops --email finops@example.com,cfo@example.com --description "who pays"
  nightshift notify receivers set siem --webhook https://siem.example.com/nightshift --signing-secret env:NIGHTSHIFT_SECRET_SIEM
  nightshift notify receivers set oncall --paused`,
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, name string) error {
			was, err := api.GetReceiver(ctx, &notificationv1.GetReceiverRequest{Name: name})
			made := isNotFound(err)
			if err != nil && !made {
				return err
			}
			r := was.GetReceiver()
			if made {
				r = &notificationv1.Receiver{Name: name}
			}
			if err := f.set(cmd, r); err != nil {
				return err
			}
			set, err := api.SetReceiver(ctx, &notificationv1.SetReceiverRequest{Receiver: r, CreateOnly: made})
			if err != nil {
				return err
			}
			c.sayMade(made)
			return c.printReceiver(set.GetReceiver())
		})
	cmd.Long = `Makes a receiver, or changes what is given of one that there is. Secrets are never given here: the notification service reads
them from its own environment (env:NIGHTSHIFT_SECRET_<NAME>) or from a file in its NIGHTSHIFT_SECRETS_DIR (file:<name>).`
	f.add(cmd)
	return cmd
}

func (c *cli) sayMade(made bool) {
	if made {
		c.say("made")
	} else {
		c.say("changed")
	}
}

func (c *cli) receiversDelete() *cobra.Command {
	var etag string
	cmd := c.receiverCommand("delete", "Delete a receiver and what waits for it", "  nightshift notify receivers delete oncall",
		func(ctx context.Context, api notificationv1.NotificationConfigServiceClient, name string) error {
			r, err := api.DeleteReceiver(ctx, &notificationv1.DeleteReceiverRequest{Name: name, Etag: etag})
			if err != nil {
				return err
			}
			c.say("deleted receiver %s, and %s that waited", clean(name), many(r.GetDroppedDeliveries(), "delivery", "deliveries"))
			return nil
		})
	cmd.Aliases = []string{"rm", "remove"}
	cmd.Flags().StringVar(&etag, "etag", "", "only when the receiver still has this etag")
	return cmd
}
