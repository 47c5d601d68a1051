package simaws

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Subnet is a stretch of a VPC in one zone. Which routes hold for it, a [RouteTable] says.
type Subnet struct {
	ID   string `json:"id"`
	VPC  string `json:"vpc"`
	Zone string `json:"zone"`
}

// RouteTable is the routes of the subnets associated with it, and when Main of all subnets of its VPC that have no table of their own.
type RouteTable struct {
	ID      string   `json:"id"`
	VPC     string   `json:"vpc"`
	Main    bool     `json:"main,omitempty"`
	Subnets []string `json:"subnets,omitempty"`
	Routes  []Route  `json:"routes,omitempty"`
	Tags    []Tag    `json:"tags,omitempty"`
}

// Route is one route of a table.
type Route struct {
	// Destination is an IPv4 or IPv6 range, or a prefix list.
	Destination string `json:"destination"`
	// Target: local, igw-…, eigw-…, nat-…, tgw-…, pcx-… or eni-….
	Target string `json:"target"`
	// Blackhole: the target is gone.
	Blackhole bool `json:"blackhole,omitempty"`
}

// Group is a security group. The group named default comes with its VPC.
type Group struct {
	ID          string      `json:"id"`
	Name        string      `json:"name"`
	Description string      `json:"description,omitempty"`
	VPC         string      `json:"vpc"`
	Ingress     []GroupRule `json:"ingress,omitempty"`
	Egress      []GroupRule `json:"egress,omitempty"`
	Tags        []Tag       `json:"tags,omitempty"`
	Case        string      `json:"case,omitempty"`
}

// GroupRule lets one peer reach some ports.
type GroupRule struct {
	ID string `json:"id"`
	// Protocol word for word: tcp, udp, icmp, icmpv6, a number, or -1 for all.
	Protocol string `json:"protocol"`
	// From and To are ports, or ICMP type and code; -1 is all, and nil is left out of the answer.
	From *int32 `json:"from,omitempty"`
	To   *int32 `json:"to,omitempty"`
	// Exactly one of these is the peer: an IPv4 range, an IPv6 range, a prefix list, a group.
	CIDR       string `json:"cidr,omitempty"`
	CIDR6      string `json:"cidr6,omitempty"`
	PrefixList string `json:"prefix_list,omitempty"`
	Group      string `json:"group,omitempty"`

	Description string `json:"description,omitempty"`
}

// PrefixList is a managed prefix list. Lists do not nest.
type PrefixList struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Owner is empty for a list of the account's own, AWS for one that AWS manages, else the account that shares it.
	Owner string `json:"owner,omitempty"`
	// Family is IPv4 or IPv6.
	Family string `json:"family"`
	// Versions are the entries of each version, the current one last. Lists of AWS's have one, without a number.
	Versions [][]string `json:"versions"`
	// Hidden: rules still refer to it, but it is shared no more. Unreadable: it is listed, but its entries are denied.
	Hidden     bool  `json:"hidden,omitempty"`
	Unreadable bool  `json:"unreadable,omitempty"`
	Tags       []Tag `json:"tags,omitempty"`
}

// entries are the ranges of the current version.
func (l *PrefixList) entries() []string {
	if len(l.Versions) == 0 {
		return nil
	}
	return l.Versions[len(l.Versions)-1]
}

// Interface is an elastic network interface, with its addresses inside the VPC. Its public IPv4 addresses are Elastic IPs ([Address]), or on the first
// interface of a running instance the one that the subnet assigned ([Instance].PublicIP).
type Interface struct {
	ID     string   `json:"id"`
	Subnet string   `json:"subnet"`
	Groups []string `json:"groups,omitempty"`
	// Instance and Device say where it is attached; Service instead, such as amazon-elb, when AWS made and attached it. Both empty: attached to nothing.
	Instance string `json:"instance,omitempty"`
	Device   int32  `json:"device,omitempty"`
	Service  string `json:"service,omitempty"`
	// Attached is since when; zero: since the instance was created.
	Attached time.Time `json:"attached,omitzero"`
	// Type: interface unless set, nat_gateway, network_load_balancer, lambda, ….
	Type        string `json:"type,omitempty"`
	Description string `json:"description,omitempty"`
	// PrivateIP is the primary address, derived when empty; Secondary are more of them.
	PrivateIP string   `json:"private_ip,omitempty"`
	Secondary []string `json:"secondary,omitempty"`
	IPv6      []string `json:"ipv6,omitempty"`
	Tags      []Tag    `json:"tags,omitempty"`
	// Deleted interfaces are not listed.
	Deleted bool `json:"deleted,omitempty"`
}

