package waste

import (
	"math"
	"strconv"

	"nightshift.dev/pkg/scan"
)

// inRegion tells whether a zone is one of the region's own, such as us-east-1a:
// Local Zones and Wavelength Zones, such as us-east-1-bos-1a, have prices of
// their own. A zone AWS left out is taken for the region's.
func inRegion(in scan.In, zone string) bool { return zone == "" || len(zone) == len(in.Region)+1 }

// micros is an amount in millionths, for comparing and subtracting without a
// float's noise.
func micros(usd float64) int64 { return int64(math.Round(usd * 1e6)) }

// thousands writes a number from 0 on as people read it: 16,000.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// priceList is the source of evidence that is a price.
const priceList = "nightshift:price"
