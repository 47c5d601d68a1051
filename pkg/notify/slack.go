package notify

import (
	"context"
	"strings"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/plain"
)

// object is a piece of JSON.
type object = map[string]any

// mostSlack bounds the events of a message, in characters. Slack does not say
// where it draws the line; it is above this.
const mostSlack = 10_000

// slack posts to an incoming webhook. Foreign texts are only in plain_text and
// in the texts of rich_text, which Slack shows as they are: no markup, no
// mention, no link. The one field it reads as markup, for notifications and
// old clients, is escaped.
func (a *attempt) slack(ctx context.Context, r *notificationv1.Slack) (string, error) {
	raw, err := a.secret(r.GetUrlSecret())
	if err != nil {
		return "", err
	}
	to, err := a.address("the webhook's URL", raw, true)
	if err != nil {
		return "", err
	}
	return a.post(ctx, to, slackMessage(a.content()), nil)
}

func slackMessage(c *content) object {
	c = c.within(mostSlack)
	word := func(s string) object { return object{"type": "text", "text": plain.Clip(s, 1000)} }
	bold := func(s string) object {
		o := word(s)
		o["style"] = object{"bold": true}
		return o
	}
	rich := func(elements ...object) object {
		return object{"type": "rich_text", "elements": []object{{"type": "rich_text_section", "elements": elements}}}
	}
	blocks := []object{{"type": "header", "text": object{"type": "plain_text", "text": c.Title, "emoji": false}}}
	if len(c.Facts) > 0 {
		var es []object
		for i, f := range c.Facts {
			if i > 0 {
				es = append(es, word("\n"))
			}
			es = append(es, bold(f.Name+": "), word(f.Value))
		}
		blocks = append(blocks, rich(es...))
	}
	for _, it := range c.Items {
		head := it.Title
		if it.Severity != "" {
			head = it.Severity + "  " + head
		}
		es := []object{bold(plain.Clip(head, 400))}
		for _, l := range it.Lines {
			es = append(es, word("\n"+l))
		}
		if it.Command != "" {
			o := word(it.Command)
			o["style"] = object{"code": true}
			es = append(es, word("\n"), o)
		}
		if it.Link != "" {
			es = append(es, word("\n"), object{"type": "link", "url": it.Link, "text": "show"})
		}
		blocks = append(blocks, object{"type": "divider"}, rich(es...))
	}
	// Slack takes 50 blocks; 25 events are 52.
	if len(blocks) > 48 {
		for i := len(blocks) - 1; i > 0; i-- {
			if blocks[i]["type"] == "divider" {
				blocks = append(blocks[:i], blocks[i+1:]...)
			}
		}
	}
	if s := strings.TrimSpace(c.more() + "\n" + c.Note); s != "" {
		blocks = append(blocks, rich(word(s)))
	}
	return object{
		"text":         unmention(slackEscape.Replace(c.Title)),
		"mrkdwn":       false,
		"unfurl_links": false,
		"unfurl_media": false,
		"blocks":       blocks,
	}
}

var slackEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// unmention separates each at sign from what follows with a character that
// cannot be seen, so that no chat takes it for a call.
func unmention(s string) string { return strings.ReplaceAll(s, "@", "@\u2060") }
