package simaws

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var stsActions map[string]handler

func init() {
	stsActions = map[string]handler{"GetCallerIdentity": getCallerIdentity, "AssumeRole": assumeRole}
}

func getCallerIdentity(c *call, x *xmlWriter) (*answer, error) {
	return c.queryAnswer(x, c.protocol.(queryProtocol), func() {
		x.str("Arn", c.arn())
		x.str("UserId", c.userID())
		x.str("Account", c.account.ID)
	})
}

var (
	roleARN     = regexp.MustCompile(`^arn:aws:iam::([0-9]{12}):role/([\w+=,.@/-]+)$`)
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
)

func assumeRole(c *call, x *xmlWriter) (*answer, error) {
	arn, name := c.form.get("RoleArn"), c.form.get("RoleSessionName")
	m := roleARN.FindStringSubmatch(arn)
	if m == nil {
		return nil, fail(400, "ValidationError", "%s is invalid", arn)
	}
	if !sessionName.MatchString(name) {
		return nil, fail(400, "ValidationError", "1 validation error detected: Value '%s' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\\w+=,.@-]*", name)
	}
	seconds := int64(3600)
	if text := c.form.get("DurationSeconds"); text != "" {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 900 || n > 43200 {
			return nil, fail(400, "ValidationError", "1 validation error detected: Value '%s' at 'durationSeconds' failed to satisfy constraint: Member must have value between 900 and 43200", text)
		}
		seconds = n
	}
	if c.session != nil && seconds > 3600 {
		return nil, fail(400, "ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining")
	}
	denied := fail(403, "AccessDenied", "User: %s is not authorized to perform: sts:AssumeRole on resource: %s", c.arn(), arn)
	account, path := c.s.estate.Account(m[1]), m[2]
	if account == nil || account.State != "" {
		return nil, denied
	}
	i := slices.IndexFunc(account.Roles, func(r Role) bool { return r.Name == path })
	if i < 0 || !account.Roles[i].admits(c.form.get("ExternalId"), c.form.has("ExternalId")) {
		return nil, denied
	}
	role := path[strings.LastIndexByte(path, '/')+1:]
	key := "ASIA" + key16(mix(c.s.estate.Seed, hashString(arn+name+c.requestID)))
	ses := &session{Key: key, Account: account.ID, Role: role, Name: name, Expires: c.now.Unix() + seconds}
	return c.queryAnswer(x, c.protocol.(queryProtocol), func() {
		x.open("Credentials")
		x.str("AccessKeyId", key)
		x.str("SecretAccessKey", FakeSecret)
		x.str("SessionToken", c.s.sealSession(ses))
		x.time("Expiration", ses.expiry())
		x.close("Credentials")
		x.open("AssumedRoleUser")
		x.str("AssumedRoleId", roleID(account.ID, role)+":"+name)
		x.str("Arn", "arn:aws:sts::"+account.ID+":assumed-role/"+role+"/"+name)
		x.close("AssumedRoleUser")
		x.int("PackedPolicySize", 0)
	})
}

// admits tells whether the role's trust policy is content with the external id.
func (r *Role) admits(id string, given bool) bool {
	return r.ExternalID == "" || given && newPattern(strings.ReplaceAll(r.ExternalID, `\`, `\\`)).match(id)
}
