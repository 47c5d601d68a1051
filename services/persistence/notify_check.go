package persistence

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	_ "time/tzdata" // an image may have no zones of its own

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/filter"
)

// checkRouteFilter refuses a filter of routes and silences that cannot be used.
// The error says what is wrong with it, and where.
func checkRouteFilter(text string) error {
	_, err := filter.Compile(text, filter.Notices)
	var e *errs.Error
	if errors.As(err, &e) && len(e.Violations()) > 0 {
		return errors.New(e.Violations()[0].Description)
	}
	return err
}

// checkReceiver says what is wrong with a receiver beside what the proto says.
func checkReceiver(r *notificationv1.Receiver, e *errs.Error) {
	if r.GetMedium() == nil {
		e.Field("receiver.medium", "is missing; say what it is, such as slack or email")
	}
	checkURL(e, "receiver.pagerduty.endpoint", r.GetPagerduty().GetEndpoint(), false)
	checkURL(e, "receiver.webhook.url", r.GetWebhook().GetUrl(), r.GetWebhook() != nil)
	checkURL(e, "receiver.alertmanager.url", r.GetAlertmanager().GetUrl(), r.GetAlertmanager() != nil)
}

// checkURL refuses an address that is none, or that holds what belongs into a
// secret. It repeats nothing of it: that may be one.
func checkURL(e *errs.Error, field, text string, required bool) {
	if text == "" && !required {
		return
	}
	switch u, err := url.Parse(text); {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		e.Field(field, "is no address of http or https, such as https://example.com/hooks/nightshift")
	case u.User != nil:
		e.Field(field, "holds credentials; put them into a secret")
	case u.Fragment != "":
		e.Field(field, "holds a fragment, which is never sent; leave out what is behind #")
	}
}

// checkRoute says what is wrong with a route beside what the proto says.
func checkRoute(r *notificationv1.Route, e *errs.Error) {
	if err := checkRouteFilter(r.GetFilter()); err != nil {
		e.Field("route.filter", "%s", err)
	}
	if len(r.GetReceivers()) == 0 && !r.GetToOwner() {
		e.Field("route.receivers", "is empty, and to_owner is not set; say who hears")
	}
	for i, q := range r.GetQuietHours() {
		field := fmt.Sprintf("route.quiet_hours[%d]", i)
		checkZone(e, field+".time_zone", q.GetTimeZone())
		checkClock(e, field+".start", q.GetStart())
		checkClock(e, field+".end", q.GetEnd())
	}
	if d := r.GetDigest(); d != nil {
		checkZone(e, "route.digest.time_zone", d.GetTimeZone())
		checkClock(e, "route.digest.time", d.GetTime())
		if r.GetRepeatInterval() != nil {
			e.Field("route.repeat_interval", "is set together with digest; a digest tells of what is open anyway")
		}
	}
}

func checkZone(e *errs.Error, field, name string) {
	if name == "" || name == "UTC" {
		return
	}
	// "Local" is the server's, which is nobody's.
	if _, err := time.LoadLocation(name); err != nil || strings.EqualFold(name, "Local") {
		e.Field(field, "is %q, which is no time zone; write it as in the IANA database, such as Europe/Dublin", clean(name))
	}
}

func checkClock(e *errs.Error, field, text string) {
	if _, err := time.Parse("15:04", text); err != nil || len(text) != 5 {
		e.Field(field, "is %q; write it as in 08:00", clean(text))
	}
}
