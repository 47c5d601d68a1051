package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"nightshift.dev/pkg/errs"
)

const (
	deadLetterStream  = "NIGHTSHIFT_DEADLETTER"
	deadLetterSubject = "nightshift.deadletter.v1.DeadLetter"
	replaySubject     = "nightshift.replay"
	laterBucket       = "NIGHTSHIFT_LATER"

	day = 24 * time.Hour
	mib = 1 << 20
)

// streams are all streams there are. Each holds the events of one protobuf
// package, and the replays of dead letters to its consumers. What is kept is
// bounded by time and bytes, the oldest going first, except for the log of jobs,
// which is bounded per job: the last record of a job is what its schedule goes
// on from; and for the audit log, which is only passing through.
var streams = []jetstream.StreamConfig{
	{
		Name: "NIGHTSHIFT_JOB", Description: "What fired, and what is to fire next.",
		Subjects:          []string{"nightshift.job.v1.>"},
		MaxMsgsPerSubject: jobRecords, DenyDelete: true, DenyPurge: true,
	},
	{
		Name: "NIGHTSHIFT_RUN", Description: "Runs that began and ended.",
		Subjects: []string{"nightshift.run.v1.>"},
		MaxAge:   30 * day, MaxBytes: 64 * mib,
	},
	{
		Name: "NIGHTSHIFT_SCAN", Description: "Scopes to scan, and how their scans ended.",
		Subjects: []string{"nightshift.scan.v1.>"},
		MaxAge:   7 * day, MaxBytes: 256 * mib,
	},
	{
		Name: "NIGHTSHIFT_FINDING", Description: "Verdicts on their way to Postgres, and what became of findings.",
		Subjects: []string{"nightshift.finding.v1.>"},
		MaxAge:   7 * day, MaxBytes: 1024 * mib,
	},
	{
		// Nothing of it may be lost on the way to Postgres: a message stays until it is there, and when the stream is full,
		// it takes no more, and what would have to be written there is not done.
		Name: "NIGHTSHIFT_AUDIT", Description: "The audit log on its way to Postgres.",
		Subjects: []string{"nightshift.audit.v1.>"},
		MaxBytes: 256 * mib, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, DenyDelete: true, DenyPurge: true,
	},
	{
		Name: "NIGHTSHIFT_HEALTH", Description: "Changes in the state of components and accounts.",
		Subjects: []string{"nightshift.health.v1.>"},
		MaxAge:   30 * day, MaxBytes: 64 * mib,
	},
	{
		Name: deadLetterStream, Description: "Messages that a consumer gave up, for people.",
		Subjects: []string{deadLetterSubject + ".>"},
		MaxAge:   90 * day, MaxBytes: 256 * mib,
	},
}

func init() {
	for i := range streams {
		s := &streams[i]
		s.Storage = jetstream.FileStorage
		s.Duplicates = dedupeWindow
		if s.Name != deadLetterStream {
			s.Subjects = append(s.Subjects, replaySubject+"."+s.Name+".>")
		}
	}
}

// jobRecords is how many records the log of a job keeps: more than the 1,000
// that one backfill, or catching up, can ask for while no worker takes any.
const jobRecords = 1100

// dedupeWindow is how long a stream remembers message ids.
const dedupeWindow = 2 * time.Minute

// deliverFrom says where a new consumer of a stream begins. An old trigger
// must not fire again because somebody deleted a consumer; everything else is
// taken from the beginning, so that a service that comes late misses nothing.
func deliverFrom(stream string) jetstream.DeliverPolicy {
	if stream == "NIGHTSHIFT_JOB" {
		return jetstream.DeliverNewPolicy
	}
	return jetstream.DeliverAllPolicy
}

// reconcile makes the streams what they are declared to be. What is missing is
// created, what can be changed in place is changed; what would need a stream
// to be made anew, and its messages with it, is refused.
func (b *Bus) reconcile(ctx context.Context) error {
	for _, want := range streams {
		want.Subjects = slices.Clone(want.Subjects)
		if err := b.reconcileStream(ctx, want); err != nil {
			return err
		}
	}
	kv, err := b.bucket(ctx, jetstream.KeyValueConfig{
		Bucket: laterBucket, Description: "Deliveries that do not count as attempts.",
		TTL: 7 * day, MaxBytes: 16 * mib, Storage: jetstream.FileStorage, Replicas: b.cfg.Replicas,
	})
	b.later = kv
	return err
}

func (b *Bus) reconcileStream(ctx context.Context, want jetstream.StreamConfig) error {
	stream, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		want.Replicas = max(b.cfg.Replicas, 1)
		if _, err = b.js.CreateStream(ctx, want); err == nil {
			b.log.Info("stream created", "stream", want.Name)
			return nil
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return fmt.Errorf("creating stream %s: %w", want.Name, err)
		}
		stream, err = b.js.Stream(ctx, want.Name) // another service was quicker
	}
	if err != nil {
		return fmt.Errorf("looking at stream %s: %w", want.Name, err)
	}
	have := stream.CachedInfo().Config
	var fixed []string
	differs := func(what string, have, want any) {
		if have != want {
			fixed = append(fixed, fmt.Sprintf("%s is %v and would have to be %v", what, have, want))
		}
	}
	differs("storage", have.Storage, want.Storage)
	differs("retention", have.Retention, want.Retention)
	differs("deny_delete", have.DenyDelete, want.DenyDelete)
	differs("deny_purge", have.DenyPurge, want.DenyPurge)
	if len(fixed) > 0 {
		return errs.New(errs.FailedPrecondition, "STREAM_INCOMPATIBLE",
			"stream %s cannot be used and is not made anew, because its messages would be lost: %s; back it up, remove it by hand and start again",
			want.Name, strings.Join(fixed, "; "))
	}
	next := have
	// A newer version may have added subjects: an older one that starts beside it leaves them.
	for _, s := range want.Subjects {
		if !slices.Contains(next.Subjects, s) {
			next.Subjects = append(slices.Clone(next.Subjects), s)
		}
	}
	next.Description, next.Discard, next.Duplicates = want.Description, want.Discard, want.Duplicates
	next.MaxAge, next.MaxBytes, next.MaxMsgsPerSubject = want.MaxAge, unlimited(want.MaxBytes), unlimited(want.MaxMsgsPerSubject)
	if b.cfg.Replicas > 0 {
		next.Replicas = b.cfg.Replicas
	}
	if next.Description == have.Description && next.Discard == have.Discard && next.Duplicates == have.Duplicates &&
		next.MaxAge == have.MaxAge && next.MaxBytes == have.MaxBytes && next.MaxMsgsPerSubject == have.MaxMsgsPerSubject &&
		next.Replicas == have.Replicas && len(next.Subjects) == len(have.Subjects) {
		return nil
	}
	if _, err := b.js.UpdateStream(ctx, next); err != nil {
		return fmt.Errorf("updating stream %s: %w", want.Name, err)
	}
	b.log.Info("stream updated", "stream", want.Name)
	return nil
}

// unlimited is how the server reports a limit that is not set.
func unlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// bucket opens a bucket and creates it when there is none. One that exists is
// taken as it is.
func (b *Bus) bucket(ctx context.Context, cfg jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := b.js.KeyValue(ctx, cfg.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		cfg.Replicas = max(cfg.Replicas, 1)
		kv, err = b.js.CreateKeyValue(ctx, cfg)
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = b.js.KeyValue(ctx, cfg.Bucket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", cfg.Bucket, err)
	}
	return kv, nil
}
