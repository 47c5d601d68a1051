package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
)

var logColumns = []column[*systemlogv1.Entry]{
	{name: "time", head: "Time (UTC)", text: func(e *systemlogv1.Entry) string { return format(e.GetTime(), time.DateTime) },
		csv: func(e *systemlogv1.Entry) string { return stamp(e.GetTime()) }},
	{name: "level", head: "Level", text: func(e *systemlogv1.Entry) string { return name(e.GetLevel()) },
		paint: func(e *systemlogv1.Entry) paint {
			switch e.GetLevel() {
			case systemlogv1.Level_LEVEL_ERROR:
				return red
			case systemlogv1.Level_LEVEL_WARN:
				return yellow
			default:
				return faint
			}
		}},
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

func (c *cli) logsCommand() *cobra.Command {
	var (
		level, filter, job, run, account, service string
		since                                     time.Duration
		l                                         limit
	)
	cmd := &cobra.Command{
		Use: "logs", Short: "Show the system log: what Nightshift did, newest first", Args: cobra.NoArgs,
		Example: `  nightshift logs --since 24h
  nightshift logs --level warn --job waste-scan
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
