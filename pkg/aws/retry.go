package aws

import (
	"errors"
	"io"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
)

// attempts is how often a call is made at most. AWS_MAX_ATTEMPTS sets another
// number.
const attempts = 8

// newRetryer is the SDK's standard retryer without its client-side quota of
// retries, which would give up on a bad day for one account because of
// another; our limiter is per account, region and action.
func newRetryer(backoff func(attempt int) time.Duration) sdk.RetryerV2 {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = attempts
		o.MaxBackoff = 20 * time.Second
		o.RateLimiter = ratelimit.None
		if backoff != nil {
			o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) { return backoff(attempt), nil })
		}
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(retryable)}, o.Retryables...)
	})
}

// retryable decides before the SDK does. What is a matter of permission or
// identity stays so: those are coverage, not errors. A body that broke off is
// worth another try, which the SDK does not know.
func retryable(err error) sdk.Ternary {
	// A refused signature that the SDK explains by our clock being wrong: it
	// corrects the time, and the next attempt is right.
	var skew interface{ RetryableError() bool }
	if errors.As(err, &skew) && skew.RetryableError() {
		return sdk.TrueTernary
	}
	if isCanceled(err) {
		return sdk.FalseTernary
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		switch classOf(api.ErrorCode(), statusOf(err)) {
		case Denied, RegionDisabled, Credentials:
			return sdk.FalseTernary
		case Throttled, Unreachable:
			return sdk.TrueTernary
		default:
			return sdk.UnknownTernary
		}
	}
	var decode *smithy.DeserializationError
	if errors.As(err, &decode) || errors.Is(err, io.ErrUnexpectedEOF) {
		return sdk.TrueTernary
	}
	return sdk.UnknownTernary
}
