package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// TokenPrefix begins every API token, so that people and scanners of secrets
// know one when they see it. A token matches nst_[a-z2-7]{39}.
const TokenPrefix = "nst_"

const (
	tokenRandom   = 20 // bytes, which are 160 bits and 32 characters
	tokenChecksum = 7  // characters, of a CRC-32
)

var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewToken makes a token that nobody can guess.
func NewToken() string {
	var b [tokenRandom]byte
	_, _ = rand.Read(b[:]) // never fails
	body := tokenText.EncodeToString(b[:])
	return TokenPrefix + body + checksum(body)
}

func checksum(body string) string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], crc32.ChecksumIEEE([]byte(TokenPrefix+body)))
	return tokenText.EncodeToString(b[:])
}

// IsToken tells whether a text could be a token: it is well formed and its
// checksum is right. What is mistyped or made up is told without asking anybody.
func IsToken(s string) bool {
	body, ok := strings.CutPrefix(s, TokenPrefix)
	if !ok || len(body) != tokenText.EncodedLen(tokenRandom)+tokenChecksum {
		return false
	}
	n := len(body) - tokenChecksum
	return checksum(body[:n]) == body[n:] && strings.Trim(body[:n], "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// HashToken is what is kept of a token. It needs no salt and no slowness: a
// token has 160 random bits.
func HashToken(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}
