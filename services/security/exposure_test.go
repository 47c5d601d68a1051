package security

import (
	"errors"
	"fmt"
	"math/big"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

func defaults(t interface{ Fatal(...any) }, id string) rule.Params {
	for _, m := range Rules.Metas() {
		if m.ID == id {
			return m.Defaults()
		}
	}
	t.Fatal("no rule " + id)
	return nil
}

func scanIn(params rule.Params) scan.In {
	return scan.In{At: scan.ExampleTime, Params: params, Account: exampleAccount, Region: "us-east-1"}
}

// The public space is what is left of IPv4 without the special ranges, one by
// one, and an eighth of IPv6.
func TestPublicSpace(t *testing.T) {
	t.Parallel()
	left := int64(1) << 32
	for _, bits := range []int{8, 8, 12, 16, 10, 8, 16, 24, 24, 24, 24, 24, 15, 4, 4} {
		left -= int64(1) << (32 - bits)
	}
	if publicSize[ipv4].Cmp(big.NewInt(left)) != 0 {
		t.Errorf("%v IPv4 addresses are public, want %d", publicSize[ipv4], left)
	}
	if want := new(big.Int).Lsh(big.NewInt(1), 125); publicSize[ipv6].Cmp(want) != 0 {
		t.Errorf("%v IPv6 addresses are public, want %v", publicSize[ipv6], want)
	}
	for ip, want := range map[string]bool{
		"1.1.1.1": true, "9.255.255.255": true, "10.0.0.0": false, "11.0.0.0": true, "100.63.255.255": true, "100.64.0.0": false,
		"127.0.0.1": false, "169.254.169.254": false, "172.15.255.255": true, "172.16.0.0": false, "172.32.0.0": true, "192.0.2.1": false,
		"192.168.0.1": false, "198.51.100.1": false, "203.0.113.1": false, "223.255.255.255": true, "224.0.0.1": false, "255.255.255.255": false,
		"2000::": true, "2600:1f18::1": true, "3fff:ffff::": true, "4000::": false, "fd00::1": false, "fe80::1": false, "::1": false, "::ffff:1.1.1.1": false,
	} {
		if got := public.Contains(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s public: %v, want %v", ip, got, want)
		}
	}
}

// anyCIDR draws an address range: of any size, and often a big one.
func anyCIDR(t *rapid.T) netip.Prefix {
	if rapid.IntRange(0, 3).Draw(t, "family") == 0 {
		b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address")
		b[0] = rapid.SampledFrom([]byte{0x20, 0x26, 0x3f, 0xfd, 0x00}).Draw(t, "first")
		return netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), rapid.SampledFrom([]int{0, 1, 2, 3, 4, 16, 31, 32, 33, 64, 128}).Draw(t, "bits")).Masked()
	}
	b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), rapid.SampledFrom([]int{0, 0, 1, 1, 2, 3, 7, 8, 9, 16, 24, 32}).Draw(t, "bits")).Masked()
}

func anyPermission(t *rapid.T) inventory.Permission {
	p := inventory.Permission{Ports: inventory.Ports{Protocol: rapid.SampledFrom([]string{"tcp", "tcp", "6", "udp", "17", "-1", "icmp", "58", "", "x"}).Draw(t, "protocol")}}
	port := rapid.SampledFrom([]int{-1, 0, 1, 20, 22, 23, 161, 5901, 8080, 27018, 65535, 70000})
	if rapid.IntRange(0, 5).Draw(t, "has from") > 0 {
		p.From = new(port.Draw(t, "from"))
	}
	if rapid.IntRange(0, 5).Draw(t, "has to") > 0 {
		p.To = new(port.Draw(t, "to"))
	}
	for range rapid.IntRange(0, 3).Draw(t, "ranges") {
		p.CIDRs = append(p.CIDRs, anyCIDR(t).String())
	}
	if rapid.IntRange(0, 9).Draw(t, "odd") == 0 {
		p.CIDRs = append(p.CIDRs, rapid.SampledFrom([]string{"", "x", "1.2.3.4/33", "::/129", "300.1.1.1/8"}).Draw(t, "odd range"))
	}
	if rapid.IntRange(0, 3).Draw(t, "list") == 0 {
		p.PrefixLists = append(p.PrefixLists, rapid.SampledFrom([]string{"pl-world", "pl-half", "pl-aws", "pl-denied", "pl-unread", ""}).Draw(t, "prefix list"))
	}
	if rapid.Bool().Draw(t, "group") {
		p.Groups = []string{"sg-0"}
	}
	return p
}

