package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"nightshift.dev/pkg/devstack"
)

// victim is what can be struck.
type victim interface {
	String() string
	// kill ends it as a power cut does, stop as an orchestrator does, and start brings it back.
	kill() error
	stop() error
	start() error
	// freeze suspends it until thaw.
	freeze() error
	thaw() error
}

// process is one process that is started again and again, with one log.
type process struct {
	name    string
	path    string
	args    []string
	env     []string
	addr    string // where it listens
	logPath string
	// ended is called when it ends unasked.
	ended func(p *process, err error)

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{} // closed when the present one has ended
	exit    error
	wanted  bool
	serving atomic.Bool // may be given new connections
}

func (p *process) String() string { return p.name }

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != nil {
		select {
		case <-p.done:
		default:
			return nil // is there
		}
	}
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "---- started at %s\n", time.Now().UTC().Format("15:04:05.000"))
	cmd := exec.Command(p.path, p.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	started, done := make(chan error), make(chan struct{})
	p.cmd, p.done, p.exit, p.wanted = cmd, done, nil, true
	go func() {
		// The kernel ties the child's life to the thread that started it.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			close(done)
			return
		}
		err = cmd.Wait()
		p.serving.Store(false)
		p.mu.Lock()
		p.exit = err
		asked := !p.wanted
		close(done)
		p.mu.Unlock()
		if !asked && p.ended != nil {
			p.ended(p, err)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.serving.Store(true)
	return nil
}

// signal sends to the present process, which is not wanted any more when it is to end of it.
func (p *process) signal(s syscall.Signal, ends bool) (done chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.cmd.Process == nil {
		return nil, errors.New("never started")
	}
	if ends {
		p.wanted = false
		p.serving.Store(false)
	}
	select {
	case <-p.done:
		return p.done, nil
	default:
	}
	return p.done, p.cmd.Process.Signal(s)
}

func (p *process) kill() error {
	done, err := p.signal(syscall.SIGKILL, true)
	if err != nil {
		return err
	}
	<-done
	return nil
}

// stopTime is how long a process may take to stop when asked: the 4 s it gives its work, and what a busy machine adds.
const stopTime = 30 * time.Second

func (p *process) stop() error {
	done, err := p.signal(syscall.SIGTERM, true)
	if err != nil {
		return err
	}
	select {
	case <-done:
	case <-time.After(stopTime):
		_ = p.kill()
		return fmt.Errorf("%s did not stop within %v of SIGTERM", p.name, stopTime)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit != nil {
		return fmt.Errorf("%s was asked to stop and ended with %w", p.name, p.exit)
	}
	return nil
}

func (p *process) freeze() error {
	p.serving.Store(false)
	_, err := p.signal(syscall.SIGSTOP, false)
	return err
}

func (p *process) thaw() error {
	_, err := p.signal(syscall.SIGCONT, false)
	p.serving.Store(true)
	return err
}

// tail is the end of the log, without what is only chatter.
func (p *process) tail(lines int) string { return tailOf(p.logPath, lines) }

func tailOf(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	var kept []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"level":"DEBUG"`) {
			continue
		}
		if len(line) > 1000 {
			line = line[:1000] + "…\n"
		}
		kept = append(kept, line)
	}
	return strings.Join(kept[max(0, len(kept)-lines):], "")
}

// postgres is the Postgres of a stack.
type postgres struct {
	dir    string
	server *devstack.PostgresServer
	socket atomic.Pointer[string]
}

func (p *postgres) String() string { return "postgres" }

func (p *postgres) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var err error
	if p.server, err = devstack.Postgres(ctx, devstack.PostgresOptions{Dir: p.dir}); err != nil {
		return err
	}
	u, err := url.Parse(p.server.DSN())
	if err != nil {
		return err
	}
	socket := u.Query().Get("host") + "/.s.PGSQL.5432"
	p.socket.Store(&socket)
	return nil
}

func (p *postgres) kill() error {
	text, err := os.ReadFile(filepath.Join(p.dir, "data", "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	_ = p.server.Wait() // says that it ended by itself
	return p.stop()     // lets go of its directory
}

func (p *postgres) stop() error {
	p.server.Stop()
	return nil
}

// A Postgres whose parts are suspended one by one is nothing that happens; a network that hangs is, and has its own test.
func (p *postgres) freeze() error { return nil }
func (p *postgres) thaw() error   { return nil }

var (
	binaries string
	build    = sync.OnceValue(func() error {
		var err error
		if binaries, err = os.MkdirTemp("", "nightshift-chaos-bin-"); err != nil {
			return err
		}
		cmd := exec.Command("go", "build", "-o", binaries+"/", "nightshift.dev/services/cmd/...")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
		return nil
	})
)

// binary is the path of one of our programs, which build has built.
func binary(name string) string { return filepath.Join(binaries, name) }
