package aws

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
)

// stubRole hands out credentials for an hour, or fails.
type stubRole struct {
	asked int
	err   error
}

func (s *stubRole) Retrieve(context.Context) (sdk.Credentials, error) {
	s.asked++
	if s.err != nil {
		return sdk.Credentials{}, s.err
	}
	return sdk.Credentials{AccessKeyID: "A", SecretAccessKey: "S", CanExpire: true, Expires: time.Now().Add(time.Hour)}, nil
}

func TestCredentialsAreRenewedAt80Percent(t *testing.T) {
	t.Parallel()
	hiccup := errors.New("no route to host")
	denied := &smithy.GenericAPIError{Code: "AccessDenied"}
	for name, test := range map[string]struct {
		after time.Duration
		err   error // what STS answers then
		asked int
		fails bool
	}{
		"young":                            {after: 48*time.Minute - time.Second, asked: 1},
		"at 80 %":                          {after: 48*time.Minute + time.Second, asked: 2},
		"a hiccup while the old ones live": {after: 50 * time.Minute, err: hiccup, asked: 2},
		"a hiccup in the last minute":      {after: 59*time.Minute + time.Second, err: hiccup, asked: 2, fails: true},
		"a hiccup when they are over":      {after: 61 * time.Minute, err: hiccup, asked: 2, fails: true},
		"the role was taken away":          {after: 50 * time.Minute, err: denied, asked: 2, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				stub := &stubRole{}
				cache := sdk.NewCredentialsCache(&role{provider: stub})
				if _, err := cache.Retrieve(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(test.after)
				stub.err = test.err
				creds, err := cache.Retrieve(t.Context())
				if stub.asked != test.asked || (err != nil) != test.fails {
					t.Errorf("asked %d times and got %v, want %d and failure %v", stub.asked, err, test.asked, test.fails)
				}
				if err == nil && (creds.Expired() || test.err != nil && time.Until(creds.Expires) > time.Minute) {
					t.Errorf("they count as good until %v from now", time.Until(creds.Expires))
				}
			})
		})
	}
}
