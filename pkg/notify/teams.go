package notify

import (
	"context"
	"encoding/json"
	"strings"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/plain"
)

// mostTeams bounds a card, in bytes; Teams takes 28 KB.
const mostTeams = 27 << 10

// teams posts an Adaptive Card to a workflow webhook. Foreign texts are only
// in text runs, in which Teams reads no Markdown, unlike in text blocks.
func (a *attempt) teams(ctx context.Context, r *notificationv1.Teams) (string, error) {
	raw, err := a.secret(r.GetUrlSecret())
	if err != nil {
		return "", err
	}
	to, err := a.address("the webhook's URL", raw, true)
	if err != nil {
		return "", err
	}
	return a.post(ctx, to, teamsMessage(a.content()), nil)
}

// teamsMessage is a card with as many events as fit.
func teamsMessage(c *content) (card object) {
	for n := len(c.Items); n >= 0; n-- {
		fewer := *c
		fewer.Items, fewer.More = c.Items[:n], c.More+int64(len(c.Items)-n)
		card = teamsCard(&fewer)
		if raw, _ := json.Marshal(card); len(raw) <= mostTeams { // strings and maps alone
			break
		}
	}
	return card
}

func teamsCard(c *content) object {
	run := func(s string) object { return object{"type": "TextRun", "text": plain.Clip(s, 1000)} }
	bold := func(s string) object {
		o := run(s)
		o["weight"] = "Bolder"
		return o
	}
	block := func(inlines ...object) object { return object{"type": "RichTextBlock", "inlines": inlines} }

	title := bold(c.Title)
	title["size"] = "Large"
	title["color"] = color(c.Severity)
	body := []object{block(title)}
	for _, f := range c.Facts {
		b := block(bold(f.Name+": "), run(f.Value))
		b["spacing"] = "None"
		body = append(body, b)
	}
	for _, it := range c.Items {
		head := it.Title
		if it.Severity != "" {
			head = it.Severity + "  " + head
		}
		first := block(bold(plain.Clip(head, 400)))
		first["separator"] = true
		blocks := []object{first}
		for _, l := range it.Lines {
			blocks = append(blocks, block(run(l)))
		}
		if it.Command != "" {
			o := run(it.Command)
			o["fontType"] = "Monospace"
			blocks = append(blocks, block(o))
		}
		if it.Link != "" {
			o := run("show")
			o["selectAction"] = object{"type": "Action.OpenUrl", "url": it.Link}
			blocks = append(blocks, block(o))
		}
		for _, b := range blocks[1:] {
			b["spacing"] = "None"
		}
		body = append(body, blocks...)
	}
	if s := strings.TrimSpace(c.more() + "\n" + c.Note); s != "" {
		body = append(body, block(run(s)))
	}
	return object{
		"type": "message",
		"attachments": []object{{
			"contentType": "application/vnd.microsoft.card.adaptive",
			"contentUrl":  nil,
			"content": object{
				"$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
				"type":    "AdaptiveCard",
				"version": "1.4",
				"msteams": object{"width": "Full"},
				"body":    body,
			},
		}},
	}
}

func color(s rulev1.Severity) string {
	switch {
	case s >= rulev1.Severity_SEVERITY_HIGH:
		return "Attention"
	case s == rulev1.Severity_SEVERITY_MEDIUM:
		return "Warning"
	}
	return "Default"
}
