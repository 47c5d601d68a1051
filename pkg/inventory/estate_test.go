package inventory_test

import (
	"context"
	"errors"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/simaws"
)

var now = time.Date(2026, 7, 14, 3, 0, 0, 0, time.UTC)

// stage is an estate, an endpoint for it, and a session in one of its accounts
// and regions.
type stage struct {
	server  *simaws.Server
	region  *simaws.Region
	account *simaws.Account
	*aws.Session
}

func open(t testing.TB, o simaws.Options) *stage {
	t.Helper()
	o.Now = now
	estate := simaws.Generate(o)
	server := simaws.New(estate, simaws.Config{NoQuotas: true, Clock: func() time.Time { return now }})
	h := httptest.NewServer(server)
	t.Cleanup(h.Close)
	a := estate.Accounts[0]
	return &stage{server: server, account: a, region: a.Regions[0], Session: connect(t, h.URL, a.AccessKey, a.Regions[0].Name)}
}

func connect(t testing.TB, endpoint, key, region string) *aws.Session {
	t.Helper()
	cloud, err := aws.New(t.Context(), aws.Config{
		Endpoint: endpoint, Region: region, AccessKeyID: key, SecretAccessKey: "secret", QuotaShare: 1,
		Backoff: func(int) time.Duration { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := cloud.Session(t.Context(), aws.Target{}, region)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// list reads a kind to its end.
func list[T any](t testing.TB, s *aws.Session, k inventory.Kind[T]) (all []*T, pages int) {
	t.Helper()
	err := k.List(t.Context(), s, func(rs []T) error {
		pages++
		for i := range rs {
			all = append(all, &rs[i])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, pages
}

func fill[T any](t testing.TB, s *aws.Session, f inventory.Fact[T], rs []*T) {
	t.Helper()
	if err := f.Fill(t.Context(), s, now, rs); err != nil {
		t.Fatal(err)
	}
}

func tagMap(tags []simaws.Tag) map[string]string {
	m := map[string]string{}
	for _, t := range tags {
		m[t.Key] = t.Value
	}
	return m
}

func TestInstancesAreTheEstates(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 1, Resources: 3000, Accounts: 1, Regions: 1})
	got, _ := list(t, s.Session, inventory.Instances)
	if len(got) != len(s.region.Instances) {
		t.Fatalf("listed %d of %d", len(got), len(s.region.Instances))
	}
	byID := map[string]*inventory.Instance{}
	for _, i := range got {
		byID[i.ID] = i
	}
	spot, stopped := 0, 0
	for _, want := range s.region.Instances {
		i := byID[want.ID]
		if i == nil {
			t.Errorf("%s is not listed", want.ID)
			continue
		}
		lifecycle := ""
		if want.Spot {
			lifecycle = "spot"
			spot++
		}
		if want.State == "stopped" {
			stopped++
		}
		if i.ARN != "arn:aws:ec2:us-east-1:"+s.account.ID+":instance/"+want.ID || i.Type != "AWS::EC2::Instance" || i.Account != s.account.ID ||
			i.Region != "us-east-1" || i.Zone != want.Zone || i.State != want.State || i.TransitionReason != want.Reason ||
			i.StateReasonCode != want.ReasonCode || !i.Launched.Equal(want.Launched) || i.InstanceType != want.Type || i.Lifecycle != lifecycle ||
			i.ImageID != want.Image || i.Hibernation != want.Hibernation || !maps.Equal(i.Tags, tagMap(want.Tags)) ||
			strings.Contains(i.Platform, "Windows") != want.Windows {
			t.Errorf("%s:\n got %+v\nwant %+v", want.ID, *i, want)
		}
		if i.Created.After(i.Launched) {
			t.Errorf("%s: created %v after its launch %v", want.ID, i.Created, i.Launched)
		}
		if at, ok := i.TransitionTime(); ok && want.State == "stopped" && !at.Equal(want.Stopped.Truncate(time.Second)) {
			t.Errorf("%s: stopped at %v by %q, was %v", want.ID, at, i.TransitionReason, want.Stopped)
		}
	}
	if spot == 0 || stopped == 0 {
		t.Errorf("the estate has %d spot and %d stopped instances: nothing was tested", spot, stopped)
	}
}

func TestVolumesAreTheEstates(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 2, Resources: 4000, Accounts: 1, Regions: 1})
	got, pages := list(t, s.Session, inventory.Volumes)
	want := map[string]simaws.Volume{}
	for _, v := range s.region.Volumes {
		if v.State != "deleted" {
			want[v.ID] = v
		}
	}
	if len(got) != len(want) || pages != (len(want)+499)/500 {
		t.Fatalf("listed %d of %d in %d pages", len(got), len(want), pages)
	}
	for _, v := range got {
		w := want[v.ID]
		if v.ARN != "arn:aws:ec2:us-east-1:"+s.account.ID+":volume/"+v.ID || v.State != w.State || v.Zone != w.Zone || v.VolumeType != w.Type ||
			v.SizeGiB != int(w.Size) || v.IOPS != int(w.IOPS) || v.ThroughputMiBps != int(w.Throughput) || v.Encrypted != w.Encrypted ||
			v.MultiAttach != w.MultiAttach || v.SnapshotID != w.Snapshot || !v.Created.Equal(w.Created) || !maps.Equal(v.Tags, tagMap(w.Tags)) ||
			len(v.Attachments) != len(w.Attachments) {
			t.Errorf("%s:\n got %+v\nwant %+v", v.ID, *v, w)
		}
		for i, a := range w.Attachments {
			if b := v.Attachments[i]; b.InstanceID != a.Instance || b.Device != a.Device || !b.At.Equal(a.At) || b.DeleteOnTermination != a.DeleteOnTermination {
				t.Errorf("%s: attachment %+v, want %+v", v.ID, b, a)
			}
		}
	}
}

func TestAttachedVolumesAndAddresses(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 3, Resources: 2500, Accounts: 1, Regions: 1})
	is, _ := list(t, s.Session, inventory.Instances)
	before := s.Meter.Snapshot().Calls
	fill(t, s.Session, inventory.InstanceVolumes, is)
	fill(t, s.Session, inventory.InstanceAddresses, is)
	// 200 instances a call; a page of volumes is full only beyond 500.
	if n, most := s.Meter.Snapshot().Calls-before, int64(3*(len(is)+199)/200+2); n > most {
		t.Errorf("%d calls for %d instances, want at most %d", n, len(is), most)
	}
	disks, ips := map[string][]string{}, map[string][]string{}
	for _, v := range s.region.Volumes {
		for _, a := range v.Attachments {
			disks[a.Instance] = append(disks[a.Instance], v.ID)
		}
	}
	for _, a := range s.region.Addresses {
		ips[a.Instance] = append(ips[a.Instance], a.PublicIP)
	}
	elastic := 0
	for k, i := range is {
		if i.PublicIPv4s() != nil && i.State == "stopped" {
			elastic++
		}
		if p := s.region.Instances[k].PublicIP; p != "" && i.State == "running" && !slices.Contains(ips[i.ID], p) && len(ips[i.ID]) == 0 {
			ips[i.ID] = append(ips[i.ID], p)
		}
		var gotDisks, gotIPs []string
		for _, v := range i.Volumes.Value {
			gotDisks = append(gotDisks, v.ID)
		}
		for _, a := range i.Addresses.Value {
			gotIPs = append(gotIPs, a.IP)
		}
		if !i.Volumes.Known || !sameSet(gotDisks, disks[i.ID]) {
			t.Errorf("%s (%s): volumes %v (%+v), want %v", i.ID, i.State, gotDisks, i.Volumes.Why, disks[i.ID])
		}
		if !i.Addresses.Known || !sameSet(gotIPs, ips[i.ID]) {
			t.Errorf("%s (%s): addresses %v, want %v", i.ID, i.State, gotIPs, ips[i.ID])
		}
	}
	if elastic == 0 {
		t.Error("no stopped instance holds an address: nothing was tested")
	}
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func TestHasSnapshot(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 4, Resources: 2500, Accounts: 1, Regions: 1})
	vs, _ := list(t, s.Session, inventory.Volumes)
	fill(t, s.Session, inventory.VolumeHasSnapshot, vs)
	want := map[string]bool{}
	for _, n := range s.region.Snapshots {
		if n.Owner == "" && (n.State == "" || n.State == "completed") {
			want[n.Volume] = true
		}
	}
	with := 0
	for _, v := range vs {
		if !v.HasSnapshot.Known || v.HasSnapshot.Value != want[v.ID] {
			t.Errorf("%s: %+v, want %v", v.ID, v.HasSnapshot, want[v.ID])
		}
		if v.HasSnapshot.Value {
			with++
		}
	}
	if with == 0 || with == len(vs) {
		t.Errorf("%d of %d volumes have a snapshot: nothing was tested", with, len(vs))
	}
}

