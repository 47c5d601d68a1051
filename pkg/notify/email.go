package notify

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"strings"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/plain"
)

//go:embed email.html
var emailSource string

var emailPage = template.Must(template.New("email").Funcs(template.FuncMap{"paint": func(severity string) template.CSS {
	switch severity {
	case "CRITICAL", "HIGH":
		return "#b3261e"
	case "MEDIUM":
		return "#8a5a00"
	}
	return "#5b636d"
}}).Parse(emailSource))

// email mails the message to all mailboxes of the receiver at once.
func (a *attempt) email(ctx context.Context, r *notificationv1.Email) (string, error) {
	var to []string
	for _, text := range r.GetTo() {
		addr, err := mail.ParseAddress(text)
		if err != nil || addr.Address != text || strings.ContainsFunc(text, plain.Unsafe) {
			return "", &Failure{Permanent: true, Receiver: true, Detail: a.detail("%q is no address", plain.Clip(text, 100))}
		}
		to = append(to, text)
	}
	raw, err := a.mail(to)
	if err != nil {
		return "", &Failure{Permanent: true, Detail: "the mail cannot be written"}
	}
	return a.deliver(ctx, to, raw)
}

// mail writes the mail: text and HTML that says the same, without anything from
// elsewhere.
func (a *attempt) mail(to []string) ([]byte, error) {
	c := a.content()
	var html bytes.Buffer
	if err := emailPage.Execute(&html, struct {
		*content
		Rest string
	}{c, c.more()}); err != nil {
		return nil, err
	}

	domain := a.from.Address[strings.LastIndexByte(a.from.Address, '@')+1:]
	name := func(kind, key string) string {
		sum := sha256.Sum256([]byte(key))
		return "<" + kind + "." + hex.EncodeToString(sum[:16]) + "@" + domain + ">"
	}
	var recipients []string
	for _, t := range to {
		recipients = append(recipients, (&mail.Address{Address: t}).String())
	}
	var b bytes.Buffer
	header := func(key, value string) { fmt.Fprintf(&b, "%s: %s\r\n", key, value) }
	header("From", a.from.String())
	header("To", strings.Join(recipients, ",\r\n "))
	header("Subject", encoded("[Nightshift] "+c.Title))
	header("Date", a.when().Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	// The same for all attempts: a mailbox that has it can tell.
	header("Message-ID", name("message", a.IdempotencyKey))
	if key := a.Message.GetGroupKey(); key != "" {
		// The mails of a group hang from one that was never sent.
		header("In-Reply-To", name("group", key))
		header("References", name("group", key))
	}
	header("List-Id", "Nightshift <nightshift."+domain+">")
	header("Auto-Submitted", "auto-generated")
	header("X-Auto-Response-Suppress", "All")
	header("MIME-Version", "1.0")
	// The boundary is derived as well, so that an attempt repeats the mail to
	// the byte. Quoted-printable holds no "=_".
	boundary := "=_" + strings.Trim(name("b", a.IdempotencyKey), "<>")[:34]
	parts := multipart.NewWriter(&b)
	if err := parts.SetBoundary(boundary); err != nil {
		return nil, err
	}
	header("Content-Type", mime.FormatMediaType("multipart/alternative", map[string]string{"boundary": boundary}))
	b.WriteString("\r\n")
	for _, p := range []struct{ media, text string }{{"text/plain", c.text(60_000)}, {"text/html", html.String()}} {
		w, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {p.media + "; charset=utf-8"}, "Content-Transfer-Encoding": {"quoted-printable"}})
		if err != nil {
			return nil, err
		}
		q := quotedprintable.NewWriter(w)
		if _, err := q.Write([]byte(strings.ReplaceAll(p.text, "\n", "\r\n"))); err != nil {
			return nil, err
		}
		if err := q.Close(); err != nil {
			return nil, err
		}
	}
	if err := parts.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// encoded is a text as the value of a header: ASCII in lines that are not too
// long.
func encoded(s string) string {
	s = mime.QEncoding.Encode("utf-8", plain.Clean(s))
	return strings.ReplaceAll(s, "?= =?", "?=\r\n =?")
}
