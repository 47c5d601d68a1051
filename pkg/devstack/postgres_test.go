package devstack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestMain makes this binary also the process that the tests kill.
func TestMain(m *testing.M) {
	if dir, ok := os.LookupEnv("DEVSTACK_TEST_CHILD"); ok {
		child(dir)
	}
	os.Exit(m.Run())
}

// child starts a server, says where it is, and exits without stopping it when its stdin ends.
func child(dir string) {
	s, err := Postgres(context.Background(), PostgresOptions{Dir: dir})
	if err != nil {
		fmt.Println("ERROR", err)
		os.Exit(1)
	}
	fmt.Println(s.DSN(), s.process.Pid, s.dir)
	bufio.NewReader(os.Stdin).ReadString('\n')
	os.Exit(3)
}

// running is what a child says of its server.
type running struct {
	dsn  string
	pid  int
	dir  string
	kill func() // kill -9
	exit func() // os.Exit
}

func startChild(t *testing.T, dir string) running {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DEVSTACK_TEST_CHILD="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	if len(words) != 3 {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the child says %q", line)
	}
	r := running{dsn: words[0], dir: words[2]}
	if r.pid, err = strconv.Atoi(words[1]); err != nil {
		t.Fatal(err)
	}
	r.kill = func() { cmd.Process.Kill(); cmd.Wait() }
	r.exit = func() { in.Close(); cmd.Wait() }
	t.Cleanup(r.kill)
	return r
}

func startPostgres(t *testing.T, dir string) *PostgresServer {
	t.Helper()
	s, err := Postgres(t.Context(), PostgresOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var text string
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// eventually waits for what another process does.
func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if !poll(ctx, ask) {
		t.Error("not so after 20 s:", what)
	}
}

func gone(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func dead(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestPostgresKeepsItsData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startPostgres(t, dir)
	query(t, s.DSN(), "CREATE TABLE t AS SELECT 'kept' AS v")
	for setting, want := range map[string]string{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "listen_addresses": ""} {
		if got := query(t, s.DSN(), "SHOW "+setting); got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	s.Stop()
	s.Stop()
	if err := s.Wait(); err != nil {
		t.Errorf("Wait after Stop = %v, want nil", err)
	}
	if got := query(t, startPostgres(t, dir).DSN(), "SELECT v FROM t"); got != "kept" {
		t.Errorf("v = %q, want kept", got)
	}
}

func TestPostgresComesBackAfterAKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 3 {
		c := startChild(t, dir)
		query(t, c.dsn, "CREATE TABLE t"+strconv.Itoa(i)+" AS SELECT 'kept' AS v")
		c.kill()
	}
	s := startPostgres(t, dir) // at once, while the earlier one shuts down
	if got := query(t, s.DSN(), "SELECT count(*)::text FROM t0, t1, t2 WHERE t0.v || t1.v || t2.v = 'keptkeptkept'"); got != "1" {
		t.Errorf("%s rows are there, want 1", got)
	}
}

// What is left when the kernel is out of memory: no postmaster, but its children, which notice in a moment.
func TestPostgresComesBackAfterItsServerIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := startChild(t, dir)
	conn, err := pgx.Connect(t.Context(), c.dsn) // keeps one of them busy with us
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := syscall.Kill(c.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.kill()
	startPostgres(t, dir)
}

func TestTemporaryPostgresIsGoneWithItsProcess(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"kill -9", "os.Exit"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			c := startChild(t, "")
			if how == "kill -9" {
				c.kill()
			} else {
				c.exit()
			}
			eventually(t, "the server is gone", func() bool { return dead(c.pid) })
			eventually(t, "its directory is gone", func() bool { return gone(c.dir) })
		})
	}
}

func TestStopRemovesATemporaryDirectory(t *testing.T) {
	t.Parallel()
	s := startPostgres(t, "")
	if got := query(t, s.DSN(), "SHOW fsync"); got != "off" {
		t.Errorf("fsync = %s, want off", got)
	}
	s.Stop()
	if !dead(s.process.Pid) {
		t.Error("the server still runs")
	}
	if !gone(s.dir) {
		t.Error("the directory is still there")
	}
}

func TestStopDoesNotWaitForClients(t *testing.T) {
	t.Parallel()
	s := startPostgres(t, t.TempDir())
	conn, err := pgx.Connect(t.Context(), s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "BEGIN; CREATE TABLE t ()"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s.Stop()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Stop took %v, want at most 5 s", took)
	}
}

func TestPostgresSaysThatItEnded(t *testing.T) {
	t.Parallel()
	s := startPostgres(t, t.TempDir())
	if err := s.process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err == nil || !strings.Contains(err.Error(), "immediate shutdown") {
		t.Errorf("Wait = %v, want an error with the end of the log", err)
	}
}

func TestPostgresRefusesADirectory(t *testing.T) {
	t.Parallel()
	write := func(name, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			startPostgres(t, dir).Stop()
			path := filepath.Join(dir, "data", name)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir string)
		want    string
	}{
		"in use":         {func(t *testing.T, dir string) { startPostgres(t, dir) }, "is in use by process " + strconv.Itoa(os.Getpid())},
		"other version":  {write("PG_VERSION", "9\n"), "was made by PostgreSQL 9"},
		"no version":     {write("PG_VERSION", "nine\n"), "want a major version"},
		"does not start": {write("postgresql.conf", "no such setting\n"), "postgresql.conf"},
		"is a file": {func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			test.prepare(t, dir)
			s, err := Postgres(t.Context(), PostgresOptions{Dir: dir})
			if err == nil {
				s.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want one that says %q", err, test.want)
			}
		})
	}
}

// In a restarted container the pid of the dead server belongs to somebody, often to the same user.
func TestPostgresStartsOverAStalePid(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startPostgres(t, dir)
	pidFile := filepath.Join(s.data(), "postmaster.pid")
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()

	as, err := userFor(s.data())
	if err != nil {
		t.Fatal(err)
	}
	bystander := exec.Command("cat")
	bystander.SysProcAttr = as.attributes()
	if _, err := bystander.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer bystander.Wait()
	defer bystander.Process.Kill()
	_, rest, _ := strings.Cut(string(text), "\n")
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(bystander.Process.Pid)+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	startPostgres(t, dir)
}

func TestPostgresInAwkwardPlaces(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{
		"long path":       "d/" + strings.Repeat("long", 40),
		"spaces and such": "d/it's + & a = % ü",
		"a list of two":   "d/a,b \"c\"",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			// As closed as /root is.
			if err := os.Mkdir(filepath.Join(root, "d"), 0o700); err != nil {
				t.Fatal(err)
			}
			s := startPostgres(t, filepath.Join(root, path))
			if got := query(t, s.DSN(), "SELECT 'yes'"); got != "yes" {
				t.Errorf("the server says %q", got)
			}
			s.Stop()
			if s.socket != s.dir && !gone(s.socket) {
				t.Error("the directory of the socket is still there")
			}
			startPostgres(t, filepath.Join(root, path))
		})
	}
}

func TestPostgresStartIsCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := Postgres(ctx, PostgresOptions{}); !errors.Is(err, context.Canceled) {
		if err == nil {
			s.Stop()
		}
		t.Errorf("error = %v, want context.Canceled", err)
	}
}
