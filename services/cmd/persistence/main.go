// Command persistence keeps findings, runs, accounts and the system log.
package main

import (
	"nightshift.dev/pkg/app"
	"nightshift.dev/services/persistence"
)

func main() { app.Main(persistence.Definition) }
