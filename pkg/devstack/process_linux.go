package devstack

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// diesWithParent: the kernel tells the server when the thread that started it is gone.
const diesWithParent = true

// dieWithParent asks for a shutdown with a checkpoint when we are gone.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }

// attributes make a process run as u.
func (u user) attributes() *syscall.SysProcAttr {
	if !u.other() {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: u.uid, Gid: u.gid},
		AmbientCaps: u.caps,
	}
}

// serves is whether the process is a Postgres that was started on this data directory. It reads the command line, which
// anyone may; what a process of another user has open is shown to few, and in a container not to root.
func serves(pid int, data string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && slices.Contains(strings.Split(string(line), "\x00"), data)
}

// capsToWalk is the smaller of the two capabilities that let a process walk through closed directories, if we have one
// to give: CAP_DAC_READ_SEARCH, or CAP_DAC_OVERRIDE, which is what containers leave to root.
func capsToWalk() ([]uintptr, bool) {
	const dacOverride, dacReadSearch = 1, 2
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, false
	}
	_, after, _ := strings.Cut(string(status), "\nCapPrm:")
	line, _, _ := strings.Cut(after, "\n")
	permitted, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return nil, false
	}
	for _, c := range []uintptr{dacReadSearch, dacOverride} {
		if permitted&(1<<c) != 0 {
			return []uintptr{c}, true
		}
	}
	return nil, false
}
