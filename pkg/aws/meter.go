package aws

import (
	"maps"
	"sync"
	"time"
)

// Usage counts what calls were made and what they cost.
type Usage struct {
	// Calls are requests sent, retries included.
	Calls int64
	// Retries are the calls that repeated another.
	Retries int64
	// Throttles are the calls AWS refused for its quota.
	Throttles int64
	// Errors are the operations that failed for good, whatever the reason.
	Errors int64
	// Waited is the time spent waiting for our own limiter.
	Waited time.Duration
	// BilledMetrics are the metrics asked of GetMetricData, as AWS bills them.
	BilledMetrics int64
}

// Dollars is what AWS bills for the calls, in USD: $0.01 per 1,000 metrics
// (CloudWatch's list price); the rest is free.
func (u Usage) Dollars() float64 { return float64(u.BilledMetrics) / 100_000 }

func (u *Usage) add(v Usage) {
	u.Calls += v.Calls
	u.Retries += v.Retries
	u.Throttles += v.Throttles
	u.Errors += v.Errors
	u.Waited += v.Waited
	u.BilledMetrics += v.BilledMetrics
}

// Meter counts one session's calls. The zero value is ready; it is safe for
// concurrent use.
type Meter struct {
	mu      sync.Mutex
	total   Usage
	actions map[string]Usage
}

// Snapshot is what a meter has counted.
type Snapshot struct {
	Usage
	// Actions by IAM action, such as ec2:DescribeVolumes.
	Actions map[string]Usage
}

// Snapshot returns the counts so far. They agree with each other.
func (m *Meter) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Snapshot{Usage: m.total, Actions: maps.Clone(m.actions)}
}

func (m *Meter) add(action string, u Usage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.actions == nil {
		m.actions = map[string]Usage{}
	}
	m.total.add(u)
	v := m.actions[action]
	v.add(u)
	m.actions[action] = v
}