// The last datapoint is within the hour of what really happened, for every
// instance and volume of an estate, however long ago.
func TestLastDatapoints(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 5, Resources: 3000, Accounts: 1, Regions: 1})
	is, _ := list(t, s.Session, inventory.Instances)
	fill(t, s.Session, inventory.InstanceLastCPU, is)
	if u := s.Meter.Snapshot().Actions["cloudwatch:GetMetricData"]; u.BilledMetrics > int64(2*len(is)) || u.Calls > int64(2*((len(is)+499)/500)+60) {
		t.Errorf("%d instances took %d calls and %d billed metrics", len(is), u.Calls, u.BilledMetrics)
	}
	check := func(id string, f rule.Fact[inventory.LastDatapoint], end time.Time, ever bool, status string) (none bool) {
		switch from := now.Add(-inventory.MetricRetention); {
		case status != "":
			if !f.Failed {
				t.Errorf("%s: %+v, want failed for %s", id, f, status)
			}
		case !f.Known:
			t.Errorf("%s: %+v", id, f)
		case !ever || end.Before(from):
			if !f.Value.None() || f.Value.From.Before(from) || f.Value.From.After(from.Add(73*time.Hour)) {
				t.Errorf("%s: %+v, want none since %v", id, f.Value, from)
			}
			return true
		case end.Before(f.Value.From.Add(time.Hour)): // at the edge, either
		case f.Value.Hour.After(end) || end.Sub(f.Value.Hour) > time.Hour+5*time.Minute:
			t.Errorf("%s: last datapoint in the hour %v, ran until %v", id, f.Value.Hour, end)
		}
		return false
	}
	none := 0
	for _, w := range s.region.Instances {
		k := slices.IndexFunc(is, func(i *inventory.Instance) bool { return i.ID == w.ID })
		end := w.Stopped
		if end.IsZero() {
			end = now
		}
		if end.Sub(w.Launched) < 10*time.Minute || len(w.Gaps) > 0 {
			continue // too short a run to be sure of a point, or points that are missing
		}
		if check(w.ID, is[k].LastCPU, end, true, w.MetricStatus) {
			none++
		}
	}
	if none == 0 {
		t.Error("no instance stopped before the retention: nothing was tested")
	}

	vs, _ := list(t, s.Session, inventory.Volumes)
	fill(t, s.Session, inventory.VolumeLastRead, vs)
	none = 0
	for _, w := range s.region.Volumes {
		k := slices.IndexFunc(vs, func(v *inventory.Volume) bool { return v.ID == w.ID })
		if k < 0 || len(w.Attachments) > 0 || len(w.History) == 0 && !w.Detached.IsZero() {
			continue
		}
		var end time.Time
		for _, h := range w.History {
			if h.To.After(end) {
				end = h.To
			}
		}
		if check(w.ID, vs[k].LastRead, end, len(w.History) > 0, w.MetricStatus) {
			none++
		}
	}
	if none == 0 {
		t.Error("no volume without datapoints: nothing was tested")
	}
}

