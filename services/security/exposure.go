package security

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"nightshift.dev/pkg/inventory"
)

// How open a port is, is arithmetic on sets of addresses: the union of all
// peers that may reach it, of one rule or of fifty, against the whole public
// space. Everything here is pure.

// level is how much of the public space of one address family may reach a
// port.
type level int

const (
	// closed: less than wide, be it nobody or an office.
	closed level = iota
	// wide: a part as big as a /8 of IPv4 or a /32 of IPv6.
	wide
	// world: all of it.
	world
)

// family is IPv4 or IPv6 as an index.
type family int

const (
	ipv4 family = iota
	ipv6
	families
)

var (
	// public is global unicast: what of IPv4 is not set apart by IANA's
	// registry of special-purpose addresses, and 2000::/3.
	public = func() *netipx.IPSet {
		var b netipx.IPSetBuilder
		b.AddPrefix(netip.MustParsePrefix("0.0.0.0/0"))
		b.AddPrefix(netip.MustParsePrefix("2000::/3"))
		for _, special := range []string{
			"0.0.0.0/8",                                     // this network
			"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", // private
			"100.64.0.0/10",                                     // carrier-grade NAT
			"127.0.0.0/8",                                       // loopback
			"169.254.0.0/16",                                    // link-local
			"192.0.0.0/24",                                      // protocol assignments
			"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", // documentation
			"192.88.99.0/24", // 6to4 relays, which are no more
			"198.18.0.0/15",  // benchmarks
			"224.0.0.0/4",    // multicast
			"240.0.0.0/4",    // reserved, broadcast
		} {
			b.RemovePrefix(netip.MustParsePrefix(special))
		}
		set, err := b.IPSet()
		if err != nil {
			panic(err) // the prefixes above are constants
		}
		return set
	}()
	publicSize = size(public)
	wideSize   = [families]*big.Int{new(big.Int).Lsh(big.NewInt(1), 32-8), new(big.Int).Lsh(big.NewInt(1), 128-32)}
)

// size is how many addresses of each family a set holds.
func size(s *netipx.IPSet) (n [families]*big.Int) {
	for f := range n {
		n[f] = new(big.Int)
	}
	for _, r := range s.Ranges() {
		f := familyOf(r.From())
		span := new(big.Int).SetBytes(r.To().AsSlice())
		span.Sub(span, new(big.Int).SetBytes(r.From().AsSlice()))
		n[f].Add(n[f], span.Add(span, big.NewInt(1)))
	}
	return n
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// levels tells how much of the public space prefixes cover together.
func levels(prefixes []netip.Prefix) (l [families]level) {
	if len(prefixes) == 0 {
		return l
	}
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		b.AddPrefix(p)
	}
	b.Intersect(public)
	set, err := b.IPSet()
	if err != nil {
		// Only prefixes that are none, and parseCIDR gives none of those.
		return l
	}
	for f, n := range size(set) {
		switch {
		// A part of the public space that is as big as all of it is all of it.
		case n.Cmp(publicSize[f]) == 0:
			l[f] = world
		case n.Cmp(wideSize[f]) >= 0:
			l[f] = wide
		}
	}
	return l
}

// parseCIDR reads an address range as AWS writes it, or a single address.
func parseCIDR(s string) (netip.Prefix, error) {
	s = strings.TrimSpace(s)
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.Prefix{}, fmt.Errorf("%q is no address range", s)
}

// peer is who one inbound rule lets in, and where to.
type peer struct {
	group string // its security group's id
	ports ports
	// source is the address range or prefix list as AWS writes it.
	source string
	// open are its address ranges that have public addresses.
	open []netip.Prefix
	// unknown says what of the rule cannot be read; empty when all can.
	unknown string
}

// peersOf are the peers that a group's rules let in, but for those of private
// addresses, other groups and protocols without ports.
func peersOf(g inventory.SecurityGroup) []peer {
	var all []peer
	for _, in := range g.Ingress {
		at, err := parsePorts(in.Ports)
		if err != nil {
			// It may be about any port.
			at = ports{allProtocols, 0, highestPort}
		} else if at.protocol != allProtocols && at.protocol != tcp && at.protocol != udp {
			continue
		}
		add := func(source string, cidrs []string, unknown error) {
			p := peer{group: g.ID, ports: at, source: source}
			for _, c := range cidrs {
				prefix, err := parseCIDR(c)
				switch {
				case err != nil:
					unknown = errors.Join(unknown, err)
				case public.OverlapsPrefix(prefix):
					p.open = append(p.open, prefix)
				}
			}
			if err != nil && (len(p.open) > 0 || unknown != nil) {
				p.open, unknown = nil, errors.Join(err, unknown)
			}
			if unknown != nil {
				p.unknown = strings.ReplaceAll(unknown.Error(), "\n", "; ")
			}
			if len(p.open) > 0 || p.unknown != "" {
				all = append(all, p)
			}
		}
		for _, c := range in.CIDRs {
			add(strings.TrimSpace(c), []string{c}, nil)
		}
		for _, id := range in.PrefixLists {
			list := g.PrefixLists[id]
			switch {
			case list.Known && list.Value.AWS:
				// AWS's own services are not the world.
			case list.Known:
				add(id, list.Value.CIDRs, nil)
			case list.Why != "":
				add(id, nil, fmt.Errorf("prefix list %s cannot be read: %s", id, list.Why))
			default:
				add(id, nil, fmt.Errorf("prefix list %s was not read", id))
			}
		}
	}
	return all
}

