package persistence

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "nightshift.dev/gen/nightshift/inventory/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// instance is a row of instances, read with the row of its newest day.
type instance struct {
	bun.BaseModel `bun:"table:instances,alias:i"`

	Account    string            `bun:",pk"`
	Region     string            `bun:",pk"`
	ID         string            `bun:",pk"`
	ARN        string            `bun:"arn"`
	Zone       string            `bun:""`
	Name       string            `bun:""`
	Type       string            `bun:""`
	State      string            `bun:""`
	Platform   string            `bun:""`
	Lifecycle  string            `bun:""`
	Tags       map[string]string `bun:"type:jsonb"`
	LaunchTime *time.Time        `bun:""`
	LastSeen   time.Time         `bun:""`
	GoneTime   *time.Time        `bun:""`
	LatestDay  *time.Time        `bun:"type:date,scanonly"`

	// Of instance_days; Day is nil when there is none.
	Day           *time.Time `bun:",scanonly"`
	CPUAverage    *float64   `bun:"cpu_average,scanonly"`
	CPUP95        *float64   `bun:"cpu_p95,scanonly"`
	CPUMaximum    *float64   `bun:"cpu_maximum,scanonly"`
	CPUHours      *int32     `bun:"cpu_hours,scanonly"`
	CPUSource     *string    `bun:"cpu_source,scanonly"`
	CPUUnknown    *string    `bun:"cpu_unknown,scanonly"`
	MemoryAverage *float64   `bun:",scanonly"`
	MemoryP95     *float64   `bun:"memory_p95,scanonly"`
	MemoryMaximum *float64   `bun:",scanonly"`
	MemoryHours   *int32     `bun:",scanonly"`
	MemorySource  *string    `bun:",scanonly"`
	MemoryUnknown *string    `bun:",scanonly"`
	ReadTime      *time.Time `bun:",scanonly"`
}

// instanceDay is a row of instance_days.
type instanceDay struct {
	bun.BaseModel `bun:"table:instance_days,alias:d"`

	Account       string    `bun:",pk"`
	Region        string    `bun:",pk"`
	Instance      string    `bun:",pk"`
	Day           time.Time `bun:"type:date,pk"`
	CPUAverage    *float64  `bun:"cpu_average"`
	CPUP95        *float64  `bun:"cpu_p95"`
	CPUMaximum    *float64  `bun:"cpu_maximum"`
	CPUHours      int32     `bun:"cpu_hours"`
	CPUSource     string    `bun:"cpu_source"`
	CPUUnknown    string    `bun:"cpu_unknown"`
	MemoryAverage *float64  `bun:""`
	MemoryP95     *float64  `bun:"memory_p95"`
	MemoryMaximum *float64  `bun:""`
	MemoryHours   int32     `bun:""`
	MemorySource  string    `bun:""`
	MemoryUnknown string    `bun:""`
	ReadTime      time.Time `bun:""`
}

var instanceFields = fields{
	"id":             {column: "i.id", kind: kindText},
	"arn":            {column: "i.arn", kind: kindText},
	"account":        {column: "i.account", kind: kindText},
	"region":         {column: "i.region", kind: kindText},
	"zone":           {column: "i.zone", kind: kindText},
	"name":           {column: "i.name", kind: kindText},
	"type":           {column: "i.type", kind: kindText},
	"state":          {column: "i.state", kind: kindText},
	"platform":       {column: "i.platform", kind: kindText},
	"lifecycle":      {column: "i.lifecycle", kind: kindText},
	"tags":           {column: "i.tags", kind: kindMap},
	"launch_time":    {column: "i.launch_time", kind: kindTime},
	"last_seen":      {column: "i.last_seen", kind: kindTime},
	"gone_time":      {column: "i.gone_time", kind: kindTime},
	"cpu_average":    {column: "d.cpu_average", kind: kindNumber},
	"cpu_p95":        {column: "d.cpu_p95", kind: kindNumber},
	"cpu_maximum":    {column: "d.cpu_maximum", kind: kindNumber},
	"cpu_hours":      {column: "d.cpu_hours", kind: kindInteger},
	"memory_average": {column: "d.memory_average", kind: kindNumber},
	"memory_p95":     {column: "d.memory_p95", kind: kindNumber},
	"memory_maximum": {column: "d.memory_maximum", kind: kindNumber},
	"memory_hours":   {column: "d.memory_hours", kind: kindInteger},
}

