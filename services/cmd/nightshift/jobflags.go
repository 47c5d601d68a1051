package main

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
)

// jobFlags are the parts of a job that a person sets.
type jobFlags struct {
	description, schedule, zone, start, end   string
	misfire, overlap, notify                  string
	parameters, labels                        map[string]string
	retries, misfireLimit                     int32
	timeout, runTimeout, jitter, misfireAfter time.Duration
	backoff, maxBackoff                       time.Duration
}

func (f *jobFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.schedule, "schedule", "", "cron expression of five fields such as \"0 */6 * * *\", six with the second first, @daily and the like, or \"@every 90m\"")
	fl.StringVar(&f.zone, "time-zone", "", "IANA time zone the schedule is read in, such as Europe/Berlin; none: UTC")
	fl.DurationVar(&f.jitter, "jitter", 0, "spread jobs of the same schedule: fire later than planned by a part of this that the name decides")
	fl.StringVar(&f.start, "start", "", "fire for no time planned before this: a day such as 2027-03-01, from its beginning in UTC, or a time as in RFC 3339")
	fl.StringVar(&f.end, "end", "", "fire for no time planned after this: a day, to its end in UTC, or a time as in RFC 3339")
	fl.StringVar(&f.misfire, "misfire", "", "what becomes of planned times that passed while nothing could fire: "+hyphenNames(jobv1.MisfirePolicy(0))+" (default run-once)")
	fl.Int32Var(&f.misfireLimit, "misfire-limit", 100, "with --misfire run-all: how many of them fire at most, the newest, 1 to 1000")
	fl.DurationVar(&f.misfireAfter, "misfire-deadline", 12*time.Hour, "how late a planned time may still fire; with --misfire skip 1m unless given")
	addOverlap(cmd, &f.overlap, " (default skip)")
	fl.StringToStringVar(&f.parameters, "param", nil, "parameter NAME=VALUE handed to the handler, such as regions=eu-west-1; may be given several times")
	fl.Int32Var(&f.retries, "max-retries", 3, "how often a failed scope of a run is tried again, 0 to 10")
	fl.DurationVar(&f.backoff, "backoff", time.Second, "how long to wait before the second attempt of a scope; each further wait is four times the one before")
	fl.DurationVar(&f.maxBackoff, "max-backoff", 5*time.Minute, "the longest wait before another attempt")
	fl.DurationVar(&f.timeout, "scope-timeout", 30*time.Minute, "how long one scope of a run may take")
	fl.DurationVar(&f.runTimeout, "run-timeout", 24*time.Hour, "how long a whole run may take")
	fl.StringVar(&f.notify, "notify", "", "which ends of runs raise an alert: "+hyphenNames(jobv1.NotifyPolicy(0))+" (default on-failure)")
	fl.StringVar(&f.description, "description", "", "one line for people")
	fl.StringToStringVar(&f.labels, "label", nil, "label NAME=VALUE; may be given several times")
	complete(cmd, "misfire", hyphens(jobv1.MisfirePolicy(0))...)
	complete(cmd, "notify", hyphens(jobv1.NotifyPolicy(0))...)
}

func addOverlap(cmd *cobra.Command, to *string, otherwise string) {
	cmd.Flags().StringVar(to, "overlap", "", "what to do when another run of the job is at work: "+hyphenNames(jobv1.OverlapPolicy(0))+otherwise)
	complete(cmd, "overlap", hyphens(jobv1.OverlapPolicy(0))...)
}

