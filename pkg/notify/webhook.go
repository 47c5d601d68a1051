package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
)

// webhook posts the message itself, signed by the Standard Webhooks
// specification. The body is
//
//	{"type": "notification.news", "timestamp": "2026-03-31T08:00:00Z", "data": {…}}
//
// with the message in proto's JSON form as data; fields are added to it, and
// never change.
func (a *attempt) webhook(ctx context.Context, r *notificationv1.Webhook) (string, error) {
	to, err := a.address("the URL", r.GetUrl(), false)
	if err != nil {
		return "", err
	}
	secrets, err := a.secret(r.GetSigningSecret())
	if err != nil {
		return "", err
	}
	body, err := a.webhookBody()
	if err != nil {
		return "", &Failure{Permanent: true, Detail: "the message cannot be written as JSON"}
	}
	// The time is that of sending: receivers refuse what is old.
	header, ok := signed(secrets, a.IdempotencyKey, a.Time, body)
	if !ok {
		return "", &Failure{Receiver: true, Detail: "the signing secret is not of the form whsec_<24 to 64 bytes in base64>; several are separated by blanks"}
	}
	return a.post(ctx, to, body, header)
}

func (a *attempt) webhookBody() ([]byte, error) {
	data, err := protojson.Marshal(a.Message)
	if err != nil {
		return nil, err
	}
	kind := strings.ToLower(strings.TrimPrefix(cmp.Or(a.Message.GetKind(), notificationv1.MessageKind_MESSAGE_KIND_NEWS).String(), "MESSAGE_KIND_"))
	// Marshal makes the spaces in it regular and escapes what HTML would read.
	b, err := json.Marshal(struct {
		Type      string          `json:"type"`
		Timestamp string          `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}{"notification." + kind, a.when().Format(time.RFC3339), data})
	return bytes.TrimSpace(b), err
}

// signed returns the three headers of Standard Webhooks, with one signature
// for each secret, so that a receiver can change its secret without a gap. It
// reports whether there is a secret, and each is one.
func signed(secrets, id string, at time.Time, body []byte) (http.Header, bool) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	var signatures []string
	for _, secret := range strings.Fields(secrets) {
		text, ok := strings.CutPrefix(secret, "whsec_")
		if !ok {
			return nil, false
		}
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) < 24 || len(key) > 64 {
			return nil, false
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + stamp + "."))
		mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if len(signatures) == 0 {
		return nil, false
	}
	// The specification writes them in lower case; HTTP does not care.
	h := http.Header{}
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", stamp)
	h.Set("Webhook-Signature", strings.Join(signatures, " "))
	return h, true
}
