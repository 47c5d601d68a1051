package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/errs"
)

// notifyFile is who hears of what, as a file says it. A part that is missing is
// not looked after by the file.
type notifyFile struct {
	Receivers []receiverSpec `yaml:"receivers"`
	Routes    []routeSpec    `yaml:"routes"`
	Contacts  []contactSpec  `yaml:"contacts"`
}

type receiverSpec struct {
	Name         string            `yaml:"name"`
	Description  string            `yaml:"description,omitempty"`
	Slack        *secretURLSpec    `yaml:"slack,omitempty"`
	Teams        *secretURLSpec    `yaml:"teams,omitempty"`
	PagerDuty    *pagerDutySpec    `yaml:"pagerduty,omitempty"`
	Email        *emailSpec        `yaml:"email,omitempty"`
	Webhook      *webhookSpec      `yaml:"webhook,omitempty"`
	Alertmanager *alertmanagerSpec `yaml:"alertmanager,omitempty"`
	Shoutrrr     *secretURLSpec    `yaml:"shoutrrr,omitempty"`
	Paused       bool              `yaml:"paused,omitempty"`
}

type secretURLSpec struct {
	URLSecret string `yaml:"url_secret"`
}

type pagerDutySpec struct {
	RoutingKeySecret string `yaml:"routing_key_secret"`
	Endpoint         string `yaml:"endpoint,omitempty"`
}

type emailSpec struct {
	To []string `yaml:"to"`
}

type webhookSpec struct {
	URL           string `yaml:"url"`
	SigningSecret string `yaml:"signing_secret"`
}

type alertmanagerSpec struct {
	URL         string `yaml:"url"`
	TokenSecret string `yaml:"token_secret,omitempty"`
}

type routeSpec struct {
	Name               string   `yaml:"name"`
	Description        string   `yaml:"description,omitempty"`
	Position           int32    `yaml:"position,omitempty"`
	Filter             string   `yaml:"filter,omitempty"`
	Receivers          []string `yaml:"receivers,omitempty"`
	ToOwner            bool     `yaml:"to_owner,omitempty"`
	Proceed            bool     `yaml:"proceed,omitempty"`
	GroupBy            []string `yaml:"group_by,omitempty"`
	GroupWait          string   `yaml:"group_wait,omitempty"`
	GroupInterval      string   `yaml:"group_interval,omitempty"`
	RepeatInterval     string   `yaml:"repeat_interval,omitempty"`
	QuietHours         []string `yaml:"quiet_hours,omitempty"`
	QuietBelow         string   `yaml:"quiet_below,omitempty"`
	Digest             string   `yaml:"digest,omitempty"`
	MaxMessagesPerHour int32    `yaml:"max_messages_per_hour,omitempty"`
	Paused             bool     `yaml:"paused,omitempty"`
}

type contactSpec struct {
	Owner     string   `yaml:"owner"`
	Receivers []string `yaml:"receivers"`
}

func (s *receiverSpec) proto() (*notificationv1.Receiver, error) {
	r := &notificationv1.Receiver{Name: s.Name, Description: s.Description, Paused: s.Paused}
	media := 0
	if x := s.Slack; x != nil {
		media++
		r.Medium = &notificationv1.Receiver_Slack{Slack: &notificationv1.Slack{UrlSecret: x.URLSecret}}
	}
	if x := s.Teams; x != nil {
		media++
		r.Medium = &notificationv1.Receiver_Teams{Teams: &notificationv1.Teams{UrlSecret: x.URLSecret}}
	}
	if x := s.PagerDuty; x != nil {
		media++
		r.Medium = &notificationv1.Receiver_Pagerduty{Pagerduty: &notificationv1.PagerDuty{RoutingKeySecret: x.RoutingKeySecret, Endpoint: x.Endpoint}}
	}
	if x := s.Email; x != nil {
		media++
		r.Medium = &notificationv1.Receiver_Email{Email: &notificationv1.Email{To: x.To}}
	}
	if x := s.Webhook; x != nil {
		media++
		r.Medium = &notificationv1.Receiver_Webhook{Webhook: &notificationv1.Webhook{Url: x.URL, SigningSecret: x.SigningSecret}}
	}
	if x := s.Alertmanager; x != nil {
		media++
		r.Medium = &notificationv1.Receiver_Alertmanager{Alertmanager: &notificationv1.Alertmanager{Url: x.URL, TokenSecret: x.TokenSecret}}
	}
	if x := s.Shoutrrr; x != nil {
		media++
		r.Medium = &notificationv1.Receiver_Shoutrrr{Shoutrrr: &notificationv1.Shoutrrr{UrlSecret: x.URLSecret}}
	}
	if media != 1 {
		return nil, usage("receiver %q must have one of slack, teams, pagerduty, email, webhook, alertmanager and shoutrrr; it has %d", s.Name, media)
	}
	return r, checkSecrets(r)
}

