package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	inventoryv1 "nightshift.dev/gen/nightshift/inventory/v1"
	"nightshift.dev/pkg/errs"
)

func (c *cli) instances() (inventoryv1.InventoryServiceClient, error) {
	conn, err := c.dial("persistence")
	if err != nil {
		return nil, err
	}
	return inventoryv1.NewInventoryServiceClient(conn), nil
}

func (c *cli) inventoryCommand() *cobra.Command {
	return group("inventory", "Show the instances there are and what they use of CPU and memory", c.inventoryList(), c.inventoryShow())
}

// percent is a figure for people; what is not known is nothing.
func percent(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'f', 1, 64)
}

func exact(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'f', -1, 64)
}

// gaugeColumn is a figure of the newest day.
func gaugeColumn(name, head string, spare int, of func(*inventoryv1.InstanceDay) *float64) column[*inventoryv1.Instance] {
	figure := func(i *inventoryv1.Instance) *float64 {
		if i.GetLatest() == nil {
			return nil
		}
		return of(i.GetLatest())
	}
	return column[*inventoryv1.Instance]{
		name: name, head: head, number: true, spare: spare,
		csv: func(i *inventoryv1.Instance) string { return exact(figure(i)) },
		text: func(i *inventoryv1.Instance) string {
			if s := percent(figure(i)); s != "" {
				return s
			}
			return "unknown"
		},
		paint: func(i *inventoryv1.Instance) paint {
			if figure(i) == nil {
				return faint
			}
			return plainPaint
		},
	}
}

var instanceColumns = []column[*inventoryv1.Instance]{
	{name: "id", head: "Instance", text: (*inventoryv1.Instance).GetId},
	{name: "name", head: "Name", flex: 12, text: (*inventoryv1.Instance).GetName},
	{name: "state", head: "State", text: func(i *inventoryv1.Instance) string {
		if i.GetGoneTime() != nil {
			return "gone"
		}
		return i.GetState()
	}, csv: (*inventoryv1.Instance).GetState},
	{name: "type", head: "Type", text: (*inventoryv1.Instance).GetType},
	gaugeColumn("cpu_average", "CPU avg %", 0, func(d *inventoryv1.InstanceDay) *float64 { return d.GetCpu().Average }),
	gaugeColumn("cpu_maximum", "max %", 0, func(d *inventoryv1.InstanceDay) *float64 { return d.GetCpu().Maximum }),
	gaugeColumn("memory_average", "Memory avg %", 0, func(d *inventoryv1.InstanceDay) *float64 { return d.GetMemory().Average }),
	{name: "day", head: "Day", spare: 2, text: func(i *inventoryv1.Instance) string { return i.GetLatest().GetDay() }},
	{name: "account", head: "Account", spare: 3, text: (*inventoryv1.Instance).GetAccount},
	{name: "region", head: "Region", spare: 1, text: (*inventoryv1.Instance).GetRegion},
	{name: "zone", text: (*inventoryv1.Instance).GetZone},
	{name: "platform", text: (*inventoryv1.Instance).GetPlatform},
	{name: "lifecycle", text: (*inventoryv1.Instance).GetLifecycle},
	{name: "launch_time", text: func(i *inventoryv1.Instance) string { return stamp(i.GetLaunchTime()) }},
	{name: "last_seen", text: func(i *inventoryv1.Instance) string { return stamp(i.GetLastSeen()) }},
	{name: "gone_time", text: func(i *inventoryv1.Instance) string { return stamp(i.GetGoneTime()) }},
	{name: "tags", text: func(i *inventoryv1.Instance) string { return pairs(i.GetTags()) }},
	{name: "arn", text: (*inventoryv1.Instance).GetArn},
}

