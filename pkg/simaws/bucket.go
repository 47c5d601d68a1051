package simaws

import (
	"sync"
	"time"
)

// buckets are AWS's API quotas: one token bucket per account, region, service and action.
type buckets struct {
	mu  sync.Mutex
	all map[bucketKey]*bucket
}

type bucketKey struct {
	account, region, service, action string
	unpaged                          bool
}

type bucket struct {
	tokens float64
	at     time.Time
}

// quota gives capacity and refill per second of a call, as AWS documents them.
func quota(k bucketKey) (capacity, refill float64) {
	switch {
	case k.service == "ec2" && k.unpaged:
		return 50, 10
	case k.service == "ec2":
		return 100, 20
	case k.action == "GetMetricData":
		return 50, 50
	case k.action == "ListMetrics":
		return 25, 25
	case k.service == "organizations":
		return 20, 10
	}
	return 600, 600
}

// bigListings are the EC2 actions whose unpaged, unfiltered form has a smaller bucket.
var bigListings = map[string]bool{
	"DescribeInstances": true, "DescribeVolumes": true, "DescribeSnapshots": true, "DescribeSecurityGroups": true, "DescribeNetworkInterfaces": true,
}

// take takes a token, or says there is none.
func (b *buckets) take(c *call) bool {
	k := bucketKey{account: c.account.ID, region: c.scopeRegion, service: c.service, action: c.action}
	if c.service == "ec2" && bigListings[c.action] {
		k.unpaged = !c.form.has("MaxResults") && !c.form.has("Filter.1.Name")
	}
	capacity, refill := quota(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = map[bucketKey]*bucket{}
	}
	have := b.all[k]
	if have == nil {
		have = &bucket{tokens: capacity, at: c.now}
		b.all[k] = have
	}
	if d := c.now.Sub(have.at).Seconds(); d > 0 {
		have.tokens, have.at = min(capacity, have.tokens+d*refill), c.now
	}
	if have.tokens < 1 {
		return false
	}
	have.tokens--
	return true
}
