package simaws

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
)

var cloudwatchActions map[string]handler

func init() {
	cloudwatchActions = map[string]handler{"GetMetricData": getMetricData, "ListMetrics": listMetrics}
}

// cborProtocol is Smithy RPC v2 CBOR.
type cborProtocol struct{}

var (
	cborIn = must(cbor.DecOptions{MaxArrayElements: 10_000, MaxMapPairs: 1_000, MaxNestedLevels: 16, IndefLength: cbor.IndefLengthAllowed}.DecMode())
	// Times go out as whole epoch seconds under tag 1, floats always with 64 bits.
	cborOut = must(cbor.EncOptions{Time: cbor.TimeUnix, TimeTag: cbor.EncTagRequired}.EncMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // constants above are wrong: found by the first test
	}
	return v
}

func (cborProtocol) fail(_ *call, e *apiError) *answer {
	body, _ := cborOut.Marshal(map[string]string{"__type": "com.amazonaws.cloudwatch#" + e.shape(), "message": e.Message})
	a := &answer{status: e.Status, kind: "application/cbor", body: body, headers: e.queryHeader()}
	a.headers["Smithy-Protocol"] = "rpc-v2-cbor"
	return a
}

// decode reads a CloudWatch request of the CBOR or JSON protocol.
func (c *call) decode(v any) error {
	var err error
	switch c.protocol.(type) {
	case cborProtocol:
		if c.r.Header.Get("Smithy-Protocol") != "rpc-v2-cbor" {
			return fail(400, "UnknownOperationException", "The smithy-protocol header must be rpc-v2-cbor.")
		}
		if len(c.body) > 0 {
			err = cborIn.Unmarshal(c.body, v)
		}
	case jsonProtocol:
		err = json.Unmarshal(c.body, v)
	}
	if err != nil {
		return fail(400, "SerializationException", "The request is not well formed: %v", err)
	}
	return nil
}

// encode writes a CloudWatch answer; xml is the Query protocol's form of it.
func (c *call) encode(x *xmlWriter, v any, xml func()) (*answer, error) {
	switch p := c.protocol.(type) {
	case cborProtocol:
		body, err := cborOut.Marshal(v)
		return &answer{status: 200, kind: "application/cbor", body: body, headers: map[string]string{"Smithy-Protocol": "rpc-v2-cbor"}}, err
	case queryProtocol:
		return c.queryAnswer(x, p, xml)
	}
	return jsonAnswer(c, v)
}

// queryAnswer puts the Query protocol's envelope around a result.
func (c *call) queryAnswer(x *xmlWriter, p queryProtocol, result func()) (*answer, error) {
	x.raw("<" + c.action + `Response xmlns="` + p.namespace + `">`)
	x.open(c.action + "Result")
	result()
	x.close(c.action + "Result")
	x.open("ResponseMetadata")
	x.str("RequestId", c.requestID)
	x.close("ResponseMetadata")
	x.close(c.action + "Response")
	return &answer{status: 200, kind: "text/xml", body: x.b}, nil
}

// stamp is a time as the protocols write it: epoch seconds in CBOR (tag 1) and JSON, ISO 8601 in a form.
type stamp int64

// UnmarshalCBOR implements cbor.Unmarshaler.
func (s *stamp) UnmarshalCBOR(b []byte) error {
	var t time.Time
	if err := cborIn.Unmarshal(b, &t); err != nil {
		return err
	}
	*s = stamp(t.Unix())
	return nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *stamp) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || f < -1e12 || f > 1e12 {
		return fmt.Errorf("timestamp %s is not a number of epoch seconds", b)
	}
	*s = stamp(f)
	return nil
}

// stamps is a list of times that is encoded in one go.
type stamps []int64

// MarshalCBOR implements cbor.Marshaler.
func (s stamps) MarshalCBOR() ([]byte, error) {
	b := make([]byte, 0, 9+10*len(s))
	b = append(b, 0x9a) // array, length in four bytes
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	for _, t := range s {
		b = append(b, 0xc1, 0x1b) // tag 1, unsigned in eight bytes
		b = binary.BigEndian.AppendUint64(b, uint64(t))
	}
	return b, nil
}

type getMetricDataInput struct {
	StartTime         *stamp
	EndTime           *stamp
	MetricDataQueries []metricDataQuery
	MaxDatapoints     *int64
	NextToken         string
	ScanBy            string
}

