package aws

import (
	"context"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// Clock is AWS's time as an answer of STS tells it, to the second. AWS refuses
// requests whose clock is more than five minutes off. It needs credentials that
// work, and no permission. The error is an *Error.
func (c *Cloud) Clock(ctx context.Context) (time.Time, error) {
	out, err := sts.NewFromConfig(c.config(c.cfg.Region, "", c.cfg.Credentials, c.home)).
		GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return time.Time{}, Explain(err)
	}
	t, ok := awsmiddleware.GetServerTime(out.ResultMetadata)
	if !ok {
		return time.Time{}, Malformed("sts:GetCallerIdentity", "no Date header")
	}
	return t.UTC(), nil
}
