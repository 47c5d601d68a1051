package main

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
)

var logColumns = []column[*systemlogv1.Entry]{
	{name: "time", head: "Time (UTC)", text: func(e *systemlogv1.Entry) string { return format(e.GetTime(), time.DateTime) },
		csv: func(e *systemlogv1.Entry) string { return stamp(e.GetTime()) }},
	{name: "level", head: "Level", text: func(e *systemlogv1.Entry) string { return name(e.GetLevel()) },
		paint: levelPaint},
	{name: "service", head: "Service", spare: 1, text: (*systemlogv1.Entry).GetService},
	{name: "event", head: "Event", text: (*systemlogv1.Entry).GetEvent},
	{name: "message", head: "Message", flex: 24, text: (*systemlogv1.Entry).GetMessage},
	{name: "run_id", head: "Run", flex: 12, spare: 1, text: (*systemlogv1.Entry).GetRunId},
	{name: "job", text: (*systemlogv1.Entry).GetJob},
	{name: "account", text: (*systemlogv1.Entry).GetAccount},
	{name: "region", text: (*systemlogv1.Entry).GetRegion},
	{name: "attributes", text: func(e *systemlogv1.Entry) string { return pairs(e.GetAttributes()) }},
	{name: "id", number: true, text: func(e *systemlogv1.Entry) string { return strconv.FormatInt(e.GetId(), 10) }},
}

func levelPaint(e *systemlogv1.Entry) paint {
	switch e.GetLevel() {
	case systemlogv1.Level_LEVEL_ERROR:
		return red
	case systemlogv1.Level_LEVEL_WARN:
		return yellow
	default:
		return faint
	}
}

func (c *cli) logsCommand() *cobra.Command {
	var (
		level, filter, job, run, account, service, text, until string
		since                                                  time.Duration
		follow                                                 bool
		l                                                      limit
	)
	cmd := &cobra.Command{
		Use: "logs", Short: "Show the system log: what Nightshift did, newest first", Args: cobra.NoArgs,
		Example: `  nightshift logs --since 24h
  nightshift logs --level warn --job waste-scan
  nightshift logs --run waste-scan/2026-09-01T06:00:00Z --text throttled
  nightshift logs --follow --level warn
  nightshift logs --filter 'event = "run_finished"' -o jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var and []string
			if level != "" {
				n := systemlogv1.Level_value["LEVEL_"+strings.ToUpper(level)]
				if n == 0 {
					return usage("--level %q is not info, warn or error", level)
				}
				and = append(and, `level >= "`+strings.ToUpper(level)+`"`)
			}
			if since > 0 {
				and = append(and, "time > "+quote(c.now().Add(-since).UTC().Format(time.RFC3339)))
			}
			if until != "" {
				t, err := time.Parse(time.RFC3339, until)
				if err != nil {
					return usage("--until %q is not a time such as 2026-09-01T06:00:00Z", until)
				}
				and = append(and, "time <= "+quote(t.UTC().Format(time.RFC3339)))
			}
			if text != "" {
				and = append(and, "message : "+quote(text))
			}
			for _, x := range []struct{ field, value string }{{"job", job}, {"run_id", run}, {"account", account}, {"service", service}} {
				if x.value != "" {
					and = append(and, x.field+" = "+quote(x.value))
				}
			}
			if filter != "" {
				and = append(and, "("+filter+")")
			}
			conn, err := c.dial("persistence")
			if err != nil {
				return err
			}
			api := systemlogv1.NewSystemLogServiceClient(conn)
			if follow {
				if until != "" || cmd.Flags().Changed("limit") {
					return usage("--follow has no end: leave out --until and --limit")
				}
				if since > lookBack {
					return usage("--follow looks back an hour at most: --since %s is longer; without --follow it is not bounded", since)
				}
				return c.followLogs(cmd.Context(), api, strings.Join(and, " AND "), since)
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, func(e *systemlogv1.Entry) object { return tree(e) }, logColumns),
				func(size int32, token string) ([]*systemlogv1.Entry, string, error) {
					r, err := api.ListEntries(cmd.Context(), &systemlogv1.ListEntriesRequest{PageSize: size, PageToken: token, Filter: strings.Join(and, " AND ")})
					return r.GetEntries(), r.GetNextPageToken(), err
				})
			if err == nil && n == 0 {
				c.say("no entries")
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&level, "level", "", "at least this level: info, warn, error")
	fl.DurationVar(&since, "since", 0, "not older than this, such as 24h")
	fl.BoolVarP(&follow, "follow", "f", false, "go on with entries as they are written, oldest first, until Ctrl-C")
	fl.StringVar(&until, "until", "", "not newer than this, such as 2026-09-01T06:00:00Z")
	fl.StringVar(&text, "text", "", "with this text in the message, whatever its case")
	fl.StringVar(&job, "job", "", "of this job")
	fl.StringVar(&run, "run", "", "of this run")
	fl.StringVar(&account, "account", "", "of this account")
	fl.StringVar(&service, "service", "", "of this service")
	fl.StringVar(&filter, "filter", "", "any other condition, such as 'event = \"run_finished\"'")
	complete(cmd, "level", "info", "warn", "error")
	complete(cmd, "service", serviceNames()...)
	_ = cmd.RegisterFlagCompletionFunc("job", c.completing(c.jobNames))
	_ = cmd.RegisterFlagCompletionFunc("account", c.completing(c.accountIDs))
	l.add(cmd)
	return cmd
}

// lookBack is how far a watch of the log can begin in the past.
const lookBack = time.Hour

// followLogs writes entries as they come until ctx ends. When the service goes
// away it goes on with the last entry that was shown, and shows none twice.
func (c *cli) followLogs(ctx context.Context, api systemlogv1.SystemLogServiceClient, filter string, since time.Duration) error {
	p := newPrinter(c, func(e *systemlogv1.Entry) object { return tree(e) }, logColumns)
	c.say("following; Ctrl-C ends it")
	// Entries can become visible a little out of order: after a break it begins a minute before the newest.
	const slack = time.Minute
	from := c.now().Add(-since)
	ask := since > 0
	shown := map[int64]time.Time{}
	err := c.endless(ctx, func() (answered bool, err error) {
		req := &systemlogv1.WatchEntriesRequest{Filter: filter}
		if ask {
			if longest := c.now().Add(-lookBack); from.Before(longest) {
				from = longest
			}
			req.SinceTime = timestamppb.New(from)
		}
		stream, err := api.WatchEntries(ctx, req)
		for err == nil {
			var r *systemlogv1.WatchEntriesResponse
			if r, err = stream.Recv(); err != nil {
				break
			}
			answered, ask = true, true
			for _, e := range r.GetEntries() {
				t := e.GetTime().AsTime()
				if _, twice := shown[e.GetId()]; twice {
					continue
				}
				shown[e.GetId()] = t
				if len(shown) == 1 || t.Add(-slack).After(from) {
					from = t.Add(-slack)
				}
				if c.output == formatTable {
					c.print("%s\n", c.entryLine(e))
				} else if err := p.add(e); err != nil {
					return answered, err
				}
			}
			maps.DeleteFunc(shown, func(_ int64, t time.Time) bool { return t.Before(from) })
		}
		return answered, err
	})
	if err != nil {
		return err
	}
	return p.close()
}

func (c *cli) entryLine(e *systemlogv1.Entry) string {
	return fmt.Sprintf("%s  %s  %s", format(e.GetTime(), time.DateTime), c.outPaint(levelPaint(e), fmt.Sprintf("%-5s", name(e.GetLevel()))), clean(e.GetMessage()))
}
