package scheduler

import (
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
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
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
	if _, err := parseSchedule(in.GetSchedule(), "job.schedule"); err != nil {
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
	return &jobv1.GetJobResponse{Job: s.present(e.Value, e.Revision)}, nil
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
	var after string
	more, err := page.Parse(req.GetPageToken(), &after)
	if err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx); err != nil {
		return nil, err
	}
	type found struct {
		def      *jobv1.Job
		revision uint64
	}
	var all []found
	s.mu.Lock()
	for name, st := range s.states {
		if st.def != nil && (!more || name > after) {
			all = append(all, found{st.def, st.revision})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b found) int { return strings.Compare(a.def.GetName(), b.def.GetName()) })
	resp := &jobv1.ListJobsResponse{}
	if size := page.Size(req.GetPageSize()); len(all) > size {
		all = all[:size]
		resp.NextPageToken = page.Token(all[size-1].def.GetName())
	}
	for _, f := range all {
		resp.Jobs = append(resp.Jobs, s.present(f.def, f.revision))
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
	"description": func(to, from *jobv1.Job) { to.Description = from.GetDescription() },
	"schedule":    func(to, from *jobv1.Job) { to.Schedule = strings.Join(strings.Fields(from.GetSchedule()), " ") },
	"parameters":  func(to, from *jobv1.Job) { to.Parameters = from.GetParameters() },
	"max_retries": func(to, from *jobv1.Job) { to.MaxRetries = from.MaxRetries },
	"timeout":     func(to, from *jobv1.Job) { to.Timeout = from.GetTimeout() },
	"labels":      func(to, from *jobv1.Job) { to.Labels = from.GetLabels() },
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
	if slices.Contains(paths, "schedule") {
		if _, err := parseSchedule(in.GetSchedule(), "job.schedule"); err != nil {
			return nil, err
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
		return nil
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
		job := proto.CloneOf(e.Value)
		if err := edit(job); err != nil {
			return nil, err
		}
		if proto.Equal(job, e.Value) {
			return s.present(job, e.Revision), nil
		}
		now := timestamppb.New(s.clock.time())
		job.UpdateTime = now
		if job.GetSchedule() != e.Value.GetSchedule() || job.GetPaused() != e.Value.GetPaused() {
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

// RunJob asks for a run now.
func (s *Service) RunJob(ctx context.Context, req *jobv1.RunJobRequest) (*jobv1.RunJobResponse, error) {
	e, err := s.get(ctx, req.GetName())
	if err != nil {
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
	t.Cause, t.RequestedBy, t.PlannedTime = jobv1.Cause_CAUSE_MANUAL, req.GetRequestedBy(), timestamppb.New(now)
	t.Parameters = map[string]string{}
	maps.Copy(t.Parameters, e.Value.GetParameters())
	maps.Copy(t.Parameters, req.GetParameters())
	if err := s.bus.Publish(ctx, &jobv1.JobRequested{Trigger: t}); err != nil {
		return nil, err
	}
	return &jobv1.RunJobResponse{RunId: t.GetRunId()}, nil
}

// Counts of ListNextFires.
const (
	defaultFires = 5
	maxFires     = 100
)

// ListNextFires previews planned times.
func (s *Service) ListNextFires(ctx context.Context, req *jobv1.ListNextFiresRequest) (*jobv1.ListNextFiresResponse, error) {
	expr, field := req.GetSchedule(), "schedule"
	if (req.GetName() != "") == (expr != "") {
		return nil, errs.New(errs.InvalidArgument, "NAME_OR_SCHEDULE", "set exactly one of name and schedule")
	}
	if req.GetName() != "" {
		e, err := s.get(ctx, req.GetName())
		if err != nil {
			return nil, err
		}
		expr = e.Value.GetSchedule()
	}
	sched, err := parseSchedule(expr, field)
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
	resp := &jobv1.ListNextFiresResponse{}
	for range min(count, maxFires) {
		if t = sched.next(t); t.IsZero() || t.Year() > 9999 { // the last year a Timestamp holds
			break
		}
		resp.FireTimes = append(resp.FireTimes, timestamppb.New(t))
	}
	return resp, nil
}

// present is a definition as clients see it.
func (s *Service) present(def *jobv1.Job, revision uint64) *jobv1.Job {
	job := proto.CloneOf(def)
	job.Etag = formatEtag(revision)
	s.mu.Lock()
	defer s.mu.Unlock()
	var log record
	if st := s.states[def.GetName()]; st != nil {
		log = st.logs[def.GetKind()]
	}
	if !log.fired.IsZero() && !log.fired.Before(def.GetCreateTime().AsTime()) { // of this job, not of one deleted before
		job.LastFireTime = timestamppb.New(log.fired)
	}
	if sched, err := parseSchedule(def.GetSchedule(), "schedule"); err == nil && !def.GetPaused() {
		now := s.clock.time()
		base := def.GetScheduleTime().AsTime()
		if log.base.After(base) {
			base = log.base
		}
		if next := sched.plan(base, now); !next.IsZero() {
			job.NextFireTime = timestamppb.New(next)
		}
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
		st, changed := s.states[name], s.changed
		if st != nil && st.revision >= revision {
			if _, found := st.unfenced(); !found {
				s.mu.Unlock()
				return
			}
		}
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
