// Package inventory knows the AWS resources Nightshift looks at: one file per
// kind, with the plain type rules judge, the lister that streams its pages and
// the facts that further calls can add in bulk.
//
// It exists so that rules see values and never an SDK type, and so that every
// call the product makes is declared in one place. It must not know rules,
// findings or the engine.
package inventory

import (
	"context"
	"time"

	"nightshift.dev/pkg/aws"
)

// Resource is what every kind has in common. Names and tags are what somebody
// typed into AWS: hostile input, kept as it came.
type Resource struct {
	// ARN is the full name: identity across accounts and regions.
	ARN string
	// ID is the short id, such as vol-0abc.
	ID string
	// Type is the CloudFormation type name, such as AWS::EC2::Volume.
	Type string
	// Account is the owner's 12-digit account number; Region its region.
	Account, Region string
	// Zone is the availability zone; empty for regional kinds.
	Zone string
	// Tags by key.
	Tags map[string]string
	// Created is zero when AWS does not tell.
	Created time.Time
}

// Name returns the Name tag.
func (r *Resource) Name() string { return r.Tags["Name"] }

// Kind is one kind of AWS resource and how to list it. T is the kind's type
// and embeds Resource.
type Kind[T any] struct {
	// Type is the CloudFormation type name.
	Type string
	// Actions are the IAM actions the listing needs.
	Actions []string
	// Of returns the common part of a resource.
	Of func(*T) *Resource
	// List streams every resource of the session's account and region to
	// page, in pages of AWS's size, and returns when all pages were read. The
	// slice is the receiver's to keep. An error, from AWS or from page, ends
	// the listing; what was streamed before it stays true.
	List func(ctx context.Context, s *aws.Session, page func([]T) error) error
}

// Fact is knowledge about resources that costs further calls, gathered for a
// whole page at a time.
type Fact[T any] struct {
	// Name in snake_case, such as last_cpu_datapoint.
	Name string
	// Actions are the IAM actions it needs.
	Actions []string
	// Fill asks for all of rs in as few calls as AWS allows and stores in
	// each what it learnt: known, unknown or failed. One resource's failure
	// leaves the others alone. at is the scan's time: no clock is read. The
	// error is only the context's.
	Fill func(ctx context.Context, s *aws.Session, at time.Time, rs []*T) error
}
