package simaws_test

import (
	"os"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"pgregory.net/rapid"

	"nightshift.dev/pkg/simaws"
)

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func outcome(e *simaws.Estate, id string, at time.Time) string {
	for _, truth := range e.TruthAt(at) {
		if truth.ResourceID == id {
			return truth.Outcome
		}
	}
	return "gone"
}

// A month in the life of an estate: what is changed shows on the wire, in the metrics and in the truth.
func TestMutations(t *testing.T) {
	t.Parallel()
	clock := &watch{t: now}
	e := tiny()
	w := serve(t, e, simaws.Config{Clock: clock.now, NoQuotas: true})
	c := w.ec2(w.management(), "us-east-1")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	want := func(id, o string) {
		t.Helper()
		if got := outcome(e, id, clock.now()); got != o {
			t.Errorf("%s after %v: %s, want %s", id, clock.now().Sub(now), got, o)
		}
	}
	volume := func(id string) types.Volume {
		t.Helper()
		out, err := c.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{id}})
		if err != nil {
			t.Fatal(err)
		}
		return out.Volumes[0]
	}

	want("i-running", "NOT_APPLICABLE")
	do(e.Stop("i-running", clock.now()))
	want("i-running", "COMPLIANT")
	out, err := c.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{"i-running"}})
	if err != nil || *out.Reservations[0].Instances[0].StateTransitionReason != "User initiated (2026-08-03 04:00:00 GMT)" || *out.Reservations[0].Instances[0].StateReason.Code != "Client.UserInitiatedShutdown" {
		t.Errorf("stopped: %+v, %v", out, err)
	}
	do(e.Detach("vol-used", clock.now()))
	if v := volume("vol-used"); v.State != types.VolumeStateAvailable || len(v.Attachments) != 0 {
		t.Errorf("detached: %+v", v)
	}
	want("vol-used", "COMPLIANT")
	clock.add(14 * day)
	want("vol-used", "VIOLATION")
	clock.add(16 * day)
	want("i-running", "VIOLATION")

	do(e.Start("i-running", clock.now()))
	do(e.Attach("vol-used", "i-running", clock.now()))
	want("i-running", "NOT_APPLICABLE")
	want("vol-used", "NOT_APPLICABLE")
	if v := volume("vol-used"); v.State != types.VolumeStateInUse || *v.Attachments[0].InstanceId != "i-running" || !v.Attachments[0].AttachTime.Equal(clock.now()) {
		t.Errorf("attached: %+v", v)
	}
	clock.add(2 * day)
	metrics := w.cloudwatch(w.management(), "us-east-1")
	if ts, _ := cpu(t, metrics, "i-running", "Average", now.Add(-day), now.Add(32*day), day); len(ts) != 3 {
		t.Errorf("ran on %d days, want one before and two after it stood still", len(ts))
	}

	do(e.DeleteVolume("vol-never", clock.now()))
	_, err = c.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{VolumeIds: []string{"vol-never"}})
	wantCode(t, err, "InvalidVolume.NotFound")
	want("vol-never", "gone")

	do(e.Terminate("i-running", clock.now()))
	want("i-running", "NOT_APPLICABLE")
	if v := volume("vol-used"); v.State != types.VolumeStateAvailable {
		t.Errorf("after its instance was terminated: %+v", v)
	}
	if v := volume("vol-multi"); v.State != types.VolumeStateInUse || len(v.Attachments) != 1 {
		t.Errorf("shared, one instance terminated: %+v", v)
	}
	do(e.Apply(simaws.Mutation{Action: "tag", ID: "vol-used", Tags: []simaws.Tag{{Key: "Owner", Value: "me"}}, At: clock.now()}))
	if v := volume("vol-used"); len(v.Tags) != 1 || *v.Tags[0].Value != "me" {
		t.Errorf("tags: %+v", v.Tags)
	}

	for what, err := range map[string]error{
		"start what is terminated":     e.Start("i-running", clock.now()),
		"stop what is stopped":         e.Stop("i-stopped", clock.now()),
		"attach across zones":          e.Attach("vol-used", "i-stopped", clock.now()),
		"attach what is attached":      e.Attach("vol-still", "i-stopped", clock.now()),
		"detach what is free":          e.Detach("vol-free", clock.now()),
		"delete what is attached":      e.DeleteVolume("vol-still", clock.now()),
		"terminate what is not there":  e.Terminate("i-none", clock.now()),
		"attach to what is not there":  e.Attach("vol-free", "i-none", clock.now()),
		"change without saying when":   e.Apply(simaws.Mutation{Action: "stop", ID: "i-basic"}),
		"stop a volume":                e.Stop("vol-free", clock.now()),
		"attach to what is terminated": e.Attach("vol-used", "i-running", clock.now()),
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// Any sequence of changes, while others read, leaves an estate that holds together and a truth that fits it.
func TestMutationsHoldTogether(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		e := tiny()
		at := now
		ids := []string{"i-running", "i-basic", "i-stopped", "i-recent"}
		vols := []string{"vol-used", "vol-still", "vol-free", "vol-never", "vol-multi"}
		var wg sync.WaitGroup
		defer wg.Wait()
		stop := make(chan struct{})
		defer close(stop)
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					e.TruthAt(now)
				}
			}
		})
		for range rapid.IntRange(1, 25).Draw(rt, "changes") {
			at = at.Add(time.Duration(rapid.IntRange(1, 300).Draw(rt, "hours")) * time.Hour)
			in, v := rapid.SampledFrom(ids).Draw(rt, "instance"), rapid.SampledFrom(vols).Draw(rt, "volume")
			// Refusals are fine: the model below reads the state, not the history.
			_ = []func() error{
				func() error { return e.Stop(in, at) }, func() error { return e.Start(in, at) }, func() error { return e.Terminate(in, at) },
				func() error { return e.Attach(v, in, at) }, func() error { return e.Detach(v, at) }, func() error { return e.DeleteVolume(v, at) },
			}[rapid.IntRange(0, 5).Draw(rt, "what")]()
		}
		r := e.Accounts[0].Regions[0]
		for i := range r.Volumes {
			v := &r.Volumes[i]
			if (v.State == "in-use") != (len(v.Attachments) > 0) {
				rt.Fatalf("%s is %s with %d attachments", v.ID, v.State, len(v.Attachments))
			}
			for _, s := range v.History {
				if !s.From.Before(s.To) || s.To.After(at) {
					rt.Fatalf("%s: history %v", v.ID, v.History)
				}
			}
		}
		for i := range r.Instances {
			if in := &r.Instances[i]; in.State == "running" && !in.Stopped.IsZero() || in.State == "stopped" && in.Stopped.IsZero() {
				rt.Fatalf("%s is %s, stopped at %v", in.ID, in.State, in.Stopped)
			}
		}
		if err := e.Validate(); err != nil {
			rt.Fatal(err)
		}
	})
}

// A listing under change gives what was there all along exactly once.
func TestPagingUnderChange(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1, Resources: 600, Accounts: 1, Regions: 1}, simaws.Config{NoQuotas: true})
	r := w.management().Regions[0]
	victims := map[string]bool{}
	for i := range r.Volumes {
		if r.Volumes[i].State == "available" {
			victims[r.Volumes[i].ID] = true
		}
	}
	n := len(r.Volumes)
	seen := map[string]int{}
	for p := ec2.NewDescribeVolumesPaginator(w.ec2(w.management(), "us-east-1"), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(20)}); p.HasMorePages(); {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Volumes {
			seen[*v.VolumeId]++
		}
		for id := range victims {
			if err := w.estate.DeleteVolume(id, now); err != nil {
				t.Fatal(err)
			}
			delete(victims, id)
			break
		}
	}
	alive := 0
	for i := range r.Volumes {
		if v := &r.Volumes[i]; v.State != "deleted" {
			if alive++; seen[v.ID] != 1 {
				t.Errorf("%s came %d times", v.ID, seen[v.ID])
			}
		}
	}
	if alive == n || alive == 0 {
		t.Errorf("%d of %d volumes alive: nothing changed", alive, n)
	}
}
