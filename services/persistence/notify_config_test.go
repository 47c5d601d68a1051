package persistence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

func notifyConfig(t testing.TB, s *Service, version string) *notificationv1.GetConfigResponse {
	t.Helper()
	resp, err := s.GetConfig(t.Context(), &notificationv1.GetConfigRequest{Version: version})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// wantError wants an error of a kind that names fields.
func wantError(t testing.TB, what string, err error, kind errs.Kind, fields ...string) {
	t.Helper()
	e := (*errs.Error)(nil)
	if !errors.Is(err, kind) || !errors.As(err, &e) {
		t.Errorf("%s: %v, want %v", what, err, kind)
		return
	}
	var got []string
	for _, v := range e.Violations() {
		got = append(got, v.Field)
	}
	if strings.Join(got, " ") != strings.Join(fields, " ") {
		t.Errorf("%s: fields %v, want %v", what, got, fields)
	}
}

func TestNotifyConfigChangesByEtag(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	ctx := t.Context()
	empty := notifyConfig(t, s, "")
	if empty.GetVersion() == "" || empty.GetUnchanged() || !notifyConfig(t, s, empty.GetVersion()).GetUnchanged() {
		t.Fatalf("nothing at all: %v", empty)
	}
	versions := map[string]string{empty.GetVersion(): "empty"}
	changed := func(what string) {
		t.Helper()
		v := notifyConfig(t, s, "").GetVersion()
		if by := versions[v]; by != "" {
			t.Errorf("the version after %s is that after %s", what, by)
		}
		versions[v] = what
	}

	r := slackTo("oncall")
	r.CreateTime, r.Health = timestamppb.New(at(99)), &notificationv1.ReceiverHealth{Pending: 99} // not for callers to say
	first := setReceiver(t, s, r)
	changed("a receiver")
	if first.GetEtag() == "" || !first.GetCreateTime().AsTime().Equal(c.now()) || first.GetHealth().GetPending() != 0 {
		t.Errorf("made %v", first)
	}
	_, err := s.SetReceiver(ctx, &notificationv1.SetReceiverRequest{Receiver: slackTo("oncall"), CreateOnly: true})
	wantError(t, "made twice", err, errs.AlreadyExists)
	c.advance(time.Hour)
	second := setReceiver(t, s, &notificationv1.Receiver{Name: "oncall", Etag: first.GetEtag(), Paused: true, Medium: &notificationv1.Receiver_Email{Email: &notificationv1.Email{To: []string{"a@example.com"}}}})
	changed("another receiver")
	if second.GetEtag() == first.GetEtag() || !second.GetCreateTime().AsTime().Equal(epoch) || !second.GetUpdateTime().AsTime().Equal(c.now()) || second.GetSlack() != nil {
		t.Errorf("changed to %v", second)
	}
	first.Paused = true
	_, err = s.SetReceiver(ctx, &notificationv1.SetReceiverRequest{Receiver: first})
	wantError(t, "an old etag", err, errs.Aborted)
	gone := slackTo("gone")
	gone.Etag = "x"
	_, err = s.SetReceiver(ctx, &notificationv1.SetReceiverRequest{Receiver: gone})
	wantError(t, "an etag of what is gone", err, errs.NotFound)

	route := setRoute(t, s, &notificationv1.Route{Name: "b", Position: 1, Receivers: []string{"oncall"}, Filter: ` severity >= "HIGH" `})
	changed("a route")
	setRoute(t, s, &notificationv1.Route{Name: "a", Position: 2, Receivers: []string{"oncall"}})
	setRoute(t, s, &notificationv1.Route{Name: "c", Position: 1, ToOwner: true})
	list, err := s.ListRoutes(ctx, &notificationv1.ListRoutesRequest{})
	if err != nil || len(list.GetRoutes()) != 3 || list.GetRoutes()[0].GetName() != "b" || list.GetRoutes()[1].GetName() != "c" || list.GetRoutes()[0].GetFilter() != `severity >= "HIGH"` {
		t.Errorf("routes %v, %v", list, err)
	}
	route.Etag = "other"
	_, err = s.SetRoute(ctx, &notificationv1.SetRouteRequest{Route: route})
	wantError(t, "an old etag of a route", err, errs.Aborted)

	if _, err := s.SetContact(ctx, &notificationv1.SetContactRequest{Contact: &notificationv1.Contact{Owner: "Team-Web", Receivers: []string{"oncall"}}}); err != nil {
		t.Fatal(err)
	}
	changed("a contact")
	_, err = s.SetContact(ctx, &notificationv1.SetContactRequest{Contact: &notificationv1.Contact{Owner: "TEAM-web", Receivers: []string{"oncall"}}, CreateOnly: true})
	wantError(t, "a contact twice", err, errs.AlreadyExists)
	_, err = s.DeleteReceiver(ctx, &notificationv1.DeleteReceiverRequest{Name: "oncall"})
	wantError(t, "a receiver in use", err, errs.FailedPrecondition)
	if !strings.Contains(err.Error(), "route a, route b, the contact of Team-Web") {
		t.Errorf("in use: %v", err)
	}

	all := notifyConfig(t, s, "")
	if len(all.GetRoutes()) != 3 || len(all.GetReceivers()) != 1 || len(all.GetContacts()) != 1 || all.GetReceivers()[0].GetHealth() != nil {
		t.Errorf("configuration %v", all)
	}
	for _, name := range []string{"a", "b", "c"} {
		if _, err := s.DeleteRoute(ctx, &notificationv1.DeleteRouteRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.DeleteContact(ctx, &notificationv1.DeleteContactRequest{Owner: "team-WEB"}); err != nil {
		t.Fatal(err)
	}
	changed("a contact that is gone")
	if _, err := s.DeleteReceiver(ctx, &notificationv1.DeleteReceiverRequest{Name: "oncall", Etag: second.GetEtag()}); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"receiver": second1(s.DeleteReceiver(ctx, &notificationv1.DeleteReceiverRequest{Name: "oncall"})), "route": second1(s.DeleteRoute(ctx, &notificationv1.DeleteRouteRequest{Name: "a"})),
		"contact": second1(s.DeleteContact(ctx, &notificationv1.DeleteContactRequest{Owner: "x"})), "get": second1(s.GetReceiver(ctx, &notificationv1.GetReceiverRequest{Name: "oncall"})),
		"delivery": second1(s.GetDelivery(ctx, &notificationv1.GetDeliveryRequest{Id: "x"})), "resend": second1(s.ResendDelivery(ctx, &notificationv1.ResendDeliveryRequest{Id: "x"})),
		"silence": second1(s.ExpireSilence(ctx, &notificationv1.ExpireSilenceRequest{Id: "x"})),
	} {
		wantError(t, what+" that is gone", err, errs.NotFound)
	}
	if again := setReceiver(t, s, slackTo("oncall")); again.GetEtag() == first.GetEtag() {
		t.Error("an etag comes back")
	}
}

func second1[T any](_ T, err error) error { return err }

func TestNotifyConfigRefuses(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	ctx := t.Context()
	setReceiver(t, s, slackTo("oncall"))
	route := func(set func(*notificationv1.Route)) error {
		r := &notificationv1.Route{Name: "r", Receivers: []string{"oncall"}}
		set(r)
		return second1(s.SetRoute(ctx, &notificationv1.SetRouteRequest{Route: r}))
	}
	hook := func(url string) error {
		return second1(s.SetReceiver(ctx, &notificationv1.SetReceiverRequest{Receiver: &notificationv1.Receiver{Name: "x", Medium: &notificationv1.Receiver_Webhook{Webhook: &notificationv1.Webhook{Url: url}}}}))
	}
	silence := func(set func(*notificationv1.Silence)) error {
		x := &notificationv1.Silence{Filter: `account = "1"`, Author: "ana", Comment: "why", ExpireTime: timestamppb.New(at(1))}
		set(x)
		return second1(s.CreateSilence(ctx, &notificationv1.CreateSilenceRequest{Silence: x}))
	}
	for what, c := range map[string]struct {
		err    error
		fields []string
	}{
		"no medium":       {second1(s.SetReceiver(ctx, &notificationv1.SetReceiverRequest{Receiver: &notificationv1.Receiver{Name: "x"}})), []string{"receiver.medium"}},
		"nothing":         {second1(s.SetReceiver(ctx, &notificationv1.SetReceiverRequest{})), []string{"receiver.medium"}},
		"no address":      {hook("ftp://example.com"), []string{"receiver.webhook.url"}},
		"credentials":     {hook("https://user:secret@example.com"), []string{"receiver.webhook.url"}},
		"a fragment":      {hook("https://example.com/#secret"), []string{"receiver.webhook.url"}},
		"a NUL":           {hook("https://example.com/\x00"), []string{"receiver.webhook.url"}},
		"nobody hears":    {route(func(r *notificationv1.Route) { r.Receivers = nil }), []string{"route.receivers"}},
		"strangers":       {route(func(r *notificationv1.Route) { r.Receivers = []string{"oncall", "x", "y"} }), []string{"route.receivers[1]", "route.receivers[2]"}},
		"a broken filter": {route(func(r *notificationv1.Route) { r.Filter = `severity = (` }), []string{"route.filter"}},
		"no zone": {route(func(r *notificationv1.Route) {
			r.Digest = &notificationv1.Digest{Time: "08:00", TimeZone: "Mars/Olympus"}
		}), []string{"route.digest.time_zone"}},
		"the server's zone": {route(func(r *notificationv1.Route) { r.Digest = &notificationv1.Digest{Time: "08:00", TimeZone: "Local"} }), []string{"route.digest.time_zone"}},
		"no time": {route(func(r *notificationv1.Route) {
			r.QuietHours = []*notificationv1.QuietHours{{Start: "8:00", End: "24:00", TimeZone: "x"}}
		}), []string{"route.quiet_hours[0].time_zone", "route.quiet_hours[0].start", "route.quiet_hours[0].end"}},
		"reminders of digest": {route(func(r *notificationv1.Route) {
			r.Digest, r.RepeatInterval = &notificationv1.Digest{Time: "08:00"}, durationpb.New(time.Hour)
		}), []string{"route.repeat_interval"}},
		"no owner":            {second1(s.SetContact(ctx, &notificationv1.SetContactRequest{Contact: &notificationv1.Contact{Owner: " ", Receivers: []string{"x"}}})), []string{"contact.owner", "contact.receivers[0]"}},
		"no silence":          {second1(s.CreateSilence(ctx, &notificationv1.CreateSilenceRequest{})), []string{"silence.filter", "silence.author", "silence.comment", "silence.expire_time"}},
		"a silent past":       {silence(func(x *notificationv1.Silence) { x.ExpireTime = timestamppb.New(epoch) }), []string{"silence.expire_time"}},
		"a long silence":      {silence(func(x *notificationv1.Silence) { x.ExpireTime = timestamppb.New(epoch.AddDate(2, 0, 0)) }), []string{"silence.expire_time"}},
		"a backward silence":  {silence(func(x *notificationv1.Silence) { x.StartTime = timestamppb.New(at(2)) }), []string{"silence.expire_time"}},
		"no start":            {silence(func(x *notificationv1.Silence) { x.StartTime = &timestamppb.Timestamp{Nanos: -1} }), []string{"silence.start_time"}},
		"a silence by id":     {silence(func(x *notificationv1.Silence) { x.Id = "x" }), []string{"silence.id"}},
		"silence of nonsense": {silence(func(x *notificationv1.Silence) { x.Filter = "AND" }), []string{"silence.filter"}},
		"a bad list":          {second1(s.ListDeliveries(ctx, &notificationv1.ListDeliveriesRequest{Filter: "color = red"})), []string{"filter"}},
		"a bad token":         {second1(s.ListSilences(ctx, &notificationv1.ListSilencesRequest{PageToken: "x"})), []string{"page_token"}},
		"no lease":            {second1(s.ClaimGroups(ctx, &notificationv1.ClaimGroupsRequest{})), []string{"limit", "lease"}},
		"a long lease":        {second1(s.ClaimDeliveries(ctx, &notificationv1.ClaimDeliveriesRequest{Limit: 1, Lease: durationpb.New(time.Hour)})), []string{"lease"}},
		"no event":            {second1(s.AddNotices(ctx, &notificationv1.AddNoticesRequest{Notices: []*notificationv1.GroupedNotice{{}}})), []string{"notices[0].notice.event_id"}},
		"an event never due":  {second1(s.AddNotices(ctx, &notificationv1.AddNoticesRequest{Notices: []*notificationv1.GroupedNotice{{Route: "r", Notice: &notificationv1.Notice{EventId: "x"}}}})), []string{"notices[0].due_time"}},
		"no attempt":          {second1(s.FinishDelivery(ctx, &notificationv1.FinishDeliveryRequest{})), []string{"attempt", "lease_id"}},
		"no flush": {second1(s.FlushGroup(ctx, &notificationv1.FlushGroupRequest{PostponeTime: timestamppb.New(at(1)), Deliveries: []*notificationv1.Delivery{{}}})),
			[]string{"postpone_time", "lease_id", "deliveries[0].receiver"}},
	} {
		wantError(t, what, c.err, errs.InvalidArgument, c.fields...)
		if c.err != nil && strings.Contains(c.err.Error(), "secret@") {
			t.Errorf("%s: the error tells a secret: %v", what, c.err)
		}
	}
}

func TestSilences(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	known := auth.With(t.Context(), auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: "ana"})
	make := func(ctx context.Context, until time.Time) *notificationv1.Silence {
		t.Helper()
		r, err := s.CreateSilence(ctx, &notificationv1.CreateSilenceRequest{Silence: &notificationv1.Silence{Filter: `account = "1"`, Author: "eve", Comment: "why", ExpireTime: timestamppb.New(until)}})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetSilence()
	}
	if got := make(known, at(1)).GetAuthor(); got != "ana" {
		t.Errorf("who is known is called %s", got)
	}
	x := make(t.Context(), at(3))
	if x.GetAuthor() != "eve" || len(x.GetId()) != 26 || !x.GetStartTime().AsTime().Equal(epoch) {
		t.Errorf("made %v", x)
	}
	for range 3 {
		make(t.Context(), at(2))
	}
	var ids []string
	for req := (&notificationv1.ListSilencesRequest{PageSize: 2}); ; {
		r, err := s.ListSilences(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range r.GetSilences() {
			ids = append(ids, x.GetId())
		}
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if len(ids) != 5 || ids[0] != x.GetId() {
		t.Errorf("listed %v", ids)
	}
	v := notifyConfig(t, s, "").GetVersion()
	c.advance(30 * time.Minute)
	ended, err := s.ExpireSilence(t.Context(), &notificationv1.ExpireSilenceRequest{Id: x.GetId()})
	if err != nil || !ended.GetSilence().GetExpireTime().AsTime().Equal(c.now()) {
		t.Errorf("ended %v, %v", ended, err)
	}
	c.advance(time.Minute)
	again, err := s.ExpireSilence(t.Context(), &notificationv1.ExpireSilenceRequest{Id: x.GetId()})
	if err != nil || !proto.Equal(again, ended) {
		t.Errorf("ended again %v, %v", again, err)
	}
	if now := notifyConfig(t, s, v); now.GetUnchanged() || len(now.GetSilences()) != 4 {
		t.Errorf("configuration %v", now)
	}
}

// Receivers that go while a route is made to name them: one of the two fails.
func TestReceiverGoesOrIsNamed(t *testing.T) {
	t.Parallel()
	s := service(t)
	for i := range 10 {
		name := fmt.Sprintf("r%d", i)
		setReceiver(t, s, slackTo(name))
		var g errgroup.Group
		var named, deleted error
		g.Go(func() error {
			_, named = s.SetRoute(t.Context(), &notificationv1.SetRouteRequest{Route: &notificationv1.Route{Name: name, Receivers: []string{name}}})
			return nil
		})
		g.Go(func() error {
			_, deleted = s.DeleteReceiver(t.Context(), &notificationv1.DeleteReceiverRequest{Name: name})
			return nil
		})
		_ = g.Wait()
		if (named == nil) == (deleted == nil) {
			t.Fatalf("named: %v, deleted: %v", named, deleted)
		}
	}
}
