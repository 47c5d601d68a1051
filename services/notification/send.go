package notification

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/notify"
)

const (
	// hands is how many deliveries a replica tries at a time; the queue sees to it that one receiver does not have all of them.
	hands = 32
	// attemptTime is how long an attempt may take; one that does not end by itself is left to itself a little later.
	attemptTime = 10 * time.Second
	graceTime   = 2 * time.Second
	// deliveryLease outlasts an attempt and saying how it went.
	deliveryLease = time.Minute
	// A delivery is given up after that many attempts and that much time: one that had to wait for its receiver gets its attempts, too.
	leastAttempts = 5
	longestTrying = 24 * time.Hour
	firstRetry    = 30 * time.Second
	longestRetry  = time.Hour
)

// deliver tries every delivery whose time has come, as many at a time as there
// are hands, until nothing is due and nothing is being tried; it says when the
// next one is due. At the end of ctx it finishes what is in hand.
func (s *Service) deliver(ctx context.Context) (next time.Time, err error) {
	var trying sync.WaitGroup
	defer trying.Wait()
	var busy atomic.Int32
	for ctx.Err() == nil {
		taken := 0
		if free := hands - busy.Load(); free > 0 {
			resp, err := s.queue.ClaimDeliveries(ctx, &notificationv1.ClaimDeliveriesRequest{Limit: free, Lease: durationpb.New(deliveryLease)})
			if err != nil {
				return next, err
			}
			taken, next = len(resp.GetDeliveries()), time.Time{}
			// What is due and was not handed out waits for its receiver to have a hand free, not for a time.
			if t := resp.GetNextDueTime(); t != nil && t.AsTime().After(s.now()) {
				next = t.AsTime()
			}
			for _, d := range resp.GetDeliveries() {
				busy.Add(1)
				trying.Go(func() {
					s.try(context.WithoutCancel(ctx), d)
					busy.Add(-1)
					s.wake() // the next of its group, or the next for this hand
				})
			}
		}
		if taken == 0 {
			if busy.Load() == 0 {
				return next, nil
			}
			s.rest(ctx, s.made, next)
		}
	}
	return next, nil
}

// try makes one attempt and says how it went.
func (s *Service) try(ctx context.Context, c *notificationv1.ClaimedDelivery) {
	d := c.GetDelivery()
	attempt, failure := s.attempt(ctx, notify.Envelope{
		Receiver: c.GetReceiver(), Message: d.GetMessage(), IdempotencyKey: d.GetIdempotencyKey(), DeliveryID: d.GetId(), Attempt: int(d.GetAttempts()) + 1,
	})
	req := &notificationv1.FinishDeliveryRequest{Id: d.GetId(), LeaseId: c.GetLeaseId(), Attempt: attempt}
	if failure != nil {
		now := s.now()
		wait := max(retryAfter(int(d.GetAttempts())+1), failure.RetryAfter)
		over := int(d.GetAttempts())+1 >= leastAttempts && now.Sub(d.GetCreateTime().AsTime()) >= longestTrying
		if !failure.Permanent && !over {
			req.NextAttemptTime = timestamppb.New(now.Add(wait))
		}
		if req.ReceiverFailed = failure.Receiver; failure.RetryAfter > 0 {
			req.ReceiverRetryTime = timestamppb.New(now.Add(failure.RetryAfter))
		}
		s.log.Debug("a delivery failed", "delivery", d.GetId(), "receiver", d.GetReceiver(), "attempt", d.GetAttempts()+1, "error", failure.Detail)
	}
	// Until this is said the message would be sent again: it is worth trying for as long as the claim lasts.
	ctx, cancel := context.WithTimeout(ctx, deliveryLease-attemptTime-graceTime)
	defer cancel()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		_, err := s.queue.FinishDelivery(ctx, req)
		switch {
		case err == nil:
			return
		case errors.Is(err, errs.Aborted), errors.Is(err, errs.InvalidArgument), errors.Is(err, errs.NotFound), ctx.Err() != nil:
			s.log.Warn("how a delivery went could not be kept; it may be sent again", "delivery", d.GetId(), "receiver", d.GetReceiver(), "error", err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// retryAfter is how long to wait after so many attempts: half a minute, then
// twice as long each time up to an hour, a fifth more or less so that not all
// come at once.
func retryAfter(attempts int) time.Duration {
	wait := longestRetry
	if attempts <= 7 {
		wait = min(wait, firstRetry<<(attempts-1))
	}
	return min(longestRetry, time.Duration(float64(wait)*(0.8+0.4*rand.Float64())))
}

// attempt hands a message over, within its time whatever the receiver does.
func (s *Service) attempt(ctx context.Context, e notify.Envelope) (*notificationv1.Attempt, *notify.Failure) {
	e.Time = s.now()
	begin := time.Now()
	type result struct {
		detail string
		err    error
	}
	done := make(chan result, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, s.patience)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("sending panicked", "receiver", e.Receiver.GetName(), "delivery", e.DeliveryID, "panic", fmt.Sprint(p))
				done <- result{err: &notify.Failure{Detail: "this message made the sender fail; the log of the notification service says how"}}
			}
		}()
		detail, err := s.send(ctx, e)
		done <- result{detail, err}
	}()
	abandon := time.NewTimer(s.patience + graceTime)
	defer abandon.Stop()
	var r result
	select {
	case r = <-done:
	case <-abandon.C:
		r.err = &notify.Failure{Receiver: true, Detail: fmt.Sprintf("no answer within %s", s.patience)}
	}
	attempt := &notificationv1.Attempt{Time: timestamppb.New(e.Time), Duration: durationpb.New(time.Since(begin)), Ok: r.err == nil, Detail: r.detail}
	if r.err == nil {
		return attempt, nil
	}
	var failure *notify.Failure
	if !errors.As(r.err, &failure) {
		failure = &notify.Failure{Receiver: true, Detail: "the attempt failed"} // what it says may hold secrets
	}
	attempt.Detail = failure.Detail
	return attempt, failure
}