func anyGroup(t *rapid.T) inventory.SecurityGroup {
	g := groupExample(
		prefixList("pl-world", "0.0.0.0/0", "::/0"), prefixList("pl-half", "128.0.0.0/1"), awsPrefixList("pl-aws", "com.amazonaws.x"),
		listFact("pl-denied", denied[inventory.PrefixList]("ec2:GetManagedPrefixListEntries")))
	for range rapid.IntRange(0, 5).Draw(t, "permissions") {
		g.Ingress = append(g.Ingress, anyPermission(t))
	}
	if rapid.Bool().Draw(t, "unattached") {
		unattached(&g)
	}
	return g
}

// openness orders what the rule may say of a group: compliant, unknown, and
// violations by severity.
func openness(v rule.Verdict) int {
	switch v.Outcome {
	case rule.Compliant:
		return 0
	case rule.InsufficientData:
		return 1
	case rule.Violation:
		return 1 + int(v.Severity)
	default:
		panic(v.Outcome)
	}
}

// Letting somebody else in never makes a group less open.
func TestMoreRulesAreNotLessOpen(t *testing.T) {
	t.Parallel()
	in := scanIn(defaults(t, "sg-open-sensitive-port"))
	rapid.Check(t, func(t *rapid.T) {
		g := anyGroup(t)
		before := judgeGroup(in, g)
		more := g
		more.Ingress = slices.Insert(slices.Clone(g.Ingress), rapid.IntRange(0, len(g.Ingress)).Draw(t, "where"), anyPermission(t))
		after := judgeGroup(in, more)
		if openness(after) < openness(before) {
			t.Fatalf("%s %s before and %s %s after", before.Outcome, before.Severity, after.Outcome, after.Severity)
		}
	})
}

// The verdict, to its evidence, does not depend on the order of anything.
func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	in := scanIn(defaults(t, "sg-open-sensitive-port"))
	rapid.Check(t, func(t *rapid.T) {
		g := anyGroup(t)
		h := g
		h.Ingress = rapid.Permutation(g.Ingress).Draw(t, "order")
		for i := range h.Ingress {
			if n := len(h.Ingress[i].CIDRs); n > 1 {
				h.Ingress[i].CIDRs = rapid.Permutation(h.Ingress[i].CIDRs).Draw(t, "ranges")
			}
		}
		if a, b := fmt.Sprintf("%#v", judgeGroup(in, g)), fmt.Sprintf("%#v", judgeGroup(in, h)); a != b {
			t.Fatalf("%s\n%s", a, b)
		}
	})
}

// halves splits a range in two.
func halves(p netip.Prefix) (a, b netip.Prefix) {
	a = netip.PrefixFrom(p.Addr(), p.Bits()+1)
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper, _ := netip.AddrFromSlice(bytes)
	return a, netip.PrefixFrom(upper, p.Bits()+1)
}

