package persistence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
)

const (
	// defaultRunTimeout is how long a run may take whose trigger does not say,
	// and maxRunTimeout how long one may say.
	defaultRunTimeout = 24 * time.Hour
	maxRunTimeout     = 30 * 24 * time.Hour
)

// StartRun implements RunService.
func (s *Service) StartRun(ctx context.Context, req *runv1.StartRunRequest) (*runv1.StartRunResponse, error) {
	t := req.GetTrigger()
	if err := cmp.Or(refuseNUL(req, ""), checkTrigger(t)); err != nil {
		return nil, err
	}
	var resp *runv1.StartRunResponse
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		// Asked again, which is what most calls about a run that waited are: no lock is needed to say what is.
		known, err := tx.startedRun(ctx, t)
		if err != nil || known != nil {
			resp = known
			return err
		}
		if t.GetOverlapPolicy() == jobv1.OverlapPolicy_OVERLAP_POLICY_CANCEL_RUNNING {
			// Scopes are locked before jobs.
			unended, err := tx.unendedRuns(ctx, t.GetJob())
			if err != nil {
				return err
			}
			if err := tx.lockUnended(ctx, unended); err != nil {
				return err
			}
		}
		if err := tx.lockJobs(ctx, t.GetJob()); err != nil {
			return err
		}
		if known, err = tx.startedRun(ctx, t); err != nil || known != nil {
			resp = known
			return err
		}
		r, err := tx.newRun(t)
		if err != nil {
			return err
		}
		ended, err := tx.begin(ctx, r, t)
		resp = &runv1.StartRunResponse{Run: ended}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// startedRun is the answer about a run that there is already, or nil.
func (tx *transaction) startedRun(ctx context.Context, t *jobv1.Trigger) (*runv1.StartRunResponse, error) {
	r, run, err := readRun(ctx, tx, tx.NewSelect(), t.GetRunId())
	if errors.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &runv1.StartRunResponse{Run: run, Planned: r.Planned}, nil
}

// newRun is the row of a run that is asked for now.
func (tx *transaction) newRun(t *jobv1.Trigger) (*run, error) {
	r := &run{
		ID: t.GetRunId(), Job: t.GetJob(), Kind: t.GetKind(), Cause: t.GetCause(), RequestedBy: t.GetRequestedBy(),
		PlannedTime: timeOf(t.GetPlannedTime()), StartTime: micros(tx.now), Parameters: t.GetParameters(), MaxRetries: t.GetMaxRetries(),
		RunTimeoutMS: defaultRunTimeout.Milliseconds(), RetryOf: t.GetRetryOf(),
	}
	if r.Parameters == nil {
		r.Parameters = map[string]string{}
	}
	if t.GetTimeout() != nil {
		ms := t.GetTimeout().AsDuration().Milliseconds()
		r.TimeoutMS = &ms
	}
	if t.GetRunTimeout() != nil {
		r.RunTimeoutMS = t.GetRunTimeout().AsDuration().Milliseconds()
	}
	var err error
	r.Trigger, err = proto.Marshal(t)
	return r, err
}

// unendedRuns are a job's runs that are at work or wait, with their ids and
// states alone, those at work first.
func (tx *transaction) unendedRuns(ctx context.Context, job string) (rows []*run, err error) {
	err = tx.NewSelect().Model(&rows).Column("id", "state").Where("r.job = ?", job).Where("r.state IN (1, 5)").Order("r.state", "r.start_time", "r.id").Scan(ctx)
	return rows, err
}

// begin writes a new run with the state that the overlap policy gives it. The
// job is locked.
func (tx *transaction) begin(ctx context.Context, r *run, t *jobv1.Trigger) (*runv1.Run, error) {
	if err := tx.release(ctx, r.Job, ""); err != nil { // there should be nothing to release
		return nil, err
	}
	unended, err := tx.unendedRuns(ctx, r.Job)
	if err != nil {
		return nil, err
	}
	state, why := overlap(t.GetOverlapPolicy(), unended)
	r.State, r.Error = state, why
	if state == runv1.RunState_RUN_STATE_SKIPPED {
		r.State = runv1.RunState_RUN_STATE_QUEUED // which it leaves at once
	}
	if _, err := tx.NewInsert().Model(r).Exec(ctx); err != nil {
		return nil, err
	}
	tx.wake(topicRun + r.ID)
	tx.noteMissed(r, t.GetMissed())
	shown := r.proto((&figures{}).proto())
	switch state {
	case runv1.RunState_RUN_STATE_SKIPPED:
		return tx.endRun(ctx, r, shown, state)
	case runv1.RunState_RUN_STATE_QUEUED:
		tx.note(entry{
			Level: systemlogv1.Level_LEVEL_INFO, Event: "run_queued", Service: r.Kind, Job: r.Job, RunID: r.ID,
			Message: fmt.Sprintf("Run %s %s.", r.ID, why), Attributes: r.attributes(),
		})
		return shown, nil
	}
	tx.note(entry{
		Level: systemlogv1.Level_LEVEL_INFO, Event: "run_started", Service: r.Kind, Job: r.Job, RunID: r.ID,
		Message: fmt.Sprintf("Run %s of job %s started %s.", r.ID, r.Job, r.because()), Attributes: r.attributes(),
	})
	tx.publish(&runv1.RunStarted{Run: shown})
	if t.GetOverlapPolicy() == jobv1.OverlapPolicy_OVERLAP_POLICY_CANCEL_RUNNING {
		for _, other := range unended {
			if other.State == runv1.RunState_RUN_STATE_RUNNING {
				if err := tx.cancelRun(ctx, other.ID, "overlap policy: "+r.ID, r.ID+" took its place"); err != nil {
					return nil, err
				}
			}
		}
	}
	return shown, nil
}

// overlap decides about a run that is to begin while those of its job, retries
// among them, are at work or wait, and says why it does not begin. No policy at all is ALLOW, as
// triggers had it that knew none.
func overlap(policy jobv1.OverlapPolicy, unended []*run) (state runv1.RunState, why string) {
	atWork, waits := "", ""
	for _, r := range unended {
		if r.State == runv1.RunState_RUN_STATE_RUNNING {
			atWork = cmp.Or(atWork, r.ID)
		} else {
			waits = cmp.Or(waits, r.ID)
		}
	}
	if atWork == "" {
		return runv1.RunState_RUN_STATE_RUNNING, ""
	}
	switch policy {
	case jobv1.OverlapPolicy_OVERLAP_POLICY_SKIP:
		return runv1.RunState_RUN_STATE_SKIPPED, atWork + " is still at work"
	case jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ONE:
		if waits != "" {
			return runv1.RunState_RUN_STATE_SKIPPED, fmt.Sprintf("%s is still at work, and %s waits for it already", atWork, waits)
		}
		return runv1.RunState_RUN_STATE_QUEUED, "waits for " + atWork
	case jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ALL:
		return runv1.RunState_RUN_STATE_QUEUED, "waits for " + atWork
	}
	return runv1.RunState_RUN_STATE_RUNNING, ""
}

// release lets the oldest run that waits begin, if nothing of the job is at
// work; after is the run whose end made room. The job is locked.
func (tx *transaction) release(ctx context.Context, job, after string) error {
	var next []*run
	err := tx.NewSelect().Model(&next).Where("r.job = ?", job).Where("r.state = 5").
		Where("NOT EXISTS (SELECT FROM runs o WHERE o.job = ? AND o.state = 1)", job).
		OrderExpr("coalesce(r.planned_time, r.start_time), r.start_time, r.id").Limit(1).Scan(ctx)
	if err != nil || len(next) == 0 {
		return err
	}
	r := next[0]
	waited := tx.now.Sub(r.StartTime).Round(time.Millisecond)
	r.State, r.StartTime, r.Error = runv1.RunState_RUN_STATE_RUNNING, latest(micros(tx.now), r.StartTime), ""
	attributes := r.attributes()
	attributes["waited"] = waited.String()
	message := fmt.Sprintf("Run %s of job %s started after it had waited for %s.", r.ID, r.Job, waited)
	if after != "" {
		attributes["after"] = after
	}
	tx.publish(&runv1.RunStarted{Run: r.proto((&figures{}).proto())})
	return tx.requestRun(ctx, r, entry{Level: systemlogv1.Level_LEVEL_INFO, Message: message, Attributes: attributes})
}

// requestRun asks the workers to take up a run that is RUNNING and not
// planned, and notes it as run_released.
func (tx *transaction) requestRun(ctx context.Context, r *run, e entry) error {
	t, err := r.trigger()
	if err != nil {
		return err
	}
	now := micros(tx.now)
	r.Releases++
	r.ReleaseTime = &now
	if _, err := tx.NewUpdate().Model(r).Column("state", "start_time", "error", "releases", "release_time").WherePK().Exec(ctx); err != nil {
		return err
	}
	tx.publish(&runv1.RunReleased{Trigger: t, Release: r.Releases})
	tx.wake(topicRun + r.ID)
	e.Event, e.Service, e.Job, e.RunID = "run_released", r.Kind, r.Job, r.ID
	e.Attributes["release"] = strconv.Itoa(int(r.Releases))
	tx.note(e)
	return nil
}

// attributes say in the system log who or what asked for the run.
func (r *run) attributes() map[string]string {
	a := map[string]string{"cause": word(r.Cause, "CAUSE_")}
	if r.PlannedTime != nil {
		a["planned_time"] = r.PlannedTime.Format(time.RFC3339)
	}
	if r.RequestedBy != "" {
		a["requested_by"] = r.RequestedBy
	}
	if r.RetryOf != "" {
		a["retry_of"] = r.RetryOf
	}
	return a
}

// because is what asked for the run, in a sentence.
func (r *run) because() string {
	who := cmp.Or(r.RequestedBy, "somebody")
	switch r.Cause {
	case jobv1.Cause_CAUSE_MANUAL:
		return "because " + who + " asked"
	case jobv1.Cause_CAUSE_BACKFILL:
		return "because " + who + " asked for a planned time of the past"
	case jobv1.Cause_CAUSE_RETRY:
		return fmt.Sprintf("because %s asked for what %s left undone", who, cmp.Or(r.RetryOf, "another run"))
	}
	return "on its schedule"
}

// noteMissed says in the system log which planned times before the run's never
// fired.
func (tx *transaction) noteMissed(r *run, m *jobv1.MissedTimes) {
	if m.GetCount() == 0 {
		return
	}
	first, last := m.GetFirstTime().AsTime().Format(time.RFC3339), m.GetLastTime().AsTime().Format(time.RFC3339)
	message := fmt.Sprintf("Job %s did not run at %s: nothing could fire.", r.Job, first)
	if m.GetCount() > 1 {
		message = fmt.Sprintf("Job %s did not run at %d planned times from %s to %s: nothing could fire.", r.Job, m.GetCount(), first, last)
	}
	tx.note(entry{
		Level: systemlogv1.Level_LEVEL_WARN, Event: "run_missed", Service: r.Kind, Job: r.Job, RunID: r.ID, Message: message,
		Attributes: map[string]string{"missed": strconv.Itoa(int(m.GetCount())), "first_time": first, "last_time": last},
	})
}

// word is an enum's value as the system log says it.
func word(e interface{ String() string }, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(e.String(), prefix))
}

