package main

import (
	"context"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
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
		c.jobsPause(), c.jobsResume(), c.jobsRun(), c.jobsNext())
}

const noSuchJob = "\"nightshift jobs list\" shows the jobs there are."

var jobColumns = []column[*jobv1.Job]{
	{name: "name", head: "Job", text: (*jobv1.Job).GetName},
	{name: "kind", head: "Kind", text: (*jobv1.Job).GetKind},
	{name: "schedule", head: "Schedule (UTC)", text: (*jobv1.Job).GetSchedule},
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
		fact{name: "schedule", text: j.GetSchedule() + " (UTC)"},
		state,
		fact{name: "last fired", text: when(j.GetLastFireTime())},
		fact{name: "fires next", text: when(j.GetNextFireTime())},
		fact{name: "parameters", text: pairs(j.GetParameters())},
		fact{name: "retries", text: retries},
		fact{name: "timeout", text: duration(j.GetTimeout())},
		fact{name: "labels", text: pairs(j.GetLabels())},
		fact{name: "changed", text: when(j.GetUpdateTime())},
		fact{name: "etag", text: j.GetEtag()},
	)
}

func (c *cli) printJob(j *jobv1.Job) error {
	return printOne(c, j, jobTree, jobColumns, func() { c.jobCard(j) })
}

func (c *cli) jobsList() *cobra.Command {
	var l limit
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the jobs", Args: cobra.NoArgs,
		Example: "  nightshift jobs list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := c.jobs()
			if err != nil {
				return err
			}
			n, err := listAll(cmd.Context(), c, l, newPrinter(c, jobTree, jobColumns), func(size int32, token string) ([]*jobv1.Job, string, error) {
				r, err := api.ListJobs(cmd.Context(), &jobv1.ListJobsRequest{PageSize: size, PageToken: token})
				return r.GetJobs(), r.GetNextPageToken(), err
			})
			if err == nil && n == 0 {
				c.say("no jobs")
			}
			return err
		},
	}
	l.add(cmd)
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

// jobFlags are the parts of a job that a person sets.
type jobFlags struct {
	description, schedule string
	parameters, labels    map[string]string
	retries               int32
	timeout               time.Duration
}

func (f *jobFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.schedule, "schedule", "", "cron expression of five fields, in UTC, such as \"0 */6 * * *\"")
	fl.StringVar(&f.description, "description", "", "one line for people")
	fl.StringToStringVar(&f.parameters, "param", nil, "parameter NAME=VALUE handed to the handler, such as regions=eu-west-1; may be given several times")
	fl.StringToStringVar(&f.labels, "label", nil, "label NAME=VALUE; may be given several times")
	fl.Int32Var(&f.retries, "max-retries", 3, "how often a failed scope of a run is tried again, 0 to 10")
	fl.DurationVar(&f.timeout, "scope-timeout", 30*time.Minute, "how long one scope of a run may take")
}

// fill puts the flags that were given into the job and returns their fields.
func (f *jobFlags) fill(cmd *cobra.Command, j *jobv1.Job) (fields []string) {
	given := func(flag, field string) bool {
		if cmd.Flags().Changed(flag) {
			fields = append(fields, field)
			return true
		}
		return false
	}
	if given("schedule", "schedule") {
		j.Schedule = f.schedule
	}
	if given("description", "description") {
		j.Description = f.description
	}
	if given("param", "parameters") {
		j.Parameters = f.parameters
	}
	if given("label", "labels") {
		j.Labels = f.labels
	}
	if given("max-retries", "max_retries") {
		j.MaxRetries = &f.retries
	}
	if given("scope-timeout", "timeout") {
		j.Timeout = durationpb.New(f.timeout)
	}
	return fields
}

func (c *cli) jobsCreate() *cobra.Command {
	var (
		f    jobFlags
		kind string
	)
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a job", Args: exactly(1, "the name of the new job"),
		Example: `  nightshift jobs create volumes-hourly --kind waste --schedule "15 * * * *" --param rules=ebs-unattached
  nightshift jobs create ireland --kind waste --schedule "0 6 * * 1-5" --param regions=eu-west-1`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind == "" || f.schedule == "" {
				return usage("a job needs --kind and --schedule")
			}
			api, err := c.jobs()
			if err != nil {
				return err
			}
			j := &jobv1.Job{Name: args[0], Kind: kind}
			f.fill(cmd, j)
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
		"  nightshift jobs update waste-scan --schedule \"0 3 * * *\" --max-retries 5",
		func(ctx context.Context, api jobv1.JobServiceClient, name string) error {
			j := &jobv1.Job{Name: name, Etag: etag}
			fields := f.fill(cmd, j)
			if len(fields) == 0 {
				return usage("nothing to change: give --schedule, --description, --param, --label, --max-retries or --scope-timeout")
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
	)
	cmd := c.jobCommand("run", "Run a job now, beside its schedule",
		"  nightshift jobs run waste-scan --watch\n  nightshift jobs run waste-scan --param rules=ebs-unattached --watch -o json",
		func(ctx context.Context, api jobv1.JobServiceClient, name string) error {
			r, err := api.RunJob(ctx, &jobv1.RunJobRequest{Name: name, Parameters: parameters, RequestId: requestID, RequestedBy: requester()})
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
		schedule string
		number   int32
	)
	cmd := &cobra.Command{
		Use: "next [NAME]", Short: "Preview when a job, or a schedule, fires next", Args: cobra.MaximumNArgs(1),
		Example:           "  nightshift jobs next waste-scan\n  nightshift jobs next --schedule \"0 6 * * 1-5\" --count 10",
		ValidArgsFunction: c.completing(c.jobNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &jobv1.ListNextFiresRequest{Schedule: schedule, Count: number}
			if len(args) > 0 {
				req.Name = args[0]
			}
			if (req.GetName() == "") == (schedule == "") {
				return usage("give the name of a job, or --schedule, and not both")
			}
			api, err := c.jobs()
			if err != nil {
				return err
			}
			r, err := api.ListNextFires(cmd.Context(), req)
			if err != nil {
				return withHint(err, errs.NotFound, noSuchJob)
			}
			p := newPrinter(c, func(t *timestamppb.Timestamp) object { return object{{"fire_time", stamp(t)}} }, []column[*timestamppb.Timestamp]{
				{name: "fire_time", head: "Fires (UTC)", text: func(t *timestamppb.Timestamp) string { return format(t, "Mon 2006-01-02 15:04") }, csv: stamp},
				{head: "In", number: true, text: func(t *timestamppb.Timestamp) string { return lasted(t.AsTime().Sub(c.now()).Truncate(time.Minute)) }},
			})
			for _, t := range r.GetFireTimes() {
				if err := p.add(t); err != nil {
					return err
				}
			}
			return p.close()
		},
	}
	cmd.Flags().StringVar(&schedule, "schedule", "", "a cron expression that is not saved")
	cmd.Flags().Int32VarP(&number, "count", "n", 5, "how many, at most 100")
	return cmd
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
