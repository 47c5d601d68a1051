package scheduler

import (
	"context"

	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/page"
)

// ListDeadLetters returns dead letters, oldest first, without payloads.
func (s *Service) ListDeadLetters(ctx context.Context, req *deadletterv1.ListDeadLettersRequest) (*deadletterv1.ListDeadLettersResponse, error) {
	var after uint64
	if _, err := page.Parse(req.GetPageToken(), &after, req.GetConsumer()); err != nil {
		return nil, err
	}
	size := page.Size(req.GetPageSize())
	letters, err := s.bus.DeadLetters().List(ctx, req.GetConsumer(), after, size+1)
	if err != nil {
		return nil, err
	}
	resp := &deadletterv1.ListDeadLettersResponse{DeadLetters: letters}
	if len(letters) > size {
		resp.DeadLetters = letters[:size]
		resp.NextPageToken = page.Token(letters[size-1].GetId(), req.GetConsumer())
	}
	return resp, nil
}

// GetDeadLetter returns one dead letter with its payload.
func (s *Service) GetDeadLetter(ctx context.Context, req *deadletterv1.GetDeadLetterRequest) (*deadletterv1.GetDeadLetterResponse, error) {
	d, err := s.bus.DeadLetters().Get(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return &deadletterv1.GetDeadLetterResponse{DeadLetter: d}, nil
}

// ReplayDeadLetter hands a message to the consumer that gave it up.
func (s *Service) ReplayDeadLetter(ctx context.Context, req *deadletterv1.ReplayDeadLetterRequest) (*deadletterv1.ReplayDeadLetterResponse, error) {
	s.tellAudit(ctx, req.GetId())
	if err := s.bus.DeadLetters().Replay(ctx, req.GetId()); err != nil {
		return nil, err
	}
	return &deadletterv1.ReplayDeadLetterResponse{}, nil
}

// DeleteDeadLetter removes a dead letter for good.
func (s *Service) DeleteDeadLetter(ctx context.Context, req *deadletterv1.DeleteDeadLetterRequest) (*deadletterv1.DeleteDeadLetterResponse, error) {
	s.tellAudit(ctx, req.GetId())
	if err := s.bus.DeadLetters().Delete(ctx, req.GetId()); err != nil {
		return nil, err
	}
	return &deadletterv1.DeleteDeadLetterResponse{}, nil
}

// tellAudit says which message it is that goes. What it holds stays out: it is
// as large as messages are, and what nobody could read.
func (s *Service) tellAudit(ctx context.Context, id uint64) {
	d, err := s.bus.DeadLetters().Get(ctx, id)
	if err != nil {
		return // what is to happen to it fails by itself
	}
	d.Payload, d.PayloadJson = nil, ""
	app.Before(ctx, d)
}
