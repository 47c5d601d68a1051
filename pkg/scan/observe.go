package scan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/rule"
)

// FindingID is the identity of a rule's finding on a resource, for ever: 32
// hexadecimal digits. Nothing that belongs to a scan goes into it.
func FindingID(partition, account, region, ruleID, arn string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{partition, account, region, ruleID, arn}, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// FindingID is the identity of the finding the judgement is about.
func (j *Judgement) FindingID() string {
	return FindingID(j.Partition, j.Scope.Account, j.Scope.Region, j.Rule.ID, j.Resource.ARN)
}

// Observation is the judgement as it goes over the wire. Texts that came from
// AWS are made valid there: UTF-8, no NUL, bounded.
func (j *Judgement) Observation() *scanv1.Observation {
	o := &scanv1.Observation{
		FindingId:   j.FindingID(),
		RuleId:      j.Rule.ID,
		RuleVersion: int32(j.Rule.Version),
		Category:    rulev1.Category(j.Rule.Category),
		Title:       j.Rule.Title,
		Resource: &scanv1.Resource{
			Arn: text(j.Resource.ARN), Id: text(j.Resource.ID), Type: j.Resource.Type,
			Account: j.Resource.Account, Region: j.Resource.Region, Zone: text(j.Resource.Zone),
			Name: text(j.Resource.Name()),
		},
		Verdict:    Verdict(j.Verdict),
		ObservedAt: timestamppb.New(j.At),
	}
	if len(j.Resource.Tags) > 0 {
		o.Resource.Tags = make(map[string]string, len(j.Resource.Tags))
		// In order, so that of two keys that become one the same always wins.
		for _, k := range slices.Sorted(maps.Keys(j.Resource.Tags)) {
			o.Resource.Tags[clip(text(k), maxItem)] = clip(text(j.Resource.Tags[k]), maxItem)
		}
	}
	if len(j.Params) > 0 {
		o.Parameters = make(map[string]string, len(j.Params))
		for name, v := range j.Params {
			o.Parameters[name] = text(paramText(v))
		}
	}
	return o
}

// paramText is a parameter's value as it is written in a configuration.
func paramText(v any) string {
	if list, ok := v.([]string); ok {
		return strings.Join(list, ",")
	}
	return fmt.Sprint(v)
}

// Verdict is a verdict as it goes over the wire.
func Verdict(v rule.Verdict) *rulev1.Verdict {
	out := &rulev1.Verdict{
		Outcome:        rulev1.Outcome(v.Outcome),
		Severity:       rulev1.Severity(v.Severity),
		Reason:         text(v.Reason),
		Since:          timestamp(v.Since),
		DecidableAt:    timestamp(v.DecidableAt),
		Recommendation: text(v.Recommendation),
		Owner:          text(v.Owner),
	}
	if v.Cost.Known {
		out.MonthlyCost = &rulev1.MonthlyCost{
			Low: v.Cost.Low, High: v.Cost.High, Basis: v.Cost.Basis, Source: v.Cost.Source, Date: v.Cost.Date,
		}
	}
	if v.Exempt != (rule.Exemption{}) {
		out.Exemption = &rulev1.Exemption{By: text(v.Exempt.By), Reason: text(v.Exempt.Why), ExpireTime: timestamp(v.Exempt.Until)}
	}
	for _, e := range v.Evidence {
		out.Evidence = append(out.Evidence, &rulev1.Evidence{
			Name: e.Name, Value: value(e.Value), Threshold: value(e.Threshold), Unit: e.Unit, Statistic: e.Statistic,
			WindowStart: timestamp(e.WindowStart), WindowEnd: timestamp(e.WindowEnd),
			PointsSeen: int32(e.PointsSeen), PointsExpected: int32(e.PointsExpected),
			Source: text(e.Source), ObservedAt: timestamp(e.At), Confidence: rulev1.Confidence(e.Confidence), Note: text(e.Note),
		})
	}
	return out
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// maxList bounds a list in evidence; a finding is read by people.
const maxList = 200

// value is a figure of evidence as it goes over the wire; nil stays unset.
func value(v any) *structpb.Value {
	switch v := v.(type) {
	case nil:
		return nil
	case bool:
		return structpb.NewBoolValue(v)
	case int:
		return structpb.NewNumberValue(float64(v))
	case float64:
		// JSON has no such numbers.
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return structpb.NewStringValue(strconv.FormatFloat(v, 'g', -1, 64))
		}
		return structpb.NewNumberValue(v)
	case string:
		return structpb.NewStringValue(text(v))
	case time.Time:
		return structpb.NewStringValue(v.UTC().Format(time.RFC3339))
	case []string:
		list := &structpb.ListValue{}
		for i, s := range v {
			if i == maxList {
				list.Values = append(list.Values, structpb.NewStringValue(fmt.Sprintf("… and %d more", len(v)-maxList)))
				break
			}
			list.Values = append(list.Values, structpb.NewStringValue(clip(text(s), maxItem)))
		}
		return structpb.NewListValue(list)
	default:
		return structpb.NewStringValue(text(fmt.Sprint(v)))
	}
}

// maxText bounds one text, and maxItem one tag and one entry of a list, in
// bytes: at least what AWS allows anywhere.
const (
	maxText = 4096
	maxItem = 1024
)

// text makes a foreign text fit for protobuf and Postgres: valid UTF-8 without
// NUL, and bounded.
func text(s string) string {
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	}
	return clip(s, maxText)
}

// clip cuts a valid text to at most n bytes, at a character's end.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
