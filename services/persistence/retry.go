package persistence

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// The backoff of jobs that have none.
const (
	defaultBackoff    = time.Second
	defaultMaxBackoff = 5 * time.Minute
)

// backoff is how long to wait after so many failures, spread by a fifth: spread
// is from -1 to 1.
func backoff(b *jobv1.Backoff, failures int32, spread float64) time.Duration {
	initial, most := defaultBackoff, defaultMaxBackoff
	if b.GetInitial() != nil {
		initial = b.GetInitial().AsDuration()
	}
	if b.GetMax() != nil {
		most = b.GetMax().AsDuration()
	}
	wait := min(float64(initial)*math.Pow(4, float64(failures-1)), float64(most))
	return time.Duration(wait * (1 + spread/5)).Round(time.Millisecond)
}

// RetryScope implements RunService.
func (s *Service) RetryScope(ctx context.Context, req *runv1.RetryScopeRequest) (*runv1.RetryScopeResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	var resp *runv1.RetryScopeResponse
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		resp = &runv1.RetryScopeResponse{}
		row, err := tx.lockScope(ctx, keyOf(req.GetRunId(), req.GetScope()))
		if err != nil || row.EndTime != nil || row.Execution != req.GetExecution() {
			return err
		}
		now := micros(tx.now)
		if row.State == runv1.ScopeState_SCOPE_STATE_PENDING { // asked again
			resp.Retry = true
			if row.RetryTime != nil {
				resp.RetryDelay = durationpb.New(max(row.RetryTime.Sub(now), 0))
			}
			return nil
		}
		r, _, err := readRun(ctx, tx, tx.NewSelect(), row.RunID)
		if err != nil || row.Failures >= r.MaxRetries {
			return err
		}
		t, err := r.trigger()
		if err != nil {
			return err
		}
		row.Failures++
		wait := backoff(t.GetBackoff(), row.Failures, 2*mathrand.Float64()-1)
		again := now.Add(wait)
		row.State, row.Error, row.RetryTime = runv1.ScopeState_SCOPE_STATE_PENDING, req.GetError(), &again
		resp.Retry, resp.RetryDelay = true, durationpb.New(wait)
		tx.note(entry{
			Level: systemlogv1.Level_LEVEL_WARN, Event: "scope_retried", Service: row.Service, Job: r.Job, RunID: row.RunID, Account: row.account(), Region: row.region(),
			Message: fmt.Sprintf("%s failed and is tried again in %s, %d of %d: %s.", row.title(), wait, row.Failures, r.MaxRetries, row.Error),
			Attributes: map[string]string{"error": row.Error, "failures": strconv.Itoa(int(row.Failures)), "max_retries": strconv.Itoa(int(r.MaxRetries)),
				"delay": wait.String(), "execution": row.Execution},
		})
		return tx.saveScope(ctx, row)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// RetryRun implements RunService.
func (s *Service) RetryRun(ctx context.Context, req *runv1.RetryRunRequest) (*runv1.RetryRunResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	request := req.GetRequestId()
	if request == "" {
		var random [8]byte
		_, _ = rand.Read(random[:]) // never fails
		request = hex.EncodeToString(random[:])
	}
	resp := &runv1.RetryRunResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		r, _, err := tx.lockRun(ctx, req.GetId())
		if err != nil {
			return err
		}
		id := r.Job + "/retry-" + request
		other, shown, err := readRun(ctx, tx, tx.NewSelect(), id)
		if err == nil {
			if other.RetryOf != r.ID {
				return errs.New(errs.AlreadyExists, "REQUEST_ID_TAKEN", "run %s does %s again", id, cmp.Or(other.RetryOf, "nothing")).
					Field("request_id", "was used for another run; take another, or leave it empty")
			}
			resp.Run = shown
			return nil
		}
		if !errors.Is(err, errs.NotFound) {
			return err
		}
		// Nor does one get by an old run what the scheduler refuses for a new one: see RunJob.
		if r.Kind == "cleanup" && len(r.Parameters) > 0 {
			if err := auth.From(ctx).RequireRole(authv1.Role_ROLE_ADMIN, "cleaning up by the parameters of an earlier run"); err != nil {
				return err
			}
		}
		if !r.ended() {
			return errs.New(errs.FailedPrecondition, "RUN_AT_WORK", "run %s has not ended; wait for it or cancel it", r.ID)
		}
		var rows []*runScope
		if err := tx.NewSelect().Model(&rows).Where("rs.run_id = ?", r.ID).Order("account", "region", "service").Scan(ctx); err != nil {
			return err
		}
		wanted, err := leftUndone(r.ID, rows, req.GetScopes())
		if err != nil {
			return err
		}
		resp.Run, err = tx.retryRun(ctx, r, id, auth.Actor(ctx, req.GetRequestedBy()), wanted)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// leftUndone are the scopes of a run that did not succeed, or those of them
// that are asked for: where a region is "-", all of the account. None means all
// that the job does: the run never had scopes.
func leftUndone(id string, rows []*runScope, asked []*scanv1.Scope) ([]*scanv1.Scope, error) {
	if len(rows) == 0 && len(asked) == 0 {
		return nil, nil
	}
	want, known := map[scopeKey]bool{}, map[scopeKey]bool{}
	for _, a := range asked {
		want[keyOf("", a)] = true
	}
	var undone []*scanv1.Scope
	for _, row := range rows {
		k := row.scopeKey
		k.RunID = ""
		whole := k
		whole.Region = "-"
		known[k], known[whole] = true, true
		if row.State != runv1.ScopeState_SCOPE_STATE_SUCCEEDED && (len(asked) == 0 || want[k] || want[whole]) {
			undone = append(undone, k.proto())
		}
	}
	e := errs.New(errs.InvalidArgument, "BAD_SCOPES", "the scopes cannot be done again")
	for i, a := range asked {
		if k := keyOf("", a); !known[k] {
			e.Field(fmt.Sprintf("scopes[%d]", i), "is %s, which is no scope of run %s", k, id)
		}
	}
	if len(e.Violations()) > 0 {
		return nil, e
	}
	if len(undone) == 0 {
		return nil, errs.New(errs.FailedPrecondition, "NOTHING_TO_RETRY", "nothing of run %s is left to do: what was asked for has succeeded", id)
	}
	return undone, nil
}

// retryRun begins a run that does scopes of another again, or all when there
// are none. The job is locked.
func (tx *transaction) retryRun(ctx context.Context, of *run, id, by string, wanted []*scanv1.Scope) (*runv1.Run, error) {
	t, err := of.trigger()
	if err != nil {
		return nil, err
	}
	t.RunId, t.Cause, t.RequestedBy, t.RetryOf, t.FireTime = id, jobv1.Cause_CAUSE_RETRY, by, of.ID, timestamppb.New(tx.now)
	t.OverlapPolicy, t.Missed = jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW, nil
	r, err := tx.newRun(t)
	if err != nil {
		return nil, err
	}
	if len(wanted) > 0 {
		if r.Wanted, err = proto.Marshal(&runv1.RetryRunRequest{Id: of.ID, Scopes: wanted}); err != nil {
			return nil, err
		}
	}
	attributes := map[string]string{"retry": id}
	if by != "" {
		attributes["requested_by"] = by
	}
	tx.note(entry{
		Level: systemlogv1.Level_LEVEL_INFO, Event: "run_retried", Service: of.Kind, Job: of.Job, RunID: of.ID,
		Message: fmt.Sprintf("%s asked to do again what run %s left undone, as %s.", cmp.Or(by, "Somebody"), of.ID, id), Attributes: attributes,
	})
	shown, err := tx.begin(ctx, r, t)
	if err != nil {
		return nil, err
	}
	// The workers hear of it like of one that waited.
	return shown, tx.requestRun(ctx, r, entry{
		Level: systemlogv1.Level_LEVEL_INFO, Message: fmt.Sprintf("Run %s was handed to the workers.", r.ID), Attributes: r.attributes(),
	})
}
