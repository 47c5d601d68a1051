package scheduler

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// CreateJob registers a job.
func (s *Service) CreateJob(ctx context.Context, req *jobv1.CreateJobRequest) (*jobv1.CreateJobResponse, error) {
	in := req.GetJob()
	if in.GetName() == "" {
		return nil, errs.New(errs.InvalidArgument, "BAD_JOB", "the job has no name").Field("job.name", "is empty; want lower-case letters, digits and hyphens such as waste-scan")
	}
	if err := check(in); err != nil {
		return nil, err
	}
	kinds, err := bus.Handled[*jobv1.JobTriggered](ctx, s.bus)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(kinds, in.GetKind()) {
		known := "none: no service that handles jobs has started yet"
		if len(kinds) > 0 {
			known = strings.Join(kinds, ", ")
		}
		return nil, errs.New(errs.InvalidArgument, "UNKNOWN_KIND", "no service handles jobs of this kind").Field("job.kind", "is %q; known kinds: %s", in.GetKind(), known)
	}
	job := proto.CloneOf(in)
	now := timestamppb.New(s.clock.time())
	job.Schedule = strings.Join(strings.Fields(in.GetSchedule()), " ")
	job.Paused, job.PauseReason = false, ""
	job.CreateTime, job.UpdateTime, job.ScheduleTime = now, now, now
	stored(job)
	revision, err := s.jobs.Create(ctx, job.GetName(), job)
	if errors.Is(err, errs.AlreadyExists) {
		return nil, errs.New(errs.AlreadyExists, "JOB_EXISTS", "there is a job %q already", job.GetName()).Wrap(err)
	}
	if err != nil {
		return nil, err
	}
	s.settle(ctx, job.GetName(), revision)
	return &jobv1.CreateJobResponse{Job: s.present(job, revision)}, nil
}

// check says what is wrong with what a person set of a job, beyond what the
// proto's constraints say.
func check(job *jobv1.Job) error {
	if _, err := parseTimetable(job, "job."); err != nil {
		return err
	}
	if b := backoff(job.GetBackoff()); b.GetMax().AsDuration() < b.GetInitial().AsDuration() {
		return errs.New(errs.InvalidArgument, "BAD_BACKOFF", "the longest wait is shorter than the first").
			Field("job.backoff.max", "is %v and initial is %v; want it to be at least that, or none", b.GetMax().AsDuration(), b.GetInitial().AsDuration())
	}
	return nil
}

// stored clears what is not kept in a definition but worked out for answers.
func stored(job *jobv1.Job) {
	job.Etag, job.LastFireTime, job.NextFireTime = "", nil, nil
}

// GetJob returns one job.
func (s *Service) GetJob(ctx context.Context, req *jobv1.GetJobRequest) (*jobv1.GetJobResponse, error) {
	e, err := s.get(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &jobv1.GetJobResponse{Job: seen(ctx, s.present(e.Value, e.Revision))}, nil
}

// seen is a job as the caller may see it: parameters name accounts, and who may
// see only some knows of no other.
func seen(ctx context.Context, job *jobv1.Job) *jobv1.Job {
	if len(auth.From(ctx).Accounts) > 0 {
		job.Parameters = nil
	}
	return job
}

func (s *Service) get(ctx context.Context, name string) (*bus.Entry[*jobv1.Job], error) {
	e, err := s.jobs.Get(ctx, name)
	if errors.Is(err, errs.NotFound) {
		return nil, errs.New(errs.NotFound, "JOB_NOT_FOUND", "there is no job %q", name).Wrap(err)
	}
	return e, err
}

// ListJobs returns jobs ordered by name.
func (s *Service) ListJobs(ctx context.Context, req *jobv1.ListJobsRequest) (*jobv1.ListJobsResponse, error) {
	bind := []string{req.GetKind()}
	for _, label := range slices.Sorted(maps.Keys(req.GetLabels())) {
		bind = append(bind, label, req.GetLabels()[label])
	}
	var after string
	more, err := page.Parse(req.GetPageToken(), &after, bind...)
	if err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx); err != nil {
		return nil, err
	}
	wanted := func(job *jobv1.Job) bool {
		if req.GetKind() != "" && job.GetKind() != req.GetKind() {
			return false
		}
		for label, want := range req.GetLabels() {
			if have, ok := job.GetLabels()[label]; !ok || want != "" && have != want {
				return false
			}
		}
		return true
	}
	var all []*state
	s.mu.Lock()
	for name, st := range s.states {
		if st.def != nil && (!more || name > after) && wanted(st.def) {
			all = append(all, st)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *state) int { return strings.Compare(a.name, b.name) })
	resp := &jobv1.ListJobsResponse{}
	if size := page.Size(req.GetPageSize()); len(all) > size {
		all = all[:size]
		resp.NextPageToken = page.Token(all[size-1].name, bind...)
	}
	for _, st := range all {
		s.mu.Lock() // for each, so that firing need not wait for all
		if st.def != nil {
			resp.Jobs = append(resp.Jobs, seen(ctx, st.present(s.clock.time())))
		}
		s.mu.Unlock()
	}
	return resp, nil
}

