// Command scheduler is the scheduler as a process of its own.
package main

import (
	"nightshift.dev/pkg/app"
	"nightshift.dev/services/scheduler"
)

func main() { app.Main(scheduler.Definition) }
