package simaws

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const pricingTarget = "AWSPriceListService"

var pricingActions map[string]handler

func init() { pricingActions = map[string]handler{"GetProducts": getProducts} }

// listFactors make up prices of further regions from those of us-east-1. They are inventions, and the truth knows nothing of them.
var listFactors = map[string]float64{"us-east-1": 1, "us-west-2": 1.07, "eu-west-1": 1.13}

// product is one entry of the price list: what it is, and what a unit costs.
type product struct {
	service    string
	attributes map[string]string // the product family and code among them
	entry      string            // as the API gives it
}

// productsPerPage is what GetProducts answers at most.
const productsPerPage = 100

var products = sync.OnceValue(func() []product {
	var all []product
	add := func(service, family, region, unit string, price float64, attributes map[string]string) {
		attributes["regionCode"], attributes["servicecode"], attributes["locationType"] = region, service, "AWS Region"
		sku := strings.ToUpper(key16(hashString(fmt.Sprint(region, family, attributes["usagetype"], attributes["instanceType"]))))
		term, rate := sku+".JRTCKXETXF", sku+".JRTCKXETXF.6YS6EN2CT7"
		type object = map[string]any
		entry, _ := json.Marshal(object{
			"product":     object{"productFamily": family, "attributes": attributes, "sku": sku},
			"serviceCode": service, "version": "20260701000000", "publicationDate": "2026-07-01T00:00:00Z",
			"terms": object{"OnDemand": object{term: object{"sku": sku, "offerTermCode": "JRTCKXETXF", "effectiveDate": "2026-07-01T00:00:00Z", "termAttributes": object{},
				"priceDimensions": object{rate: object{"rateCode": rate, "unit": unit, "beginRange": "0", "endRange": "Inf", "appliesTo": []string{},
					"description":  "simulated by this endpoint",
					"pricePerUnit": object{"USD": strconv.FormatFloat(price*listFactors[region], 'f', 10, 64)}}}}}},
		})
		of := maps.Clone(attributes)
		of["productFamily"], of["serviceCode"] = family, service
		all = append(all, product{service, of, string(entry)})
	}
	type attributes = map[string]string
	p := virginia
	for _, region := range slices.Sorted(maps.Keys(listFactors)) {
		for _, t := range slices.Sorted(maps.Keys(p.hour)) {
			add("AmazonEC2", "Compute Instance", region, "Hrs", p.hour[t], attributes{"instanceType": t, "operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA",
				"capacitystatus": "Used", "licenseModel": "No License required", "operation": "RunInstances", "usagetype": "BoxUsage:" + t})
		}
		for _, v := range []struct {
			name  string
			price float64
		}{{"gp2", p.gp2}, {"gp3", p.gp3}, {"io1", p.io}, {"io2", p.io}, {"st1", p.st1}, {"sc1", p.sc1}, {"standard", p.standard}} {
			add("AmazonEC2", "Storage", region, "GB-Mo", v.price, attributes{"volumeApiName": v.name, "usagetype": "EBS:VolumeUsage." + v.name})
		}
		for _, v := range []struct {
			name, tier string
			price      float64
		}{{"gp3", "", p.gp3IOPS}, {"io1", "", p.ioIOPS}, {"io2", "", p.ioIOPS}, {"io2", ".tier2", p.io2Mid}, {"io2", ".tier3", p.io2High}} {
			add("AmazonEC2", "System Operation", region, "IOPS-Mo", v.price, attributes{"group": "EBS IOPS", "volumeApiName": v.name, "usagetype": "EBS:VolumeP-IOPS." + v.name + v.tier})
		}
		add("AmazonEC2", "Provisioned Throughput", region, "GiBps-mo", p.gp3Throughput*1024, attributes{"volumeApiName": "gp3", "usagetype": "EBS:VolumeP-Throughput.gp3"})
		add("AmazonEC2", "Storage Snapshot", region, "GB-Mo", p.snapshot, attributes{"usagetype": "EBS:SnapshotUsage"})
		add("AmazonEC2", "Storage Snapshot", region, "GB-Mo", p.archive, attributes{"usagetype": "EBS:SnapshotArchiveStorage"})
		for _, use := range []string{"InUseAddress", "IdleAddress"} {
			add("AmazonVPC", "Public IPv4 Address", region, "Hrs", p.publicIPv4/730, attributes{"group": "VPCPublicIPv4Address", "usagetype": "PublicIPv4:" + use})
		}
	}
	return all
})

func getProducts(c *call, _ *xmlWriter) (*answer, error) {
	var in struct {
		ServiceCode   string
		FormatVersion string
		Filters       []struct{ Field, Type, Value string }
		MaxResults    *int
		NextToken     string
	}
	if err := c.input(&in); err != nil {
		return nil, err
	}
	size := productsPerPage
	if in.MaxResults != nil {
		size = *in.MaxResults
	}
	switch {
	case in.ServiceCode != "AmazonEC2" && in.ServiceCode != "AmazonVPC":
		return nil, fail(400, "NotFoundException", "Service code %q is not in the price list of this endpoint", in.ServiceCode)
	case size < 1 || size > productsPerPage:
		return nil, fail(400, "InvalidParameterException", "MaxResults %d is not between 1 and %d", size, productsPerPage)
	case in.FormatVersion != "" && in.FormatVersion != "aws_v1":
		return nil, fail(400, "InvalidParameterException", "FormatVersion %q is not aws_v1", in.FormatVersion)
	}
	check := in.ServiceCode
	for _, f := range in.Filters {
		if f.Type != "TERM_MATCH" && f.Type != "EQUALS" {
			return nil, fail(400, "InvalidParameterException", "Filter type %q is not simulated by this endpoint", f.Type)
		}
		check += "\x00" + f.Field + "\x00" + f.Value
	}
	from := 0
	prefix := strconv.FormatUint(hashString(check), 36) + "/"
	if in.NextToken != "" {
		raw, err := base64.StdEncoding.DecodeString(in.NextToken)
		text, ours := strings.CutPrefix(string(raw), prefix)
		n, numErr := strconv.Atoi(text)
		if err != nil || !ours || numErr != nil || n < 0 {
			return nil, fail(400, "InvalidNextTokenException", "The pagination token is invalid. Try again without a pagination token.")
		}
		from = n
	}
	var out struct {
		FormatVersion string
		PriceList     []string
		NextToken     string `json:",omitempty"`
	}
	out.FormatVersion, out.PriceList = "aws_v1", []string{}
	for i, all := from, products(); i < len(all); i++ {
		p := &all[i]
		if p.service != in.ServiceCode {
			continue
		}
		matches := true
		for _, f := range in.Filters {
			matches = matches && p.attributes[f.Field] == f.Value
		}
		if !matches {
			continue
		}
		if len(out.PriceList) == size {
			out.NextToken = base64.StdEncoding.EncodeToString([]byte(prefix + strconv.Itoa(i)))
			break
		}
		out.PriceList = append(out.PriceList, p.entry)
	}
	return jsonAnswer(c, out)
}
