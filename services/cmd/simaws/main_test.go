package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"nightshift.dev/pkg/simaws"
)

func run(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	c := command()
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(io.Discard)
	err = c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestTruthAndEstate(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/estate.yaml"
	if _, err := run(t, "estate", "--seed", "7", "--now", "2026-01-02T03:00:00Z", "--output", path); err != nil {
		t.Fatal(err)
	}
	fromFile, err := run(t, "truth", "--estate", path)
	if err != nil {
		t.Fatal(err)
	}
	fromSeed, err := run(t, "truth", "--seed", "7", "--now", "2026-01-02T03:00:00Z", "-o", "jsonl")
	if err != nil || fromSeed != fromFile {
		t.Errorf("the truth of the file is not the truth of its seed: %v", err)
	}
	var first simaws.Truth
	if err := json.Unmarshal([]byte(fromSeed[:strings.IndexByte(fromSeed, '\n')]), &first); err != nil || first.RuleID != "ec2-stopped" || first.ARN == "" {
		t.Errorf("first line: %+v, %v", first, err)
	}
	one, err := run(t, "truth", "--rule", "ebs-unattached", "-o", "json", "--now", "2026-01-02T03:00:00Z")
	if err != nil || !strings.HasPrefix(one, "[") || strings.Contains(one, "ec2-stopped") {
		t.Errorf("one rule: %v", err)
	}
	for _, bad := range [][]string{{"truth", "-o", "xml"}, {"truth", "--now", "yesterday"}, {"truth", "--estate", path + ".not"}, {"serve", "--faults", path}, {"serve", "--policy", path}, {"serve", "--listen", "nowhere:x"}} {
		if _, err := run(t, bad...); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

func TestServe(t *testing.T) {
	t.Parallel()
	faults := t.TempDir() + "/faults.json"
	if err := os.WriteFile(faults, []byte(`[{"kind":"throttle","share":0.5}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	policy := t.TempDir() + "/policy.json"
	if err := os.WriteFile(policy, []byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:*","Resource":"*"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	c := command()
	c.SetArgs([]string{"serve", "--listen", "127.0.0.1:0", "--resources", "50", "--no-quotas", "--faults", faults, "--policy", policy})
	c.SetOut(w)
	c.SetErr(io.Discard)
	done := make(chan error, 1)
	go func() { done <- c.ExecuteContext(ctx) }()
	env := map[string]string{}
	buf := make([]byte, 512)
	for len(env) < 5 {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(buf[:n])), "export "), "=")
		env[name] = value
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, env["AWS_ENDPOINT_URL"]+"/_simaws/faults", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil || !strings.Contains(string(body), `"share":0.5`) {
		t.Errorf("faults are %s: %v", body, err)
	}
	if env["AWS_ACCESS_KEY_ID"] != simaws.DemoAccessKey || env["AWS_REGION"] != "us-east-1" {
		t.Errorf("env is %v", env)
	}
	if _, err := run(t, "health", env["AWS_ENDPOINT_URL"]); err != nil {
		t.Errorf("health while it serves: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopped with %v", err)
	}
	if _, err := run(t, "health", env["AWS_ENDPOINT_URL"]); err == nil {
		t.Error("health after it stopped: no error")
	}
}
