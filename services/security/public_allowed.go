package security

import (
	"strings"
	"time"

	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// publicAllowed is the key of the tag that exempts a public instance; its case
// matters.
const publicAllowed = "public-allowed"

// exemption reads the tag public-allowed: what it exempts from at the scan's
// time, and what a reader should know of it. The value is true, yes, 1, on or
// until-YYYY-MM-DD, in any case; anything else exempts from nothing.
func exemption(in scan.In, tags map[string]string) (x rule.Exemption, note string) {
	value, ok := tags[publicAllowed]
	if !ok {
		for k := range tags {
			if strings.EqualFold(strings.TrimSpace(k), publicAllowed) {
				return x, "there is a tag of another spelling, which does not count: case and blanks matter"
			}
		}
		return x, ""
	}
	x = rule.Exemption{By: "tag:" + publicAllowed, Why: "tagged " + publicAllowed + "=" + value}
	switch lower := strings.ToLower(value); lower {
	case "true", "yes", "1", "on":
		return x, "exempt, without an end"
	default:
		day, ok := parseUntil(lower)
		switch {
		case !ok:
			return rule.Exemption{}, "not exempt: the value is not true, yes, 1, on or until-YYYY-MM-DD"
		case !in.At.Before(day.AddDate(0, 0, 1)):
			return rule.Exemption{}, "not exempt any more: the exemption ended with " + day.Format(time.DateOnly)
		}
		x.Until = day.AddDate(0, 0, 1)
		return x, "exempt through " + day.Format(time.DateOnly)
	}
}

// parseUntil reads the day of until-YYYY-MM-DD.
func parseUntil(s string) (time.Time, bool) {
	date, ok := strings.CutPrefix(s, "until-")
	if !ok {
		return time.Time{}, false
	}
	day, err := time.Parse(time.DateOnly, date)
	return day, err == nil
}
