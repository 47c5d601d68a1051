package scan

import (
	"slices"

	"google.golang.org/grpc"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/aws"
)

// Scan implements ScanService: the same engine, with nothing recorded and
// nothing remembered.
func (w *Worker) Scan(req *scanv1.ScanRequest, stream grpc.ServerStreamingServer[scanv1.ScanResponse]) error {
	ctx := stream.Context()
	if _, err := w.set.pick(req.GetRules()); err != nil {
		return err
	}
	accounts, caller := req.GetAccounts(), auth.From(ctx)
	if len(accounts) == 0 {
		accounts = caller.Accounts
	}
	for _, a := range accounts {
		if err := caller.Require(a); err != nil {
			return err
		}
	}
	planned, err := w.planner().Plan(ctx, accounts, req.GetRegions(), "nightshift-dry-run")
	if err != nil {
		return err
	}
	outcomes := req.GetOutcomes()
	if len(outcomes) == 0 {
		outcomes = []rulev1.Outcome{rulev1.Outcome_OUTCOME_VIOLATION}
	}
	var (
		targets []Target
		sendErr error
	)
	send := func(r *scanv1.ScanResponse) {
		if sendErr == nil {
			sendErr = stream.Send(r)
		}
	}
	for _, p := range planned {
		if p.GetFailure() != nil {
			send(&scanv1.ScanResponse{Event: &scanv1.ScanResponse_Result{Result: &scanv1.ScopeResult{
				Scope: p.GetScope(), Coverage: []*scanv1.Coverage{p.GetFailure()}, Error: p.GetFailure().GetError(),
			}}})
			continue
		}
		targets = append(targets, Target{Region: p.GetScope().GetRegion(), Target: aws.Target{
			Account: p.GetScope().GetAccount(), Partition: p.GetPartition(), RoleARN: p.GetRoleArn(), ExternalID: p.GetExternalId(),
			SessionName: "nightshift-dry-run",
		}})
	}
	err = Run(ctx, w.cloud, targets, w.set, Options{
		Rules: req.GetRules(), Settings: w.settings, Prices: w.prices, At: w.now(), Scopes: w.scopes, Log: w.log,
	}, Sink{
		Judged: func(j *Judgement) error {
			if slices.Contains(outcomes, rulev1.Outcome(j.Verdict.Outcome)) {
				send(&scanv1.ScanResponse{Event: &scanv1.ScanResponse_Observation{Observation: j.Observation()}})
			}
			return sendErr
		},
		Progress: func(s *scanv1.Scope, p *scanv1.Progress) {
			send(&scanv1.ScanResponse{Event: &scanv1.ScanResponse_Progress{Progress: &scanv1.ScopeProgress{Scope: s, Progress: p}}})
		},
		Finished: func(r *scanv1.ScopeResult) {
			send(&scanv1.ScanResponse{Event: &scanv1.ScanResponse_Result{Result: r}})
		},
	})
	if sendErr != nil {
		return sendErr
	}
	return err
}
