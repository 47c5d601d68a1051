package notify

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr/pkg/router"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
)

const (
	// mostShoutrrr bounds the text, in characters: Telegram takes 4096,
	// Discord splits.
	mostShoutrrr = 1900
	// shoutrrrTime bounds an attempt: the library knows no context.
	shoutrrrTime = 30 * time.Second
	// shoutrrrSlots bounds how many of its calls are on their way at once,
	// those that nobody waits for any more included.
	shoutrrrSlots = 16
)

// The library makes its connections with clients of its own, which our guard
// of addresses does not see. So a receiver may only name services whose
// address is the vendor's, by the service itself or by the host in the URL.
var (
	vendors = map[string]string{ // host there must be; "": the service has no other
		"discord": "", "ifttt": "", "join": "", "lark": "", "notifiarr": "", "pushbullet": "", "pushover": "", "telegram": "", "wecom": "",
		"googlechat": `chat\.googleapis\.com`, "ntfy": `ntfy\.sh`, "opsgenie": `api(\.eu)?\.opsgenie\.com`, "zulip": `[a-z0-9-]+\.zulipchat\.com`,
	}
	// Those that only write to our own log, or speak other media of ours
	// without their care, stay out even where private addresses are allowed.
	barred = []string{"logger", "smtp", "slack", "teams", "pagerduty"}
)

// chat takes from a text what one chat or the other reads as a call, a tag, a
// link with another target, or as hidden. Bold and italic do no harm.
var chat = strings.NewReplacer("@", "@\u2060", "<", "‹", ">", "›", "`", "'", "~", "∼", "||", "| |", "](", "] (")

// allowed says why a service URL may not be used; "" when it may.
func (a *attempt) allowed(u *url.URL) string {
	host, vendor := vendors[u.Scheme]
	for _, b := range barred {
		if u.Scheme == b || strings.HasPrefix(u.Scheme, b+"+") {
			return "the service " + b + " of shoutrrr is not used; there is a medium for it, or a better one"
		}
	}
	switch {
	case a.cfg.AllowPrivate:
		return ""
	case !vendor:
		return "the service is none of those with a public address of their own; NIGHTSHIFT_NOTIFY_ALLOW_PRIVATE allows the others"
	case host != "" && !regexp.MustCompile(`^`+host+`$`).MatchString(strings.ToLower(u.Host)):
		return "the host is not the vendor's; NIGHTSHIFT_NOTIFY_ALLOW_PRIVATE allows others"
	}
	return ""
}

// mayLeadTo tells whether a service outside the vendors' is at addresses that a
// receiver may have. The library looks its name up once more, so this keeps
// out mistakes rather than attackers; those need private addresses allowed.
func (a *attempt) mayLeadTo(ctx context.Context, u *url.URL) bool {
	if host, vendor := vendors[u.Scheme]; vendor && host == "" {
		return true // what stands for a host is a token
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	return err != nil || !slices.ContainsFunc(addrs, func(addr netip.Addr) bool { return !reachable(addr, a.cfg.AllowPrivate) })
}

// shoutrrr sends a text through the library. Its errors hold URLs with
// credentials and are told only as far as no part of the URL is in them.
func (a *attempt) shoutrrr(ctx context.Context, r *notificationv1.Shoutrrr) (string, error) {
	raw, err := a.secret(r.GetUrlSecret())
	if err != nil {
		return "", err
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return "", &Failure{Receiver: true, Detail: "the service URL is no URL"}
	}
	if why := a.allowed(u); why != "" {
		return "", &Failure{Permanent: true, Receiver: true, Detail: why}
	}
	if !a.mayLeadTo(ctx, u) {
		return "", &Failure{Permanent: true, Receiver: true, Detail: "the address of the service is not allowed for receivers"}
	}
	service, err := (&router.ServiceRouter{}).Locate(raw)
	if err != nil {
		return "", &Failure{Receiver: true, Detail: a.detail("the service URL cannot be used: %v", err)}
	}
	select {
	case a.slots <- struct{}{}:
	default:
		return "", &Failure{Receiver: true, Detail: "too many messages are on their way through shoutrrr"}
	}
	c := a.content()
	text := chat.Replace(c.text(mostShoutrrr))
	params := types.Params{}
	switch u.Scheme {
	case "telegram":
		params["parsemode"] = "None" // whatever the URL says
	case "pushbullet", "pushover", "ntfy", "join": // which show one of their own otherwise
		params["title"] = chat.Replace(c.Title)
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			<-a.slots
			if recover() != nil { // of the library: no reason to fall over
				done <- context.DeadlineExceeded
			}
		}()
		done <- service.Send(text, &params)
	}()
	ctx, cancel := context.WithTimeout(ctx, shoutrrrTime)
	defer cancel()
	select {
	case <-ctx.Done():
		return "", a.ended(ctx, u.Scheme)
	case err := <-done:
		if err != nil {
			return "", &Failure{Receiver: true, Detail: a.detail("%s: %v", u.Scheme, err)}
		}
		return u.Scheme + " took it", nil
	}
}
