package bus

import (
	"testing"

	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
)

func deadLetters(t testing.TB, b *Bus) []*deadletterv1.DeadLetter {
	t.Helper()
	list, err := b.DeadLetters().List(t.Context(), "", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
