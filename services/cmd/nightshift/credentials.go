package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// tokenFile is where "up" leaves its token in the data directory, and where
// people keep theirs in the configuration directory.
const tokenFile = "token"

// tokenAdvice says how to get in.
const tokenAdvice = "NIGHTSHIFT_TOKEN holds a token, NIGHTSHIFT_TOKEN_FILE or --token-file names a file with one, and ~/.config/nightshift/token is looked at, too; an admin makes one with \"nightshift tokens create\"."

// way is how a service is called: who it must be, and who calls.
type way struct {
	transport credentials.TransportCredentials
	bearer    bearer // empty: no token
	source    string // of the token
}

// way decides how to call a service. What "up" runs on this machine has no
// TLS; anything else has when a directory of certificates is named.
func (c *cli) way(service, addr, from string) (way, error) {
	a := way{transport: insecure.NewCredentials()}
	dir, _ := c.dir()
	ours := from == "from "+filepath.Join(dir, endpointsFile)
	tlsDir := cmp.Or(c.tlsDir, c.env("NIGHTSHIFT_TLS_DIR"))
	if tlsDir != "" && !ours {
		certificates, err := auth.LoadTLS(tlsDir, slog.New(slog.DiscardHandler))
		if err != nil {
			return a, hint{err, "NIGHTSHIFT_TLS_DIR or --tls-dir names a directory with ca.crt and, for an operator, tls.crt and tls.key."}
		}
		a.transport = credentials.NewTLS(certificates.Client(service))
	}
	safe := tlsDir != "" && !ours || auth.IsLoopback(addr)
	token, source, said, err := c.token()
	switch {
	case err != nil:
		return a, err
	case token == "":
	case safe:
		a.bearer, a.source = bearer(token), source
	case said:
		return a, hint{usage("the token is not sent to %s, where it would travel in plain text for others to read", clean(addr)),
			"NIGHTSHIFT_TLS_DIR or --tls-dir names the directory with ca.crt, when the services use TLS."}
	}
	return a, nil
}

// token finds the token to call with: the first of those somebody names, of
// what "up" has left in the data directory, and of the one kept for every
// installation. said tells that somebody named it.
func (c *cli) token() (token, source string, said bool, err error) {
	if t := c.env("NIGHTSHIFT_TOKEN"); t != "" {
		token, err := oneToken(t, "NIGHTSHIFT_TOKEN")
		return token, "NIGHTSHIFT_TOKEN", true, err
	}
	read := func(path string) (string, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		return oneToken(string(b), path)
	}
	if path := cmp.Or(c.tokenFile, c.env("NIGHTSHIFT_TOKEN_FILE")); path != "" {
		token, err := read(path)
		if err != nil {
			err = usage("the token: %v", err)
		}
		return token, path, true, err
	}
	dir, _ := c.dir()
	paths := []string{filepath.Join(dir, tokenFile)}
	if home := cmp.Or(c.env("XDG_CONFIG_HOME"), join(c.env("HOME"), ".config")); home != "" {
		paths = append(paths, filepath.Join(home, "nightshift", tokenFile))
	}
	for _, path := range paths {
		token, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return token, path, false, err
	}
	return "", "", false, nil
}

func join(dir, name string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}

// oneToken is a token without what editors and shells add. It is not shown
// when it cannot be one.
func oneToken(text, source string) (string, error) {
	t := strings.TrimSpace(text)
	if t == "" || strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", usage("%s holds no token", source)
	}
	return t, nil
}

// bearer is sent with every call. That it is safe to send was found out before.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// notLetIn adds to an error of who calls what to do about it.
func (a way) notLetIn(err error) error {
	switch {
	case !errors.Is(err, errs.Unauthenticated):
		return err
	case a.source != "":
		return hint{err, fmt.Sprintf("The token is from %s. %s", a.source, tokenAdvice)}
	default:
		return hint{err, tokenAdvice}
	}
}
