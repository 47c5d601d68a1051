package cleanup

import (
	"context"
	"errors"

	cleanupv1 "nightshift.dev/gen/nightshift/cleanup/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	"nightshift.dev/pkg/errs"
)

// ListCleanupRules implements CleanupService.
func (s *Service) ListCleanupRules(_ context.Context, req *cleanupv1.ListCleanupRulesRequest) (*cleanupv1.ListCleanupRulesResponse, error) {
	o, err := s.options(req.GetParameters())
	if err != nil {
		return nil, err
	}
	resp := &cleanupv1.ListCleanupRulesResponse{}
	for i := range o.rules {
		resp.Rules = append(resp.Rules, o.rules[i].proto())
	}
	return resp, nil
}

// PreviewCleanup implements CleanupService. Where one target cannot be counted
// the others are.
func (s *Service) PreviewCleanup(ctx context.Context, req *cleanupv1.PreviewCleanupRequest) (*cleanupv1.PreviewCleanupResponse, error) {
	o, err := s.options(req.GetParameters())
	if err != nil {
		return nil, err
	}
	resp := &cleanupv1.PreviewCleanupResponse{}
	for i := range o.rules {
		r := &o.rules[i]
		row := &cleanupv1.PreviewedTarget{Rule: r.proto()}
		p, err := s.preview(ctx, r)
		if ctx.Err() != nil || errors.Is(err, errs.Unavailable) {
			return nil, err // nor can the others
		}
		if err != nil {
			row.Error = err.Error()
		}
		row.Preview = p
		resp.Targets = append(resp.Targets, row)
	}
	return resp, nil
}

// preview counts one target.
func (s *Service) preview(ctx context.Context, r *rule) (*retentionv1.Preview, error) {
	resp, err := call(ctx, s.retention.PreviewRetention, &retentionv1.PreviewRetentionRequest{Target: r.target, BeforeTime: r.before(s.now()), Keep: r.keepNewest()})
	return resp.GetPreview(), err
}
