// Package services is the list of all services: what the all-in-one process
// hosts, and what tests hold to be complete. It knows their names and
// constructors, nothing of their business.
package services

import (
	"nightshift.dev/pkg/app"
	"nightshift.dev/services/persistence"
	"nightshift.dev/services/scheduler"
	"nightshift.dev/services/waste"
)

// All are the services, in the order in which one process starts them: who is
// asked comes before who asks.
var All = []app.Definition{
	persistence.Definition,
	waste.Definition,
	scheduler.Definition,
}
