package notify

import (
	"encoding/json"
	"maps"
	"mime"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/plain"
)

// poisons are what a tag can hold.
var poisons = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `</p></div><a href="https://evil.example">click</a>`, `<!-- `, `&lt;b&gt;`, `{{.Title}}`, `{{DATE(2017-02-14T06:00:00Z)}}`,
	`<!channel>`, `<!here|now>`, `<@U012345>`, `@everyone @here @channel`, `foo@everyone`, `<https://evil.example|your bank>`, `[your bank](https://evil.example)`, "`code` *bold* _it_ ~gone~ ||spoiler||", "```",
	`=cmd|'/C calc'!A0`, "\t=1+1", `+1`, `-1`, "@SUM(A1)",
	"\x1b[2J\x1b]0;owned\x07", "\x9b31m", "invoice\u202Efdp.exe", "a\u2066b\u2069", "zero\u200Bwidth\ufeff", "\U000E0041\U000E0042",
	"a\r\nBcc: victim@example.com\r\n\r\nbody", "\r\n.\r\nMAIL FROM:<x@example.com>", "=?utf-8?q?fake?=", "\u2028\u2029", "\x00", "\xff\xfe",
	`${jndi:ldap://evil.example/x}`, `@{concat('a')}`, strings.Repeat("A", 5000), strings.Repeat("界", 3000), "https://evil.example/x", `\`, `"`, `'; rm -rf / #`,
}

// poisoned is a message with a text in every place that comes from outside.
func poisoned(s string) *notificationv1.Message {
	m := proto.CloneOf(samples()["many"])
	m.Group = map[string]string{"owner": s}
	for _, n := range m.Notices {
		switch {
		case n.Finding != nil:
			f := n.Finding
			f.Title, f.Reason, f.Recommendation, f.Owner, f.RuleId = s, s, s, s, s
			f.Resource.Name, f.Resource.Id, f.Resource.Region, f.Resource.Account = s, s, s, s
			f.Resource.Tags = map[string]string{s: s}
			n.Transition.Reason, n.Transition.Actor, n.Transition.FromOwner, n.Transition.ToOwner = s, s, "x", s
			n.Transition.Acknowledgement = &findingv1.Acknowledgement{By: s, Note: s}
		case n.Run != nil:
			n.Run.Id, n.Run.Job, n.Run.Error = s, s, s
		case n.Hold != nil:
			n.Hold.RunId, n.Hold.Account, n.Hold.Service = s, s, s
		case n.Component != nil:
			n.Component.Title, n.Component.Reason, n.Component.State = s, s, healthv1.ComponentState_COMPONENT_STATE_DOWN
		}
	}
	m.ByRule = []*notificationv1.Count{count(s, 1), count("other", 2)}
	m.ByAccount = []*notificationv1.Count{count(s, 1), count("other", 2)}
	return m
}

// texts are all texts of a JSON document, with the keys that lead to them.
func texts(t testing.TB, raw []byte) (out [][2]string) {
	t.Helper()
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				out = append(out, [2]string{path + ".{key}", k})
				walk(path+"."+k, v[k])
			}
		case []any:
			for _, e := range v {
				walk(path, e)
			}
		case string:
			out = append(out, [2]string{path, v})
		}
	}
	walk("", doc)
	return out
}

// tags are the elements and attributes of a page, without their texts.
func tags(t testing.TB, page string) (out []string) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range root.Descendants() {
		switch n.Type {
		case html.ElementNode:
			s := n.Data
			for _, a := range n.Attr {
				s += " " + a.Key + "=" + a.Val
			}
			out = append(out, s)
		case html.CommentNode:
			out = append(out, "comment")
		}
	}
	return out
}