func (c *cli) inventoryList() *cobra.Command {
	var (
		accounts, regions, states []string
		filter, order             string
		idle, memory              float64
		gone                      bool
		l                         limit
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List instances with their figures of the newest day", Args: cobra.NoArgs,
		Long: `Lists the EC2 instances that are there, with what they used of CPU and memory on the newest day that is known. The job
"health-check" takes stock once a day. Memory is known only where a CloudWatch agent reports it; what is unknown is
never 0.`,
		Example: `  nightshift inventory list --state running --order-by 'cpu_average'
  nightshift inventory list --cpu-below 5 --region eu-west-1
  nightshift inventory list --filter 'tags.Environment = "dev" AND memory_maximum < 20' -o csv`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var and []string
			for _, x := range []struct {
				field  string
				values []string
			}{{"account", accounts}, {"region", regions}, {"state", states}} {
				if len(x.values) > 0 {
					and = append(and, oneOf(x.field, x.values))
				}
			}
			if cmd.Flags().Changed("cpu-below") {
				and = append(and, "cpu_average < "+strconv.FormatFloat(idle, 'f', -1, 64))
			}
			if cmd.Flags().Changed("memory-below") {
				and = append(and, "memory_average < "+strconv.FormatFloat(memory, 'f', -1, 64))
			}
			if !gone {
				and = append(and, "NOT gone_time:*")
			}
			if filter != "" {
				and = append(and, "("+filter+")")
			}
			api, err := c.instances()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, func(i *inventoryv1.Instance) object { return tree(i) }, instanceColumns),
				func(size int32, token string) ([]*inventoryv1.Instance, string, error) {
					r, err := api.ListInstances(cmd.Context(), &inventoryv1.ListInstancesRequest{PageSize: size, PageToken: token, Filter: strings.Join(and, " AND "), OrderBy: order})
					return r.GetInstances(), r.GetNextPageToken(), err
				})
			if err == nil && n == 0 {
				c.say("no instances; \"nightshift jobs run health-check --watch\" takes stock")
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&accounts, "account", nil, "in these accounts")
	f.StringSliceVar(&regions, "region", nil, "in these regions")
	f.StringSliceVar(&states, "state", nil, "in these states, such as running or stopped")
	f.Float64Var(&idle, "cpu-below", 0, "whose average CPU of the newest day is below so many percent")
	f.Float64Var(&memory, "memory-below", 0, "whose average memory of the newest day is below so many percent")
	f.BoolVar(&gone, "gone", false, "also those that are gone")
	f.StringVar(&filter, "filter", "", `any other condition, such as 'type = "m5.large" AND cpu_hours = 24'`)
	f.StringVar(&order, "order-by", "", "order, such as 'cpu_average desc' (default: by ARN)")
	complete(cmd, "state", "running", "stopped", "pending", "stopping", "shutting-down", "terminated")
	complete(cmd, "order-by", "cpu_average", "cpu_average desc", "cpu_maximum desc", "memory_average desc", "name", "type", "last_seen desc")
	_ = cmd.RegisterFlagCompletionFunc("account", c.completing(c.accountIDs))
	l.add(cmd)
	return cmd
}

// oneOf is the condition that a field has one of some values.
func oneOf(field string, values []string) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = field + " = " + quote(v)
	}
	return "(" + strings.Join(parts, " OR ") + ")"
}

// chartDays is how many days the chart of an instance shows.
const chartDays = 30

func (c *cli) inventoryShow() *cobra.Command {
	return &cobra.Command{
		Use: "show INSTANCE", Aliases: []string{"get"}, Short: "Show an instance with its last 30 days", Args: exactly(1, "the id of an instance, such as i-0abc"),
		Example:           "  nightshift inventory show i-0f5bf782dc24a817e\n  nightshift inventory show i-0f5bf782dc24a817e -o json | jq '.days[0].cpu'",
		ValidArgsFunction: c.completing(c.instanceIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.instances()
			if err != nil {
				return err
			}
			const advice = "\"nightshift inventory list\" shows the instances there are."
			r, err := api.GetInstance(cmd.Context(), &inventoryv1.GetInstanceRequest{Id: args[0]})
			if err != nil {
				return withHint(err, errs.NotFound, advice)
			}
			d, err := api.ListInstanceDays(cmd.Context(), &inventoryv1.ListInstanceDaysRequest{Id: args[0], PageSize: chartDays})
			if err != nil {
				return withHint(err, errs.NotFound, advice)
			}
			i := r.GetInstance()
			days := make([]any, len(d.GetDays()))
			for n, day := range d.GetDays() {
				days[n] = tree(day)
			}
			return printOne(c, i, func(i *inventoryv1.Instance) object { return append(tree(i), member{"days", days}) }, instanceColumns,
				func() { c.instanceCard(i, d.GetDays()) })
		},
	}
}

