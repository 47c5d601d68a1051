package notify

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// rendered is a message in every medium, as JSON or as it is.
func rendered(t testing.TB, m *notificationv1.Message) map[string][]byte {
	t.Helper()
	s := sender(t, Config{From: "Nightshift <nightshift@example.com>", Link: "https://nightshift.example.com/findings/{id}"}, nil)
	a := &attempt{Sender: s, Envelope: envelope(nil, harmless(m))}
	out := map[string][]byte{}
	asJSON := func(medium string, v any) {
		b, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		out[medium] = b
	}
	asJSON("slack", slackMessage(a.content()))
	asJSON("teams", teamsMessage(a.content()))
	asJSON("pagerduty", a.pagerDutyEvents(a.content()))
	asJSON("alertmanager", a.alerts())
	body, err := a.webhookBody()
	if err != nil {
		t.Fatal(err)
	}
	asJSON("webhook", json.RawMessage(body))
	if out["mail"], err = a.mail([]string{"finops@example.com", "maria.santos@example.com"}); err != nil {
		t.Fatal(err)
	}
	out["shoutrrr"] = []byte(chat.Replace(a.content().text(mostShoutrrr)))
	return out
}

// What people get to see changes with intent alone: -update rewrites it. Every
// kind is looked at as text, and one of each in every medium.
func TestGolden(t *testing.T) {
	t.Parallel()
	for kind, m := range samples() {
		for medium, got := range rendered(t, m) {
			if medium != "shoutrrr" && !slices.Contains([]string{"many", "resolved"}, kind) {
				continue
			}
			got = append(bytes.ReplaceAll(bytes.TrimSpace(got), []byte("\r\n"), []byte("\n")), '\n')
			path := filepath.Join("testdata", medium+"-"+kind+".golden")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
				continue
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s, %s: not as in %s:\n%s", medium, kind, path, got)
			}
		}
	}
}
