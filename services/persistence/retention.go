package persistence

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
)

const (
	// retentionRows is how many rows one transaction removes unless what belongs
	// together is more.
	retentionRows = 5000
	// retentionGrace is how old a thing is at least before it goes, whatever the
	// caller says: what is being worked on is younger.
	retentionGrace = time.Hour
)

// retention is what is to be removed: things of a kind from before a time.
type retention struct {
	before time.Time
	keep   int32
	limit  int
}

// retained is how one kind of thing is removed. What goes and what stays is
// said once, for the preview and for the removal.
type retained struct {
	// noun is what is counted, in one and in many.
	noun, nouns string
	// candidates selects everything from before the time, as rows of time and
	// why: why it stays, or nothing when it goes. ?0 is before, ?1 is keep.
	candidates string
	// remove removes the oldest of those that go.
	remove func(ctx context.Context, s *Service, r retention) (*retentionv1.ApplyRetentionResponse, error)
}

// targets are all there are; each must hold for what it removes the locks that
// whoever writes it holds.
var targets = map[retentionv1.Target]*retained{
	retentionv1.Target_TARGET_SYSTEM_LOG:  {noun: "entry of the system log", nouns: "entries of the system log", candidates: oldEntries, remove: removeEntries},
	retentionv1.Target_TARGET_RUNS:        {noun: "run", nouns: "runs", candidates: oldRuns, remove: removeRuns},
	retentionv1.Target_TARGET_FINDINGS:    {noun: "resolved finding", nouns: "resolved findings", candidates: oldFindings, remove: removeFindings},
	retentionv1.Target_TARGET_SIGHTINGS:   {noun: "sighting or listing", nouns: "sightings and listings", candidates: oldSightings, remove: removeSightings},
	retentionv1.Target_TARGET_METRICS:     {noun: "figure of a day", nouns: "figures of days", candidates: oldMetrics, remove: removeMetrics},
	retentionv1.Target_TARGET_EXEMPTIONS:  {noun: "expired exemption", nouns: "expired exemptions", candidates: oldExemptions, remove: removeExemptions},
	retentionv1.Target_TARGET_OUTBOX:      {noun: "message that cannot be published", nouns: "messages that cannot be published", candidates: oldMessages, remove: removeMessages},
	retentionv1.Target_TARGET_ONBOARDINGS: {noun: "onboarding", nouns: "onboardings", candidates: oldOnboardings, remove: removeOnboardings},
	retentionv1.Target_TARGET_ORPHANS:     {noun: "finding that no scan looks at any more", nouns: "findings that no scan looks at any more", candidates: newOrphans, remove: markOrphans},
	retentionv1.Target_TARGET_NOTICES:     {noun: "event that was told", nouns: "events that were told", candidates: oldNotices, remove: removeNotices},
	retentionv1.Target_TARGET_DELIVERIES:  {noun: "delivery", nouns: "deliveries", candidates: oldDeliveries, remove: removeDeliveries},
	retentionv1.Target_TARGET_SILENCES:    {noun: "expired silence", nouns: "expired silences", candidates: oldSilences, remove: removeSilences},
}

// retentionOf checks what a request says.
func (s *Service) retentionOf(target retentionv1.Target, before *timestamppb.Timestamp, keep, limit int32) (*retained, retention, error) {
	e := errs.New(errs.InvalidArgument, "BAD_RETENTION", "the request cannot be used")
	t := targets[target]
	if t == nil {
		e.Field("target", "is %d, which is no target", target)
	}
	latest := s.now().UTC().Add(-retentionGrace)
	r := retention{keep: keep, limit: int(limit)}
	switch {
	case before == nil && target == retentionv1.Target_TARGET_ORPHANS:
	case before == nil:
		e.Field("before_time", "is missing; say from before when things go")
	case !before.IsValid():
		e.Field("before_time", "is no time between the years 1 and 9999")
	case before.AsTime().After(latest):
		e.Field("before_time", "is %s; must be at least %s ago, so that nothing goes that is being worked on", before.AsTime().Format(time.RFC3339), retentionGrace)
	default:
		r.before = micros(before.AsTime())
	}
	if keep < 0 || keep > 10_000 {
		e.Field("keep", "is %d; must be 0 to 10000", keep)
	} else if keep > 0 && target != retentionv1.Target_TARGET_RUNS {
		e.Field("keep", "is only for RUNS; leave it 0")
	}
	if limit < 0 || limit > retentionRows {
		e.Field("limit", "is %d; must be 0 to %d", limit, retentionRows)
	}
	r.limit = cmp.Or(r.limit, retentionRows)
	if len(e.Violations()) > 0 {
		return nil, r, e
	}
	return t, r, nil
}