// A range split in halves is the same range, as one rule or as two, whatever
// else there is.
func TestHalvesAreTheWhole(t *testing.T) {
	t.Parallel()
	in := scanIn(defaults(t, "sg-open-sensitive-port"))
	rapid.Check(t, func(t *rapid.T) {
		g := anyGroup(t)
		whole := anyCIDR(t)
		if whole.Bits() == whole.Addr().BitLen() {
			whole = netip.MustParsePrefix("0.0.0.0/0")
		}
		p := anyPermission(t)
		p.PrefixLists, p.CIDRs = nil, []string{whole.String()}
		a, b := halves(whole)
		one, two, split := p, p, p
		one.CIDRs, two.CIDRs, split.CIDRs = []string{a.String()}, []string{b.String()}, []string{b.String(), a.String()}
		with := func(more ...inventory.Permission) rule.Verdict {
			h := g
			h.Ingress = append(slices.Clone(g.Ingress), more...)
			return judgeGroup(in, h)
		}
		want := with(p)
		for _, got := range []rule.Verdict{with(one, two), with(split)} {
			if got.Outcome != want.Outcome || got.Severity != want.Severity {
				t.Fatalf("%s: %s %s, its halves %s and %s: %s %s", whole, want.Outcome, want.Severity, a, b, got.Outcome, got.Severity)
			}
		}
	})
}

// The same question answered by brute force: ports one by one, addresses as
// intervals that are marked in a list of all boundaries.
func TestExposureAgainstBruteForce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := anyGroup(t)
		peers := peersOf(g)
		at := rapid.SampledFrom([]ports{{tcp, 22, 22}, {tcp, 20, 25}, {tcp, 5900, 5903}, {udp, 161, 161}, {tcp, 0, highestPort}}).Draw(t, "ports")
		got := map[int]opening{}
		for _, o := range newExposure(peers).of(at) {
			for p := o.from; p <= o.to; p++ {
				if _, twice := got[p]; twice {
					t.Fatalf("port %d is told twice", p)
				}
				got[p] = o
			}
		}
		for _, p := range []int{at.from, at.to, 22, 23, 24, 161, 5901, 8080} {
			if p < at.from || p > at.to {
				continue
			}
			var v4, v6 []netip.Prefix
			unknown := false
			for _, x := range peers {
				if x.ports.protocol != allProtocols && x.ports.protocol != at.protocol || p < x.ports.from || p > x.ports.to {
					continue
				}
				unknown = unknown || x.unknown != ""
				for _, prefix := range x.open {
					if prefix.Addr().Is4() {
						v4 = append(v4, prefix)
					} else {
						v6 = append(v6, prefix)
					}
				}
			}
			want := [families]level{slowLevel(v4, ipv4), slowLevel(v6, ipv6)}
			o := got[p]
			if o.levels != want || (len(o.unknown) > 0) != unknown {
				t.Fatalf("port %d: %v unknown %v, want %v unknown %v, of %v", p, o.levels, o.unknown, want, unknown, peers)
			}
			if o.worst() > closed && len(o.peers) == 0 {
				t.Fatalf("port %d is open by nobody", p)
			}
		}
	})
}

