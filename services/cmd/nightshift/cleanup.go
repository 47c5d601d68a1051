package main

import (
	"errors"
	"maps"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	cleanupv1 "nightshift.dev/gen/nightshift/cleanup/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	"nightshift.dev/pkg/errs"
)

func (c *cli) cleanup() (cleanupv1.CleanupServiceClient, error) {
	conn, err := c.dial("cleanup")
	if err != nil {
		return nil, err
	}
	return cleanupv1.NewCleanupServiceClient(conn), nil
}

func (c *cli) cleanupCommand() *cobra.Command {
	return group("cleanup", "Remove what has been kept for its time", c.cleanupPreview(), c.cleanupRules(), c.cleanupRun())
}

// cleanupFlags are the parameters of a cleanup.
type cleanupFlags struct {
	job     string
	targets []string
	params  map[string]string
}

func (f *cleanupFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.job, "job", "cleanup", "job of kind cleanup")
	cmd.Flags().StringSliceVar(&f.targets, "target", nil, "only these targets, such as runs or system-log; may be given several times")
	cmd.Flags().StringToStringVar(&f.params, "param", nil, "parameter NAME=VALUE in place of a rule's own, such as system_log_days=30; may be given several times")
}

func (f *cleanupFlags) parameters() (map[string]string, error) {
	params := map[string]string{}
	maps.Copy(params, f.params)
	if len(f.targets) > 0 {
		if params["targets"] != "" {
			return nil, usage("give --target or --param targets=…, and not both")
		}
		params["targets"] = strings.Join(f.targets, ",")
	}
	return params, nil
}

// ofJob are the parameters with which a run of the job would begin.
func (f *cleanupFlags) ofJob(cmd *cobra.Command, c *cli) (map[string]string, error) {
	own, err := f.parameters()
	if err != nil {
		return nil, err
	}
	api, err := c.jobs()
	if err != nil {
		return nil, err
	}
	r, err := api.GetJob(cmd.Context(), &jobv1.GetJobRequest{Name: f.job})
	switch {
	case errors.Is(err, errs.NotFound) && !cmd.Flags().Changed("job"):
		c.say("there is no job %s: these are the rules of the service", f.job)
	case err != nil:
		return nil, withHint(err, errs.NotFound, noSuchJob)
	}
	params := map[string]string{}
	maps.Copy(params, r.GetJob().GetParameters())
	maps.Copy(params, own)
	return params, nil
}

// age is how long something is kept, in days where it is whole days.
func age(d *durationpb.Duration) string {
	switch hours := int64(d.AsDuration().Hours()); {
	case d == nil:
		return ""
	case hours%24 == 0 && hours > 24:
		return count(hours/24) + " days"
	default:
		return many(hours, "hour", "hours")
	}
}

func keepText(r *cleanupv1.Rule) string {
	if r.GetKeep() == 0 {
		return ""
	}
	return "the newest " + strconv.Itoa(int(r.GetKeep())) + " of each job"
}

var cleanupRuleColumns = []column[*cleanupv1.Rule]{
	{name: "name", head: "Target", text: (*cleanupv1.Rule).GetName},
	{name: "age", head: "Kept for", text: func(r *cleanupv1.Rule) string { return age(r.GetAge()) },
		csv: func(r *cleanupv1.Rule) string {
			if r.GetAge() == nil {
				return ""
			}
			return strconv.FormatFloat(r.GetAge().AsDuration().Hours(), 'f', -1, 64) + "h"
		}},
	{name: "keep", head: "And always", text: keepText, csv: func(r *cleanupv1.Rule) string { return strconv.Itoa(int(r.GetKeep())) }},
	{name: "parameters", head: "Parameters", text: func(r *cleanupv1.Rule) string { return strings.Join(r.GetParameters(), " ") }},
	{name: "description", head: "What goes", flex: 24, spare: 1, text: (*cleanupv1.Rule).GetDescription},
}

func (c *cli) cleanupRules() *cobra.Command {
	var f cleanupFlags
	cmd := &cobra.Command{
		Use: "rules", Short: "Show how long what is kept", Args: cobra.NoArgs,
		Long: `Shows the rules that the next run of the job goes by: the rules' own figures, over them those of the service, over these the
parameters of the job.`,
		Example: `  nightshift cleanup rules
  nightshift cleanup rules --param runs_days=30`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			params, err := f.ofJob(cmd, c)
			if err != nil {
				return err
			}
			api, err := c.cleanup()
			if err != nil {
				return err
			}
			r, err := api.ListCleanupRules(cmd.Context(), &cleanupv1.ListCleanupRulesRequest{Parameters: params})
			if err != nil {
				return err
			}
			p := newPrinter(c, func(r *cleanupv1.Rule) object { return tree(r) }, cleanupRuleColumns)
			for _, rule := range r.GetRules() {
				if err := p.add(rule); err != nil {
					return err
				}
			}
			return p.close()
		},
	}
	f.add(cmd)
	return cmd
}

func retainedText(of []*retentionv1.Retained) string {
	parts := make([]string, len(of))
	for i, k := range of {
		parts[i] = count(k.GetCount()) + " because " + k.GetReason()
	}
	return strings.Join(parts, "; ")
}

