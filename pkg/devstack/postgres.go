package devstack

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresOptions says where the data is. The zero value is a temporary server on binaries that are there already.
type PostgresOptions struct {
	// Dir holds the data, the log and the socket. It is created when missing and belongs to one process at a time; what
	// is in it comes back, also after a kill -9. Empty: a temporary directory and no syncing; it is removed when this
	// process ends, however it ends.
	Dir string
	// Install allows getting the binaries from the machine's package manager when there are none.
	Install bool
	// Logger hears of an installation and of waiting for an earlier server. Nil: slog.Default.
	Logger *slog.Logger
}

const (
	// startTimeout leaves time to recover from a crash; without one, a start takes a tenth of a second.
	startTimeout = 60 * time.Second
	// leaveTimeout is how long a server whose process was killed may take to shut down before a new one gives up on it.
	leaveTimeout = 15 * time.Second
	// Stop first asks for an orderly shutdown, then for one without a checkpoint, and returns within five seconds.
	fastStop      = 3500 * time.Millisecond
	immediateStop = time.Second

	// socketName and maxSocketPath: the path of a Unix socket has 108 bytes on Linux and 104 on macOS, one of them a NUL.
	socketName    = "/.s.PGSQL.5432"
	maxSocketPath = 103
)

// PostgresServer is a Postgres of our own, reachable through a Unix socket that only this user can open.
type PostgresServer struct {
	dir       string
	socket    string // the directory the socket is in
	lock      *os.File
	process   *os.Process
	done      chan struct{} // closed when the server has exited, after exit is set
	exit      error
	watchdog  *watchdog // nil where the kernel does what it would do
	stopping  sync.Once
	stopped   chan struct{} // closed when Stop is called
	temporary bool
}