// One failing series, batch or call leaves the rest alone.
func TestFaultsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		faults  []simaws.Fault
		someBad bool
		allBad  bool
		says    string
	}{
		"a series in ten fails now and then": {faults: []simaws.Fault{{Kind: "metric", Share: 0.1, Times: 60}}},
		"a series in ten is forbidden":       {faults: []simaws.Fault{{Kind: "metric", Share: 0.1, MetricStatus: "Forbidden"}}, someBad: true, says: "forbidden"},
		"the first call breaks off":          {faults: []simaws.Fault{{Kind: "truncate", Action: "GetMetricData", Times: 1}}},
		"every third call fails":             {faults: []simaws.Fault{{Kind: "error", Action: "GetMetricData", Share: 0.33}}},
		"throttled at first":                 {faults: []simaws.Fault{{Kind: "throttle", Action: "GetMetricData", Times: 3}}},
		"denied":                             {faults: []simaws.Fault{{Kind: "deny", Action: "GetMetricData"}}, allBad: true, says: "cloudwatch:GetMetricData is denied"},
		"always reset":                       {faults: []simaws.Fault{{Kind: "reset", Action: "GetMetricData"}}, allBad: true, says: "got no answer"},
		"denied from some call on":           {faults: []simaws.Fault{{Kind: "deny", Action: "GetMetricData", After: 12}}, someBad: true, says: "is denied"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, simaws.Options{Seed: 6, Resources: 2500, Accounts: 1, Regions: 1})
			is, _ := list(t, s.Session, inventory.Instances)
			fill(t, s.Session, inventory.InstanceLastCPU, is)
			var want []rule.Fact[inventory.LastDatapoint]
			for _, i := range is {
				want = append(want, i.LastCPU)
			}
			if err := s.server.SetFaults(test.faults...); err != nil {
				t.Fatal(err)
			}
			fill(t, s.Session, inventory.InstanceLastCPU, is)
			bad, good := 0, 0
			for k, i := range is {
				switch {
				case i.LastCPU == want[k]:
					good++
				case i.LastCPU.Failed && strings.Contains(i.LastCPU.Why, test.says) && test.says != "":
					bad++
				default:
					t.Errorf("%s: %+v, want %+v", i.ID, i.LastCPU, want[k])
				}
			}
			failed := 0
			for _, w := range want {
				if w.Failed {
					failed++
				}
			}
			if (bad > 0) != (test.someBad || test.allBad) || test.allBad && good > failed || test.someBad && good <= failed {
				t.Errorf("%d of %d failed", bad, len(is))
			}
		})
	}
}

