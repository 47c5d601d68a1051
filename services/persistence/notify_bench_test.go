package persistence

import (
	"fmt"
	"strings"
	"testing"
	"time"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

// BenchmarkStorm is a first scan of a big estate: 50,000 findings open at once
// and are told by two routes, one of which has one group and the other a group
// for each account. It says how long it takes to add them, to add them again,
// to claim all groups, and to flush them.
func BenchmarkStorm(b *testing.B) {
	const findings, accounts, batch = 50_000, 50, 1000
	for b.Loop() {
		b.StopTimer()
		s, _ := durable(b)
		oncall(b, s)
		setRoute(b, s, &notificationv1.Route{Name: "accounts", Receivers: []string{"oncall"}})
		when := time.Now().Add(-time.Minute)
		var batches [][]*notificationv1.GroupedNotice
		for i := 0; i < findings; {
			var notices []*notificationv1.GroupedNotice
			for len(notices) < batch {
				account := fmt.Sprintf("%012d", i%accounts)
				f := &findingv1.Finding{
					Id: fmt.Sprintf("%032x", i), RuleId: fmt.Sprintf("rule-%d", i%20), Category: rulev1.Category_CATEGORY_WASTE, State: findingv1.State_STATE_OPEN, Title: "EBS volume attached to nothing",
					Severity: rulev1.Severity(i%5 + 1), Owner: "team-web", MonthlyCost: &rulev1.MonthlyCost{Low: 8, High: float64(i % 300)}, Reason: strings.Repeat("The volume has been attached to nothing. ", 3),
					Recommendation: strings.Repeat("Delete it. ", 10),
					Resource: &scanv1.Resource{Arn: fmt.Sprintf("arn:aws:ec2:eu-west-1:%s:volume/vol-%017x", account, i), Id: fmt.Sprintf("vol-%017x", i), Type: volumeType, Account: account, Region: "eu-west-1",
						Tags: map[string]string{"Owner": "team-web", "env": "production", "cost-centre": "42"}},
				}
				set := func(g *notificationv1.GroupedNotice) { g.Notice.Finding = f }
				notices = append(notices, grouped("all", "FindingOpened", f.GetId(), when, set),
					grouped(account, "FindingOpened", f.GetId(), when, set, func(g *notificationv1.GroupedNotice) { g.Route = "accounts" }))
				i++
			}
			batches = append(batches, notices)
		}
		b.StartTimer()
		lap := func(what string, f func()) {
			start := time.Now()
			f()
			b.ReportMetric(float64(time.Since(start).Milliseconds()), what+"-ms")
		}
		lap("add", func() {
			for _, notices := range batches {
				addNotice(b, s, notices...)
			}
		})
		lap("again", func() {
			for _, notices := range batches {
				addNotice(b, s, notices...)
			}
		})
		var claimed []*notificationv1.ClaimedGroup
		lap("claim", func() { claimed = claimGroups(b, s).GetGroups() })
		if len(claimed) != accounts+1 {
			b.Fatalf("claimed %d", len(claimed))
		}
		lap("flush", func() {
			for _, c := range claimed {
				flush(b, s, flushOf(c))
			}
		})
		lap("send", func() {
			for _, d := range claimDeliveries(b, s).GetDeliveries() {
				finishDelivery(b, s, d)
			}
		})
	}
}
