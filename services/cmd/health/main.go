// Command health is the health service as a process of its own.
package main

import (
	"nightshift.dev/pkg/app"
	"nightshift.dev/services/health"
)

func main() { app.Main(health.Definition) }