func TestDeniedFactsAreFailedFacts(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 7, Resources: 400, Accounts: 1, Regions: 1})
	is, _ := list(t, s.Session, inventory.Instances)
	vs, _ := list(t, s.Session, inventory.Volumes)
	if err := s.server.SetFaults(simaws.Fault{Kind: "deny"}); err != nil {
		t.Fatal(err)
	}
	fill(t, s.Session, inventory.InstanceVolumes, is)
	fill(t, s.Session, inventory.InstanceAddresses, is)
	fill(t, s.Session, inventory.VolumeHasSnapshot, vs)
	for _, i := range is {
		if !i.Volumes.Failed || !strings.Contains(i.Volumes.Why, "ec2:DescribeVolumes is denied") || i.Volumes.Known {
			t.Errorf("%+v", i.Volumes)
		}
		if !i.Addresses.Failed || !strings.Contains(i.Addresses.Why, "ec2:DescribeAddresses is denied") || i.Addresses.Known {
			t.Errorf("%+v", i.Addresses)
		}
	}
	for _, v := range vs {
		if !v.HasSnapshot.Failed || v.HasSnapshot.Known {
			t.Errorf("%+v", v.HasSnapshot)
		}
	}
	err := inventory.Volumes.List(t.Context(), s.Session, func([]inventory.Volume) error { return nil })
	if aws.Classify(err) != aws.Denied {
		t.Errorf("listing: %v", err)
	}
}