func (s *Service) awaitReady(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return errs.New(errs.Unavailable, "STARTING", "the scheduler has not read its jobs yet").Wrap(ctx.Err())
	}
}

// updatable are the fields a mask may name, and what sets each.
var updatable = map[string]func(to, from *jobv1.Job){
	"description":    func(to, from *jobv1.Job) { to.Description = from.GetDescription() },
	"schedule":       func(to, from *jobv1.Job) { to.Schedule = strings.Join(strings.Fields(from.GetSchedule()), " ") },
	"time_zone":      func(to, from *jobv1.Job) { to.TimeZone = from.GetTimeZone() },
	"jitter":         func(to, from *jobv1.Job) { to.Jitter = from.GetJitter() },
	"start_time":     func(to, from *jobv1.Job) { to.StartTime = from.GetStartTime() },
	"end_time":       func(to, from *jobv1.Job) { to.EndTime = from.GetEndTime() },
	"misfire":        func(to, from *jobv1.Job) { to.Misfire = from.GetMisfire() },
	"overlap_policy": func(to, from *jobv1.Job) { to.OverlapPolicy = from.GetOverlapPolicy() },
	"parameters":     func(to, from *jobv1.Job) { to.Parameters = from.GetParameters() },
	"max_retries":    func(to, from *jobv1.Job) { to.MaxRetries = from.MaxRetries },
	"backoff":        func(to, from *jobv1.Job) { to.Backoff = from.GetBackoff() },
	"timeout":        func(to, from *jobv1.Job) { to.Timeout = from.GetTimeout() },
	"run_timeout":    func(to, from *jobv1.Job) { to.RunTimeout = from.GetRunTimeout() },
	"notify_policy":  func(to, from *jobv1.Job) { to.NotifyPolicy = from.GetNotifyPolicy() },
	"labels":         func(to, from *jobv1.Job) { to.Labels = from.GetLabels() },
}

// UpdateJob changes the fields in the mask.
func (s *Service) UpdateJob(ctx context.Context, req *jobv1.UpdateJobRequest) (*jobv1.UpdateJobResponse, error) {
	in := req.GetJob()
	paths := req.GetUpdateMask().GetPaths()
	if len(paths) == 0 || slices.Equal(paths, []string{"*"}) {
		paths = slices.Sorted(maps.Keys(updatable))
	}
	for _, p := range paths {
		if updatable[p] == nil {
			return nil, errs.New(errs.InvalidArgument, "BAD_UPDATE_MASK", "the update mask names a field that cannot be changed").
				Field("update_mask", "has %q; want some of %s", p, strings.Join(slices.Sorted(maps.Keys(updatable)), ", "))
		}
	}
	job, err := s.change(ctx, in.GetName(), in.GetEtag(), func(job *jobv1.Job) error {
		if in.GetKind() != "" && in.GetKind() != job.GetKind() {
			return errs.New(errs.InvalidArgument, "KIND_IS_FIXED", "a job keeps its kind").
				Field("job.kind", "is %q and the job's is %q; leave it out, or create another job", in.GetKind(), job.GetKind())
		}
		for _, p := range paths {
			updatable[p](job, in)
		}
		return check(job)
	})
	return &jobv1.UpdateJobResponse{Job: job}, err
}