// checkHarmless looks at a message full of one text in every medium. elements
// are those of a mail without anything hostile in it.
func checkHarmless(t testing.TB, poison string, elements []string) {
	t.Helper()
	m := poisoned(poison)
	before := proto.CloneOf(m)
	out := rendered(t, m)
	if !proto.Equal(m, before) {
		t.Fatal("the message was changed")
	}
	for medium, raw := range out {
		if !utf8.Valid(raw) {
			t.Errorf("%s: no UTF-8", medium)
		}
		if medium == "mail" || medium == "shoutrrr" {
			continue
		}
		for _, kv := range texts(t, raw) {
			for _, r := range kv[1] {
				if r != '\n' && plain.Unsafe(r) && r != 0x2060 {
					t.Errorf("%s: %q in %s", medium, kv[1], kv[0])
				}
			}
		}
	}

	// Slack: markup is read in one field, and there is none of it. Foreign
	// texts are in fields that are shown as they are.
	for _, kv := range texts(t, out["slack"]) {
		path, s := kv[0], kv[1]
		switch {
		case path == ".text":
			rest := strings.NewReplacer("&amp;", "", "&lt;", "", "&gt;", "").Replace(s)
			if strings.ContainsAny(rest, "<>&") || strings.Contains(strings.ReplaceAll(s, "@\u2060", ""), "@") {
				t.Errorf("slack reads markup: %q", s)
			}
		case strings.HasSuffix(path, ".url"):
			if !strings.HasPrefix(s, "https://nightshift.example.com/findings/") {
				t.Errorf("slack links to %q", s)
			}
		case strings.HasSuffix(path, ".type"):
			if !slices.Contains([]string{"header", "plain_text", "rich_text", "rich_text_section", "text", "link", "divider"}, s) {
				t.Errorf("slack: a block of type %q", s)
			}
		}
		if n := utf8.RuneCountInString(s); n > 3000 {
			t.Errorf("slack: a text of %d characters", n)
		}
	}
	var slack struct {
		Blocks []struct {
			Type string
			Text struct{ Text string }
		}
	}
	if err := json.Unmarshal(out["slack"], &slack); err != nil || len(slack.Blocks) > 50 || utf8.RuneCountInString(slack.Blocks[0].Text.Text) > 150 {
		t.Errorf("slack: %d blocks, %v", len(slack.Blocks), err)
	}

	// Teams: no text block, which would read Markdown, and links of ours alone.
	for _, kv := range texts(t, out["teams"]) {
		path, s := kv[0], kv[1]
		if strings.HasSuffix(path, ".type") && !slices.Contains([]string{"message", "AdaptiveCard", "RichTextBlock", "TextRun", "Action.OpenUrl"}, s) {
			t.Errorf("teams: an element of type %q", s)
		}
		if strings.HasSuffix(path, ".url") && !strings.HasPrefix(s, "https://nightshift.example.com/findings/") {
			t.Errorf("teams links to %q", s)
		}
	}
	if b, _ := json.Marshal(json.RawMessage(out["teams"])); len(b) > 28<<10 {
		t.Errorf("teams: %d bytes", len(b))
	}

	// PagerDuty: its limits, and links of ours alone.
	for _, kv := range texts(t, out["pagerduty"]) {
		if strings.HasSuffix(kv[0], ".href") && !strings.HasPrefix(kv[1], "https://nightshift.example.com/findings/") {
			t.Errorf("pagerduty links to %q", kv[1])
		}
		if strings.HasSuffix(kv[0], ".summary") && utf8.RuneCountInString(kv[1]) > 1024 {
			t.Error("pagerduty: a long summary")
		}
	}
	if len(out["pagerduty"]) > 512<<10 {
		t.Errorf("pagerduty: %d bytes", len(out["pagerduty"]))
	}

	// Webhook: what is sent is the message, and nothing of it is HTML.
	a := &attempt{Sender: sender(t, Config{}, nil), Envelope: envelope(nil, harmless(m))}
	body, err := a.webhookBody()
	if err != nil || strings.ContainsAny(string(body), "<>&\n\u2028") {
		t.Errorf("webhook: %s, %v", body, err)
	}
	var hook struct{ Data json.RawMessage }
	var back notificationv1.Message
	if err := json.Unmarshal(body, &hook); err != nil || protojson.Unmarshal(hook.Data, &back) != nil || !proto.Equal(&back, a.Message) {
		t.Errorf("webhook: %v", err)
	}

	// Mail: the elements are those of the template, the headers those we set.
	h, text, page := read(t, out["mail"])
	for _, tag := range tags(t, page) {
		if !slices.Contains(elements, tag) {
			t.Errorf("mail: the element %q", tag)
		}
	}
	keys := slices.Sorted(maps.Keys(h))
	if !slices.Equal(keys, []string{"Auto-Submitted", "Content-Type", "Date", "From", "In-Reply-To", "List-Id", "Message-Id", "Mime-Version", "References", "Subject", "To", "X-Auto-Response-Suppress"}) {
		t.Errorf("mail: the headers %q", keys)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
	if err != nil || !strings.HasPrefix(subject, "[Nightshift] ") {
		t.Errorf("mail: %q, %v", subject, err)
	}
	for name, s := range map[string]string{"mail's text": text, "mail's page": page, "subject": subject, "shoutrrr": string(out["shoutrrr"])} {
		for _, r := range s {
			if r != '\n' && r != '\r' && r != 0x2060 && (unicode.IsControl(r) || plain.Unsafe(r)) {
				t.Errorf("%s: %q", name, r)
			}
		}
	}

	// The long tail: no call, no tag, no link with another target.
	long := string(out["shoutrrr"])
	if strings.ContainsAny(long, "<>`~") || strings.Contains(long, "](") || strings.Contains(strings.ReplaceAll(long, "@\u2060", ""), "@") || utf8.RuneCountInString(long) > 2000 {
		t.Errorf("shoutrrr: %q", long)
	}

	// No command to copy is written by a tag.
	for _, it := range a.content().Items {
		if strings.ContainsAny(it.Command, "'\";|&$`\\()<> \t") && !strings.HasPrefix(it.Command, "nightshift ") || strings.Count(it.Command, " ") > 3 {
			t.Errorf("a command: %q", it.Command)
		}
	}
}

func FuzzHostileTexts(f *testing.F) {
	for _, p := range poisons {
		f.Add(p)
	}
	f.Add(strings.Join(poisons, " "))
	_, _, page := read(f, rendered(f, poisoned("x"))["mail"])
	elements := tags(f, page)
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) < 10_000 { // what is longer is cut before anything else
			checkHarmless(t, s, elements)
		}
	})
}

