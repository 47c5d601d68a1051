// Package page holds what every List RPC does alike, as in Google's AIP-158:
// page sizes, and opaque keyset tokens that are good only for the filter and
// order they came from.
package page

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"nightshift.dev/pkg/errs"
)

// The page sizes: what 0 means, and the most there is.
const (
	Default = 50
	Max     = 1000
)

// Size returns how many items to return for a request's page_size.
func Size(asked int32) int {
	switch {
	case asked <= 0:
		return Default
	case asked > Max:
		return Max
	default:
		return int(asked)
	}
}

type token struct {
	Key  json.RawMessage `json:"k"`
	Bind []byte          `json:"b"`
}

// Token packs the key of the last item of a page. bind is what the token
// depends on, such as filter and order: with other values it is refused.
func Token(key any, bind ...string) string {
	k, err := json.Marshal(key)
	if err != nil {
		// Keys are structs of numbers, strings and times of ours.
		panic("page: key cannot be marshalled: " + err.Error())
	}
	t, _ := json.Marshal(token{Key: k, Bind: sum(bind)})
	return base64.RawURLEncoding.EncodeToString(t)
}

// Parse reads a request's page_token into key. An empty token is the first
// page: key stays as it is and more is false. A token that is broken, or that
// belongs to another filter or order, is INVALID_ARGUMENT.
func Parse(text string, key any, bind ...string) (more bool, err error) {
	if text == "" {
		return false, nil
	}
	var t token
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(raw, &t) != nil || json.Unmarshal(t.Key, key) != nil {
		return false, errs.New(errs.InvalidArgument, "BAD_PAGE_TOKEN", "the page cannot be found").
			Field("page_token", "is not a token this service gave; take next_page_token as it came, or leave it empty for the first page")
	}
	if string(t.Bind) != string(sum(bind)) {
		return false, errs.New(errs.InvalidArgument, "BAD_PAGE_TOKEN", "the page cannot be found").
			Field("page_token", "belongs to another filter or order; repeat the request the token came from, or leave it empty")
	}
	return true, nil
}

func sum(bind []string) []byte {
	h := sha256.New()
	for _, b := range bind {
		h.Write([]byte(b))
		h.Write([]byte{0})
	}
	return h.Sum(nil)[:8]
}
