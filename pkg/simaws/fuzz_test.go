package simaws

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

func fuzzServer() *Server {
	at := time.Date(2026, 8, 3, 4, 0, 0, 0, time.UTC)
	return New(Generate(Options{Seed: 1, Resources: 60, Now: at}), Config{NoQuotas: true, Clock: func() time.Time { return at }})
}

func signed(service, path, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+DemoAccessKey+"/20260803/us-east-1/"+service+"/aws4_request, SignedHeaders=host, Signature=0")
	return r
}

func send(s *Server, service, path, body string, header ...string) *httptest.ResponseRecorder {
	r := signed(service, path, body)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// Whatever the form says, the answer is well-formed XML, and never an internal error.
func FuzzQuery(f *testing.F) {
	for _, body := range []string{
		"Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag%3AName&Filter.1.Value.1=a%2A%3F%5C&MaxResults=5",
		"Action=DescribeVolumes&VolumeId.1=vol-1&VolumeId.2=&NextToken=AAAAAAAAAAAAAAAAAAAAAA==",
		"Action=DescribeSnapshots&Owner.1=self&Filter.1.Name=start-time&Filter.1.Value.1=2026-%2A", "Action=DescribeAddresses&PublicIp.1=1.2.3.4", "Action=DescribeRegions&AllRegions=true", "%zz",
		"Action=DescribeImages&Owner.1=self&IncludeDeprecated=true&IncludeDisabled=true&ExecutableBy.1=all", "Action=DescribeInstanceImageMetadata&MaxResults=5",
		"Action=DescribeSecurityGroups&Filter.1.Name=ip-permission.from-port&Filter.1.Value.1=22&GroupName.1=default", "Action=DescribeSecurityGroupRules&SecurityGroupRuleId.1=sgr-1",
		"Action=DescribeNetworkInterfaces&Filter.1.Name=addresses.association.public-ip&Filter.1.Value.1=%2A", "Action=DescribeRouteTables&Filter.1.Name=route.state&Filter.1.Value.1=blackhole",
		"Action=DescribeManagedPrefixLists&MaxResults=1", "Action=GetManagedPrefixListEntries&PrefixListId.1=pl-1&PrefixListId=pl-1&TargetVersion=0", "Action=GetEbsEncryptionByDefault",
		"Action=DescribeAvailabilityZones&ZoneName.1=us-east-1a",
		"Action=GetMetricData&Version=2010-08-01&StartTime=2026-08-01T00:00:00Z&EndTime=2026-08-03T00:00:00Z&MetricDataQueries.member.1.Id=a&MetricDataQueries.member.1.MetricStat.Stat=Sum&MetricDataQueries.member.1.MetricStat.Period=60&MetricDataQueries.member.1.MetricStat.Metric.MetricName=CPUUtilization&MetricDataQueries.member.1.MetricStat.Metric.Namespace=AWS%2FEC2",
		"Action=ListMetrics&Dimensions.member.1.Name=InstanceId", "Action=AssumeRole&RoleArn=arn:aws:iam::111122223333:role/x&RoleSessionName=run", "Action=GetCallerIdentity",
	} {
		for _, service := range []string{"ec2", "sts", "monitoring"} {
			f.Add(service, body)
		}
	}
	s := fuzzServer()
	f.Fuzz(func(t *testing.T, service, body string) {
		if strings.ContainsAny(service, "/,\r\n") {
			return
		}
		w := send(s, service, "/", body)
		if w.Code >= 500 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		for d := xml.NewDecoder(w.Body); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("not XML: %v", err)
			}
		}
	})
}

