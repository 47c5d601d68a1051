package aws

import (
	"context"
	"maps"
	"slices"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	"github.com/aws/aws-sdk-go-v2/service/pricing/types"
)

// priceListRegion is where the Pricing API is asked. It answers in few
// regions, and in each for all of them.
const priceListRegion = "us-east-1"

// Products hands each product of a service's price list that has all the
// attributes, as AWS's JSON, to the function. It needs pricing:GetProducts,
// which no scan needs. The list was complete if there is no error; the error
// is an *Error, or the function's own, which ends the listing.
func (c *Cloud) Products(ctx context.Context, service string, attributes map[string]string, product func(json string) error) error {
	in := &pricing.GetProductsInput{ServiceCode: &service, FormatVersion: sdk.String("aws_v1")}
	for _, field := range slices.Sorted(maps.Keys(attributes)) {
		in.Filters = append(in.Filters, types.Filter{Type: types.FilterTypeTermMatch, Field: &field, Value: sdk.String(attributes[field])})
	}
	api := pricing.NewFromConfig(c.config(priceListRegion, "", c.cfg.Credentials, c.home))
	var turn Turn
	for pages := pricing.NewGetProductsPaginator(api, in); pages.HasMorePages(); {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return Explain(err)
		}
		for _, p := range out.PriceList {
			if err := product(p); err != nil {
				return err
			}
		}
		if err := turn.Page("pricing:GetProducts", out.NextToken); err != nil {
			return err
		}
	}
	return nil
}