// Postgres starts a server and returns once it answers queries: 0.1 s, or 0.5 s the first time.
//
// The binaries are those of $PG_BIN, $PATH or the machine's packages. Postgres refuses to run as root, so root's
// server runs as the user who owns the data, else as postgres, else as nobody.
//
// It fails when the directory is in use, was made by another major version or cannot be reached by that user, and when
// the server does not start; the error has the end of the server's log.
func Postgres(ctx context.Context, o PostgresOptions) (_ *PostgresServer, err error) {
	log := cmp.Or(o.Logger, slog.Default())
	s := &PostgresServer{stopped: make(chan struct{}), temporary: o.Dir == ""}
	defer func() {
		if err != nil {
			s.release()
			err = fmt.Errorf("postgres: %w", err)
		}
	}()
	if s.temporary {
		s.dir, err = os.MkdirTemp("", "nightshift-pg-")
	} else if s.dir, err = filepath.Abs(o.Dir); err == nil {
		err = os.MkdirAll(s.dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	if s.dir, err = filepath.EvalSymlinks(s.dir); err != nil {
		return nil, err
	}
	if s.lock, err = lock(s.dir); err != nil {
		return nil, err
	}
	if s.temporary || !diesWithParent {
		if s.watchdog, err = guard(s.dir, s.temporary); err != nil {
			return nil, err
		}
	}

	made, err := madeBy(s.data())
	if err != nil {
		return nil, err
	}
	search := func(ctx context.Context) (binaries, error) { return find(ctx, made) }
	if o.Install {
		search = func(ctx context.Context) (binaries, error) { return findOrInstall(ctx, made, log) }
	}
	bin, err := search(ctx)
	if err != nil {
		return nil, err
	}
	if made != 0 && made != bin.major {
		return nil, fmt.Errorf("%s was made by PostgreSQL %d, and the one in %s is %d: install PostgreSQL %d, point PG_BIN at it, or choose another directory",
			s.data(), made, bin.dir, bin.major, made)
	}
	as, err := userFor(s.data())
	if err != nil {
		return nil, err
	}
	if err := as.own(s.dir); err != nil {
		return nil, err
	}
	if err := as.reach(s.dir); err != nil {
		return nil, err
	}
	if s.socket, err = socketDir(s.dir, as); err != nil {
		return nil, err
	}
	if err := s.await(ctx, log); err != nil {
		return nil, err
	}
	if made == 0 {
		if err := s.create(ctx, bin, as); err != nil {
			return nil, err
		}
	}
	// What held the memory of an earlier server may be gone from the list of processes and still be letting go of it,
	// or be children of one that was killed, which notice in a moment.
	leave, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	poll(leave, func() bool {
		err = s.start(ctx, bin, as)
		return err == nil || !strings.Contains(err.Error(), "pre-existing shared memory block")
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// DSN connects to the database "postgres" as its owner. That only this user can open the socket is the password.
func (s *PostgresServer) DSN() string { return s.Database("postgres") }

// Database is DSN for another database of the server, of a plain name.
func (s *PostgresServer) Database(name string) string {
	parameters := url.Values{"host": {s.socket}, "port": {"5432"}, "user": {"postgres"}, "sslmode": {"disable"}}
	// libpq and pgx take a plus for a plus.
	return "postgres:///" + url.PathEscape(name) + "?" + strings.ReplaceAll(parameters.Encode(), "+", "%20")
}

// Wait returns nil after Stop, and an error with the end of the log when the server ends by itself.
func (s *PostgresServer) Wait() error {
	<-s.done
	select {
	case <-s.stopped:
		return nil
	default:
		return fmt.Errorf("postgres: the server ended by itself: %v\n%s", s.exit, s.logTail())
	}
}

// Stop shuts the server down, breaking off what is still connected, and returns when it is gone: at most five
// seconds. A temporary directory is removed. Calling it again does nothing.
func (s *PostgresServer) Stop() {
	s.stopping.Do(func() {
		close(s.stopped)
		s.end()
		s.release()
	})
}

// end makes the process go, ever more firmly.
func (s *PostgresServer) end() {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, fastStop}, {syscall.SIGQUIT, immediateStop}, {syscall.SIGKILL, time.Second}} {
		_ = s.process.Signal(step.signal) // an error means that it is gone already, which the next line sees
		select {
		case <-s.done:
			return
		case <-time.After(step.wait):
		}
	}
}

// release gives back what is held beside the process.
func (s *PostgresServer) release() {
	if s.socket != "" && s.socket != s.dir {
		os.RemoveAll(s.socket)
	}
	if s.watchdog != nil {
		s.watchdog.stop()
	}
	if s.temporary && s.dir != "" {
		os.RemoveAll(s.dir)
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

func (s *PostgresServer) data() string    { return filepath.Join(s.dir, "data") }
func (s *PostgresServer) logPath() string { return filepath.Join(s.dir, "server.log") }

func (s *PostgresServer) logTail() string {
	text, err := os.ReadFile(s.logPath())
	if err != nil {
		return err.Error()
	}
	return tail(string(text))
}

// madeBy reads the major version that made a data directory; 0 when there is none.
func madeBy(data string) (int, error) {
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s/PG_VERSION says %q: want a major version such as 15", data, text)
	}
	return major, nil
}

// await deals with what a killed process left behind. Its server gets a signal from the kernel and may still be
// shutting down. Of one that is gone for certain, the pid in postmaster.pid can meanwhile be another process's, and in
// a restarted container usually is; Postgres would take that one for itself and refuse to start. We hold the lock, so
// nobody else is about to start here.
func (s *PostgresServer) await(ctx context.Context, log *slog.Logger) error {
	pidFile := filepath.Join(s.data(), "postmaster.pid")
	var pid int
	gone := func() bool {
		text, err := os.ReadFile(pidFile)
		if err != nil {
			return true
		}
		first, _, _ := strings.Cut(string(text), "\n")
		pid, err = strconv.Atoi(strings.TrimSpace(first))
		return err != nil || pid <= 0 || !serves(pid, s.data())
	}
	if !gone() {
		log.Info("waiting for the PostgreSQL of an earlier process to shut down", "pid", pid)
		ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
		defer cancel()
		if !poll(ctx, gone) {
			return fmt.Errorf("another PostgreSQL (pid %d) still serves %s: stop it with kill -INT %d", pid, s.data(), pid)
		}
	}
	for _, name := range []string{pidFile, s.socket + socketName, s.socket + socketName + ".lock"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// poll asks until the answer is yes or ctx ends, and returns the last answer.
func poll(ctx context.Context, ask func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// create makes the data directory beside its place and moves it there when it is whole, so that a kill in between
// leaves nothing that looks like one.
func (s *PostgresServer) create(ctx context.Context, bin binaries, as user) error {
	unfinished := s.data() + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	var err error
	if s.temporary {
		err = fromTemplate(ctx, bin, as, unfinished)
	} else {
		err = initdb(ctx, bin, as, unfinished)
	}
	if err != nil {
		return err
	}
	return os.Rename(unfinished, s.data())
}

// initdb makes a data directory. Trust is enough: the only way in is the socket.
func initdb(ctx context.Context, bin binaries, as user, dir string, flags ...string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := as.own(dir); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin.dir, "initdb"),
		append([]string{"-D", dir, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C"}, flags...)...)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", environment(), as.attributes()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, tail(string(out)))
	}
	return nil
}

// fromTemplate copies a data directory that was made once per version of Postgres and is kept in the user's cache: a
// third of the time of initdb. Without a cache it is initdb.
func fromTemplate(ctx context.Context, bin binaries, as user, dir string) error {
	flags := []string{"--no-sync", "--wal-segsize=1"}
	cache, err := os.UserCacheDir()
	if err != nil {
		return initdb(ctx, bin, as, dir, flags...)
	}
	key := sha256.Sum256([]byte(bin.dir + bin.version + strings.Join(flags, " ")))
	template := filepath.Join(cache, "nightshift", "postgres-"+strconv.Itoa(bin.major)+"-"+hex.EncodeToString(key[:6]))
	if _, err := os.Stat(template); err == nil {
		return copyDir(template, dir, as)
	}
	if err := initdb(ctx, bin, as, dir, flags...); err != nil {
		return err
	}
	// Failing to keep it for the next time is no reason to fail now. Rename makes it appear whole, or not at all if
	// another process was first.
	if os.MkdirAll(filepath.Dir(template), 0o700) == nil {
		if unfinished, err := os.MkdirTemp(filepath.Dir(template), "new-"); err == nil {
			defer os.RemoveAll(unfinished)
			whole := filepath.Join(unfinished, "data")
			if copyDir(dir, whole, user{}) == nil {
				_ = os.Rename(whole, template)
			}
		}
	}
	return nil
}

// copyDir copies plain files and directories, readable by their owner alone, which is as.
func copyDir(from, to string, as user) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(path, from)
		if entry.IsDir() {
			if err := os.Mkdir(target, 0o700); err != nil {
				return err
			}
			return as.own(target)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, text, 0o600); err != nil {
			return err
		}
		return as.own(target)
	})
}

// start runs the server and waits until it answers.
func (s *PostgresServer) start(ctx context.Context, bin binaries, as user) error {
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the server has its own copy
	args := []string{"-D", s.data()}
	for _, setting := range s.settings() {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command(filepath.Join(bin.dir, "postgres"), args...) //nolint:noctx // it lives until Stop, not until ctx ends
	cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", environment(), as.attributes()
	// A group of its own: Ctrl-C in a terminal is for us, who stop the server last.
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr)
	cmd.Stdout, cmd.Stderr = log, log
	if s.watchdog != nil {
		cmd.ExtraFiles = []*os.File{s.watchdog.server}
	}

	started, done := make(chan error), make(chan struct{})
	s.done = done
	go func() {
		// The kernel's promise is tied to the thread that starts the server, so this one stays as long as the server.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.exit = cmd.Wait()
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	s.process = cmd.Process
	if err := s.ready(ctx); err != nil {
		s.end()
		return fmt.Errorf("%w; the end of its log:\n%s", err, s.logTail())
	}
	if s.watchdog != nil {
		s.watchdog.server.Close() // the server has its own copy
	}
	return nil
}

func (s *PostgresServer) settings() []string {
	settings := []string{
		"listen_addresses=",
		"port=5432",
		"unix_socket_directories=" + s.socket,
		"unix_socket_permissions=0700",
		"timezone=UTC",
		"log_timezone=UTC",
		"log_checkpoints=off",
	}
	if s.temporary {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off",
			"wal_level=minimal", "max_wal_senders=0", "max_connections=300", "shared_buffers=64MB")
	}
	return settings
}

// ready returns when a query was answered.
func (s *PostgresServer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()
	var last error
	if poll(ctx, func() bool {
		select {
		case <-s.done:
			return true
		default:
		}
		last = ping(ctx, s.DSN())
		return last == nil
	}) {
		select {
		case <-s.done:
			return fmt.Errorf("the server did not start: %v", s.exit)
		default:
			return nil
		}
	}
	return fmt.Errorf("%w: %v", context.Cause(ctx), last)
}

func ping(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Ping(ctx)
}

// environment is ours without what would change the server behind our back.
func environment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "LC_") && !strings.HasPrefix(v, "TZ=") {
			env = append(env, v)
		}
	}
	return env
}

