package security

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// endpoint is an EC2 that shows what a test puts in, in the Query protocol:
// with filters, and in pages as small as the test likes.
type endpoint struct {
	page int // items on a page; 0 means what is asked for

	mu     sync.Mutex
	tables map[string]*table // by action
	deny   string            // an action
	calls  map[string]int
	url    string
}

type table struct {
	set   string // the element the items are in
	items []item
}

// item is what one element says, and what filters find it by.
type item struct {
	by  map[string][]string
	xml string
}

func serveEC2(t testing.TB) *endpoint {
	t.Helper()
	e := &endpoint{tables: map[string]*table{}, calls: map[string]int{}}
	h := httptest.NewServer(http.HandlerFunc(e.answer))
	t.Cleanup(h.Close)
	e.url = h.URL
	for action, set := range map[string]string{
		"DescribeInstances": "reservationSet", "DescribeVolumes": "volumeSet", "DescribeSnapshots": "snapshotSet",
		"DescribeSecurityGroups": "securityGroupInfo", "DescribeSecurityGroupRules": "securityGroupRuleSet",
		"DescribeNetworkInterfaces": "networkInterfaceSet", "DescribeRouteTables": "routeTableSet",
		"DescribeManagedPrefixLists": "prefixListSet", "GetManagedPrefixListEntries": "entrySet", "DescribeImages": "imagesSet",
		"DescribeInstanceImageMetadata": "instanceImageMetadataSet", "DescribeAddresses": "addressesSet",
		"GetEbsEncryptionByDefault": "",
	} {
		e.tables[action] = &table{set: set}
	}
	return e
}

// add adds an item: its XML, and pairs of filter names and values.
func (e *endpoint) add(action, xml string, by ...string) {
	i := item{by: map[string][]string{}, xml: "<item>" + xml + "</item>"}
	for k := 0; k < len(by); k += 2 {
		i.by[by[k]] = append(i.by[by[k]], by[k+1])
	}
	e.tables[action].items = append(e.tables[action].items, i)
}

