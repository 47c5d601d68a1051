package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	_, good := serve(t, runv1.RunState_RUN_STATE_SUCCEEDED)
	_, partial := serve(t, runv1.RunState_RUN_STATE_PARTIAL)
	_, failed := serve(t, runv1.RunState_RUN_STATE_FAILED)
	nobody := map[string]string{"NIGHTSHIFT_PERSISTENCE_ADDR": "127.0.0.1:1"}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	missing := filepath.Join(t.TempDir(), "missing")
	for _, x := range []struct {
		args string
		env  map[string]string
		code int
		says string // on stderr
	}{
		{"--help", good, exitOK, ""},
		{"jobs", good, exitOK, ""},
		{"completion bash", good, exitOK, ""},
		{"bogus", good, exitUsage, "unknown command"},
		{"findngs list", good, exitUsage, "did you mean findings"},
		{"jobs lst", good, exitUsage, "did you mean"},
		{"findings list --bogus", good, exitUsage, "unknown flag: --bogus\n  \"nightshift findings list --help\" lists the flags.\n"},
		{"findings list extra", good, exitUsage, "unknown command"},
		{"findings list -o xml", good, exitUsage, "is not one of table, json"},
		{"findings list --color blue", good, exitUsage, "--color"},
		{"findings list --timeout x", good, exitUsage, "--timeout"},
		{"findings list --severity awful", good, exitUsage, "info, low, medium, high, critical"},
		{"findings list --state x", good, exitUsage, "open, exempt, resolved or all"},
		{"findings list --addr nobody=x:1", good, exitUsage, "SERVICE=HOST:PORT"},
		{"findings list --filter nonsense", good, exitUsage, "filter: compares nonsense\n    order_by: is wrong"},
		{"findings show", good, exitUsage, "the id of a finding"},
		{"findings show xyz", good, exitUsage, "32 hexadecimal digits"},
		{"findings show " + strings.Repeat("0", 32), good, exitError, "findings list --state all"},
		{"jobs get nope", good, exitError, "nightshift jobs list"},
		{"jobs create x", good, exitUsage, "--kind and --schedule"},
		{"jobs update waste-scan", good, exitUsage, "nothing to change"},
		{"jobs next", good, exitUsage, "--schedule"},
		{"accounts update 123456789012 --state gone", good, exitUsage, "active or suspended"},
		{"exemptions show nope", good, exitError, "nightshift exemptions list"},
		{"exemptions add --reason x --until 9d", good, exitUsage, "say what is to be exempt"},
		{"exemptions add --rule a --reason x", good, exitUsage, "--reason and --until"},
		{"exemptions add --rule a --until 9d", good, exitUsage, "--reason and --until"},
		{"exemptions add --rule a --reason x --until never", good, exitUsage, "2027-03-31"},
		{"exemptions add --rule a --reason x --until -9h", good, exitUsage, "--until"},
		{"exemptions add --tag a --reason x --until 9d", good, exitUsage, "Environment=dev"},
		{"exemptions update x", good, exitUsage, "nothing to change"},
		{"exemptions remove", good, exitUsage, "the id of an exemption"},
		{"deadletters show x", good, exitUsage, "number of a dead letter"},
		{"rules explain nope", good, exitError, "nightshift rules list"},
		{"findings list --fail-on critical", good, exitOK, ""},
		{"findings list --fail-on high --limit 1", good, exitFindings, "severity HIGH or above"},
		{"findings list --fail-on high -o json", good, exitFindings, ""},
		{"runs watch", good, exitOK, ""},
		{"runs watch", partial, exitPartial, "did not see everything"},
		{"runs watch", failed, exitError, "failed: for a reason"},
		{"jobs run waste-scan --watch -o json", partial, exitPartial, ""},
		{"jobs run waste-scan", failed, exitOK, "runs watch"},
		{"findings list", nobody, exitError, "nightshift up"},
		{"findings list", nobody, exitError, "NIGHTSHIFT_PERSISTENCE_ADDR"},
		{"findings watch", nobody, exitError, "127.0.0.1:1"},
		{"findings list --timeout 50ms --addr persistence=" + silent.Addr().String(), good, exitError, "not done within --timeout"},
		{"findings list --data-dir " + missing, good, exitError, "nothing runs on the data directory"},
		{"scan nothing", good, exitUsage, "there is " + strings.Join(setNames(), ", ")},
		{"scan waste waste", good, exitUsage, "at most one"},
		{"scan --rules nope", good, exitUsage, "no rule"},
		{"scan --param nope=1", good, exitUsage, "ec2-stopped.min_days=45"},
		{"scan --regions X", good, exitUsage, "region code"},
		{"scan --organization", good, exitUsage, "--role-name"},
		{"scan --accounts 12", good, exitUsage, "12-digit"},
		{"up --port-base -1", good, exitUsage, "ports"},
		{"up --fail-on awful", good, exitUsage, "--fail-on"},
	} {
		r := execute(t, x.env, strings.Fields(x.args)...)
		if r.code != x.code || !strings.Contains(r.err, x.says) {
			t.Errorf("nightshift %s: code %d, want %d; stderr, which must say %q:\n%s", x.args, r.code, x.code, x.says, r.err)
		}
		if r.code != exitOK && r.code != exitFindings && r.code != exitPartial && x.args != "runs watch" && r.out != "" {
			t.Errorf("nightshift %s failed and left on stdout: %s", x.args, r.out)
		}
	}
}

func TestRequestsAreWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	f, env := serve(t, runv1.RunState_RUN_STATE_SUCCEEDED)
	execute(t, env, "findings", "list", "--severity", "medium", "--rule", "a,b", "--account", "123456789012", "--owner", `a"b\c`, "--min-cost", "9.5", "--filter", "x = 1 OR y = 2", "-o", "json")
	want := `state != "RESOLVED" AND state != "EXEMPT" AND severity >= "MEDIUM" AND (rule_id = "a" OR rule_id = "b") AND (account = "123456789012") AND (owner = "a\"b\\c") AND monthly_cost >= 9.5 AND (x = 1 OR y = 2)`
	if got := f.requests[0].(*findingv1.ListFindingsRequest); got.GetFilter() != want || got.GetOrderBy() != "monthly_cost desc" || got.GetPageSize() != 500 {
		t.Errorf("asked for %v", got)
	}
	f.requests = nil
	execute(t, env, "findings", "list", "--limit", "2")
	if n := len(f.requests); n != 2 || f.requests[1].(*findingv1.ListFindingsRequest).GetPageSize() != 1 {
		t.Errorf("with a limit of 2 it asked %d times, last for %v", n, f.requests[n-1])
	}

	f.requests = nil
	execute(t, env, "jobs", "update", "waste-scan", "--max-retries", "0", "--param", "regions=eu-west-1", "--etag", "7")
	u := f.requests[0].(*jobv1.UpdateJobRequest)
	if got := u.GetUpdateMask().GetPaths(); len(got) != 2 || u.GetJob().MaxRetries == nil || u.GetJob().GetEtag() != "7" || u.GetJob().GetParameters()["regions"] != "eu-west-1" {
		t.Errorf("asked for %v", u)
	}
	f.requests = nil
	execute(t, env, "accounts", "update", "123456789012", "--regions", "", "--state", "suspended")
	a := f.requests[0].(*accountv1.UpdateAccountRequest)
	if a.GetAccount().GetState() != accountv1.AccountState_ACCOUNT_STATE_SUSPENDED || len(a.GetAccount().GetRegions()) != 0 || len(a.GetUpdateMask().GetPaths()) != 2 {
		t.Errorf("asked for %v", a)
	}
	f.requests = nil
	execute(t, env, "logs", "--level", "warn", "--job", "waste-scan")
	if got := f.requests[0].(*systemlogv1.ListEntriesRequest).GetFilter(); got != `level >= "WARN" AND job = "waste-scan"` {
		t.Errorf("asked for %s", got)
	}
}

func TestWatchGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	f, env := serve(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	// It ends when the third stream, which only waits, has begun.
	go func() {
		for ctx.Err() == nil {
			f.mu.Lock()
			n := f.watches
			f.mu.Unlock()
			if n > 2 {
				cancel()
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	r := terminal(ctx, 0, env, "findings", "watch", "-o", "jsonl")
	if r.code != exitOK || strings.Count(r.out, "\n") != 2 {
		t.Fatalf("code %d, out %s, err %s", r.code, r.out, r.err)
	}
	var line struct {
		ResumeToken string `json:"resume_token"`
		Transition  struct{ Kind string }
	}
	if err := json.Unmarshal([]byte(strings.Split(r.out, "\n")[1]), &line); err != nil || line.ResumeToken != "tb2" || line.Transition.Kind != "OPENED" {
		t.Errorf("%v: %+v", err, line)
	}
	var tokens []string
	for _, q := range f.requests {
		tokens = append(tokens, q.(*findingv1.WatchFindingsRequest).GetResumeToken())
	}
	if strings.Join(tokens, ",") != ",ta1,tb2" {
		t.Errorf("it went on at %q", tokens)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, _ := json.Marshal(endpoints{Services: map[string]string{"persistence": "from-dir:1"}})
	if err := os.WriteFile(filepath.Join(dir, endpointsFile), b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		what string
		c    *cli
		env  map[string]string
		want string
	}{
		{"nothing set", &cli{}, nil, "127.0.0.1:7306"},
		{"its variable", &cli{}, map[string]string{"NIGHTSHIFT_PERSISTENCE_ADDR": "from-env:1"}, "from-env:1"},
		{"a named directory beats the variable", &cli{dataDir: dir}, map[string]string{"NIGHTSHIFT_PERSISTENCE_ADDR": "from-env:1"}, "from-dir:1"},
		{"a directory named by a variable", &cli{}, map[string]string{"NIGHTSHIFT_DATA_DIR": dir}, "from-dir:1"},
		{"--addr beats everything", &cli{dataDir: dir, addrs: map[string]string{"persistence": "from-flag:1"}}, nil, "from-flag:1"},
	} {
		x.c.lookup = func(name string) (string, bool) { v, ok := x.env[name]; return v, ok }
		if got, _, err := x.c.addr("persistence"); err != nil || got != x.want {
			t.Errorf("%s: %s, %v; want %s", x.what, got, err, x.want)
		}
	}
}

// Every command says what it does, by example.
func TestEveryCommandHasAnExample(t *testing.T) {
	t.Parallel()
	c := &cli{lookup: func(string) (string, bool) { return "", false }}
	root := c.command()
	if !strings.Contains(root.Long, "Exit codes:") {
		t.Error("the exit codes are not in the help")
	}
	var walk func(path []string)
	walk = func(path []string) {
		cmd, _, err := root.Find(path)
		if err != nil {
			t.Fatal(err)
		}
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s has no short text or no example", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			walk(append(path, sub.Name()))
		}
	}
	for _, sub := range root.Commands() {
		walk([]string{sub.Name()})
	}
}
