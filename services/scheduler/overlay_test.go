package scheduler

import (
	"context"
	"strings"
	"testing"
	"time"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// An operator runs any job, and cleanup by its own parameters; what decides
// about what is deleted takes an admin. A run is asked for in the caller's name.
func TestWhoSaysWhatIsDeleted(t *testing.T) {
	t.Parallel()
	nats, asked := devtest.NATS(t), map[string]<-chan *jobv1.Trigger{}
	for _, kind := range []string{"cleanup", "waste"} {
		asked[kind] = handle(t, nats, kind)
	}
	r := start(t, connect(t, nats, "scheduler"), newWorld(monday.Add(10*time.Second)).clock(0))
	for kind := range asked {
		if _, err := r.CreateJob(t.Context(), &jobv1.CreateJobRequest{Job: &jobv1.Job{Name: "of-" + kind, Kind: kind, Schedule: "0 0 1 1 *"}}); err != nil {
			t.Fatal(err)
		}
	}
	as := func(role authv1.Role) context.Context {
		return auth.With(t.Context(), auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: "maria", Role: role})
	}
	parameters := map[string]string{"rules": "x"}
	for _, c := range []struct {
		name string
		ctx  context.Context
		job  string
		set  map[string]string
		may  bool
	}{
		{"operator", as(authv1.Role_ROLE_OPERATOR), "waste", parameters, true}, {"operator", as(authv1.Role_ROLE_OPERATOR), "cleanup", nil, true},
		{"operator", as(authv1.Role_ROLE_OPERATOR), "cleanup", parameters, false}, {"admin", as(authv1.Role_ROLE_ADMIN), "cleanup", parameters, true},
		{"nobody known", t.Context(), "cleanup", parameters, true},
	} {
		_, err := r.RunJob(c.ctx, &jobv1.RunJobRequest{Name: "of-" + c.job, Parameters: c.set, RequestedBy: "somebody else"})
		if (err == nil) != c.may || err != nil && errs.Reason(err) != "ROLE_TOO_LOW" {
			t.Errorf("%s runs %s with %v: %v", c.name, c.job, c.set, err)
		}
		if err != nil {
			continue
		}
		want := "maria"
		if c.ctx == t.Context() {
			want = "somebody else"
		}
		if got := <-asked[c.job]; got.GetRequestedBy() != want {
			t.Errorf("asked for by %q, want %q", got.GetRequestedBy(), want)
		}
	}
}

// Who may see one account learns from a job of no other.
func TestJobsForCallersOfOneAccount(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	handle(t, nats, "waste")
	r := start(t, connect(t, nats, "scheduler"), newWorld(monday).clock(0))
	if _, err := r.CreateJob(t.Context(), &jobv1.CreateJobRequest{Job: &jobv1.Job{Name: "theirs", Kind: "waste", Schedule: "@yearly", Parameters: map[string]string{"accounts": "999988887777"}}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		accounts []string
		sees     bool
	}{{nil, true}, {[]string{"111122223333"}, false}} {
		ctx := auth.With(t.Context(), auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: "maria", Role: authv1.Role_ROLE_VIEWER, Accounts: c.accounts})
		got, err := r.GetJob(ctx, &jobv1.GetJobRequest{Name: "theirs"})
		if err != nil {
			t.Fatal(err)
		}
		all, err := r.ListJobs(ctx, &jobv1.ListJobsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{got.String(), all.String()} {
			if strings.Contains(text, "999988887777") != c.sees || !strings.Contains(text, "theirs") {
				t.Errorf("a caller of %v sees %s", c.accounts, text)
			}
		}
	}
}