var previewColumns = []column[*cleanupv1.PreviewedTarget]{
	{name: "target", head: "Target", text: func(t *cleanupv1.PreviewedTarget) string { return t.GetRule().GetName() }},
	{name: "count", head: "Would go", number: true, text: func(t *cleanupv1.PreviewedTarget) string {
		if t.GetPreview() == nil {
			return "?"
		}
		return count(t.GetPreview().GetCount())
	}, csv: func(t *cleanupv1.PreviewedTarget) string { return strconv.FormatInt(t.GetPreview().GetCount(), 10) },
		paint: func(t *cleanupv1.PreviewedTarget) paint {
			if t.GetPreview().GetCount() > 0 {
				return yellow
			}
			return faint
		}},
	{name: "before_time", head: "From before", text: func(t *cleanupv1.PreviewedTarget) string { return when(t.GetPreview().GetBeforeTime()) },
		csv: func(t *cleanupv1.PreviewedTarget) string { return stamp(t.GetPreview().GetBeforeTime()) }},
	{name: "oldest_time", head: "Oldest", text: func(t *cleanupv1.PreviewedTarget) string { return when(t.GetPreview().GetOldestTime()) },
		csv: func(t *cleanupv1.PreviewedTarget) string { return stamp(t.GetPreview().GetOldestTime()) }},
	{name: "retained", head: "Old and kept", flex: 24, spare: 1, text: func(t *cleanupv1.PreviewedTarget) string {
		if t.GetError() != "" {
			return t.GetError()
		}
		return retainedText(t.GetPreview().GetRetained())
	}},
}

func (c *cli) cleanupPreview() *cobra.Command {
	var f cleanupFlags
	cmd := &cobra.Command{
		Use: "preview", Short: "Count what a cleanup would remove now", Args: cobra.NoArgs,
		Long: `Counts what a run of the job cleanup would remove now, with the job's own parameters and over them those given here, and what is
old enough and stays, with the reason. Findings of accounts and regions that scans no longer look at (target orphans) are marked,
not removed. Nothing is changed.`,
		Example: `  nightshift cleanup preview
  nightshift cleanup preview --target runs --param runs_days=30 --param runs_keep=5`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			params, err := f.ofJob(cmd, c)
			if err != nil {
				return err
			}
			api, err := c.cleanup()
			if err != nil {
				return err
			}
			r, err := api.PreviewCleanup(cmd.Context(), &cleanupv1.PreviewCleanupRequest{Parameters: params})
			if err != nil {
				return err
			}
			p := newPrinter(c, func(t *cleanupv1.PreviewedTarget) object { return tree(t) }, previewColumns)
			failed := 0
			for _, t := range r.GetTargets() {
				if t.GetError() != "" {
					failed++
				}
				if err := p.add(t); err != nil {
					return err
				}
			}
			if err := p.close(); err != nil {
				return err
			}
			if failed > 0 {
				return errs.New(errs.Aborted, "PREVIEW_INCOMPLETE", "%s could not be counted", many(int64(failed), "target", "targets"))
			}
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

func (c *cli) cleanupRun() *cobra.Command {
	var (
		f          cleanupFlags
		watch, dry bool
	)
	cmd := &cobra.Command{
		Use: "run", Short: "Clean up now, beside the schedule", Args: cobra.NoArgs,
		Long: `Runs the job cleanup now. It removes in small transactions, can be cancelled at any moment ("nightshift runs cancel"), and says
for each target in the system log what went and what stayed.`,
		Example: `  nightshift cleanup run --watch
  nightshift cleanup run --target system-log --param system_log_days=30 --dry-run --watch`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			params, err := f.parameters()
			if err != nil {
				return err
			}
			if dry {
				params["dry_run"] = "true"
			}
			ctx := cmd.Context()
			// A mistake is said here, and not by a run that fails.
			all, err := f.ofJob(cmd, c)
			if err != nil {
				return err
			}
			rules, err := c.cleanup()
			if err != nil {
				return err
			}
			if _, err := rules.ListCleanupRules(ctx, &cleanupv1.ListCleanupRulesRequest{Parameters: all}); err != nil {
				return err
			}
			api, err := c.jobs()
			if err != nil {
				return err
			}
			r, err := api.RunJob(ctx, &jobv1.RunJobRequest{Name: f.job, Parameters: params, RequestedBy: requester()})
			if err != nil {
				return withHint(err, errs.NotFound, noSuchJob)
			}
			if watch {
				return c.watchRun(ctx, r.GetRunId())
			}
			c.say("\"nightshift runs watch %s\" follows it", r.GetRunId())
			v := object{{"run_id", r.GetRunId()}}
			return printOne(c, v, func(o object) object { return o },
				[]column[object]{{name: "run_id", text: func(object) string { return r.GetRunId() }}},
				func() { c.print("%s\n", clean(r.GetRunId())) })
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.BoolVarP(&watch, "watch", "w", false, "follow the run to its end; exit with 1 when it fails and 6 when it is partial")
	fl.BoolVar(&dry, "dry-run", false, "only count, and say so in the system log")
	return cmd
}
