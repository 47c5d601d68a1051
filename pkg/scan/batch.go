package scan

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

const (
	// A batch holds at most so many observations and sightings together, and
	// so many bytes of them; one that is bigger by itself goes alone.
	batchCount = 500
	batchBytes = 512 << 10
	// While a scope is scanned, what is known is handed on at least this
	// often: people watch.
	batchEvery = 2 * time.Second
)

// batches gathers what a scope observes into numbered messages. It is safe for
// concurrent use.
type batches struct {
	publish func(context.Context, *findingv1.FindingsObserved) error
	head    *findingv1.FindingsObserved // what every batch says of its origin

	mu       sync.Mutex
	next     *findingv1.FindingsObserved
	bytes    int
	progress *scanv1.Progress
	fresh    bool // progress that no batch has told yet
	sent     int32
	err      error
}

func newBatches(head *findingv1.FindingsObserved, publish func(context.Context, *findingv1.FindingsObserved) error) *batches {
	return &batches{publish: publish, head: head, next: &findingv1.FindingsObserved{}}
}

// observe adds an observation.
func (b *batches) observe(ctx context.Context, o *scanv1.Observation) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.room(ctx, proto.Size(o)); err != nil {
		return err
	}
	b.next.Observations = append(b.next.Observations, o)
	return nil
}

// sight adds a sighting.
func (b *batches) sight(ctx context.Context, s *scanv1.Sighting) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.room(ctx, proto.Size(s)); err != nil {
		return err
	}
	b.next.Sightings = append(b.next.Sightings, s)
	return nil
}

// room sends the batch when another item of n bytes would make it too big.
func (b *batches) room(ctx context.Context, n int) error {
	const tag = 8 // its field number and length
	count := len(b.next.Observations) + len(b.next.Sightings)
	if count == batchCount || count > 0 && b.bytes+n+tag > batchBytes {
		if err := b.send(ctx); err != nil {
			return err
		}
	}
	b.bytes += n + tag
	return b.err
}

// tell notes how far the scope has come.
func (b *batches) tell(p *scanv1.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.progress, b.fresh = p, true
}

// flush sends what there is, if there is anything new. Once sending has failed
// it fails for good: a gap in the numbers would lose observations.
func (b *batches) flush(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.next.Observations) == 0 && len(b.next.Sightings) == 0 && !b.fresh {
		return b.err
	}
	return b.send(ctx)
}

func (b *batches) send(ctx context.Context) error {
	if b.err != nil {
		return b.err
	}
	m := b.next
	m.RunId, m.Scope, m.Execution = b.head.GetRunId(), b.head.GetScope(), b.head.GetExecution()
	m.Sequence, m.Progress = b.sent+1, b.progress
	if b.err = b.publish(ctx, m); b.err != nil {
		return b.err
	}
	b.sent++
	b.next, b.bytes, b.fresh = &findingv1.FindingsObserved{}, 0, false
	return nil
}

// flushing flushes every batchEvery until the function it returns is called,
// which waits for the last flush to end.
func (b *batches) flushing(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(batchEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				// A failure shows at the next observation, or at the end.
				_ = b.flush(ctx)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// count is how many batches were sent.
func (b *batches) count() int32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent
}