func receiverSpecOf(r *notificationv1.Receiver) receiverSpec {
	s := receiverSpec{Name: r.GetName(), Description: r.GetDescription(), Paused: r.GetPaused()}
	switch m := r.GetMedium().(type) {
	case *notificationv1.Receiver_Slack:
		s.Slack = &secretURLSpec{m.Slack.GetUrlSecret()}
	case *notificationv1.Receiver_Teams:
		s.Teams = &secretURLSpec{m.Teams.GetUrlSecret()}
	case *notificationv1.Receiver_Pagerduty:
		s.PagerDuty = &pagerDutySpec{m.Pagerduty.GetRoutingKeySecret(), m.Pagerduty.GetEndpoint()}
	case *notificationv1.Receiver_Email:
		s.Email = &emailSpec{m.Email.GetTo()}
	case *notificationv1.Receiver_Webhook:
		s.Webhook = &webhookSpec{m.Webhook.GetUrl(), m.Webhook.GetSigningSecret()}
	case *notificationv1.Receiver_Alertmanager:
		s.Alertmanager = &alertmanagerSpec{m.Alertmanager.GetUrl(), m.Alertmanager.GetTokenSecret()}
	case *notificationv1.Receiver_Shoutrrr:
		s.Shoutrrr = &secretURLSpec{m.Shoutrrr.GetUrlSecret()}
	}
	return s
}

func (s *routeSpec) proto() (*notificationv1.Route, error) {
	r := &notificationv1.Route{
		Name: s.Name, Description: s.Description, Position: s.Position, Filter: strings.TrimSpace(s.Filter), Receivers: s.Receivers, ToOwner: s.ToOwner, Proceed: s.Proceed,
		GroupBy: s.GroupBy, MaxMessagesPerHour: s.MaxMessagesPerHour, Paused: s.Paused,
	}
	in := func(err error) error { return fmt.Errorf("route %q: %w", s.Name, err) }
	for _, x := range []struct {
		name, text string
		into       **durationpb.Duration
	}{{"group_wait", s.GroupWait, &r.GroupWait}, {"group_interval", s.GroupInterval, &r.GroupInterval}, {"repeat_interval", s.RepeatInterval, &r.RepeatInterval}} {
		if x.text == "" {
			continue
		}
		d, err := parseSpan(x.name, x.text)
		if err != nil {
			return nil, in(err)
		}
		*x.into = d
	}
	for _, text := range s.QuietHours {
		q, err := parseQuiet(text)
		if err != nil {
			return nil, in(err)
		}
		r.QuietHours = append(r.QuietHours, q)
	}
	var err error
	if s.QuietBelow != "" {
		if r.QuietBelow, err = parseSeverity("quiet_below", s.QuietBelow); err != nil {
			return nil, in(err)
		}
	}
	if s.Digest != "" {
		if r.Digest, err = parseDigest(s.Digest); err != nil {
			return nil, in(err)
		}
	}
	return r, nil
}

