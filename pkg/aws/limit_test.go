package aws

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestQuotas(t *testing.T) {
	t.Parallel()
	for action, want := range map[string]quota{
		"ec2:DescribeVolumes":        {burst: 100, rate: 20},
		"cloudwatch:GetMetricData":   {burst: 50, rate: 50, points: 396_000},
		"cloudwatch:ListMetrics":     {burst: 25, rate: 25},
		"sts:AssumeRole":             {burst: 600, rate: 600},
		"organizations:ListAccounts": {burst: 10, rate: 10},
	} {
		if got := quotaOf(action); got != want {
			t.Errorf("%s: %v, want %v", action, got, want)
		}
	}
}

// Half of EC2's bucket is 50 calls at once and 10 a second.
func TestLimiterKeepsToItsShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(quotaOf("ec2:DescribeVolumes"), 0.5)
		start := time.Now()
		var wg sync.WaitGroup
		for range 250 {
			wg.Go(func() {
				if err := b.wait(t.Context(), 0); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took < 20*time.Second-time.Millisecond || took > 20*time.Second+time.Millisecond {
			t.Errorf("250 calls took %v, want (250-50)/10 = 20 s", took)
		}
	})
}

// Datapoints have a quota of their own: full answers come slower than calls.
func TestLimiterCountsDatapoints(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(quotaOf("cloudwatch:GetMetricData"), 0.5)
		start := time.Now()
		for range 40 {
			if err := b.wait(t.Context(), maxPoints); err != nil {
				t.Error(err)
			}
		}
		want := (40*maxPoints - 198_000) * time.Second / 198_000
		if took := time.Since(start); took < want-time.Second/10 || took > want+time.Second/10 {
			t.Errorf("40 full answers took %v, want %v", took, want)
		}
	})
}

func TestLimiterLearns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(quotaOf("ec2:DescribeVolumes"), 0.5)
		for range 10 { // one empty bucket at AWS, met by ten calls
			b.throttled()
		}
		if got := b.calls.Limit(); got != 5 {
			t.Errorf("after a throttle the rate is %v, want half of 10", got)
		}
		if n := b.calls.Tokens(); n >= 1 {
			t.Errorf("after a throttle there are %v tokens left", n)
		}
		for range 100 {
			time.Sleep(2 * time.Second)
			b.throttled()
		}
		if got := b.calls.Limit(); got != 0.2 {
			t.Errorf("the rate fell to %v, want 2 %% of 10", got)
		}
		seconds := 0
		for ; b.calls.Limit() < 10 && seconds < 1000; seconds++ {
			time.Sleep(time.Second)
			b.succeeded()
			b.succeeded()
		}
		if seconds < 90 || seconds > 105 {
			t.Errorf("regained its rate in %d s, want about 98", seconds)
		}
	})
}

func TestLimiterEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(quota{burst: 1, rate: 0.01}, 1)
		if err := b.wait(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.wait(ctx, 0) }()
		synctest.Wait()
		cancel()
		if err := <-done; Classify(err) != Canceled {
			t.Errorf("got %v, want canceled", err)
		}
		ctx, end := context.WithTimeout(t.Context(), time.Second)
		defer end()
		start := time.Now()
		if err := b.wait(ctx, 0); !errors.Is(err, context.DeadlineExceeded) || Classify(err) != Canceled {
			t.Errorf("got %v, want deadline exceeded", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v for what cannot come in time", took)
		}
	})
}

// One quota, one bucket, whoever asks; another account, region, action or
// endpoint has its own.
func TestLimitersAreShared(t *testing.T) {
	t.Parallel()
	base := scope{endpoint: "test-limiters-are-shared", account: "1", region: "r"}
	b := limiter(base, "ec2:DescribeVolumes", 0.5)
	if limiter(base, "ec2:DescribeVolumes", 0.5) != b {
		t.Error("the same quota has two buckets")
	}
	other := base
	other.region = "s"
	if limiter(other, "ec2:DescribeVolumes", 0.5) == b || limiter(base, "ec2:DescribeImages", 0.5) == b {
		t.Error("two quotas share a bucket")
	}
}
