package auth_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// register is a persistence that counts how often it is asked, and can be away.
type register struct {
	mu     sync.Mutex
	tokens map[string]*authv1.Token // by hash
	asked  int
	away   error
}

func (r *register) lookup(_ context.Context, hash []byte) (*authv1.Token, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.away != nil {
		return nil, r.away
	}
	if t := r.tokens[string(hash)]; t != nil {
		return t, nil
	}
	return nil, errs.New(errs.NotFound, "TOKEN_NOT_FOUND", "there is no such token")
}

func (r *register) give(life time.Duration) string {
	s := auth.NewToken()
	r.tokens[string(auth.HashToken(s))] = &authv1.Token{Id: "1", Name: "ci", Role: authv1.Role_ROLE_VIEWER, Accounts: []string{"123456789012"}, ExpireTime: timestamppb.New(time.Now().Add(life))}
	return s
}

func want(t *testing.T, err error, reason, secret string) {
	t.Helper()
	if errs.Reason(err) != reason {
		t.Errorf("%v (%s); want %s", err, errs.Reason(err), reason)
	}
	if err != nil && strings.Contains(err.Error(), secret) {
		t.Errorf("the error has the token in it: %v", err)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &register{tokens: map[string]*authv1.Token{}}
		v := auth.NewVerifier(r.lookup, nil, time.Now)
		verify := func(s string) (auth.Principal, error) { return v.Verify(t.Context(), s) }
		good := r.give(time.Hour)
		p, err := verify(good)
		if err != nil || p.Name != "ci" || p.ID != "1" || p.Role != authv1.Role_ROLE_VIEWER || !p.Sees("123456789012") || p.Sees("1") || p.Expire.IsZero() {
			t.Fatalf("%+v, %v", p, err)
		}
		for range 100 {
			if _, err := verify(good); err != nil {
				t.Fatal(err)
			}
		}
		if r.asked != 1 {
			t.Errorf("asked %d times about one token within a moment", r.asked)
		}

		// What is no token is nobody's business.
		for _, bad := range []string{"", "x", "nst_x", good[:len(good)-1], good + "a", strings.Repeat("x", 1<<20), "a.b.c", "Bearer " + good} {
			_, err := verify(bad)
			want(t, err, "TOKEN_INVALID", good)
		}
		if r.asked != 1 {
			t.Errorf("asked %d times about what is none", r.asked)
		}

		// One that was never given is asked about once.
		none := auth.NewToken()
		for range 100 {
			_, err := verify(none)
			want(t, err, "TOKEN_INVALID", none)
		}
		if r.asked != 2 {
			t.Errorf("asked %d times about one that there is not", r.asked)
		}

		// A revoked token works for 15 s more at most.
		r.tokens[string(auth.HashToken(good))].RevokeTime = timestamppb.Now()
		r.tokens[string(auth.HashToken(good))] = &authv1.Token{Id: "1", RevokeTime: timestamppb.Now(), ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}
		time.Sleep(15 * time.Second)
		_, err = verify(good)
		want(t, err, "TOKEN_REVOKED", good)

		// One that expires does so to the moment, however fresh it is.
		short := r.give(time.Minute)
		if _, err := verify(short); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Nanosecond)
		if _, err := verify(short); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Nanosecond)
		p, err = verify(short)
		want(t, err, "TOKEN_EXPIRED", short)
		if p.ID != "1" || p.Role != authv1.Role_ROLE_UNSPECIFIED {
			t.Errorf("the audit log hears of %+v", p)
		}
	})
}

// While persistence does not answer, who was known stays known for five
// minutes, and nobody else comes in.
func TestVerifyWithoutPersistence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &register{tokens: map[string]*authv1.Token{}}
		v := auth.NewVerifier(r.lookup, nil, time.Now)
		good, other := r.give(time.Hour), r.give(time.Hour)
		if _, err := v.Verify(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		r.away = errs.New(errs.Unavailable, "DATABASE_UNAVAILABLE", "away")
		_, err := v.Verify(t.Context(), other)
		want(t, err, "TOKEN_UNVERIFIED", other)
		if !errors.Is(err, errs.Unavailable) {
			t.Error(err)
		}
		before := r.asked
		for range 29 {
			time.Sleep(10 * time.Second)
			if _, err := v.Verify(t.Context(), good); err != nil {
				t.Fatal(err)
			}
		}
		if r.asked-before > 60 {
			t.Errorf("asked %d times", r.asked-before)
		}
		time.Sleep(15 * time.Second)
		_, err = v.Verify(t.Context(), good)
		want(t, err, "TOKEN_UNVERIFIED", good)
		r.away = nil
		if _, err := v.Verify(t.Context(), good); err != nil {
			t.Error(err)
		}
	})
}

// A flood of tokens that look like some becomes no flood of questions, and
// those who are known notice nothing.
func TestAFloodOfTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &register{tokens: map[string]*authv1.Token{}}
		v := auth.NewVerifier(r.lookup, nil, time.Now)
		good := r.give(time.Hour)
		if _, err := v.Verify(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		refused := 0
		for range 5000 {
			if _, err := v.Verify(t.Context(), auth.NewToken()); errors.Is(err, errs.ResourceExhausted) {
				refused++
			}
		}
		if r.asked > 201 || refused < 4700 {
			t.Errorf("asked %d times, refused %d", r.asked, refused)
		}
		time.Sleep(20 * time.Second) // it must be asked about again
		for range 5000 {
			_, _ = v.Verify(t.Context(), auth.NewToken())
		}
		if _, err := v.Verify(t.Context(), good); err != nil {
			t.Error(err)
		}
	})
}

// Many calls with one token at once are one question.
func TestVerifyAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &register{tokens: map[string]*authv1.Token{}}
		good := r.give(time.Hour)
		v := auth.NewVerifier(func(ctx context.Context, hash []byte) (*authv1.Token, error) {
			if !bytes.Equal(hash, auth.HashToken(good)) {
				t.Errorf("asked about another token")
			}
			time.Sleep(time.Second)
			return r.lookup(ctx, hash)
		}, nil, time.Now)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if _, err := v.Verify(t.Context(), good); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if r.asked != 1 {
			t.Errorf("asked %d times", r.asked)
		}
	})
}
