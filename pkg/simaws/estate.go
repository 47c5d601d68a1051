package simaws

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml"
)

// Estate is a company's AWS organization: its accounts, their regions and what stands in them, together with what the API never tells (when an instance really
// stopped, when a volume was really detached). The exported fields, by their JSON names, are the file format of [Load] and [Estate.Save]:
//
//	version: 1
//	now: 2026-08-03T04:00:00Z
//	organization: o-example
//	accounts:
//	  - id: "111122223333"
//	    name: production
//	    access_key: AKIASIMAWS000EXAMPLE
//	    roles: [{name: NightshiftReadOnly, external_id: a-secret-word}]
//	    regions:
//	      - name: us-east-1
//	        volumes:
//	          - {id: vol-0a1, type: gp3, state: available, zone: us-east-1a, size_gib: 500, iops: 3000, throughput: 125, created: 2026-01-02T00:00:00Z,
//	             history: [{from: 2026-01-02T00:00:00Z, to: 2026-06-01T00:00:00Z}], detached: 2026-06-01T00:00:00Z, tags: [{k: Owner, v: maria}]}
//	faults:
//	  - {kind: latency, delay: 50ms}
//
// An Estate is safe for concurrent use through its
// methods; the fields may be written only before it is given to [New].
type Estate struct {
	// Version of the file format; 1.
	Version int `json:"version"`
	// Seed the estate was generated from; also the seed of its metrics.
	Seed uint64 `json:"seed"`
	// Now is the moment the estate describes (UTC). Ages and truth are relative to it.
	Now time.Time `json:"now"`
	// Organization is the id of the AWS organization, "o-…".
	Organization string `json:"organization"`
	// Accounts, the management account first.
	Accounts []*Account `json:"accounts"`
	// Faults the endpoint starts with, besides those given to [New].
	Faults []Fault `json:"faults,omitempty"`

	mu sync.RWMutex
}

// Account is one AWS account.
type Account struct {
	// ID is the twelve-digit account id.
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
	// State as in Organizations; empty means ACTIVE. Roles of any other state cannot be assumed.
	State  string    `json:"state,omitempty"`
	Joined time.Time `json:"joined"`
	// AccessKey is the id of the account's static (fake) access key.
	AccessKey string `json:"access_key"`
	// Roles that may be assumed in the account.
	Roles []Role `json:"roles,omitempty"`
	// Denied lists what the account's policy refuses, such as "cloudwatch:GetMetricData" or "ec2:*".
	Denied []string `json:"denied,omitempty"`
	// Policy of the user behind AccessKey; nil allows everything. The truth heeds Denied, and no policy.
	Policy  *Policy   `json:"policy,omitempty"`
	Regions []*Region `json:"regions"`
}

// Role is an IAM role that any principal of the organization may assume.
type Role struct {
	Name string `json:"name"`
	// ExternalID, when not empty, must be given to assume the role; * and ? in it are wildcards, as in a trust policy that says StringLike. A role without
	// forgets to demand one: whoever knows its name gets in.
	ExternalID string `json:"external_id,omitempty"`
	// Policy of the role; nil allows everything.
	Policy *Policy `json:"policy,omitempty"`
}

// RoleARN is the ARN of the account's role of that name.
func (a *Account) RoleARN(name string) string { return "arn:aws:iam::" + a.ID + ":role/" + name }

// Region is what one account holds in one region.
type Region struct {
	Name string `json:"name"`
	// OptIn is the opt-in status of DescribeRegions; empty means opt-in-not-required.
	OptIn     string     `json:"opt_in,omitempty"`
	Instances []Instance `json:"instances,omitempty"`
	Volumes   []Volume   `json:"volumes,omitempty"`
	Snapshots []Snapshot `json:"snapshots,omitempty"`
	Addresses []Address  `json:"addresses,omitempty"`
	Images    []Image    `json:"images,omitempty"`

	Subnets     []Subnet     `json:"subnets,omitempty"`
	RouteTables []RouteTable `json:"route_tables,omitempty"`
	Groups      []Group      `json:"groups,omitempty"`
	PrefixLists []PrefixList `json:"prefix_lists,omitempty"`
	Interfaces  []Interface  `json:"interfaces,omitempty"`
	// EncryptionByDefault is the region's EBS setting: new volumes are encrypted.
	EncryptionByDefault bool `json:"encryption_by_default,omitempty"`

	account                                                 *Account
	instances, volumes, images, groups, interfaces, subnets map[string]int32
	eips, eipsOn                                            map[string][]int32 // addresses by instance and by interface
}

func (r *Region) enabled() bool { return r.OptIn != OptInNone }

// Opt-in states of a region.
const (
	OptInNotRequired = "opt-in-not-required"
	OptInDone        = "opted-in"
	OptInNone        = "not-opted-in"
)

