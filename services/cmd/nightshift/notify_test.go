package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/errs"
)

func receiverFixtures() []*notificationv1.Receiver {
	return []*notificationv1.Receiver{
		{Name: "mail", Description: hostile, Medium: &notificationv1.Receiver_Email{Email: &notificationv1.Email{To: []string{"a@example.com", "b@example.com"}}}, Etag: "e1", CreateTime: at, UpdateTime: at,
			Health: &notificationv1.ReceiverHealth{Breaker: notificationv1.BreakerState_BREAKER_STATE_OPEN, ConsecutiveFailures: 6, RetryTime: at, LastError: hostile, Pending: 1200}},
		{Name: "oncall", Medium: &notificationv1.Receiver_Slack{Slack: &notificationv1.Slack{UrlSecret: "env:NIGHTSHIFT_SECRET_SLACK"}}, Etag: "e2"},
	}
}

func routeFixtures() []*notificationv1.Route {
	return []*notificationv1.Route{{
		Name: "urgent", Position: 1, Filter: `owner = "` + hostile + `"`, Receivers: []string{"oncall"}, Proceed: true, GroupBy: []string{"account"}, GroupWait: durationpb.New(10 * time.Second),
		RepeatInterval: durationpb.New(36 * time.Hour), QuietHours: []*notificationv1.QuietHours{{Weekdays: []int32{1, 2, 3, 4, 5}, Start: "18:00", End: "08:00", TimeZone: "Europe/Dublin"}},
		QuietBelow: rulev1.Severity_SEVERITY_HIGH, Etag: "e3",
	}, {Name: "weekly", Position: 5, ToOwner: true, Receivers: []string{"mail"}, Digest: &notificationv1.Digest{Time: "08:00", Weekday: 1}, Etag: "e4"}}
}

func (f *fake) ListReceivers(context.Context, *notificationv1.ListReceiversRequest) (*notificationv1.ListReceiversResponse, error) {
	return &notificationv1.ListReceiversResponse{Receivers: receiverFixtures()}, nil
}

func (f *fake) GetReceiver(_ context.Context, r *notificationv1.GetReceiverRequest) (*notificationv1.GetReceiverResponse, error) {
	for _, x := range receiverFixtures() {
		if x.GetName() == r.GetName() {
			return &notificationv1.GetReceiverResponse{Receiver: x}, nil
		}
	}
	return nil, errs.New(errs.NotFound, "RECEIVER_NOT_FOUND", "there is no receiver %s", r.GetName())
}

func (f *fake) SetReceiver(_ context.Context, r *notificationv1.SetReceiverRequest) (*notificationv1.SetReceiverResponse, error) {
	f.got(r)
	return &notificationv1.SetReceiverResponse{Receiver: r.GetReceiver()}, nil
}

func (f *fake) DeleteReceiver(_ context.Context, r *notificationv1.DeleteReceiverRequest) (*notificationv1.DeleteReceiverResponse, error) {
	f.got(r)
	return &notificationv1.DeleteReceiverResponse{DroppedDeliveries: 2}, nil
}

func (f *fake) ListRoutes(context.Context, *notificationv1.ListRoutesRequest) (*notificationv1.ListRoutesResponse, error) {
	return &notificationv1.ListRoutesResponse{Routes: routeFixtures()}, nil
}

func (f *fake) SetRoute(_ context.Context, r *notificationv1.SetRouteRequest) (*notificationv1.SetRouteResponse, error) {
	f.got(r)
	return &notificationv1.SetRouteResponse{Route: r.GetRoute()}, nil
}

func (f *fake) DeleteRoute(_ context.Context, r *notificationv1.DeleteRouteRequest) (*notificationv1.DeleteRouteResponse, error) {
	f.got(r)
	return &notificationv1.DeleteRouteResponse{DroppedEvents: 3}, nil
}

func (f *fake) ListContacts(context.Context, *notificationv1.ListContactsRequest) (*notificationv1.ListContactsResponse, error) {
	return &notificationv1.ListContactsResponse{Contacts: []*notificationv1.Contact{{Owner: "Team-Web", Receivers: []string{"oncall"}, Etag: "e5", UpdateTime: at}}}, nil
}

func (f *fake) SetContact(_ context.Context, r *notificationv1.SetContactRequest) (*notificationv1.SetContactResponse, error) {
	f.got(r)
	return &notificationv1.SetContactResponse{Contact: r.GetContact()}, nil
}

func (f *fake) DeleteContact(_ context.Context, r *notificationv1.DeleteContactRequest) (*notificationv1.DeleteContactResponse, error) {
	f.got(r)
	return &notificationv1.DeleteContactResponse{}, nil
}

func (f *fake) ListSilences(context.Context, *notificationv1.ListSilencesRequest) (*notificationv1.ListSilencesResponse, error) {
	return &notificationv1.ListSilencesResponse{Silences: []*notificationv1.Silence{{Id: "s1", Filter: hostile, Author: hostile, Comment: hostile, StartTime: at, ExpireTime: at}}}, nil
}

func (f *fake) CreateSilence(_ context.Context, r *notificationv1.CreateSilenceRequest) (*notificationv1.CreateSilenceResponse, error) {
	f.got(r)
	return &notificationv1.CreateSilenceResponse{Silence: r.GetSilence()}, nil
}

func (f *fake) ExpireSilence(_ context.Context, r *notificationv1.ExpireSilenceRequest) (*notificationv1.ExpireSilenceResponse, error) {
	f.got(r)
	return &notificationv1.ExpireSilenceResponse{Silence: &notificationv1.Silence{Id: r.GetId(), Filter: "x", ExpireTime: at}}, nil
}

func deliveryFixture() *notificationv1.Delivery {
	return &notificationv1.Delivery{Id: "d1", Receiver: "oncall", Route: "urgent", State: notificationv1.DeliveryState_DELIVERY_STATE_DEAD, Summary: hostile, CreateTime: at, EndTime: at, Attempts: 7, LastError: hostile,
		Message: &notificationv1.Message{Group: map[string]string{"owner": hostile}, Events: 3}, Log: []*notificationv1.Attempt{{Time: at, Duration: durationpb.New(time.Second), Detail: hostile}}}
}

func (f *fake) ListDeliveries(_ context.Context, r *notificationv1.ListDeliveriesRequest) (*notificationv1.ListDeliveriesResponse, error) {
	f.got(r)
	return &notificationv1.ListDeliveriesResponse{Deliveries: []*notificationv1.Delivery{deliveryFixture()}}, nil
}

func (f *fake) GetDelivery(_ context.Context, r *notificationv1.GetDeliveryRequest) (*notificationv1.GetDeliveryResponse, error) {
	if r.GetId() != "d1" {
		return nil, errs.New(errs.NotFound, "DELIVERY_NOT_FOUND", "there is no delivery %s", r.GetId())
	}
	return &notificationv1.GetDeliveryResponse{Delivery: deliveryFixture()}, nil
}

func (f *fake) ResendDelivery(_ context.Context, r *notificationv1.ResendDeliveryRequest) (*notificationv1.ResendDeliveryResponse, error) {
	f.got(r)
	return &notificationv1.ResendDeliveryResponse{Delivery: &notificationv1.Delivery{Id: "d2", ResendOf: r.GetId(), State: notificationv1.DeliveryState_DELIVERY_STATE_PENDING}}, nil
}

func (f *fake) TestReceiver(_ context.Context, r *notificationv1.TestReceiverRequest) (*notificationv1.TestReceiverResponse, error) {
	return &notificationv1.TestReceiverResponse{Attempt: &notificationv1.Attempt{Ok: r.GetReceiver() == "oncall", Duration: durationpb.New(time.Second), Detail: hostile}}, nil
}

