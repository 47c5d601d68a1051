package security

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
)

// Protocol numbers, as IANA assigns them. allProtocols is AWS's.
const (
	allProtocols = -1
	tcp          = 6
	udp          = 17
	highestPort  = 65535
)

// protocolNumbers are names that AWS or its callers write for protocols.
var protocolNumbers = map[string]int{
	"all": allProtocols, "icmp": 1, "igmp": 2, "ipip": 4, "ipv4": 4, "tcp": tcp, "udp": udp, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51,
	"icmpv6": 58, "ipv6-icmp": 58, "ospf": 89, "sctp": 132,
}

// parseProtocol reads a protocol as AWS writes it: a name, a number, or -1 for
// all.
func parseProtocol(s string) (int, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	if n, ok := protocolNumbers[s]; ok {
		return n, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n >= allProtocols && n <= 255 {
		return n, nil
	}
	return 0, fmt.Errorf("%q is no protocol", s)
}

// ports is an interval of ports of a protocol.
type ports struct {
	// protocol is a number; allProtocols has all ports of all.
	protocol int
	// from and to are 0 to 65535, both inside.
	from, to int
}

// parsePorts reads the ports that a permission opens. A missing end, or -1, is
// the furthest one; for protocols other than TCP and UDP the figures are not
// ports.
func parsePorts(in inventory.Ports) (ports, error) {
	protocol, err := parseProtocol(in.Protocol)
	if err != nil {
		return ports{}, err
	}
	p := ports{protocol, 0, highestPort}
	if protocol != tcp && protocol != udp {
		return p, nil
	}
	if in.From != nil && *in.From != -1 {
		p.from = *in.From
	}
	if in.To != nil && *in.To != -1 {
		p.to = *in.To
	}
	if p.from < 0 || p.from > p.to || p.to > highestPort {
		return ports{}, fmt.Errorf("%d to %d are no ports", p.from, p.to)
	}
	return p, nil
}

// meets tells whether p opens some port of q, which is of one protocol.
func (p ports) meets(q ports) bool {
	return (p.protocol == allProtocols || p.protocol == q.protocol) && p.from <= q.to && q.from <= p.to
}

// String is the text parsePort reads.
func (p ports) String() string {
	s := strconv.Itoa(p.from)
	if p.to != p.from {
		s += "-" + strconv.Itoa(p.to)
	}
	if p.protocol == udp {
		s += "/udp"
	}
	return s
}

// label is the ports for people: tcp/22 (SSH).
func (p ports) label() string {
	protocol := "tcp/"
	if p.protocol == udp {
		protocol = "udp/"
	}
	s := protocol + strings.TrimSuffix(p.String(), "/udp")
	if name := cmp.Or(services[p], services[ports{p.protocol, p.from, p.from}]); name != "" {
		s += " (" + name + ")"
	}
	return s
}

// parsePort reads a port of a parameter: 22, 5900-5903, 161/udp.
func parsePort(text string) (ports, error) {
	p := ports{protocol: tcp}
	s, protocol, ok := strings.Cut(text, "/")
	if ok {
		switch strings.ToLower(protocol) {
		case "tcp":
		case "udp":
			p.protocol = udp
		default:
			return ports{}, errors.New("is not of tcp or udp")
		}
	}
	from, to, interval := strings.Cut(s, "-")
	var err, err2 error
	p.from, err = port(from)
	p.to = p.from
	if interval {
		p.to, err2 = port(to)
	}
	if err != nil || err2 != nil || p.from > p.to {
		return ports{}, errors.New("is not a port like 22, 5900-5903 or 161/udp")
	}
	return p, nil
}

func port(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err
}

// sensitive are ports that should not be open to the internet, and how bad it
// is when they are.
type sensitive struct {
	ports
	severity rule.Severity
}

// portParams are the parameters that say which ports are sensitive.
var portParams = []rule.Param{
	portParam("critical_ports", "Ports of administration, databases and orchestrators: CRITICAL when open to the world.",
		"22,1433,1434,1521,2375,2376,2379,2380,2483,2484,3306,3389,5432,5900-5903,5984,5985,5986,6379,6443,7199,9042,9160,9200,9300,10250,11211,11211/udp,27017-27019,50070"),
	portParam("high_ports", "Ports of clear-text and legacy protocols: HIGH when open to the world.",
		"20,21,23,25,69/udp,110,111,135,139,143,161/udp,389,445,636,873,2049,2181,4333,5500,5601,9092,15672"),
	portParam("medium_ports", "Ports of alternate web servers: MEDIUM when open to the world.",
		"3000,5000,8080,8088,8888"),
}

func portParam(name, description, ports string) rule.Param {
	return rule.Param{
		Name: name, Description: description + " TCP unless /udp follows.", Default: strings.Split(ports, ","),
		Valid: func(text string) error { _, err := parsePort(text); return err },
	}
}

// sensitivePorts are the ports of the parameters, the worst first.
func sensitivePorts(p rule.Params) []sensitive {
	var all []sensitive
	for _, list := range []struct {
		name     string
		severity rule.Severity
	}{{"critical_ports", rule.Critical}, {"high_ports", rule.High}, {"medium_ports", rule.Medium}} {
		for _, text := range p.List(list.name) {
			if q, err := parsePort(text); err == nil {
				all = append(all, sensitive{q, list.severity})
			}
		}
	}
	return all
}

// services are what usually listens.
var services = map[ports]string{
	{tcp, 20, 20}: "FTP data", {tcp, 21, 21}: "FTP", {tcp, 22, 22}: "SSH", {tcp, 23, 23}: "Telnet", {tcp, 25, 25}: "SMTP",
	{udp, 69, 69}: "TFTP", {tcp, 110, 110}: "POP3", {tcp, 111, 111}: "RPC", {tcp, 135, 135}: "MSRPC", {tcp, 139, 139}: "NetBIOS",
	{tcp, 143, 143}: "IMAP", {udp, 161, 161}: "SNMP", {tcp, 389, 389}: "LDAP", {tcp, 445, 445}: "SMB", {tcp, 636, 636}: "LDAPS",
	{tcp, 873, 873}: "rsync", {tcp, 1433, 1433}: "SQL Server", {tcp, 1434, 1434}: "SQL Server", {tcp, 1521, 1521}: "Oracle",
	{tcp, 2049, 2049}: "NFS", {tcp, 2181, 2181}: "ZooKeeper", {tcp, 2375, 2375}: "Docker", {tcp, 2376, 2376}: "Docker",
	{tcp, 2379, 2379}: "etcd", {tcp, 2380, 2380}: "etcd", {tcp, 2483, 2483}: "Oracle", {tcp, 2484, 2484}: "Oracle",
	{tcp, 3000, 3000}: "web", {tcp, 3306, 3306}: "MySQL", {tcp, 3389, 3389}: "RDP", {tcp, 4333, 4333}: "mSQL", {tcp, 5000, 5000}: "web",
	{tcp, 5432, 5432}: "PostgreSQL", {tcp, 5500, 5500}: "VNC", {tcp, 5601, 5601}: "Kibana", {tcp, 5900, 5903}: "VNC", {tcp, 5900, 5900}: "VNC",
	{tcp, 5984, 5984}: "CouchDB", {tcp, 5985, 5985}: "WinRM", {tcp, 5986, 5986}: "WinRM", {tcp, 6379, 6379}: "Redis",
	{tcp, 6443, 6443}: "Kubernetes", {tcp, 7199, 7199}: "Cassandra JMX", {tcp, 8080, 8080}: "web", {tcp, 8088, 8088}: "web",
	{tcp, 8888, 8888}: "web", {tcp, 9042, 9042}: "Cassandra", {tcp, 9092, 9092}: "Kafka", {tcp, 9160, 9160}: "Cassandra",
	{tcp, 9200, 9200}: "Elasticsearch", {tcp, 9300, 9300}: "Elasticsearch", {tcp, 10250, 10250}: "kubelet",
	{tcp, 11211, 11211}: "Memcached", {udp, 11211, 11211}: "Memcached", {tcp, 15672, 15672}: "RabbitMQ",
	{tcp, 27017, 27019}: "MongoDB", {tcp, 27017, 27017}: "MongoDB", {tcp, 50070, 50070}: "HDFS",
}
