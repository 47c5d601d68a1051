// Command nightshift is Nightshift at the command line: it runs everything in
// one process ("up"), scans an account without running anything ("scan"), and
// speaks to running services.
//
// It is wiring and presentation: what things are and do is said by the
// services' APIs and the engine. Together with tests it alone may import
// devstack and simaws.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	// The first signal asks for an orderly end, the second forces one. A
	// terminal that is closed asks, too, except under nohup.
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop)
	c := &cli{
		out: os.Stdout, err: os.Stderr, lookup: os.LookupEnv, now: time.Now,
		outTTY: term.IsTerminal(int(os.Stdout.Fd())),
		errTTY: term.IsTerminal(int(os.Stderr.Fd())),
		giveUp: func() { os.Exit(exitError) },
	}
	c.size = func() (width, height int) {
		for _, f := range []*os.File{os.Stdout, os.Stderr} {
			if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
				return w, h
			}
		}
		return 80, 24
	}
	os.Exit(c.run(ctx, os.Args[1:]))
}