func (f *fake) ExplainNotification(_ context.Context, r *notificationv1.ExplainNotificationRequest) (*notificationv1.ExplainNotificationResponse, error) {
	f.got(r)
	return &notificationv1.ExplainNotificationResponse{Routes: []*notificationv1.RouteExplanation{
		{Route: "weekly", Reason: "severity is LOW"},
		{Route: "urgent", Matches: true, Reason: "severity is HIGH", Receivers: []string{"oncall"}, ReceiversReason: "contact of owner " + hostile, Group: map[string]string{"owner": hostile}, DueTime: at, DueReason: "30 s group wait"},
	}}, nil
}

func lastRequest[T any](t *testing.T, f *fake) T {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range slices.Backward(f.requests) {
		if m, ok := r.(T); ok {
			return m
		}
	}
	t.Fatalf("asked for %v", f.requests)
	panic("unreachable")
}

func TestNotifySaysWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	f, env := serve(t, 0)
	ok := func(args ...string) result {
		t.Helper()
		r := execute(t, env, append([]string{"notify"}, args...)...)
		if r.code != 0 {
			t.Fatalf("%v: code %d: %s", args, r.code, r.err)
		}
		return r
	}
	same := func(got, want proto.Message) {
		t.Helper()
		if !proto.Equal(got, want) {
			t.Errorf("asked for\n%v\nwant\n%v", got, want)
		}
	}
	ok("receivers", "set", "pager", "--pagerduty", "file:pd", "--endpoint", "https://events.eu.pagerduty.com", "--description", "who is up")
	same(lastRequest[*notificationv1.SetReceiverRequest](t, f), &notificationv1.SetReceiverRequest{CreateOnly: true, Receiver: &notificationv1.Receiver{Name: "pager", Description: "who is up",
		Medium: &notificationv1.Receiver_Pagerduty{Pagerduty: &notificationv1.PagerDuty{RoutingKeySecret: "file:pd", Endpoint: "https://events.eu.pagerduty.com"}}}})
	ok("receivers", "set", "oncall", "--paused")
	paused := receiverFixtures()[1]
	paused.Paused = true
	same(lastRequest[*notificationv1.SetReceiverRequest](t, f).GetReceiver(), paused)

	ok("routes", "set", "finops", "--filter", `category = "WASTE"`, "--receiver", "mail,oncall", "--group-by", "account,owner", "--digest", "MON 08:00 Europe/Dublin", "--position", "7", "--max-per-hour", "5")
	same(lastRequest[*notificationv1.SetRouteRequest](t, f), &notificationv1.SetRouteRequest{CreateOnly: true, Route: &notificationv1.Route{Name: "finops", Filter: `category = "WASTE"`, Receivers: []string{"mail", "oncall"},
		GroupBy: []string{"account", "owner"}, Digest: &notificationv1.Digest{Weekday: 1, Time: "08:00", TimeZone: "Europe/Dublin"}, Position: 7, MaxMessagesPerHour: 5}})
	ok("routes", "set", "urgent", "--quiet", "SAT,SUN 00:00-00:00", "--quiet", "22:00-06:00 UTC", "--quiet-below", "none", "--repeat", "none", "--wait", "2m", "--interval", "2d", "--proceed=false", "--group-by", "none")
	route := routeFixtures()[0]
	route.QuietHours = []*notificationv1.QuietHours{{Weekdays: []int32{6, 7}, Start: "00:00", End: "00:00"}, {Start: "22:00", End: "06:00", TimeZone: "UTC"}}
	route.QuietBelow, route.RepeatInterval, route.Proceed, route.GroupBy = 0, nil, false, nil
	route.GroupWait, route.GroupInterval = durationpb.New(2*time.Minute), durationpb.New(48*time.Hour)
	same(lastRequest[*notificationv1.SetRouteRequest](t, f).GetRoute(), route)

	ok("contacts", "set", "team-db", "--receiver", "mail")
	same(lastRequest[*notificationv1.SetContactRequest](t, f).GetContact(), &notificationv1.Contact{Owner: "team-db", Receivers: []string{"mail"}})
	ok("silence", "--for", "4h", "--from", "2027-01-01T00:00:00Z", "--comment", "why", "--filter", "x", "--by", "ana")
	if x := lastRequest[*notificationv1.CreateSilenceRequest](t, f).GetSilence(); x.GetAuthor() != "ana" || !x.GetExpireTime().AsTime().Equal(time.Date(2027, 1, 1, 4, 0, 0, 0, time.UTC)) {
		t.Errorf("silence %v", x)
	}
	ok("expire", "s1")
	ok("deliveries", "list", "--state", "dead", "--receiver", `a"b`, "--route", "urgent", "--filter", "attempts > 3 OR id = x")
	if got := lastRequest[*notificationv1.ListDeliveriesRequest](t, f).GetFilter(); got != `state = "DEAD" AND receiver = "a\"b" AND route = "urgent" AND (attempts > 3 OR id = x)` {
		t.Errorf("listed %s", got)
	}
	ok("resend", "d1")
	ok("explain", strings.Repeat("a1", 16), "--event", "FindingResolved", "--at", "2026-12-24T22:00:00Z")
	if x := lastRequest[*notificationv1.ExplainNotificationRequest](t, f); x.GetEvent() != "FindingResolved" || x.GetFindingId() != strings.Repeat("a1", 16) || x.GetTime().AsTime().Hour() != 22 {
		t.Errorf("asked for %v", x)
	}
	if r := ok("receivers", "delete", "oncall"); !strings.Contains(r.err, "2 deliveries") {
		t.Errorf("said %s", r.err)
	}
	if r := ok("routes", "delete", "urgent"); !strings.Contains(r.err, "3 events") {
		t.Errorf("said %s", r.err)
	}
	ok("contacts", "delete", "team-web")
	if r := execute(t, env, "notify", "test", "mail"); r.code != 1 || !strings.Contains(r.err, "did not take it") {
		t.Errorf("a test that fails: code %d, %s", r.code, r.err)
	}
	if r := execute(t, env, "notify", "receivers", "set", "x", "--slack", "https://hooks.slack.com/T0/hunter2"); r.code != exitUsage || strings.Contains(r.err, "hunter2") {
		t.Errorf("a secret itself: code %d, %s", r.code, r.err)
	}
	for _, args := range [][]string{
		{"receivers", "set", "new"}, {"receivers", "set", "oncall", "--token", "file:x"}, {"receivers", "set", "x", "--slack", "file:x", "--teams", "file:y"},
		{"routes", "set", "x", "--digest", "8 o'clock"}, {"routes", "set", "x", "--quiet", "MON-XXX 1:00-2:00"}, {"routes", "set", "x", "--wait", "soon"}, {"routes", "set", "x", "--quiet-below", "bad"},
		{"contacts", "set", "x"}, {"silence", "--filter", "x", "--comment", "y"}, {"silence", "--for", "1h", "--filter", "x"}, {"silence", "--for", "1h", "--until", "2027-01-01", "--filter", "x", "--comment", "y"},
		{"deliveries", "list", "--state", "lost"}, {"apply"}, {"explain", "zz"}, {"explain", strings.Repeat("a1", 16), "--at", "noon"},
	} {
		if r := execute(t, env, append([]string{"notify"}, args...)...); r.code != exitUsage {
			t.Errorf("%v: code %d: %s", args, r.code, r.err)
		}
	}
	for _, args := range [][]string{{"receivers", "get", "x"}, {"routes", "get", "x"}, {"contacts", "get", "x"}, {"deliveries", "show", "x"}} {
		if r := execute(t, env, append([]string{"notify"}, args...)...); r.code == 0 || !strings.Contains(r.err, "nightshift notify "+args[0]+" list") {
			t.Errorf("%v: code %d: %s", args, r.code, r.err)
		}
	}
}