// PreviewRetention implements RetentionService.
func (s *Service) PreviewRetention(ctx context.Context, req *retentionv1.PreviewRetentionRequest) (*retentionv1.PreviewRetentionResponse, error) {
	t, r, err := s.retentionOf(req.GetTarget(), req.GetBeforeTime(), req.GetKeep(), 0)
	if err != nil {
		return nil, err
	}
	p := &retentionv1.Preview{Target: req.GetTarget(), BeforeTime: req.GetBeforeTime()}
	err = s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		p.Count, p.OldestTime, p.Retained = 0, nil, nil
		// All that is old enough is gone through, and perhaps much that is not.
		if _, err := tx.NewRaw("SET TRANSACTION READ ONLY").Exec(ctx); err != nil {
			return err
		}
		if _, err := tx.NewRaw("SET LOCAL statement_timeout = '5min'").Exec(ctx); err != nil {
			return err
		}
		var rows []struct {
			Why    string
			Count  int64
			Oldest time.Time
		}
		err := tx.NewRaw("SELECT why, count(*) AS count, min(time) AS oldest FROM ("+t.candidates+") c GROUP BY why ORDER BY count DESC, why", r.before, r.keep).Scan(ctx, &rows)
		for _, row := range rows {
			if row.Why == "" {
				p.Count, p.OldestTime = row.Count, timestamppb.New(row.Oldest)
				continue
			}
			p.Retained = append(p.Retained, &retentionv1.Retained{Reason: row.Why, Count: row.Count})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &retentionv1.PreviewRetentionResponse{Preview: p}, nil
}

// ApplyRetention implements RetentionService.
func (s *Service) ApplyRetention(ctx context.Context, req *retentionv1.ApplyRetentionRequest) (*retentionv1.ApplyRetentionResponse, error) {
	t, r, err := s.retentionOf(req.GetTarget(), req.GetBeforeTime(), req.GetKeep(), req.GetLimit())
	if err != nil {
		return nil, err
	}
	return t.remove(ctx, s, r)
}

// ReportRetention implements RetentionService.
func (s *Service) ReportRetention(ctx context.Context, req *retentionv1.ReportRetentionRequest) (*retentionv1.ReportRetentionResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	t := targets[req.GetTarget()]
	if t == nil {
		return nil, errs.New(errs.InvalidArgument, "BAD_RETENTION", "the report cannot be kept").Field("target", "is %d, which is no target", req.GetTarget())
	}
	before := timeOf(req.GetBeforeTime())
	if before == nil && req.GetTarget() != retentionv1.Target_TARGET_ORPHANS {
		return nil, errs.New(errs.InvalidArgument, "BAD_RETENTION", "the report cannot be kept").Field("before_time", "is missing or no time")
	}
	e := entry{Level: systemlogv1.Level_LEVEL_INFO, Event: "retention_applied", Service: "cleanup", Job: req.GetJob(), RunID: req.GetRunId(), Attributes: map[string]string{
		"target": strings.ToLower(strings.TrimPrefix(req.GetTarget().String(), "TARGET_")),
		"count":  strconv.FormatInt(req.GetCount(), 10), "rows": strconv.FormatInt(req.GetRows(), 10), "batches": strconv.FormatInt(req.GetBatches(), 10),
	}}
	if before != nil {
		e.Attributes["before_time"] = before.Format(time.RFC3339)
	}
	e.Message = t.report(req, before)
	for _, k := range req.GetRetained() {
		e.Attributes["kept: "+k.GetReason()] = strconv.FormatInt(k.GetCount(), 10)
	}
	if req.GetDryRun() {
		e.Event = "retention_previewed"
	}
	err := s.inTx(ctx, func(_ context.Context, tx *transaction) error {
		tx.note(e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &retentionv1.ReportRetentionResponse{}, nil
}

// report is one sentence about what was done.
func (t *retained) report(req *retentionv1.ReportRetentionRequest, before *time.Time) string {
	what := fmt.Sprintf("%d %s", req.GetCount(), t.nouns)
	if req.GetCount() == 1 {
		what = "1 " + t.noun
	}
	done := "Removed"
	switch {
	case before == nil && req.GetDryRun():
		done = "Would mark"
	case before == nil:
		done = "Marked"
	case req.GetDryRun():
		done = "Would remove"
	}
	text := done + " " + what
	if before != nil {
		text += " from before " + before.Format("2006-01-02 15:04")
	}
	if req.GetRows() > req.GetCount() {
		text += fmt.Sprintf(", %d rows with what belongs to them", req.GetRows())
	}
	if n := req.GetPartitions(); n > 0 {
		text += fmt.Sprintf(", %s dropped whole", count(int(n), "month"))
	}
	if n := req.GetReclaimed(); n > 0 {
		text += fmt.Sprintf("; %s no more, since scans look at them again", count(int(n), "is one"))
	}
	for i, k := range req.GetRetained() {
		text += fmt.Sprintf("%s %d because %s", map[bool]string{true: "; kept", false: ","}[i == 0], k.GetCount(), k.GetReason())
	}
	return text + "."
}
