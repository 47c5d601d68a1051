package inventory_test

import (
	"net/url"
	"strings"
	"testing"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/simaws"
)

func TestElasticIPsAreTheEstates(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 24, Resources: 2500, Accounts: 1, Regions: 1})
	got, pages := list(t, s.Session, inventory.ElasticIPs)
	byID := map[string]*inventory.ElasticIP{}
	for _, e := range got {
		byID[e.ID] = e
	}
	if len(got) != len(s.region.Addresses) || pages != 1 || len(got) < 10 {
		t.Fatalf("listed %d of %d in %d pages", len(got), len(s.region.Addresses), pages)
	}
	free := 0
	for _, w := range s.region.Addresses {
		e := byID[w.Allocation]
		if e == nil || e.IP != w.PublicIP || e.ARN != "arn:aws:ec2:us-east-1:"+s.account.ID+":elastic-ip/"+w.Allocation || e.Type != "AWS::EC2::EIP" ||
			e.InstanceID != w.Instance || e.Associated() != (w.Instance != "" || w.Interface != "") || e.Own {
			t.Errorf("%s:\n got %+v\nwant %+v", w.Allocation, e, w)
			continue
		}
		if !e.Associated() {
			free++
		}
	}
	if free == 0 {
		t.Error("every address is associated: nothing was tested")
	}
}

func TestElasticIPs(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.ec2 = func(form url.Values) string {
		if form.Get("Action") == "DescribeNetworkInterfaces" {
			if form.Get("Filter.1.Name") != "network-interface-id" || form.Get("Filter.1.Value.1") != "eni-1" || form.Get("Filter.1.Value.2") != "eni-2" {
				t.Errorf("asked for %v", form)
			}
			return `<DescribeNetworkInterfacesResponse><networkInterfaceSet><item><networkInterfaceId>eni-1</networkInterfaceId><status>available</status></item>` +
				`</networkInterfaceSet></DescribeNetworkInterfacesResponse>`
		}
		return `<DescribeAddressesResponse><addressesSet>
			<item><publicIp>1.1.1.1</publicIp><allocationId>eipalloc-1</allocationId><associationId>eipassoc-1</associationId><networkInterfaceId>eni-1</networkInterfaceId>
				<networkInterfaceOwnerId>111122223333</networkInterfaceOwnerId><publicIpv4Pool>amazon</publicIpv4Pool><tagSet><item><key>Name</key><value>nat</value></item></tagSet></item>
			<item><publicIp>2.2.2.2</publicIp><allocationId>eipalloc-2</allocationId><networkInterfaceId>eni-2</networkInterfaceId><serviceManaged>alb</serviceManaged></item>
			<item><publicIp>3.3.3.3</publicIp><publicIpv4Pool>ipv4pool-ec2-012</publicIpv4Pool></item>
			<item><carrierIp>4.4.4.4</carrierIp><allocationId>eipalloc-4</allocationId></item></addressesSet></DescribeAddressesResponse>`
	}
	es, _ := list(t, w.Session, inventory.ElasticIPs)
	if len(es) != 4 {
		t.Fatalf("listed %d", len(es))
	}
	if e := es[0]; e.ID != "eipalloc-1" || e.IP != "1.1.1.1" || e.InterfaceID != "eni-1" || e.InterfaceOwner != "111122223333" || e.Own || !e.Associated() || e.Name() != "nat" {
		t.Errorf("%+v", e)
	}
	if e := es[1]; e.ManagedBy != "alb" || !e.Associated() {
		t.Errorf("%+v", e)
	}
	if e := es[2]; e.ID != "3.3.3.3" || !e.Own || e.Associated() {
		t.Errorf("%+v", e)
	}
	if e := es[3]; e.IP != "" || e.Associated() {
		t.Errorf("%+v", e)
	}
	fill(t, w.Session, inventory.ElasticIPInterface, es[:2])
	if f := es[0].Interface; !f.Known || f.Value.Status != "available" || f.Source != "ec2:DescribeNetworkInterfaces" {
		t.Errorf("%+v", f)
	}
	if f := es[1].Interface; f.Known || f.Failed || !strings.Contains(f.Why, "eni-2") {
		t.Errorf("%+v", f)
	}

	w.ec2 = func(url.Values) string {
		return `<DescribeAddressesResponse><addressesSet><item><domain>vpc</domain></item></addressesSet></DescribeAddressesResponse>`
	}
	err := inventory.ElasticIPs.List(t.Context(), w.Session, func([]inventory.ElasticIP) error { return nil })
	if aws.Classify(err) != aws.Failed || !strings.Contains(err.Error(), "an address without an id") {
		t.Errorf("got %v", err)
	}
}
