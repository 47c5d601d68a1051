package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services/health"
)

// work is what "up" does once the services stand: register accounts, run the
// jobs, show what was found.
func (u *everything) work(ctx context.Context, failAt rulev1.Severity) error {
	c := u.c
	if err := u.token(ctx); err != nil {
		return err
	}
	if err := u.register(ctx); err != nil {
		return err
	}
	runs, err := u.runJobs(ctx)
	if err != nil {
		return err
	}
	worst, err := u.show(ctx)
	if err != nil {
		return err
	}
	if !u.o.once {
		for _, r := range runs {
			if err := runExit(r); err != nil {
				c.sayError(err.Error())
			}
		}
		u.howTo()
		return nil
	}
	var partial error
	for _, r := range runs {
		err := runExit(r)
		if r.GetState() == runv1.RunState_RUN_STATE_FAILED {
			return err
		}
		partial = cmp.Or(partial, err)
	}
	if failAt > 0 && worst >= failAt {
		return failedOn(failAt)
	}
	return partial
}

// startWithin is how long services may take until they answer.
const startWithin = 30 * time.Second

// patiently repeats a call while its service is not there yet.
func patiently[T any](ctx context.Context, call func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		v, err := call(ctx)
		if !errors.Is(err, errs.Unavailable) || ctx.Err() != nil {
			return v, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return v, err
		}
	}
}

// register registers the accounts when there is none.
func (u *everything) register(ctx context.Context) error {
	c, since := u.c, u.c.now()
	api := accountv1.NewAccountServiceClient(u.host.Dial("persistence"))
	r, err := patiently(ctx, func(ctx context.Context) (*accountv1.ListAccountsResponse, error) {
		return api.ListAccounts(ctx, &accountv1.ListAccountsRequest{PageSize: 1000})
	})
	if err != nil {
		return err
	}
	if n := len(r.GetAccounts()); n > 0 {
		u.step(since, "accounts", count(int64(n))+" registered")
		return nil
	}
	var accounts []*accountv1.Account
	if u.cloud == nil {
		accounts = append(accounts, &accountv1.Account{Id: u.caller.Account, Name: "this account", Partition: u.caller.Partition})
	} else {
		for _, a := range u.cloud.Estate().Accounts {
			if a.State != "" {
				continue
			}
			account := &accountv1.Account{Id: a.ID, Name: a.Name, RoleArn: a.RoleARN(simaws.ReadOnlyRole)}
			for _, role := range a.Roles {
				if role.Name == simaws.ReadOnlyRole {
					account.ExternalId = role.ExternalID
				}
			}
			accounts = append(accounts, account)
		}
	}
	var names []string
	for _, a := range accounts {
		if _, err := api.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: a}); err != nil && !errors.Is(err, errs.AlreadyExists) {
			return err
		}
		names = append(names, clean(a.GetName()))
	}
	list := strings.Join(names, ", ")
	if width, _ := c.size(); c.errTTY && len(list)+32 > width {
		list = count(int64(len(names)))
	}
	u.step(since, "accounts", "registered "+list)
	return nil
}

