// Command security is the security service as a process of its own.
package main

import (
	"nightshift.dev/pkg/app"
	"nightshift.dev/services/security"
)

func main() { app.Main(security.Definition) }
