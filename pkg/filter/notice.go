package filter

import (
	"strings"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
)

// Notices are what routes and silences of notifications can ask of an event.
var Notices = Fields{
	"event": {Kind: Text, Values: map[string]int64{
		"FindingOpened": 1, "FindingChanged": 2, "FindingResolved": 3, "FindingReopened": 4, "FindingExempted": 5, "FindingOrphaned": 6,
		"FindingReclaimed": 7, "FindingAcknowledged": 8, "FindingUnacknowledged": 9, "FindingAssigned": 10, "FindingCommented": 11,
		"FindingsHeld": 12, "RunAlertRaised": 13, "ComponentChanged": 14,
	}},
	"category":         {Kind: Enum, Values: Values(rulev1.Category(0))},
	"severity":         {Kind: Rank, Values: Values(rulev1.Severity(0))},
	"rule_id":          {Kind: Text},
	"account":          {Kind: Text},
	"region":           {Kind: Text},
	"owner":            {Kind: Text},
	"monthly_cost":     {Kind: Number},
	"monthly_cost_low": {Kind: Number},
	"resource_type":    {Kind: Text},
	"resource_id":      {Kind: Text},
	"resource_name":    {Kind: Text},
	"title":            {Kind: Text},
	"state":            {Kind: Enum, Values: Values(findingv1.State(0))},
	"acknowledged":     {Kind: Enum, Values: map[string]int64{"FALSE": 0, "TRUE": 1}},
	"tags":             {Kind: Map},
	"cause":            {Kind: Enum, Values: Values(findingv1.Cause(0))},
	"job":              {Kind: Text},
	"kind":             {Kind: Text},
	"run_state":        {Kind: Enum, Values: Values(runv1.RunState(0))},
	"component":        {Kind: Text},
	"component_state":  {Kind: Enum, Values: Values(healthv1.ComponentState(0))},
}

// Notice tells the fields of an event, for Match. What the event does not have
// is unknown.
func Notice(n *notificationv1.Notice) func(name string) any {
	return func(name string) any {
		if key, ok := strings.CutPrefix(name, "tags."); ok {
			if v, ok := n.GetFinding().GetResource().GetTags()[key]; ok {
				return v
			}
			return nil
		}
		if name == "event" {
			return n.GetEvent()
		}
		switch {
		case n.GetFinding() != nil:
			return ofFinding(n, name)
		case n.GetRun() != nil:
			switch name {
			case "job":
				return n.GetRun().GetJob()
			case "kind":
				return n.GetRun().GetKind()
			case "run_state":
				return int64(n.GetRun().GetState())
			}
		case n.GetHold() != nil:
			if name == "account" {
				return n.GetHold().GetAccount()
			}
		case n.GetComponent() != nil:
			component := n.GetComponent().GetName()
			switch name {
			case "component":
				return component
			case "component_state":
				return int64(n.GetComponent().GetState())
			case "account":
				if account, ok := strings.CutPrefix(component, "account/"); ok {
					return account
				}
			}
		}
		return nil
	}
}

func ofFinding(n *notificationv1.Notice, name string) any {
	f := n.GetFinding()
	switch name {
	case "category":
		return int64(f.GetCategory())
	case "severity":
		return int64(f.GetSeverity())
	case "rule_id":
		return f.GetRuleId()
	case "account":
		return f.GetResource().GetAccount()
	case "region":
		return f.GetResource().GetRegion()
	case "owner":
		return f.GetOwner()
	case "monthly_cost":
		if c := f.GetMonthlyCost(); c != nil {
			return c.GetHigh()
		}
	case "monthly_cost_low":
		if c := f.GetMonthlyCost(); c != nil {
			return c.GetLow()
		}
	case "resource_type":
		return f.GetResource().GetType()
	case "resource_id":
		return f.GetResource().GetId()
	case "resource_name":
		return f.GetResource().GetName()
	case "title":
		return f.GetTitle()
	case "state":
		return int64(f.GetState())
	case "acknowledged":
		if f.GetAcknowledgement() != nil {
			return int64(1)
		}
		return int64(0)
	case "cause":
		if n.GetTransition() != nil {
			return int64(n.GetTransition().GetCause())
		}
	}
	return nil
}
