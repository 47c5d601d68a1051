package job

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"maps"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

// Task is one attempt at one scope. Its methods are safe for concurrent use.
type Task struct {
	// Run is the run's id.
	Run string
	// Job is the job's name.
	Job string
	// PlannedTime is the time the run was planned for, which stays the same when
	// it begins late or again.
	PlannedTime time.Time
	// Scope is what is to be done.
	Scope *scanv1.Scope
	// Parameters are the run's.
	Parameters map[string]string
	// Attempt counts from 1 how often the scope was begun.
	Attempt int
	// Execution names this attempt and no other.
	Execution string
	// Log carries run, scope and attempt.
	Log *slog.Logger
	// Request is the scope's request as it came, which also tells the role to
	// assume, for kinds that enter accounts.
	Request *scanv1.ScopeRequested
	// End is what will be said of the scope when Do has returned. There is no
	// need to touch it: what is left empty is filled in, and a success without
	// coverage is a complete one. A Do that fills in Coverage tells itself what
	// could be done; then End.Error, set or empty, is what the scope ends with
	// when Do's error does not pass.
	End *scanv1.ScopeFinished

	begun time.Time

	mu       sync.Mutex
	progress *scanv1.Progress
	counts   map[string]int64
	life     time.Time
}

// Count adds n, at least 0, to the figure of a name, such as deleted, which
// people see with the run while it is at work and after.
func (t *Task) Count(name string, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[name] += n
	t.life = time.Now()
}

// Progress tells all figures at once, for kinds that have more than counts.
// They must only rise. Those of Count are added.
func (t *Task) Progress(p *scanv1.Progress) {
	p = proto.CloneOf(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.progress = p
	t.life = time.Now()
}

// Heartbeat is a sign of life, for work that has nothing to count for a while.
func (t *Task) Heartbeat() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.life = time.Now()
}

// IsPart tells whether the scope is the one that Part made of a name.
func (t *Task) IsPart(name string) bool { return t.Scope.GetRegion() == partName(name) }

// snapshot is how far the task has come.
func (t *Task) snapshot() *scanv1.Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := proto.CloneOf(t.progress)
	if len(t.counts) > 0 {
		if p.Counts == nil {
			p.Counts = map[string]int64{}
		}
		maps.Copy(p.Counts, t.counts)
	}
	return p
}

// without is the task as it is told of when its handler may still be at it:
// what that filled in, or will, is not used.
func (t *Task) without() *Task {
	return &Task{
		Run: t.Run, Scope: t.Scope, Execution: t.Execution, Log: t.Log, Request: t.Request, End: &scanv1.ScopeFinished{},
		begun: t.begun, progress: t.snapshot(),
	}
}

// silent is how long the handler has said nothing.
func (t *Task) silent() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.life)
}

var (
	partFits = regexp.MustCompile(`^(-|[a-z0-9-]{1,63})$`)
	partNot  = regexp.MustCompile(`[^a-z0-9-]+`)
)

// partName is the name of a part as a scope can have it: as it is when it fits,
// otherwise what is readable of it and a hash.
func partName(s string) string {
	if partFits.MatchString(s) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	readable := strings.Trim(partNot.ReplaceAllString(strings.ToLower(s), "-"), "-")
	return readable[:min(len(readable), 54)] + "-" + hex.EncodeToString(sum[:4])
}
