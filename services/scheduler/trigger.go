package scheduler

import (
	"cmp"
	"maps"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
)

// Defaults of what a job leaves unset.
const (
	defaultMaxRetries     = 3
	defaultTimeout        = 30 * time.Minute
	defaultRunTimeout     = 24 * time.Hour
	defaultBackoffInitial = time.Second
	defaultBackoffMax     = 5 * time.Minute
)

// trigger is what a job asks for, without what caused it.
func trigger(j *jobv1.Job, runID string, now time.Time) *jobv1.Trigger {
	t := &jobv1.Trigger{
		RunId: runID, Job: j.GetName(), Kind: j.GetKind(), FireTime: timestamppb.New(now), Parameters: j.GetParameters(),
		MaxRetries: defaultMaxRetries, Timeout: orElse(j.GetTimeout(), defaultTimeout), RunTimeout: orElse(j.GetRunTimeout(), defaultRunTimeout),
		OverlapPolicy: cmp.Or(j.GetOverlapPolicy(), jobv1.OverlapPolicy_OVERLAP_POLICY_SKIP),
		NotifyPolicy:  cmp.Or(j.GetNotifyPolicy(), jobv1.NotifyPolicy_NOTIFY_POLICY_ON_FAILURE),
		Backoff:       backoff(j.GetBackoff()),
	}
	if j.MaxRetries != nil {
		t.MaxRetries = j.GetMaxRetries()
	}
	return t
}

func orElse(d *durationpb.Duration, otherwise time.Duration) *durationpb.Duration {
	if d != nil {
		return d
	}
	return durationpb.New(otherwise)
}

// backoff fills in defaults. When one of the two is given, the default of the
// other gives way to it.
func backoff(b *jobv1.Backoff) *jobv1.Backoff {
	initial, most := defaultBackoffInitial, defaultBackoffMax
	switch {
	case b.GetInitial() != nil && b.GetMax() == nil:
		most = max(most, b.GetInitial().AsDuration())
	case b.GetInitial() == nil && b.GetMax() != nil:
		initial = min(initial, b.GetMax().AsDuration())
	}
	return &jobv1.Backoff{Initial: orElse(b.GetInitial(), initial), Max: orElse(b.GetMax(), most)}
}

// overlaid are a job's parameters with those of a request over them.
func overlaid(under, over map[string]string) map[string]string {
	out := make(map[string]string, len(under)+len(over))
	maps.Copy(out, under)
	maps.Copy(out, over)
	return out
}
