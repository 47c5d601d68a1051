package persistence

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
)

// PlanRun implements RunService.
func (s *Service) PlanRun(ctx context.Context, req *runv1.PlanRunRequest) (*runv1.PlanRunResponse, error) {
	if err := cmp.Or(refuseNUL(req, ""), checkPlan(req)); err != nil {
		return nil, err
	}
	resp := &runv1.PlanRunResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		r, shown, err := tx.lockRun(ctx, req.GetRunId())
		if err != nil {
			return err
		}
		resp.Run = shown
		if r.Planned || r.State != runv1.RunState_RUN_STATE_RUNNING {
			return nil
		}
		scopes := req.GetScopes()
		if r.Wanted != nil {
			wanted := &runv1.RetryRunRequest{}
			if err := proto.Unmarshal(r.Wanted, wanted); err != nil {
				return err
			}
			scopes = narrow(scopes, wanted.GetScopes())
		}
		if err := tx.insertScopes(ctx, r, scopes); err != nil {
			return err
		}
		r.Planned = true
		if len(scopes) == 0 {
			r.Error = "there was nothing to scan: no active account, or none with a region; register an account and its regions"
		}
		if _, err := tx.NewUpdate().Model(r).Column("planned").WherePK().Exec(ctx); err != nil {
			return err
		}
		tx.wake(topicRun + r.ID)
		tx.notePlan(r, scopes)
		if err := tx.finishRun(ctx, r); err != nil {
			return err
		}
		_, resp.Run, err = readRun(ctx, tx, tx.NewSelect(), r.ID)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func checkPlan(req *runv1.PlanRunRequest) error {
	e := errs.New(errs.InvalidArgument, "BAD_PLAN", "the run cannot be planned")
	seen := map[scopeKey]int{}
	for i, p := range req.GetScopes() {
		k := keyOf("", p.GetScope())
		if first, twice := seen[k]; twice {
			return e.Field(fmt.Sprintf("scopes[%d].scope", i), "is the same as scopes[%d].scope; name each scope once", first)
		}
		seen[k] = i
		if c := p.GetFailure(); c != nil && scanv1.CoverageStatus_name[int32(c.GetStatus())] == "" {
			return e.Field(fmt.Sprintf("scopes[%d].failure.status", i), "is %d, which means nothing here", c.GetStatus())
		}
	}
	return nil
}

func (tx *transaction) notePlan(r *run, scopes []*runv1.PlannedScope) {
	accounts := map[string]bool{}
	for _, p := range scopes {
		if a := p.GetScope().GetAccount(); a != "-" {
			accounts[a] = true
		}
	}
	message := fmt.Sprintf("Run %s has %s", r.ID, count(len(scopes), "scope"))
	if len(accounts) > 0 {
		message += " in " + count(len(accounts), "account")
	}
	tx.note(entry{
		Level: systemlogv1.Level_LEVEL_INFO, Event: "run_planned", Service: r.Kind, Job: r.Job, RunID: r.ID, Message: message + ".",
		Attributes: map[string]string{"scopes": strconv.Itoa(len(scopes)), "accounts": strconv.Itoa(len(accounts))},
	})
}

// narrow leaves of a plan what is wanted: the scopes named, and where a region
// is "-", all of the account. What is wanted and not planned any more has
// failed, with the failure of its account if the plan has one.
func narrow(plan []*runv1.PlannedScope, wanted []*scanv1.Scope) []*runv1.PlannedScope {
	want, found := map[scopeKey]bool{}, map[scopeKey]bool{}
	for _, w := range wanted {
		want[keyOf("", w)] = true
	}
	failures := map[scopeKey]*scanv1.Coverage{} // of accounts
	var scopes []*runv1.PlannedScope
	for _, p := range plan {
		k := keyOf("", p.GetScope())
		whole := k
		whole.Region = "-"
		if k == whole && p.GetFailure() != nil {
			failures[k] = p.GetFailure()
		}
		if !want[k] && !want[whole] {
			continue
		}
		found[k], found[whole] = true, true
		scopes = append(scopes, p)
	}
	for _, w := range wanted {
		k := keyOf("", w)
		if found[k] {
			continue
		}
		found[k] = true
		account := k
		account.Region = "-"
		failure := &scanv1.Coverage{ResourceType: "*", Status: scanv1.CoverageStatus_COVERAGE_STATUS_FAILED,
			Error: "the job does not do this any more: its account or region is not among those it looks at now"}
		if f := failures[account]; f != nil {
			failure = f
		}
		scopes = append(scopes, &runv1.PlannedScope{Scope: w, Failure: failure})
	}
	return scopes
}

// insertScopes writes a run's scopes and asks for those to be done.
func (tx *transaction) insertScopes(ctx context.Context, r *run, planned []*runv1.PlannedScope) error {
	var (
		scopes   []*runScope
		coverage []*coverageRow
	)
	now := micros(tx.now)
	for _, p := range planned {
		k := keyOf(r.ID, p.GetScope())
		row := &runScope{scopeKey: k, State: runv1.ScopeState_SCOPE_STATE_PENDING, Counts: map[string]int64{},
			RoleARN: p.GetRoleArn(), ExternalID: p.GetExternalId(), Partition: p.GetPartition()}
		scopes = append(scopes, row)
		if c := p.GetFailure(); c != nil {
			row.State, row.EndTime, row.Error = runv1.ScopeState_SCOPE_STATE_FAILED, &now, cmp.Or(c.GetError(), "the account could not be entered")
			coverage = append(coverage, coverageOf(k, c))
			tx.noteScope(r.Job, row)
			continue
		}
		tx.requestScope(r, row)
	}
	for chunk := range slices.Chunk(scopes, 1000) {
		if _, err := tx.NewInsert().Model(&chunk).Exec(ctx); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(coverage, 1000) {
		if _, err := tx.NewInsert().Model(&chunk).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// requestScope asks the workers to do a scope. Its row is to be written.
func (tx *transaction) requestScope(r *run, row *runScope) {
	now := micros(tx.now)
	row.RequestTime = &now
	m := &scanv1.ScopeRequested{
		RunId: r.ID, Scope: row.scopeKey.proto(), Parameters: r.Parameters, RoleArn: row.RoleARN, ExternalId: row.ExternalID,
		Partition: row.Partition, MaxRetries: r.MaxRetries, Job: r.Job, PlannedTime: timestamp(r.PlannedTime),
	}
	if r.TimeoutMS != nil {
		m.Timeout = durationpb.New(time.Duration(*r.TimeoutMS) * time.Millisecond)
	}
	tx.publish(m)
}
