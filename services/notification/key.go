package notification

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// groupKey is the identity of a group: its route, its receivers, which are
// sorted, and what its events share.
func groupKey(route string, receivers []string, group map[string]string) string {
	b, _ := json.Marshal([]any{route, receivers, group}) // strings, and the keys of maps are sorted
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// idempotencyKey is the same for a message and receiver, whoever makes the
// delivery and however often.
func idempotencyKey(group string, number int64, receiver string) string {
	sum := sha256.Sum256([]byte(group + "\x00" + strconv.FormatInt(number, 10) + "\x00" + receiver))
	return hex.EncodeToString(sum[:])
}
