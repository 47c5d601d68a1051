package simaws

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ec2Actions are the EC2 actions this endpoint knows. Another one is a file with a function, or a [listing], and a line here.
var ec2Actions map[string]handler

func init() {
	ec2Actions = map[string]handler{
		"DescribeRegions":           describeRegions,
		"DescribeAvailabilityZones": describeAvailabilityZones,
		"DescribeInstances":         instanceListing.describe,
		"DescribeVolumes":           volumeListing.describe,
		"DescribeSnapshots":         snapshotListing.describe,
		"DescribeAddresses":         addressListing.describe,

		"DescribeImages":                imageListing.describe,
		"DescribeInstanceImageMetadata": imageMetadataListing.describe,
		"DescribeSecurityGroups":        groupListing.describe,
		"DescribeSecurityGroupRules":    ruleListing.describe,
		"DescribeNetworkInterfaces":     interfaceListing.describe,
		"DescribeRouteTables":           routeTableListing.describe,
		"DescribeManagedPrefixLists":    prefixListListing.describe,
		"GetManagedPrefixListEntries":   getManagedPrefixListEntries,
		"GetEbsEncryptionByDefault":     getEBSEncryptionByDefault,
	}
}

const ec2Namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

// listing describes one Describe action: what its rows are, how they are asked for and how they look.
type listing[T any] struct {
	what string // parameter name of one row's id, as in AWS's error messages: "volumeId"
	set  string // XML element around the rows
	ids  string // request parameter of the id list

	prefix    string // of an id
	notFound  string // error code for an unknown id
	missing   string // and its message
	malformed string // error code for something that is no id at all

	// limit is the largest page, 0 for an action that does not page. exact: a larger MaxResults is an error, not cut down.
	// either: ids and MaxResults exclude each other.
	// least is the smallest MaxResults, 5 unless set.
	limit  int
	least  int
	exact  bool
	either bool

	rows   func(c *call) []T
	hidden func(c *call, row *T) bool
	id     func(row *T) string
	find   func(c *call, id string) *T // by index; nil means to look through the rows
	tags   func(row *T) []Tag
	// fields are the filters besides tag:KEY, tag-key and tag-value: each appends the row's values.
	fields map[string]func(dst []string, c *call, row *T) []string
	write  func(c *call, x *xmlWriter, page []*T)
}

// describe answers one request: ids, filters, the page, its XML.
func (l *listing[T]) describe(c *call, x *xmlWriter) (*answer, error) {
	if err := dryRun(c); err != nil {
		return nil, err
	}
	ids := c.form.list(l.ids)
	size, err := l.pageSize(c, len(ids) > 0)
	if err != nil {
		return nil, err
	}
	filters, err := l.filters(c)
	if err != nil {
		return nil, err
	}
	from, err := c.pageStart()
	if err != nil {
		return nil, err
	}
	var page []*T
	next := ""
	if len(ids) > 0 {
		if page, err = l.byID(c, ids, filters); err != nil {
			return nil, err
		}
	} else {
		rows := l.rows(c)
		for i := from; i < len(rows); i++ {
			row := &rows[i]
			if l.hidden != nil && l.hidden(c, row) || !filters.match(c, row) {
				continue
			}
			if size > 0 && len(page) == size {
				next = c.pageToken(i)
				break
			}
			page = append(page, row)
		}
	}
	begin(c, x)
	x.open(l.set)
	l.write(c, x, page)
	x.close(l.set)
	x.opt("nextToken", next)
	return end(c, x)
}

// begin and end write what every EC2 answer has around its content.
func begin(c *call, x *xmlWriter) {
	x.raw(`<?xml version="1.0" encoding="UTF-8"?>` + "\n<" + c.action + `Response xmlns="` + ec2Namespace + `">`)
	x.str("requestId", c.requestID)
}

func end(c *call, x *xmlWriter) (*answer, error) {
	x.close(c.action + "Response")
	return &answer{status: 200, kind: "text/xml;charset=UTF-8", body: x.b}, nil
}

