package main

import (
	"cmp"
	"context"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/errs"
)

func (c *cli) jobs() (jobv1.JobServiceClient, error) {
	conn, err := c.dial("scheduler")
	if err != nil {
		return nil, err
	}
	return jobv1.NewJobServiceClient(conn), nil
}

func (c *cli) jobsCommand() *cobra.Command {
	return group("jobs", "Manage jobs and run them", c.jobsList(), c.jobsGet(), c.jobsCreate(), c.jobsUpdate(), c.jobsDelete(),
		c.jobsPause(), c.jobsResume(), c.jobsRun(), c.jobsBackfill(), c.jobsNext())
}

const noSuchJob = "\"nightshift jobs list\" shows the jobs there are."

var jobColumns = []column[*jobv1.Job]{
	{name: "name", head: "Job", text: (*jobv1.Job).GetName},
	{name: "kind", head: "Kind", text: (*jobv1.Job).GetKind},
	{name: "schedule", head: "Schedule", text: (*jobv1.Job).GetSchedule},
	{head: "Zone", text: jobZone},
	{name: "paused", head: "State", csv: func(j *jobv1.Job) string { return strconv.FormatBool(j.GetPaused()) },
		text: func(j *jobv1.Job) string {
			if j.GetPaused() {
				return "paused"
			}
			return "active"
		},
		paint: func(j *jobv1.Job) paint {
			if j.GetPaused() {
				return yellow
			}
			return green
		}},
	{name: "last_fire_time", head: "Last fired", text: func(j *jobv1.Job) string { return when(j.GetLastFireTime()) },
		csv: func(j *jobv1.Job) string { return stamp(j.GetLastFireTime()) }},
	{name: "next_fire_time", head: "Fires next", text: func(j *jobv1.Job) string { return when(j.GetNextFireTime()) },
		csv: func(j *jobv1.Job) string { return stamp(j.GetNextFireTime()) }},
	{name: "description", head: "Description", flex: 12, spare: 1, text: (*jobv1.Job).GetDescription},
	{name: "pause_reason", text: (*jobv1.Job).GetPauseReason},
	{name: "parameters", text: func(j *jobv1.Job) string { return pairs(j.GetParameters()) }},
	{name: "time_zone", text: jobZone},
	{name: "jitter", text: func(j *jobv1.Job) string { return duration(j.GetJitter()) }},
	{name: "start_time", text: func(j *jobv1.Job) string { return stamp(j.GetStartTime()) }},
	{name: "end_time", text: func(j *jobv1.Job) string { return stamp(j.GetEndTime()) }},
	{name: "misfire", text: misfireText},
	{name: "overlap_policy", text: func(j *jobv1.Job) string { return name(j.GetOverlapPolicy()) }},
	{name: "run_timeout", text: func(j *jobv1.Job) string { return duration(j.GetRunTimeout()) }},
	{name: "notify_policy", text: func(j *jobv1.Job) string { return name(j.GetNotifyPolicy()) }},
	{name: "labels", text: func(j *jobv1.Job) string { return pairs(j.GetLabels()) }},
}

// jobZone is the zone a schedule is read in; an interval has none.
func jobZone(j *jobv1.Job) string {
	if strings.HasPrefix(strings.ToLower(j.GetSchedule()), "@every") {
		return ""
	}
	return cmp.Or(j.GetTimeZone(), "UTC")
}

// misfireText is what a job says of planned times that passed; "" when it says
// nothing.
func misfireText(j *jobv1.Job) string {
	m := j.GetMisfire()
	if m == nil {
		return ""
	}
	text := cmp.Or(hyphen(m.GetPolicy()), "run-once")
	if m.GetPolicy() == jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL {
		text += ", at most " + strconv.Itoa(int(cmp.Or(m.GetLimit(), 100)))
	}
	if m.GetDeadline() != nil {
		text += ", up to " + duration(m.GetDeadline()) + " late"
	}
	return text
}

func backoffText(b *jobv1.Backoff) string {
	var parts []string
	if b.GetInitial() != nil {
		parts = append(parts, "from "+duration(b.GetInitial()))
	}
	if b.GetMax() != nil {
		parts = append(parts, "at most "+duration(b.GetMax()))
	}
	return strings.Join(parts, ", ")
}

func jobTree(j *jobv1.Job) object { return tree(j) }

