package devstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// oldestPostgres is the oldest major version the product's SQL is written for: the one of Ubuntu 22.04.
const oldestPostgres = 14

// installations are the folders where packages put the binaries without putting them on the PATH.
var installations = []string{
	"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                   // Fedora, RHEL
	"/usr/libexec/postgresql*",           // Alpine
	"/opt/homebrew/opt/postgresql@*/bin", // Homebrew on arm64
	"/usr/local/opt/postgresql@*/bin",    // Homebrew on amd64
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
}

var errNoPostgres = fmt.Errorf(`no PostgreSQL %d or later found: looked in $PG_BIN, in $PATH and where packages put it (/usr/lib/postgresql/*/bin).
Install it (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql@17),
or point PG_BIN at the folder that holds initdb and postgres`, oldestPostgres)

// binaries is one installation of Postgres.
type binaries struct {
	dir     string // holds initdb and postgres
	version string // such as "15.18 (Debian 15.18-0+deb12u1)"
	major   int
}

// FindPostgres names the folder of the PostgreSQL binaries that Postgres would use. Where there are none it installs
// them, as root through apt-get or as anyone through brew, and says so to log; elsewhere its error says how.
func FindPostgres(ctx context.Context, log *slog.Logger) (dir string, err error) {
	b, err := findOrInstall(ctx, 0, log)
	return b.dir, err
}

// findOrInstall is find, and installs what it does not find.
func findOrInstall(ctx context.Context, major int, log *slog.Logger) (binaries, error) {
	b, err := find(ctx, major)
	if !errors.Is(err, errNoPostgres) {
		return b, err
	}
	if err := install(ctx, cmp.Or(log, slog.Default())); err != nil {
		return binaries{}, err
	}
	return find(ctx, major)
}

// find looks in $PG_BIN alone when it is set, then in $PATH, then where packages put Postgres, newest first. It takes
// the given major version if that is not 0 and there; if only others are, it returns one of them, and the caller knows
// from binaries.major.
func find(ctx context.Context, major int) (binaries, error) {
	if dir := os.Getenv("PG_BIN"); dir != "" {
		b, err := inspect(ctx, dir)
		if err != nil {
			return binaries{}, fmt.Errorf("PG_BIN is %s: %w", dir, err)
		}
		return b, nil
	}
	var found []binaries
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if b, err := inspect(ctx, dir); err == nil {
			found = append(found, b)
		}
	}
	var packaged []binaries
	for _, pattern := range installations {
		dirs, _ := filepath.Glob(pattern) // the only error is a bad pattern
		for _, dir := range dirs {
			if b, err := inspect(ctx, dir); err == nil {
				packaged = append(packaged, b)
			}
		}
	}
	slices.SortStableFunc(packaged, func(a, b binaries) int { return cmp.Compare(b.major, a.major) })
	found = append(found, packaged...)
	if err := ctx.Err(); err != nil { // nothing answers then
		return binaries{}, err
	}
	if len(found) == 0 {
		return binaries{}, errNoPostgres
	}
	if i := slices.IndexFunc(found, func(b binaries) bool { return b.major == major }); i > 0 {
		return found[i], nil
	}
	return found[0], nil
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*.*)`)

// inspect asks the binaries in dir for their version.
func inspect(ctx context.Context, dir string) (binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return binaries{}, err
	}
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return binaries{}, fmt.Errorf("no %s in %s", name, dir)
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return binaries{}, fmt.Errorf("%s/postgres --version: %w", dir, err)
	}
	m := versionPattern.FindStringSubmatch(string(out))
	if m == nil {
		return binaries{}, fmt.Errorf("%s/postgres --version says %q, which is no PostgreSQL", dir, strings.TrimSpace(string(out)))
	}
	major, err := strconv.Atoi(m[2])
	if err != nil {
		return binaries{}, err
	}
	if major < oldestPostgres {
		return binaries{}, fmt.Errorf("%s holds PostgreSQL %d, and %d is the oldest that will do", dir, major, oldestPostgres)
	}
	return binaries{dir: dir, version: strings.TrimSpace(m[1]), major: major}, nil
}

// noMainCluster keeps Debian's packages from creating and starting a server of their own on port 5432.
const noMainCluster = "/etc/postgresql-common/createcluster.conf"

// install gets Postgres from the machine's package manager, or returns errNoPostgres when there is none that it may use.
func install(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	root := os.Geteuid() == 0
	if _, err := exec.LookPath("apt-get"); err == nil && root {
		log.Info("installing PostgreSQL with apt-get, once")
		if _, err := os.Stat(noMainCluster); errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(filepath.Dir(noMainCluster), 0o755); err != nil {
				return fmt.Errorf("install PostgreSQL: %w", err)
			}
			if err := os.WriteFile(noMainCluster, []byte("create_main_cluster = false\n"), 0o644); err != nil {
				return fmt.Errorf("install PostgreSQL: %w", err)
			}
		}
		if err := command(ctx, "apt-get", "update", "-qq", "-o", "DPkg::Lock::Timeout=300"); err != nil {
			return err
		}
		// confold: keep the file above. The lock time-out: another process may be installing the same.
		return command(ctx, "apt-get", "install", "-y", "-qq", "--no-install-recommends",
			"-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold", "postgresql")
	}
	if _, err := exec.LookPath("brew"); err == nil && !root {
		log.Info("installing PostgreSQL with brew, once")
		return command(ctx, "brew", "install", "--quiet", "postgresql@17")
	}
	return errNoPostgres
}

// command runs a package manager without questions; what it said is in the error.
func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets it leave a clean package database
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install PostgreSQL: %s: %w\n%s", strings.Join(cmd.Args, " "), err, tail(string(out)))
	}
	return nil
}

// tail is the last lines of a log, enough to see what went wrong.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
