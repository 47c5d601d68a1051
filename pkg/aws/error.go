package aws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
)

// Class says what a failed call means for a scan. The zero value is no
// failure.
type Class int

// The classes.
const (
	// Denied: the role may not do it. Retrying does not help; a policy does.
	Denied Class = iota + 1
	// RegionDisabled: the account has not opted in to the region or service.
	RegionDisabled
	// Credentials: there are none, or they are expired or invalid.
	Credentials
	// Throttled: AWS's quota was used up, after all retries.
	Throttled
	// Unreachable: no answer, or AWS failed (5xx), after all retries.
	Unreachable
	// Canceled: our own context ended.
	Canceled
	// Failed: anything else, such as a refused parameter or an answer that
	// does not decode.
	Failed
)

var classNames = [...]string{"none", "denied", "region disabled", "credentials", "throttled", "unreachable", "canceled", "failed"}

// String returns the class in words.
func (c Class) String() string {
	if c < 0 || int(c) >= len(classNames) {
		return "failed"
	}
	return classNames[c]
}

// Error is a failed call in words that can be shown and stored: it names the
// action and holds no secret, no request and no encoded message.
type Error struct {
	Class Class
	// Action is the IAM action of the call, such as ec2:DescribeVolumes;
	// empty when the failure was before any.
	Action string
	// Missing is the IAM action that was denied. It can differ from Action.
	Missing string
	// Code is AWS's error code, such as UnauthorizedOperation; empty when AWS
	// did not answer.
	Code string

	msg string
	err error
}

// Error returns the message.
func (e *Error) Error() string { return e.msg }

// Unwrap returns the SDK's error, whose text is not clean.
func (e *Error) Unwrap() error { return e.err }

// Permanent tells that trying again does not help: a policy, an opt-in or other
// credentials do.
func (e *Error) Permanent() bool {
	return e.Class == Denied || e.Class == RegionDisabled || e.Class == Credentials
}

// Classify returns what err means. Nil is 0.
func Classify(err error) Class {
	if err == nil {
		return 0
	}
	return explain(err).Class
}

// Explain turns an error of the SDK into an *Error, and leaves one as it is.
// Nil stays nil.
func Explain(err error) error {
	if err == nil {
		return nil
	}
	return explain(err)
}

func explain(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{Class: Failed, Action: actionOf(err), err: err}
	what := e.Action
	if what == "" {
		what = "AWS"
	}
	var (
		api    smithy.APIError
		decode *smithy.DeserializationError
	)
	switch {
	case isCanceled(err):
		e.Class = Canceled
		e.msg = what + " was canceled"
		if errors.Is(err, context.DeadlineExceeded) {
			e.msg = what + " was not answered before the deadline"
		}
	case errors.As(err, &api):
		e.Code = clean(api.ErrorCode())
		e.Class = classOf(api.ErrorCode(), statusOf(err))
		switch e.Class {
		case Denied:
			e.Missing = e.Action
			if m := notAuthorized.FindStringSubmatch(api.ErrorMessage()); m != nil {
				e.Missing = m[1]
			}
			e.msg = fmt.Sprintf("%s is denied (%s): %s", what, e.Code, denial(e.Missing, api.ErrorMessage()))
		case RegionDisabled:
			e.msg = fmt.Sprintf("%s: the account has not enabled this region or service (%s)", what, e.Code)
		case Credentials:
			e.msg = fmt.Sprintf("%s: the credentials are not accepted (%s)", what, e.Code)
		case Throttled:
			e.msg = fmt.Sprintf("%s is throttled (%s)", what, e.Code)
		default:
			e.msg = fmt.Sprintf("%s failed (%s): %s", what, e.Code, clean(api.ErrorMessage()))
		}
	case errors.As(err, &decode):
		e.msg = what + ": the answer does not decode: " + clean(innermost(decode.Err))
	case isConnection(err):
		e.Class = Unreachable
		e.msg = what + " got no answer: " + clean(innermost(err))
	case isIdentity(err):
		e.Class = Credentials
		e.msg = "no usable AWS credentials: " + clean(innermost(err))
	default:
		e.msg = what + " failed: " + clean(innermost(err))
	}
	return e
}

// Malformed is an answer that decodes and makes no sense, such as "a volume
// without an id". Going on would leave something out unseen.
func Malformed(action, what string) error {
	return &Error{Class: Failed, Action: action, msg: action + " answered with " + what}
}

