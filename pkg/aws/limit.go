package aws

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// quota is one of AWS's token buckets: so many calls at once, refilled at so
// many a second. points is the quota of CloudWatch datapoints a second, for
// windows that start more than three hours ago; 0 for none.
type quota struct {
	burst  int
	rate   float64
	points float64
}

// quotas holds AWS's documented quotas, per account and region. EC2's are for
// paged or filtered calls, which all of ours are.
var quotas = map[string]quota{
	"ec2:*":                    {burst: 100, rate: 20},
	"cloudwatch:GetMetricData": {burst: 50, rate: 50, points: 396_000},
	"cloudwatch:ListMetrics":   {burst: 25, rate: 25},
	"sts:*":                    {burst: 600, rate: 600},
}

// AWS tells no quota for the rest: a cautious guess.
var quotaUnknown = quota{burst: 10, rate: 10}

func quotaOf(action string) quota {
	if q, ok := quotas[action]; ok {
		return q
	}
	service, _, _ := strings.Cut(action, ":")
	if q, ok := quotas[service+":*"]; ok {
		return q
	}
	return quotaUnknown
}

// scope is what AWS counts a quota for, apart from the action.
type scope struct{ endpoint, account, region string }

// limiters holds the process's buckets: a quota is one however many clients,
// sessions and services share the process.
var limiters = struct {
	sync.Mutex
	m map[limiterKey]*bucket
}{m: map[limiterKey]*bucket{}}

type limiterKey struct {
	scope
	action string
}

// A bucket unused for so long is full again, and may be forgotten.
const bucketIdle = 15 * time.Minute

func limiter(s scope, action string, share float64) *bucket {
	now := time.Now()
	k := limiterKey{s, action}
	limiters.Lock()
	defer limiters.Unlock()
	b := limiters.m[k]
	if b == nil {
		if n := len(limiters.m); n >= 4096 && n&(n-1) == 0 {
			for k, v := range limiters.m {
				if now.Sub(v.used) > bucketIdle {
					delete(limiters.m, k)
				}
			}
		}
		b = newBucket(quotaOf(action), share)
		limiters.m[k] = b
	}
	b.used = now
	return b
}

// bucket is our share of one quota. It halves its rate at a throttle, for then
// somebody else uses the quota too, and regains it slowly.
type bucket struct {
	calls  *rate.Limiter
	points *rate.Limiter
	full   rate.Limit
	used   time.Time // guarded by limiters

	mu      sync.Mutex
	changed time.Time
}

const (
	// A throttle halves the rate, at most once in this time: the calls under
	// way all meet the same empty bucket.
	learnDown = time.Second
	// Each second with a success gives back this part of the full rate.
	learnUp = 0.01
	// The rate never falls below this part of the full one.
	learnFloor = 0.02
)

func newBucket(q quota, share float64) *bucket {
	b := &bucket{full: rate.Limit(q.rate * share)}
	b.calls = rate.NewLimiter(b.full, max(1, int(float64(q.burst)*share)))
	if q.points > 0 {
		// The burst is a second's points, and at least one full response.
		n := q.points * share
		b.points = rate.NewLimiter(rate.Limit(n), max(int(n), maxPoints))
	}
	return b
}

// wait takes a token for one call that asks for so many datapoints. The error
// is the context's, or says that its deadline comes before the token.
func (b *bucket) wait(ctx context.Context, points int) error {
	err := b.calls.Wait(ctx)
	if err == nil && b.points != nil && points > 0 {
		err = b.points.WaitN(ctx, min(points, maxPoints))
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: the next call allowed by the quota comes later", context.DeadlineExceeded)
}

// throttled learns from a refusal.
func (b *bucket) throttled() {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.changed) < learnDown {
		return
	}
	b.changed = now
	b.calls.SetLimitAt(now, max(b.calls.Limit()/2, b.full*learnFloor))
	// AWS's bucket is empty; so is ours.
	if n := int(b.calls.TokensAt(now)); n > 0 {
		b.calls.AllowN(now, n)
	}
}

// succeeded learns from an answer.
func (b *bucket) succeeded() {
	if b.calls.Limit() >= b.full {
		return
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.changed) < time.Second {
		return
	}
	b.changed = now
	b.calls.SetLimitAt(now, min(b.calls.Limit()+b.full*learnUp, b.full))
}