type metricDataQuery struct {
	ID         string `json:"Id"`
	Expression string
	Label      string
	Period     *int64
	ReturnData *bool
	AccountID  string `json:"AccountId"`
	MetricStat *metricStat
}

type metricStat struct {
	Metric metric
	Period *int64
	Stat   string
	Unit   string
}

type metricDataResult struct {
	ID         string         `json:"Id"`
	Label      string         `json:"Label"`
	Timestamps stamps         `json:"Timestamps"`
	Values     []float64      `json:"Values"`
	StatusCode string         `json:"StatusCode"`
	Messages   []messageDatum `json:"Messages,omitempty"`
}

type messageDatum struct {
	Code  string `json:"Code"`
	Value string `json:"Value"`
}

type getMetricDataOutput struct {
	MetricDataResults []metricDataResult `json:"MetricDataResults"`
	Messages          []messageDatum     `json:"Messages"`
	NextToken         string             `json:"NextToken,omitempty"`
}

// Limits of GetMetricData.
const (
	maxQueries    = 500
	maxDatapoints = 100_800
)

var queryID = regexp.MustCompile(`^[a-z][a-zA-Z0-9_]{0,254}$`)

var statistics = []string{"Average", "Sum", "Minimum", "Maximum", "SampleCount"}

func getMetricData(c *call, x *xmlWriter) (*answer, error) {
	in, err := c.getMetricDataInput()
	if err != nil {
		return nil, err
	}
	if err := in.check(); err != nil {
		return nil, err
	}
	query, skip, err := c.metricToken(in.NextToken)
	if err != nil {
		return nil, err
	}
	budget := maxDatapoints
	if in.MaxDatapoints != nil {
		budget = int(min(*in.MaxDatapoints, maxDatapoints))
	}
	out := getMetricDataOutput{MetricDataResults: []metricDataResult{}, Messages: []messageDatum{}}
	for ; query < len(in.MetricDataQueries); query, skip = query+1, 0 {
		q := &in.MetricDataQueries[query]
		if q.ReturnData != nil && !*q.ReturnData {
			continue
		}
		if budget == 0 {
			out.NextToken = c.newMetricToken(query, 0)
			break
		}
		res, more := c.evaluate(in, q, skip, budget)
		budget -= len(res.Values)
		out.MetricDataResults = append(out.MetricDataResults, res)
		if more {
			out.NextToken = c.newMetricToken(query, skip+len(res.Values))
			break
		}
	}
	return c.encode(x, out, func() { out.xml(x) })
}

// check validates as CloudWatch does.
func (in *getMetricDataInput) check() error {
	switch {
	case len(in.MetricDataQueries) == 0:
		return fail(400, "MissingParameter", "The parameter MetricDataQueries is required.")
	case in.StartTime == nil:
		return fail(400, "MissingParameter", "The parameter StartTime is required.")
	case in.EndTime == nil:
		return fail(400, "MissingParameter", "The parameter EndTime is required.")
	case len(in.MetricDataQueries) > maxQueries:
		return fail(400, "ValidationError", "The collection MetricDataQueries must not have a size greater than %d.", maxQueries)
	case *in.StartTime >= *in.EndTime:
		return fail(400, "ValidationError", "The parameter StartTime must be less than the parameter EndTime.")
	case in.MaxDatapoints != nil && *in.MaxDatapoints < 1:
		return fail(400, "ValidationError", "The parameter MaxDatapoints must be greater than or equal to 1.")
	case in.ScanBy != "" && in.ScanBy != "TimestampAscending" && in.ScanBy != "TimestampDescending":
		return fail(400, "ValidationError", "The parameter ScanBy must be a value in the set [ TimestampDescending, TimestampAscending ].")
	}
	ids := map[string]bool{}
	for i := range in.MetricDataQueries {
		q := &in.MetricDataQueries[i]
		where := fmt.Sprintf("MetricDataQueries.member.%d.", i+1)
		switch {
		case !queryID.MatchString(q.ID):
			return fail(400, "ValidationError", "The value %s for parameter %sId is not matching the expected pattern ^[a-z][a-zA-Z0-9_]*$.", q.ID, where)
		case ids[q.ID]:
			return fail(400, "ValidationError", "The values for parameter id in MetricDataQueries are not unique.")
		case (q.MetricStat == nil) == (q.Expression == ""):
			return fail(400, "ValidationError", "Exactly one of the parameters %sMetricStat and %sExpression must be given.", where, where)
		case q.Expression != "":
			return fail(400, "ValidationError", "Error in expression '%s': expressions are not simulated by this endpoint.", q.ID)
		case q.MetricStat.Metric.Namespace == "" || q.MetricStat.Metric.MetricName == "":
			return fail(400, "MissingParameter", "The parameters %sMetricStat.Metric.Namespace and MetricName are required.", where)
		case q.MetricStat.Period == nil:
			return fail(400, "MissingParameter", "The parameter %sMetricStat.Period is required.", where)
		case !slices.Contains(statistics, q.MetricStat.Stat):
			return fail(400, "ValidationError", "The value %s for parameter %sMetricStat.Stat is not supported.", q.MetricStat.Stat, where)
		case len(q.MetricStat.Metric.Dimensions) > 30:
			return fail(400, "ValidationError", "The collection %sMetricStat.Metric.Dimensions must not have a size greater than 30.", where)
		}
		ids[q.ID] = true
		if p := *q.MetricStat.Period; p < 1 || p > 86400*365 || p%60 != 0 && !slices.Contains([]int64{1, 5, 10, 20, 30}, p) {
			return fail(400, "ValidationError", "The parameter %sMetricStat.Period must be 1, 5, 10, 20, 30 or a multiple of 60.", where)
		} else if in.StartTime.before(*in.EndTime, p) > 5_000_000 {
			return fail(400, "InvalidParameterCombination", "The query exceeds the maximum number of datapoints; narrow the time range or raise the period.")
		}
	}
	return nil
}