func (c *cli) jobCard(j *jobv1.Job) {
	state := fact{"state", "active", green}
	if j.GetPaused() {
		state = fact{"state", strings.TrimSuffix("paused: "+j.GetPauseReason(), ": "), yellow}
	}
	retries := ""
	if j.MaxRetries != nil {
		retries = strconv.Itoa(int(j.GetMaxRetries()))
	}
	c.card(j.GetName(),
		fact{name: "description", text: j.GetDescription()},
		fact{name: "kind", text: j.GetKind()},
		fact{name: "schedule", text: strings.TrimSuffix(j.GetSchedule()+" ("+jobZone(j)+")", " ()")},
		fact{name: "jitter", text: duration(j.GetJitter())},
		fact{name: "starts", text: when(j.GetStartTime())},
		fact{name: "ends", text: when(j.GetEndTime())},
		state,
		fact{name: "last fired", text: when(j.GetLastFireTime())},
		fact{name: "fires next", text: inZone(j.GetNextFireTime(), j.GetTimeZone())},
		fact{name: "misfires", text: misfireText(j)},
		fact{name: "overlap", text: hyphen(j.GetOverlapPolicy())},
		fact{name: "parameters", text: pairs(j.GetParameters())},
		fact{name: "retries", text: retries},
		fact{name: "backoff", text: backoffText(j.GetBackoff())},
		fact{name: "timeout", text: duration(j.GetTimeout())},
		fact{name: "run timeout", text: duration(j.GetRunTimeout())},
		fact{name: "notify", text: hyphen(j.GetNotifyPolicy())},
		fact{name: "labels", text: pairs(j.GetLabels())},
		fact{name: "changed", text: when(j.GetUpdateTime())},
		fact{name: "etag", text: j.GetEtag()},
	)
}

// inZone is a time in UTC, and as the clocks of a zone show it.
func inZone(t *timestamppb.Timestamp, zone string) string {
	local := location(zone)
	if t == nil || local == time.UTC {
		return when(t)
	}
	return when(t) + " UTC, " + t.AsTime().In(local).Format("2006-01-02 15:04 MST") + " in " + zone
}

// location is a zone that the scheduler has accepted; UTC when this machine
// does not know it.
func location(zone string) *time.Location {
	if l, err := time.LoadLocation(zone); err == nil {
		return l
	}
	return time.UTC
}

func (c *cli) printJob(j *jobv1.Job) error {
	return printOne(c, j, jobTree, jobColumns, func() { c.jobCard(j) })
}

func (c *cli) jobsList() *cobra.Command {
	var (
		l      limit
		kind   string
		labels []string
	)
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the jobs", Args: cobra.NoArgs,
		Example: "  nightshift jobs list\n  nightshift jobs list --kind waste --label team=platform --label on-call",
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted := map[string]string{}
			for _, label := range labels {
				name, value, _ := strings.Cut(label, "=")
				wanted[name] = value
			}
			api, err := c.jobs()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, jobTree, jobColumns), func(size int32, token string) ([]*jobv1.Job, string, error) {
				r, err := api.ListJobs(cmd.Context(), &jobv1.ListJobsRequest{PageSize: size, PageToken: token, Kind: kind, Labels: wanted})
				return r.GetJobs(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no jobs")
			}
			return err
		},
	}
	l.add(cmd)
	cmd.Flags().StringVar(&kind, "kind", "", "only jobs of this kind")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only jobs with this label, NAME=VALUE or NAME for any value; may be given several times")
	complete(cmd, "kind", setNames()...)
	return cmd
}

// jobCommand is a command about one job.
func (c *cli) jobCommand(use, short, example string, run func(ctx context.Context, api jobv1.JobServiceClient, name string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: exactly(1, "the name of a job"), Example: example,
		ValidArgsFunction: c.completing(c.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, err := c.jobs()
			if err != nil {
				return err
			}
			return withHint(run(cmd.Context(), api, args[0]), errs.NotFound, noSuchJob)
		},
	}
}

func (c *cli) jobsGet() *cobra.Command {
	cmd := c.jobCommand("get", "Show a job", "  nightshift jobs get waste-scan -o yaml", func(ctx context.Context, api jobv1.JobServiceClient, name string) error {
		r, err := api.GetJob(ctx, &jobv1.GetJobRequest{Name: name})
		if err != nil {
			return err
		}
		return c.printJob(r.GetJob())
	})
	cmd.Aliases = []string{"show"}
	return cmd
}

