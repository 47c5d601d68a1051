package scheduler

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/bus"
)

// manyJobs is a replica that knows n jobs, without a bus.
func manyJobs(n int) *Service {
	s := &Service{
		log: quiet(), clock: &corrected{clock: newWorld(monday.Add(10 * time.Second)).clock(0)}, ready: make(chan struct{}), wake: make(chan struct{}, 1),
		seed: maphash.MakeSeed(), states: map[string]*state{},
	}
	close(s.ready)
	rnd := rand.New(rand.NewPCG(1, 2))
	zones := []string{"", "Europe/Berlin", "America/New_York", "Asia/Tokyo"}
	for i := range n {
		job := &jobv1.Job{
			Name: fmt.Sprint("job-", i), Kind: "waste", Schedule: fmt.Sprintf("%d %d * * *", rnd.IntN(60), rnd.IntN(24)), TimeZone: zones[i%4],
			Description: "Looks for resources that cost money.", Parameters: map[string]string{"regions": "eu-west-1"},
		}
		s.onDefinition(&bus.Entry[*jobv1.Job]{Key: job.GetName(), Value: job, Revision: uint64(i + 1)})
		s.learn(&jobv1.JobTriggered{Job: job.GetName(), Kind: "waste", JobEtag: fmt.Sprint(i + 1)}, uint64(i+1))
	}
	return s
}

// What a job costs in memory, and how long it takes to take it in.
func BenchmarkRegister10000Jobs(b *testing.B) {
	const n = 10_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var s *Service
	for b.Loop() {
		s = manyJobs(n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/job")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/job")
	runtime.KeepAlive(s)
}

func BenchmarkListJobsOf10000(b *testing.B) {
	s := manyJobs(10_000)
	for _, size := range []int32{50, 1000} {
		b.Run(fmt.Sprint("page-", size), func(b *testing.B) {
			for b.Loop() {
				if _, err := s.ListJobs(b.Context(), &jobv1.ListJobsRequest{PageSize: size}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkListNextFires(b *testing.B) {
	s := manyJobs(0)
	for b.Loop() {
		if _, err := s.ListNextFires(b.Context(), &jobv1.ListNextFiresRequest{Schedule: "0 */6 * * *", TimeZone: "Europe/Berlin", Count: 100}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPresent(b *testing.B) {
	s := manyJobs(1)
	st := s.states["job-0"]
	for b.Loop() {
		s.present(st.def, st.revision)
	}
}
