// Command waste is the waste service as a process of its own.
package main

import (
	"nightshift.dev/pkg/app"
	"nightshift.dev/services/waste"
)

func main() { app.Main(waste.Definition) }