func (c *cli) jobsCreate() *cobra.Command {
	var (
		f    jobFlags
		kind string
	)
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a job", Args: exactly(1, "the name of the new job"),
		Example: `  nightshift jobs create volumes-hourly --kind waste --schedule "15 * * * *" --param rules=ebs-unattached
  nightshift jobs create ireland --kind waste --schedule "0 6 * * 1-5" --time-zone Europe/Dublin --param regions=eu-west-1
  nightshift jobs create exposure --kind security --schedule "@every 10m" --jitter 2m --overlap queue-one --misfire skip --notify on-partial`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind == "" || f.schedule == "" {
				return usage("a job needs --kind and --schedule")
			}
			api, err := c.jobs()
			if err != nil {
				return err
			}
			j := &jobv1.Job{Name: args[0], Kind: kind}
			if _, err := f.fill(cmd, j); err != nil {
				return err
			}
			r, err := api.CreateJob(cmd.Context(), &jobv1.CreateJobRequest{Job: j})
			if err != nil {
				return err
			}
			c.say("created")
			return c.printJob(r.GetJob())
		},
	}
	cmd.Flags().StringVar(&kind, "kind", "", "what kind of work, which is the service that does it, such as "+setNames()[0])
	complete(cmd, "kind", setNames()...)
	f.add(cmd)
	return cmd
}

func (c *cli) jobsUpdate() *cobra.Command {
	var (
		f    jobFlags
		etag string
	)
	var cmd *cobra.Command
	cmd = c.jobCommand("update", "Change what is given of a job, and leave the rest",
		"  nightshift jobs update waste-scan --schedule \"0 3 * * *\" --time-zone America/New_York --max-retries 5\n"+
			"  nightshift jobs update waste-scan --misfire run-all --misfire-limit 10 --misfire-deadline 24h",
		func(ctx context.Context, api jobv1.JobServiceClient, name string) error {
			j := &jobv1.Job{Name: name, Etag: etag}
			fields, err := f.fill(cmd, j)
			if err != nil {
				return err
			}
			if len(fields) == 0 {
				return usage("nothing to change: give --schedule, --description, --param or another flag; \"nightshift jobs update --help\" lists them")
			}
			if inParts(cmd) {
				now, err := api.GetJob(ctx, &jobv1.GetJobRequest{Name: name})
				if err != nil {
					return err
				}
				j.Misfire, j.Backoff, j.Etag = now.GetJob().GetMisfire(), now.GetJob().GetBackoff(), cmp.Or(etag, now.GetJob().GetEtag())
				if _, err := f.fill(cmd, j); err != nil {
					return err
				}
			}
			r, err := api.UpdateJob(ctx, &jobv1.UpdateJobRequest{Job: j, UpdateMask: &fieldmaskpb.FieldMask{Paths: fields}})
			if err != nil {
				return withHint(err, errs.Aborted, "Somebody else changed it; \"nightshift jobs get "+name+"\" shows what it is now.")
			}
			c.say("updated")
			return c.printJob(r.GetJob())
		})
	f.add(cmd)
	cmd.Flags().StringVar(&etag, "etag", "", "only when the job still has this etag")
	return cmd
}

func (c *cli) jobsDelete() *cobra.Command {
	var etag string
	cmd := c.jobCommand("delete", "Delete a job; its runs and findings stay", "  nightshift jobs delete volumes-hourly",
		func(ctx context.Context, api jobv1.JobServiceClient, name string) error {
			if _, err := api.DeleteJob(ctx, &jobv1.DeleteJobRequest{Name: name, Etag: etag}); err != nil {
				return err
			}
			c.say("deleted job %s", clean(name))
			return nil
		})
	cmd.Aliases = []string{"rm"}
	cmd.Flags().StringVar(&etag, "etag", "", "only when the job still has this etag")
	return cmd
}