// opening is how open a port, or some next to each other, are.
type opening struct {
	ports
	levels [families]level
	// peers let in who makes it as open as it is.
	peers []peer
	// unknown says why it may be more open than that; empty when it is not.
	unknown []string
}

// worst is the higher level of the two families.
func (o opening) worst() level { return max(o.levels[ipv4], o.levels[ipv6]) }

// whom says to whom it is open.
func (o opening) whom() string {
	names := [families]string{"IPv4", "IPv6"}
	var whole, part []string
	for f, l := range o.levels {
		switch l {
		case world:
			whole = append(whole, names[f])
		case wide:
			part = append(part, names[f])
		case closed:
		}
	}
	var says []string
	if len(whole) > 0 {
		says = append(says, "the whole internet ("+strings.Join(whole, " and ")+")")
	}
	if len(part) > 0 {
		says = append(says, "a wide part of the internet ("+strings.Join(part, " and ")+")")
	}
	return strings.Join(says, " and ")
}

// exposure answers how open ports are that peers may reach.
type exposure struct {
	peers []peer
	// known are openings computed before, by the peers that meet in them.
	known map[string]opening
}

func newExposure(peers []peer) *exposure {
	return &exposure{peers: peers, known: map[string]opening{}}
}

// of tells how open the ports are: one opening for each run of ports that the
// same peers may reach, in ascending order, the closed ones with nothing
// unknown left out.
func (e *exposure) of(at ports) []opening {
	var met []int
	starts := []int{at.from}
	for i, p := range e.peers {
		if !p.ports.meets(at) {
			continue
		}
		met = append(met, i)
		if p.ports.from > at.from {
			starts = append(starts, p.ports.from)
		}
		if p.ports.to < at.to {
			starts = append(starts, p.ports.to+1)
		}
	}
	if len(met) == 0 {
		return nil
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	var all []opening
	for n, from := range starts {
		to := at.to
		if n+1 < len(starts) {
			to = starts[n+1] - 1
		}
		o := e.at(ports{at.protocol, from, to}, met)
		if o.worst() > closed || len(o.unknown) > 0 {
			all = append(all, o)
		}
	}
	return all
}

// at tells how open ports are that all of them the same peers may reach, of
// those in met.
func (e *exposure) at(at ports, met []int) opening {
	var (
		in  []peer
		key strings.Builder
	)
	for _, i := range met {
		if p := e.peers[i]; p.ports.meets(at) {
			in = append(in, p)
			fmt.Fprintf(&key, "%d ", i)
		}
	}
	o, ok := e.known[key.String()]
	if !ok {
		o.levels = levels(union(in))
		o.peers = offenders(in, o.levels)
		for _, p := range in {
			if p.unknown != "" && !slices.Contains(o.unknown, p.unknown) {
				o.unknown = append(o.unknown, p.unknown)
			}
		}
		e.known[key.String()] = o
	}
	o.ports = at
	return o
}

func union(in []peer) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range in {
		all = append(all, p.open...)
	}
	return all
}

// offenders are the peers that make up the levels: those that do so alone, and
// where none does, all that take part.
func offenders(in []peer, l [families]level) []peer {
	var out []peer
	guilty := make([]bool, len(in))
	for f := range families {
		if l[f] == closed {
			continue
		}
		alone := false
		for i, p := range in {
			if levels(p.open)[f] >= l[f] {
				guilty[i], alone = true, true
			}
		}
		for i, p := range in {
			if !alone && slices.ContainsFunc(p.open, func(x netip.Prefix) bool { return familyOf(x.Addr()) == f }) {
				guilty[i] = true
			}
		}
	}
	for i, p := range in {
		if guilty[i] {
			out = append(out, p)
		}
	}
	return out
}

// mustAddr is an address that the program itself writes.
func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }
