// Command cleanup is the cleanup service as a process of its own.
package main

import (
	"nightshift.dev/pkg/app"
	"nightshift.dev/services/cleanup"
)

func main() { app.Main(cleanup.Definition) }