// slowLevel marks, between all boundaries there are, what is public and what
// is covered.
func slowLevel(prefixes []netip.Prefix, f family) level {
	type interval struct{ from, to [2]uint64 } // to is exclusive; the end of all is 2^128 - 1
	last := func(p netip.Prefix) netip.Addr {
		b := p.Addr().AsSlice()
		for i := p.Bits(); i < p.Addr().BitLen(); i++ {
			b[i/8] |= 0x80 >> (i % 8)
		}
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	number := func(a netip.Addr) [2]uint64 {
		var n [2]uint64
		for _, x := range a.AsSlice() {
			n[0] = n[0]<<8 | n[1]>>56
			n[1] = n[1]<<8 | uint64(x)
		}
		return n
	}
	next := func(n [2]uint64) [2]uint64 {
		lo, carry := bits.Add64(n[1], 1, 0)
		hi, over := bits.Add64(n[0], 0, carry)
		if over == 1 {
			return n
		}
		return [2]uint64{hi, lo}
	}
	var covered, space []interval
	for _, p := range prefixes {
		covered = append(covered, interval{number(p.Addr()), next(number(last(p)))})
	}
	for _, r := range public.Ranges() {
		if familyOf(r.From()) == f {
			space = append(space, interval{number(r.From()), next(number(r.To()))})
		}
	}
	less := func(a, b [2]uint64) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }
	var edges [][2]uint64
	for _, i := range slices.Concat(covered, space) {
		edges = append(edges, i.from, i.to)
	}
	slices.SortFunc(edges, func(a, b [2]uint64) int {
		if less(a, b) {
			return -1
		} else if less(b, a) {
			return 1
		}
		return 0
	})
	in := func(list []interval, n [2]uint64) bool {
		return slices.ContainsFunc(list, func(i interval) bool { return !less(n, i.from) && less(n, i.to) })
	}
	var sum [2]uint64
	all := true
	for i := 0; i+1 < len(edges); i++ {
		if !in(space, edges[i]) || edges[i] == edges[i+1] {
			continue
		}
		if !in(covered, edges[i]) {
			all = false
			continue
		}
		lo, borrow := bits.Sub64(edges[i+1][1], edges[i][1], 0)
		hi, _ := bits.Sub64(edges[i+1][0], edges[i][0], borrow)
		var carry uint64
		sum[1], carry = bits.Add64(sum[1], lo, 0)
		sum[0], _ = bits.Add64(sum[0], hi, carry)
	}
	threshold := [families][2]uint64{{0, 1 << 24}, {1 << 32, 0}}[f]
	switch {
	case all:
		return world
	case !less(sum, threshold):
		return wide
	}
	return closed
}

// A rule never blames on unknown evidence: what cannot be read makes nothing
// open, and nothing closed either.
func TestUnknownIsNeitherOpenNorClosed(t *testing.T) {
	t.Parallel()
	in := scanIn(defaults(t, "sg-open-sensitive-port"))
	rapid.Check(t, func(t *rapid.T) {
		g := groupExample(listFact("pl-denied", denied[inventory.PrefixList]("ec2:GetManagedPrefixListEntries")))
		for range rapid.IntRange(1, 4).Draw(t, "permissions") {
			p := anyPermission(t)
			p.PrefixLists, p.CIDRs = []string{"pl-denied"}, []string{"10.0.0.0/8", "not a range"}
			g.Ingress = append(g.Ingress, p)
		}
		if v := judgeGroup(in, g); v.Outcome == rule.Violation {
			t.Fatalf("%s: %s", v.Outcome, v.Reason)
		}
	})
	g := groupExample(ingress("tcp", 22, 22, "pl-denied"), listFact("pl-denied", denied[inventory.PrefixList]("ec2:GetManagedPrefixListEntries")))
	if v := judgeGroup(in, g); v.Outcome != rule.InsufficientData {
		t.Errorf("%s", v.Outcome)
	}
}

// One finding for a group, with a piece of evidence for each open port.
func TestOnePieceOfEvidenceForEachPort(t *testing.T) {
	t.Parallel()
	in := scanIn(defaults(t, "sg-open-sensitive-port"))
	g := groupExample()
	for _, port := range []int{22, 23, 25, 3306, 3389, 5432, 6379, 8080, 9200} {
		ingress("tcp", port, port, "0.0.0.0/0")(&g)
	}
	v := judgeGroup(in, g)
	n := 0
	for _, e := range v.Evidence {
		if e.Name == "open_port" {
			n++
		}
	}
	if n != 9 || v.Severity != rule.Critical {
		t.Errorf("%d pieces of evidence, %s, want 9, CRITICAL", n, v.Severity)
	}
}