func TestNotifyOutput(t *testing.T) {
	t.Parallel()
	_, env := serve(t, 0)
	for _, cmd := range [][]string{
		{"receivers", "list"}, {"receivers", "get", "mail"}, {"routes", "list"}, {"routes", "get", "urgent"}, {"contacts", "list"}, {"contacts", "get", "TEAM-web"}, {"silences", "list"},
		{"deliveries", "list"}, {"deliveries", "show", "d1"}, {"test", "oncall"}, {"explain", strings.Repeat("a1", 16)}, {"export"},
	} {
		for _, format := range formats {
			r := execute(t, env, append(append([]string{"notify"}, cmd...), "-o", format)...)
			if r.code != 0 || r.out == "" {
				t.Errorf("%v -o %s: code %d, out %q, err %s", cmd, format, r.code, r.out, r.err)
			}
			if i := strings.IndexFunc(r.out+r.err, func(r rune) bool { return r != '\n' && dangerous(r) }); i >= 0 {
				t.Errorf("%v -o %s lets a dangerous character through: %q", cmd, format, r.out+r.err)
			}
		}
	}
}

func TestNotifyApply(t *testing.T) {
	t.Parallel()
	f, env := serve(t, 0)
	apply := func(text string, args ...string) result {
		t.Helper()
		path := filepath.Join(t.TempDir(), "notify.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f.requests = nil
		return execute(t, env, append([]string{"notify", "apply", "-o", "jsonl", "-f", path}, args...)...)
	}
	exported := execute(t, env, "notify", "export").out
	if r := apply(exported, "--prune"); r.code != 0 || len(f.requests) > 0 || strings.Count(r.out, "UNCHANGED") != 5 {
		t.Errorf("what was exported changes something: code %d, %v\n%s\n%s\n%s", r.code, f.requests, r.out, r.err, exported)
	}
	const file = `
receivers:
  - name: oncall
    slack: {url_secret: file:slack}
  - name: siem
    webhook: {url: https://siem.example.com, signing_secret: env:NIGHTSHIFT_SECRET_SIEM}
routes: []
`
	r := apply(file, "--prune", "--dry-run")
	if r.code != 0 || len(f.requests) > 0 {
		t.Errorf("a dry run: code %d, asked for %v", r.code, f.requests)
	}
	for _, want := range []string{`"name":"oncall","outcome":"CHANGED"`, "file:slack", `"name":"siem","outcome":"MADE"`, `"name":"urgent","outcome":"DELETED"`, `"name":"weekly","outcome":"DELETED"`, `"name":"mail","outcome":"DELETED"`} {
		if !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(r.out, `": "`, `":"`), `", "`, `","`), want) {
			t.Errorf("a dry run does not say %s:\n%s", want, r.out)
		}
	}
	if r := apply(file, "--prune"); r.code != 0 || len(f.requests) != 5 {
		t.Fatalf("code %d: %s, asked for %v", r.code, r.err, f.requests)
	}
	if x := f.requests[0].(*notificationv1.SetReceiverRequest); x.GetReceiver().GetEtag() != "e2" || x.GetCreateOnly() {
		t.Errorf("asked for %v", x)
	}
	if x := f.requests[1].(*notificationv1.SetReceiverRequest); !x.GetCreateOnly() {
		t.Errorf("asked for %v", x)
	}
	if x, ok := f.requests[4].(*notificationv1.DeleteReceiverRequest); !ok || x.GetName() != "mail" || x.GetEtag() != "e1" {
		t.Errorf("asked for %v last", f.requests[4])
	}
	if r := apply(file); r.code != 0 || len(f.requests) != 2 {
		t.Errorf("without --prune: code %d, asked for %v", r.code, f.requests)
	}
	for text, want := range map[string]string{
		"receivers:\n  - name: x\n    slak: {}\n":                                          "slak",
		"receivers:\n  - name: x\n    teams: {url_secret: hunter2}\n":                      "not the secret itself",
		"receivers:\n  - name: x\n":                                                        "must have one of",
		"receivers:\n  - name: x\n    slack: {url_secret: file:a}\n    email: {to: [b]}\n": "it has 2",
		"routes:\n  - name: a\n  - name: a\n":                                              "twice",
		"routes:\n  - receivers: [a]\n":                                                    "no name",
		"routes:\n  - name: a\n    digest: noon\n":                                         "noon",
		"routes:\n  - name: a\n    quiet_below: BAD\n":                                     "quiet_below",
		"routes:\n  - name: a\n    repeat_interval: often\n":                               "often",
		"routes: [": "cannot be read",
		"contacts:\n  - {owner: A, receivers: [x]}\n  - {owner: a, receivers: [x]}\n": "twice",
	} {
		if r := apply(text); r.code != exitUsage || !strings.Contains(r.err, want) || len(f.requests) > 0 {
			t.Errorf("%q: code %d, %s, asked for %v", text, r.code, r.err, f.requests)
		}
	}
	if r := apply(""); r.code != 0 || len(f.requests) > 0 {
		t.Errorf("an empty file: code %d, %s", r.code, r.err)
	}
}

