package devstack

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake is a folder that looks like an installation of Postgres.
func fake(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"initdb", "postgres"} {
		script := "#!/bin/sh\necho '" + name + " " + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The environment belongs to the process, so this test is not parallel.
func TestFind(t *testing.T) {
	v9, v15, v17 := fake(t, "(PostgreSQL) 9.6.24"), fake(t, "(PostgreSQL) 15.18 (Debian 15.18-0)"), fake(t, "(PostgreSQL) 17rc1")
	other, empty := fake(t, "of another kind"), t.TempDir()
	saved := installations
	defer func() { installations = saved }()

	for name, test := range map[string]struct {
		pgBin    string
		path     []string
		packaged []string
		major    int
		want     string // the folder, or what the error says
	}{
		"nothing":                       {want: "no PostgreSQL 14 or later found"},
		"nothing on the path":           {path: []string{empty, other, v9}, want: "apt-get install postgresql"},
		"PG_BIN first":                  {pgBin: v15, path: []string{v17}, want: v15},
		"PG_BIN is wrong":               {pgBin: empty, path: []string{v17}, want: "PG_BIN is " + empty + ": no initdb in"},
		"PG_BIN is too old":             {pgBin: v9, want: "14 is the oldest that will do"},
		"PG_BIN is something else":      {pgBin: other, want: "which is no PostgreSQL"},
		"path before packages":          {path: []string{empty, v15}, packaged: []string{v17}, want: v15},
		"newest package":                {packaged: []string{v15, v17}, want: v17},
		"the version of the data":       {path: []string{v15}, packaged: []string{v17}, major: 17, want: v17},
		"the version of the data first": {path: []string{v15}, packaged: []string{v17}, major: 15, want: v15},
		"another version of the data":   {path: []string{v15}, packaged: []string{v17}, major: 16, want: v15},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PG_BIN", test.pgBin)
			// The scripts need no more than the shell's own echo.
			t.Setenv("PATH", strings.Join(test.path, string(filepath.ListSeparator)))
			installations = test.packaged
			got, err := find(t.Context(), test.major)
			if err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want one that says %q", err, test.want)
			}
			if err == nil && got.dir != test.want {
				t.Errorf("found %s, want %s", got.dir, test.want)
			}
			if nothing := test.pgBin == "" && !strings.HasPrefix(test.want, "/"); nothing != errors.Is(err, errNoPostgres) {
				t.Errorf("error = %v; it is errNoPostgres only when nothing was found", err)
			}
		})
	}
}

func TestInspectReadsTheVersion(t *testing.T) {
	t.Parallel()
	for version, major := range map[string]int{"14.2": 14, "15.18 (Debian 15.18-0+deb12u1)": 15, "17rc1": 17, "18devel": 18} {
		got, err := inspect(t.Context(), fake(t, "(PostgreSQL) "+version))
		if err != nil {
			t.Errorf("%s: %v", version, err)
		}
		if got.major != major || got.version != version {
			t.Errorf("%s: got %d, %q, want %d", version, got.major, got.version, major)
		}
	}
}