// fill puts the flags that were given into the job, over what it has, and
// returns their fields.
func (f *jobFlags) fill(cmd *cobra.Command, j *jobv1.Job) (fields []string, err error) {
	misfire := func() *jobv1.Misfire {
		if j.Misfire == nil {
			j.Misfire = &jobv1.Misfire{}
		}
		return j.Misfire
	}
	backoff := func() *jobv1.Backoff {
		if j.Backoff == nil {
			j.Backoff = &jobv1.Backoff{}
		}
		return j.Backoff
	}
	for _, x := range []struct {
		flag, field string
		set         func() error
	}{
		{"schedule", "schedule", func() error { j.Schedule = f.schedule; return nil }},
		{"time-zone", "time_zone", func() error { j.TimeZone = f.zone; return nil }},
		{"jitter", "jitter", func() error { j.Jitter = durationpb.New(f.jitter); return nil }},
		{"start", "start_time", func() (err error) { j.StartTime, err = moment("start", f.start, false); return err }},
		{"end", "end_time", func() (err error) { j.EndTime, err = moment("end", f.end, true); return err }},
		{"misfire", "misfire", func() (err error) {
			misfire().Policy, err = byName(jobv1.MisfirePolicy(0), "misfire", f.misfire)
			return err
		}},
		{"misfire-limit", "misfire", func() error { misfire().Limit = f.misfireLimit; return nil }},
		{"misfire-deadline", "misfire", func() error { misfire().Deadline = durationpb.New(f.misfireAfter); return nil }},
		{"overlap", "overlap_policy", func() (err error) {
			j.OverlapPolicy, err = byName(jobv1.OverlapPolicy(0), "overlap", f.overlap)
			return err
		}},
		{"param", "parameters", func() error { j.Parameters = f.parameters; return nil }},
		{"max-retries", "max_retries", func() error { j.MaxRetries = &f.retries; return nil }},
		{"backoff", "backoff", func() error { backoff().Initial = durationpb.New(f.backoff); return nil }},
		{"max-backoff", "backoff", func() error { backoff().Max = durationpb.New(f.maxBackoff); return nil }},
		{"scope-timeout", "timeout", func() error { j.Timeout = durationpb.New(f.timeout); return nil }},
		{"run-timeout", "run_timeout", func() error { j.RunTimeout = durationpb.New(f.runTimeout); return nil }},
		{"notify", "notify_policy", func() (err error) {
			j.NotifyPolicy, err = byName(jobv1.NotifyPolicy(0), "notify", f.notify)
			return err
		}},
		{"description", "description", func() error { j.Description = f.description; return nil }},
		{"label", "labels", func() error { j.Labels = f.labels; return nil }},
	} {
		if !cmd.Flags().Changed(x.flag) {
			continue
		}
		if err := x.set(); err != nil {
			return nil, err
		}
		if !slices.Contains(fields, x.field) {
			fields = append(fields, x.field)
		}
	}
	return fields, nil
}

// inParts reports that flags were given which are parts of one field, so that
// the rest of it has to be known.
func inParts(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"misfire", "misfire-limit", "misfire-deadline", "backoff", "max-backoff"}, cmd.Flags().Changed)
}

// moment reads a time; a day is its beginning or its end, in UTC. Empty is
// unset.
func moment(flag, s string, end bool) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		if end {
			t = t.AddDate(0, 0, 1).Add(-time.Second)
		}
		return timestamppb.New(t), nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return timestamppb.New(t), nil
	}
	return nil, usage("--%s %q is no day such as 2027-03-31 and no time as in RFC 3339 such as 2027-03-31T06:00:00Z", flag, s)
}

// hyphen is the name of an enum's value as flags have it, such as run-once; ""
// for the unspecified one.
func hyphen(e protoreflect.Enum) string {
	return strings.ToLower(strings.ReplaceAll(name(e), "_", "-"))
}

// hyphens are the names a flag takes.
func hyphens(e protoreflect.Enum) []string {
	names := enumNames(e)
	for i, n := range names {
		names[i] = strings.ToLower(strings.ReplaceAll(n, "_", "-"))
	}
	return names
}

func hyphenNames(e protoreflect.Enum) string { return strings.Join(hyphens(e), ", ") }

// byName is the value of an enum that a flag names; empty is the unspecified
// one. The first argument only says which enum.
func byName[E interface {
	~int32
	protoreflect.Enum
}](e E, flag, value string) (E, error) {
	if value == "" {
		return 0, nil
	}
	full := enumPrefix(e.Descriptor()) + strings.ToUpper(strings.ReplaceAll(value, "-", "_"))
	v := e.Descriptor().Values().ByName(protoreflect.Name(full))
	if v == nil || v.Number() == 0 {
		return 0, usage("--%s %q is not one of %s", flag, value, hyphenNames(e))
	}
	return E(v.Number()), nil
}
