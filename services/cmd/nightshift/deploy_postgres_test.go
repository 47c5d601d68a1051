package main

import (
	"os"
	"strings"
	"testing"

	"nightshift.dev/pkg/devstack/devtest"
)

func TestDeployPostgres(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("../../../deploy/postgres/roles.sql")
	if err != nil {
		t.Fatal(err)
	}
	if r := execute(t, nil, "deploy", "postgres"); r.code != 0 || r.out != string(want) {
		t.Errorf("code %d, %d bytes\n%s", r.code, len(r.out), r.err)
	}
	env := map[string]string{}
	if r := execute(t, env, "deploy", "postgres", "--migrate"); r.code != 2 || !strings.Contains(r.err, "NIGHTSHIFT_MIGRATE_DATABASE_URL") {
		t.Errorf("code %d\n%s", r.code, r.err)
	}
	env["NIGHTSHIFT_MIGRATE_DATABASE_URL"] = "postgres://u:secret@h:port/x"
	if r := execute(t, env, "deploy", "postgres", "--migrate"); r.code == 0 || strings.Contains(r.err, "secret") {
		t.Errorf("code %d\n%s", r.code, r.err)
	}
	env["NIGHTSHIFT_MIGRATE_DATABASE_URL"] = devtest.DB(t, nil)
	for range 2 {
		if r := execute(t, env, "deploy", "postgres", "--migrate"); r.code != 0 {
			t.Errorf("code %d\n%s", r.code, r.err)
		}
	}
}