// before counts the periods between two times.
func (s stamp) before(end stamp, period int64) int64 { return (int64(end) - int64(s)) / period }

// evaluate answers one query: points from the skip-th on, at most limit, and whether more are to come.
func (c *call) evaluate(in *getMetricDataInput, q *metricDataQuery, skip, limit int) (res metricDataResult, more bool) {
	m := q.MetricStat
	res = metricDataResult{ID: q.ID, Label: q.Label, Timestamps: stamps{}, Values: []float64{}, StatusCode: "Complete"}
	if res.Label == "" {
		res.Label = m.Metric.MetricName
	}
	if q.AccountID != "" && q.AccountID != c.account.ID {
		res.StatusCode = "Forbidden"
		res.Messages = []messageDatum{{"Forbidden", "You don't have permission to read metrics of account " + q.AccountID + "."}}
		return res, false
	}
	s := c.findSeries(m.Metric)
	status := c.s.faults.metricStatus(c)
	if status == "" && s != nil {
		status = s.status
	}
	if status != "" && status != "PartialData" {
		res.StatusCode = status
		res.Messages = []messageDatum{{status, "The query could not be evaluated."}}
		return res, false
	}
	if s == nil {
		return res, false
	}
	now, period := c.now.Unix(), *m.Period
	start, end := roundStart(int64(*in.StartTime), now), min(int64(*in.EndTime), now)
	i := 0
	s.points(start, end, period, m.Stat, now, func(t int64, v float64) bool {
		if i++; i <= skip {
			return true
		}
		if len(res.Values) == limit {
			more = true
			return false
		}
		res.Timestamps, res.Values = append(res.Timestamps, t), append(res.Values, v)
		return true
	}, in.ScanBy != "TimestampAscending")
	if status == "PartialData" { // for ever: the second half does not come
		res.Timestamps, res.Values, more = res.Timestamps[:len(res.Values)/2], res.Values[:len(res.Values)/2], false
		res.StatusCode = status
	}
	if more {
		res.StatusCode = "PartialData"
	}
	return res, more
}

// roundStart rounds as CloudWatch documents: to the minute, five minutes or hour, by age.
func roundStart(t, now int64) int64 {
	unit := int64(60)
	switch age := time.Duration(now-t) * time.Second; {
	case age > keepFiveMinutes:
		unit = 3600
	case age > keepMinutes:
		unit = 300
	}
	return t - (t%unit+unit)%unit
}

// A page token holds the query and the number of its points already sent, and a check.
func (c *call) newMetricToken(query, skip int) string {
	raw := binary.BigEndian.AppendUint32(nil, uint32(query))
	raw = binary.BigEndian.AppendUint32(raw, uint32(skip))
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(raw, c.metricCheck(raw)))
}

