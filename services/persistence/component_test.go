package persistence

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

const (
	isUp   = healthv1.ComponentState_COMPONENT_STATE_UP
	isDown = healthv1.ComponentState_COMPONENT_STATE_DOWN
)

// look is a look at the nth minute at a component that is so since another.
func look(name string, n int, state healthv1.ComponentState, since int, changes ...*healthv1.ComponentTransition) *healthv1.ComponentLook {
	return &healthv1.ComponentLook{
		Component: &healthv1.Component{
			Name: name, Kind: healthv1.ComponentKind_COMPONENT_KIND_BUS, State: state, SinceTime: minute(since), CheckTime: minute(n), Reason: fmt.Sprint("look ", n),
		},
		Transitions: changes,
	}
}

func minute(n int) *timestamppb.Timestamp {
	return timestamppb.New(epoch.Add(time.Duration(n) * time.Minute))
}

func changed(name string, n int, to healthv1.ComponentState) *healthv1.ComponentTransition {
	return &healthv1.ComponentTransition{Component: name, ToState: to, Time: minute(n), Reason: fmt.Sprint("change ", n)}
}

func record(t *testing.T, s *Service, all bool, looks ...*healthv1.ComponentLook) []*healthv1.Component {
	t.Helper()
	r, err := s.RecordComponents(t.Context(), &healthv1.RecordComponentsRequest{Looks: looks, All: all})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetComponents()
}

// history is a component's changes, oldest first, as "UP@0 DOWN@3".
func history(t *testing.T, s *Service, name string) string {
	t.Helper()
	var out []string
	req := &healthv1.ListRecordedTransitionsRequest{PageSize: 2, Filter: `component = "` + name + `"`}
	for {
		r, err := s.ListRecordedTransitions(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range r.GetTransitions() {
			out = append([]string{fmt.Sprintf("%s@%d", strings.ToUpper(stateWord(x.GetToState())), int(x.GetTime().AsTime().Sub(epoch).Minutes()))}, out...)
		}
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			return strings.Join(out, " ")
		}
	}
}

func TestTheNewestLookCounts(t *testing.T) {
	t.Parallel()
	s := service(t)
	record(t, s, false, look("nats", 0, isUp, 0))
	record(t, s, false, look("nats", 0, isDown, 0)) // the other replica, a moment later
	record(t, s, false, look("nats", 3, isDown, 3))
	record(t, s, false, look("nats", 3, isDown, 3))
	record(t, s, false, look("nats", 2, isUp, 2)) // late
	got := record(t, s, false, look("nats", 4, isDown, 2))
	if c := got[0]; c.GetState() != isDown || !c.GetSinceTime().AsTime().Equal(minute(3).AsTime()) || c.GetReason() != "look 4" {
		t.Errorf("%v", c)
	}
	if h := history(t, s, "nats"); h != "UP@0 DOWN@3" {
		t.Errorf("history %s", h)
	}
	// What changed while it could not be recorded is told afterwards; another replica that saw the same tells nothing new.
	record(t, s, false, look("nats", 9, isUp, 8, changed("nats", 5, isUp), changed("nats", 7, isDown), changed("nats", 8, isUp)))
	record(t, s, false, look("nats", 10, isUp, 8, changed("nats", 6, isUp), changed("nats", 7, isDown), changed("nats", 8, isUp)))
	if h := history(t, s, "nats"); h != "UP@0 DOWN@3 UP@5 DOWN@7 UP@8" {
		t.Errorf("history %s", h)
	}
	// A look that disagrees about the past is right about the present.
	record(t, s, false, look("nats", 11, isDown, 1))
	if h := history(t, s, "nats"); h != "UP@0 DOWN@3 UP@5 DOWN@7 UP@8 DOWN@11" {
		t.Errorf("history %s", h)
	}
	r, err := s.ListEntries(t.Context(), &systemlogv1.ListEntriesRequest{Filter: `event = "component_down"`})
	if err != nil || len(r.GetEntries()) != 3 || r.GetEntries()[0].GetLevel() != systemlogv1.Level_LEVEL_ERROR || r.GetEntries()[0].GetAttributes()["component"] != "nats" {
		t.Errorf("the system log says %v, %v", r, err)
	}
}