// PauseJob stops a job from firing.
func (s *Service) PauseJob(ctx context.Context, req *jobv1.PauseJobRequest) (*jobv1.PauseJobResponse, error) {
	job, err := s.change(ctx, req.GetName(), "", func(job *jobv1.Job) error {
		job.Paused, job.PauseReason = true, req.GetReason()
		return nil
	})
	return &jobv1.PauseJobResponse{Job: job}, err
}

// ResumeJob lets a paused job fire again.
func (s *Service) ResumeJob(ctx context.Context, req *jobv1.ResumeJobRequest) (*jobv1.ResumeJobResponse, error) {
	job, err := s.change(ctx, req.GetName(), "", func(job *jobv1.Job) error {
		job.Paused, job.PauseReason = false, ""
		return nil
	})
	return &jobv1.ResumeJobResponse{Job: job}, err
}

// change reads a definition, edits it and writes it back, again if somebody
// else was quicker and the caller did not insist on an etag. It returns the job
// as clients see it.
func (s *Service) change(ctx context.Context, name, etag string, edit func(*jobv1.Job) error) (*jobv1.Job, error) {
	for {
		e, err := s.get(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := checkEtag(name, etag, e.Revision); err != nil {
			return nil, err
		}
		app.Before(ctx, s.present(e.Value, e.Revision))
		job := proto.CloneOf(e.Value)
		if err := edit(job); err != nil {
			return nil, err
		}
		if proto.Equal(job, e.Value) {
			return s.present(job, e.Revision), nil
		}
		now := timestamppb.New(s.clock.time())
		job.UpdateTime = now
		if !sameTimes(job, e.Value) {
			job.ScheduleTime = now
		}
		stored(job)
		revision, err := s.jobs.Update(ctx, name, job, e.Revision)
		if errors.Is(err, bus.ErrConflict) {
			continue // the next look finds it gone, the etag stale, or the way free
		}
		if err != nil {
			return nil, err
		}
		s.settle(ctx, name, revision)
		return s.present(job, revision), nil
	}
}

// sameTimes reports that two versions of a job are planned for the same times.
func sameTimes(a, b *jobv1.Job) bool {
	return a.GetSchedule() == b.GetSchedule() && a.GetTimeZone() == b.GetTimeZone() && a.GetPaused() == b.GetPaused() &&
		proto.Equal(a.GetJitter(), b.GetJitter()) && proto.Equal(a.GetStartTime(), b.GetStartTime()) && proto.Equal(a.GetEndTime(), b.GetEndTime())
}

func checkEtag(name, etag string, revision uint64) error {
	if etag == "" || etag == formatEtag(revision) {
		return nil
	}
	return errs.New(errs.Aborted, "STALE_ETAG", "job %q was changed since etag %s; read it and decide again", name, strconv.Quote(etag))
}

func formatEtag(revision uint64) string { return strconv.FormatUint(revision, 10) }

// DeleteJob removes a job.
func (s *Service) DeleteJob(ctx context.Context, req *jobv1.DeleteJobRequest) (*jobv1.DeleteJobResponse, error) {
	for {
		e, err := s.get(ctx, req.GetName())
		if err != nil {
			return nil, err
		}
		if err := checkEtag(req.GetName(), req.GetEtag(), e.Revision); err != nil {
			return nil, err
		}
		app.Before(ctx, s.present(e.Value, e.Revision))
		err = s.jobs.Delete(ctx, req.GetName(), e.Revision)
		if errors.Is(err, bus.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.settle(ctx, req.GetName(), e.Revision+1)
		return &jobv1.DeleteJobResponse{}, nil
	}
}

// mayOverlay refuses parameters that decide what is deleted: an operator runs
// cleanup by its rules, and an admin makes those.
func mayOverlay(ctx context.Context, job *jobv1.Job, parameters map[string]string) error {
	if job.GetKind() != "cleanup" || len(parameters) == 0 {
		return nil
	}
	return auth.From(ctx).RequireRole(authv1.Role_ROLE_ADMIN, "cleaning up by other parameters than the job's")
}

// RunJob asks for a run now.
func (s *Service) RunJob(ctx context.Context, req *jobv1.RunJobRequest) (*jobv1.RunJobResponse, error) {
	e, err := s.get(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := mayOverlay(ctx, e.Value, req.GetParameters()); err != nil {
		return nil, err
	}
	id := req.GetRequestId()
	if id == "" {
		var random [8]byte
		_, _ = rand.Read(random[:])
		id = hex.EncodeToString(random[:])
	}
	now := s.clock.time()
	t := trigger(e.Value, req.GetName()+"/manual-"+id, now)
	t.Cause, t.RequestedBy, t.PlannedTime = jobv1.Cause_CAUSE_MANUAL, auth.Actor(ctx, req.GetRequestedBy()), timestamppb.New(now)
	t.OverlapPolicy = cmp.Or(req.GetOverlapPolicy(), t.GetOverlapPolicy())
	t.Parameters = overlaid(e.Value.GetParameters(), req.GetParameters())
	if err := s.bus.Publish(ctx, &jobv1.JobRequested{Trigger: t}); err != nil {
		return nil, err
	}
	return &jobv1.RunJobResponse{RunId: t.GetRunId()}, nil
}

// maxBackfill is how many runs one call may ask for.
const maxBackfill = 1000

// BackfillJob asks for a run for each planned time of a range.
func (s *Service) BackfillJob(ctx context.Context, req *jobv1.BackfillJobRequest) (*jobv1.BackfillJobResponse, error) {
	now := s.clock.time()
	for _, bound := range []struct {
		field string
		t     *timestamppb.Timestamp
	}{{"start_time", req.GetStartTime()}, {"end_time", req.GetEndTime()}} {
		if err := bound.t.CheckValid(); err != nil {
			return nil, errs.New(errs.InvalidArgument, "BAD_TIME", "the time cannot be used").Field(bound.field, "%v", err)
		}
	}
	start, end := req.GetStartTime().AsTime(), req.GetEndTime().AsTime()
	bad := func(field, format string, args ...any) error {
		return errs.New(errs.InvalidArgument, "BAD_BACKFILL_RANGE", "the range cannot be filled").Field(field, format, args...)
	}
	switch {
	case end.Before(start):
		return nil, bad("end_time", "is %s, before start_time %s", end.Format(time.RFC3339), start.Format(time.RFC3339))
	case end.After(now):
		return nil, bad("end_time", "is %s, which is yet to come: it is %s now, and what is planned after that fires by itself", end.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	e, err := s.get(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if err := mayOverlay(ctx, e.Value, req.GetParameters()); err != nil {
		return nil, err
	}
	times, err := parseTimetable(e.Value, "job.")
	if err != nil {
		return nil, err
	}
	var all []time.Time
	for p := times.next(start.Add(-1)); !p.IsZero() && !p.After(end); p = times.next(p) {
		if len(all) == maxBackfill {
			return nil, bad("end_time", "the range holds more than %d planned times; the first %d end at %s: ask for those, and then for the rest",
				maxBackfill, maxBackfill, all[maxBackfill-1].Format(time.RFC3339))
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		next := "there is none after it, either"
		if p := times.next(end); !p.IsZero() {
			next = "the next one after it is " + p.Format(time.RFC3339)
		}
		return nil, bad("start_time", "no time is planned from %s to %s; %s", start.Format(time.RFC3339), end.Format(time.RFC3339), next)
	}
	id := req.GetName() + "/backfill-"
	if req.GetRequestId() != "" {
		id += req.GetRequestId() + "-"
	}
	resp := &jobv1.BackfillJobResponse{}
	parameters := overlaid(e.Value.GetParameters(), req.GetParameters())
	for _, p := range all {
		t := trigger(e.Value, id+p.Format(time.RFC3339), now)
		t.Cause, t.RequestedBy, t.PlannedTime = jobv1.Cause_CAUSE_BACKFILL, auth.Actor(ctx, req.GetRequestedBy()), timestamppb.New(p)
		t.OverlapPolicy = cmp.Or(req.GetOverlapPolicy(), jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ALL)
		t.Parameters = parameters
		if !req.GetDryRun() {
			// One after the other, for they begin in this order. Whoever is told of an error asks again, which adds what is missing.
			if err := s.bus.Publish(ctx, &jobv1.JobRequested{Trigger: t}); err != nil {
				return nil, err
			}
		}
		resp.RunIds = append(resp.RunIds, t.GetRunId())
	}
	return resp, nil
}

// Counts of ListNextFires.
const (
	defaultFires = 5
	maxFires     = 100
)

// ListNextFires previews planned times.
func (s *Service) ListNextFires(ctx context.Context, req *jobv1.ListNextFiresRequest) (*jobv1.ListNextFiresResponse, error) {
	if (req.GetName() != "") == (req.GetSchedule() != "") {
		return nil, errs.New(errs.InvalidArgument, "NAME_OR_SCHEDULE", "set exactly one of name and schedule")
	}
	job := &jobv1.Job{Schedule: req.GetSchedule(), TimeZone: req.GetTimeZone()}
	if req.GetName() != "" {
		if req.GetTimeZone() != "" {
			return nil, errs.New(errs.InvalidArgument, "ZONE_OF_JOB", "a job has its own time zone").
				Field("time_zone", "is %q; leave it out, or set schedule instead of name", req.GetTimeZone())
		}
		e, err := s.get(ctx, req.GetName())
		if err != nil {
			return nil, err
		}
		job = e.Value
	}
	times, err := parseTimetable(job, "")
	if err != nil {
		return nil, err
	}
	t := s.clock.time()
	if at := req.GetAfterTime(); at != nil {
		if err := at.CheckValid(); err != nil {
			return nil, errs.New(errs.InvalidArgument, "BAD_TIME", "the time cannot be used").Field("after_time", "%v", err)
		}
		t = at.AsTime()
	}
	count := int(req.GetCount())
	if count <= 0 {
		count = defaultFires
	}
	resp := &jobv1.ListNextFiresResponse{TimeZone: times.zone.String()}
	if times.offset > 0 {
		resp.Jitter = durationpb.New(times.offset)
	}
	for range min(count, maxFires) {
		if t = times.next(t); t.IsZero() {
			break
		}
		resp.FireTimes = append(resp.FireTimes, timestamppb.New(t))
	}
	return resp, nil
}

// present is a definition as clients see it.
func (s *Service) present(def *jobv1.Job, revision uint64) *jobv1.Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.states[def.GetName()]
	if st == nil || st.revision != revision || st.def == nil { // not here yet
		seen := &state{name: def.GetName(), revision: revision, def: def}
		seen.times, _ = parseTimetable(def, "job.") // never fires when a newer version wrote what cannot be read
		if st != nil {
			seen.logs = st.logs
		}
		st = seen
	}
	return st.present(s.clock.time())
}

// present is the job as clients see it. The caller holds the lock.
func (st *state) present(now time.Time) *jobv1.Job {
	job := proto.CloneOf(st.def)
	job.Etag = formatEtag(st.revision)
	if log := st.logs[job.GetKind()]; !log.fired.IsZero() && !log.fired.Before(job.GetCreateTime().AsTime()) { // of this job, not of one deleted before
		job.LastFireTime = timestamppb.New(log.fired)
	}
	if next, _ := st.planned(now); !next.IsZero() {
		job.NextFireTime = timestamppb.New(next)
	}
	return job
}

// settleTime bounds how long a change waits for its armed record. The change
// itself is stored by then, and whoever sees it appends the record.
const settleTime = 3 * time.Second

// settle waits until this replica has seen a change of a definition and the
// log carries it, so that when the call returns nothing fires any more under
// the definition before.
func (s *Service) settle(ctx context.Context, name string, revision uint64) {
	timeout := time.NewTimer(settleTime)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		st := s.state(name)
		_, unfenced := st.unfenced()
		if st.revision >= revision && !unfenced {
			s.mu.Unlock()
			return
		}
		if st.changed == nil {
			st.changed = make(chan struct{})
		}
		changed := st.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-timeout.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
