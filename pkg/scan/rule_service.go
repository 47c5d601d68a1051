package scan

import (
	"context"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/rule"
)

// Rules returns the rules as the API shows them, ordered by id, with the
// parameters in force in an account; an empty account has none of its own.
func (s *Set) Rules(in *Settings, account string) []*rulev1.Rule {
	out := make([]*rulev1.Rule, len(s.rules))
	for i, e := range s.rules {
		out[i] = e.proto(in.For(account, e.meta.ID))
	}
	return out
}

func (e *entry) proto(in rule.Params) *rulev1.Rule {
	r := &rulev1.Rule{
		Id: e.meta.ID, Version: int32(e.meta.Version), Category: rulev1.Category(e.meta.Category), ResourceType: e.meta.ResourceType,
		Title: e.meta.Title, Why: e.meta.Why, Fix: e.meta.Fix, Severity: e.meta.Severity, Citations: e.meta.Citations, Actions: e.actions,
	}
	for _, p := range e.meta.Params {
		d := &rulev1.Parameter{
			Name: p.Name, Description: p.Description, Unit: p.Unit, Type: p.Type(),
			DefaultValue: value(p.Default), Value: value(in[p.Name]),
		}
		if p.Min != 0 || p.Max != 0 {
			d.Min, d.Max = new(p.Min), new(p.Max)
		}
		r.Parameters = append(r.Parameters, d)
	}
	for _, x := range e.examples() {
		r.Examples = append(r.Examples, &rulev1.Example{Name: x.Name, Verdict: Verdict(x.Verdict)})
	}
	return r
}

// mayAsk refuses an account that is none of the caller's; empty is none at all.
func mayAsk(ctx context.Context, account string) error {
	if account == "" {
		return nil
	}
	return auth.From(ctx).Require(account)
}

// ListRules implements RuleService.
func (w *Worker) ListRules(ctx context.Context, req *rulev1.ListRulesRequest) (*rulev1.ListRulesResponse, error) {
	if err := mayAsk(ctx, req.GetAccount()); err != nil {
		return nil, err
	}
	return &rulev1.ListRulesResponse{Rules: w.set.Rules(w.settings, req.GetAccount())}, nil
}

// GetRule implements RuleService.
func (w *Worker) GetRule(ctx context.Context, req *rulev1.GetRuleRequest) (*rulev1.GetRuleResponse, error) {
	if err := mayAsk(ctx, req.GetAccount()); err != nil {
		return nil, err
	}
	for _, e := range w.set.rules {
		if e.meta.ID == req.GetId() {
			return &rulev1.GetRuleResponse{Rule: e.proto(w.settings.For(req.GetAccount(), e.meta.ID))}, nil
		}
	}
	return nil, errs.New(errs.NotFound, "RULE_UNKNOWN", "%s has no rule %q", w.set.Service(), req.GetId())
}
