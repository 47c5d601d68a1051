package persistence

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "nightshift.dev/gen/nightshift/inventory/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/errs"
)

func anInstance(n int) *inventoryv1.Instance {
	id := fmt.Sprintf("i-%04x", n)
	return &inventoryv1.Instance{
		Id: id, Arn: "arn:aws:ec2:eu-west-1:111122223333:instance/" + id, Account: "111122223333", Region: "eu-west-1", Zone: "eu-west-1a",
		Name: fmt.Sprintf("web %d", n), Type: "m5.large", State: "running", Platform: "Linux/UNIX", Tags: map[string]string{"Environment": "dev"}, LaunchTime: timestamppb.New(epoch),
	}
}

func figure(v float64, hours int32) *inventoryv1.Gauge {
	return &inventoryv1.Gauge{Average: new(v), P95: new(v + 1), Maximum: new(v + 2), Hours: hours, Source: "s"}
}

// aDay is the nth day of the tests, read some hours after it.
func aDay(n int, cpu *inventoryv1.Gauge, hours int) *inventoryv1.InstanceDay {
	return &inventoryv1.InstanceDay{
		Day: epoch.AddDate(0, 0, n).Format(time.DateOnly), Cpu: cpu, Memory: &inventoryv1.Gauge{Unknown: "no agent"},
		ReadTime: timestamppb.New(epoch.AddDate(0, 0, n+1).Add(time.Duration(hours) * time.Hour)),
	}
}

func recordRequest(scan time.Time, complete bool, rs ...*inventoryv1.InstanceRecord) *inventoryv1.RecordInstancesRequest {
	return &inventoryv1.RecordInstancesRequest{Account: "111122223333", Region: "eu-west-1", ScanTime: timestamppb.New(scan), Records: rs, Complete: complete}
}