func dryRun(c *call) error {
	if c.form.get("DryRun") == "true" {
		return fail(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	}
	return nil
}

func (l *listing[T]) pageSize(c *call, byID bool) (int, error) {
	if l.limit == 0 {
		return 0, nil
	}
	text, given := c.form.get("MaxResults"), c.form.has("MaxResults")
	if !given {
		return l.limit, nil
	}
	if byID && l.either {
		return 0, fail(400, "InvalidParameterCombination", "The parameter %ssSet cannot be used with the parameter maxResults", strings.TrimSuffix(l.what, "Id"))
	}
	n, err := strconv.Atoi(text)
	least := cmp.Or(l.least, 5)
	switch {
	case err != nil:
		return 0, fail(400, "InvalidParameterValue", "Value ( %s ) for parameter maxResults is invalid. It is not an integer.", text)
	case n < least:
		return 0, fail(400, "InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value greater than or equal to %d.", n, least)
	case n > l.limit && l.exact:
		return 0, fail(400, "InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value less than or equal to %d.", n, l.limit)
	}
	return min(n, l.limit), nil
}

func (l *listing[T]) byID(c *call, ids []string, filters filters[T]) ([]*T, error) {
	var page []*T
	var missing []string
	find := l.find
	if find == nil {
		find = func(c *call, id string) *T {
			rows := l.rows(c)
			if i := slices.IndexFunc(rows, func(row T) bool { return l.id(&row) == id }); i >= 0 {
				return &rows[i]
			}
			return nil
		}
	}
	seen := map[string]bool{}
	for _, id := range ids {
		if !strings.HasPrefix(id, l.prefix) || len(id) == len(l.prefix) {
			if l.malformed == "InvalidParameterValue" {
				return nil, fail(400, l.malformed, "Value (%s) for parameter %s is invalid. Expected: '%s...'.", id, l.what, l.prefix)
			}
			return nil, fail(400, l.malformed, "Invalid id: %q", id)
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		row := find(c, id)
		if row == nil || l.hidden != nil && l.hidden(c, row) {
			missing = append(missing, id)
		} else if filters.match(c, row) {
			page = append(page, row)
		}
	}
	if len(missing) > 0 {
		return nil, fail(400, l.notFound, l.missing, strings.Join(missing, ", "))
	}
	return page, nil
}

// pageStart opens NextToken. A token is bound to the account, region, action and filters it was given for.
func (c *call) pageStart() (int, error) {
	token := c.form.get("NextToken")
	if token == "" {
		return 0, nil
	}
	raw, err := base64.StdEncoding.DecodeString(token)
	if err != nil || len(raw) != 16 || binary.BigEndian.Uint64(raw[8:]) != c.pageCheck(raw[:8]) {
		return 0, fail(400, "InvalidParameterValue", "Invalid value '%s' for parameter nextToken", token)
	}
	return int(binary.BigEndian.Uint64(raw) ^ c.pageCheck(nil)&0xffffffff), nil
}

func (c *call) pageToken(at int) string {
	raw := binary.BigEndian.AppendUint64(nil, uint64(at)^c.pageCheck(nil)&0xffffffff)
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(raw, c.pageCheck(raw)))
}

func (c *call) pageCheck(position []byte) uint64 {
	v := url.Values{}
	for k, vals := range c.form.Values {
		if k != "NextToken" && k != "MaxResults" {
			v[k] = vals
		}
	}
	return mix(c.s.estate.Seed, hashString(c.account.ID+c.region.Name+v.Encode()+string(position)))
}

// filters is a request's Filter.N list: all must match, each by any of its values.
type filters[T any] []filter[T]

type filter[T any] struct {
	values func(dst []string, c *call, row *T) []string
	want   []pattern
}

func (f filters[T]) match(c *call, row *T) bool {
	var scratch [8]string
	for i := range f {
		have := f[i].values(scratch[:0], c, row)
		if !slices.ContainsFunc(have, func(v string) bool {
			return slices.ContainsFunc(f[i].want, func(p pattern) bool { return p.match(v) })
		}) {
			return false
		}
	}
	return true
}

func (l *listing[T]) filters(c *call) (filters[T], error) {
	var out filters[T]
	var bad error
	c.form.each("Filter", func(prefix string) {
		name := c.form.get(prefix + "Name")
		values := c.form.list(prefix + "Value")
		f := filter[T]{values: l.field(name)}
		switch {
		case f.values == nil:
			bad = fail(400, "InvalidParameterValue", "The filter '%s' is invalid", name)
		case len(values) == 0:
			bad = fail(400, "InvalidParameterValue", "The filter '%s' requires at least one value", name)
		case len(values) > 200:
			bad = fail(400, "FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200")
		}
		for _, v := range values {
			f.want = append(f.want, newPattern(v))
		}
		out = append(out, f)
	})
	return out, bad
}

// field resolves a filter's name; nil if there is none of that name.
func (l *listing[T]) field(name string) func([]string, *call, *T) []string {
	if f, ok := l.fields[name]; ok {
		return f
	}
	if key, ok := strings.CutPrefix(name, "tag:"); ok {
		return func(dst []string, _ *call, row *T) []string {
			if v, ok := tagValue(l.tags(row), key); ok {
				dst = append(dst, v)
			}
			return dst
		}
	}
	switch name {
	case "tag-key":
		return func(dst []string, _ *call, row *T) []string {
			for _, t := range l.tags(row) {
				dst = append(dst, t.Key)
			}
			return dst
		}
	case "tag-value":
		return func(dst []string, _ *call, row *T) []string {
			for _, t := range l.tags(row) {
				dst = append(dst, t.Value)
			}
			return dst
		}
	}
	return nil
}

// pattern is a filter value: * is any text, ? any one character, and \ takes the next one literally. Case matters.
type pattern struct {
	text    string
	literal bool
}

func newPattern(v string) pattern { return pattern{v, !strings.ContainsAny(v, `*?\`)} }

func (p pattern) match(s string) bool {
	if p.literal {
		return p.text == s
	}
	return wildcard([]rune(p.text), []rune(s))
}

// wildcard matches greedily and goes back to the last star on a mismatch: linear for one star, never exponential.
func wildcard(p, s []rune) bool {
	i, j, star, mark := 0, 0, -1, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
			continue
		case i < len(p) && p[i] == '?':
			i, j = i+1, j+1
			continue
		case i+1 < len(p) && p[i] == '\\' && p[i+1] == s[j]:
			i, j = i+2, j+1
			continue
		case i < len(p) && p[i] == s[j] && (p[i] != '\\' || i+1 == len(p)):
			i, j = i+1, j+1
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		i, j = star+1, mark
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }

var zonePrefixes = map[string]string{
	"us-east-1": "use1", "us-east-2": "use2", "us-west-1": "usw1", "us-west-2": "usw2", "eu-west-1": "euw1", "eu-west-2": "euw2", "eu-west-3": "euw3", "eu-central-1": "euc1",
	"eu-north-1": "eun1", "ap-southeast-1": "apse1", "ap-southeast-2": "apse2", "ap-northeast-1": "apne1", "ap-northeast-2": "apne2", "ap-northeast-3": "apne3",
	"ap-south-1": "aps1", "sa-east-1": "sae1", "ca-central-1": "cac1",
}

// zoneID is the id behind a zone's name; every account sees the same here.
func zoneID(zone string) string {
	if zone == "" {
		return ""
	}
	region, letter := zone[:len(zone)-1], zone[len(zone)-1]
	id, ok := zonePrefixes[region]
	if !ok {
		id = strings.ReplaceAll(region, "-", "")
	}
	return id + "-az" + strconv.Itoa(int(letter)-'a'+1)
}

// derived makes the id of something that follows from another thing.
func derived(prefix, from string) string {
	return string(appendID(make([]byte, 0, len(prefix)+17), prefix, hashString(prefix+from)))
}

// appendID spells an id as AWS does: the prefix and seventeen hexadecimal digits, of which the first is 0.
func appendID(b []byte, prefix string, h uint64) []byte {
	const hex = "0123456789abcdef"
	b = append(append(b, prefix...), '0')
	for i := 60; i >= 0; i -= 4 {
		b = append(b, hex[h>>i&15])
	}
	return b
}
