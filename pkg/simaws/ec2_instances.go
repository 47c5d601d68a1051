package simaws

import (
	"slices"
	"strconv"
	"strings"
)

var stateCodes = map[string]int64{"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}

var instanceListing = &listing[Instance]{
	what: "instanceId", set: "reservationSet", ids: "InstanceId",
	prefix: "i-", notFound: "InvalidInstanceID.NotFound", missing: "The instance ID '%s' does not exist", malformed: "InvalidInstanceID.Malformed",
	limit: 1000, exact: true, either: true,
	rows: func(c *call) []Instance { return c.region.Instances },
	id:   func(in *Instance) string { return in.ID },
	find: func(c *call, id string) *Instance { return c.region.instance(id) },
	tags: func(in *Instance) []Tag { return in.Tags },
	fields: map[string]func([]string, *call, *Instance) []string{
		"architecture":         func(d []string, _ *call, in *Instance) []string { return append(d, in.architecture()) },
		"availability-zone":    func(d []string, _ *call, in *Instance) []string { return append(d, in.Zone) },
		"availability-zone-id": func(d []string, _ *call, in *Instance) []string { return append(d, zoneID(in.Zone)) },
		"block-device-mapping.volume-id": func(d []string, c *call, in *Instance) []string {
			for _, i := range in.disks {
				d = append(d, c.region.Volumes[i].ID)
			}
			return d
		},
		"dns-name": func(d []string, c *call, in *Instance) []string {
			return appendSet(d, publicDNS(c.region.Name, c.region.publicIP(in)))
		},
		"hibernation-options.configured": func(d []string, _ *call, in *Instance) []string { return append(d, strconv.FormatBool(in.Hibernation)) },
		"hypervisor":                     func(d []string, _ *call, _ *Instance) []string { return append(d, "xen") },
		"image-id":                       func(d []string, _ *call, in *Instance) []string { return append(d, in.Image) },
		"instance-id":                    func(d []string, _ *call, in *Instance) []string { return append(d, in.ID) },
		"instance-lifecycle":             func(d []string, _ *call, in *Instance) []string { return appendSet(d, in.lifecycle()) },
		"instance-state-code": func(d []string, _ *call, in *Instance) []string {
			return append(d, strconv.FormatInt(stateCodes[in.State], 10))
		},
		"instance-state-name": func(d []string, _ *call, in *Instance) []string { return append(d, in.State) },
		"instance-type":       func(d []string, _ *call, in *Instance) []string { return append(d, in.Type) },
		"instance.group-id": func(d []string, c *call, in *Instance) []string {
			if n := c.region.primary(in); n != nil {
				d = append(d, n.Groups...)
			}
			return d
		},
		"ip-address": func(d []string, c *call, in *Instance) []string { return appendSet(d, c.region.publicIP(in)) },
		"launch-time": func(d []string, _ *call, in *Instance) []string {
			return append(d, string(appendTime(nil, in.Launched)))
		},
		"monitoring-state": func(d []string, _ *call, in *Instance) []string { return append(d, in.monitoring()) },
		"network-interface.network-interface-id": func(d []string, c *call, in *Instance) []string {
			for _, i := range in.nics {
				d = append(d, c.region.Interfaces[i].ID)
			}
			return d
		},
		"owner-id":         func(d []string, c *call, _ *Instance) []string { return append(d, c.account.ID) },
		"platform":         func(d []string, _ *call, in *Instance) []string { return appendSet(d, in.platform()) },
		"platform-details": func(d []string, _ *call, in *Instance) []string { return append(d, in.platformDetails()) },
		"private-ip-address": func(d []string, c *call, in *Instance) []string {
			if n := c.region.primary(in); n != nil {
				d = append(d, c.region.primaryIP(n))
			}
			return d
		},
		"reason":           func(d []string, _ *call, in *Instance) []string { return append(d, in.Reason) },
		"reservation-id":   func(d []string, _ *call, in *Instance) []string { return append(d, in.reservation()) },
		"root-device-name": func(d []string, _ *call, _ *Instance) []string { return append(d, rootDevice) },
		"root-device-type": func(d []string, _ *call, _ *Instance) []string { return append(d, "ebs") },
		"spot-instance-request-id": func(d []string, _ *call, in *Instance) []string {
			if in.Spot {
				d = append(d, derived("sir-", in.ID))
			}
			return d
		},
		"state-reason-code": func(d []string, _ *call, in *Instance) []string { return appendSet(d, in.ReasonCode) },
		"subnet-id": func(d []string, c *call, in *Instance) []string {
			if n := c.region.primary(in); n != nil {
				d = append(d, n.Subnet)
			}
			return d
		},
		"tenancy":             func(d []string, _ *call, _ *Instance) []string { return append(d, "default") },
		"virtualization-type": func(d []string, _ *call, _ *Instance) []string { return append(d, "hvm") },
		"vpc-id": func(d []string, c *call, in *Instance) []string {
			if n := c.region.primary(in); n != nil {
				d = append(d, c.region.subnet(n.Subnet).VPC)
			}
			return d
		},
	},
	write: writeReservations,
}

const rootDevice = "/dev/xvda"

func (in *Instance) lifecycle() string {
	if in.Spot {
		return "spot"
	}
	return ""
}

func (in *Instance) monitoring() string {
	if in.Detailed {
		return "enabled"
	}
	return "disabled"
}

func (in *Instance) platform() string {
	if in.Windows {
		return "windows"
	}
	return ""
}

func (in *Instance) platformDetails() string {
	if in.Windows {
		return "Windows"
	}
	return "Linux/UNIX"
}

func (in *Instance) reservation() string {
	if in.Reservation != "" {
		return in.Reservation
	}
	return derived("r-", in.ID)
}

// architecture follows from the family: a g after the generation is Graviton.
func (in *Instance) architecture() string {
	family, _, _ := strings.Cut(in.Type, ".")
	if i := strings.IndexAny(family, "0123456789"); i >= 0 && strings.HasPrefix(family[i+1:], "g") && family[0] != 'g' {
		return "arm64"
	}
	return "x86_64"
}

// primary is the instance's first interface; a terminated instance has none.
func (r *Region) primary(in *Instance) *Interface {
	if len(in.nics) == 0 {
		return nil
	}
	return &r.Interfaces[in.nics[0]]
}

func publicDNS(region, ip string) string {
	switch {
	case ip == "":
		return ""
	case region == "us-east-1":
		return "ec2-" + strings.ReplaceAll(ip, ".", "-") + ".compute-1.amazonaws.com"
	}
	return "ec2-" + strings.ReplaceAll(ip, ".", "-") + "." + region + ".compute.amazonaws.com"
}

func privateDNS(region, ip string) string {
	if region == "us-east-1" {
		return "ip-" + strings.ReplaceAll(ip, ".", "-") + ".ec2.internal"
	}
	return "ip-" + strings.ReplaceAll(ip, ".", "-") + "." + region + ".compute.internal"
}

// writeReservations groups neighbours that were launched together.
func writeReservations(c *call, x *xmlWriter, page []*Instance) {
	for i, in := range page {
		same := func(j int) bool {
			return j >= 0 && j < len(page) && in.Reservation != "" && page[j].Reservation == in.Reservation
		}
		if !same(i - 1) {
			x.open("item")
			x.str("reservationId", in.reservation())
			x.str("ownerId", c.account.ID)
			x.raw("<groupSet/><instancesSet>")
		}
		writeInstance(c, x, in)
		if !same(i + 1) {
			x.raw("</instancesSet></item>")
		}
	}
}

func writeInstance(c *call, x *xmlWriter, in *Instance) {
	r := c.region
	primary, private, public := r.primary(in), "", ""
	if primary != nil {
		private, public = r.primaryIP(primary), r.publicIP(in)
	}
	x.open("item")
	x.str("instanceId", in.ID)
	x.str("imageId", in.Image)
	x.open("instanceState")
	x.int("code", stateCodes[in.State])
	x.str("name", in.State)
	x.close("instanceState")
	if primary == nil {
		x.raw("<privateDnsName/><dnsName/>")
	} else {
		x.str("privateDnsName", privateDNS(r.Name, private))
		x.str("dnsName", publicDNS(r.Name, public))
	}
	x.str("reason", in.Reason)
	x.str("keyName", "ops-"+r.Name)
	x.int("amiLaunchIndex", 0)
	x.raw("<productCodes/>")
	x.str("instanceType", in.Type)
	x.time("launchTime", in.Launched)
	x.open("placement")
	x.str("availabilityZone", in.Zone)
	x.str("availabilityZoneId", zoneID(in.Zone))
	x.raw("<groupName/><tenancy>default</tenancy>")
	x.close("placement")
	x.opt("platform", in.platform())
	x.open("monitoring")
	x.str("state", in.monitoring())
	x.close("monitoring")
	if primary != nil {
		x.str("subnetId", primary.Subnet)
		x.str("vpcId", r.subnet(primary.Subnet).VPC)
		x.str("privateIpAddress", private)
		x.opt("ipAddress", public)
		x.bool("sourceDestCheck", true)
	}
	if primary != nil {
		writeGroups(r, x, primary)
	} else {
		x.raw("<groupSet/>")
	}
	if in.ReasonCode != "" {
		x.open("stateReason")
		x.str("code", in.ReasonCode)
		x.str("message", in.ReasonCode+": "+reasonText(in.ReasonCode))
		x.close("stateReason")
	}
	x.str("architecture", in.architecture())
	x.raw("<rootDeviceType>ebs</rootDeviceType><rootDeviceName>" + rootDevice + "</rootDeviceName>")
	x.open("blockDeviceMapping")
	for _, d := range in.disks {
		v := &r.Volumes[d]
		i := slices.IndexFunc(v.Attachments, func(a Attachment) bool { return a.Instance == in.ID })
		a := &v.Attachments[i]
		x.open("item")
		x.str("deviceName", a.Device)
		x.open("ebs")
		x.str("volumeId", v.ID)
		x.str("status", "attached")
		x.time("attachTime", a.At)
		x.bool("deleteOnTermination", a.DeleteOnTermination)
		x.close("ebs")
		x.close("item")
	}
	x.close("blockDeviceMapping")
	x.opt("instanceLifecycle", in.lifecycle())
	if in.Spot {
		x.str("spotInstanceRequestId", derived("sir-", in.ID))
	}
	x.raw("<virtualizationType>hvm</virtualizationType>")
	x.str("clientToken", derived("ct-", in.ID))
	x.tags(in.Tags)
	x.raw("<hypervisor>xen</hypervisor>")
	x.open("networkInterfaceSet")
	for _, i := range in.nics {
		x.open("item")
		writeInterface(c, x, &r.Interfaces[i])
		x.close("item")
	}
	x.close("networkInterfaceSet")
	x.raw("<ebsOptimized>true</ebsOptimized><enaSupport>true</enaSupport>")
	x.open("hibernationOptions")
	x.bool("configured", in.Hibernation)
	x.close("hibernationOptions")
	x.raw("<enclaveOptions><enabled>false</enabled></enclaveOptions><metadataOptions><state>applied</state><httpTokens>required</httpTokens>" +
		"<httpPutResponseHopLimit>2</httpPutResponseHopLimit><httpEndpoint>enabled</httpEndpoint></metadataOptions>")
	x.str("platformDetails", in.platformDetails())
	if in.Windows {
		x.str("usageOperation", "RunInstances:0002")
	} else {
		x.str("usageOperation", "RunInstances")
	}
	x.time("usageOperationUpdateTime", in.Created)
	x.close("item")
}

func reasonText(code string) string {
	switch code {
	case "Client.UserInitiatedShutdown":
		return "User initiated shutdown"
	case "Client.UserInitiatedHibernate":
		return "User initiated hibernate"
	case "Client.InstanceInitiatedShutdown":
		return "Instance initiated shutdown"
	case "Server.SpotInstanceShutdown":
		return "Instance stopped because the Spot request was disabled or the price exceeded"
	case "Server.ScheduledStop":
		return "Stopped due to a scheduled retirement"
	case "Server.InternalError":
		return "Internal error on launch"
	}
	return "Instance state changed"
}