// Each change is said once, in the transaction that keeps it, and in order.
func TestComponentChangesAreSaid(t *testing.T) {
	t.Parallel()
	s := service(t)
	record(t, s, false, look("nats", 0, isUp, 0), look("account/1", 0, isDown, 0))
	record(t, s, false, look("nats", 1, isUp, 0)) // nothing new
	record(t, s, false, look("nats", 9, isDown, 8, changed("nats", 5, isDown), changed("nats", 7, isUp)))
	record(t, s, false, look("nats", 9, isDown, 8, changed("nats", 5, isDown), changed("nats", 7, isUp))) // the other replica
	var rows []*waitingMessage
	if err := s.bun.NewRaw("SELECT id, time, message, body, trace FROM outbox ORDER BY id").Scan(t.Context(), &rows); err != nil {
		t.Fatal(err)
	}
	var said, waves []string
	for _, row := range rows {
		m, err := decode(row)
		if err != nil {
			t.Fatal(err)
		}
		e, c := m.(*healthv1.ComponentChanged), m.(*healthv1.ComponentChanged).GetTransition()
		if e.GetComponent().GetName() != c.GetComponent() || !e.GetComponent().GetSinceTime().IsValid() || c.GetId() == 0 || c.GetReason() == "" {
			t.Errorf("%v", e)
		}
		said = append(said, fmt.Sprintf("%s %s>%s@%d", c.GetComponent(), stateWord(c.GetFromState()), stateWord(c.GetToState()), int(c.GetTime().AsTime().Sub(epoch).Minutes())))
	}
	if want := "account/1 unspecified>down@0, nats unspecified>up@0, nats up>down@5, nats down>up@7, nats up>down@8"; strings.Join(said, ", ") != want {
		t.Errorf("said was %s", strings.Join(said, ", "))
	}
	if last, err := decode(rows[len(rows)-1]); err != nil || !last.(*healthv1.ComponentChanged).GetComponent().GetSinceTime().AsTime().Equal(minute(8).AsTime()) {
		t.Errorf("the last is %v, %v", last, err)
	}
	for len(rows) > 0 {
		n, _, err := wave(rows)
		if err != nil {
			t.Fatal(err)
		}
		waves, rows = append(waves, fmt.Sprint(n)), rows[n:]
	}
	if got := strings.Join(waves, " "); got != "2 1 1 1" {
		t.Errorf("published in waves of %s", got)
	}
}

func TestComponentsThatAreGone(t *testing.T) {
	t.Parallel()
	s := service(t)
	record(t, s, true, look("nats", 0, isUp, 0), look("account/1", 0, isUp, 0), look("account/2", 0, isUp, 0))
	record(t, s, false, look("nats", 1, isUp, 0))
	if got := record(t, s, true, look("nats", 2, isUp, 0), look("account/2", 2, isUp, 0)); len(got) != 2 || got[0].GetName() != "account/2" {
		t.Errorf("%v", got)
	}
	if h := history(t, s, "account/1"); h != "UP@0" {
		t.Errorf("history %s", h)
	}
}

