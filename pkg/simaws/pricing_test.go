package simaws_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	"github.com/aws/aws-sdk-go-v2/service/pricing/types"

	"nightshift.dev/pkg/simaws"
)

// The price list answers page by page, each product once, and filters by any attribute.
func TestPriceList(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Resources: 20}, simaws.Config{})
	c := pricing.NewFromConfig(w.as(w.management(), "us-east-1"))
	list := func(in pricing.GetProductsInput) (out []string) {
		t.Helper()
		for p := pricing.NewGetProductsPaginator(c, &in); p.HasMorePages(); {
			page, err := p.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, page.PriceList...)
		}
		return out
	}
	is := func(field, value string) types.Filter {
		return types.Filter{Type: types.FilterTypeTermMatch, Field: &field, Value: &value}
	}
	ec2 := aws.String("AmazonEC2")
	all := list(pricing.GetProductsInput{ServiceCode: ec2})
	small := list(pricing.GetProductsInput{ServiceCode: ec2, MaxResults: aws.Int32(7)})
	if !slices.Equal(all, small) || len(all) < 150 {
		t.Errorf("%d products in large pages, %d in small ones", len(all), len(small))
	}
	price := func(filters ...types.Filter) string {
		t.Helper()
		found := list(pricing.GetProductsInput{ServiceCode: ec2, Filters: filters})
		if len(found) != 1 {
			t.Fatalf("%d products", len(found))
		}
		var p struct {
			Terms struct {
				OnDemand map[string]struct {
					PriceDimensions map[string]struct{ PricePerUnit map[string]string }
				}
			}
		}
		if err := json.Unmarshal([]byte(found[0]), &p); err != nil {
			t.Fatal(err)
		}
		for _, term := range p.Terms.OnDemand {
			for _, d := range term.PriceDimensions {
				return d.PricePerUnit["USD"]
			}
		}
		return ""
	}
	if got := price(is("regionCode", "us-east-1"), is("instanceType", "m5.large")); got != "0.0960000000" {
		t.Errorf("m5.large costs %s", got)
	}
	if got := price(is("regionCode", "eu-west-1"), is("volumeApiName", "gp3"), is("productFamily", "Storage")); got != "0.0904000000" {
		t.Errorf("gp3 costs %s", got)
	}
	_, err := c.GetProducts(t.Context(), &pricing.GetProductsInput{ServiceCode: aws.String("AmazonSoup")})
	wantCode(t, err, "NotFoundException")
	_, err = c.GetProducts(t.Context(), &pricing.GetProductsInput{ServiceCode: ec2, NextToken: aws.String("AAAA")})
	wantCode(t, err, "InvalidNextTokenException")
	_, err = c.GetProducts(t.Context(), &pricing.GetProductsInput{ServiceCode: ec2, MaxResults: aws.Int32(101)})
	wantCode(t, err, "InvalidParameterException")
	w.management().Denied = []string{"pricing:*"}
	_, err = c.GetProducts(t.Context(), &pricing.GetProductsInput{ServiceCode: ec2})
	wantCode(t, err, "AccessDeniedException")
}
