package cleanup

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cleanupv1 "nightshift.dev/gen/nightshift/cleanup/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	"nightshift.dev/pkg/errs"
)

// rule says how long one kind of thing is kept.
type rule struct {
	target retentionv1.Target
	// name is lower-case words with hyphens: the scope of a run.
	name string
	text string
	// age is in units, which is what its parameter counts; without a unit age
	// plays no part.
	age  int
	unit string // days or hours
	// keep is how many of the newest of each job stay; -1: number plays no part.
	keep int
}

// rules are all there are, with what holds unless somebody says otherwise, in
// the order in which they are applied: what refers to others goes before them.
var rules = []rule{
	{retentionv1.Target_TARGET_ORPHANS, "orphans", "Findings whose account or region has left the scope of scans are marked as orphans; none is deleted.", 0, "", -1},
	{retentionv1.Target_TARGET_SYSTEM_LOG, "system-log", "Entries of the system log.", 90, "days", -1},
	{retentionv1.Target_TARGET_ONBOARDINGS, "onboardings", "Onboardings that are completed or cancelled.", 24, "hours", -1},
	{retentionv1.Target_TARGET_FINDINGS, "findings", "Resolved findings, from when they were resolved, with all that became of them.", 400, "days", -1},
	{retentionv1.Target_TARGET_RUNS, "runs", "Runs that have ended, with their scopes, coverage and tallies.", 90, "days", 20},
	{retentionv1.Target_TARGET_SIGHTINGS, "sightings", "What scans remember of accounts and regions that they do not look at any more.", 90, "days", -1},
	{retentionv1.Target_TARGET_METRICS, "metrics", "Figures of instances by day, instances that are gone, and states of components.", 400, "days", -1},
	{retentionv1.Target_TARGET_EXEMPTIONS, "exemptions", "Exemptions that have expired.", 400, "days", -1},
	{retentionv1.Target_TARGET_OUTBOX, "outbox", "Messages that can never be published.", 30, "days", -1},
	{retentionv1.Target_TARGET_NOTICES, "notices", "Events that notifications have told of, kept to know them when they come again.", 7, "days", -1},
	{retentionv1.Target_TARGET_DELIVERIES, "deliveries", "Deliveries of notifications, from when they ended.", 90, "days", -1},
	{retentionv1.Target_TARGET_SILENCES, "silences", "Silences that have expired.", 400, "days", -1},
}

// The most that parameters may say, which is ten years, and what persistence takes.
const (
	maxDays  = 3650
	maxHours = maxDays * 24
	minHours = 2 // persistence removes nothing younger than one, by its own clock
	maxKeep  = 10_000
)

// The parameters that are for no rule by itself.
const (
	paramTargets = "targets"
	paramDryRun  = "dry_run"
)

func (r *rule) word() string { return strings.ReplaceAll(r.name, "-", "_") }

func (r *rule) ageParam() string {
	if r.unit == "" {
		return ""
	}
	return r.word() + "_" + r.unit
}

func (r *rule) keepParam() string {
	if r.keep < 0 {
		return ""
	}
	return r.word() + "_keep"
}

// duration is how long things are kept.
func (r *rule) duration() time.Duration {
	if r.unit == "hours" {
		return time.Duration(r.age) * time.Hour
	}
	return time.Duration(r.age) * 24 * time.Hour
}

// before is the time from before which things go, nil when age plays no part.
func (r *rule) before(now time.Time) *timestamppb.Timestamp {
	if r.unit == "" {
		return nil
	}
	return timestamppb.New(now.Add(-r.duration()).UTC().Truncate(time.Second))
}

func (r *rule) keepNewest() int32 { return int32(max(r.keep, 0)) }

func (r *rule) proto() *cleanupv1.Rule {
	p := &cleanupv1.Rule{Target: r.target, Name: r.name, Description: r.text, Keep: r.keepNewest()}
	if r.unit != "" {
		p.Age = durationpb.New(r.duration())
	}
	for _, name := range []string{r.ageParam(), r.keepParam()} {
		if name != "" {
			p.Parameters = append(p.Parameters, name)
		}
	}
	return p
}

// options are rules with parameters applied.
type options struct {
	rules []rule // those of the targets asked for
	dry   bool
}

// options applies the parameters of the environment, and over them those of a
// run.
func (s *Service) options(params map[string]string) (*options, error) {
	all := maps.Clone(s.params)
	maps.Copy(all, params)
	return apply(all, "parameters")
}

// apply makes options of parameters; field is what errors call them.
func apply(params map[string]string, field string) (*options, error) {
	o := &options{rules: slices.Clone(rules)}
	e := errs.New(errs.InvalidArgument, "BAD_PARAMETERS", "the cleanup cannot be done so")
	bad := func(name, format string, args ...any) { e.Field(field+"["+strconv.Quote(name)+"]", format, args...) }
	for _, name := range slices.Sorted(maps.Keys(params)) {
		value := strings.TrimSpace(params[name])
		number := func(into *int, low, high int) {
			n, err := strconv.Atoi(value)
			if err != nil || n < low || n > high {
				bad(name, "is %q; must be a whole number from %d to %d", value, low, high)
				return
			}
			*into = n
		}
		i := slices.IndexFunc(o.rules, func(r rule) bool { return name != "" && (name == r.ageParam() || name == r.keepParam()) })
		switch {
		case name == paramTargets:
		case name == paramDryRun:
			dry, err := strconv.ParseBool(cmp.Or(value, "false"))
			if err != nil {
				bad(name, "is %q; must be true or false", value)
			}
			o.dry = dry
		case i < 0:
			bad(name, "is no parameter; there are %s", strings.Join(parameters(), ", "))
		case name == o.rules[i].keepParam():
			number(&o.rules[i].keep, 0, maxKeep)
		case o.rules[i].unit == "hours":
			number(&o.rules[i].age, minHours, maxHours)
		default:
			number(&o.rules[i].age, 1, maxDays)
		}
	}
	if text := strings.TrimSpace(params[paramTargets]); text != "" {
		want := map[string]bool{}
		for name := range strings.SplitSeq(text, ",") {
			name = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "_", "-")
			if !slices.ContainsFunc(rules, func(r rule) bool { return r.name == name }) {
				bad(paramTargets, "names %q, which is no target; there are %s", name, strings.Join(names(), ", "))
			}
			want[name] = true
		}
		o.rules = slices.DeleteFunc(o.rules, func(r rule) bool { return !want[r.name] })
	}
	if len(e.Violations()) > 0 {
		return nil, e
	}
	return o, nil
}

// names are the names of all targets.
func names() []string {
	var out []string
	for _, r := range rules {
		out = append(out, r.name)
	}
	return out
}

// parameters are the names of all parameters.
func parameters() []string {
	out := []string{paramDryRun, paramTargets}
	for _, r := range rules {
		out = append(out, r.proto().GetParameters()...)
	}
	slices.Sort(out)
	return out
}

// environment reads the parameters of the variable.
func environment(text string) (map[string]string, error) {
	const name = "NIGHTSHIFT_CLEANUP_PARAMS"
	params := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if key = strings.TrimSpace(key); !ok || key == paramTargets || key == paramDryRun {
			return nil, errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used").
				Field(name, "has %q; want a parameter of a rule with its value, such as system_log_days=30", strings.TrimSpace(pair))
		}
		params[key] = strings.TrimSpace(value)
	}
	if _, err := apply(params, name); err != nil {
		return nil, fmt.Errorf("the configuration cannot be used: %w", err)
	}
	return params, nil
}
