package scheduler

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/devstack/devtest"
)

// fires watches the log and measures how late each fire was stored after its
// planned time, by the server's clock.
type fires struct {
	mu   sync.Mutex
	late []time.Duration
	last map[string]time.Time
}

func watchFires(ctx context.Context, tb testing.TB, nats *devstack.NATSServer) *fires {
	tb.Helper()
	f := &fires{last: map[string]time.Time{}}
	b := connect(tb, nats, "audit")
	current := make(chan struct{})
	go func() {
		_ = bus.Watch(ctx, b, func(m *bus.Message[*jobv1.JobTriggered]) {
			if m.Body.GetTrigger() == nil {
				return
			}
			planned := m.Body.GetTrigger().GetPlannedTime().AsTime()
			f.mu.Lock()
			defer f.mu.Unlock()
			if last := f.last[m.Body.GetJob()]; !planned.After(last) {
				tb.Errorf("%s fired for %v after %v", m.Body.GetJob(), planned, last)
			} else if m.Body.GetTrigger().GetMissed() != nil {
				tb.Errorf("%s missed %v", m.Body.GetJob(), m.Body.GetTrigger().GetMissed())
			}
			f.last[m.Body.GetJob()] = planned
			f.late = append(f.late, m.Time.Sub(planned))
		}, func() { close(current) })
	}()
	<-current
	return f
}

// cpu is the processor time this process has used.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Replicas fire a thousand jobs each second, all planned for the same moment,
// for 20 s. Reported is how late they are stored, and what all of it takes of
// the processor, NATS included.
func BenchmarkFireAThousandASecond(b *testing.B) {
	for _, replicas := range []int{1, 3, 5} {
		b.Run(fmt.Sprint(replicas), func(b *testing.B) {
			nats := devtest.NATS(b)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var rs []*replica
			for range replicas {
				conn := connect(b, nats, "scheduler")
				rs = append(rs, start(b, conn, wallClock(time.Now, conn.ServerTime)))
			}
			f := watchFires(ctx, b, nats)
			const jobs, seconds = 1000, 20
			begin := timestamppb.New(time.Now().Truncate(time.Second).Add(10 * time.Second))
			end := timestamppb.New(begin.AsTime().Add((seconds - 1) * time.Second))
			for i := range jobs {
				job := &jobv1.Job{
					Name: fmt.Sprintf("job-%d", i), Kind: "test", Schedule: "@every 1s", StartTime: begin, EndTime: end,
					Misfire: &jobv1.Misfire{Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL},
				}
				if _, err := rs[0].jobs.Create(ctx, job.GetName(), job); err != nil {
					b.Fatal(err)
				}
			}
			for _, r := range rs {
				eventually(b, "all are known", func() bool {
					r.mu.Lock()
					defer r.mu.Unlock()
					return len(r.queue) == jobs
				})
			}
			if time.Now().After(begin.AsTime()) {
				b.Fatal("this machine is too busy to say anything")
			}
			used := cpu(b)
			for b.Loop() {
				eventually(b, "all have fired", func() bool {
					f.mu.Lock()
					defer f.mu.Unlock()
					return len(f.late) >= jobs*seconds
				})
			}
			used = cpu(b) - used
			for _, r := range rs {
				r.stop()
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.late) != jobs*seconds {
				b.Fatalf("%d fires, want %d", len(f.late), jobs*seconds)
			}
			slices.Sort(f.late)
			ms := func(part float64) float64 {
				return float64(f.late[int(part*float64(len(f.late)-1))]) / float64(time.Millisecond)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ms(0.5), "p50-ms")
			b.ReportMetric(ms(0.99), "p99-ms")
			b.ReportMetric(ms(1), "max-ms")
			b.ReportMetric(float64(used.Microseconds())/jobs/seconds, "cpu-µs/fire")
		})
	}
}
