package scan

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

// collect returns batches that keep what they publish.
func collect() (*batches, *[]*findingv1.FindingsObserved) {
	var all []*findingv1.FindingsObserved
	return newBatches(&findingv1.FindingsObserved{RunId: "run", Execution: "7.1"}, func(_ context.Context, b *findingv1.FindingsObserved) error {
		all = append(all, b)
		return nil
	}), &all
}

func TestBatchesAreBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b, all := collect()
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 3000), rapid.IntRange(0, 700<<10)), 0, 60).Draw(t, "sizes")
		copies := rapid.IntRange(1, 30).Draw(t, "copies")
		n := 0
		for range copies {
			for i, size := range sizes {
				var err error
				if i%3 == 0 {
					err = b.sight(t.Context(), &scanv1.Sighting{Arn: strings.Repeat("x", size)})
				} else {
					err = b.observe(t.Context(), &scanv1.Observation{Title: strings.Repeat("x", size)})
				}
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
		}
		if err := b.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, m := range *all {
			count := len(m.Observations) + len(m.Sightings)
			n -= count
			if m.Sequence != int32(i+1) || m.RunId != "run" || m.Execution != "7.1" {
				t.Fatalf("batch %d says it is %d of %s/%s", i+1, m.Sequence, m.RunId, m.Execution)
			}
			if count == 0 || count > batchCount || count > 1 && proto.Size(m) > batchBytes+200 {
				t.Fatalf("batch %d holds %d items in %d bytes", i+1, count, proto.Size(m))
			}
		}
		if n != 0 || int(b.count()) != len(*all) {
			t.Fatalf("%d items are missing, %d batches counted of %d", n, b.count(), len(*all))
		}
	})
}

func TestBatchesGoOutInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, all := collect()
		stop := b.flushing(t.Context())
		time.Sleep(3 * batchEvery)
		synctest.Wait()
		if len(*all) != 0 {
			t.Errorf("%d batches about nothing", len(*all))
		}
		b.tell(&scanv1.Progress{Resources: 5})
		time.Sleep(batchEvery)
		synctest.Wait()
		if len(*all) != 1 || (*all)[0].Progress.GetResources() != 5 {
			t.Errorf("progress alone gave %v", *all)
		}
		if err := b.observe(t.Context(), &scanv1.Observation{}); err != nil {
			t.Error(err)
		}
		time.Sleep(batchEvery)
		synctest.Wait()
		if len(*all) != 2 || len((*all)[1].Observations) != 1 {
			t.Errorf("an observation gave %v", *all)
		}
		stop()
	})
}

func TestBatchesStayBroken(t *testing.T) {
	t.Parallel()
	down, sent := errors.New("down"), 0
	b := newBatches(&findingv1.FindingsObserved{}, func(context.Context, *findingv1.FindingsObserved) error {
		if sent++; sent == 1 {
			return down
		}
		return nil
	})
	if err := b.observe(t.Context(), &scanv1.Observation{}); err != nil {
		t.Fatal(err)
	}
	if err := b.flush(t.Context()); !errors.Is(err, down) {
		t.Errorf("first flush: %v", err)
	}
	// A later success would hide that the first batch is missing.
	if err := b.flush(t.Context()); !errors.Is(err, down) || sent != 1 {
		t.Errorf("second flush: %v after %d publishings", err, sent)
	}
	if err := b.observe(t.Context(), &scanv1.Observation{}); !errors.Is(err, down) {
		t.Errorf("observe: %v", err)
	}
}
