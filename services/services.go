// Package services is the list of all services: what the all-in-one process
// hosts, and what tests hold to be complete. It knows their names and
// constructors, nothing of their business.
package services

import (
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/scan"
	"nightshift.dev/services/cleanup"
	"nightshift.dev/services/health"
	"nightshift.dev/services/notification"
	"nightshift.dev/services/persistence"
	"nightshift.dev/services/scheduler"
	"nightshift.dev/services/security"
	"nightshift.dev/services/waste"
)

// Rules are the rules of the services that scan.
var Rules = []*scan.Set{waste.Rules, security.Rules}

// All are the services, in the order in which one process starts them: who is
// asked comes before who asks.
var All = []app.Definition{
	persistence.Definition,
	waste.Definition,
	security.Definition,
	health.Definition,
	cleanup.Definition,
	notification.Definition,
	scheduler.Definition,
}