var instanceOrder = sortable[*instance]{
	"arn":            both("arn", "i.arn", textKey(func(i *instance) string { return i.ARN })),
	"name":           both("name", "i.name", textKey(func(i *instance) string { return i.Name })),
	"type":           both("type", "i.type", textKey(func(i *instance) string { return i.Type })),
	"last_seen":      both("last_seen", "i.last_seen", timeKey(func(i *instance) time.Time { return i.LastSeen })),
	"cpu_average":    gaugeTerms("cpu_average", func(i *instance) *float64 { return i.CPUAverage }),
	"cpu_maximum":    gaugeTerms("cpu_maximum", func(i *instance) *float64 { return i.CPUMaximum }),
	"memory_average": gaugeTerms("memory_average", func(i *instance) *float64 { return i.MemoryAverage }),
}

// gaugeTerms sort by a figure of the newest day; what is unknown comes last
// either way.
func gaugeTerms(name string, of func(*instance) *float64) [2]term[*instance] {
	or := func(unknown float64) sortKey[*instance] {
		return floatKey(func(i *instance) float64 {
			if v := of(i); v != nil {
				return *v
			}
			return unknown
		})
	}
	return [2]term[*instance]{
		{name: name, expr: "coalesce(d." + name + ", 'Infinity')", key: or(math.Inf(1))},
		{name: name, expr: "coalesce(d." + name + ", '-Infinity')", desc: true, key: or(math.Inf(-1))},
	}
}

// instanceDayOrder is for the days of one instance.
var instanceDayOrder = order[*instanceDay]{
	{expr: "d.day", desc: true, key: timeKey(func(d *instanceDay) time.Time { return d.Day })},
}

func selectInstances(db bun.IDB) *bun.SelectQuery {
	return db.NewSelect().Model((*instance)(nil)).ColumnExpr("i.*").
		ColumnExpr("d.day, d.cpu_average, d.cpu_p95, d.cpu_maximum, d.cpu_hours, d.cpu_source, d.cpu_unknown").
		ColumnExpr("d.memory_average, d.memory_p95, d.memory_maximum, d.memory_hours, d.memory_source, d.memory_unknown, d.read_time").
		Join("LEFT JOIN instance_days AS d ON d.account = i.account AND d.region = i.region AND d.instance = i.id AND d.day = i.latest_day")
}

func (i *instance) proto() *inventoryv1.Instance {
	p := &inventoryv1.Instance{
		Id: i.ID, Arn: i.ARN, Account: i.Account, Region: i.Region, Zone: i.Zone, Name: i.Name, Type: i.Type, State: i.State,
		Platform: i.Platform, Lifecycle: i.Lifecycle, Tags: i.Tags, LaunchTime: timestamp(i.LaunchTime),
		LastSeen: timestamppb.New(i.LastSeen), GoneTime: timestamp(i.GoneTime),
	}
	if i.Day != nil {
		p.Latest = (&instanceDay{
			Day: *i.Day, ReadTime: *i.ReadTime,
			CPUAverage: i.CPUAverage, CPUP95: i.CPUP95, CPUMaximum: i.CPUMaximum, CPUHours: *i.CPUHours, CPUSource: *i.CPUSource, CPUUnknown: *i.CPUUnknown,
			MemoryAverage: i.MemoryAverage, MemoryP95: i.MemoryP95, MemoryMaximum: i.MemoryMaximum, MemoryHours: *i.MemoryHours,
			MemorySource: *i.MemorySource, MemoryUnknown: *i.MemoryUnknown,
		}).proto()
	}
	return p
}

func (d *instanceDay) proto() *inventoryv1.InstanceDay {
	return &inventoryv1.InstanceDay{
		Day: d.Day.Format(time.DateOnly), ReadTime: timestamppb.New(d.ReadTime),
		Cpu:    &inventoryv1.Gauge{Average: d.CPUAverage, P95: d.CPUP95, Maximum: d.CPUMaximum, Hours: d.CPUHours, Source: d.CPUSource, Unknown: d.CPUUnknown},
		Memory: &inventoryv1.Gauge{Average: d.MemoryAverage, P95: d.MemoryP95, Maximum: d.MemoryMaximum, Hours: d.MemoryHours, Source: d.MemorySource, Unknown: d.MemoryUnknown},
	}
}

// ListInstances implements InventoryService.
func (s *Service) ListInstances(ctx context.Context, req *inventoryv1.ListInstancesRequest) (*inventoryv1.ListInstancesResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := instanceFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	by, err := instanceOrder.parse(req.GetOrderBy(), "arn", "arn")
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, by, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"instances", req.GetFilter(), req.GetOrderBy()},
		func() *bun.SelectQuery { return where.apply(only(ctx, "i.account", selectInstances(db))) })
	if err != nil {
		return nil, err
	}
	resp := &inventoryv1.ListInstancesResponse{NextPageToken: next}
	for _, i := range rows {
		resp.Instances = append(resp.Instances, i.proto())
	}
	return resp, nil
}

