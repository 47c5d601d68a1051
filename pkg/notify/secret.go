package notify

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"nightshift.dev/pkg/plain"
)

const (
	// mostSecret bounds a secret, in bytes.
	mostSecret = 64 << 10
	// mostDetail bounds what is told of an attempt, in characters.
	mostDetail = 500
	// redacted stands where a secret was.
	redacted = "[secret]"
)

var reference = regexp.MustCompile(`^(env:NIGHTSHIFT_SECRET_[A-Z0-9_]{1,100}|file:[A-Za-z0-9][A-Za-z0-9._-]{0,99})$`)

// attempt is what one call of Send works with: the envelope, with a message
// made harmless, and the secrets it has read so far, to keep them out of what
// is told about it.
type attempt struct {
	*Sender
	Envelope
	secrets []string
}

// secret reads what a reference names: now, so that a new value counts from
// the next attempt on. Errors name the reference.
func (a *attempt) secret(ref string) (string, error) {
	v, err := a.resolve(ref)
	if err != nil {
		// Whoever mounts the secret later finds the message waiting.
		return "", &Failure{Receiver: true, Detail: fmt.Sprintf("secret %q: %v", plain.Clip(plain.Clean(ref), 120), err)}
	}
	a.hide(v)
	return v, nil
}

func (s *Sender) resolve(ref string) (string, error) {
	if !reference.MatchString(ref) {
		return "", errors.New("is no reference: env:NIGHTSHIFT_SECRET_<NAME> or file:<name>")
	}
	var v string
	if name, ok := strings.CutPrefix(ref, "env:"); ok {
		if v, ok = s.lookup(name); !ok {
			return "", errors.New("the variable is not set")
		}
	} else {
		b, err := s.readSecret(strings.TrimPrefix(ref, "file:"))
		if err != nil {
			return "", err
		}
		v = string(b)
	}
	switch v = strings.TrimSpace(v); {
	case v == "":
		return "", errors.New("is empty")
	case len(v) > mostSecret:
		return "", fmt.Errorf("is larger than %d bytes", mostSecret)
	}
	return v, nil
}

// readSecret reads a file of the secrets' directory. Symbolic links are
// followed within it, as mounted Kubernetes secrets need, and not out of it.
func (s *Sender) readSecret(name string) ([]byte, error) {
	if s.cfg.SecretsDir == "" {
		return nil, errors.New("NIGHTSHIFT_SECRETS_DIR is not set")
	}
	root, err := os.OpenRoot(s.cfg.SecretsDir)
	if err != nil {
		return nil, errors.New("NIGHTSHIFT_SECRETS_DIR cannot be opened: " + because(err))
	}
	defer root.Close()
	// Opening a pipe would wait for a writer, so look before.
	if info, err := root.Stat(name); err != nil {
		return nil, errors.New("cannot be read: " + because(err))
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("is no regular file")
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, errors.New("cannot be read: " + because(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, mostSecret+1))
	if err != nil {
		return nil, errors.New("cannot be read: " + because(err))
	}
	return b, nil
}

// because is the reason of a failed file operation without its path.
func because(err error) string {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err.Error()
	}
	return "refused"
}

// hide keeps a secret, and the parts of one that is an address, out of details.
// Answers can hold them in any of the usual spellings.
func (a *attempt) hide(secret string) {
	add := func(least int, values ...string) {
		for _, v := range values {
			if len(v) < least {
				continue
			}
			for _, form := range spellings(v) {
				if !slices.Contains(a.secrets, form) {
					a.secrets = append(a.secrets, form)
				}
			}
		}
	}
	add(1, secret)
	add(6, strings.Fields(secret)...)
	u, err := url.Parse(secret)
	switch {
	case err != nil:
		add(6, strings.FieldsFunc(secret, func(r rune) bool { return strings.ContainsRune("/?&=@:#", r) })...)
	case u.Scheme != "":
		add(4, u.RequestURI(), u.EscapedPath(), u.User.Username())
		if password, ok := u.User.Password(); ok {
			add(1, password)
		}
		add(4, strings.Split(u.Path, "/")...)
		for _, vs := range u.Query() {
			add(4, vs...)
		}
		if h := u.Hostname(); !strings.HasPrefix(u.Scheme, "http") && !strings.HasPrefix(u.Scheme, "smtp") && !strings.Contains(h, ".") {
			add(4, h) // some services of shoutrrr have a token there
		}
	}
	slices.SortFunc(a.secrets, func(x, y string) int { return len(y) - len(x) })
}

// spellings are the forms in which a receiver may send a secret back: as it is,
// in a URL, in base64, and in JSON, of which some escape slashes.
func spellings(v string) []string {
	lower := func(s string) string { return percent.ReplaceAllStringFunc(s, strings.ToLower) }
	forms := []string{
		v, url.QueryEscape(v), lower(url.QueryEscape(v)), url.PathEscape(v), lower(url.PathEscape(v)),
		base64.StdEncoding.EncodeToString([]byte(v)), base64.RawURLEncoding.EncodeToString([]byte(v)),
	}
	for _, escapeHTML := range []bool{true, false} {
		var b strings.Builder
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(escapeHTML)
		_ = e.Encode(v) // a text, which cannot fail
		quoted := strings.TrimSpace(b.String())
		quoted = quoted[1 : len(quoted)-1]
		forms = append(forms, quoted, strings.ReplaceAll(quoted, "/", `\/`))
	}
	return forms
}

var percent = regexp.MustCompile(`%[0-9A-F]{2}`)

// detail makes a text fit to be told: one harmless line without secrets, at
// most 500 characters.
func (a *attempt) detail(format string, args ...any) string {
	s := plain.Clean(fmt.Sprintf(format, args...))
	var pairs []string
	for _, secret := range a.secrets {
		pairs = append(pairs, secret, redacted)
	}
	s = strings.NewReplacer(pairs...).Replace(s)
	return plain.Clip(strings.Join(strings.Fields(s), " "), mostDetail)
}
