package app

import (
	"context"
	"log/slog"

	"google.golang.org/protobuf/proto"

	"nightshift.dev/pkg/auth"
)

// call is what is known of a call before it is answered.
type call struct {
	principal auth.Principal
	// method is the full one without leading slash.
	method      string
	peer, agent string
	request     proto.Message // nil when the call was denied before it was read
}

// auditor writes the audit log of one service.
type auditor struct {
	service string
	log     *slog.Logger
}

// begin says that a call that changes something begins. The call must not go
// on when it returns an error. end says how the call ended.
func (a *auditor) begin(ctx context.Context, c call) (_ context.Context, end func(err error), err error) {
	return ctx, func(error) {}, nil
}

// denied says that a call was not allowed.
func (a *auditor) denied(ctx context.Context, c call, err error) {}

// Before tells the audit log what is about to be changed, as it is. A handler
// of a method that changes something calls it when it knows; outside of such
// a call it does nothing.
func Before(ctx context.Context, m proto.Message) {}

// After tells the audit log what was changed, as it is now; nil says that
// nothing is left.
func After(ctx context.Context, m proto.Message) {}