// readInstance finds an instance by its id, which AWS gives once.
func readInstance(ctx context.Context, db bun.IDB, id string) (*instance, error) {
	i := &instance{}
	err := only(ctx, "i.account", selectInstances(db)).Where("i.id = ?", id).OrderExpr("i.last_seen DESC, i.arn").Limit(1).Scan(ctx, i)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errs.New(errs.NotFound, "INSTANCE_NOT_FOUND", "no instance %s was ever seen", id)
	}
	return i, fault(err)
}

// GetInstance implements InventoryService.
func (s *Service) GetInstance(ctx context.Context, req *inventoryv1.GetInstanceRequest) (*inventoryv1.GetInstanceResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	i, err := readInstance(ctx, db, req.GetId())
	if err != nil {
		return nil, err
	}
	return &inventoryv1.GetInstanceResponse{Instance: i.proto()}, nil
}

// ListInstanceDays implements InventoryService.
func (s *Service) ListInstanceDays(ctx context.Context, req *inventoryv1.ListInstanceDaysRequest) (*inventoryv1.ListInstanceDaysResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	i, err := readInstance(ctx, db, req.GetId())
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, instanceDayOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"instance days", req.GetId()},
		func() *bun.SelectQuery {
			return db.NewSelect().Model((*instanceDay)(nil)).
				Where("d.account = ?", i.Account).Where("d.region = ?", i.Region).Where("d.instance = ?", i.ID)
		})
	if err != nil {
		return nil, err
	}
	resp := &inventoryv1.ListInstanceDaysResponse{NextPageToken: next}
	for _, d := range rows {
		resp.Days = append(resp.Days, d.proto())
	}
	return resp, nil
}

