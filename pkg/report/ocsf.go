package report

import (
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// The class of the Open Cybersecurity Schema Framework that findings are
// written as, https://schema.ocsf.io/1.8.0/classes/compliance_finding.
const (
	ocsfVersion  = "1.8.0"
	ocsfClass    = 2003
	ocsfCategory = 2
)

type ocsfEvent struct {
	ActivityID   int              `json:"activity_id"`
	ActivityName string           `json:"activity_name"`
	CategoryUID  int              `json:"category_uid"`
	CategoryName string           `json:"category_name"`
	ClassUID     int              `json:"class_uid"`
	ClassName    string           `json:"class_name"`
	TypeUID      int              `json:"type_uid"`
	TypeName     string           `json:"type_name"`
	Time         int64            `json:"time"`
	StartTime    int64            `json:"start_time,omitempty"`
	SeverityID   int              `json:"severity_id"`
	Severity     string           `json:"severity"`
	StatusID     int              `json:"status_id"`
	Status       string           `json:"status"`
	Message      string           `json:"message"`
	Metadata     ocsfMetadata     `json:"metadata"`
	FindingInfo  ocsfFinding      `json:"finding_info"`
	Compliance   ocsfCompliance   `json:"compliance"`
	Resources    []ocsfResource   `json:"resources"`
	Cloud        ocsfCloud        `json:"cloud"`
	Remediation  ocsfRemediation  `json:"remediation"`
	Observables  []ocsfObservable `json:"observables"`
	Unmapped     map[string]any   `json:"unmapped"`
}

type ocsfMetadata struct {
	Version  string      `json:"version"`
	Product  ocsfProduct `json:"product"`
	Profiles []string    `json:"profiles"`
	UID      string      `json:"uid"`
	// EventCode is the rule.
	EventCode string `json:"event_code"`
}

type ocsfProduct struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version,omitempty"`
	Feature    struct {
		Name string `json:"name"`
	} `json:"feature"`
}

type ocsfFinding struct {
	UID           string   `json:"uid"`
	Title         string   `json:"title"`
	Desc          string   `json:"desc"`
	Types         []string `json:"types"`
	CreatedTime   int64    `json:"created_time,omitempty"`
	FirstSeenTime int64    `json:"first_seen_time,omitempty"`
	LastSeenTime  int64    `json:"last_seen_time,omitempty"`
	ModifiedTime  int64    `json:"modified_time,omitempty"`
}

type ocsfCompliance struct {
	Control           string      `json:"control"`
	ControlParameters []ocsfPair  `json:"control_parameters,omitempty"`
	Checks            []ocsfCheck `json:"checks"`
	Standards         []string    `json:"standards"`
	StatusID          int         `json:"status_id"`
	Status            string      `json:"status"`
	StatusDetails     []string    `json:"status_details,omitempty"`
}

type ocsfCheck struct {
	UID        string   `json:"uid"`
	Name       string   `json:"name"`
	Standards  []string `json:"standards"`
	StatusID   int      `json:"status_id"`
	Status     string   `json:"status"`
	SeverityID int      `json:"severity_id"`
	Severity   string   `json:"severity"`
}

type ocsfPair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type ocsfResource struct {
	UID            string     `json:"uid"`
	UIDAlt         string     `json:"uid_alt,omitempty"`
	Name           string     `json:"name,omitempty"`
	Type           string     `json:"type,omitempty"`
	Region         string     `json:"region,omitempty"`
	CloudPartition string     `json:"cloud_partition,omitempty"`
	Owner          *ocsfOwner `json:"owner,omitempty"`
	Tags           []ocsfPair `json:"tags,omitempty"`
}

type ocsfOwner struct {
	Name string `json:"name"`
}

type ocsfCloud struct {
	Provider string      `json:"provider"`
	Region   string      `json:"region,omitempty"`
	Account  ocsfAccount `json:"account"`
}