func (c *cli) instanceIDs(ctx context.Context) ([]string, error) {
	api, err := c.instances()
	if err != nil {
		return nil, err
	}
	r, err := api.ListInstances(ctx, &inventoryv1.ListInstancesRequest{PageSize: 1000, Filter: "NOT gone_time:*"})
	var out []string
	for _, i := range r.GetInstances() {
		out = append(out, cobra.CompletionWithDesc(i.GetId(), clean(i.GetName())))
	}
	return out, err
}

func (c *cli) instanceCard(i *inventoryv1.Instance, days []*inventoryv1.InstanceDay) {
	state := i.GetState()
	if t := i.GetGoneTime(); t != nil {
		state = "gone since " + when(t)
	}
	c.card(i.GetId()+"  "+i.GetName(),
		fact{name: "state", text: state},
		fact{name: "type", text: strings.TrimSpace(i.GetType() + " " + i.GetLifecycle())},
		fact{name: "platform", text: i.GetPlatform()},
		fact{name: "where", text: i.GetAccount() + " " + i.GetZone()},
		fact{name: "started", text: when(i.GetLaunchTime())},
		fact{name: "last seen", text: when(i.GetLastSeen())},
		fact{name: "tags", text: pairs(i.GetTags())},
	)
	if len(days) == 0 {
		c.print("\nNothing is known of what it uses yet: days are read once they are over.\n")
		return
	}
	first, last := days[len(days)-1].GetDay(), days[0].GetDay()
	c.print("\n%s\n", c.outPaint(bold, fmt.Sprintf("Daily figures, %s to %s", first, last)))
	for _, x := range []struct {
		name string
		of   func(*inventoryv1.InstanceDay) *inventoryv1.Gauge
	}{{"CPU", (*inventoryv1.InstanceDay).GetCpu}, {"Memory", (*inventoryv1.InstanceDay).GetMemory}} {
		c.gaugeLines(x.name, days, x.of)
	}
}

// gaugeLines shows one metric: a chart of averages, one of maxima, and sums.
func (c *cli) gaugeLines(name string, days []*inventoryv1.InstanceDay, of func(*inventoryv1.InstanceDay) *inventoryv1.Gauge) {
	byDay := map[string]*inventoryv1.Gauge{}
	var (
		sum, top float64
		n        int
		why      string
		source   string
	)
	for _, d := range slices.Backward(days) {
		g := of(d)
		byDay[d.GetDay()] = g
		if g.Average == nil {
			why = g.GetUnknown()
			continue
		}
		n, sum, top, source = n+1, sum+g.GetAverage(), max(top, g.GetMaximum()), g.GetSource()
	}
	if n == 0 {
		c.print("  %-8s%s\n", name, c.outPaint(faint, "unknown: "+clean(why)))
		return
	}
	end, err := time.Parse(time.DateOnly, days[0].GetDay())
	if err != nil {
		return
	}
	line := func(figure func(*inventoryv1.Gauge) *float64) string {
		var vs []*float64
		for back := chartDays - 1; back >= 0; back-- {
			g := byDay[end.AddDate(0, 0, -back).Format(time.DateOnly)]
			if g == nil {
				vs = append(vs, nil)
				continue
			}
			vs = append(vs, figure(g))
		}
		return sparkline(vs, 100)
	}
	c.print("  %-8savg %s  %s on average of %s\n", name, c.outPaint(cyan, line(func(g *inventoryv1.Gauge) *float64 { return g.Average })),
		strconv.FormatFloat(sum/float64(n), 'f', 1, 64)+" %", many(int64(n), "day", "days"))
	c.print("  %-8smax %s  %s at most\n", "", c.outPaint(cyan, line(func(g *inventoryv1.Gauge) *float64 { return g.Maximum })), strconv.FormatFloat(top, 'f', 1, 64)+" %")
	c.print("  %-8s%s\n", "", c.outPaint(faint, clean(source)+"; the scale ends at 100 %, · is unknown"))
}

// sparkline draws values from 0 to top, one character each; nil is unknown.
func sparkline(vs []*float64, top float64) string {
	const bars = "▁▂▃▄▅▆▇█"
	runes := []rune(bars)
	var b strings.Builder
	for _, v := range vs {
		if v == nil {
			b.WriteRune('·')
			continue
		}
		b.WriteRune(runes[min(max(int(*v/top*float64(len(runes))), 0), len(runes)-1)])
	}
	return b.String()
}
