package health

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "nightshift.dev/gen/nightshift/inventory/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/job"
	"nightshift.dev/pkg/scan"
)

const (
	day = 24 * time.Hour
	// reachBack is how many days of an instance are read when none are known:
	// enough for a month's chart.
	reachBack = 30
	// settled is how long after its end a day's last datapoints can be late. A
	// day that was read before is read once more.
	settled = 2 * time.Hour
	// batchRecords and batchBytes bound what is sent to persistence in one call.
	batchRecords = 250
	batchBytes   = 1 << 20
	// Types of coverage.
	instanceType = "AWS::EC2::Instance"
	metricType   = "AWS::CloudWatch::Metric"
)

// plan finds the scopes of a run: the regions of every active account.
func (s *Service) plan(ctx context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
	lists, err := scan.Lists(t.GetParameters(), "accounts", "regions")
	if err != nil {
		return nil, err
	}
	p := scan.Planner{Service: Kind, Cloud: s.cloud, Accounts: s.accounts}
	return p.Plan(ctx, lists["accounts"], lists["regions"], t.GetRunId())
}

// do reads the instances of one account and region, and what is new of their
// figures, and has it recorded as it comes.
func (s *Service) do(ctx context.Context, t *job.Task) error {
	begun := s.now()
	listed := &scanv1.Coverage{ResourceType: instanceType}
	var metrics reading
	fail := func(err error) error {
		if listed.Status = scan.StatusOf(err, listed.GetPages()); ctx.Err() == nil {
			listed.Error = clip(err.Error(), 2000)
			t.End.Coverage = []*scanv1.Coverage{listed}
			if listed.GetPages() == 0 {
				t.End.Error = listed.GetError()
			}
		}
		return err
	}
	session, err := s.cloud.Session(ctx, aws.Target{
		Account: t.Scope.GetAccount(), Partition: t.Request.GetPartition(), RoleARN: t.Request.GetRoleArn(), ExternalID: t.Request.GetExternalId(), SessionName: t.Run,
	}, t.Scope.GetRegion())
	if err != nil {
		return fail(err)
	}
	known, err := s.marks(ctx, t.Scope)
	if err != nil {
		return job.Await(fmt.Errorf("read what is known of the instances: %w", err))
	}
	defer watch(ctx, session.Meter, t)()

	out := &recorder{s: s, scope: t.Scope, scan: begun}
	until := begun.UTC().Truncate(day)
	err = inventory.Instances.List(ctx, session, func(page []inventory.Instance) error {
		listed.Pages++
		listed.Resources += int64(len(page))
		rs := make([]*inventory.Instance, len(page))
		for i := range page {
			rs[i] = &page[i]
		}
		from := func(i *inventory.Instance) time.Time { return firstDay(i, known[i.ID], until) }
		asked := slices.DeleteFunc(slices.Clone(rs), func(i *inventory.Instance) bool { return !stoppedSince(i, from(i)).IsZero() })
		use, refused, err := inventory.DailyUse(ctx, session, s.now(), until, asked, from)
		if err != nil {
			return err
		}
		metrics.refused = cmp.Or(refused, metrics.refused)
		for _, i := range rs {
			r := &inventoryv1.InstanceRecord{Instance: instanceProto(i)}
			if stopped := stoppedSince(i, from(i)); !stopped.IsZero() {
				r.Days = idleDays(from(i), until, stopped, s.now())
			} else if u, ok := use[i.ID]; ok {
				metrics.add(u)
				r.Days = daysProto(u, s.now())
			}
			if err := out.add(ctx, r); err != nil {
				return err
			}
		}
		t.Progress(progress(session.Meter, listed.GetResources(), out.days))
		return nil
	})
	if err == nil {
		listed.Status = scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE
		err = out.end(ctx)
	}
	t.Progress(progress(session.Meter, listed.GetResources(), out.days))
	if metrics.unread > 0 {
		t.Count("unread", metrics.unread)
	}
	if failed := (recordError{}); errors.As(err, &failed) {
		return job.Await(failed.error)
	}
	if err != nil {
		return fail(err)
	}
	t.End.Coverage = []*scanv1.Coverage{listed}
	if c := metrics.coverage(); c != nil {
		t.End.Coverage = append(t.End.Coverage, c)
	}
	return nil
}

