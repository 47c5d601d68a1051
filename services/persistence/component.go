package persistence

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/types/known/timestamppb"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// componentLock is taken first and alone by who records looks.
const componentLock = 7306_0010

// component is a row of components.
type component struct {
	bun.BaseModel `bun:"table:components,alias:k"`

	Name        string                  `bun:",pk"`
	Kind        healthv1.ComponentKind  `bun:""`
	State       healthv1.ComponentState `bun:""`
	SinceTime   time.Time               `bun:""`
	Reason      string                  `bun:""`
	CheckTime   time.Time               `bun:""`
	FailingTime *time.Time              `bun:""`
	Attributes  map[string]string       `bun:"type:jsonb"`
	Title       string                  `bun:""`
}

func (c *component) proto() *healthv1.Component {
	return &healthv1.Component{
		Name: c.Name, Kind: c.Kind, State: c.State, SinceTime: timestamppb.New(c.SinceTime), Reason: c.Reason,
		CheckTime: timestamppb.New(c.CheckTime), FailingTime: timestamp(c.FailingTime), Attributes: c.Attributes, Title: c.Title,
	}
}

// componentTransition is a row of component_transitions.
type componentTransition struct {
	bun.BaseModel `bun:"table:component_transitions,alias:t"`

	ID        int64                   `bun:",pk,autoincrement"`
	Component string                  `bun:""`
	FromState healthv1.ComponentState `bun:""`
	ToState   healthv1.ComponentState `bun:""`
	Time      time.Time               `bun:""`
	Reason    string                  `bun:""`
}

func (t *componentTransition) proto() *healthv1.ComponentTransition {
	return &healthv1.ComponentTransition{
		Id: t.ID, Component: t.Component, FromState: t.FromState, ToState: t.ToState, Time: timestamppb.New(t.Time), Reason: t.Reason,
	}
}

var componentTransitionFields = fields{
	"component":  {column: "t.component", kind: kindText},
	"from_state": {column: "t.from_state", kind: kindEnum, values: enumValues(healthv1.ComponentState(0))},
	"to_state":   {column: "t.to_state", kind: kindEnum, values: enumValues(healthv1.ComponentState(0))},
	"time":       {column: "t.time", kind: kindTime},
	"reason":     {column: "t.reason", kind: kindText},
}

var componentTransitionOrder = order[*componentTransition]{
	{expr: "t.time", desc: true, key: timeKey(func(t *componentTransition) time.Time { return t.Time })},
	{expr: "t.id", desc: true, key: intKey(func(t *componentTransition) int64 { return t.ID })},
}

