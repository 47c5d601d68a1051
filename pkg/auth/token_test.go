package auth_test

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"nightshift.dev/pkg/auth"
)

var shape = regexp.MustCompile(`^nst_[a-z2-7]{39}$`)

func TestTokens(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		s := auth.NewToken()
		if !shape.MatchString(s) || !auth.IsToken(s) || seen[s] {
			t.Fatalf("%q is no token, or came twice", s)
		}
		seen[s] = true
	}
}

// Whatever is done to one or two characters of a token, it is none any more.
func TestATypoIsNoToken(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := []byte(auth.NewToken())
		was := string(s)
		for range rapid.IntRange(1, 2).Draw(t, "typos") {
			i := rapid.IntRange(0, len(s)-1).Draw(t, "place")
			s[i] = rapid.Byte().Draw(t, "character")
		}
		if got := string(s); got != was && auth.IsToken(got) {
			t.Fatalf("%q of %q is a token", got, was)
		}
		cut := rapid.IntRange(0, len(was)-1).Draw(t, "cut")
		if auth.IsToken(was[:cut]) || auth.IsToken(was+was[cut:]) || auth.IsToken(strings.ToUpper(was)) {
			t.Fatalf("%q cut at %d is a token", was, cut)
		}
	})
}

func FuzzIsToken(f *testing.F) {
	f.Add(auth.NewToken())
	f.Add("nst_")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if auth.IsToken(s) && !shape.MatchString(s) {
			t.Errorf("%q is a token", s)
		}
	})
}