// Whatever the CBOR or JSON says, the answer is well-formed, and never an internal error.
func FuzzMetricRequest(f *testing.F) {
	type m = map[string]any
	for _, v := range []any{
		m{"StartTime": cbor.Tag{Number: 1, Content: 1785700000.0}, "EndTime": cbor.Tag{Number: 1, Content: 1785723200}, "MaxDatapoints": 9, "ScanBy": "TimestampAscending", "MetricDataQueries": []any{
			m{"Id": "a", "MetricStat": m{"Period": 60, "Stat": "Sum", "Metric": m{"Namespace": "AWS/EC2", "MetricName": "CPUUtilization", "Dimensions": []any{m{"Name": "InstanceId", "Value": "i-1"}}}}}}},
		m{"Namespace": "CWAgent", "Dimensions": []any{m{"Name": "InstanceId"}}, "RecentlyActive": "PT3H"}, m{}, []any{}, "text",
	} {
		b, err := cborOut.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("GetMetricData", b, true)
		f.Add("ListMetrics", b, true)
	}
	f.Add("GetMetricData", []byte(`{"StartTime":1785700000,"EndTime":1.7857232e9,"MetricDataQueries":[{"Id":"a","MetricStat":{"Period":3600,"Stat":"Sum","Metric":{"Namespace":"a","MetricName":"b"}}}]}`), false)
	f.Add("ListAccounts", []byte(`{"MaxResults":3}`), false)
	s := fuzzServer()
	f.Fuzz(func(t *testing.T, action string, body []byte, binary bool) {
		if binary {
			if action != "ListMetrics" {
				action = "GetMetricData"
			}
			w := send(s, "monitoring", "/service/GraniteServiceVersion20100801/operation/"+action, string(body), "Smithy-Protocol", "rpc-v2-cbor")
			if err := cbor.Wellformed(w.Body.Bytes()); err != nil || w.Code >= 500 {
				t.Fatalf("%d %v", w.Code, err)
			}
			return
		}
		for _, target := range []string{"GraniteServiceVersion20100801.GetMetricData", "AWSOrganizationsV20161128.ListAccounts", "AWSPriceListService.GetProducts"} {
			if w := send(s, "monitoring", "/", string(body), "X-Amz-Target", target); w.Code >= 500 || !strings.HasPrefix(w.Body.String(), "{") {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
	})
}

// The XML writer's text survives any XML reader.
func FuzzText(f *testing.F) {
	for _, s := range hostile {
		f.Add(s)
	}
	f.Add("\x00\x1b\xff\ufffe")
	f.Fuzz(func(t *testing.T, s string) {
		x := new(xmlWriter)
		x.str("v", s)
		var got string
		if err := xml.Unmarshal(x.b, &got); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		want := strings.Map(func(r rune) rune {
			if r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF {
				return 0xFFFD
			}
			return r
		}, strings.ToValidUTF8(s, "\x00"))
		if strings.Count(want, "\uFFFD") > 0 { // runs of bad bytes may differ in number
			want, got = strings.ReplaceAll(want, "\uFFFD", ""), strings.ReplaceAll(got, "\uFFFD", "")
		}
		if got != want {
			t.Fatalf("%q came back as %q", want, got)
		}
	})
}

// Whatever a policy document says, reading and deciding it ends, and a Deny of everything denies everything.
func FuzzPolicy(f *testing.F) {
	f.Add(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ec2:Describe*"],"Resource":"*"}]}`, "ec2:DescribeVolumes")
	f.Add(`{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":["*"]}]}`, `a:\*?`)
	f.Fuzz(func(t *testing.T, text, action string) {
		p := new(Policy)
		if json.Unmarshal([]byte(text), p) != nil || p.check() != nil {
			return
		}
		p.decide(action)
		p.Statement = append(p.Statement, Statement{Effect: "Deny", Action: Words{"*"}, Resource: Words{"*"}})
		if p.decide(action) != explicitlyDenied {
			t.Errorf("%q is not denied", action)
		}
	})
}

// Whatever the ranges of a group's rules are, a further rule never makes it less open.
func FuzzExposure(f *testing.F) {
	f.Add("0.0.0.0/1", "128.0.0.0/1", "tcp", int32(22), int32(22))
	f.Add("::/0", "10.0.0.0/8", "-1", int32(-1), int32(-1))
	f.Add("255.255.255.255/32", "not a range", "6", int32(70000), int32(1))
	f.Fuzz(func(t *testing.T, a, b, protocol string, from, to int32) {
		r := &Region{account: new(Account)}
		rule := func(cidr string) GroupRule { return GroupRule{Protocol: protocol, From: &from, To: &to, CIDR: cidr} }
		one := r.exposure(&Group{Ingress: []GroupRule{rule(a)}})
		two := r.exposure(&Group{Ingress: []GroupRule{rule(a), rule(b)}})
		turned := r.exposure(&Group{Ingress: []GroupRule{rule(b), rule(a)}})
		if two != turned || worse(one.severity, two.severity) != two.severity || one.world && !two.world {
			t.Errorf("%s: %+v; with %s: %+v, in the other order %+v", a, one, b, two, turned)
		}
	})
}
