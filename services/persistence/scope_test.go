package persistence

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

// streamed collects what a handler streams.
type streamed[T any] struct {
	grpc.ServerStream
	ctx  context.Context
	sent []*T
}

func (s *streamed[T]) Context() context.Context { return s.ctx }
func (s *streamed[T]) Send(m *T) error          { s.sent = append(s.sent, m); return nil }

func scopeState(t testing.TB, s *Service, rules ...string) (ids []string, sightings []string) {
	t.Helper()
	stream := &streamed[scanv1.ListScopeStateResponse]{ctx: t.Context()}
	if err := s.ListScopeState(&scanv1.ListScopeStateRequest{Scope: here, Rules: rules}, stream); err != nil {
		t.Fatal(err)
	}
	for _, m := range stream.sent {
		ids = append(ids, m.GetOpenFindingIds()...)
		for _, g := range m.GetSightings() {
			before := "never"
			if g.GetBefore() != nil {
				before = g.GetBefore().AsTime().Format("15h")
			}
			sightings = append(sightings, strings.TrimPrefix(g.GetArn(), "arn:")+" "+g.GetState()+" since "+g.GetFirstSeen().AsTime().Format("15h")+", not at "+before)
		}
	}
	slices.Sort(sightings)
	return ids, sightings
}

func TestSightings(t *testing.T) {
	t.Parallel()
	s := service(t)
	for n, c := range []struct {
		status scanv1.CoverageStatus
		saw    string
		want   string
	}{
		{complete, "a", "a stopped since 00h, not at never"},
		{complete, "a b", "a stopped since 00h, not at never; b stopped since 01h, not at 00h"},
		{partial, "b c", "a stopped since 00h, not at never; b stopped since 01h, not at 00h; c stopped since 02h, not at 01h"},
		{complete, "c", "c stopped since 02h, not at 01h"},
		{complete, "", ""},
		{complete, "c", "c stopped since 05h, not at 04h"},
	} {
		id := "waste-scan/" + string(rune('a'+n))
		startRun(t, s, id, here)
		b := &findingv1.FindingsObserved{RunId: id, Scope: here, Execution: "1.1", Sequence: 1}
		for _, arn := range strings.Fields(c.saw) {
			b.Sightings = append(b.Sightings, &scanv1.Sighting{Arn: "arn:" + arn, ResourceType: volumeType, State: "stopped"})
		}
		observe(t, s, b)
		finishScope(t, s, finished(id, "1.1", 1, at(n), c.status))
		if _, got := scopeState(t, s); strings.Join(got, "; ") != c.want {
			t.Errorf("after scan %d: %q, want %q", n, strings.Join(got, "; "), c.want)
		}
	}
}