func checkTrigger(t *jobv1.Trigger) error {
	e := errs.New(errs.InvalidArgument, "BAD_TRIGGER", "the run cannot start")
	if n := len(t.GetRunId()); n == 0 || n > 200 {
		e.Field("trigger.run_id", "has %d bytes; must have 1 to 200", n)
	}
	if n := len(t.GetJob()); n == 0 || n > 63 {
		e.Field("trigger.job", "has %d bytes; must name the job with 1 to 63", n)
	}
	if n := len(t.GetKind()); n == 0 || n > 63 {
		e.Field("trigger.kind", "has %d bytes; must name the service that handles the job with 1 to 63", n)
	}
	for _, f := range []struct {
		name string
		enum protoreflect.Enum
	}{{"cause", t.GetCause()}, {"overlap_policy", t.GetOverlapPolicy()}, {"notify_policy", t.GetNotifyPolicy()}} {
		if f.enum.Descriptor().Values().ByNumber(f.enum.Number()) == nil {
			e.Field("trigger."+f.name, "is %d, which means nothing here", f.enum.Number())
		}
	}
	if t.GetPlannedTime() != nil && !t.GetPlannedTime().IsValid() {
		e.Field("trigger.planned_time", "is no time between the years 1 and 9999")
	}
	for _, f := range []struct {
		name   string
		d      *durationpb.Duration
		lowest time.Duration
		most   time.Duration
	}{
		{"timeout", t.GetTimeout(), 0, maxRunTimeout}, {"run_timeout", t.GetRunTimeout(), time.Millisecond, maxRunTimeout},
		{"backoff.initial", t.GetBackoff().GetInitial(), 0, maxRunTimeout}, {"backoff.max", t.GetBackoff().GetMax(), 0, maxRunTimeout},
	} {
		if f.d != nil && (!f.d.IsValid() || f.d.AsDuration() < f.lowest || f.d.AsDuration() > f.most) {
			e.Field("trigger."+f.name, "is no duration from %s to %s", f.lowest, f.most)
		}
	}
	if n := t.GetMaxRetries(); n < 0 {
		e.Field("trigger.max_retries", "is %d; must be 0 or more", n)
	}
	if m := t.GetMissed(); m != nil {
		if m.GetCount() < 0 {
			e.Field("trigger.missed.count", "is %d; must be 0 or more", m.GetCount())
		}
		if m.GetCount() > 0 && (m.GetFirstTime() == nil || !m.GetFirstTime().IsValid()) {
			e.Field("trigger.missed.first_time", "is missing or no time between the years 1 and 9999")
		}
		if m.GetCount() > 0 && (m.GetLastTime() == nil || !m.GetLastTime().IsValid()) {
			e.Field("trigger.missed.last_time", "is missing or no time between the years 1 and 9999")
		}
	}
	if len(e.Violations()) > 0 {
		return e
	}
	return nil
}

// lockUnended locks the rows of the scopes of runs that have not ended.
func (tx *transaction) lockUnended(ctx context.Context, runs []*run) error {
	ids := make([]string, len(runs))
	for i, r := range runs {
		ids[i] = r.ID
	}
	slices.Sort(ids)
	return tx.lockScopesOf(ctx, ids...)
}
