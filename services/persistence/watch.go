package persistence

import (
	"context"
	"strings"
	"time"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

const (
	// watchBatch is how many transitions a watch reads at a time.
	watchBatch = 200
	// signOfLife is how often a watch says something though nothing happens.
	signOfLife = 15 * time.Second
)

// WatchFindings implements FindingService. A resume token holds the sequence
// number of the last transition looked at, whether the filter let it through
// or not. Numbers rise in the order in which transitions become visible, so
// that nothing before a token is yet to come.
func (s *Service) WatchFindings(req *findingv1.WatchFindingsRequest, stream findingv1.FindingService_WatchFindingsServer) error {
	ctx := stream.Context()
	caller := auth.From(ctx)
	where, err := findingFields.parse(req.GetFilter())
	if err != nil {
		return err
	}
	wake, cancel := s.wakeup.subscribe(topicTransitions)
	defer cancel()
	position, err := s.watchFrom(ctx, req)
	if err != nil {
		return err
	}
	// The first response tells where the watch begins, before anything happens.
	if err := stream.Send(&findingv1.WatchFindingsResponse{ResumeToken: watchToken(position)}); err != nil {
		return err
	}
	life := time.NewTicker(signOfLife)
	defer life.Stop()
	for {
		var rows []*transition
		err := s.bun.NewSelect().Model(&rows).Where("t.seq > ?", position).Order("t.seq").Limit(watchBatch).Scan(ctx)
		if err != nil {
			return fault(err)
		}
		for _, row := range rows {
			c, err := row.decode()
			if err != nil {
				return err
			}
			position = row.Seq
			if !caller.Sees(c.finding.GetResource().GetAccount()) || !where.match(func(name string) any { return valueOf(c.finding, name) }) {
				continue
			}
			if err := stream.Send(&findingv1.WatchFindingsResponse{Finding: c.finding, Transition: c.transition, ResumeToken: watchToken(position)}); err != nil {
				return err
			}
		}
		if len(rows) == watchBatch && ctx.Err() == nil {
			continue
		}
		select {
		case <-wake:
		case <-life.C:
			if err := stream.Send(&findingv1.WatchFindingsResponse{ResumeToken: watchToken(position)}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return stopped()
		}
	}
}

func watchToken(position int64) string { return page.Token(position, "watch") }

// watchFrom is the sequence number after which to begin.
func (s *Service) watchFrom(ctx context.Context, req *findingv1.WatchFindingsRequest) (int64, error) {
	db, err := s.db(ctx)
	if err != nil {
		return 0, err
	}
	var position int64
	resume, err := page.Parse(req.GetResumeToken(), &position, "watch")
	if err != nil || position < 0 {
		return 0, errs.New(errs.InvalidArgument, "BAD_RESUME_TOKEN", "the watch cannot go on").
			Field("resume_token", "is not a token this service gave; take resume_token of the last response as it came, or leave it empty to watch from now on")
	}
	var kept struct {
		First, Last int64
		Here        bool
	}
	err = db.NewRaw(`
		SELECT coalesce((SELECT min(seq) FROM transitions), 0) AS first, coalesce((SELECT max(seq) FROM transitions), 0) AS last,
			EXISTS (SELECT FROM transitions WHERE seq = ?) AS here`, position).Scan(ctx, &kept)
	switch {
	case err != nil:
		return 0, fault(err)
	case !resume && req.GetFromStart():
		return 0, nil
	case !resume:
		return kept.Last, nil
	case position == 0, kept.Here: // 0 is where a watch begins before the first transition
		return position, nil
	case position > kept.Last:
		return 0, errs.New(errs.OutOfRange, "RESUME_TOKEN_AHEAD", "the resume token is from another database, or from before this one was restored: it is ahead of all transitions there are; leave it empty, or set from_start")
	default:
		return 0, errs.New(errs.OutOfRange, "RESUME_TOKEN_TOO_OLD", "transitions after the resume token are not kept any more; list the findings and watch without a token")
	}
}

// valueOf is a field of a finding as the filter asks for it, nil when unset.
// It is the counterpart of the columns in findingFields.
func valueOf(f *findingv1.Finding, name string) any {
	moment := func(t interface {
		AsTime() time.Time
		IsValid() bool
	}) any {
		if !t.IsValid() {
			return nil
		}
		return micros(t.AsTime())
	}
	r := f.GetResource()
	if key, ok := strings.CutPrefix(name, "tags."); ok {
		if v, ok := cleanTags(r.GetTags())[key]; ok {
			return v
		}
		return nil
	}
	switch name {
	case "id":
		return f.GetId()
	case "rule_id":
		return f.GetRuleId()
	case "category":
		return int64(f.GetCategory())
	case "state":
		return int64(f.GetState())
	case "severity":
		return int64(f.GetSeverity())
	case "account":
		return clean(r.GetAccount())
	case "region":
		return clean(r.GetRegion())
	case "resource_id":
		return clean(r.GetId())
	case "resource_arn":
		return clean(r.GetArn())
	case "resource_type":
		return clean(r.GetType())
	case "resource_name":
		return clean(r.GetName())
	case "owner":
		return f.GetOwner()
	case "assignee":
		return f.GetAssignee()
	case "acknowledged":
		if f.GetAcknowledgement() != nil {
			return int64(1)
		}
		return int64(0)
	case "reopen_count":
		return int64(f.GetReopenCount())
	case "title":
		return f.GetTitle()
	case "last_run_id":
		return f.GetLastRunId()
	case "monthly_cost":
		if f.GetMonthlyCost() == nil {
			return nil
		}
		return f.GetMonthlyCost().GetHigh()
	case "monthly_cost_low":
		if f.GetMonthlyCost() == nil {
			return nil
		}
		return f.GetMonthlyCost().GetLow()
	case "first_seen":
		return moment(f.GetFirstSeen())
	case "last_seen":
		return moment(f.GetLastSeen())
	case "since":
		return moment(f.GetSince())
	case "orphan_time":
		return moment(f.GetOrphanTime())
	default: // resolve_time
		return moment(f.GetResolveTime())
	}
}
