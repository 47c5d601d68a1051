package health

import (
	"context"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
)

// ListComponents implements HealthService.
func (s *Service) ListComponents(ctx context.Context, _ *healthv1.ListComponentsRequest) (*healthv1.ListComponentsResponse, error) {
	known, err := s.ask(ctx) // another replica may have looked since
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.book.adopt(known)
	}
	return &healthv1.ListComponentsResponse{Components: s.book.show(s.now(), s.lapse()), Recorded: err == nil && s.recorded}, nil
}

// ListComponentTransitions implements HealthService.
func (s *Service) ListComponentTransitions(ctx context.Context, req *healthv1.ListComponentTransitionsRequest) (*healthv1.ListComponentTransitionsResponse, error) {
	r, err := s.states.ListRecordedTransitions(ctx, &healthv1.ListRecordedTransitionsRequest{
		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(), Filter: req.GetFilter(),
	})
	if err != nil {
		return nil, err
	}
	return &healthv1.ListComponentTransitionsResponse{Transitions: r.GetTransitions(), NextPageToken: r.GetNextPageToken()}, nil
}

// CheckComponents implements HealthService.
func (s *Service) CheckComponents(ctx context.Context, _ *healthv1.CheckComponentsRequest) (*healthv1.CheckComponentsResponse, error) {
	s.look(ctx, s.now())
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &healthv1.CheckComponentsResponse{Components: s.book.show(s.now(), s.lapse()), Recorded: s.recorded}, nil
}