// The codes with which AWS refuses for one reason or another.
var (
	codesDenied = set("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedAccess", "NotAuthorized",
		"NotAuthorizedException", "Client.UnauthorizedOperation", "AuthorizationError", "AccountDisabled", "Blocked",
		"PendingVerification", "AWSOrganizationsNotInUseException")
	codesRegion      = set("OptInRequired", "RegionDisabledException", "SubscriptionRequiredException", "InvalidRegion")
	codesCredentials = set("AuthFailure", "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired",
		"InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException", "UnrecognizedClient", "InvalidToken",
		"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException",
		"MissingAuthenticationToken", "MissingAuthenticationTokenException", "IDPRejectedClaim", "InvalidIdentityToken")
)

func set(codes ...string) map[string]bool {
	m := make(map[string]bool, len(codes))
	for _, c := range codes {
		m[c] = true
	}
	return m
}

func classOf(code string, status int) Class {
	_, throttle := retry.DefaultThrottleErrorCodes[code]
	switch {
	case codesDenied[code]:
		return Denied
	case codesRegion[code]:
		return RegionDisabled
	case codesCredentials[code]:
		return Credentials
	case throttle, code == "Client.RequestLimitExceeded", status == http.StatusTooManyRequests:
		return Throttled
	case status >= 500, code == "RequestTimeout", code == "RequestTimeoutException":
		return Unreachable
	case status == http.StatusForbidden:
		return Denied
	case status == http.StatusUnauthorized:
		return Credentials
	}
	return Failed
}

func isThrottle(err error) bool {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return classOf(api.ErrorCode(), statusOf(err)) == Throttled
	}
	return statusOf(err) == http.StatusTooManyRequests
}

func statusOf(err error) int {
	var v interface{ HTTPStatusCode() int }
	if errors.As(err, &v) {
		return v.HTTPStatusCode()
	}
	return 0
}

// actionOf names the call that failed. Where one call was made for another,
// such as AssumeRole for the credentials of DescribeVolumes, it is the inner.
func actionOf(err error) string {
	action := ""
	for err != nil {
		var op *smithy.OperationError
		if !errors.As(err, &op) {
			break
		}
		action = actionName(op.ServiceID, op.OperationName)
		err = op.Err
	}
	return action
}

// actionName is the IAM action of an operation; for the services we call, the
// prefix is the service's id in lower case.
func actionName(service, operation string) string {
	return strings.ToLower(strings.ReplaceAll(service, " ", "")) + ":" + operation
}

// isCanceled tells that our context ended. A timeout of the network says that
// it is "deadline exceeded" too, but comes in a net.OpError.
func isCanceled(err error) bool {
	var canceled interface{ CanceledError() bool }
	if errors.As(err, &canceled) && canceled.CanceledError() || errors.Is(err, context.Canceled) {
		return true
	}
	var op *net.OpError
	return errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &op)
}

func isConnection(err error) bool {
	var send interface{ ConnectionError() bool }
	var n net.Error
	return errors.As(err, &send) && send.ConnectionError() || errors.As(err, &n) || statusOf(err) >= 500
}

// isIdentity tells that the credential chain found nothing. Its errors have no
// type of their own.
func isIdentity(err error) bool {
	text := err.Error()
	return strings.Contains(text, "get identity") || strings.Contains(text, "failed to refresh cached credentials") ||
		strings.Contains(text, "failed to retrieve credentials")
}

var (
	notAuthorized = regexp.MustCompile(`not authorized to perform: ([a-z0-9-]{2,40}:[A-Za-z0-9]{2,80})`)
	keyID         = regexp.MustCompile(`\b(A[SK]IA)[A-Z0-9]{8,}`)
	blob          = regexp.MustCompile(`[A-Za-z0-9+/=_-]{60,}`)
)

// denial says who denied, as far as AWS tells it in plain words.
func denial(action, message string) string {
	if action == "" {
		action = "the action"
	}
	m := strings.ToLower(message)
	kind := "policy"
	for _, k := range []string{"service control policy", "resource control policy", "permissions boundary", "session policy",
		"vpc endpoint policy", "resource-based policy", "identity-based policy"} {
		if strings.Contains(m, k) {
			kind = k
			break
		}
	}
	if strings.Contains(m, "explicit deny") {
		return "a " + kind + " denies " + action
	}
	return "no " + kind + " allows " + action
}

// clean makes a foreign text fit to show and store: one line, bounded, without
// keys and encoded blobs.
func clean(s string) string {
	if i := strings.Index(s, "Encoded authorization failure message"); i >= 0 {
		s = s[:i]
	}
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	s = keyID.ReplaceAllString(s, "$1…")
	s = blob.ReplaceAllString(s, "…")
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}

// innermost returns the text of the cause: the wrapping repeats the request's
// address and the SDK's inner workings.
func innermost(err error) string {
	if err == nil {
		return "unknown"
	}
	for {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			return op.Error()
		}
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