// A listing that ends early says so, and what came before it stays.
func TestListingEndsWithItsError(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 8, Resources: 4000, Accounts: 1, Regions: 1})
	if err := s.server.SetFaults(simaws.Fault{Kind: "reset", Action: "DescribeVolumes", After: 2}); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := inventory.Volumes.List(t.Context(), s.Session, func(vs []inventory.Volume) error { n += len(vs); return nil })
	if n != 1000 || aws.Classify(err) != aws.Unreachable {
		t.Errorf("got %d volumes and %v, want 1000 and unreachable", n, err)
	}
	// The receiver's own error ends it too, and comes back as it is.
	s = open(t, simaws.Options{Seed: 8, Resources: 4000, Accounts: 1, Regions: 1})
	err = inventory.Volumes.List(t.Context(), s.Session, func(vs []inventory.Volume) error { return context.Canceled })
	if !errors.Is(err, context.Canceled) || aws.Classify(err) != aws.Canceled {
		t.Errorf("got %v, want the receiver's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	is := []*inventory.Instance{{Resource: inventory.Resource{ID: "i-1"}}}
	for _, f := range []inventory.Fact[inventory.Instance]{inventory.InstanceVolumes, inventory.InstanceAddresses, inventory.InstanceLastCPU} {
		if err := f.Fill(ctx, s.Session, now, is); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want the context's error", f.Name, err)
		}
	}
}

// What the listers and facts call is what they declare: the least-privilege
// policy is made from it.
func TestActionsAreTheCallsMade(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 9, Resources: 400, Accounts: 1, Regions: 1})
	made := map[string][]string{}
	what := func(name string, do func()) {
		s.server.ResetStats()
		do()
		for _, c := range s.server.Stats() {
			made[name] = append(made[name], c.Service+":"+c.Action)
		}
		slices.Sort(made[name])
	}
	declared := map[string][]string{}
	var is []*inventory.Instance
	var vs []*inventory.Volume
	what("instances", func() { is, _ = list(t, s.Session, inventory.Instances) })
	what("volumes", func() { vs, _ = list(t, s.Session, inventory.Volumes) })
	declared["instances"], declared["volumes"] = inventory.Instances.Actions, inventory.Volumes.Actions
	var ns []*inventory.Snapshot
	var es []*inventory.ElasticIP
	what("snapshots", func() { ns, _ = list(t, s.Session, inventory.Snapshots) })
	what("addresses", func() { es, _ = list(t, s.Session, inventory.ElasticIPs) })
	declared["snapshots"], declared["addresses"] = inventory.Snapshots.Actions, inventory.ElasticIPs.Actions
	for _, f := range []inventory.Fact[inventory.Instance]{
		inventory.InstanceVolumes, inventory.InstanceAddresses, inventory.InstanceLastCPU, inventory.InstanceCPU, inventory.InstanceMemory,
	} {
		what(f.Name, func() { fill(t, s.Session, f, is) })
		declared[f.Name] = f.Actions
	}
	for _, f := range []inventory.Fact[inventory.Volume]{inventory.VolumeLastRead, inventory.VolumeHasSnapshot} {
		what(f.Name, func() { fill(t, s.Session, f, vs) })
		declared[f.Name] = f.Actions
	}
	for _, f := range []inventory.Fact[inventory.Snapshot]{inventory.SnapshotImages, inventory.SnapshotVolume, inventory.SnapshotOthers} {
		what(f.Name, func() { fill(t, s.Session, f, ns) })
		declared[f.Name] = f.Actions
	}
	es = slices.DeleteFunc(es, func(e *inventory.ElasticIP) bool { return e.InterfaceID == "" })
	what("interface", func() { fill(t, s.Session, inventory.ElasticIPInterface, es) })
	declared["interface"] = inventory.ElasticIPInterface.Actions
	for name, d := range declared {
		if !slices.Equal(d, made[name]) {
			t.Errorf("%s declares %v and calls %v", name, d, made[name])
		}
	}
}