// socketDir is where the socket goes: the directory itself, or one with a shorter name when its path is too long for a
// socket or would be read as a list of two. The short name is derived from the long one, so that a server that comes back finds its own again.
func socketDir(dir string, as user) (string, error) {
	if len(dir+socketName) <= maxSocketPath && !strings.ContainsAny(dir, `,"`) {
		return dir, nil
	}
	sum := sha256.Sum256([]byte(dir))
	name := "nightshift-" + hex.EncodeToString(sum[:6])
	for _, parent := range []string{os.TempDir(), "/tmp"} {
		short := filepath.Join(parent, name)
		if len(short+socketName) > maxSocketPath {
			continue
		}
		err := os.Mkdir(short, 0o700)
		if errors.Is(err, fs.ErrExist) {
			// Anyone can create names in /tmp: take it only from ourselves.
			info, err := os.Lstat(short)
			if err != nil {
				return "", err
			}
			if !info.IsDir() || info.Mode().Perm() != 0o700 || !as.owns(info) {
				return "", fmt.Errorf("%s, the place for the socket, belongs to somebody else: remove it", short)
			}
			return short, nil
		}
		if err != nil {
			return "", err
		}
		return short, as.own(short)
	}
	return "", fmt.Errorf("no directory with a path short enough for a Unix socket: choose a data directory of at most %d bytes", maxSocketPath-len(socketName))
}

// watchdog is a small shell that outlives this process. When the process is gone, however it ended, it makes the server
// go, and removes the directory if it was temporary.
type watchdog struct {
	alive  io.Closer // the end of a pipe: closed by us or by our end
	server *os.File  // the end of another, for the server to hold: closed by its end
	shell  *exec.Cmd
}

// $1 is the directory, $2 the signal, $3 is not empty when the directory goes too.
const watch = `
read -r _
read -r pid <"$1/data/postmaster.pid" && kill -"$2" "$pid"
cat <&3
[ -z "$3" ] || rm -rf -- "$1"
`

// guard starts the watchdog of a directory that is locked.
func guard(dir string, temporary bool) (*watchdog, error) {
	signal, remove := "INT", ""
	if temporary {
		signal, remove = "QUIT", "yes"
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", watch, "sh", dir, signal, remove) //nolint:noctx // it outlives us
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	alive, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	return &watchdog{alive: alive, server: w, shell: cmd}, nil
}

// stop lets the watchdog do its work now, and returns when it has.
func (w *watchdog) stop() {
	w.server.Close()
	w.alive.Close()
	_ = w.shell.Wait() // it has nothing to say
}
