package notify

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// Receivers are chosen by people who may not reach what the notification
// service can reach. Where a connection goes is judged by its address at the
// moment it is made, so that no name, no spelling of an address and no change
// of a name's address gets around it.

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

var (
	// never are addresses that no receiver has: this network, link-local with
	// the metadata of clouds, multicast, reserved.
	never = prefixes("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/128", "fe80::/10", "fec0::/10", "ff00::/8",
		"fd00:ec2::/32", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32")
	// private are addresses that a receiver has where that is allowed.
	private = prefixes("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1/128", "fc00::/7")
	// special are no addresses of public hosts: for protocols, documentation
	// and benchmarks. Those of 6to4 and Teredo hold other addresses; nobody
	// uses them any more.
	special = prefixes("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
	unicast = netip.MustParsePrefix("2000::/3")
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
)

// refused is the error of a connection to an address that is not allowed.
type refused struct{ addr netip.Addr }

func (r refused) Error() string {
	return fmt.Sprintf("the address %s is not allowed for receivers", r.addr)
}

// reachable tells whether a receiver may have an address.
func reachable(addr netip.Addr, allowPrivate bool) bool {
	addr = addr.Unmap().WithZone("")
	in := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	switch {
	case !addr.IsValid() || in(never):
		return false
	case in(private):
		return allowPrivate
	case in(special):
		return false
	case nat64.Contains(addr): // how a network with IPv6 alone reaches IPv4
		b := addr.As16()
		return reachable(netip.AddrFrom4([4]byte(b[12:])), allowPrivate)
	}
	return addr.Is4() || unicast.Contains(addr)
}

// guard is the Control of a net.Dialer.
func (s *Sender) guard(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return refused{}
	}
	if !reachable(ap.Addr(), s.cfg.AllowPrivate) {
		return refused{ap.Addr().Unmap()}
	}
	return nil
}
