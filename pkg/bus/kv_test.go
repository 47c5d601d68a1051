package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/errs"
)

func TestKV(t *testing.T) {
	t.Parallel()
	b := newBus(t, "scheduler")
	ctx := t.Context()
	kv, err := OpenKV[*jobv1.Job](ctx, b, "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	const key = "a key.with > anything=*"
	job := func(d string) *jobv1.Job { return &jobv1.Job{Name: key, Description: d} }
	if _, err := kv.Get(ctx, key); !errors.Is(err, errs.NotFound) {
		t.Errorf("get of nothing: %v", err)
	}
	one, err := kv.CreateFirst(ctx, key, job("one"))
	if err != nil {
		t.Fatal(err)
	}
	for _, create := range []func(context.Context, string, *jobv1.Job) (uint64, error){kv.Create, kv.CreateFirst} {
		if _, err := create(ctx, key, job("x")); !errors.Is(err, errs.AlreadyExists) || !errors.Is(err, ErrConflict) {
			t.Errorf("create of what is there: %v", err)
		}
	}
	two, err := kv.Update(ctx, key, job("two"), one)
	if err != nil || two <= one {
		t.Fatal(two, err)
	}
	if _, err := kv.Update(ctx, key, job("x"), one); !errors.Is(err, ErrConflict) || !errors.Is(err, errs.Aborted) {
		t.Errorf("update of an old revision: %v", err)
	}
	if err := kv.Delete(ctx, key, one); !errors.Is(err, ErrConflict) {
		t.Errorf("delete of an old revision: %v", err)
	}
	e, err := kv.Get(ctx, key)
	if err != nil || e.Key != key || e.Value.GetDescription() != "two" || e.Revision != two || e.Deleted || e.Time.IsZero() {
		t.Errorf("get: %+v, %v", e, err)
	}
	if err := kv.Delete(ctx, key, two); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(ctx, key); !errors.Is(err, errs.NotFound) {
		t.Errorf("get of what was deleted: %v", err)
	}
	if _, err := kv.CreateFirst(ctx, key, job("x")); !errors.Is(err, errs.AlreadyExists) {
		t.Errorf("first creation of what was deleted: %v", err)
	}
	three, err := kv.Create(ctx, key, job("three"))
	if err != nil || three <= two {
		t.Fatal(three, err)
	}
	if _, err := kv.Create(ctx, "bad", &jobv1.Job{Name: "\xff"}); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("a value that cannot be encoded: %v", err)
	}
	// Opened again it is the same bucket.
	again, err := OpenKV[*jobv1.Job](ctx, b, "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	if e, err := again.Get(ctx, key); err != nil || e.Revision != three {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestKVWatch(t *testing.T) {
	t.Parallel()
	b := newBus(t, "scheduler")
	kv, err := OpenKV[*jobv1.Job](t.Context(), b, "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) uint64 {
		t.Helper()
		rev, err := kv.Create(t.Context(), key, &jobv1.Job{Name: key})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	put("a")
	gone := put("b")
	if err := kv.Delete(t.Context(), "b", gone); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.kv.Put(t.Context(), "broken", []byte{0xff}); err != nil {
		t.Fatal(err)
	}
	events := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- kv.Watch(ctx, func(e *Entry[*jobv1.Job]) {
			events <- fmt.Sprint(e.Key, e.Value.GetName(), e.Deleted)
		}, func() { events <- "current" })
	}()
	var got []string
	for range 3 {
		got = append(got, wait(t, events, "what there is"))
	}
	rev := put("c.d")
	got = append(got, wait(t, events, "the creation"))
	if err := kv.Delete(t.Context(), "c.d", rev); err != nil {
		t.Fatal(err)
	}
	got = append(got, wait(t, events, "the deletion"))
	if want := []string{"aafalse", "btrue", "current", "c.dc.dfalse", "c.dtrue"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	cancel()
	if err := wait(t, done, "Watch"); err != nil {
		t.Error(err)
	}
}

func TestKVUpdateHasOneWinner(t *testing.T) {
	t.Parallel()
	b := newBus(t, "scheduler")
	kv, err := OpenKV[*jobv1.Job](t.Context(), b, "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	var wins atomic.Int32
	each := func(do func(i int) error) {
		t.Helper()
		wins.Store(0)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				switch err := do(i); {
				case err == nil:
					wins.Add(1)
				case !errors.Is(err, ErrConflict):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Errorf("%d winners", wins.Load())
		}
	}
	each(func(i int) error {
		_, err := kv.Create(t.Context(), "k", &jobv1.Job{Description: fmt.Sprint(i)})
		return err
	})
	e, err := kv.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	each(func(i int) error {
		_, err := kv.Update(t.Context(), "k", &jobv1.Job{Description: fmt.Sprint("next", i)}, e.Revision)
		return err
	})
}