func TestReplicasRecordAtOnce(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	a, _ := replica(t, dsn)
	b, _ := replica(t, dsn)
	var all sync.WaitGroup
	for n := range 12 {
		for _, s := range []*Service{a, b} {
			all.Go(func() {
				state := []healthv1.ComponentState{isUp, isDown}[n/3%2]
				_, err := s.RecordComponents(t.Context(), &healthv1.RecordComponentsRequest{Looks: []*healthv1.ComponentLook{
					look("nats", n, state, n/3*3), look("postgres", n, state, n/3*3),
				}})
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	// Whatever came in which order: states alternate, and the last is that of the newest look.
	for _, name := range []string{"nats", "postgres"} {
		last := ""
		for _, h := range strings.Fields(history(t, a, name)) {
			state, _, _ := strings.Cut(h, "@")
			if state == last {
				t.Errorf("%s: %s", name, history(t, a, name))
			}
			last = state
		}
		if last != "DOWN" {
			t.Errorf("%s ends %s", name, last)
		}
	}
}

func TestLooksThatCannotBeKept(t *testing.T) {
	t.Parallel()
	s := service(t)
	for name, l := range map[string]*healthv1.ComponentLook{
		"another's change":   look("nats", 1, isUp, 0, changed("postgres", 0, isUp)),
		"since after it":     look("nats", 1, isUp, 2),
		"NUL":                {Component: &healthv1.Component{Name: "nats", State: isUp, Kind: 1, SinceTime: minute(0), CheckTime: minute(0), Reason: "a\x00"}},
		"a change that when": look("nats", 1, isUp, 0, &healthv1.ComponentTransition{Component: "nats", ToState: isUp, Time: &timestamppb.Timestamp{Nanos: -1}}),
	} {
		_, err := s.RecordComponents(t.Context(), &healthv1.RecordComponentsRequest{Looks: []*healthv1.ComponentLook{l}})
		if !errors.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.RecordComponents(t.Context(), &healthv1.RecordComponentsRequest{Looks: []*healthv1.ComponentLook{look("nats", 1, isUp, 0), look("nats", 1, isUp, 0)}}); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("twice: %v", err)
	}
	if _, err := s.ListRecordedTransitions(t.Context(), &healthv1.ListRecordedTransitionsRequest{Filter: `to_state = "BROKEN"`}); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("a bad filter: %v", err)
	}
}

func TestHowTheDatabaseIs(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	s, _ := replica(t, dsn)
	r, err := s.GetDatabase(t.Context(), &healthv1.GetDatabaseRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r.GetVersion() == "" || r.GetSchemaVersion() < 4 || r.GetSizeBytes() < 1<<20 || r.GetConnections() < 1 || r.GetMaxConnections() < 10 || r.GetReadOnly() ||
		time.Since(r.GetServerTime().AsTime()).Abs() > time.Minute || r.GetOutbox() != 0 || r.GetOutboxAge() != nil {
		t.Errorf("%v", r)
	}
	p, err := Probe(t.Context(), dsn)
	if err != nil || p.GetVersion() != r.GetVersion() || p.GetSchemaVersion() != 0 {
		t.Errorf("%v %v", p, err)
	}
	if _, err := Probe(t.Context(), "postgres://u:secret@127.0.0.1:1/x"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := Probe(t.Context(), "postgres://u:secret@%%"); !errors.Is(err, errs.InvalidArgument) || strings.Contains(err.Error(), "secret") {
		t.Errorf("no DSN: %v", err)
	}
}

func TestHowFreshAccountsAre(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	s.now = func() time.Time { return at(40) }
	for _, a := range []*accountv1.Account{
		{Id: here.GetAccount(), Name: "prod", RoleArn: "arn:aws:iam::111122223333:role/r"}, {Id: "444455556666"},
		{Id: "777788889999", State: accountv1.AccountState_ACCOUNT_STATE_SUSPENDED},
	} {
		if _, err := s.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: a}); err != nil {
			t.Fatal(err)
		}
	}
	scans := func() []*healthv1.AccountScan {
		t.Helper()
		r, err := s.ListAccountScans(ctx, &healthv1.ListAccountScansRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.GetAccounts()) != 2 || r.GetAccounts()[1].GetAccount() != "444455556666" || r.GetAccounts()[1].GetScanTime() != nil {
			t.Fatalf("%v", r)
		}
		return r.GetAccounts()
	}
	if a := scans()[0]; a.GetScanTime() != nil || a.GetScopes() != 0 || a.GetRoleArn() == "" || a.GetName() != "prod" {
		t.Errorf("before the first scan: %v", a)
	}
	scanOnce(t, s, 10, complete)
	if a := scans()[0]; a.GetRegions() != 1 || a.GetIncompleteRegions() != 0 || a.GetScopes() != 1 || a.GetFailedScopes() != 0 ||
		a.GetCompleteTime() == nil || !a.GetCompleteTime().AsTime().Equal(a.GetScanTime().AsTime()) {
		t.Errorf("after a complete scan: %v", a)
	}
	before := scans()[0].GetCompleteTime().AsTime()
	s.now = func() time.Time { return at(41) }
	scanOnce(t, s, 20, denied)
	if a := scans()[0]; a.GetIncompleteRegions() != 1 || a.GetFailedScopes() != 1 || !a.GetCompleteTime().AsTime().Equal(before) || !a.GetScanTime().AsTime().After(before) {
		t.Errorf("after one that was denied: %v", a)
	}
}