func recordInstances(t *testing.T, s *Service, req *inventoryv1.RecordInstancesRequest) *inventoryv1.RecordInstancesResponse {
	t.Helper()
	r, err := s.RecordInstances(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestInstancesAreRecordedOnce(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	first := recordRequest(at(0), true,
		&inventoryv1.InstanceRecord{Instance: anInstance(1), Days: []*inventoryv1.InstanceDay{aDay(0, figure(10, 24), 3), aDay(1, figure(20, 12), 1)}},
		&inventoryv1.InstanceRecord{Instance: anInstance(2), Days: []*inventoryv1.InstanceDay{aDay(0, &inventoryv1.Gauge{Unknown: "stopped"}, 3)}})
	if r := recordInstances(t, s, first); r.GetDays() != 3 || r.GetGone() != 0 {
		t.Errorf("first: %v", r)
	}
	if r := recordInstances(t, s, first); r.GetDays() != 0 || r.GetGone() != 0 {
		t.Errorf("again: %v", r)
	}
	// A day that was read too early is replaced by a later reading, and not by an earlier one.
	recordInstances(t, s, recordRequest(at(1), false, &inventoryv1.InstanceRecord{Instance: anInstance(1), Days: []*inventoryv1.InstanceDay{aDay(1, figure(30, 24), 25)}}))
	if r := recordInstances(t, s, recordRequest(at(1), false, &inventoryv1.InstanceRecord{Instance: anInstance(1), Days: []*inventoryv1.InstanceDay{aDay(1, figure(5, 1), 0)}})); r.GetDays() != 0 {
		t.Errorf("an earlier reading: %v", r)
	}
	got, err := s.GetInstance(ctx, &inventoryv1.GetInstanceRequest{Id: "i-0001"})
	if err != nil {
		t.Fatal(err)
	}
	want := anInstance(1)
	want.LastSeen, want.Latest = timestamppb.New(at(1)), aDay(1, figure(30, 24), 25)
	if !proto.Equal(got.GetInstance(), want) {
		t.Errorf("got %v\nwant %v", got.GetInstance(), want)
	}
	days, err := s.ListInstanceDays(ctx, &inventoryv1.ListInstanceDaysRequest{Id: "i-0001", PageSize: 1})
	if err != nil || len(days.GetDays()) != 1 || days.GetDays()[0].GetDay() != "2026-01-02" || days.GetNextPageToken() == "" {
		t.Fatalf("%v %v", days, err)
	}
	days, err = s.ListInstanceDays(ctx, &inventoryv1.ListInstanceDaysRequest{Id: "i-0001", PageSize: 1, PageToken: days.GetNextPageToken()})
	if err != nil || !proto.Equal(days.GetDays()[0], aDay(0, figure(10, 24), 3)) || days.GetNextPageToken() != "" {
		t.Errorf("%v %v", days, err)
	}
	// Unknown is unknown, not 0.
	two, err := s.GetInstance(ctx, &inventoryv1.GetInstanceRequest{Id: "i-0002"})
	if err != nil || two.GetInstance().GetLatest().GetCpu().Average != nil || two.GetInstance().GetLatest().GetCpu().GetUnknown() != "stopped" {
		t.Errorf("%v %v", two, err)
	}

	// A complete listing that does not show an instance proves that it is gone; a part of one does not.
	recordInstances(t, s, recordRequest(at(2), false, &inventoryv1.InstanceRecord{Instance: anInstance(1)}))
	gone := func(id string) bool {
		t.Helper()
		i, err := s.GetInstance(ctx, &inventoryv1.GetInstanceRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		return i.GetInstance().GetGoneTime() != nil
	}
	if gone("i-0002") {
		t.Error("gone without a complete listing")
	}
	if r := recordInstances(t, s, recordRequest(at(2), true)); r.GetGone() != 1 || !gone("i-0002") || gone("i-0001") {
		t.Errorf("after a complete listing: %v", r)
	}
	// An older listing that comes late neither brings it back nor changes what a newer one said.
	late := anInstance(1)
	late.State = "stopped"
	recordInstances(t, s, recordRequest(at(1), true, &inventoryv1.InstanceRecord{Instance: late}, &inventoryv1.InstanceRecord{Instance: anInstance(2)}))
	if one, _ := s.GetInstance(ctx, &inventoryv1.GetInstanceRequest{Id: "i-0001"}); one.GetInstance().GetState() != "running" {
		t.Errorf("an older listing changed it: %v", one)
	}
	recordInstances(t, s, recordRequest(at(3), true, &inventoryv1.InstanceRecord{Instance: anInstance(1)}, &inventoryv1.InstanceRecord{Instance: anInstance(2)}))
	if gone("i-0002") {
		t.Error("it is back, and gone")
	}
}

func TestInstancesAreListed(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	var rs []*inventoryv1.InstanceRecord
	for n := range 10 {
		r := &inventoryv1.InstanceRecord{Instance: anInstance(n)}
		if n%3 > 0 { // a third is unknown
			r.Days = []*inventoryv1.InstanceDay{aDay(0, figure(float64(n/4), 24), 3)}
		}
		rs = append(rs, r)
	}
	recordInstances(t, s, recordRequest(at(0), true, rs...))
	names := func(filter, order string) string {
		t.Helper()
		var out []string
		req := &inventoryv1.ListInstancesRequest{PageSize: 3, Filter: filter, OrderBy: order}
		for {
			r, err := s.ListInstances(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range r.GetInstances() {
				out = append(out, strings.TrimPrefix(i.GetId(), "i-000"))
			}
			if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
				return strings.Join(out, "")
			}
		}
	}
	for _, x := range []struct{ filter, order, want string }{
		{"", "", "0123456789"},
		{"", "cpu_average", "1245780369"},
		{"", "cpu_average desc", "8457120369"},
		{"", "name desc", "9876543210"},
		{"cpu_average < 1", "", "12"},
		{"NOT cpu_average:*", "", "0369"},
		{`cpu_maximum >= 3 AND tags.Environment = "dev" AND state = "running"`, "", "4578"},
		{`gone_time:*`, "", ""},
		{`cpu_hours = 24 AND memory_hours = 0`, "last_seen desc", "124578"},
	} {
		if got := names(x.filter, x.order); got != x.want {
			t.Errorf("filter %q, order %q: %s, want %s", x.filter, x.order, got, x.want)
		}
	}
}

func TestInstancesThatCannotBeKept(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	hostile := anInstance(1)
	hostile.Name, hostile.Tags = "a\x00b", map[string]string{"k\x00": "v\x00"}
	recordInstances(t, s, recordRequest(at(0), false, &inventoryv1.InstanceRecord{Instance: hostile}))
	i, err := s.GetInstance(ctx, &inventoryv1.GetInstanceRequest{Id: "i-0001"})
	if err != nil || i.GetInstance().GetName() != "a\uFFFDb" || i.GetInstance().GetTags()["k\uFFFD"] != "v\uFFFD" {
		t.Errorf("%v %v", i, err)
	}
	for name, change := range map[string]func(*inventoryv1.RecordInstancesRequest){
		"another account": func(r *inventoryv1.RecordInstancesRequest) { r.Records[0].Instance.Account = "000000000000" },
		"another's ARN":   func(r *inventoryv1.RecordInstancesRequest) { r.Records[0].Instance.Arn = "arn:x" },
		"twice":           func(r *inventoryv1.RecordInstancesRequest) { r.Records = append(r.Records, r.Records[0]) },
		"no day":          func(r *inventoryv1.RecordInstancesRequest) { r.Records[0].Days[0].Day = "2026-02-31" },
		"a day twice": func(r *inventoryv1.RecordInstancesRequest) {
			r.Records[0].Days = append(r.Records[0].Days, r.Records[0].Days[0])
		},
		"figures without hours": func(r *inventoryv1.RecordInstancesRequest) { r.Records[0].Days[0].Cpu.Hours = 0 },
		"hours without figures": func(r *inventoryv1.RecordInstancesRequest) { r.Records[0].Days[0].Memory.Hours = 1 },
		"no scan time":          func(r *inventoryv1.RecordInstancesRequest) { r.ScanTime = &timestamppb.Timestamp{Nanos: -1} },
		"no read time": func(r *inventoryv1.RecordInstancesRequest) {
			r.Records[0].Days[0].ReadTime = &timestamppb.Timestamp{Nanos: -1}
		},
	} {
		req := recordRequest(at(0), true, &inventoryv1.InstanceRecord{Instance: anInstance(1), Days: []*inventoryv1.InstanceDay{aDay(0, figure(1, 24), 3)}})
		change(req)
		_, err := s.RecordInstances(ctx, req)
		var e *errs.Error
		if !errors.As(err, &e) || !errors.Is(err, errs.InvalidArgument) || len(e.Violations()) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, err := range []error{
		second(s.ListInstances(ctx, &inventoryv1.ListInstancesRequest{Filter: "bogus = 1"})),
		second(s.ListInstances(ctx, &inventoryv1.ListInstancesRequest{OrderBy: "bogus"})),
		second(s.ListInstances(ctx, &inventoryv1.ListInstancesRequest{PageToken: "bogus"})),
		second(s.ListInstanceDays(ctx, &inventoryv1.ListInstanceDaysRequest{Id: "i-0001", PageToken: "bogus"})),
		app.Validate(&inventoryv1.GetInstanceRequest{Id: "x"}),
	} {
		if !errors.Is(err, errs.InvalidArgument) {
			t.Errorf("bad input: %v", err)
		}
	}
	if _, err := s.GetInstance(ctx, &inventoryv1.GetInstanceRequest{Id: "i-9"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}
	if _, err := s.ListInstanceDays(ctx, &inventoryv1.ListInstanceDaysRequest{Id: "i-9"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}
}