// The biggest message there can be keeps to all limits.
func TestLimits(t *testing.T) {
	t.Parallel()
	for _, long := range []string{strings.Repeat("W", 4000), strings.Repeat("\\", 4000), strings.Repeat("<", 4000), strings.Repeat("😀", 4000)} {
		m := poisoned(long)
		first := m.Notices[0]
		m.Notices = nil
		for range 25 {
			m.Notices = append(m.Notices, proto.CloneOf(first))
		}
		m.Events = 1_000_000
		out := rendered(t, m)
		var slack struct{ Blocks []any }
		if err := json.Unmarshal(out["slack"], &slack); err != nil || len(slack.Blocks) > 50 {
			t.Errorf("slack: %d blocks, %v", len(slack.Blocks), err)
		}
		var card json.RawMessage = out["teams"]
		if b, err := json.Marshal(card); err != nil || len(b) > 28<<10 {
			t.Errorf("teams: %d bytes, %v", len(b), err)
		}
		if len(out["pagerduty"]) > 512<<10 || len(out["mail"]) > 2<<20 || utf8.RuneCount(out["shoutrrr"]) > 2000 {
			t.Errorf("pagerduty %d, mail %d, shoutrrr %d", len(out["pagerduty"]), len(out["mail"]), utf8.RuneCount(out["shoutrrr"]))
		}
		if !strings.Contains(string(out["shoutrrr"]), "more events") || !strings.Contains(string(out["teams"]), "more events") {
			t.Error("what is left out is not counted")
		}
	}
}
