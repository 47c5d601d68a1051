package notification

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/errs"
)

func TestTestReceiver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hook("ops")
	test := func() *notificationv1.Attempt {
		resp, err := w.service.TestReceiver(t.Context(), &notificationv1.TestReceiverRequest{Receiver: "ops"})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetAttempt()
	}
	if a := test(); !a.GetOk() || a.GetTime() == nil {
		t.Errorf("the attempt is %v", a)
	}
	if got := w.place.got("ops"); len(got) != 1 || got[0].message.GetKind() != notificationv1.MessageKind_MESSAGE_KIND_TEST {
		t.Errorf("what arrived is %v", got)
	}
	w.place.mood("ops", status(http.StatusForbidden))
	if a := test(); a.GetOk() || !strings.Contains(a.GetDetail(), "403") {
		t.Errorf("the attempt is %v", a)
	}
	if _, err := w.service.TestReceiver(t.Context(), &notificationv1.TestReceiverRequest{Receiver: "nobody"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a receiver that is not there: %v", err)
	}
}
