package simaws

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Fault is something that goes wrong for the requests it matches. Of several faults that match, every latency adds up, and the first of the others in
// the list decides.
//
// A lost region is {"kind":"reset","region":"eu-west-1"}; lost after the third page, {"kind":"reset","region":"eu-west-1","action":"DescribeVolumes","after":3}.
type Fault struct {
	// Kind:
	//   throttle  RequestLimitExceeded, Throttling
	//   latency   waits Delay
	//   deny      UnauthorizedOperation, AccessDenied
	//   error     an internal error with Status (500 unless set)
	//   expired   the credentials are expired
	//   truncate  half of the body, then the connection ends
	//   reset     the connection is reset without an answer
	//   metric    single series of GetMetricData answer MetricStatus (InternalError unless set); Share counts series
	//   zone      the availability zone Zone is disrupted: impaired in DescribeAvailabilityZones, its metrics silent from then on
	Kind string `json:"kind"`
	// Service (ec2, cloudwatch, sts, organizations), Action, Account and Region limit what it matches; empty matches all, * and ? are wildcards.
	Service string `json:"service,omitempty"`
	Action  string `json:"action,omitempty"`
	Account string `json:"account,omitempty"`
	Region  string `json:"region,omitempty"`
	// Share of the matching requests it hits, 0 < share ≤ 1; 0 means all. Which ones follows from their number, not from chance.
	Share float64 `json:"share,omitempty"`
	// After lets that many matching requests through first; Times ends it after so many hits, 0 never.
	After int `json:"after,omitempty"`
	Times int `json:"times,omitempty"`

	Delay        Duration `json:"delay,omitempty"`
	Status       int      `json:"status,omitempty"`
	MetricStatus string   `json:"metric_status,omitempty"`
	Zone         string   `json:"zone,omitempty"`
}

// Duration is a time.Duration that reads and writes as "250ms".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("duration %q is not like 250ms or 2s", b)
	}
	*d = Duration(v)
	return nil
}

var faultKinds = []string{"throttle", "latency", "deny", "error", "expired", "truncate", "reset", "metric", "zone"}

// check says what is wrong with a fault that could never work.
func (f Fault) check() error {
	switch {
	case !slices.Contains(faultKinds, f.Kind):
		return fmt.Errorf("fault kind %q is not one of %v", f.Kind, faultKinds)
	case f.Share < 0 || f.Share > 1:
		return fmt.Errorf("fault %s: share %g is not between 0 and 1", f.Kind, f.Share)
	case f.Kind == "latency" && f.Delay <= 0:
		return fmt.Errorf("fault latency: delay is missing, as in \"250ms\"")
	case f.Kind == "zone" && f.Zone == "":
		return fmt.Errorf("fault zone: zone is missing, as in \"us-east-1a\"")
	case f.Kind == "metric" && f.MetricStatus != "" && !slices.Contains([]string{"InternalError", "Forbidden", "PartialData"}, f.MetricStatus):
		return fmt.Errorf("fault metric: metric_status %q is not InternalError, Forbidden or PartialData", f.MetricStatus)
	}
	return nil
}

type faults struct {
	mu  sync.Mutex
	all []*fault
}

type fault struct {
	Fault
	since     time.Time
	seen, hit int
}

func (f *faults) set(list []Fault, now time.Time) {
	all := make([]*fault, len(list))
	for i := range list {
		all[i] = &fault{Fault: list[i], since: now}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = all
}

func (f *faults) list() []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Fault, len(f.all))
	for i := range f.all {
		out[i] = f.all[i].Fault
	}
	return out
}

// SetFaults replaces all faults; it may be called while the server runs.
func (s *Server) SetFaults(list ...Fault) error {
	for _, f := range list {
		if err := f.check(); err != nil {
			return err
		}
	}
	s.faults.set(list, s.clock().UTC())
	return nil
}

type effect struct {
	delay     time.Duration
	drop, cut bool
	err       error
}

func matches(pattern, s string) bool { return pattern == "" || glob(pattern, s) }

func (f *fault) matches(c *call) bool {
	return matches(f.Service, c.service) && matches(f.Action, c.action) && matches(f.Account, c.accountID()) && matches(f.Region, c.regionName())
}

// hits counts one occasion and decides whether the fault strikes.
func (f *fault) hits() bool {
	f.seen++
	n := f.seen - f.After
	if n <= 0 || f.Times > 0 && f.hit >= f.Times {
		return false
	}
	if f.Share > 0 && f.Share < 1 && float64(mix(uint64(n), 7)>>11)/(1<<53) >= f.Share {
		return false
	}
	f.hit++
	return true
}

// apply decides what goes wrong with this call.
func (f *faults) apply(c *call) effect {
	var e effect
	f.mu.Lock()
	defer f.mu.Unlock()
	decided := false
	for _, x := range f.all {
		if x.Kind == "metric" || x.Kind == "zone" || decided && x.Kind != "latency" || !x.matches(c) || !x.hits() {
			continue
		}
		if x.Kind == "latency" {
			e.delay += time.Duration(x.Delay)
			continue
		}
		decided = true
		switch x.Kind {
		case "throttle":
			e.err = c.throttled()
		case "deny":
			if c.account != nil {
				e.err = c.denied()
			}
		case "error":
			e.err = c.internalError(x.Status)
		case "expired":
			e.err = c.expired()
		case "truncate":
			e.cut = true
		case "reset":
			e.drop = true
		}
	}
	return e
}

func (c *call) internalError(status int) error {
	if status == 0 {
		status = 500
	}
	code := "InternalError"
	if c.service == "cloudwatch" {
		code = "InternalServiceError"
	}
	if status == 503 {
		code = "Unavailable"
		if c.service != "ec2" {
			code = "ServiceUnavailable"
		}
	}
	return fail(status, code, "An internal error has occurred")
}

// metricStatus is the status a fault forces on the next series of the call; empty for none.
func (f *faults) metricStatus(c *call) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.all {
		if x.Kind == "metric" && x.matches(c) && x.hits() {
			if x.MetricStatus == "" {
				return "InternalError"
			}
			return x.MetricStatus
		}
	}
	return ""
}

// disrupted tells since when a zone is disrupted.
func (f *faults) disrupted(zone, account string) (since time.Time, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.all {
		if x.Kind == "zone" && x.Zone == zone && matches(x.Account, account) {
			return x.since, true
		}
	}
	return time.Time{}, false
}
