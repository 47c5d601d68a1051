package simaws

import "math"

// prices of EBS and public IPv4 in one region, USD a month (730 hours): AWS's price list of July 2026.
type prices struct {
	gp2, gp3, gp3IOPS, gp3Throughput float64
	io, ioIOPS, io2Mid, io2High      float64
	st1, sc1, standard               float64
	snapshot, archive                float64
	publicIPv4                       float64
	hour                             map[string]float64 // Linux on demand, an hour
}

var virginia = prices{
	gp2: 0.10, gp3: 0.08, gp3IOPS: 0.005, gp3Throughput: 0.04,
	io: 0.125, ioIOPS: 0.065, io2Mid: 0.0455, io2High: 0.032,
	st1: 0.045, sc1: 0.015, standard: 0.05,
	snapshot: 0.05, archive: 0.0125,
	publicIPv4: 0.005 * 730,
	hour: map[string]float64{
		"t2.micro": .0116, "t2.medium": .0464, "t3.nano": .0052, "t3.micro": .0104, "t3.small": .0208, "t3.medium": .0416, "t3.large": .0832, "t3.xlarge": .1664,
		"t3.2xlarge": .3328, "t3a.micro": .0094, "t3a.medium": .0376, "t4g.micro": .0084, "t4g.small": .0168, "t4g.medium": .0336, "t4g.large": .0672, "m4.large": .10,
		"m5.large": .096, "m5.xlarge": .192, "m5.2xlarge": .384, "m5.4xlarge": .768, "m6i.large": .096, "m6i.xlarge": .192, "m6i.2xlarge": .384, "m6g.large": .077,
		"m7i.large": .1008, "m7i.xlarge": .2016, "m7g.large": .0816, "m7g.xlarge": .1632, "m7a.large": .11592, "m8g.large": .08976, "m8i.large": .10584,
		"c5.large": .085, "c5.xlarge": .17, "c5.2xlarge": .34, "c6i.large": .085, "c6i.xlarge": .17, "c6g.large": .068, "c7i.large": .08925, "c7g.large": .0725,
		"c7g.xlarge": .145, "c8g.large": .07976, "r5.large": .126, "r5.xlarge": .252, "r6i.large": .126, "r6g.large": .1008, "r7i.large": .1323, "r7g.large": .1071,
		"r8g.large": .11782, "i3.large": .156, "i4i.large": .172, "g4dn.xlarge": .526, "g5.xlarge": 1.006, "p3.2xlarge": 3.06, "p4d.24xlarge": 21.957642,
	},
}

// regionPrices are the regions the truth knows prices of. Elsewhere it makes no claim about money: the cost is null.
var regionPrices = map[string]prices{"us-east-1": virginia}

// volume is what it costs a month, attached or not. gp3 includes 3,000 IOPS and 125 MiB/s.
func (p prices) volume(v *Volume) float64 {
	size, iops := float64(v.Size), float64(v.IOPS)
	switch v.Type {
	case "gp2":
		return size * p.gp2
	case "gp3":
		return size*p.gp3 + max(0, iops-3000)*p.gp3IOPS + max(0, float64(v.Throughput)-125)*p.gp3Throughput
	case "io1":
		return size*p.io + iops*p.ioIOPS
	case "io2":
		return size*p.io + min(iops, 32000)*p.ioIOPS + max(0, min(iops, 64000)-32000)*p.io2Mid + max(0, iops-64000)*p.io2High
	case "st1":
		return size * p.st1
	case "sc1":
		return size * p.sc1
	}
	return size * p.standard
}

// cents rounds to a hundredth of a cent, so that equal sums compare equal in JSON.
func cents(v float64) *float64 {
	v = math.Round(v*1e4) / 1e4
	return &v
}