func routeSpecOf(r *notificationv1.Route) routeSpec {
	s := routeSpec{
		Name: r.GetName(), Description: r.GetDescription(), Position: r.GetPosition(), Filter: r.GetFilter(), Receivers: r.GetReceivers(), ToOwner: r.GetToOwner(), Proceed: r.GetProceed(),
		GroupBy: r.GetGroupBy(), GroupWait: spanText(r.GetGroupWait()), GroupInterval: spanText(r.GetGroupInterval()), RepeatInterval: spanText(r.GetRepeatInterval()),
		QuietBelow: strings.TrimPrefix(rulev1.Severity_name[int32(r.GetQuietBelow())], "SEVERITY_"), Digest: digestText(r.GetDigest()), MaxMessagesPerHour: r.GetMaxMessagesPerHour(), Paused: r.GetPaused(),
	}
	if r.GetQuietBelow() == 0 {
		s.QuietBelow = ""
	}
	for _, q := range r.GetQuietHours() {
		s.QuietHours = append(s.QuietHours, quietText(q))
	}
	return s
}

// readNotifyFile reads a file, or standard input when it is "-".
func (c *cli) readNotifyFile(path string) (*notifyFile, error) {
	var (
		text []byte
		err  error
	)
	if path == "-" {
		text, err = io.ReadAll(os.Stdin)
	} else {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	return parseNotifyFile(path, text)
}

func parseNotifyFile(path string, text []byte) (*notifyFile, error) {
	f := &notifyFile{}
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(f); err != nil && err != io.EOF {
		return nil, usage("%s cannot be read: %s", path, strings.TrimSpace(yaml.FormatError(err, false, false)))
	}
	seen := map[string]bool{}
	once := func(what, name string) error {
		if name == "" {
			return usage("%s: a %s has no name", path, what)
		}
		if seen[what+" "+strings.ToLower(name)] {
			return usage("%s: %s %q is there twice", path, what, name)
		}
		seen[what+" "+strings.ToLower(name)] = true
		return nil
	}
	for _, r := range f.Receivers {
		if err := once("receiver", r.Name); err != nil {
			return nil, err
		}
	}
	for _, r := range f.Routes {
		if err := once("route", r.Name); err != nil {
			return nil, err
		}
	}
	for _, x := range f.Contacts {
		if err := once("contact", x.Owner); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// notifyChange is what applying a file does to one thing.
type notifyChange struct {
	kind, name, outcome, what string // outcome: MADE, CHANGED, DELETED or UNCHANGED
	do                        func(ctx context.Context) error
}

func (x *notifyChange) tree() object {
	return object{{"kind", x.kind}, {"name", x.name}, {"outcome", x.outcome}, {"what", x.what}}
}

var notifyChangeColumns = []column[*notifyChange]{
	{name: "kind", head: "Kind", text: func(x *notifyChange) string { return x.kind }},
	{name: "name", head: "Name", flex: 16, text: func(x *notifyChange) string { return x.name }},
	{name: "outcome", head: "Outcome", text: func(x *notifyChange) string { return x.outcome }, paint: func(x *notifyChange) paint {
		switch x.outcome {
		case "MADE":
			return green
		case "DELETED":
			return red
		case "CHANGED":
			return yellow
		}
		return faint
	}},
	{name: "what", head: "What", flex: 20, text: func(x *notifyChange) string { return x.what }},
}

// differs says which fields of a are others in b; empty: none.
func differs(a, b proto.Message) string {
	var out []string
	from, to := tree(a), tree(b)
	text := func(v any) string {
		s := string(appendJSON(nil, v, "", ""))
		if s == `""` || s == "[]" || s == "null" || s == "false" {
			return "nothing"
		}
		return clip(s, 60)
	}
	for i, m := range from {
		was, is := text(m.value), text(to[i].value)
		if string(appendJSON(nil, m.value, "", "")) != string(appendJSON(nil, to[i].value, "", "")) {
			out = append(out, m.name+": "+was+" → "+is)
		}
	}
	return strings.Join(out, "; ")
}

// planNotify says what is to be done so that what is there is as the file says.
func planNotify(ctx context.Context, api notificationv1.NotificationConfigServiceClient, f *notifyFile, prune bool) ([]*notifyChange, error) {
	receivers, err := api.ListReceivers(ctx, &notificationv1.ListReceiversRequest{})
	if err != nil {
		return nil, err
	}
	routes, err := api.ListRoutes(ctx, &notificationv1.ListRoutesRequest{})
	if err != nil {
		return nil, err
	}
	contacts, err := allContacts(ctx, api)
	if err != nil {
		return nil, err
	}
	var (
		plan, gone []*notifyChange
		add        = func(kind, name string, there bool, what string, do func(ctx context.Context) error) {
			x := &notifyChange{kind: kind, name: name, outcome: "CHANGED", what: what, do: do}
			switch {
			case !there:
				x.outcome = "MADE"
			case what == "":
				x.outcome, x.do = "UNCHANGED", nil
			}
			plan = append(plan, x)
		}
		remove = func(kind, name string, do func(ctx context.Context) error) {
			gone = append(gone, &notifyChange{kind: kind, name: name, outcome: "DELETED", do: do})
		}
	)
	wanted := map[string]bool{}
	for _, s := range f.Receivers {
		r, err := s.proto()
		if err != nil {
			return nil, err
		}
		wanted["receiver "+r.GetName()] = true
		i := slices.IndexFunc(receivers.GetReceivers(), func(x *notificationv1.Receiver) bool { return x.GetName() == r.GetName() })
		what := ""
		if i >= 0 {
			was := proto.CloneOf(receivers.GetReceivers()[i])
			r.Etag = was.GetEtag()
			was.CreateTime, was.UpdateTime, was.Health = nil, nil, nil
			what = differs(was, r)
		}
		add("receiver", r.GetName(), i >= 0, what, func(ctx context.Context) error {
			_, err := api.SetReceiver(ctx, &notificationv1.SetReceiverRequest{Receiver: r, CreateOnly: i < 0})
			return err
		})
	}
	for _, s := range f.Routes {
		r, err := s.proto()
		if err != nil {
			return nil, err
		}
		wanted["route "+r.GetName()] = true
		i := slices.IndexFunc(routes.GetRoutes(), func(x *notificationv1.Route) bool { return x.GetName() == r.GetName() })
		what := ""
		if i >= 0 {
			was := proto.CloneOf(routes.GetRoutes()[i])
			r.Etag = was.GetEtag()
			was.CreateTime, was.UpdateTime = nil, nil
			what = differs(was, r)
		}
		add("route", r.GetName(), i >= 0, what, func(ctx context.Context) error {
			_, err := api.SetRoute(ctx, &notificationv1.SetRouteRequest{Route: r, CreateOnly: i < 0})
			return err
		})
	}
	for _, s := range f.Contacts {
		x := &notificationv1.Contact{Owner: s.Owner, Receivers: s.Receivers}
		wanted["contact "+strings.ToLower(s.Owner)] = true
		i := slices.IndexFunc(contacts, func(x *notificationv1.Contact) bool { return strings.EqualFold(x.GetOwner(), s.Owner) })
		what := ""
		if i >= 0 {
			was := proto.CloneOf(contacts[i])
			x.Etag, was.UpdateTime = was.GetEtag(), nil
			what = differs(was, x)
		}
		add("contact", s.Owner, i >= 0, what, func(ctx context.Context) error {
			_, err := api.SetContact(ctx, &notificationv1.SetContactRequest{Contact: x, CreateOnly: i < 0})
			return err
		})
	}
	if !prune {
		return plan, nil
	}
	// What names others goes before them.
	for _, x := range contacts {
		if f.Contacts != nil && !wanted["contact "+strings.ToLower(x.GetOwner())] {
			remove("contact", x.GetOwner(), func(ctx context.Context) error {
				_, err := api.DeleteContact(ctx, &notificationv1.DeleteContactRequest{Owner: x.GetOwner()})
				return err
			})
		}
	}
	for _, x := range routes.GetRoutes() {
		if f.Routes != nil && !wanted["route "+x.GetName()] {
			remove("route", x.GetName(), func(ctx context.Context) error {
				_, err := api.DeleteRoute(ctx, &notificationv1.DeleteRouteRequest{Name: x.GetName(), Etag: x.GetEtag()})
				return err
			})
		}
	}
	for _, x := range receivers.GetReceivers() {
		if f.Receivers != nil && !wanted["receiver "+x.GetName()] {
			remove("receiver", x.GetName(), func(ctx context.Context) error {
				_, err := api.DeleteReceiver(ctx, &notificationv1.DeleteReceiverRequest{Name: x.GetName(), Etag: x.GetEtag()})
				return err
			})
		}
	}
	return append(plan, gone...), nil
}

func (c *cli) notifyApply() *cobra.Command {
	var (
		path       string
		prune, dry bool
	)
	cmd := &cobra.Command{
		Use: "apply", Short: "Make receivers, routes and contacts as a file says", Args: cobra.NoArgs,
		Long: `Makes and changes receivers, routes and contacts so that they are as a file says, and says what became of each. With --prune, what
the file does not name is deleted; a part (receivers, routes, contacts) that is missing from the file is left alone, one that is
empty ([]) is emptied. Applying a file again changes nothing. "nightshift notify export" writes such a file.`,
		Example: `  nightshift notify apply -f notify.yaml --dry-run
  nightshift notify apply -f notify.yaml --prune
  nightshift notify export | nightshift notify apply -f -`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return usage("say which file: -f notify.yaml, or -f - for standard input")
			}
			ctx := cmd.Context()
			f, err := c.readNotifyFile(path)
			if err != nil {
				return err
			}
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			plan, err := planNotify(ctx, api, f, prune)
			if err != nil {
				return err
			}
			var changes int64
			p := newPrinter(c, (*notifyChange).tree, notifyChangeColumns)
			for _, x := range plan {
				if x.do != nil {
					changes++
				}
				if x.do != nil && !dry {
					if err := x.do(ctx); err != nil {
						_ = p.close() // what was done until then
						return withHint(fmt.Errorf("%s %s: %w", x.kind, clean(x.name), err), errs.Aborted, changedSince)
					}
				}
				if err := p.add(x); err != nil {
					return err
				}
			}
			if err := p.close(); err != nil {
				return err
			}
			would := ""
			if dry {
				would = " would be made"
			}
			c.say("%s%s", many(changes, "change", "changes"), would)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&path, "file", "f", "", "file to apply; - is standard input")
	fl.BoolVar(&prune, "prune", false, "delete what the file does not name")
	fl.BoolVar(&dry, "dry-run", false, "only say what would change")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml")
	return cmd
}

// specTree is a part of the file as output shows values: what is empty and may
// be left out is.
func specTree(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		return specTree(v.Elem())
	case reflect.Struct:
		var o object
		for i := range v.NumField() {
			name, optional, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if f := v.Field(i); optional == "" || !f.IsZero() && (f.Kind() != reflect.Slice || f.Len() > 0) {
				o = append(o, member{name, specTree(f)})
			}
		}
		return o
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = specTree(v.Index(i))
		}
		return list
	case reflect.Int32:
		return v.Int()
	}
	return v.Interface() // a text or a truth
}

