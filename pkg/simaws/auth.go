package simaws

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// identity is who asks, and for which region.
type identity struct {
	account     *Account
	session     *session // nil for a static key
	scopeRegion string
}

// arn of the caller, as GetCallerIdentity tells it.
func (i identity) arn() string {
	if i.session != nil {
		return "arn:aws:sts::" + i.account.ID + ":assumed-role/" + i.session.Role + "/" + i.session.Name
	}
	return "arn:aws:iam::" + i.account.ID + ":user/demo"
}

func (i identity) userID() string {
	if i.session != nil {
		return roleID(i.account.ID, i.session.Role) + ":" + i.session.Name
	}
	return "AIDA" + strings.TrimPrefix(i.account.AccessKey, "AKIA")
}

func roleID(account, role string) string {
	return "AROA" + key16(hashString("role/"+account+"/"+role))
}

// key16 spells 16 characters of the alphabet of access key ids.
func key16(h uint64) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	var b [16]byte
	for i := range b {
		if i == 8 {
			h = mix(h, 8)
		}
		b[i] = alphabet[h>>(5*(i%8))&31]
	}
	return string(b[:])
}

type scope struct{ key, region, service string }

// credential reads the access key and scope of a SigV4 signature, from the header or a presigned URL.
func (c *call) credential() (scope, bool) {
	text := c.r.URL.Query().Get("X-Amz-Credential")
	if h := c.r.Header.Get("Authorization"); strings.HasPrefix(h, "AWS4-HMAC-SHA256 ") {
		_, rest, _ := strings.Cut(h, "Credential=")
		text, _, _ = strings.Cut(rest, ",")
	}
	p := strings.Split(strings.TrimSpace(text), "/")
	if len(p) != 5 || p[0] == "" || p[2] == "" || p[4] != "aws4_request" {
		return scope{}, false
	}
	return scope{key: p[0], region: p[2], service: p[3]}, true
}

// authenticate finds the account behind the access key and the region behind the credential scope.
func (c *call) authenticate() error {
	s, ok := c.credential()
	if !ok {
		return fail(403, "MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	c.scopeRegion = s.region
	token := c.r.Header.Get("X-Amz-Security-Token")
	if token == "" {
		token = c.r.URL.Query().Get("X-Amz-Security-Token")
	}
	if strings.HasPrefix(s.key, "ASIA") {
		ses, err := c.s.openSession(s.key, token)
		if err != nil {
			return c.unknownKey()
		}
		c.account, c.session = c.s.estate.Account(ses.Account), ses
		if c.account == nil || c.account.State != "" {
			return c.unknownKey()
		}
		if c.now.Unix() >= ses.Expires {
			return c.expired()
		}
	} else {
		i := slices.IndexFunc(c.s.estate.Accounts, func(a *Account) bool { return a.AccessKey == s.key && a.State == "" })
		if i < 0 || token != "" {
			return c.unknownKey()
		}
		c.account = c.s.estate.Accounts[i]
	}
	if c.service == "organizations" || c.service == "sts" || c.service == "pricing" {
		return nil
	}
	if c.region = c.account.Region(s.region); c.region == nil || !c.region.enabled() {
		known := c.region != nil || slices.Contains(optInRegions, s.region)
		if known {
			return fail(403, "OptInRequired", "You are not subscribed to this service. Please go to http://aws.amazon.com to subscribe.")
		}
		return c.unknownKey()
	}
	return nil
}

// unknownKey is each service's way to refuse credentials it has never seen.
func (c *call) unknownKey() error {
	switch c.service {
	case "ec2":
		return fail(401, "AuthFailure", "AWS was not able to validate the provided access credentials")
	case "organizations", "pricing":
		return fail(400, "UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	return fail(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
}

// expired is each service's way to refuse credentials whose time is over.
func (c *call) expired() error {
	switch c.service {
	case "ec2":
		return fail(400, "RequestExpired", "Request has expired.")
	case "organizations", "pricing":
		return fail(400, "ExpiredTokenException", "The security token included in the request is expired")
	}
	return fail(403, "ExpiredToken", "The security token included in the request is expired")
}

// denied is each service's way to say that the policy does not allow the call.
func (c *call) denied() error { return c.refused(false) }

// refused says which kind of policy stands against the call: none that allows it, or one that forbids it.
func (c *call) refused(explicitly bool) error {
	action := c.service + ":" + c.action
	why := "because no identity-based policy allows the " + action + " action"
	if explicitly {
		why = "with an explicit deny in an identity-based policy"
	}
	if c.service == "sts" {
		action += " on resource: " + c.form.get("RoleArn")
	}
	text := fmt.Sprintf("User: %s is not authorized to perform: %s %s", c.arn(), action, why)
	switch c.service {
	case "ec2":
		return fail(403, "UnauthorizedOperation", "You are not authorized to perform this operation. %s", text)
	case "organizations":
		return fail(400, "AccessDeniedException", "You don't have permissions to access this resource.")
	case "pricing":
		return fail(400, "AccessDeniedException", "%s", text)
	}
	return fail(403, "AccessDenied", "%s", text)
}

// throttled is each service's way to say slow down.
func (c *call) throttled() error {
	switch c.service {
	case "ec2":
		return fail(503, "RequestLimitExceeded", "Request limit exceeded.")
	case "organizations":
		return fail(400, "TooManyRequestsException", "You have sent too many requests in too short a period of time.")
	case "pricing":
		return fail(400, "ThrottlingException", "Rate exceeded")
	}
	return fail(400, "Throttling", "Rate exceeded")
}

// denies tells whether the account's policy refuses the action.
func (a *Account) denies(service, action string) bool {
	return slices.ContainsFunc(a.Denied, func(pattern string) bool { return glob(pattern, service+":"+action) })
}

// glob matches without regard to slashes; a bad pattern matches only itself.
func glob(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return err == nil && ok || pattern == s
}

// session is what an assumed role's token says. The token carries it, signed with the estate's seed, so that the server keeps no list and a restarted
// server still knows the credentials it gave out.
type session struct {
	Key     string `json:"k"`
	Account string `json:"a"`
	Role    string `json:"r"`
	Name    string `json:"n"`
	Expires int64  `json:"e"`
}

func (s *Server) sign(body []byte) []byte {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], s.estate.Seed)
	m := hmac.New(sha256.New, key[:])
	m.Write(body)
	return m.Sum(nil)[:16]
}

func (s *Server) sealSession(ses *session) string {
	body, _ := json.Marshal(ses)
	return base64.StdEncoding.EncodeToString(append(s.sign(body), body...))
}

func (s *Server) openSession(key, token string) (*session, error) {
	raw, err := base64.StdEncoding.DecodeString(token)
	if err != nil || len(raw) < 16 || !hmac.Equal(raw[:16], s.sign(raw[16:])) {
		return nil, fail(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
	}
	ses := new(session)
	if err := json.Unmarshal(raw[16:], ses); err != nil || ses.Key != key {
		return nil, fail(403, "InvalidClientTokenId", "The security token included in the request is invalid.")
	}
	return ses, nil
}

func (s *session) expiry() time.Time { return time.Unix(s.Expires, 0).UTC() }
