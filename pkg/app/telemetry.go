package app

import (
	"context"
	"errors"
	"os"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc/filters"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"google.golang.org/grpc/stats"
)

// telemetryVars turn traces and metrics on when any of them is set; they and
// all others of OpenTelemetry mean what its specification says.
var telemetryVars = []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"}

// Telemetry sets up OpenTelemetry for the process as the OTEL_* variables
// say; without any, nothing is exported. Trace context is passed on in any
// case. Call the returned function before the process ends.
func Telemetry(ctx context.Context, service string) (stop func(context.Context) error, err error) {
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	on := false
	for _, v := range telemetryVars {
		on = on || os.Getenv(v) != ""
	}
	if !on {
		return func(context.Context) error { return nil }, nil
	}
	res, err := resource.New(ctx, resource.WithFromEnv(), resource.WithHost(), resource.WithProcessPID(),
		resource.WithAttributes(semconv.ServiceName(service), semconv.ServiceVersion(Version), semconv.ServiceNamespace("nightshift")))
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, err
	}
	spans, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, err
	}
	reader, err := autoexport.NewMetricReader(ctx)
	if err != nil {
		return nil, err
	}
	traces := trace.NewTracerProvider(trace.WithBatcher(spans), trace.WithResource(res))
	metrics := metric.NewMeterProvider(metric.WithReader(reader), metric.WithResource(res))
	otel.SetTracerProvider(traces)
	otel.SetMeterProvider(metrics)
	return func(ctx context.Context) error { return errors.Join(traces.Shutdown(ctx), metrics.Shutdown(ctx)) }, nil
}

// quiet leaves health checks out of traces.
var quiet = otelgrpc.WithFilter(filters.Not(filters.HealthCheck()))

func serverTelemetry() stats.Handler { return otelgrpc.NewServerHandler(quiet) }
func clientTelemetry() stats.Handler { return otelgrpc.NewClientHandler(quiet) }