// reading counts the instances whose metrics were asked for. A metric that
// CloudWatch cannot give is only counted, and asked for again the next day; that
// it refuses a call is worth a word.
type reading struct {
	asked, unread int64
	refused       error
}

func (r *reading) add(u inventory.Use) {
	r.asked++
	if !u.CPU.Known {
		r.unread++
	}
}

// coverage is what is to be said of it, or nil.
func (r *reading) coverage() *scanv1.Coverage {
	if r.refused == nil {
		return nil
	}
	return &scanv1.Coverage{
		ResourceType: metricType, Status: scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL, Resources: r.asked - r.unread, Error: clip(r.refused.Error(), 2000),
	}
}

// watch tells the job that something happens for as long as calls to AWS are
// made, until the returned function is called.
func watch(ctx context.Context, m *aws.Meter, t *job.Task) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for calls := int64(-1); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now := m.Snapshot(); now.Calls != calls {
				calls = now.Calls
				t.Heartbeat()
			}
		}
	}()
	return cancel
}

func progress(m *aws.Meter, instances, days int64) *scanv1.Progress {
	u := m.Snapshot()
	return &scanv1.Progress{
		Resources: instances, Counts: map[string]int64{"days": days},
		Meter: &scanv1.Meter{Calls: u.Calls, Retries: u.Retries, Throttles: u.Throttles, BilledMetrics: u.BilledMetrics, BilledCost: u.Dollars()},
	}
}

// marks are the newest days that are known of the instances of a scope.
func (s *Service) marks(ctx context.Context, scope *scanv1.Scope) (map[string]*inventoryv1.InstanceDay, error) {
	known := map[string]*inventoryv1.InstanceDay{}
	req := &inventoryv1.ListInstancesRequest{
		PageSize: 1000, Filter: fmt.Sprintf("account = %q AND region = %q AND NOT gone_time:*", scope.GetAccount(), scope.GetRegion()),
	}
	for {
		page, err := s.inventory.ListInstances(ctx, req)
		if err != nil {
			return nil, err
		}
		for _, i := range page.GetInstances() {
			known[i.GetId()] = i.GetLatest()
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			return known, nil
		}
	}
}

// firstDay is the first day of an instance that is to be read: the one after
// the newest known, that one again when it was read too early, and no more than
// reachBack days or the instance's life.
func firstDay(i *inventory.Instance, latest *inventoryv1.InstanceDay, until time.Time) time.Time {
	from := until.AddDate(0, 0, -reachBack)
	if created := i.Created.UTC().Truncate(day); created.After(from) {
		from = created
	}
	if last, err := time.Parse(time.DateOnly, latest.GetDay()); err == nil {
		if !latest.GetReadTime().AsTime().Before(last.Add(day + settled)) {
			last = last.Add(day)
		}
		if last.After(from) {
			from = last
		}
	}
	return from
}

// stoppedSince is when an instance was stopped, if it was before a time and has
// not run since, as far as AWS tells; else zero. There is nothing to ask of one.
func stoppedSince(i *inventory.Instance, from time.Time) time.Time {
	if at, ok := i.TransitionTime(); ok && (i.State == "stopped" || i.State == "terminated") && !at.After(from) {
		return at
	}
	return time.Time{}
}