func (c *call) metricToken(token string) (query, skip int, err error) {
	if token == "" {
		return 0, 0, nil
	}
	raw, err := base64.StdEncoding.DecodeString(token)
	if err != nil || len(raw) != 16 || binary.BigEndian.Uint64(raw[8:]) != c.metricCheck(raw[:8]) {
		return 0, 0, fail(400, "InvalidNextToken", "The NextToken is invalid.")
	}
	return int(binary.BigEndian.Uint32(raw)), int(binary.BigEndian.Uint32(raw[4:])), nil
}

func (c *call) metricCheck(position []byte) uint64 {
	return mix(c.s.estate.Seed, hashString(c.account.ID+c.region.Name+c.action+string(position)))
}

func (c *call) getMetricDataInput() (*getMetricDataInput, error) {
	in := new(getMetricDataInput)
	if _, form := c.protocol.(queryProtocol); !form {
		return in, c.decode(in)
	}
	f := c.form
	var bad error
	when := func(name string) *stamp {
		text := f.get(name)
		if text == "" {
			return nil
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			bad = fail(400, "MalformedInput", "The parameter %s is not a timestamp: %s", name, text)
			return nil
		}
		s := stamp(t.Unix())
		return &s
	}
	number := func(name string) *int64 {
		text := f.get(name)
		if text == "" {
			return nil
		}
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			bad = fail(400, "MalformedInput", "The parameter %s is not a number: %s", name, text)
			return nil
		}
		return &n
	}
	in.StartTime, in.EndTime = when("StartTime"), when("EndTime")
	in.MaxDatapoints, in.NextToken, in.ScanBy = number("MaxDatapoints"), f.get("NextToken"), f.get("ScanBy")
	f.each("MetricDataQueries.member", func(p string) {
		q := metricDataQuery{ID: f.get(p + "Id"), Expression: f.get(p + "Expression"), Label: f.get(p + "Label"), AccountID: f.get(p + "AccountId"), Period: number(p + "Period")}
		if v := f.get(p + "ReturnData"); v != "" {
			b := v == "true"
			q.ReturnData = &b
		}
		if m := p + "MetricStat."; f.has(m+"Stat") || f.has(m+"Metric.MetricName") {
			q.MetricStat = &metricStat{Stat: f.get(m + "Stat"), Unit: f.get(m + "Unit"), Period: number(m + "Period"),
				Metric: metric{Namespace: f.get(m + "Metric.Namespace"), MetricName: f.get(m + "Metric.MetricName"), Dimensions: f.dimensions(m + "Metric.Dimensions.member")}}
		}
		in.MetricDataQueries = append(in.MetricDataQueries, q)
	})
	return in, bad
}

func (f form) dimensions(name string) []dimension {
	var out []dimension
	for i := 1; ; i++ {
		p := name + "." + strconv.Itoa(i) + "."
		if !f.has(p + "Name") {
			return out
		}
		out = append(out, dimension{f.get(p + "Name"), f.get(p + "Value")})
	}
}

func (out *getMetricDataOutput) xml(x *xmlWriter) {
	x.open("MetricDataResults")
	for _, r := range out.MetricDataResults {
		x.open("member")
		x.str("Id", r.ID)
		x.str("Label", r.Label)
		x.open("Timestamps")
		for _, t := range r.Timestamps {
			x.open("member")
			x.b = time.Unix(t, 0).UTC().AppendFormat(x.b, time.RFC3339)
			x.close("member")
		}
		x.close("Timestamps")
		x.open("Values")
		for _, v := range r.Values {
			x.float("member", v)
		}
		x.close("Values")
		x.str("StatusCode", r.StatusCode)
		if len(r.Messages) > 0 {
			xmlMessages(x, r.Messages)
		}
		x.close("member")
	}
	x.close("MetricDataResults")
	xmlMessages(x, out.Messages)
	x.opt("NextToken", out.NextToken)
}

func xmlMessages(x *xmlWriter, all []messageDatum) {
	x.open("Messages")
	for _, m := range all {
		x.open("member")
		x.str("Code", m.Code)
		x.str("Value", m.Value)
		x.close("member")
	}
	x.close("Messages")
}

type listMetricsInput struct {
	Namespace      string
	MetricName     string
	Dimensions     []dimensionFilter
	NextToken      string
	RecentlyActive string
}

type dimensionFilter struct {
	Name  string
	Value *string
}

type listMetricsOutput struct {
	Metrics   []metric `json:"Metrics"`
	NextToken string   `json:"NextToken,omitempty"`
}

