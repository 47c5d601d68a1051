package bus

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// tokenMax bounds a routing token, in bytes. The server's default limit for a
// whole protocol line is 4096.
const tokenMax = 120

// token makes one subject token, or one key of a bucket, from any value:
// letters, digits, hyphen and underscore stay, every other byte becomes =XX,
// and the empty value becomes =. A value too long for a token keeps its
// beginning and is told apart by its hash.
func token(value string) string {
	if value == "" {
		return "="
	}
	var b strings.Builder
	for i := 0; i < len(value) && b.Len() <= tokenMax; i++ {
		c := value[i]
		if c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	if b.Len() <= tokenMax {
		return b.String()
	}
	sum := sha256.Sum256([]byte(value))
	return b.String()[:tokenMax-34] + "==" + hex.EncodeToString(sum[:16])
}

// untoken is the value a token was made from; false when it was too long to be
// kept, or when the token is none of ours.
func untoken(t string) (string, bool) {
	if t == "=" {
		return "", true
	}
	var b strings.Builder
	for i := 0; i < len(t); i++ {
		if t[i] != '=' {
			b.WriteByte(t[i])
			continue
		}
		if i+2 >= len(t) {
			return "", false
		}
		c, err := hex.DecodeString(t[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.Write(c)
		i += 2
	}
	return b.String(), t != ""
}

// subject joins a message name and routing tokens.
func subject(name string, values ...string) string {
	var b strings.Builder
	b.WriteString(name)
	for _, v := range values {
		b.WriteByte('.')
		b.WriteString(token(v))
	}
	return b.String()
}