// Tag is one key and value. Keys are case-sensitive.
type Tag struct {
	Key   string `json:"k"`
	Value string `json:"v"`
}

// Span is a stretch of time; a zero To means it still lasts.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to,omitzero"`
}

// Instance is an EC2 instance. Its subnets, groups and addresses are those of its interfaces; one is made for an instance that has none.
type Instance struct {
	ID string `json:"id"`
	// Reservation groups instances launched together; neighbours of the same reservation answer as one. Empty: derived from the id.
	Reservation string `json:"reservation,omitempty"`
	Type        string `json:"type"`
	// State: pending, running, stopping, stopped, shutting-down or terminated.
	State string `json:"state"`
	// Reason is StateTransitionReason, word for word.
	Reason string `json:"reason,omitempty"`
	// ReasonCode is StateReason's code; empty means none.
	ReasonCode string `json:"reason_code,omitempty"`
	Zone       string `json:"zone"`
	Image      string `json:"image"`
	// Created is the first launch, Launched the last start (the API's LaunchTime).
	Created  time.Time `json:"created"`
	Launched time.Time `json:"launched"`
	// Stopped is when it really stopped; zero while running. The API never tells it.
	Stopped time.Time `json:"stopped,omitzero"`
	// Runs are earlier times it ran, before Launched.
	Runs []Span `json:"runs,omitempty"`

	Spot        bool `json:"spot,omitempty"`
	Windows     bool `json:"windows,omitempty"`
	Hibernation bool `json:"hibernation,omitempty"`
	// Detailed monitoring: CPU points every minute, not every five.
	Detailed bool `json:"detailed,omitempty"`
	// PublicIP assigned by the subnet; Elastic IPs are addresses of the region.
	PublicIP string `json:"public_ip,omitempty"`
	// Load shapes CPUUtilization: idle, busy, bursty, oneday, office, peak18, peak20, flat5. Empty means busy.
	Load string `json:"load,omitempty"`
	// Gaps are times without CPU points although it ran.
	Gaps []Span `json:"gaps,omitempty"`
	// Agent is the dimension set of CWAgent's memory metric: "" (no agent), "id", "id+type", "id+image+type", "asg". Reporting is when the agent ran; zero
	// means whenever the instance did. Memory shapes the metric: low, peaks, oneday, flat10. Empty means in good use.
	Agent     string `json:"agent,omitempty"`
	Reporting Span   `json:"reporting,omitzero"`
	Memory    string `json:"memory,omitempty"`
	// MetricStatus, when not empty, is what GetMetricData answers for every series of the instance: Forbidden, InternalError or PartialData, always.
	MetricStatus string `json:"metric_status,omitempty"`
	Tags         []Tag  `json:"tags,omitempty"`
	// Case names what this instance exercises; it becomes the truth's Why.
	Case string `json:"case,omitempty"`

	disks, nics []int32 // indexes into Region.Volumes and Region.Interfaces
}

// Volume is an EBS volume.
type Volume struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	// State: creating, available, in-use, deleting, deleted or error. Deleted volumes are not listed.
	State string `json:"state"`
	Zone  string `json:"zone"`
	Size  int32  `json:"size_gib"`
	// IOPS provisioned or baseline, 0 where the type has none; Throughput in MiB/s, gp3 only.
	IOPS        int32        `json:"iops,omitempty"`
	Throughput  int32        `json:"throughput,omitempty"`
	Encrypted   bool         `json:"encrypted,omitempty"`
	MultiAttach bool         `json:"multi_attach,omitempty"`
	Snapshot    string       `json:"snapshot,omitempty"`
	Created     time.Time    `json:"created"`
	Attachments []Attachment `json:"attachments,omitempty"`
	// History are the times it was attached to a running instance, before the present attachments.
	History []Span `json:"history,omitempty"`
	// Detached is when it was really detached last; zero if never attached or attached now. The API never tells it.
	Detached     time.Time `json:"detached,omitzero"`
	MetricStatus string    `json:"metric_status,omitempty"`
	Tags         []Tag     `json:"tags,omitempty"`
	Case         string    `json:"case,omitempty"`
}

// Attachment of a volume to an instance of the same region.
type Attachment struct {
	Instance            string    `json:"instance"`
	Device              string    `json:"device"`
	At                  time.Time `json:"at"`
	DeleteOnTermination bool      `json:"delete_on_termination,omitempty"`
}