// runJobs runs what is due: at the first start, and with --once, every job
// that is not paused; at any start the runs that an earlier one began. It
// returns how they ended.
func (u *everything) runJobs(ctx context.Context) ([]*runv1.Run, error) {
	jobs := jobv1.NewJobServiceClient(u.host.Dial("scheduler"))
	runs := runv1.NewRunServiceClient(u.host.Dial("persistence"))
	due, err := u.due(ctx, jobs)
	if err != nil {
		return nil, err
	}
	// Runs that were cut off go on by themselves; they are followed, too.
	open, err := runs.ListRuns(ctx, &runv1.ListRunsRequest{PageSize: 100, Filter: `state = "RUNNING"`})
	if err != nil {
		return nil, err
	}
	ids := map[string]string{} // job by run id
	for _, r := range open.GetRuns() {
		ids[r.GetId()] = ""
	}
	if len(ids) > 0 {
		u.c.say("  %s going on with %s that was cut off; taking it up can need half a minute", u.c.errPaint(cyan, "i"), many(int64(len(ids)), "run", "runs"))
	}
	for _, job := range due {
		if u.state.Asked[job] == "" {
			u.state.Asked[job] = "up-" + strings.ToLower(rand.Text()[:12])
			if err := u.remember(); err != nil {
				return nil, err
			}
		}
		r, err := jobs.RunJob(ctx, &jobv1.RunJobRequest{
			Name: job, RequestId: u.state.Asked[job], RequestedBy: "nightshift up",
			OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW, // its schedule may have begun one this minute
		})
		if err != nil {
			return nil, fmt.Errorf("job %s: %w", job, err)
		}
		ids[r.GetRunId()] = job
	}
	ended, err := u.followAll(ctx, runs, ids)
	if err != nil {
		return nil, err
	}
	for _, job := range due {
		delete(u.state.Asked, job)
	}
	u.state.Started = true
	return ended, u.remember()
}

// due are the jobs to run now.
func (u *everything) due(ctx context.Context, api jobv1.JobServiceClient) ([]string, error) {
	if u.state.Started && !u.o.once && len(u.state.Asked) == 0 {
		return nil, nil
	}
	list := func() (*jobv1.ListJobsResponse, error) {
		return patiently(ctx, func(ctx context.Context) (*jobv1.ListJobsResponse, error) {
			return api.ListJobs(ctx, &jobv1.ListJobsRequest{PageSize: 1000})
		})
	}
	r, err := list()
	// The scheduler registers its default jobs on the side, each when the
	// service that handles it is there.
	unhandled := func() bool {
		return slices.ContainsFunc(append(setNames(), health.Kind), func(kind string) bool {
			return !slices.ContainsFunc(r.GetJobs(), func(j *jobv1.Job) bool { return j.GetKind() == kind })
		})
	}
	for tries := 0; err == nil && !u.state.Started && unhandled() && tries < 50; tries++ {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		r, err = list()
	}
	if err != nil {
		return nil, err
	}
	var due []string
	for _, j := range r.GetJobs() {
		if !j.GetPaused() || u.state.Asked[j.GetName()] != "" {
			due = append(due, j.GetName())
		}
	}
	return due, nil
}

