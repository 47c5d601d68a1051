package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"nightshift.dev/pkg/errs"
)

// KV is a bucket of protobuf messages by key. Any text is a key, up to about
// 100 bytes.
type KV[T proto.Message] struct {
	b  *Bus
	kv jetstream.KeyValue
}

// Entry is what a bucket holds under a key.
type Entry[T proto.Message] struct {
	// Key as given to Create.
	Key string
	// Value is unset when Deleted.
	Value T
	// Revision changes with each write and is never used again in the bucket.
	Revision uint64
	// Time of the last write, by the server's clock.
	Time time.Time
	// Deleted says that this is the mark a deletion left.
	Deleted bool
}

// OpenKV opens a bucket and creates it when there is none.
func OpenKV[T proto.Message](ctx context.Context, b *Bus, bucket string) (*KV[T], error) {
	kv := &KV[T]{b: b}
	err := b.patiently(ctx, "opening bucket "+bucket, func(ctx context.Context) (err error) {
		kv.kv, err = b.bucket(ctx, bucket)
		return err
	})
	if err != nil {
		return nil, err
	}
	return kv, nil
}

// Get returns the entry of a key. NOT_FOUND when there is none.
func (k *KV[T]) Get(ctx context.Context, key string) (*Entry[T], error) {
	e, err := k.kv.Get(ctx, token(key))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, errs.New(errs.NotFound, "KEY_NOT_FOUND", "there is no %q", key)
	}
	if err != nil {
		return nil, unavailable(fmt.Sprintf("reading %q", key), err)
	}
	return k.entry(e)
}

// Create stores a value under a key that has none. ALREADY_EXISTS when it has.
func (k *KV[T]) Create(ctx context.Context, key string, value T) (revision uint64, err error) {
	return k.write(ctx, key, value, func(ctx context.Context, data []byte) (uint64, error) {
		rev, err := k.kv.Create(ctx, token(key), data)
		if errors.Is(err, jetstream.ErrKeyExists) {
			return 0, errs.New(errs.AlreadyExists, "KEY_EXISTS", "there is a %q already", key).Wrap(ErrConflict)
		}
		return rev, err
	})
}

// CreateFirst stores a value under a key that never had one; ALREADY_EXISTS
// also when it had one that was deleted.
func (k *KV[T]) CreateFirst(ctx context.Context, key string, value T) (revision uint64, err error) {
	return k.write(ctx, key, value, func(ctx context.Context, data []byte) (uint64, error) {
		rev, err := k.kv.Update(ctx, token(key), data, 0)
		if conflict(err) {
			return 0, errs.New(errs.AlreadyExists, "KEY_EXISTS", "there is or was a %q already", key).Wrap(ErrConflict)
		}
		return rev, err
	})
}

// Update stores a value over the one of a revision. When the key has another
// by now the error is ErrConflict.
func (k *KV[T]) Update(ctx context.Context, key string, value T, revision uint64) (next uint64, err error) {
	return k.write(ctx, key, value, func(ctx context.Context, data []byte) (uint64, error) {
		rev, err := k.kv.Update(ctx, token(key), data, revision)
		if conflict(err) {
			return 0, stale(key)
		}
		return rev, err
	})
}

// Delete removes the value of a revision and leaves a mark. When the key has
// another by now the error is ErrConflict.
func (k *KV[T]) Delete(ctx context.Context, key string, revision uint64) error {
	var none T
	_, err := k.write(ctx, key, none, func(ctx context.Context, _ []byte) (uint64, error) {
		err := k.kv.Delete(ctx, token(key), jetstream.LastRevision(revision))
		if conflict(err) {
			return 0, stale(key)
		}
		return 0, err
	})
	return err
}

// write encodes a value and does what waits for the server's permission.
func (k *KV[T]) write(ctx context.Context, key string, value T, do func(context.Context, []byte) (uint64, error)) (uint64, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(value)
	if err != nil {
		return 0, errs.New(errs.InvalidArgument, "BAD_VALUE", "the value of %q cannot be encoded", key).Wrap(err)
	}
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	subject := "$KV." + k.kv.Bucket() + "." + token(key)
	defer k.b.refusals.wait(subject, refuse)()
	rev, err := do(ctx, data)
	if e := (*errs.Error)(nil); err == nil || errors.As(err, &e) {
		return rev, err
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return 0, publishError(subject, err)
}

func conflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

func stale(key string) error {
	return errs.New(errs.Aborted, "STALE_REVISION", "%q was changed by somebody else", key).Wrap(ErrConflict)
}

func (k *KV[T]) entry(e jetstream.KeyValueEntry) (*Entry[T], error) {
	key, ok := untoken(e.Key())
	if !ok {
		key = e.Key()
	}
	out := &Entry[T]{Key: key, Revision: e.Revision(), Time: e.Created(), Deleted: e.Operation() != jetstream.KeyValuePut}
	if out.Deleted {
		return out, nil
	}
	var err error
	if out.Value, err = decode[T](e.Value()); err != nil {
		return nil, errs.New(errs.Internal, "BAD_VALUE", "the value of %q cannot be decoded", key).Wrap(err)
	}
	return out, nil
}

// Watch calls each with every entry, then current, then each with every
// change, deletions included, until ctx ends, when it returns nil. An entry
// that does not decode is logged and left out.
func (k *KV[T]) Watch(ctx context.Context, each func(*Entry[T]), current func()) error {
	var w jetstream.KeyWatcher
	err := k.b.patiently(ctx, "watching bucket "+k.kv.Bucket(), func(context.Context) (err error) {
		w, err = k.kv.WatchAll(ctx)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Updates():
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errs.New(errs.Unavailable, "BUS_UNAVAILABLE", "watching bucket %s broke off", k.kv.Bucket())
			}
			if e == nil { // that was all there is by now
				current()
				continue
			}
			entry, err := k.entry(e)
			if err != nil {
				k.b.log.Error("entry cannot be decoded", "bucket", k.kv.Bucket(), "key", e.Key(), "error", err)
				continue
			}
			each(entry)
		}
	}
}