// Snapshot is an EBS snapshot.
type Snapshot struct {
	ID string `json:"id"`
	// Volume it was taken of; vol-ffffffff for a copy.
	Volume string `json:"volume"`
	Size   int32  `json:"size_gib"`
	// FullBytes is the full size of the data, 0 when the API does not tell.
	FullBytes int64     `json:"full_bytes,omitempty"`
	Started   time.Time `json:"started"`
	// State: pending, completed, error, recoverable or recovering; empty means completed.
	State string `json:"state,omitempty"`
	// Archived: in the archive tier.
	Archived    bool   `json:"archived,omitempty"`
	Encrypted   bool   `json:"encrypted,omitempty"`
	Description string `json:"description,omitempty"`
	// Owner is the owner's account id when it is not this account (public and shared snapshots).
	Owner string `json:"owner,omitempty"`
	Tags  []Tag  `json:"tags,omitempty"`
	Case  string `json:"case,omitempty"`
}

// Address is an Elastic IP.
type Address struct {
	Allocation string `json:"allocation"`
	PublicIP   string `json:"public_ip"`
	// Interface it is associated with, or Instance for the first interface of that; both empty: not associated. Private is which address of the interface;
	// empty means the primary one.
	Instance  string `json:"instance,omitempty"`
	Interface string `json:"interface,omitempty"`
	Private   string `json:"private,omitempty"`
	Tags      []Tag  `json:"tags,omitempty"`
	Case      string `json:"case,omitempty"`
}

// Load reads an estate from a JSON or YAML file, as [Estate.Save] writes it.
func Load(path string) (*Estate, error) {
	e := new(Estate)
	if err := readFile(path, e); err != nil {
		return nil, err
	}
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

// LoadFaults reads a list of faults from a JSON or YAML file.
func LoadFaults(path string) ([]Fault, error) {
	var list []Fault
	if err := readFile(path, &list); err != nil {
		return nil, err
	}
	for _, f := range list {
		if err := f.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return list, nil
}

// readFile decodes JSON, or anything else as YAML; fields nobody knows are errors.
func readFile(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("simaws: %w", err)
	}
	if !json.Valid(data) {
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return fmt.Errorf("%s is neither JSON nor YAML: %w", path, err)
		}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Save writes the estate as JSON, or as YAML when the name ends in .yaml or .yml.
func (e *Estate) Save(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("estate: %w", err)
	}
	defer func() { _ = f.Close() }()
	var out io.Writer = f
	var buf bytes.Buffer
	asYAML := strings.HasSuffix(path, ".yaml") || strings.HasSuffix(path, ".yml")
	if asYAML {
		out = &buf
	}
	if err := e.Write(out); err != nil {
		return err
	}
	if asYAML {
		d := json.NewDecoder(&buf)
		d.UseNumber()
		y, err := appendYAML(nil, d, 0)
		if err != nil {
			return fmt.Errorf("estate as YAML: %w", err)
		}
		if _, err := f.Write(y); err != nil {
			return fmt.Errorf("estate: %w", err)
		}
	}
	return f.Close()
}

// appendYAML writes the decoder's next JSON value as block YAML, every text in quotes: what tags hold would not survive without.
func appendYAML(b []byte, d *json.Decoder, indent int) ([]byte, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	open, nested := t.(json.Delim)
	if !nested {
		text, err := json.Marshal(t)
		return append(append(append(b, ' '), text...), '\n'), err
	}
	empty := " {}\n"
	if open == '[' {
		empty = " []\n"
	}
	if !d.More() {
		b = append(b, empty...)
	} else if len(b) > 0 {
		b = append(b, '\n')
	}
	for d.More() {
		b = append(b, strings.Repeat("  ", indent)...)
		if open == '[' {
			b = append(b, '-')
		} else if t, err = d.Token(); err == nil {
			b = append(append(b, t.(string)...), ':')
		}
		if err != nil {
			return nil, err
		}
		if b, err = appendYAML(b, d, indent+1); err != nil {
			return nil, err
		}
	}
	_, err = d.Token() // its end
	return b, err
}

// Write writes the estate as one JSON document.
func (e *Estate) Write(w io.Writer) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if err := json.NewEncoder(w).Encode(e); err != nil {
		return fmt.Errorf("estate: %w", err)
	}
	return nil
}

