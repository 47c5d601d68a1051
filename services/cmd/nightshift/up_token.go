package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

const (
	// localLife is how long the token of "up" lives, and localRenew how long
	// before its end a start takes another.
	localLife  = 365 * 24 * time.Hour
	localRenew = 60 * 24 * time.Hour
)

// token leaves an admin's token in the data directory, where only its owner
// can read it: whoever can has everything else that is there, too. What is
// there and good stays.
func (u *everything) token(ctx context.Context) error {
	api := authv1.NewAuthServiceClient(u.host.Dial("persistence"))
	path := filepath.Join(u.dir, tokenFile)
	had, err := os.ReadFile(path)
	if old := strings.TrimSpace(string(had)); err == nil && auth.IsToken(old) {
		r, err := patiently(ctx, func(ctx context.Context) (*authv1.AuthenticateResponse, error) {
			return api.Authenticate(ctx, &authv1.AuthenticateRequest{Hash: auth.HashToken(old)})
		})
		switch k := r.GetToken(); {
		case err == nil && k.GetRevokeTime() == nil && u.c.now().Add(localRenew).Before(k.GetExpireTime().AsTime()):
			return os.Chmod(path, 0o600)
		case err == nil && k.GetRevokeTime() == nil:
			if _, err := api.RevokeToken(ctx, &authv1.RevokeTokenRequest{Id: k.GetId()}); err != nil {
				return err
			}
		case err != nil && !errors.Is(err, errs.NotFound): // none like it: another database
			return err
		}
	}
	r, err := patiently(ctx, func(ctx context.Context) (*authv1.CreateTokenResponse, error) {
		return api.CreateToken(ctx, &authv1.CreateTokenRequest{Token: &authv1.Token{
			Name: localName(), Role: authv1.Role_ROLE_ADMIN, ExpireTime: timestamppb.New(u.c.now().Add(localLife)),
		}})
	})
	if err != nil {
		return err
	}
	// A new file, or one that others could read would keep its mode.
	_ = os.Remove(path + ".new")
	if err := os.WriteFile(path+".new", []byte(r.GetSecret()+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// localName is the user's name as far as it can be that of a token.
func localName() string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._@+-", r) {
			return r
		}
		return '-'
	}, requester())
	name = strings.TrimLeft(name, "._@+-")
	if name == "" {
		return "local"
	}
	return name[:min(len(name), 100)]
}
