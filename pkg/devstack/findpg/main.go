// Command findpg prints the folder of the PostgreSQL binaries that tests use, after installing them where there are
// none. "make test" calls it once, so that test binaries, which run side by side, never install anything.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"nightshift.dev/pkg/devstack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := devstack.FindPostgres(ctx, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(dir)
}
