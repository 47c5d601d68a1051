package chaos

import "syscall"

// dieWithParent: no process outlives the tests, however they end.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
