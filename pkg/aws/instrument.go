package aws

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/smithy-go/middleware"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// maxPoints is how many datapoints a response of GetMetricData holds at most.
const maxPoints = 100_800

// instrument is what every call of a client goes through: the limiter before
// each attempt, the meter after it.
type instrument struct {
	scope scope
	share float64
	meter *Meter
}

// operation is one call of the SDK, with all its attempts.
type operation struct {
	action   string
	attempts int
	// Of GetMetricData: the metrics it is billed for and the datapoints it
	// may answer.
	metrics, points int
}

type operationKey struct{}

func (i *instrument) attach(stack *middleware.Stack) error {
	if err := stack.Initialize.Add(middleware.InitializeMiddlewareFunc("nightshift:operation", i.operation), middleware.Before); err != nil {
		return err
	}
	// After the retry loop is inside it, and before the request is signed.
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("nightshift:attempt", i.attempt), "Retry", middleware.After)
}

func (i *instrument) operation(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
	middleware.InitializeOutput, middleware.Metadata, error,
) {
	op := &operation{action: actionName(awsmiddleware.GetServiceID(ctx), awsmiddleware.GetOperationName(ctx))}
	if q, ok := in.Parameters.(*cloudwatch.GetMetricDataInput); ok {
		op.metrics, op.points = billed(q)
	}
	out, md, err := next.HandleInitialize(middleware.WithStackValue(ctx, operationKey{}, op), in)
	if err != nil {
		i.meter.add(op.action, Usage{Errors: 1})
	} else if op.metrics > 0 {
		i.meter.add(op.action, Usage{BilledMetrics: int64(op.metrics)})
	}
	return out, md, err
}

func (i *instrument) attempt(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	middleware.FinalizeOutput, middleware.Metadata, error,
) {
	op, _ := middleware.GetStackValue(ctx, operationKey{}).(*operation)
	if op == nil {
		return next.HandleFinalize(ctx, in)
	}
	b := limiter(i.scope, op.action, i.share)
	start := time.Now()
	if err := b.wait(ctx, op.points); err != nil {
		return middleware.FinalizeOutput{}, middleware.Metadata{}, err
	}
	u := Usage{Calls: 1, Waited: time.Since(start)}
	if op.attempts++; op.attempts > 1 {
		u.Retries = 1
	}
	out, md, err := next.HandleFinalize(ctx, in)
	outcome := "ok"
	switch {
	case err == nil:
		b.succeeded()
	case isThrottle(err):
		b.throttled()
		u.Throttles = 1
		outcome = Throttled.String()
	default:
		outcome = Classify(err).String()
	}
	i.meter.add(op.action, u)
	calls.Add(ctx, 1, metric.WithAttributes(
		attribute.String("action", op.action), attribute.String("region", i.scope.region), attribute.String("outcome", outcome)))
	waited.Add(ctx, u.Waited.Seconds(), metric.WithAttributes(attribute.String("action", op.action)))
	return out, md, err
}

// The process's own metrics, in whatever provider is installed.
var (
	otelMeter = otel.Meter("nightshift.dev/pkg/aws")
	calls, _  = otelMeter.Int64Counter("nightshift.aws.calls",
		metric.WithDescription("Requests sent to AWS, retries included, by outcome."))
	waited, _ = otelMeter.Float64Counter("nightshift.aws.limiter.wait",
		metric.WithUnit("s"), metric.WithDescription("Time spent waiting for the limiter that keeps to AWS's quotas."))
)

// billed returns how many metrics a call is billed for — up to five statistics
// of one metric count once — and how many datapoints it may answer.
func billed(in *cloudwatch.GetMetricDataInput) (metrics, points int) {
	statistics := map[string]int{}
	for _, q := range in.MetricDataQueries {
		if q.MetricStat == nil || q.MetricStat.Metric == nil {
			continue
		}
		statistics[identity(q.MetricStat.Metric)]++
		if q.MetricStat.Period != nil && *q.MetricStat.Period > 0 && in.StartTime != nil && in.EndTime != nil {
			n := in.EndTime.Sub(*in.StartTime)/(time.Duration(*q.MetricStat.Period)*time.Second) + 1
			points += int(max(n, 1))
		}
	}
	for _, n := range statistics {
		metrics += (n + 4) / 5
	}
	return metrics, min(points, maxPoints)
}

// identity tells metrics apart: namespace, name and all dimensions.
func identity(m *cwtypes.Metric) string {
	deref := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	dims := slices.Clone(m.Dimensions)
	slices.SortFunc(dims, func(a, b cwtypes.Dimension) int { return cmp.Compare(deref(a.Name), deref(b.Name)) })
	var b strings.Builder
	b.WriteString(deref(m.Namespace) + "\x00" + deref(m.MetricName))
	for _, d := range dims {
		b.WriteString("\x00" + deref(d.Name) + "\x00" + deref(d.Value))
	}
	return b.String()
}