// RecordComponents implements HealthStateService.
func (s *Service) RecordComponents(ctx context.Context, req *healthv1.RecordComponentsRequest) (*healthv1.RecordComponentsResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	looks := slices.Clone(req.GetLooks())
	slices.SortFunc(looks, func(a, b *healthv1.ComponentLook) int {
		return cmp.Compare(a.GetComponent().GetName(), b.GetComponent().GetName())
	})
	for i, l := range looks {
		c := l.GetComponent()
		bad := errs.New(errs.InvalidArgument, "BAD_LOOK", "the look cannot be kept")
		switch {
		case i > 0 && c.GetName() == looks[i-1].GetComponent().GetName():
			return nil, bad.Field("looks", "there are two at %s", c.GetName())
		case !c.GetSinceTime().IsValid() || !c.GetCheckTime().IsValid() || c.GetCheckTime().AsTime().Before(c.GetSinceTime().AsTime()):
			return nil, bad.Field("looks", "the times of %s cannot be: it was checked before it was so", c.GetName())
		}
		for _, t := range l.GetTransitions() {
			if t.GetComponent() != c.GetName() || !t.GetTime().IsValid() {
				return nil, bad.Field("looks", "a transition of %s is another's, or has no time", c.GetName())
			}
		}
	}
	resp := &healthv1.RecordComponentsResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		names := make([]string, len(looks))
		for i, l := range looks {
			names[i] = l.GetComponent().GetName()
		}
		// Rows that are not there yet cannot be locked: of two replicas that look for the first time one waits here.
		if _, err := tx.NewRaw("SELECT pg_advisory_xact_lock(?)", componentLock).Exec(ctx); err != nil {
			return err
		}
		var rows []*component
		if err := tx.NewSelect().Model(&rows).Where("k.name = ANY(?)", pgdialect.Array(names)).Scan(ctx); err != nil {
			return err
		}
		there := map[string]*component{}
		for _, r := range rows {
			there[r.Name] = r
		}
		newest := time.Time{}
		for _, l := range looks {
			newest = latest(newest, l.GetComponent().GetCheckTime().AsTime())
			if err := tx.recordLook(ctx, there[l.GetComponent().GetName()], l); err != nil {
				return err
			}
		}
		if req.GetAll() && len(looks) > 0 {
			_, err := tx.NewDelete().Model((*component)(nil)).Where("k.name <> ALL(?)", pgdialect.Array(names)).Where("k.check_time < ?", newest).Exec(ctx)
			if err != nil {
				return err
			}
		}
		rows, err := readComponents(ctx, tx)
		for _, r := range rows {
			resp.Components = append(resp.Components, r.proto())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// recordLook takes a look over when it is newer than what is there.
func (tx *transaction) recordLook(ctx context.Context, there *component, l *healthv1.ComponentLook) error {
	p := l.GetComponent()
	if there != nil && !p.GetCheckTime().AsTime().After(there.CheckTime) {
		return nil
	}
	next := &component{
		Name: p.GetName(), Kind: p.GetKind(), State: p.GetState(), SinceTime: micros(p.GetSinceTime().AsTime()), Reason: p.GetReason(),
		CheckTime: micros(p.GetCheckTime().AsTime()), FailingTime: timeOf(p.GetFailingTime()), Attributes: p.GetAttributes(), Title: p.GetTitle(),
	}
	if next.Attributes == nil {
		next.Attributes = map[string]string{}
	}
	whole := next.proto()
	state, since := healthv1.ComponentState(0), time.Time{}
	if there != nil {
		state, since = there.State, there.SinceTime
	}
	// What somebody else has told of the same time counts, and the last step leads to the state of the look.
	steps := append(slices.Clone(l.GetTransitions()), &healthv1.ComponentTransition{
		ToState: next.State, Time: p.GetSinceTime(), Reason: next.Reason,
	})
	for i, t := range steps {
		at := micros(t.GetTime().AsTime())
		switch {
		case t.GetToState() == state:
			continue
		case !at.After(since) && i < len(steps)-1:
			continue
		case !at.After(since): // the look is newer, whatever it thinks since when
			at = next.CheckTime
		}
		row := &componentTransition{Component: next.Name, FromState: state, ToState: t.GetToState(), Time: at, Reason: t.GetReason()}
		if err := tx.NewInsert().Model(row).Returning("id").On("CONFLICT (component, time) DO NOTHING").Scan(ctx); err == nil {
			tx.publish(&healthv1.ComponentChanged{Component: whole, Transition: row.proto()})
		} else if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if state != 0 {
			tx.note(entry{
				Level: logLevel(t.GetToState()), Event: "component_" + stateWord(t.GetToState()), Service: "health",
				Message:    fmt.Sprintf("%s is %s: %s", next.Name, strings.ToUpper(stateWord(t.GetToState())), t.GetReason()),
				Attributes: map[string]string{"component": next.Name, "from": stateWord(state), "to": stateWord(t.GetToState()), "time": at.Format(time.RFC3339)},
			})
		}
		state, since = t.GetToState(), at
	}
	next.SinceTime = since
	whole.SinceTime = timestamppb.New(since)
	_, err := tx.NewInsert().Model(next).Returning("NULL").On("CONFLICT (name) DO UPDATE").
		Set("kind = EXCLUDED.kind, state = EXCLUDED.state, since_time = EXCLUDED.since_time, reason = EXCLUDED.reason").
		Set("check_time = EXCLUDED.check_time, failing_time = EXCLUDED.failing_time, attributes = EXCLUDED.attributes, title = EXCLUDED.title").
		Exec(ctx)
	return err
}

func stateWord(s healthv1.ComponentState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "COMPONENT_STATE_"))
}

func logLevel(s healthv1.ComponentState) systemlogv1.Level {
	switch s {
	case healthv1.ComponentState_COMPONENT_STATE_UP:
		return systemlogv1.Level_LEVEL_INFO
	case healthv1.ComponentState_COMPONENT_STATE_DOWN:
		return systemlogv1.Level_LEVEL_ERROR
	default:
		return systemlogv1.Level_LEVEL_WARN
	}
}

func readComponents(ctx context.Context, db bun.IDB) (rows []*component, err error) {
	return rows, fault(db.NewSelect().Model(&rows).Order("k.name").Scan(ctx))
}

// ListComponentStates implements HealthStateService.
func (s *Service) ListComponentStates(ctx context.Context, _ *healthv1.ListComponentStatesRequest) (*healthv1.ListComponentStatesResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := readComponents(ctx, db)
	if err != nil {
		return nil, err
	}
	resp := &healthv1.ListComponentStatesResponse{}
	for _, r := range rows {
		resp.Components = append(resp.Components, r.proto())
	}
	return resp, nil
}

// ListRecordedTransitions implements HealthStateService.
func (s *Service) ListRecordedTransitions(ctx context.Context, req *healthv1.ListRecordedTransitionsRequest) (*healthv1.ListRecordedTransitionsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := componentTransitionFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, componentTransitionOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"component transitions", req.GetFilter()},
		func() *bun.SelectQuery { return where.apply(db.NewSelect().Model((*componentTransition)(nil))) })
	if err != nil {
		return nil, err
	}
	resp := &healthv1.ListRecordedTransitionsResponse{NextPageToken: next}
	for _, t := range rows {
		resp.Transitions = append(resp.Transitions, t.proto())
	}
	return resp, nil
}
