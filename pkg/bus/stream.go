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
	jobsBucket        = "NIGHTSHIFT_JOBS"

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

// buckets are those that services find made; OpenKV makes others.
var buckets = []jetstream.KeyValueConfig{
	{Bucket: laterBucket, Description: "Deliveries that do not count as attempts.", TTL: 7 * day, MaxBytes: 16 * mib},
	{Bucket: jobsBucket, Description: "Definitions of jobs.", History: 1, MaxBytes: 256 * mib},
}

// kept are the names of all streams there are, those of buckets included.
func kept() (names []string) {
	for _, s := range streams {
		names = append(names, s.Name)
	}
	for _, b := range buckets {
		names = append(names, "KV_"+b.Bucket)
	}
	return names
}

// guest says whether this service finds streams and consumers made, and may
// make none: where it has a user of its own, one service makes them for all.
func (b *Bus) guest() bool {
	return b.ownUser() && b.cfg.Service != keeper && slices.Contains(services(), b.cfg.Service)
}

// missing is the error of what somebody else is to make.
func missing(what string) error {
	return fmt.Errorf("there is no %s; %s makes it, and %w", what, keeper, errNotYet)
}

// reconcile makes the streams what they are declared to be. What is missing is
// created, what can be changed in place is changed; what would need a stream
// to be made anew, and its messages with it, is refused. A guest only waits
// until what it needs is there.
func (b *Bus) reconcile(ctx context.Context) (err error) {
	var mine []string
	if b.guest() {
		mine = needs(b.cfg.Service)
	}
	for _, want := range streams {
		if mine != nil && !slices.Contains(mine, want.Name) {
			continue
		}
		want.Subjects = slices.Clone(want.Subjects)
		if err := b.reconcileStream(ctx, want); err != nil {
			return err
		}
	}
	if b.later, err = b.bucket(ctx, laterBucket); err != nil || !b.ownUser() || b.cfg.Service != keeper {
		return err
	}
	if _, err := b.bucket(ctx, jobsBucket); err != nil {
		return err
	}
	for _, e := range catalog {
		for _, service := range e.Consumers {
			c := consumerOf(b, e, service)
			if slices.Contains(workers, service) {
				c.filter = []string{service}
			}
			if err := c.reconcile(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Bus) reconcileStream(ctx context.Context, want jetstream.StreamConfig) error {
	stream, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) && b.guest() {
		return missing("stream " + want.Name)
	}
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
	if b.guest() {
		return nil
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
func (b *Bus) bucket(ctx context.Context, name string) (jetstream.KeyValue, error) {
	kv, err := b.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) && b.guest() {
		return nil, missing("bucket " + name)
	}
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		cfg := jetstream.KeyValueConfig{Bucket: name, History: 1, MaxBytes: 256 * mib}
		if i := slices.IndexFunc(buckets, func(k jetstream.KeyValueConfig) bool { return k.Bucket == name }); i >= 0 {
			cfg = buckets[i]
		}
		cfg.Storage, cfg.Replicas = jetstream.FileStorage, max(b.cfg.Replicas, 1)
		kv, err = b.js.CreateKeyValue(ctx, cfg)
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = b.js.KeyValue(ctx, name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", name, err)
	}
	return kv, nil
}