// The default ports are these and no others, each in one list.
func TestDefaultPorts(t *testing.T) {
	t.Parallel()
	want := map[ports]bool{}
	for text := range strings.FieldsSeq(`20 21 22 23 25 110 111 135 139 143 389 445 636 873 1433 1434 1521 2049 2181 2375 2376 2379 2380 2483 2484
		3000 3306 3389 4333 5000 5432 5500 5601 5900-5903 5984 5985 5986 6379 6443 7199 8080 8088 8888 9042 9092 9160 9200 9300 10250
		11211 11211/udp 15672 27017-27019 50070 69/udp 161/udp`) {
		p, err := parsePort(text)
		if err != nil {
			t.Fatal(err)
		}
		want[p] = true
	}
	for _, s := range sensitivePorts(defaults(t, "sg-open-sensitive-port")) {
		if !want[s.ports] {
			t.Errorf("%v is sensitive twice, or should not be", s.ports)
		}
		delete(want, s.ports)
		if services[s.ports] == "" {
			t.Errorf("%v has no name", s.ports)
		}
	}
	if len(want) > 0 {
		t.Errorf("not sensitive: %v", want)
	}
}

func TestWrongPortsAreRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"x", "22/sctp", "70000", "5-1", "-1", "22-", "-22", "2 2", "1-2-3", "/udp", "+22", "1_0"} {
		_, err := Rules.Settings("sg-open-sensitive-port.critical_ports=21," + text)
		var refused *errs.Error
		if !errors.As(err, &refused) || !strings.Contains(fmt.Sprint(refused.Violations()), text) {
			t.Errorf("%q is taken, or not named: %v", text, err)
		}
	}
	if _, err := Rules.Settings("sg-open-sensitive-port.critical_ports=22, 23-25/TCP ,161/udp"); err != nil {
		t.Error(err)
	}
}

func FuzzParseCIDR(f *testing.F) {
	for _, s := range []string{"0.0.0.0/0", "::/0", "10.0.0.5/8", "1.2.3.4", "2600::1", "fe80::1%eth0", "::ffff:1.2.3.4/96", "1.2.3.4/33", " 1.2.3.4/8 ", "", "/", "01.2.3.4/8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseCIDR(s)
		if err != nil {
			return
		}
		if !p.IsValid() || p != p.Masked() {
			t.Errorf("%q is read as %v", s, p)
		}
		again, err := parseCIDR(p.String())
		if err != nil || again != p {
			t.Errorf("%q is read as %v and then as %v, %v", s, p, again, err)
		}
		l := levels([]netip.Prefix{p})
		if l[ipv4] > closed && p.Bits() > 8 || l[ipv6] > closed && p.Bits() > 32 {
			t.Errorf("%v: %v", p, l)
		}
	})
}

func FuzzParsePorts(f *testing.F) {
	f.Add("tcp", 22, 22, true, true)
	f.Add("-1", 0, 0, false, false)
	f.Add("17", -1, -1, true, true)
	f.Add("ICMP", 8, 0, true, true)
	f.Add("256", 1, 2, true, true)
	f.Add("", 0, 70000, true, true)
	f.Fuzz(func(t *testing.T, protocol string, from, to int, hasFrom, hasTo bool) {
		in := inventory.Ports{Protocol: protocol}
		if hasFrom {
			in.From = &from
		}
		if hasTo {
			in.To = &to
		}
		p, err := parsePorts(in)
		if err != nil {
			return
		}
		if p.from < 0 || p.from > p.to || p.to > highestPort || p.protocol < allProtocols || p.protocol > 255 {
			t.Errorf("%q %v %v is read as %+v", protocol, in.From, in.To, p)
		}
		if p.protocol == allProtocols && (p.from != 0 || p.to != highestPort) {
			t.Errorf("all protocols have ports %d to %d", p.from, p.to)
		}
	})
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"22", "5900-5903", "161/udp", "22/tcp", "0", "65535", "65536", "3-2", "a", "/udp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePort(s)
		if err != nil {
			return
		}
		if again, err := parsePort(p.String()); err != nil || again != p {
			t.Errorf("%q is read as %v and then as %v, %v", s, p, again, err)
		}
	})
}