type ocsfAccount struct {
	UID    string `json:"uid"`
	Name   string `json:"name,omitempty"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
}

type ocsfRemediation struct {
	Desc string `json:"desc"`
}

type ocsfObservable struct {
	Name   string `json:"name"`
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
	Value  string `json:"value"`
}

// ocsfSeverities are ids and captions by our names.
var ocsfSeverities = map[string]struct {
	id      int
	caption string
}{
	"INFO": {1, "Informational"}, "LOW": {2, "Low"}, "MEDIUM": {3, "Medium"}, "HIGH": {4, "High"}, "CRITICAL": {5, "Critical"},
}

// standard is what checks are checks of: our own rules.
const standard = "Nightshift"

// OCSF writes every finding, open, exempt and resolved, as one line of JSON: a
// Compliance Finding. A finding that is new since the report's beginning is a
// Create, a resolved one a Close, any other an Update.
func (r *Report) OCSF(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	names := map[string]string{}
	for _, p := range r.Posture {
		names[p.Account] = p.Name
	}
	for _, list := range [][]*Finding{r.Findings, r.Exempt, r.Resolved} {
		for _, f := range list {
			if err := e.Encode(r.ocsf(f, names[f.Account])); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Report) ocsf(f *Finding, accountName string) *ocsfEvent {
	v := &ocsfEvent{
		ActivityID: 2, ActivityName: "Update", CategoryUID: ocsfCategory, CategoryName: "Findings", ClassUID: ocsfClass, ClassName: "Compliance Finding",
		SeverityID: 0, Severity: "Unknown", StatusID: 1, Status: "New", StartTime: millis(f.Since),
		Message:     f.Title + ": " + f.Reason,
		FindingInfo: ocsfFinding{UID: f.ID, Title: f.Title, Desc: f.Reason, Types: []string{r.Category}, CreatedTime: millis(f.FirstSeen), FirstSeenTime: millis(f.FirstSeen), LastSeenTime: millis(f.LastSeen)},
		Compliance: ocsfCompliance{
			Control: f.Rule, Standards: []string{standard}, StatusID: 3, Status: "Fail", StatusDetails: []string{f.Reason},
		},
		Resources: []ocsfResource{{
			UID: f.resource(), UIDAlt: f.ResourceID, Name: f.ResourceName, Type: f.ResourceType, Region: f.Region,
		}},
		Cloud:       ocsfCloud{Provider: "AWS", Region: f.Region, Account: ocsfAccount{UID: f.Account, Name: accountName, TypeID: 10, Type: "AWS Account"}},
		Remediation: ocsfRemediation{Desc: f.Recommendation},
		Observables: []ocsfObservable{{Name: "resources[].uid", TypeID: 10, Type: "Resource UID", Value: f.resource()}},
		Unmapped:    map[string]any{"score": f.Score, "evidence": f.Evidence},
	}
	last := f.LastSeen
	switch {
	case f.State == "RESOLVED":
		v.ActivityID, v.ActivityName, v.StatusID, v.Status = 3, "Close", 4, "Resolved"
		v.Compliance.StatusID, v.Compliance.Status = 1, "Pass"
		last = f.ResolveTime
	case f.State == "EXEMPT":
		v.StatusID, v.Status = 3, "Suppressed"
	case f.FirstSeen != nil && !f.FirstSeen.Before(r.SinceTime):
		v.ActivityID, v.ActivityName = 1, "Create"
	}
	if last == nil {
		last = &r.CreateTime
	}
	v.Time, v.FindingInfo.ModifiedTime = millis(last), millis(last)
	v.TypeUID = v.ClassUID*100 + v.ActivityID
	v.TypeName = v.ClassName + ": " + v.ActivityName
	if s, ok := ocsfSeverities[f.Severity]; ok {
		v.SeverityID, v.Severity = s.id, s.caption
	}
	if v.Remediation.Desc == "" {
		v.Remediation.Desc = "See the rule " + f.Rule + "."
	}
	v.Compliance.Checks = []ocsfCheck{{
		UID: f.Rule, Name: f.Title, Standards: v.Compliance.Standards, StatusID: v.Compliance.StatusID, Status: v.Compliance.Status,
		SeverityID: v.SeverityID, Severity: v.Severity,
	}}
	v.Compliance.ControlParameters = pairs(f.from.GetParameters())
	v.Metadata = ocsfMetadata{Version: ocsfVersion, Profiles: []string{"cloud"}, UID: f.ID + "/" + r.CreateTime.Format(time.RFC3339), EventCode: f.Rule}
	v.Metadata.Product.Name, v.Metadata.Product.VendorName, v.Metadata.Product.Version = "Nightshift", "Nightshift", r.Version
	v.Metadata.Product.Feature.Name = strings.ToLower(r.Category)
	res := &v.Resources[0]
	res.Tags = pairs(f.from.GetResource().GetTags())
	if parts := strings.Split(f.ARN, ":"); len(parts) > 2 {
		res.CloudPartition = parts[1]
	}
	if f.Owner != "" {
		res.Owner = &ocsfOwner{Name: f.Owner}
	}
	if f.Exemption != nil {
		v.Unmapped["exemption"] = f.Exemption
	}
	if f.Cost != nil {
		v.Unmapped["monthly_cost"] = f.Cost
	}
	return v
}

// pairs is a map as a list, sorted by name.
func pairs(m map[string]string) []ocsfPair {
	var out []ocsfPair
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, ocsfPair{k, m[k]})
	}
	return out
}

func millis(t *time.Time) int64 {
	if t == nil {
		return 0
	}
	return t.UnixMilli()
}