// followAll follows runs to their ends.
func (u *everything) followAll(ctx context.Context, api runv1.RunServiceClient, ids map[string]string) ([]*runv1.Run, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	for id, job := range ids {
		if job != "" {
			u.c.say("\nrunning %s: %s", u.c.errPaint(bold, clean(job)), clean(id))
		}
	}
	var (
		mu    sync.Mutex
		ended []*runv1.Run
		total = map[string]int{}
		all   errgroup.Group
		p     = u.c.newProgress(0)
	)
	for id := range ids {
		all.Go(func() error {
			run, _, err := follow(ctx, api, id, func(r *runv1.WatchRunResponse) error {
				mu.Lock()
				total[id] = int(r.GetRun().GetScopes().GetTotal())
				sum := 0
				for _, n := range total {
					sum += n
				}
				mu.Unlock()
				p.expect(sum)
				p.show(r)
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, run)
			return err
		})
	}
	err := all.Wait()
	p.close()
	if err != nil {
		return nil, err
	}
	if p.bars == nil {
		u.c.say("%s", p.summary())
	}
	return ended, nil
}

// mostShown is how many findings of each kind are shown at the end of a run.
const mostShown = 6

// show prints what is open: sums, the most expensive and the most severe in
// tables, everything in the other formats. It returns the highest severity.
// What is exempt is in no sum and no table.
func (u *everything) show(ctx context.Context) (worst rulev1.Severity, err error) {
	c := u.c
	api := findingv1.NewFindingServiceClient(u.host.Dial("persistence"))
	var (
		sum               totals
		exempt            int64
		dearest, severest []*findingv1.Finding
		all               = newPrinter(c, findingTree, findingColumns)
	)
	for token := ""; ; {
		r, err := api.ListFindings(ctx, &findingv1.ListFindingsRequest{PageSize: 500, PageToken: token, Filter: `state != "RESOLVED"`, OrderBy: "monthly_cost desc"})
		if err != nil {
			return 0, err
		}
		for _, f := range r.GetFindings() {
			if f.GetState() == findingv1.State_STATE_EXEMPT {
				exempt++
				if c.output != formatTable {
					if err := all.add(f); err != nil {
						return 0, err
					}
				}
				continue
			}
			worst = max(worst, f.GetSeverity())
			sum.add(f.GetCategory(), f.GetSeverity(), f.GetMonthlyCost(), f.GetResource().GetArn())
			if c.output != formatTable {
				if err := all.add(f); err != nil {
					return 0, err
				}
			} else if f.GetMonthlyCost() != nil && len(dearest) < mostShown {
				dearest = append(dearest, f)
			} else if f.GetMonthlyCost() == nil {
				severest = append(severest, f)
				slices.SortStableFunc(severest, func(a, b *findingv1.Finding) int { return cmp.Compare(b.GetSeverity(), a.GetSeverity()) })
				severest = severest[:min(len(severest), mostShown)]
			}
		}
		if token = r.GetNextPageToken(); token == "" {
			break
		}
	}
	c.say("")
	if c.output != formatTable {
		if err := all.close(); err != nil {
			return 0, err
		}
	} else if len(dearest)+len(severest) > 0 {
		var rows []severityRow
		for _, s := range sum.severities() {
			low, high := sum.sum(s)
			rows = append(rows, severityRow{s, sum.count[s], sum.unknown[s], low, high})
		}
		c.print("%s\n", renderTable(c, severityColumns, rows))
		for _, top := range [][]*findingv1.Finding{dearest, severest} {
			if len(top) > 0 {
				c.print("\n%s\n", renderTable(c, findingColumns, top))
			}
		}
		c.say("")
	}
	if exempt > 0 {
		c.say("%s exempt, and not counted; \"%s findings list --state exempt\" shows by whom and why", many(exempt, "more is", "more are"), u.me())
	}
	c.say("%s · %s after the start", sum.sentence(c), lasted(c.now().Sub(u.start)))
	return worst, nil
}

// howTo says what to do with what runs now.
func (u *everything) howTo() {
	c, me := u.c, u.me()
	c.say("\n%s In another terminal:", c.errPaint(bold, "Everything runs."))
	for _, x := range [][2]string{
		{"findings list --severity medium", "what it found, the most expensive first"},
		{"rules explain ebs-unattached", "why that is waste, and how it is judged"},
		{"jobs run waste-scan --watch", "look again now"},
		{"findings watch", "what happens, while it happens"},
		{"--help", "everything else"},
	} {
		column := len(me) + 34
		if width, _ := c.size(); c.errTTY && column+45 > width {
			c.say("  %s", c.errPaint(cyan, me+" "+x[0]))
			continue
		}
		c.say("  %s %s", c.errPaint(cyan, fmt.Sprintf("%-*s", column, me+" "+x[0])), c.errPaint(faint, x[1]))
	}
	if u.cloud != nil {
		c.say("\nThe simulated AWS answers any AWS tool:")
		for _, v := range u.cloud.Env() {
			if !strings.HasPrefix(v, "AWS_DEFAULT_REGION") {
				c.say("  export %s", v)
			}
		}
	}
	if u.nats != nil {
		c.say("\nEvents are on %s, logs in %s/nightshift.log.", u.nats.URL(), u.dir)
	}
	c.say("Ctrl-C stops everything; the next start goes on here.")
}
