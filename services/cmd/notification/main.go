// Command notification is the notification service as a process of its own.
package main

import (
	"nightshift.dev/pkg/app"
	"nightshift.dev/services/notification"
)

func main() { app.Main(notification.Definition) }
