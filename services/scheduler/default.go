package scheduler

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

// defaults are the jobs there are without anybody asking. Each is registered
// once in the life of an installation, when a service first handles its kind:
// who changes, pauses or deletes it has the last word. A service that comes
// with a job of its own adds it here.
var defaults = []*jobv1.Job{
	{
		Name: "waste-scan", Kind: "waste", Schedule: "0 */6 * * *",
		Description: "Looks for resources that cost money and do nothing.",
	},
	{
		Name: "security-scan", Kind: "security", Schedule: "0 * * * *",
		Description: "Looks for what is exposed, unprotected or without an owner.",
	},
	{
		Name: "cleanup", Kind: "cleanup", Schedule: "0 2 * * *",
		Description: "Removes what has been kept for its time, and marks findings that no scan looks at any more.",
	},
	{
		Name: "health-check", Kind: "health", Schedule: "0 0 * * *",
		Description: "Takes stock of all instances, and of what they used of CPU and memory the day before.",
	},
}

// It is asked ever less often whether a service for a missing default has
// come: services that start together are there in a moment.
const (
	defaultsSoon  = 50 * time.Millisecond
	defaultsEvery = 2 * time.Second
)

// registerDefaults registers the default jobs until all are, or ctx ends.
func (s *Service) registerDefaults(ctx context.Context) error {
	missing := slices.Clone(defaults)
	var last error
	for wait := defaultsSoon; len(missing) > 0; wait = min(2*wait, defaultsEvery) {
		kinds, err := bus.Handled[*jobv1.JobTriggered](ctx, s.bus)
		missing = slices.DeleteFunc(missing, func(d *jobv1.Job) bool {
			if err != nil || !slices.Contains(kinds, d.GetKind()) {
				return false
			}
			job := proto.CloneOf(d)
			now := timestamppb.New(s.clock.time())
			job.CreateTime, job.UpdateTime, job.ScheduleTime = now, now, now
			_, e := s.jobs.CreateFirst(ctx, job.GetName(), job)
			switch {
			case e == nil:
				s.log.Info("default job registered", "job", job.GetName(), "schedule", job.GetSchedule())
			case !errors.Is(e, errs.AlreadyExists): // it is there, or was and somebody deleted it
				err = e
				return false
			}
			return true
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // what breaks off at a stop is no error
		}
		if err != nil && last == nil {
			s.log.Warn("default jobs cannot be registered yet", "error", err)
		}
		last = err
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}
