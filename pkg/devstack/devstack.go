// Package devstack is NATS and Postgres without anything to install or configure: a NATS server inside this process
// and a private Postgres beside it. It exists for "nightshift up" and for tests, and only they import it: a service
// is told where its NATS and its Postgres are, and does not care who started them.
//
// Nothing outlives the process that started it, however that process ends. What has a directory is durable and comes
// back from a kill -9; what has none is temporary and as fast as it can be.
//
// It imports nats-server, and pgx to ask a new Postgres whether it is ready; none of our packages.
// The helpers for tests are in devtest, so that testing is not linked into what we ship.
package devstack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lock takes dir for this process until the returned file is closed or the process ends, and names the holder when
// another has it. dir must exist.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 20))
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		return nil, fmt.Errorf("%s is in use by process %s: stop it first, or choose another directory", dir, strings.TrimSpace(string(holder)))
	}
	// The pid is for people: the lock is what counts, so a failure to write it down is not one to lock.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteString(strconv.Itoa(os.Getpid()) + "\n")
	}
	return f, nil
}
