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

// exemption reads the tag public-allowed: whether it exempts at the scan's
// time, and a sentence about it; both are empty without the tag. The value is true, yes, 1, on or
// until-YYYY-MM-DD, in any case; anything else exempts from nothing.
func exemption(in scan.In, tags map[string]string) (x rule.Exemption, says string) {
	value, ok := tags[publicAllowed]
	if !ok {
		for k := range tags {
			if strings.EqualFold(strings.TrimSpace(k), publicAllowed) {
				return x, "The tag public-allowed is spelt another way and does not exempt it: case and blanks matter."
			}
		}
		return x, ""
	}
	x = rule.Exemption{By: "tag:" + publicAllowed, Why: "tagged " + publicAllowed + "=" + value}
	switch lower := strings.ToLower(value); lower {
	case "true", "yes", "1", "on":
		return x, "The tag public-allowed exempts it."
	default:
		day, ok := parseUntil(lower)
		switch {
		case !ok:
			return rule.Exemption{}, "The tag public-allowed does not exempt it: its value is not true, yes, 1, on or until-YYYY-MM-DD."
		case !in.At.Before(day.AddDate(0, 0, 1)):
			return rule.Exemption{}, "The tag public-allowed does not exempt it any more: it did through " + day.Format(time.DateOnly) + "."
		}
		x.Until = day.AddDate(0, 0, 1)
		return x, "The tag public-allowed exempts it through " + day.Format(time.DateOnly) + "."
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