func (n *Interface) status() string {
	if n.Instance == "" && n.Service == "" {
		return "available"
	}
	return "in-use"
}

func (n *Interface) kind() string {
	if n.Type == "" {
		return "interface"
	}
	return n.Type
}

// indexNetwork builds the lookups of the network, after it gave an interface to instances that have none: in the VPC's default group, in a subnet of the zone.
func (r *Region) indexNetwork() error {
	r.groups, r.interfaces, r.subnets = map[string]int32{}, make(map[string]int32, len(r.Interfaces)), map[string]int32{}
	for i := range r.Subnets {
		s := &r.Subnets[i]
		if _, twice := r.subnets[s.ID]; twice || s.ID == "" || s.VPC == "" {
			return fmt.Errorf("subnet id %q is empty or used twice, or it has no vpc", s.ID)
		}
		r.subnets[s.ID] = int32(i)
	}
	for i := range r.Groups {
		g := &r.Groups[i]
		if _, twice := r.groups[g.ID]; twice || g.ID == "" {
			return fmt.Errorf("security group id %q is empty or used twice", g.ID)
		}
		r.groups[g.ID] = int32(i)
		for _, rule := range append(slices.Clip(g.Ingress), g.Egress...) {
			if n := len(appendSet(appendSet(appendSet(appendSet(nil, rule.CIDR), rule.CIDR6), rule.PrefixList), rule.Group)); n != 1 || rule.ID == "" || rule.Protocol == "" {
				return fmt.Errorf("security group %s, rule %q: it needs an id, a protocol and exactly one peer, it has %d", g.ID, rule.ID, n)
			}
		}
	}
	plugged := map[string]bool{}
	for i := range r.Interfaces {
		plugged[r.Interfaces[i].Instance] = true
	}
	for i := range r.Instances {
		if in := &r.Instances[i]; in.State != "terminated" && !plugged[in.ID] {
			r.Interfaces = append(r.Interfaces, Interface{ID: derived("eni-", in.ID), Subnet: r.defaultSubnet(in.Zone), Groups: []string{r.defaultGroup()}, Instance: in.ID})
		}
	}
	for i := range r.Interfaces {
		n := &r.Interfaces[i]
		if _, twice := r.interfaces[n.ID]; twice || n.ID == "" {
			return fmt.Errorf("interface id %q is empty or used twice", n.ID)
		}
		r.interfaces[n.ID] = int32(i)
		if _, ok := r.subnets[n.Subnet]; !ok {
			return fmt.Errorf("interface %s: %q is not a subnet of the region", n.ID, n.Subnet)
		}
		for _, id := range n.Groups {
			if _, ok := r.groups[id]; !ok {
				return fmt.Errorf("interface %s: %q is not a security group of the region", n.ID, id)
			}
		}
		if n.Instance == "" {
			continue
		}
		in := r.instance(n.Instance)
		if in == nil {
			return fmt.Errorf("interface %s is attached to %s, which is not an instance of the region", n.ID, n.Instance)
		}
		in.nics = append(in.nics, int32(i))
	}
	for i := range r.Instances {
		slices.SortStableFunc(r.Instances[i].nics, func(a, b int32) int { return int(r.Interfaces[a].Device - r.Interfaces[b].Device) })
	}
	for i := range r.RouteTables {
		if t := &r.RouteTables[i]; t.ID == "" || t.VPC == "" {
			return fmt.Errorf("route table %q needs an id and a vpc", t.ID)
		}
	}
	return nil
}

// indexAddresses files the Elastic IPs under the interfaces they are on.
func (r *Region) indexAddresses() error {
	r.eips, r.eipsOn = map[string][]int32{}, map[string][]int32{}
	for i := range r.Addresses {
		a := &r.Addresses[i]
		if a.Instance == "" && a.Interface == "" {
			continue
		}
		n := r.interfaceOf(a)
		if n == nil {
			return fmt.Errorf("address %s is on %q %q, which is not an interface of the region", a.Allocation, a.Instance, a.Interface)
		}
		if private := r.privateOf(a); !slices.Contains(r.privateIPs(n), private) || r.elastic(n, private) != nil {
			return fmt.Errorf("address %s: interface %s has no private address %q that is free", a.Allocation, n.ID, private)
		}
		if a.Instance = n.Instance; a.Instance != "" {
			r.eips[a.Instance] = append(r.eips[a.Instance], int32(i))
		}
		r.eipsOn[n.ID] = append(r.eipsOn[n.ID], int32(i))
	}
	return nil
}

