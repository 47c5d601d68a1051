//go:build !linux

package chaos

import "syscall"

// dieWithParent: only Linux tells a process that its parent is gone; elsewhere the cleanup of a test must do.
func dieWithParent(*syscall.SysProcAttr) {}
