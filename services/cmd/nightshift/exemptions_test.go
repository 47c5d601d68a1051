package main

import (
	"context"
	"strings"
	"testing"
	"time"

	exemptionv1 "nightshift.dev/gen/nightshift/exemption/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	"nightshift.dev/pkg/errs"
)

func (f *fake) exemption(id string) (*exemptionv1.Exemption, error) {
	if id != "e1" {
		return nil, errs.New(errs.NotFound, "EXEMPTION_NOT_FOUND", "there is no exemption %s", id)
	}
	return &exemptionv1.Exemption{Id: id, Filter: `tags.a = "` + hostile + `"`, By: hostile, Reason: hostile, ExpireTime: at, CreateTime: at, Findings: 2}, nil
}

func (f *fake) ListExemptions(context.Context, *exemptionv1.ListExemptionsRequest) (*exemptionv1.ListExemptionsResponse, error) {
	x, err := f.exemption("e1")
	return &exemptionv1.ListExemptionsResponse{Exemptions: []*exemptionv1.Exemption{x}}, err
}

func (f *fake) GetExemption(_ context.Context, r *exemptionv1.GetExemptionRequest) (*exemptionv1.GetExemptionResponse, error) {
	x, err := f.exemption(r.GetId())
	return &exemptionv1.GetExemptionResponse{Exemption: x}, err
}

func (f *fake) CreateExemption(_ context.Context, r *exemptionv1.CreateExemptionRequest) (*exemptionv1.CreateExemptionResponse, error) {
	f.got(r)
	return &exemptionv1.CreateExemptionResponse{Exemption: r.GetExemption()}, nil
}

func (f *fake) UpdateExemption(_ context.Context, r *exemptionv1.UpdateExemptionRequest) (*exemptionv1.UpdateExemptionResponse, error) {
	f.got(r)
	x, err := f.exemption(r.GetExemption().GetId())
	return &exemptionv1.UpdateExemptionResponse{Exemption: x}, err
}

func (f *fake) DeleteExemption(_ context.Context, r *exemptionv1.DeleteExemptionRequest) (*exemptionv1.DeleteExemptionResponse, error) {
	f.got(r)
	return &exemptionv1.DeleteExemptionResponse{}, nil
}

func TestExemptionsAreWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	f, env := serve(t, 0)
	r := execute(t, env, "exemptions", "add", "--rule", "a,b", "--account", "123456789012", "--region", "eu-west-1", "--resource", "i-1,arn:aws:x", "--tag", `k"=v\=w`, "--tag", "e=",
		"--owner", "ops", "--filter", "x = 1 OR y = 2", "--by", "ana", "--reason", "why", "--until", "2027-03-31", "-o", "json")
	x := f.requests[0].(*exemptionv1.CreateExemptionRequest)
	want := `(rule_id = "a" OR rule_id = "b") AND (account = "123456789012") AND (region = "eu-west-1") AND (owner = "ops") AND ` +
		`(resource_id = "i-1" OR resource_arn = "arn:aws:x") AND tags."k\"" = "v\\=w" AND tags."e" = "" AND (x = 1 OR y = 2)`
	if got := x.GetExemption(); r.code != 0 || got.GetFilter() != want || got.GetBy() != "ana" || got.GetReason() != "why" || x.GetValidateOnly() {
		t.Errorf("code %d, asked for %v, want %s\n%s", r.code, x, want, r.err)
	}
	if end := x.GetExemption().GetExpireTime().AsTime(); !end.Equal(time.Date(2027, 4, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("it ends %v, want it to last through the day", end)
	}

	f.requests = nil
	r = execute(t, env, "exemptions", "add", "--rule", "a", "--reason", "why", "--until", "2w", "--dry-run")
	if len(f.requests) < 2 || !f.requests[0].(*exemptionv1.CreateExemptionRequest).GetValidateOnly() {
		t.Fatalf("code %d, asked for %v", r.code, f.requests)
	}
	if got := f.requests[1].(*findingv1.ListFindingsRequest).GetFilter(); got != `state != "RESOLVED" AND state != "EXEMPT" AND (rule_id = "a")` || !strings.Contains(r.err, "would be exempt") {
		t.Errorf("listed %s, said %s", got, r.err)
	}

	f.requests = nil
	execute(t, env, "exemptions", "update", "e1", "--until", "2027-01-01T12:00:00Z", "--etag", "7")
	u := f.requests[0].(*exemptionv1.UpdateExemptionRequest)
	if p := u.GetUpdateMask().GetPaths(); len(p) != 1 || p[0] != "expire_time" || u.GetExemption().GetEtag() != "7" || !u.GetExemption().GetExpireTime().AsTime().Equal(time.Date(2027, 1, 1, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("asked for %v", u)
	}
	f.requests = nil
	if r := execute(t, env, "exemptions", "remove", "e1"); r.code != 0 || f.requests[0].(*exemptionv1.DeleteExemptionRequest).GetId() != "e1" {
		t.Errorf("code %d, asked for %v", r.code, f.requests)
	}

	f.requests = nil
	execute(t, env, "findings", "list", "--state", "all", "--fail-on", "low", "-o", "json")
	if got := f.requests[len(f.requests)-1].(*findingv1.ListFindingsRequest).GetFilter(); got != `state != "EXEMPT" AND severity >= "LOW"` {
		t.Errorf("--fail-on asks for %s", got)
	}
}

func TestUntil(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	c := &cli{now: func() time.Time { return now }}
	for s, want := range map[string]time.Time{
		"2026-05-31": time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), "90d": now.AddDate(0, 0, 90), "12w": now.AddDate(0, 0, 84), "36h": now.Add(36 * time.Hour),
		"2026-06-01T12:00:00+02:00": time.Date(2026, 6, 1, 10, 0, 0, 0, time.UTC),
		"":                          {}, "d": {}, "0": {}, "-1h": {}, "-3d": {}, "2026-02-30": {}, "99999d": {}, "tomorrow": {}, "1.5d": {},
	} {
		got, err := c.until(s)
		if (err != nil) != want.IsZero() || err == nil && !got.AsTime().Equal(want) {
			t.Errorf("%q is %v (%v), want %v", s, got, err, want)
		}
	}
	if got := exemptUntil(nil); got != "" {
		t.Errorf("no exemption ends %q", got)
	}
}