// interfaceOf is the interface an address is on; nil if it is not associated, or wrongly.
func (r *Region) interfaceOf(a *Address) *Interface {
	if a.Interface != "" {
		return r.networkInterface(a.Interface)
	}
	if in := r.instance(a.Instance); in != nil && len(in.nics) > 0 {
		return &r.Interfaces[in.nics[0]]
	}
	return nil
}

// privateOf is the private address an Elastic IP is on.
func (r *Region) privateOf(a *Address) string {
	if a.Private != "" {
		return a.Private
	}
	if n := r.interfaceOf(a); n != nil {
		return r.primaryIP(n)
	}
	return ""
}

// elastic is the Elastic IP on one private address of an interface; nil if there is none.
func (r *Region) elastic(n *Interface, private string) *Address {
	for _, i := range r.eipsOn[n.ID] {
		if a := &r.Addresses[i]; r.privateOf(a) == private {
			return a
		}
	}
	return nil
}

// assigned is the public address that the subnet gave the interface; a stopped instance has lost it, and an Elastic IP replaces it.
func (r *Region) assigned(n *Interface) string {
	in := r.instance(n.Instance)
	if in == nil || n.Device != 0 || in.PublicIP == "" || in.State == "stopped" || in.State == "terminated" || r.elastic(n, r.primaryIP(n)) != nil {
		return ""
	}
	return in.PublicIP
}

// publicIP of an instance is that of the primary address of its first interface.
func (r *Region) publicIP(in *Instance) string {
	if len(in.nics) == 0 {
		return ""
	}
	n := &r.Interfaces[in.nics[0]]
	if a := r.elastic(n, r.primaryIP(n)); a != nil {
		return a.PublicIP
	}
	return r.assigned(n)
}

func (r *Region) primaryIP(n *Interface) string {
	if n.PrivateIP != "" {
		return n.PrivateIP
	}
	i := r.interfaces[n.ID] + 4
	return "10." + strconv.Itoa(int(i>>16&0x7f)) + "." + strconv.Itoa(int(i>>8&255)) + "." + strconv.Itoa(int(i&255))
}

func (r *Region) networkInterface(id string) *Interface {
	if i, ok := r.interfaces[id]; ok && !r.Interfaces[i].Deleted {
		return &r.Interfaces[i]
	}
	return nil
}

func (r *Region) group(id string) *Group {
	if i, ok := r.groups[id]; ok {
		return &r.Groups[i]
	}
	return nil
}

func (r *Region) subnet(id string) *Subnet {
	if i, ok := r.subnets[id]; ok {
		return &r.Subnets[i]
	}
	return new(Subnet)
}

func (r *Region) prefixList(id string) *PrefixList {
	for i := range r.PrefixLists {
		if r.PrefixLists[i].ID == id {
			return &r.PrefixLists[i]
		}
	}
	return nil
}

// routes are the table in force for a subnet: its own, else the main one of its VPC; nil if the estate has none.
func (r *Region) routes(s *Subnet) *RouteTable {
	var main *RouteTable
	for i := range r.RouteTables {
		t := &r.RouteTables[i]
		if slices.Contains(t.Subnets, s.ID) {
			return t
		}
		if t.Main && t.VPC == s.VPC {
			main = t
		}
	}
	return main
}

func (r *Region) vpcID() string { return derived("vpc-", r.account.ID+r.Name) }

// defaultSubnet and defaultGroup are where AWS puts an instance nobody said more about.
func (r *Region) defaultSubnet(zone string) string {
	id := derived("subnet-", r.account.ID+zone)
	if _, ok := r.subnets[id]; !ok {
		r.subnets[id] = int32(len(r.Subnets))
		r.Subnets = append(r.Subnets, Subnet{ID: id, VPC: r.vpcID(), Zone: zone})
	}
	return id
}

func (r *Region) defaultGroup() string {
	id := derived("sg-", r.account.ID+r.Name)
	if _, ok := r.groups[id]; !ok {
		r.groups[id] = int32(len(r.Groups))
		r.Groups = append(r.Groups, Group{ID: id, Name: "default", Description: "default VPC security group", VPC: r.vpcID(),
			Ingress: []GroupRule{{ID: derived("sgr-", id+"in"), Protocol: "-1", Group: id}}, Egress: []GroupRule{{ID: derived("sgr-", id+"out"), Protocol: "-1", CIDR: "0.0.0.0/0"}}})
	}
	return id
}
