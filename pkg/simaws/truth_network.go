package simaws

import (
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sensitive are the default ports, by protocol number and port: how bad it is that the world reaches them.
var sensitive = func() map[[2]int]string {
	out := map[[2]int]string{}
	add := func(severity string, protocol int, text string) {
		for _, f := range strings.Fields(text) {
			a, b, isRange := strings.Cut(f, "-")
			from, _ := strconv.Atoi(a)
			to := from
			if isRange {
				to, _ = strconv.Atoi(b)
			}
			for port := from; port <= to; port++ {
				out[[2]int{protocol, port}] = severity
			}
		}
	}
	const tcp, udp = 6, 17
	add(Critical, tcp, "22 1433 1434 1521 2375 2376 2379 2380 2483 2484 3306 3389 5432 5900-5903 5984 5985 5986 6379 6443 7199 9042 9160 9200 9300 10250 11211 27017-27019 50070")
	add(High, tcp, "20 21 23 25 110 111 135 139 143 389 445 636 873 2049 2181 4333 5500 5601 9092 15672")
	add(Medium, tcp, "3000 5000 8080 8088 8888")
	add(Critical, udp, "11211")
	add(High, udp, "69 161")
	return out
}()

var severities = []string{"", Info, Low, Medium, High, Critical}

func worse(a, b string) string {
	return severities[max(slices.Index(severities, a), slices.Index(severities, b))]
}

// stretch is a range of addresses as numbers, both ends included.
type stretch struct{ from, to *big.Int }

func stretchOf(p netip.Prefix) stretch {
	from := new(big.Int).SetBytes(p.Masked().Addr().AsSlice())
	size := new(big.Int).Lsh(big.NewInt(1), uint(p.Addr().BitLen()-p.Bits()))
	return stretch{from, size.Add(size, from).Sub(size, big.NewInt(1))}
}

// merge joins stretches that overlap or touch, in order.
func merge(all []stretch) []stretch {
	all = slices.SortedFunc(slices.Values(all), func(a, b stretch) int { return a.from.Cmp(b.from) })
	var out []stretch
	for _, s := range all {
		if n := len(out); n > 0 && s.from.Cmp(new(big.Int).Add(out[n-1].to, big.NewInt(1))) <= 0 {
			if s.to.Cmp(out[n-1].to) > 0 {
				out[n-1].to = s.to
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// overlap counts the addresses that are in both.
func overlap(a, b []stretch) *big.Int {
	sum := new(big.Int)
	for _, x := range a {
		for _, y := range b {
			from, to := x.from, x.to
			if y.from.Cmp(from) > 0 {
				from = y.from
			}
			if y.to.Cmp(to) < 0 {
				to = y.to
			}
			if from.Cmp(to) <= 0 {
				n := new(big.Int).Sub(to, from)
				sum.Add(sum, n.Add(n, big.NewInt(1)))
			}
		}
	}
	return sum
}

// space is a family's public addresses: how many there are, and how many are wide.
type space struct {
	all         []stretch
	total, wide *big.Int
}

var publicSpace = func() map[bool]space { // by whether it is IPv6
	var taken, free []stretch
	for _, p := range []string{"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
		"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"} {
		taken = append(taken, stretchOf(netip.MustParsePrefix(p)))
	}
	next := big.NewInt(0)
	for _, s := range merge(taken) {
		if next.Cmp(s.from) < 0 {
			free = append(free, stretch{next, new(big.Int).Sub(s.from, big.NewInt(1))})
		}
		next = new(big.Int).Add(s.to, big.NewInt(1))
	}
	six := []stretch{stretchOf(netip.MustParsePrefix("2000::/3"))}
	return map[bool]space{
		false: {free, overlap(free, free), big.NewInt(1 << 24)},
		true:  {six, overlap(six, six), new(big.Int).Lsh(big.NewInt(1), 96)},
	}
}()

// exposure is what of a group's sensitive ports the internet reaches.
type exposure struct {
	severity string // of the worst port; empty: none is open
	world    bool   // some port is open to the whole world
	unknown  bool   // besides, some port may be open through a prefix list that cannot be read
}

// covers tells whether a rule lets a port of a protocol through.
func (g *GroupRule) covers(protocol, port int) bool {
	switch strings.ToLower(g.Protocol) {
	case "-1":
		return true
	case "tcp", "6":
		if protocol != 6 {
			return false
		}
	case "udp", "17":
		if protocol != 17 {
			return false
		}
	default:
		return false
	}
	from, to := int32(0), int32(65535)
	if g.From != nil && *g.From >= 0 {
		from = *g.From
	}
	if g.To != nil && *g.To >= 0 {
		to = *g.To
	}
	return from <= int32(port) && int32(port) <= to
}

// peers are the addresses behind a rule; ok is false if that cannot be known.
func (r *Region) peers(g *GroupRule) (out []netip.Prefix, ok bool) {
	texts := appendSet(appendSet(nil, g.CIDR), g.CIDR6)
	if g.PrefixList != "" {
		l := r.prefixList(g.PrefixList)
		switch {
		case l == nil || l.Hidden || r.account.denies("ec2", "DescribeManagedPrefixLists"):
			return nil, false
		case l.Owner == ownerAWS: // never the world
			return nil, true
		case l.Unreadable || r.account.denies("ec2", "GetManagedPrefixListEntries"):
			return nil, false
		}
		texts = l.entries()
	}
	for _, t := range texts {
		if p, err := netip.ParsePrefix(t); err == nil {
			out = append(out, p)
		}
	}
	return out, true
}

func (r *Region) exposure(g *Group) (e exposure) {
	seen := map[string]exposure{} // by which rules cover the port: most ports are covered by the same
	for port, severity := range sensitive {
		var key []byte
		for i := range g.Ingress {
			if g.Ingress[i].covers(port[0], port[1]) {
				key = append(key, byte(i), byte(i>>8))
			}
		}
		if len(key) == 0 {
			continue
		}
		x, ok := seen[string(key)]
		if !ok {
			x = r.reach(g, port)
			seen[string(key)] = x
		}
		switch {
		case x.world:
			e.world, e.severity = true, worse(e.severity, severity)
		case x.severity != "":
			e.severity = worse(e.severity, Medium)
		case x.unknown:
			e.unknown = true
		}
	}
	return e
}

// reach tells who reaches one port: the world, something wide (severity Medium), or nobody in particular.
func (r *Region) reach(g *Group, port [2]int) (e exposure) {
	from := map[bool][]stretch{}
	for i := range g.Ingress {
		rule := &g.Ingress[i]
		if !rule.covers(port[0], port[1]) {
			continue
		}
		peers, ok := r.peers(rule)
		e.unknown = e.unknown || !ok
		for _, p := range peers {
			from[p.Addr().Is6()] = append(from[p.Addr().Is6()], stretchOf(p))
		}
	}
	for family, all := range from {
		public := publicSpace[family]
		n := overlap(merge(all), public.all)
		if n.Cmp(public.total) == 0 {
			e.world = true
		}
		if n.Cmp(public.wide) >= 0 {
			e.severity = Medium
		}
	}
	return e
}

func sgOpenSensitivePort(r *Region, _ time.Time, yield yield) {
	used := map[string]bool{}
	for i := range r.Interfaces {
		if n := &r.Interfaces[i]; !n.Deleted {
			for _, id := range n.Groups {
				used[id] = true
			}
		}
	}
	for i := range r.Groups {
		g := &r.Groups[i]
		e := r.exposure(g)
		v := good("no sensitive port is open")
		switch {
		case e.severity != "":
			v = bad(e.severity, "open")
			switch {
			case r.account.denies("ec2", "DescribeNetworkInterfaces"):
				v.severity = ""
			case !used[g.ID]: // one level less, not below LOW
				v.severity = severities[max(slices.Index(severities, Low), slices.Index(severities, e.severity)-1)]
				v.why = "open, but nothing uses the group"
			}
		case e.unknown:
			v = undecided("a prefix list cannot be read")
		}
		yield("security-group", g.ID, g.Case, v)
	}
}

// global tells whether an IPv6 address is one of the internet.
func global(text string) bool {
	a, err := netip.ParseAddr(text)
	return err == nil && netip.MustParsePrefix("2000::/3").Contains(a)
}

func ec2Public(r *Region, now time.Time, yield yield) {
	groups := map[string]exposure{}
	for i := range r.Groups {
		groups[r.Groups[i].ID] = r.exposure(&r.Groups[i])
	}
	for i := range r.Instances {
		in := &r.Instances[i]
		yield("instance", in.ID, in.Case, r.publicVerdict(in, now, groups))
	}
}

func (r *Region) publicVerdict(in *Instance, now time.Time, groups map[string]exposure) verdict {
	if in.State == "terminated" || in.State == "shutting-down" {
		return beside(in.State)
	}
	v := good("no public address")
	for _, i := range in.nics {
		n := &r.Interfaces[i]
		public := slices.ContainsFunc(n.IPv6, global) || slices.ContainsFunc(r.privateIPs(n), func(ip string) bool { return r.association(n, ip).ip != "" })
		if !public {
			continue
		}
		severity, why := Medium, "public"
		open := slices.ContainsFunc(n.Groups, func(id string) bool { return groups[id].world })
		maybe := slices.ContainsFunc(n.Groups, func(id string) bool { return groups[id].unknown })
		switch {
		case open && in.State == "running" && r.toInternet(n):
			severity, why = Critical, "public, running, routed, and a sensitive port is open to the world"
		case open:
			severity, why = High, "public, and a sensitive port is open to the world"
		case maybe:
			severity = "" // no claim
		}
		if v.outcome == Compliant || severity == "" || v.severity != "" && worse(severity, v.severity) == severity {
			v = bad(severity, why)
		}
	}
	if v.outcome != Violation {
		return v
	}
	if slices.ContainsFunc([]string{"DescribeSecurityGroups", "DescribeManagedPrefixLists", "GetManagedPrefixListEntries", "DescribeRouteTables"}, func(a string) bool {
		return r.account.denies("ec2", a)
	}) {
		v.severity = ""
	}
	if value, ok := tagValue(in.Tags, "public-allowed"); ok && exempts(value, now) {
		v.exempt, v.why = true, v.why+", and allowed to be: "+value
	}
	return v
}

// toInternet tells whether the interface's subnet routes to an internet gateway that is there.
func (r *Region) toInternet(n *Interface) bool {
	t := r.routes(r.subnet(n.Subnet))
	return t != nil && slices.ContainsFunc(t.Routes, func(route Route) bool { return strings.HasPrefix(route.Target, "igw-") && !route.Blackhole })
}

func exempts(value string, now time.Time) bool {
	value = strings.ToLower(value)
	if until, ok := strings.CutPrefix(value, "until-"); ok {
		last, err := time.Parse(time.DateOnly, until)
		return err == nil && now.Before(last.Add(day))
	}
	return slices.Contains([]string{"true", "yes", "1", "on"}, value)
}