func listMetrics(c *call, x *xmlWriter) (*answer, error) {
	in, err := c.listMetricsInput()
	if err != nil {
		return nil, err
	}
	switch {
	case in.RecentlyActive != "" && in.RecentlyActive != "PT3H":
		return nil, fail(400, "InvalidParameterValue", "The parameter RecentlyActive must be PT3H.")
	case len(in.Dimensions) > 10:
		return nil, fail(400, "InvalidParameterValue", "The collection Dimensions must not have a size greater than 10.")
	}
	at, _, err := c.metricToken(in.NextToken)
	if err != nil {
		return nil, err
	}
	out := listMetricsOutput{Metrics: []metric{}}
	since := c.now.Add(-listedFor).Unix()
	if in.RecentlyActive != "" {
		since = c.now.Add(-3 * time.Hour).Unix()
	}
	for n := c.metricCount(); at < n; at++ {
		m, ok := c.metricAt(at, in)
		if !ok || !in.matches(m) {
			continue
		}
		if s := c.findSeries(m); s == nil || s.last() < since {
			continue
		}
		if len(out.Metrics) == 500 {
			out.NextToken = c.newMetricToken(at, 0)
			break
		}
		out.Metrics = append(out.Metrics, m)
	}
	return c.encode(x, out, func() {
		x.open("Metrics")
		for _, m := range out.Metrics {
			x.open("member")
			x.str("Namespace", m.Namespace)
			x.str("MetricName", m.MetricName)
			x.open("Dimensions")
			for _, d := range m.Dimensions {
				x.open("member")
				x.str("Name", d.Name)
				x.str("Value", d.Value)
				x.close("member")
			}
			x.close("Dimensions")
			x.close("member")
		}
		x.close("Metrics")
		x.opt("NextToken", out.NextToken)
	})
}

// metricCount and metricAt number the metrics of the region: those of the instances, their agents', those of the volumes.
func (c *call) metricCount() int {
	return len(c.region.Instances)*(len(ec2Metrics)+1) + len(c.region.Volumes)*len(ebsMetrics)
}

func (c *call) metricAt(i int, in *listMetricsInput) (metric, bool) {
	wants := func(namespace, name string) bool {
		return (in.Namespace == "" || in.Namespace == namespace) && (in.MetricName == "" || in.MetricName == name)
	}
	per := len(ec2Metrics) + 1
	if n := len(c.region.Instances) * per; i >= n {
		v, name := &c.region.Volumes[(i-n)/len(ebsMetrics)], ebsMetrics[(i-n)%len(ebsMetrics)]
		if v.State == "deleted" && v.Detached.IsZero() || !wants("AWS/EBS", name) {
			return metric{}, false
		}
		return metric{"AWS/EBS", name, []dimension{{"VolumeId", v.ID}}}, true
	}
	inst := &c.region.Instances[i/per]
	if i%per == len(ec2Metrics) {
		if inst.Agent == "" || !wants("CWAgent", inst.memoryMetric()) {
			return metric{}, false
		}
		return metric{"CWAgent", inst.memoryMetric(), inst.agentDimensions()}, true
	}
	name := ec2Metrics[i%per]
	if !wants("AWS/EC2", name) {
		return metric{}, false
	}
	return metric{"AWS/EC2", name, []dimension{{"InstanceId", inst.ID}}}, true
}

// matches applies the dimension filters: a name alone matches any value.
func (in *listMetricsInput) matches(m metric) bool {
	for _, f := range in.Dimensions {
		if !slices.ContainsFunc(m.Dimensions, func(d dimension) bool { return d.Name == f.Name && (f.Value == nil || *f.Value == d.Value) }) {
			return false
		}
	}
	return true
}

func (c *call) listMetricsInput() (*listMetricsInput, error) {
	in := new(listMetricsInput)
	if _, form := c.protocol.(queryProtocol); !form {
		return in, c.decode(in)
	}
	f := c.form
	in.Namespace, in.MetricName, in.NextToken, in.RecentlyActive = f.get("Namespace"), f.get("MetricName"), f.get("NextToken"), f.get("RecentlyActive")
	f.each("Dimensions.member", func(p string) {
		d := dimensionFilter{Name: f.get(p + "Name")}
		if f.has(p + "Value") {
			v := f.get(p + "Value")
			d.Value = &v
		}
		in.Dimensions = append(in.Dimensions, d)
	})
	if strings.ContainsRune(in.Namespace, ':') {
		return nil, fail(400, "InvalidParameterValue", "The parameter Namespace must not contain a colon.")
	}
	return in, nil
}