func (c *cli) jobsPause() *cobra.Command {
	var reason string
	cmd := c.jobCommand("pause", "Stop a job from firing", "  nightshift jobs pause waste-scan --reason \"migration until Friday\"",
		func(ctx context.Context, api jobv1.JobServiceClient, name string) error {
			r, err := api.PauseJob(ctx, &jobv1.PauseJobRequest{Name: name, Reason: reason})
			if err != nil {
				return err
			}
			c.say("paused")
			return c.printJob(r.GetJob())
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever looks next")
	return cmd
}

func (c *cli) jobsResume() *cobra.Command {
	return c.jobCommand("resume", "Let a paused job fire again", "  nightshift jobs resume waste-scan",
		func(ctx context.Context, api jobv1.JobServiceClient, name string) error {
			r, err := api.ResumeJob(ctx, &jobv1.ResumeJobRequest{Name: name})
			if err != nil {
				return err
			}
			c.say("resumed")
			return c.printJob(r.GetJob())
		})
}

func (c *cli) jobsRun() *cobra.Command {
	var (
		watch      bool
		parameters map[string]string
		requestID  string
		overlap    string
	)
	cmd := c.jobCommand("run", "Run a job now, beside its schedule",
		"  nightshift jobs run waste-scan --watch\n  nightshift jobs run waste-scan --param rules=ebs-unattached --watch -o json\n"+
			"  nightshift jobs run waste-scan --overlap cancel-running",
		func(ctx context.Context, api jobv1.JobServiceClient, name string) error {
			policy, err := byName(jobv1.OverlapPolicy(0), "overlap", overlap)
			if err != nil {
				return err
			}
			r, err := api.RunJob(ctx, &jobv1.RunJobRequest{
				Name: name, Parameters: parameters, RequestId: requestID, RequestedBy: requester(), OverlapPolicy: policy,
			})
			if err != nil {
				return err
			}
			if watch {
				return c.watchRun(ctx, r.GetRunId())
			}
			c.say("\"nightshift runs watch %s\" follows it", r.GetRunId())
			v := object{{"run_id", r.GetRunId()}}
			return printOne(c, v, func(o object) object { return o },
				[]column[object]{{name: "run_id", text: func(object) string { return r.GetRunId() }}},
				func() { c.print("%s\n", clean(r.GetRunId())) })
		})
	fl := cmd.Flags()
	fl.BoolVarP(&watch, "watch", "w", false, "follow the run to its end; exit with 1 when it fails and 6 when it is partial")
	fl.StringToStringVar(&parameters, "param", nil, "parameter NAME=VALUE for this run only; may be given several times")
	fl.StringVar(&requestID, "request-id", "", "makes the call safe to repeat: the same id gives the same run")
	addOverlap(cmd, &overlap, " (default what the job says)")
	return cmd
}

func (c *cli) jobsBackfill() *cobra.Command {
	var (
		from, to, requestID, overlap string
		parameters                   map[string]string
		dry                          bool
	)
	cmd := c.jobCommand("backfill", "Run a job for each planned time of a range in the past",
		"  nightshift jobs backfill waste-scan --from 2027-03-01 --to 2027-03-07 --dry-run\n"+
			"  nightshift jobs backfill waste-scan --from 2027-03-01T00:00:00Z --to 2027-03-01T12:00:00Z --overlap allow --request-id again",
		func(ctx context.Context, api jobv1.JobServiceClient, name string) error {
			if from == "" || to == "" {
				return usage("a backfill needs --from and --to")
			}
			policy, err := byName(jobv1.OverlapPolicy(0), "overlap", overlap)
			if err != nil {
				return err
			}
			start, err := moment("from", from, false)
			if err != nil {
				return err
			}
			end, err := moment("to", to, true)
			if err != nil {
				return err
			}
			// Of today there is what has passed of it.
			if now := c.now(); len(to) == len(time.DateOnly) && end.AsTime().After(now) && end.AsTime().Sub(now) < 24*time.Hour {
				end = timestamppb.New(now.Add(-time.Second))
			}
			r, err := api.BackfillJob(ctx, &jobv1.BackfillJobRequest{
				Name: name, StartTime: start, EndTime: end, OverlapPolicy: policy, Parameters: parameters, RequestId: requestID,
				RequestedBy: requester(), DryRun: dry,
			})
			if err != nil {
				return err
			}
			n := int64(len(r.GetRunIds()))
			if dry {
				c.say("these would be %s; nothing was asked for", many(n, "run", "runs"))
			} else {
				c.say("asked for %s", many(n, "run", "runs"))
			}
			p := newPrinter(c, func(id string) object { return object{{"run_id", id}} },
				[]column[string]{{name: "run_id", head: "Run", text: func(id string) string { return id }}})
			for _, id := range r.GetRunIds() {
				if err := p.add(id); err != nil {
					return err
				}
			}
			return p.close()
		})
	fl := cmd.Flags()
	fl.StringVar(&from, "from", "", "first planned time that counts: a day, from its beginning in UTC, or a time as in RFC 3339")
	fl.StringVar(&to, "to", "", "last planned time that counts: a day, to its end in UTC, or a time as in RFC 3339")
	fl.BoolVar(&dry, "dry-run", false, "only show which runs it would be")
	addOverlap(cmd, &overlap, " (default queue-all)")
	fl.StringToStringVar(&parameters, "param", nil, "parameter NAME=VALUE for these runs only; may be given several times")
	fl.StringVar(&requestID, "request-id", "", "lets the same range be asked for anew: part of the run ids")
	return cmd
}

// requester is who asks for a run, for the log.
func requester() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "nightshift"
}

func (c *cli) jobsNext() *cobra.Command {
	var (
		schedule, zone string
		number         int32
	)
	cmd := &cobra.Command{
		Use: "next [NAME]", Short: "Preview when a job, or a schedule, fires next", Args: cobra.MaximumNArgs(1),
		Example: "  nightshift jobs next waste-scan\n" +
			"  nightshift jobs next --schedule \"0 6 * * 1-5\" --time-zone Europe/Berlin --count 10",
		ValidArgsFunction: c.completing(c.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &jobv1.ListNextFiresRequest{Schedule: schedule, Count: number, TimeZone: zone}
			if len(args) > 0 {
				req.Name = args[0]
			}
			if (req.GetName() == "") == (schedule == "") {
				return usage("give the name of a job, or --schedule, and not both")
			}
			if req.GetName() != "" && zone != "" {
				return usage("--time-zone goes with --schedule; a job has its own")
			}
			api, err := c.jobs()
			if err != nil {
				return err
			}
			r, err := api.ListNextFires(cmd.Context(), req)
			if err != nil {
				return withHint(err, errs.NotFound, noSuchJob)
			}
			if r.GetJitter() != nil {
				c.say("each fires %s later than planned, by the job's jitter", duration(r.GetJitter()))
			}
			return c.printFires(r.GetFireTimes(), r.GetTimeZone())
		},
	}
	cmd.Flags().StringVar(&schedule, "schedule", "", "an expression that is not saved")
	cmd.Flags().StringVar(&zone, "time-zone", "", "with --schedule: IANA time zone it is read in; none: UTC")
	cmd.Flags().Int32VarP(&number, "count", "n", 5, "how many, at most 100")
	return cmd
}

// printFires lists planned times in UTC, and as the clocks of their zone show
// them.
func (c *cli) printFires(times []*timestamppb.Timestamp, zone string) error {
	local := location(zone)
	layout := "Mon 2006-01-02 15:04"
	if slices.ContainsFunc(times, func(t *timestamppb.Timestamp) bool { return t.AsTime().Second() != 0 }) {
		layout += ":05"
	}
	stampLocal := func(t *timestamppb.Timestamp) string { return t.AsTime().In(local).Format(time.RFC3339) }
	columns := []column[*timestamppb.Timestamp]{
		{name: "fire_time", head: "Fires (UTC)", text: func(t *timestamppb.Timestamp) string { return format(t, layout) }, csv: stamp},
		{head: "In", number: true, text: func(t *timestamppb.Timestamp) string { return lasted(t.AsTime().Sub(c.now()).Truncate(time.Second)) }},
		{name: "local_time", text: stampLocal},
	}
	if local != time.UTC {
		columns = slices.Insert(columns, 0, column[*timestamppb.Timestamp]{head: "Fires (" + zone + ")",
			text: func(t *timestamppb.Timestamp) string { return t.AsTime().In(local).Format(layout + " MST") }})
	}
	p := newPrinter(c, func(t *timestamppb.Timestamp) object {
		return object{{"fire_time", stamp(t)}, {"local_time", stampLocal(t)}}
	}, columns)
	for _, t := range times {
		if err := p.add(t); err != nil {
			return err
		}
	}
	return p.close()
}

func (c *cli) jobNames(ctx context.Context) ([]string, error) {
	api, err := c.jobs()
	if err != nil {
		return nil, err
	}
	r, err := api.ListJobs(ctx, &jobv1.ListJobsRequest{PageSize: 1000})
	var out []string
	for _, j := range r.GetJobs() {
		out = append(out, cobra.CompletionWithDesc(j.GetName(), clean(j.GetDescription())))
	}
	return out, err
}