// RecordInstances implements InventoryService.
func (s *Service) RecordInstances(ctx context.Context, req *inventoryv1.RecordInstancesRequest) (*inventoryv1.RecordInstancesResponse, error) {
	rows, days, err := recordedInstances(req)
	if err != nil {
		return nil, err
	}
	scan := micros(req.GetScanTime().AsTime())
	resp := &inventoryv1.RecordInstancesResponse{}
	err = s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		if len(rows) > 0 {
			_, err := tx.NewInsert().Model(&rows).Returning("NULL").On("CONFLICT (account, region, id) DO UPDATE").
				Set("arn = EXCLUDED.arn, zone = EXCLUDED.zone, name = EXCLUDED.name, type = EXCLUDED.type, state = EXCLUDED.state").
				Set("platform = EXCLUDED.platform, lifecycle = EXCLUDED.lifecycle, tags = EXCLUDED.tags, launch_time = EXCLUDED.launch_time").
				Set("last_seen = EXCLUDED.last_seen, gone_time = NULL").Where("i.last_seen <= EXCLUDED.last_seen").Exec(ctx)
			if err != nil {
				return err
			}
		}
		if len(days) > 0 {
			if err := tx.recordDays(ctx, days, resp); err != nil {
				return err
			}
		}
		if !req.GetComplete() {
			return nil
		}
		done, err := tx.NewRaw("UPDATE instances SET gone_time = ?0 WHERE account = ?1 AND region = ?2 AND last_seen < ?0 AND gone_time IS NULL",
			scan, req.GetAccount(), req.GetRegion()).Exec(ctx)
		if err != nil {
			return err
		}
		resp.Gone, err = done.RowsAffected()
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// recordDays stores days. One that was read earlier than what is there changes
// nothing.
func (tx *transaction) recordDays(ctx context.Context, days []*instanceDay, resp *inventoryv1.RecordInstancesResponse) error {
	done, err := tx.NewInsert().Model(&days).Returning("NULL").On("CONFLICT (account, region, instance, day) DO UPDATE").
		Set("cpu_average = EXCLUDED.cpu_average, cpu_p95 = EXCLUDED.cpu_p95, cpu_maximum = EXCLUDED.cpu_maximum").
		Set("cpu_hours = EXCLUDED.cpu_hours, cpu_source = EXCLUDED.cpu_source, cpu_unknown = EXCLUDED.cpu_unknown").
		Set("memory_average = EXCLUDED.memory_average, memory_p95 = EXCLUDED.memory_p95, memory_maximum = EXCLUDED.memory_maximum").
		Set("memory_hours = EXCLUDED.memory_hours, memory_source = EXCLUDED.memory_source, memory_unknown = EXCLUDED.memory_unknown").
		Set("read_time = EXCLUDED.read_time").Where("d.read_time < EXCLUDED.read_time").Exec(ctx)
	if err != nil {
		return err
	}
	if resp.Days, err = done.RowsAffected(); err != nil {
		return err
	}
	newest := map[string]time.Time{}
	for _, d := range days {
		newest[d.Instance] = latest(newest[d.Instance], d.Day)
	}
	var ids, dates []string
	for id, d := range newest {
		ids, dates = append(ids, id), append(dates, d.Format(time.DateOnly))
	}
	_, err = tx.NewRaw(`
		UPDATE instances i SET latest_day = n.day FROM unnest(?::text[], ?::date[]) AS n (id, day)
		WHERE i.account = ? AND i.region = ? AND i.id = n.id AND (i.latest_day IS NULL OR i.latest_day < n.day)`,
		pgdialect.Array(ids), pgdialect.Array(dates), days[0].Account, days[0].Region).Exec(ctx)
	return err
}

// recordedInstances are the rows of a request, in the order of their keys, so
// that two requests cannot wait for each other.
func recordedInstances(req *inventoryv1.RecordInstancesRequest) ([]*instance, []*instanceDay, error) {
	var (
		rows []*instance
		days []*instanceDay
		seen = map[string]bool{}
		bad  = errs.New(errs.InvalidArgument, "BAD_INSTANCES", "the instances cannot be kept")
	)
	if !req.GetScanTime().IsValid() {
		return nil, nil, bad.Field("scan_time", "is no time")
	}
	scan := micros(req.GetScanTime().AsTime())
	for n, r := range req.GetRecords() {
		at := "records[" + strconv.Itoa(n) + "]"
		i := r.GetInstance()
		switch {
		case i.GetAccount() != req.GetAccount() || i.GetRegion() != req.GetRegion():
			return nil, nil, bad.Field(at+".instance", "is of %s %s, not of the account and region of the request", i.GetAccount(), i.GetRegion())
		case !strings.HasSuffix(i.GetArn(), ":ec2:"+i.GetRegion()+":"+i.GetAccount()+":instance/"+i.GetId()):
			return nil, nil, bad.Field(at+".instance.arn", "is not that of instance %s in its account and region", i.GetId())
		case seen[i.GetId()]:
			return nil, nil, bad.Field(at+".instance.id", "%s comes twice", i.GetId())
		}
		seen[i.GetId()] = true
		tags := make(map[string]string, len(i.GetTags()))
		for k, v := range i.GetTags() {
			tags[clean(k)] = clean(v)
		}
		rows = append(rows, &instance{
			Account: i.GetAccount(), Region: i.GetRegion(), ID: i.GetId(), ARN: clean(i.GetArn()), Zone: clean(i.GetZone()), Name: clean(i.GetName()),
			Type: clean(i.GetType()), State: clean(i.GetState()), Platform: clean(i.GetPlatform()), Lifecycle: clean(i.GetLifecycle()), Tags: tags,
			LaunchTime: timeOf(i.GetLaunchTime()), LastSeen: scan,
		})
		once := map[string]bool{}
		for m, d := range r.GetDays() {
			at := at + ".days[" + strconv.Itoa(m) + "]"
			day, err := time.Parse(time.DateOnly, d.GetDay())
			switch {
			case err != nil:
				return nil, nil, bad.Field(at+".day", "%q is no day", d.GetDay())
			case once[d.GetDay()]:
				return nil, nil, bad.Field(at+".day", "%s comes twice", d.GetDay())
			case !d.GetReadTime().IsValid():
				return nil, nil, bad.Field(at+".read_time", "is no time")
			}
			once[d.GetDay()] = true
			for name, g := range map[string]*inventoryv1.Gauge{"cpu": d.GetCpu(), "memory": d.GetMemory()} {
				if known := g.GetHours() > 0; known != (g.Average != nil) || known != (g.P95 != nil) || known != (g.Maximum != nil) {
					return nil, nil, bad.Field(at+"."+name, "has figures without hours, or hours without figures")
				}
			}
			days = append(days, &instanceDay{
				Account: i.GetAccount(), Region: i.GetRegion(), Instance: i.GetId(), Day: day, ReadTime: micros(d.GetReadTime().AsTime()),
				CPUAverage: d.GetCpu().Average, CPUP95: d.GetCpu().P95, CPUMaximum: d.GetCpu().Maximum, CPUHours: d.GetCpu().GetHours(),
				CPUSource: clean(d.GetCpu().GetSource()), CPUUnknown: clean(d.GetCpu().GetUnknown()),
				MemoryAverage: d.GetMemory().Average, MemoryP95: d.GetMemory().P95, MemoryMaximum: d.GetMemory().Maximum, MemoryHours: d.GetMemory().GetHours(),
				MemorySource: clean(d.GetMemory().GetSource()), MemoryUnknown: clean(d.GetMemory().GetUnknown()),
			})
		}
	}
	slices.SortFunc(rows, func(a, b *instance) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(days, func(a, b *instanceDay) int {
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), a.Day.Compare(b.Day))
	})
	return rows, days, nil
}