// What is written of a route is read as the same route.
func TestRouteAsText(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		clock := rapid.SampledFrom([]string{"00:00", "08:15", "23:59"})
		zone := rapid.SampledFrom([]string{"", "UTC", "Europe/Dublin", "America/Argentina/Buenos_Aires"})
		span := func(name string) *durationpb.Duration {
			if n := rapid.Int64Range(0, 7776000).Draw(t, name); n > 0 {
				return durationpb.New(time.Duration(n) * time.Second)
			}
			return nil
		}
		r := &notificationv1.Route{
			Name: "r", Position: rapid.Int32Range(0, 10000).Draw(t, "position"), GroupWait: span("wait"), GroupInterval: span("interval"), RepeatInterval: span("repeat"),
			QuietBelow: rulev1.Severity(rapid.IntRange(0, 5).Draw(t, "below")),
		}
		for range rapid.IntRange(0, 3).Draw(t, "quiet") {
			list := rapid.SliceOfNDistinct(rapid.Int32Range(1, 7), 0, 7, rapid.ID[int32]).Draw(t, "days")
			slices.Sort(list)
			r.QuietHours = append(r.QuietHours, &notificationv1.QuietHours{Weekdays: list, Start: clock.Draw(t, "start"), End: clock.Draw(t, "end"), TimeZone: zone.Draw(t, "zone")})
		}
		if rapid.Bool().Draw(t, "digest") {
			r.Digest = &notificationv1.Digest{Time: clock.Draw(t, "time"), Weekday: rapid.Int32Range(0, 7).Draw(t, "day"), TimeZone: zone.Draw(t, "zone")}
		}
		spec := routeSpecOf(r)
		if got, err := spec.proto(); err != nil || !proto.Equal(got, r) {
			t.Fatalf("%+v is read as %v, %v, want %v", spec, got, err, r)
		}
	})
}

func FuzzNotifyFile(f *testing.F) {
	f.Add([]byte("receivers:\n  - name: x\n    slack: {url_secret: file:x}\nroutes:\n  - {name: a, digest: MON 08:00, quiet_hours: [SAT-MON 00:00-01:00]}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parseNotifyFile("notify.yaml", text)
		if err != nil {
			return
		}
		for _, r := range file.Receivers {
			_, _ = r.proto()
		}
		for _, r := range file.Routes {
			_, _ = r.proto()
		}
	})
}

// The file in the documentation is one that can be applied.
func TestNotifyFileOfTheDocumentation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/notifications.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "```yaml\n")
	file, _, _ := strings.Cut(after, "```")
	f, err := parseNotifyFile("notify.yaml", []byte(file))
	if err != nil || len(f.Receivers) == 0 || len(f.Routes) == 0 || len(f.Contacts) == 0 {
		t.Fatalf("the file is %+v, %v", f, err)
	}
	for _, r := range f.Receivers {
		if _, err := r.proto(); err != nil {
			t.Error(err)
		}
	}
	for _, r := range f.Routes {
		if _, err := r.proto(); err != nil {
			t.Error(err)
		}
	}
}