// idleDays are the days of an instance that was stopped all the time.
func idleDays(from, until, stopped, read time.Time) (out []*inventoryv1.InstanceDay) {
	why := "stopped since " + stopped.UTC().Format("2006-01-02 15:04")
	for d := from; d.Before(until); d = d.Add(day) {
		g := &inventoryv1.Gauge{Unknown: why}
		out = append(out, &inventoryv1.InstanceDay{Day: d.Format(time.DateOnly), Cpu: g, Memory: g, ReadTime: timestamppb.New(read)})
	}
	return out
}

// daysProto are the days that were read. Without CPU there are none: they are
// asked for again the next time.
func daysProto(u inventory.Use, read time.Time) (out []*inventoryv1.InstanceDay) {
	if !u.CPU.Known {
		return nil
	}
	for n, f := range u.CPU.Value.Days {
		d := &inventoryv1.InstanceDay{
			Day: u.CPU.Value.From.AddDate(0, 0, n).Format(time.DateOnly), ReadTime: timestamppb.New(read),
			Cpu: gauge(f, u.CPU.Source), Memory: &inventoryv1.Gauge{Source: clip(u.Memory.Source, 300), Unknown: clip(u.Memory.Why, 1000)},
		}
		if u.Memory.Known {
			d.Memory = gauge(u.Memory.Value.Days[n], u.Memory.Source)
		}
		out = append(out, d)
	}
	return out
}

func gauge(f inventory.DayFigures, source string) *inventoryv1.Gauge {
	if f.Hours == 0 {
		return &inventoryv1.Gauge{Source: clip(source, 300), Unknown: "no datapoint on this day"}
	}
	return &inventoryv1.Gauge{Average: &f.Average, P95: &f.P95, Maximum: &f.Maximum, Hours: int32(f.Hours), Source: clip(source, 300)}
}

func instanceProto(i *inventory.Instance) *inventoryv1.Instance {
	p := &inventoryv1.Instance{
		Id: clip(i.ID, 100), Arn: clip(i.ARN, 300), Account: i.Account, Region: i.Region, Zone: clip(i.Zone, 100), Name: clip(i.Name(), 1000),
		Type: clip(i.InstanceType, 100), State: clip(i.State, 32), Platform: clip(i.Platform, 200), Lifecycle: clip(i.Lifecycle, 32), Tags: map[string]string{},
	}
	for k, v := range i.Tags {
		p.Tags[clip(k, 1000)] = clip(v, 1000)
	}
	if !i.Launched.IsZero() {
		p.LaunchTime = timestamppb.New(i.Launched)
	}
	return p
}

// recorder sends records in bounded batches.
type recorder struct {
	s     *Service
	scope *scanv1.Scope
	scan  time.Time
	batch []*inventoryv1.InstanceRecord
	bytes int
	days  int64 // recorded so far
}

// recordError is an error of persistence, as opposed to one of AWS.
type recordError struct{ error }

func (r recordError) Unwrap() error { return r.error }

func (r *recorder) add(ctx context.Context, rec *inventoryv1.InstanceRecord) error {
	size := proto.Size(rec)
	if len(r.batch) > 0 && (len(r.batch) == batchRecords || r.bytes+size > batchBytes) {
		if err := r.send(ctx, false); err != nil {
			return err
		}
	}
	r.batch, r.bytes = append(r.batch, rec), r.bytes+size
	return nil
}

// end sends what is left, and that this was all there is.
func (r *recorder) end(ctx context.Context) error { return r.send(ctx, true) }

func (r *recorder) send(ctx context.Context, complete bool) error {
	_, err := r.s.inventory.RecordInstances(ctx, &inventoryv1.RecordInstancesRequest{
		Account: r.scope.GetAccount(), Region: r.scope.GetRegion(), ScanTime: timestamppb.New(r.scan), Records: r.batch, Complete: complete,
	})
	if err != nil {
		return recordError{fmt.Errorf("record instances: %w", err)}
	}
	for _, b := range r.batch {
		r.days += int64(len(b.GetDays()))
	}
	r.batch, r.bytes = nil, 0
	return nil
}
