package scheduler

import (
	"container/heap"
	"context"
	"errors"
	"hash/maphash"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

// How firing works. A job has a definition, in a bucket, and a log, which is
// the subject of its JobTriggered events. The last record of the log says what
// fired last and under which definition. Every replica knows both, computes
// the next planned time, and at that time appends the trigger, on condition
// that the last record is still the one it knows. The stream lets one through;
// the others read what it was and go on from there.
//
// A change of the definition is followed by an armed record, which fires
// nothing. It carries the new definition's revision, and because it is a
// record, a replica that does not know of the change yet can append nothing
// until it does. Whoever sees a definition newer than the log's last record
// appends the armed record, so that it does not depend on the replica that took
// the change. A deletion is a change like any other.

// record is what the last record of a log says.
type record struct {
	sequence uint64
	revision uint64    // of the definition that was in force
	base     time.Time // planned times after this one are still to come
	fired    time.Time // the last planned time that fired; zero when none has
}

// state is what this replica knows of a job.
type state struct {
	name     string
	revision uint64     // of the definition, or of its deletion; 0 when there is neither
	def      *jobv1.Job // nil when there is none
	times    timetable
	logs     map[string]record // by kind: a job that was deleted may come back as another kind
	latest   bool              // no definition is newer than this one, although a log says so: somebody restored the bucket

	due       time.Time     // when to do something next; zero: nothing to do
	late      []time.Time   // see timetable.plan
	notBefore time.Time     // after a failure
	lost      bool          // somebody else's record was first, and is on its way here
	busy      bool          // something is being appended
	index     int           // in the queue, or -1
	rank      uint64        // of states due at the same time, which is first
	changed   chan struct{} // closed with the next change; nil while nobody waits for it
}

// unfenced is the kind of a log whose last record is older than the
// definition, if there is one.
func (st *state) unfenced() (kind string, found bool) {
	if st.revision == 0 {
		return "", false
	}
	for kind, r := range st.logs {
		if r.revision < st.revision || r.revision > st.revision && st.latest {
			return kind, true
		}
	}
	if st.def != nil {
		if _, ok := st.logs[st.def.GetKind()]; !ok {
			return st.def.GetKind(), true
		}
	}
	return "", false
}

// ahead reports that the log was written under a definition newer than the one
// known here.
func (st *state) ahead() bool {
	return st.def != nil && st.logs[st.def.GetKind()].revision > st.revision
}

// base is the time after which planned times count.
func (st *state) base() time.Time {
	base := st.def.GetScheduleTime().AsTime()
	if r := st.logs[st.def.GetKind()]; r.base.After(base) {
		return r.base
	}
	return base
}

// planned is the time the job fires for next, and when it does; zero when it
// does not.
func (st *state) planned(now time.Time) (planned, due time.Time) {
	if st.def == nil || st.def.GetPaused() {
		return time.Time{}, time.Time{}
	}
	planned, st.late = st.times.plan(st.late, st.base(), now)
	if planned.IsZero() {
		return time.Time{}, time.Time{}
	}
	return planned, planned.Add(st.times.offset)
}

// replan works out what the job has to do next. The caller holds the lock.
func (s *Service) replan(st *state) {
	now := s.clock.time()
	st.due = time.Time{}
	if _, found := st.unfenced(); found {
		st.due = now
	} else if st.ahead() {
		st.due = now.Add(retryAfter) // the definition is on its way
	} else {
		_, st.due = st.planned(now)
	}
	if st.due.Before(st.notBefore) && !st.due.IsZero() {
		st.due = st.notBefore
	}
	switch {
	case st.busy || st.due.IsZero():
		if st.index >= 0 {
			heap.Remove(&s.queue, st.index)
		}
	case st.index >= 0:
		heap.Fix(&s.queue, st.index)
	default:
		heap.Push(&s.queue, st)
	}
	if st.index == 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	if st.changed != nil {
		close(st.changed)
		st.changed = nil
	}
}

// state returns the state of a job. The caller holds the lock.
func (s *Service) state(name string) *state {
	st := s.states[name]
	if st == nil {
		st = &state{name: name, logs: map[string]record{}, index: -1, rank: maphash.String(s.seed, name)}
		s.states[name] = st
	}
	return st
}

// onDefinition takes in a change of a definition.
func (s *Service) onDefinition(e *bus.Entry[*jobv1.Job]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state(e.Key)
	if e.Revision <= st.revision {
		return
	}
	st.revision, st.def, st.latest, st.notBefore, st.late = e.Revision, nil, false, time.Time{}, nil
	if !e.Deleted {
		times, err := parseTimetable(e.Value, "job.")
		if err != nil { // written by a newer version
			s.log.Error("job does not fire: its schedule cannot be read", "job", e.Key, "error", err)
			st.revision = 0
		} else {
			st.def, st.times = e.Value, times
		}
	}
	s.replan(st)
}

// onRecord takes in a new last record of a log.
func (s *Service) onRecord(m *bus.Message[*jobv1.JobTriggered]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learn(m.Body, m.Sequence)
}

// learn notes a record. The caller holds the lock.
func (s *Service) learn(m *jobv1.JobTriggered, sequence uint64) {
	st := s.state(m.GetJob())
	if sequence <= st.logs[m.GetKind()].sequence {
		return
	}
	r := record{sequence: sequence}
	r.revision, _ = strconv.ParseUint(m.GetJobEtag(), 10, 64)
	if t := m.GetTrigger(); t != nil {
		r.base = t.GetPlannedTime().AsTime()
		r.fired = r.base
	} else {
		r.base = m.GetArmedTime().AsTime()
		if m.GetLastFireTime() != nil {
			r.fired = m.GetLastFireTime().AsTime()
		}
	}
	st.logs[m.GetKind()] = r
	st.notBefore, st.lost = time.Time{}, false
	s.replan(st)
}

// next makes the record that is due; nil when nothing is. The caller holds the
// lock.
func (s *Service) next(st *state, now time.Time) (m *jobv1.JobTriggered, after uint64) {
	etag := strconv.FormatUint(st.revision, 10)
	if kind, found := st.unfenced(); found {
		r := st.logs[kind]
		m = &jobv1.JobTriggered{Job: st.name, Kind: kind, JobEtag: etag}
		base := r.base
		if st.def != nil && st.def.GetKind() == kind {
			base = st.base()
		}
		m.ArmedTime = timestamppb.New(base)
		if !r.fired.IsZero() {
			m.LastFireTime = timestamppb.New(r.fired)
		}
		return m, r.sequence
	}
	planned, due := st.planned(now)
	if planned.IsZero() || due.After(now) || st.ahead() {
		return nil, 0
	}
	t := trigger(st.def, runID(st.name, planned), now)
	t.Cause, t.PlannedTime, t.Missed = jobv1.Cause_CAUSE_SCHEDULE, timestamppb.New(planned), st.times.missed(st.base(), planned)
	return &jobv1.JobTriggered{Job: st.name, Kind: st.def.GetKind(), JobEtag: etag, Trigger: t}, st.logs[st.def.GetKind()].sequence
}

const (
	// appenders is how many records are on their way at once.
	appenders = 64
	// retryAfter is how long a job waits after an append of unknown outcome.
	retryAfter = time.Second
	// longestWait bounds a sleep, because clocks are set and machines suspended.
	longestWait = 10 * time.Second
)

// fire does what is due, when it is due, until ctx ends.
func (s *Service) fire(ctx context.Context) error {
	var appending sync.WaitGroup
	defer appending.Wait()
	slots := make(chan struct{}, appenders)
	for {
		s.mu.Lock()
		now := s.clock.time()
		var st *state
		until := now.Add(longestWait)
		if len(s.queue) > 0 {
			if due := s.queue[0].due; !due.After(now) {
				st = heap.Pop(&s.queue).(*state)
				st.busy = true
			} else if due.Before(until) {
				until = due
			}
		}
		s.mu.Unlock()
		if st != nil {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			appending.Go(func() {
				defer func() { <-slots }()
				s.append(ctx, st)
			})
			continue
		}
		select {
		case <-s.clock.until(until):
		case <-s.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// append appends the record that is due for a job, and takes in what became
// of it.
func (s *Service) append(ctx context.Context, st *state) {
	s.mu.Lock()
	now := s.clock.time()
	m, after := s.next(st, now)
	ahead, revision, lost := st.ahead(), st.revision, st.lost
	s.mu.Unlock()
	var learned *jobv1.JobTriggered
	var sequence uint64
	var err error
	latest := false
	try, cancel := context.WithTimeout(ctx, 10*time.Second)
	switch {
	case m != nil:
		learned, sequence, err = s.appendOrRead(try, m, after, lost)
	case ahead:
		var e *bus.Entry[*jobv1.Job]
		if e, err = s.jobs.Get(try, st.name); err == nil {
			latest = e.Revision == revision
		} else if errors.Is(err, errs.NotFound) {
			err = nil
		}
	}
	cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.busy = false
	st.latest = st.latest || latest && st.revision == revision
	switch {
	case err != nil && ctx.Err() == nil:
		s.log.Warn("a job's log cannot be written; it is tried again", "job", st.name, "error", err)
		st.notBefore = s.clock.time().Add(retryAfter)
	case learned != nil:
		s.learn(learned, sequence)
	case m != nil && st.logs[m.GetKind()].sequence == after:
		// The watch of the log brings what was there first, in a moment. Should it not, the next try reads it.
		st.lost, st.notBefore = true, s.clock.time().Add(retryAfter)
	}
	s.replan(st)
	s.forget(st)
}

// appendOrRead appends m and returns it. When something else is there it
// returns nil, or what is there if it is to read; it also reads when the
// outcome is unknown.
func (s *Service) appendOrRead(ctx context.Context, m *jobv1.JobTriggered, after uint64, read bool) (*jobv1.JobTriggered, uint64, error) {
	sequence, err := s.bus.Append(ctx, m, after)
	if err == nil {
		if t := m.GetTrigger(); t != nil {
			s.log.Info("fired", "job", m.GetJob(), "run", t.GetRunId())
		}
		return m, sequence, nil
	}
	conflict := errors.Is(err, bus.ErrConflict)
	if conflict && !read {
		return nil, 0, nil
	}
	last, readErr := bus.Last[*jobv1.JobTriggered](ctx, s.bus, m.GetKind(), m.GetJob())
	if readErr != nil {
		return nil, 0, errors.Join(err, readErr)
	}
	if conflict {
		err = nil
	}
	if last == nil {
		return nil, 0, err
	}
	return last.Body, last.Sequence, err
}

// forget drops what is left of a deleted job once its log says so. The caller
// holds the lock.
func (s *Service) forget(st *state) {
	if _, found := st.unfenced(); !found && st.def == nil && st.revision > 0 && !st.busy {
		st.logs = map[string]record{}
	}
}

// queue is a heap of states by due time. Of those that are due at once each
// replica begins with others, so that many replicas share the work: what one
// has fired the rest know of when they come to it.
type queue []*state

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if c := q[i].due.Compare(q[j].due); c != 0 {
		return c < 0
	}
	return q[i].rank < q[j].rank
}

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	st := x.(*state)
	st.index = len(*q)
	*q = append(*q, st)
}

func (q *queue) Pop() any {
	old := *q
	st := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	st.index = -1
	return st
}
