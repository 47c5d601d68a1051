package simaws

import "math"

// prices of EBS and public IPv4 in one region, USD a month (730 hours): AWS's price list of July 2026.
type prices struct {
	gp2, gp3, gp3IOPS, gp3Throughput float64
	io, ioIOPS, io2Mid, io2High      float64
	st1, sc1, standard               float64
	publicIPv4                       float64
}

var virginia = prices{
	gp2: 0.10, gp3: 0.08, gp3IOPS: 0.005, gp3Throughput: 0.04,
	io: 0.125, ioIOPS: 0.065, io2Mid: 0.0455, io2High: 0.032,
	st1: 0.045, sc1: 0.015, standard: 0.05,
	publicIPv4: 0.005 * 730,
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