func (c *cli) notifyExport() *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Write receivers, routes and contacts as a file", Args: cobra.NoArgs,
		Long:    "Writes receivers, routes and contacts as a YAML file for \"nightshift notify apply\". It holds no secrets, only where they are.",
		Example: "  nightshift notify export > notify.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			api, err := c.notifyConfig()
			if err != nil {
				return err
			}
			receivers, err := api.ListReceivers(ctx, &notificationv1.ListReceiversRequest{})
			if err != nil {
				return err
			}
			routes, err := api.ListRoutes(ctx, &notificationv1.ListRoutesRequest{})
			if err != nil {
				return err
			}
			contacts, err := allContacts(ctx, api)
			if err != nil {
				return err
			}
			f := &notifyFile{Receivers: []receiverSpec{}, Routes: []routeSpec{}, Contacts: []contactSpec{}}
			for _, r := range receivers.GetReceivers() {
				f.Receivers = append(f.Receivers, receiverSpecOf(r))
			}
			for _, r := range routes.GetRoutes() {
				f.Routes = append(f.Routes, routeSpecOf(r))
			}
			for _, x := range contacts {
				f.Contacts = append(f.Contacts, contactSpec{x.GetOwner(), x.GetReceivers()})
			}
			c.print("%s\n", appendYAML(nil, specTree(reflect.ValueOf(f)), ""))
			return nil
		},
	}
}
