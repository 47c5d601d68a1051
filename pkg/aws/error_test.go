package aws

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"unicode"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"pgregory.net/rapid"
)

// failed is an error as the SDK returns it.
func failed(service, operation string, status int, err error) error {
	if status != 0 {
		err = &awshttp.ResponseError{RequestID: "r", ResponseError: &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: err}}
	}
	return &smithy.OperationError{ServiceID: service, OperationName: operation, Err: err}
}

func code(c, message string) error { return &smithy.GenericAPIError{Code: c, Message: message} }

func TestExplain(t *testing.T) {
	t.Parallel()
	encoded := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("secret context ", 20)))
	timeout := &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	send := func(err error) error {
		return &smithyhttp.RequestSendError{Err: fmt.Errorf("Post \"https://ec2.us-east-1.amazonaws.com/\": %w", err)}
	}
	for name, test := range map[string]struct {
		err     error
		class   Class
		missing string
		says    string
	}{
		"denied, in plain words": {
			failed("EC2", "DescribeVolumes", 403, code("UnauthorizedOperation", "You are not authorized to perform this operation. User: arn:aws:sts::1:assumed-role/x/y is not authorized to perform: ec2:DescribeVolumes because no identity-based policy allows the ec2:DescribeVolumes action. Encoded authorization failure message: "+encoded)),
			Denied, "ec2:DescribeVolumes",
			"ec2:DescribeVolumes is denied (UnauthorizedOperation): no identity-based policy allows ec2:DescribeVolumes",
		},
		"denied by the organization": {
			failed("CloudWatch", "GetMetricData", 403, code("AccessDenied", "x is not authorized to perform: cloudwatch:GetMetricData with an explicit deny in a service control policy")),
			Denied, "cloudwatch:GetMetricData",
			"cloudwatch:GetMetricData is denied (AccessDenied): a service control policy denies cloudwatch:GetMetricData",
		},
		"another action is missing": {
			failed("EC2", "DescribeVolumes", 403, code("UnauthorizedOperation", "not authorized to perform: kms:Decrypt")),
			Denied, "kms:Decrypt",
			"ec2:DescribeVolumes is denied (UnauthorizedOperation): no policy allows kms:Decrypt",
		},
		"denied without words": {
			failed("Organizations", "ListAccounts", 400, code("AccessDeniedException", "")),
			Denied, "organizations:ListAccounts",
			"organizations:ListAccounts is denied (AccessDeniedException): no policy allows organizations:ListAccounts",
		},
		"the role was denied on the way to volumes": {
			failed("EC2", "DescribeVolumes", 0, fmt.Errorf("get identity: get credentials: failed to refresh cached credentials, %w",
				failed("STS", "AssumeRole", 403, code("AccessDenied", "")))),
			Denied, "sts:AssumeRole",
			"sts:AssumeRole is denied (AccessDenied): no policy allows sts:AssumeRole",
		},
		"no credentials": {
			failed("STS", "GetCallerIdentity", 0, fmt.Errorf("get identity: get credentials: failed to refresh cached credentials, %w", errors.New("no EC2 IMDS role found"))),
			Credentials, "", "no usable AWS credentials: no EC2 IMDS role found",
		},
		"not opted in":     {failed("EC2", "DescribeRegions", 401, code("OptInRequired", "x")), RegionDisabled, "", "ec2:DescribeRegions: the account has not enabled this region or service (OptInRequired)"},
		"throttled":        {failed("EC2", "DescribeVolumes", 503, code("RequestLimitExceeded", "x")), Throttled, "", "ec2:DescribeVolumes is throttled (RequestLimitExceeded)"},
		"expired":          {failed("EC2", "DescribeVolumes", 400, code("ExpiredToken", "x")), Credentials, "", "ec2:DescribeVolumes: the credentials are not accepted (ExpiredToken)"},
		"a wrong value":    {failed("EC2", "DescribeVolumes", 400, code("InvalidParameterValue", "Value (\nx)")), Failed, "", "ec2:DescribeVolumes failed (InvalidParameterValue): Value ( x)"},
		"connection":       {failed("EC2", "DescribeVolumes", 0, send(&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")})), Unreachable, "", "ec2:DescribeVolumes got no answer: dial tcp: connection refused"},
		"a network's time": {failed("EC2", "DescribeVolumes", 0, send(timeout)), Unreachable, "", "ec2:DescribeVolumes got no answer: dial tcp: i/o timeout"},
		"our time":         {failed("EC2", "DescribeVolumes", 0, &smithy.CanceledError{Err: context.DeadlineExceeded}), Canceled, "", "ec2:DescribeVolumes was not answered before the deadline"},
		"canceled":         {context.Canceled, Canceled, "", "AWS was canceled"},
		"cut off":          {failed("EC2", "DescribeVolumes", 200, &smithy.DeserializationError{Err: io.ErrUnexpectedEOF}), Failed, "", "ec2:DescribeVolumes: the answer does not decode: unexpected EOF"},
		"anything":         {errors.New("strange"), Failed, "", "AWS failed: strange"},
	} {
		var e *Error
		if err := Explain(test.err); !errors.As(err, &e) {
			t.Errorf("%s: %T", name, err)
			continue
		}
		if e.Class != test.class || e.Missing != test.missing || e.Error() != test.says {
			t.Errorf("%s:\n got %v, %q, %q\nwant %v, %q, %q", name, e.Class, e.Missing, e, test.class, test.missing, test.says)
		}
		if explain(e) != e || explain(fmt.Errorf("list: %w", e)) != e {
			t.Errorf("%s: explained twice differs", name)
		}
		if !errors.Is(e, test.err) {
			t.Errorf("%s: the SDK's error is gone", name)
		}
	}
	if Explain(nil) != nil || Classify(nil) != 0 {
		t.Error("no error is explained")
	}
}

// Whatever AWS, or who stands between, puts into a message: ours is one
// bounded line without a key or an encoded blob.
func TestMessagesAreClean(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		message := rapid.String().Draw(t, "before") +
			rapid.SampledFrom([]string{"", " AKIAIOSFODNN7EXAMPLE ", " ASIAIOSFODNN7EXAMPLE ", strings.Repeat("QUJD", 30), "\x1b[31m", "\xff\xfe"}).Draw(t, "poison") +
			rapid.String().Draw(t, "after")
		err := failed("EC2", "DescribeVolumes", rapid.SampledFrom([]int{0, 200, 400, 403, 500}).Draw(t, "status"),
			code(rapid.SampledFrom([]string{"", "AccessDenied", "X", "Throttling", "line\nbreak"}).Draw(t, "code"), message))
		got := Explain(err).Error()
		if len([]rune(got)) > 500 || strings.ContainsFunc(got, unicode.IsControl) ||
			strings.Contains(got, "IOSFODNN") || strings.Contains(got, strings.Repeat("QUJD", 30)) {
			t.Errorf("%q", got)
		}
	})
}