// Account finds an account by id; nil if there is none.
func (e *Estate) Account(id string) *Account {
	for _, a := range e.Accounts {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// Region finds a region of the account by name; nil if there is none.
func (a *Account) Region(name string) *Region {
	for _, r := range a.Regions {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// Resources counts instances, volumes, own snapshots and addresses; images and what makes up the network come on top.
func (e *Estate) Resources() int {
	n := 0
	for _, a := range e.Accounts {
		for _, r := range a.Regions {
			n += len(r.Instances) + len(r.Volumes) + len(r.Addresses)
			for i := range r.Snapshots {
				if r.Snapshots[i].Owner == "" {
					n++
				}
			}
		}
	}
	return n
}

// Validate checks an estate made by hand, saying what is wrong and where, and builds what lookups need; it must be called before [New]. Load and Generate
// have done it.
func (e *Estate) Validate() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.Version != 1 {
		return fmt.Errorf("version %d is not known, this program reads version 1", e.Version)
	}
	if e.Now.IsZero() {
		return fmt.Errorf("now is missing: the moment the estate describes, as 2026-01-02T03:00:00Z")
	}
	if len(e.Accounts) == 0 {
		return fmt.Errorf("accounts is empty: an estate has at least its management account")
	}
	for _, f := range e.Faults {
		if err := f.check(); err != nil {
			return err
		}
	}
	keys := map[string]bool{}
	for _, a := range e.Accounts {
		if len(a.ID) != 12 || strings.Trim(a.ID, "0123456789") != "" {
			return fmt.Errorf("account id %q is not twelve digits", a.ID)
		}
		if a.AccessKey == "" || keys[a.AccessKey] || keys[a.ID] {
			return fmt.Errorf("account %s: its id and access_key must be set and unlike any other account's", a.ID)
		}
		keys[a.AccessKey], keys[a.ID] = true, true
		if err := a.Policy.check(); err != nil {
			return fmt.Errorf("account %s: %w", a.ID, err)
		}
		for _, r := range a.Roles {
			if err := r.Policy.check(); err != nil {
				return fmt.Errorf("account %s, role %s: %w", a.ID, r.Name, err)
			}
		}
		for _, r := range a.Regions {
			r.account = a
			if err := r.index(); err != nil {
				return fmt.Errorf("account %s, region %s: %w", a.ID, r.Name, err)
			}
		}
	}
	return nil
}

func (r *Region) index() error {
	r.instances = make(map[string]int32, len(r.Instances))
	r.volumes = make(map[string]int32, len(r.Volumes))
	for i := range r.Instances {
		in := &r.Instances[i]
		if _, twice := r.instances[in.ID]; twice || in.ID == "" {
			return fmt.Errorf("instance id %q is empty or used twice", in.ID)
		}
		if _, known := stateCodes[in.State]; !known {
			return fmt.Errorf("instance %s: state %q is not one of %s", in.ID, in.State, strings.Join(slices.Sorted(maps.Keys(stateCodes)), ", "))
		}
		r.instances[in.ID] = int32(i)
		in.disks, in.nics = nil, nil
	}
	for i := range r.Volumes {
		v := &r.Volumes[i]
		if _, twice := r.volumes[v.ID]; twice || v.ID == "" {
			return fmt.Errorf("volume id %q is empty or used twice", v.ID)
		}
		r.volumes[v.ID] = int32(i)
		for _, at := range v.Attachments {
			n, ok := r.instances[at.Instance]
			if !ok {
				return fmt.Errorf("volume %s is attached to %s, which is not an instance of the region", v.ID, at.Instance)
			}
			r.Instances[n].disks = append(r.Instances[n].disks, int32(i))
		}
	}
	if err := r.indexImages(); err != nil {
		return err
	}
	if err := r.indexNetwork(); err != nil {
		return err
	}
	return r.indexAddresses()
}

func (r *Region) instance(id string) *Instance {
	if i, ok := r.instances[id]; ok {
		return &r.Instances[i]
	}
	return nil
}

func (r *Region) volume(id string) *Volume {
	if i, ok := r.volumes[id]; ok {
		return &r.Volumes[i]
	}
	return nil
}

// arn of a resource. Those of images and snapshots name no account.
func (r *Region) arn(kind, id string) string {
	if kind == "image" || kind == "snapshot" {
		return "arn:aws:ec2:" + r.Name + "::" + kind + "/" + id
	}
	return "arn:aws:ec2:" + r.Name + ":" + r.account.ID + ":" + kind + "/" + id
}

// running are the times the instance ran, oldest first.
func (in *Instance) running() []Span {
	if len(in.Runs) == 0 {
		return []Span{{in.Launched, in.Stopped}}
	}
	return append(slices.Clone(in.Runs), Span{in.Launched, in.Stopped})
}

// active are the times the volume was attached to a running instance, oldest first within each attachment.
func (r *Region) active(v *Volume) []Span {
	spans := v.History
	for _, at := range v.Attachments {
		in := r.instance(at.Instance)
		for _, run := range in.running() {
			if run.From.Before(at.At) {
				run.From = at.At
			}
			if run.To.IsZero() || run.From.Before(run.To) {
				spans = append(slices.Clip(spans), run)
			}
		}
	}
	return spans
}

func tagValue(tags []Tag, key string) (string, bool) {
	for _, t := range tags {
		if t.Key == key {
			return t.Value, true
		}
	}
	return "", false
}
