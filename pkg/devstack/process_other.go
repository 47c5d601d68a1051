//go:build !linux

package devstack

import "syscall"

// diesWithParent: only Linux tells a process that its parent is gone; elsewhere the watchdog does.
const diesWithParent = false

func dieWithParent(*syscall.SysProcAttr) {}

// attributes make a process run as u.
func (u user) attributes() *syscall.SysProcAttr {
	if !u.other() {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.uid, Gid: u.gid}}
}

// serves is whether the process may be a Postgres on this data directory: here, whether it exists at all.
func serves(pid int, _ string) bool { return syscall.Kill(pid, 0) == nil }

// capsToWalk: there are no capabilities here.
func capsToWalk() ([]uintptr, bool) { return nil, false }