func (e *endpoint) answer(out http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	form, _ := url.ParseQuery(string(body))
	action := form.Get("Action")
	if action == "GetCallerIdentity" {
		_, _ = io.WriteString(out, `<R><GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/n</Arn><Account>123456789012</Account></GetCallerIdentityResult></R>`)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls[action]++
	t := e.tables[action]
	if t == nil || e.deny == action {
		out.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(out, `<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized to perform this operation.</Message></Error></Errors><RequestID>r</RequestID></Response>`)
		return
	}
	if t.set == "" {
		_, _ = io.WriteString(out, "<"+action+"Response><ebsEncryptionByDefault>false</ebsEncryptionByDefault></"+action+"Response>")
		return
	}
	items := t.items
	for n := 1; form.Has(fmt.Sprintf("Filter.%d.Name", n)); n++ {
		name := form.Get(fmt.Sprintf("Filter.%d.Name", n))
		var values []string
		for v := 1; form.Has(fmt.Sprintf("Filter.%d.Value.%d", n, v)); v++ {
			values = append(values, form.Get(fmt.Sprintf("Filter.%d.Value.%d", n, v)))
		}
		if len(values) == 0 || len(values) > 200 {
			out.WriteHeader(http.StatusBadRequest)
			return
		}
		items = slices.DeleteFunc(slices.Clone(items), func(i item) bool {
			return !slices.ContainsFunc(i.by[name], func(v string) bool { return slices.Contains(values, v) })
		})
	}
	if list := form.Get("PrefixListId"); list != "" {
		items = slices.DeleteFunc(slices.Clone(items), func(i item) bool { return i.by["prefix-list-id"][0] != list })
	}
	size, _ := strconv.Atoi(form.Get("MaxResults"))
	if size == 0 {
		size = len(items) // DescribeAddresses has no pages
	} else if e.page > 0 {
		size = e.page
	}
	from, _ := strconv.Atoi(form.Get("NextToken"))
	to := min(from+size, len(items))
	var b strings.Builder
	fmt.Fprintf(&b, `<%sResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId><%s>`, action, t.set)
	for _, i := range items[from:to] {
		b.WriteString(i.xml)
	}
	fmt.Fprintf(&b, "</%s>", t.set)
	if to < len(items) {
		fmt.Fprintf(&b, "<nextToken>%d</nextToken>", to)
	}
	fmt.Fprintf(&b, "</%sResponse>", action)
	_, _ = io.WriteString(out, b.String())
}

// result is what a scan told.
type result struct {
	verdicts map[string]rule.Verdict // by rule and id
	coverage map[string]*scanv1.Coverage
	log      string
}

func (e *endpoint) scan(t interface {
	Context() context.Context
	Fatal(...any)
}, rules ...string) result {
	cloud, err := aws.New(t.Context(), aws.Config{
		Region: "us-east-1", Endpoint: e.url, AccessKeyID: "AKIA", SecretAccessKey: "secret", QuotaShare: 1,
		Backoff: func(int) time.Duration { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	r := result{verdicts: map[string]rule.Verdict{}, coverage: map[string]*scanv1.Coverage{}}
	var log strings.Builder
	err = scan.Run(t.Context(), cloud, []scan.Target{{Region: "us-east-1"}}, Rules, scan.Options{
		At: scan.ExampleTime, Rules: rules, Log: slog.New(slog.NewTextHandler(&log, nil)),
	}, scan.Sink{
		Judged: func(j *scan.Judgement) error { r.verdicts[j.Rule.ID+" "+j.Resource.ID] = j.Verdict; return nil },
		Finished: func(x *scanv1.ScopeResult) {
			for _, c := range x.Coverage {
				r.coverage[c.ResourceType] = c
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.log = log.String()
	return r
}

// group adds a security group with its rules, one for each ipPermissions item,
// and an interface of an instance that has it.
func (e *endpoint) group(id string, permissions ...string) {
	e.add("DescribeSecurityGroups", "<ownerId>123456789012</ownerId><groupId>"+id+"</groupId><groupName>g</groupName><groupDescription>d</groupDescription><vpcId>vpc-1</vpcId><ipPermissions>"+
		strings.Join(permissions, "")+"</ipPermissions><ipPermissionsEgress><item><ipProtocol>-1</ipProtocol><ipRanges><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges></item></ipPermissionsEgress>", "group-id", id)
	for i, p := range permissions {
		protocol := leaf(p, "ipProtocol")
		r := "<securityGroupRuleId>sgr-" + strings.TrimPrefix(id, "sg-") + strconv.Itoa(i) + "</securityGroupRuleId><groupId>" + id + "</groupId><isEgress>false</isEgress><ipProtocol>" + protocol + "</ipProtocol>"
		for _, port := range []string{"fromPort", "toPort"} {
			v := leaf(p, port)
			if v == "" {
				v = "-1" // as AWS does
			}
			r += "<" + port + ">" + v + "</" + port + ">"
		}
		if c := leaf(p, "cidrIp"); c != "" {
			r += "<cidrIpv4>" + c + "</cidrIpv4>"
		}
		if c := leaf(p, "cidrIpv6"); c != "" {
			r += "<cidrIpv6>" + c + "</cidrIpv6>"
		}
		if l := leaf(p, "prefixListId"); l != "" {
			r += "<prefixListId>" + l + "</prefixListId>"
		}
		if g := leaf(p, "groupId"); g != "" {
			r += "<referencedGroupInfo><groupId>" + g + "</groupId></referencedGroupInfo>"
		}
		e.add("DescribeSecurityGroupRules", r, "group-id", id)
	}
	e.add("DescribeSecurityGroupRules", "<securityGroupRuleId>sgr-egress</securityGroupRuleId><groupId>"+id+"</groupId><isEgress>true</isEgress><ipProtocol>-1</ipProtocol><fromPort>-1</fromPort><toPort>-1</toPort><cidrIpv4>0.0.0.0/0</cidrIpv4>", "group-id", id)
	e.add("DescribeNetworkInterfaces", "<networkInterfaceId>eni-"+id+"</networkInterfaceId><interfaceType>interface</interfaceType><status>in-use</status><groupSet><item><groupId>"+id+
		"</groupId></item></groupSet><attachment><instanceId>i-"+id+"</instanceId></attachment><association><publicIp>198.51.100.7</publicIp></association>", "group-id", id)
}

func leaf(xml, name string) string {
	m := regexp.MustCompile("<" + name + ">([^<]*)</" + name + ">").FindStringSubmatch(xml)
	if m == nil {
		return ""
	}
	return m[1]
}

// allow is one ipPermissions item as AWS writes it; ports may be left out.
func allow(protocol, from, to, peer string) string {
	s := "<item><ipProtocol>" + protocol + "</ipProtocol>"
	if from != "" {
		s += "<fromPort>" + from + "</fromPort><toPort>" + to + "</toPort>"
	}
	groups, v4, v6, lists := "", "", "", ""
	switch {
	case strings.HasPrefix(peer, "pl-"):
		lists = "<item><prefixListId>" + peer + "</prefixListId></item>"
	case strings.HasPrefix(peer, "sg-"):
		groups = "<item><userId>123456789012</userId><groupId>" + peer + "</groupId></item>"
	case strings.Contains(peer, ":"):
		v6 = "<item><cidrIpv6>" + peer + "</cidrIpv6></item>"
	default:
		v4 = "<item><cidrIp>" + peer + "</cidrIp></item>"
	}
	return s + "<groups>" + groups + "</groups><ipRanges>" + v4 + "</ipRanges><ipv6Ranges>" + v6 + "</ipv6Ranges><prefixListIds>" + lists + "</prefixListIds></item>"
}

func (e *endpoint) prefixList(id, owner string, cidrs ...string) {
	e.add("DescribeManagedPrefixLists", "<prefixListId>"+id+"</prefixListId><prefixListName>n</prefixListName><ownerId>"+owner+"</ownerId><version>7</version>", "prefix-list-id", id)
	for _, c := range cidrs {
		e.add("GetManagedPrefixListEntries", "<cidr>"+c+"</cidr>", "prefix-list-id", id)
	}
}

// The table that the rule is held to, from the wire to the verdict.
func TestTableFromTheWire(t *testing.T) {
	t.Parallel()
	e := serveEC2(t)
	e.page = 2
	e.prefixList("pl-world", "123456789012", "10.0.0.0/8", "192.168.0.0/16", "0.0.0.0/0")
	e.prefixList("pl-3b927c52", "AWS", "0.0.0.0/0") // whatever it holds
	rows := []struct {
		id    string
		rules []string
		want  rule.Outcome
		sgr   string
	}{
		{"sg-01", []string{allow("tcp", "22", "22", "0.0.0.0/0")}, rule.Violation, "sgr-010"},
		{"sg-02", []string{allow("tcp", "20", "25", "::/0")}, rule.Violation, "sgr-020"},
		{"sg-03", []string{allow("-1", "", "", "0.0.0.0/0")}, rule.Violation, "sgr-030"},
		{"sg-04", []string{allow("tcp", "22", "22", "0.0.0.0/1"), allow("tcp", "22", "22", "128.0.0.0/1")}, rule.Violation, "sgr-040, sgr-041"},
		{"sg-05", []string{allow("tcp", "22", "22", "pl-world")}, rule.Violation, "sgr-050"},
		{"sg-06", []string{allow("tcp", "1", "65535", "0.0.0.0/0")}, rule.Violation, "sgr-060"},
		{"sg-07", []string{allow("6", "22", "22", "0.0.0.0/0")}, rule.Violation, "sgr-070"},
		{"sg-08", []string{allow("udp", "22", "22", "0.0.0.0/0")}, rule.Compliant, ""},
		{"sg-09", []string{allow("icmp", "0", "40", "0.0.0.0/0")}, rule.Compliant, ""},
		{"sg-10", []string{allow("-1", "", "", "sg-10")}, rule.Compliant, ""},
		{"sg-11", []string{allow("tcp", "0", "65535", "10.0.0.0/8")}, rule.Compliant, ""},
		{"sg-12", []string{allow("tcp", "22", "22", "10.0.0.0/8")}, rule.Compliant, ""},
		{"sg-13", []string{allow("tcp", "8080", "8080", "pl-3b927c52")}, rule.Compliant, ""},
		{"sg-14", []string{allow("tcp", "22", "22", "pl-gone")}, rule.InsufficientData, ""},
		{"sg-15", []string{allow("tcp", "22", "22", "8.8.8.8/32"), allow("tcp", "22", "22", "::/1"), allow("tcp", "22", "22", "8000::/1")}, rule.Violation, "sgr-151"},
	}
	for _, r := range rows {
		e.group(r.id, r.rules...)
	}
	e.tables["DescribeNetworkInterfaces"].items = slices.DeleteFunc(e.tables["DescribeNetworkInterfaces"].items,
		func(i item) bool { return i.by["group-id"][0] == "sg-07" })
	got := e.scan(t, "sg-open-sensitive-port")
	for _, r := range rows {
		v := got.verdicts["sg-open-sensitive-port "+r.id]
		if v.Outcome != r.want {
			t.Errorf("%s: %s (%s), want %s", r.id, v.Outcome, v.Reason, r.want)
			continue
		}
		if r.want != rule.Violation {
			continue
		}
		severity := rule.Critical
		if r.id == "sg-07" {
			severity = rule.High
		}
		if v.Severity != severity {
			t.Errorf("%s is %s, want %s", r.id, v.Severity, severity)
		}
		if !strings.Contains(v.Recommendation, ": "+r.sgr+".") {
			t.Errorf("%s: %s does not blame %s", r.id, v.Recommendation, r.sgr)
		}
		for _, x := range v.Evidence {
			if x.Name == "instances" && r.id != "sg-07" && !slices.Equal(x.Value.([]string), []string{"i-" + r.id}) {
				t.Errorf("%s: behind it %v", r.id, x.Value)
			}
		}
	}
	if c := got.coverage["AWS::EC2::SecurityGroup"]; c.Status != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE || c.Pages != 8 {
		t.Errorf("coverage %v", c)
	}
	// Each list once, however many pages mention it, and none of AWS's own.
	if n := e.calls["GetManagedPrefixListEntries"]; n != 2 {
		t.Errorf("the entries of one list in two pages took %d calls", n)
	}
}

// images are those the account sees.
var images = map[string]string{
	"ami-old":        "<creationDate>2025-01-01T00:00:00.000Z</creationDate><imageState>available</imageState>",
	"ami-new":        "<creationDate>2026-08-01T00:00:00.000Z</creationDate><deprecationTime>2028-08-01T00:00:00.000Z</deprecationTime><imageState>available</imageState>",
	"ami-deprecated": "<creationDate>2026-08-01T00:00:00.000Z</creationDate><deprecationTime>2026-08-20T00:00:00.000Z</deprecationTime><imageState>available</imageState>",
	"ami-disabled":   "<creationDate>2026-08-01T00:00:00.000Z</creationDate><imageState>disabled</imageState>",
}

// estate fills the endpoint with a little of everything.
func (e *endpoint) estate() {
	e.prefixList("pl-world", "123456789012", "0.0.0.0/1", "128.0.0.0/1")
	e.group("sg-open", allow("tcp", "22", "22", "0.0.0.0/0"))
	e.group("sg-list", allow("tcp", "3306", "3306", "pl-world"))
	e.group("sg-office", allow("tcp", "22", "22", "8.8.8.8/32"))
	e.group("sg-web", allow("tcp", "443", "443", "0.0.0.0/0"))
	for i, r := range []struct{ id, state, group, subnet, vpc, public, image, tags string }{
		{"i-reachable", "running", "sg-open", "subnet-public", "vpc-1", "198.51.100.1", "ami-old", ""},
		{"i-by-list", "running", "sg-list", "subnet-public", "vpc-1", "198.51.100.2", "ami-new", ""},
		{"i-by-main", "running", "sg-open", "subnet-other", "vpc-1", "198.51.100.3", "ami-gone", ""},
		{"i-private-subnet", "running", "sg-open", "subnet-private", "vpc-1", "198.51.100.4", "ami-unseen", ""},
		{"i-web", "running", "sg-web", "subnet-public", "vpc-1", "198.51.100.5", "ami-new", ""},
		{"i-stopped", "stopped", "sg-open", "subnet-public", "vpc-1", "198.51.100.6", "ami-deprecated", ""},
		{"i-inside", "running", "sg-open", "subnet-private", "vpc-1", "", "ami-disabled", ""},
		{"i-other-vpc", "running", "sg-open", "subnet-elsewhere", "vpc-2", "198.51.100.7", "ami-nobody-knows", ""},
		{"i-allowed", "running", "sg-open", "subnet-public", "vpc-1", "198.51.100.8", "ami-new", "<item><key>public-allowed</key><value>until-2026-12-31</value></item>"},
		{"i-terminated", "terminated", "sg-open", "subnet-public", "vpc-1", "", "ami-old", ""},
	} {
		association := ""
		if r.public != "" {
			association = "<association><publicIp>" + r.public + "</publicIp><ipOwnerId>amazon</ipOwnerId></association>"
		}
		e.add("DescribeInstances", "<instancesSet><item><instanceId>"+r.id+"</instanceId><imageId>"+r.image+"</imageId><instanceState><name>"+r.state+"</name></instanceState>"+
			"<launchTime>2026-05-01T09:00:00.000Z</launchTime><subnetId>"+r.subnet+"</subnetId><vpcId>"+r.vpc+"</vpcId><networkInterfaceSet><item><networkInterfaceId>eni-"+strconv.Itoa(i)+"</networkInterfaceId>"+
			"<subnetId>"+r.subnet+"</subnetId><vpcId>"+r.vpc+"</vpcId><groupSet><item><groupId>"+r.group+"</groupId></item></groupSet>"+association+"</item></networkInterfaceSet>"+
			"<tagSet>"+r.tags+"<item><key>Owner</key><value>shop</value></item></tagSet></item></instancesSet>", "instance-id", r.id)
		switch r.image {
		case "ami-nobody-knows":
		case "ami-gone":
			e.metadata(r.id, r.image, "<creationDate>2026-08-01T00:00:00.000Z</creationDate><imageState>deregistered</imageState>")
		case "ami-unseen":
			e.metadata(r.id, r.image, "<creationDate>2020-01-01T00:00:00.000Z</creationDate><imageState>available</imageState>")
		default:
			e.metadata(r.id, r.image, images[r.image])
		}
	}
	route := func(dest, target string) string {
		return "<item><destinationCidrBlock>" + dest + "</destinationCidrBlock>" + target + "<state>active</state></item>"
	}
	for _, r := range []struct{ id, vpc, routes, associations string }{
		{"rtb-main", "vpc-1", route("0.0.0.0/0", "<gatewayId>igw-1</gatewayId>"), "<item><main>true</main></item>"},
		{"rtb-public", "vpc-1", route("10.0.0.0/8", "<gatewayId>local</gatewayId>") + route("0.0.0.0/0", "<gatewayId>igw-1</gatewayId>"),
			"<item><main>false</main><subnetId>subnet-public</subnetId><associationState><state>associated</state></associationState></item>"},
		{"rtb-private", "vpc-1", route("0.0.0.0/0", "<natGatewayId>nat-1</natGatewayId>"), "<item><main>false</main><subnetId>subnet-private</subnetId></item>"},
		{"rtb-main-2", "vpc-2", route("10.0.0.0/8", "<gatewayId>local</gatewayId>"), "<item><main>true</main></item>"},
	} {
		e.add("DescribeRouteTables", "<routeTableId>"+r.id+"</routeTableId><vpcId>"+r.vpc+"</vpcId><routeSet>"+r.routes+"</routeSet><associationSet>"+r.associations+"</associationSet>")
	}
	for _, id := range slices.Sorted(maps.Keys(images)) {
		e.add("DescribeImages", "<imageId>"+id+"</imageId><imageOwnerId>123456789012</imageOwnerId>"+images[id], "image-id", id)
	}
	e.add("DescribeVolumes", "<volumeId>vol-open</volumeId><status>in-use</status><encrypted>false</encrypted><createTime>2026-05-01T09:00:00.000Z</createTime>"+
		"<attachmentSet><item><instanceId>i-web</instanceId><status>attached</status></item></attachmentSet>")
	e.add("DescribeVolumes", "<volumeId>vol-sealed</volumeId><status>available</status><encrypted>true</encrypted><createTime>2026-05-01T09:00:00.000Z</createTime>")
	e.add("DescribeVolumes", "<volumeId>vol-young</volumeId><status>available</status><encrypted>false</encrypted><createTime>2026-09-01T11:30:00.000Z</createTime>")
	e.add("DescribeSnapshots", "<snapshotId>snap-1</snapshotId><status>completed</status><startTime>2026-05-01T09:00:00.000Z</startTime>")
	e.add("DescribeAddresses", "<publicIp>198.51.100.9</publicIp><allocationId>eipalloc-1</allocationId><tagSet><item><key>Owner</key><value>a</value></item>"+
		"<item><key>Environment</key><value>b</value></item><item><key>CostCenter</key><value>c</value></item></tagSet>")
}

func (e *endpoint) metadata(instance, image, xml string) {
	e.add("DescribeInstanceImageMetadata", "<instanceId>"+instance+"</instanceId><imageMetadata><imageId>"+image+"</imageId>"+xml+"</imageMetadata>", "instance-id", instance)
}

func TestEstateFromTheWire(t *testing.T) {
	t.Parallel()
	e := serveEC2(t)
	e.page = 3
	e.estate()
	got := e.scan(t)
	text := map[string]string{}
	for key, v := range got.verdicts {
		text[key] = strings.TrimSpace(v.Outcome.String() + " " + strings.Replace(v.Severity.String(), "UNSPECIFIED", "", 1))
		if v.Exempt.By != "" {
			text[key] += " EXEMPT"
		}
	}
	want := map[string]string{
		"ec2-public i-reachable": "VIOLATION CRITICAL", "ec2-public i-by-list": "VIOLATION CRITICAL", "ec2-public i-by-main": "VIOLATION CRITICAL",
		"ec2-public i-private-subnet": "VIOLATION HIGH", "ec2-public i-web": "VIOLATION MEDIUM", "ec2-public i-stopped": "VIOLATION HIGH",
		"ec2-public i-inside": "COMPLIANT", "ec2-public i-other-vpc": "VIOLATION HIGH", "ec2-public i-allowed": "VIOLATION CRITICAL EXEMPT",
		"ec2-public i-terminated":  "NOT_APPLICABLE",
		"ami-outdated i-reachable": "VIOLATION LOW", "ami-outdated i-by-list": "COMPLIANT", "ami-outdated i-by-main": "VIOLATION MEDIUM",
		"ami-outdated i-private-subnet": "VIOLATION LOW", "ami-outdated i-web": "COMPLIANT", "ami-outdated i-stopped": "VIOLATION MEDIUM",
		"ami-outdated i-inside": "VIOLATION MEDIUM", "ami-outdated i-other-vpc": "INSUFFICIENT_DATA", "ami-outdated i-allowed": "COMPLIANT",
		"ami-outdated i-terminated":      "NOT_APPLICABLE",
		"sg-open-sensitive-port sg-open": "VIOLATION CRITICAL", "sg-open-sensitive-port sg-list": "VIOLATION CRITICAL",
		"sg-open-sensitive-port sg-office": "COMPLIANT", "sg-open-sensitive-port sg-web": "COMPLIANT",
		"ebs-unencrypted vol-open": "VIOLATION HIGH", "ebs-unencrypted vol-sealed": "COMPLIANT", "ebs-unencrypted vol-young": "NOT_APPLICABLE",
		"required-tags eipalloc-1": "COMPLIANT", "required-tags snap-1": "VIOLATION LOW", "required-tags vol-young": "NOT_APPLICABLE",
		"required-tags vol-open": "VIOLATION LOW", "required-tags vol-sealed": "VIOLATION LOW", "required-tags i-terminated": "NOT_APPLICABLE",
	}
	for _, id := range []string{"sg-open", "sg-list", "sg-office", "sg-web", "ami-old", "ami-new", "ami-deprecated", "ami-disabled"} {
		want["required-tags "+id] = "VIOLATION LOW"
	}
	for key := range text {
		if _, ok := want[key]; !ok && strings.HasPrefix(key, "required-tags i-") {
			want[key] = "VIOLATION LOW"
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if text[key] != want[key] {
			t.Errorf("%s: %s (%s), want %s", key, text[key], got.verdicts[key].Reason, want[key])
		}
	}
	if len(text) != len(want) {
		t.Errorf("%d verdicts, want %d", len(text), len(want))
	}
	for kind, c := range got.coverage {
		if c.Status != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE {
			t.Errorf("%s is %s: %s", kind, c.Status, c.Error)
		}
	}
	if got.log != "" {
		t.Error(got.log)
	}
	x := got.verdicts["ec2-public i-allowed"].Exempt
	if x.By != "tag:public-allowed" || !x.Until.Equal(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("exemption %+v", x)
	}

	// What is the region's is read once: four tables of routes in pages of three,
	// the encryption setting, one list of two entries.
	for action, most := range map[string]int{"DescribeRouteTables": 2, "GetEbsEncryptionByDefault": 1, "GetManagedPrefixListEntries": 1} {
		if n := e.calls[action]; n != most {
			t.Errorf("%s was called %d times, want %d", action, n, most)
		}
	}
}

// Whatever one action is denied, nothing that was violated becomes compliant
// nor the other way round; what gets no verdict has a coverage that says so.
func TestDenied(t *testing.T) {
	t.Parallel()
	whole := serveEC2(t)
	whole.estate()
	want := whole.scan(t)
	undecided := map[string]map[string]rule.Outcome{
		"DescribeManagedPrefixLists":    {"sg-open-sensitive-port sg-list": rule.InsufficientData},
		"GetManagedPrefixListEntries":   {"sg-open-sensitive-port sg-list": rule.InsufficientData},
		"DescribeInstanceImageMetadata": {"ami-outdated i-by-main": rule.Error, "ami-outdated i-other-vpc": rule.Error, "ami-outdated i-private-subnet": rule.Error},
		"DescribeImages":                {"ami-outdated i-other-vpc": rule.Error},
	}
	for action := range whole.tables {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			e := serveEC2(t)
			e.estate()
			e.deny = action
			got := e.scan(t)
			for key, w := range want.verdicts {
				v, ok := got.verdicts[key]
				if !ok {
					id := key[strings.IndexByte(key, ' ')+1:]
					kind := map[string]string{
						"i-": "AWS::EC2::Instance", "vol": "AWS::EC2::Volume", "sg-": "AWS::EC2::SecurityGroup", "ami": "AWS::EC2::Image",
						"sna": "AWS::EC2::Snapshot", "eip": "AWS::EC2::EIP",
					}
					if c := got.coverage[cmp.Or(kind[id[:2]], kind[id[:3]])]; c.GetStatus() != scanv1.CoverageStatus_COVERAGE_STATUS_DENIED || !strings.Contains(c.GetError(), action) {
						t.Errorf("%s has no verdict, and its coverage is %v", key, c)
					}
					continue
				}
				switch o, listed := undecided[action][key]; {
				case listed && v.Outcome != o:
					t.Errorf("%s: %s (%s), want %s", key, v.Outcome, v.Reason, o)
				case listed:
				case v.Outcome == rule.InsufficientData || v.Outcome == rule.Error:
					if w.Outcome != v.Outcome {
						t.Errorf("%s: %s (%s), was %s", key, v.Outcome, v.Reason, w.Outcome)
					}
				case v.Outcome != w.Outcome:
					t.Errorf("%s: %s (%s), was %s", key, v.Outcome, v.Reason, w.Outcome)
				}
				if v.Severity > w.Severity && w.Outcome == rule.Violation {
					t.Errorf("%s is %s, was %s", key, v.Severity, w.Severity)
				}
			}
			if got.log != "" {
				t.Error(got.log)
			}
		})
	}
}

var element = regexp.MustCompile(`<(\w+)>([^<]*)</(\w+)>`)

// Whatever AWS leaves out or writes strangely, no rule fails: it decides, or it
// says that it cannot.
func TestStrangeAnswers(t *testing.T) {
	t.Parallel()
	e := serveEC2(t)
	e.estate()
	sound := map[string][]item{}
	for action, tab := range e.tables {
		sound[action] = tab.items
	}
	rapid.Check(t, func(rt *rapid.T) {
		e.mu.Lock()
		for action, items := range sound {
			strange := slices.Clone(items)
			for i := range strange {
				if rapid.IntRange(0, 2).Draw(rt, action) > 0 {
					continue
				}
				strange[i].xml = element.ReplaceAllStringFunc(strange[i].xml, func(s string) string {
					m := element.FindStringSubmatch(s)
					switch rapid.IntRange(0, 9).Draw(rt, m[1]) {
					case 0:
						return "" // left out
					case 1:
						switch m[1] { // what would not decode is another matter
						case "encrypted", "main", "isEgress", "launchTime", "createTime", "startTime", "fromPort", "toPort", "version":
							return s
						}
						return "<" + m[1] + ">" + rapid.SampledFrom([]string{"", "x", "-1", "::", "0.0.0.0/0", "2026"}).Draw(rt, "value") + "</" + m[1] + ">"
					}
					return s
				})
			}
			e.tables[action].items = strange
		}
		e.mu.Unlock()
		got := e.scan(rt)
		if got.log != "" {
			rt.Fatal(got.log)
		}
		for key, v := range got.verdicts {
			if v.Outcome == rule.Error && strings.Contains(v.Reason, "the log says how") {
				rt.Fatalf("%s: %s", key, v.Reason)
			}
		}
	})
}
