package main

import (
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/scan"
)

func (c *cli) pricesCommand() *cobra.Command {
	return group("prices", "Show list prices, and fetch those of more regions", c.pricesShow(), c.pricesUpdate())
}

// regionPrice is one line of a price list.
type regionPrice struct {
	region, source, date string
	price.Item
}

var priceColumns = []column[regionPrice]{
	{name: "region", head: "Region", text: func(p regionPrice) string { return p.region }},
	{name: "item", head: "Item", text: func(p regionPrice) string { return p.Name }},
	{name: "usd", head: "USD", text: func(p regionPrice) string { return strconv.FormatFloat(p.USD, 'f', -1, 64) }, number: true},
	{name: "unit", head: "a", text: func(p regionPrice) string { return p.Unit }},
	{name: "source", head: "Source", flex: 12, spare: 1, text: func(p regionPrice) string { return p.source }},
	{name: "date", head: "Date", text: func(p regionPrice) string { return p.date }},
}

func (c *cli) pricesShow() *cobra.Command {
	var region string
	cmd := &cobra.Command{
		Use: "show", Short: "Show the prices in force, with their source and date", Args: cobra.NoArgs,
		Long: `Shows the built-in price list, with the regions of the file that NIGHTSHIFT_PRICE_FILE names in the place of its own.
What is not in it is of unknown cost.`,
		Example: "  nightshift prices show --region us-east-1\n  NIGHTSHIFT_PRICE_FILE=prices.json nightshift prices show -o csv",
		RunE: func(*cobra.Command, []string) error {
			var cfg scan.Config
			if err := config.Load(&cfg, c.lookup); err != nil {
				return err
			}
			table, err := price.Load(cfg.PriceFile)
			if err != nil {
				return err
			}
			if region != "" && !slices.Contains(table.Regions(), region) {
				c.say("No price of %s is known.", clean(region))
			}
			p := newPrinter(c, func(p regionPrice) object {
				return object{{"region", p.region}, {"item", p.Name}, {"usd", p.USD}, {"unit", p.Unit}, {"source", p.source}, {"date", p.date}}
			}, priceColumns)
			for _, name := range table.Regions() {
				r := table.Region(name)
				for _, item := range r.Items() {
					if region == "" || region == name {
						if err := p.add(regionPrice{name, r.Source(), r.Date(), item}); err != nil {
							return err
						}
					}
				}
			}
			return p.close()
		},
	}
	cmd.Flags().StringVar(&region, "region", "", "only this region")
	return cmd
}

func (c *cli) pricesUpdate() *cobra.Command {
	var (
		regions []string
		out     string
	)
	cmd := &cobra.Command{
		Use: "update", Short: "Fetch regions' list prices from AWS into a price file", Args: cobra.NoArgs,
		Long: `Asks AWS's Pricing API, which needs pricing:GetProducts and costs nothing, and puts the regions into the price file, in
the place of those it has. What has no single clear price is left out, and so of unknown cost. Services and scans use
the file that NIGHTSHIFT_PRICE_FILE names.`,
		Example: "  nightshift prices update --regions eu-west-1,us-west-2 --out prices.json\n" +
			"  NIGHTSHIFT_PRICE_FILE=prices.json nightshift scan",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(regions) == 0 {
				return usage("--regions is missing: which regions' prices, such as eu-west-1,us-west-2")
			}
			for _, r := range regions {
				if !regionCode.MatchString(r) {
					return usage("--regions: %q is not a region code such as eu-west-1", r)
				}
			}
			var cfg scan.Config
			if err := config.Load(&cfg, c.lookup); err != nil {
				return err
			}
			ctx := cmd.Context()
			cloud, err := cfg.Cloud(ctx)
			if err != nil {
				return err
			}
			found := map[string]price.Region{}
			for _, name := range regions {
				offer := price.NewOffer(name)
				for _, q := range price.Queries(name) {
					if err := cloud.Products(ctx, q.Service, q.Attributes, offer.Add); err != nil {
						return err
					}
				}
				r, unclear, err := offer.Region()
				if err != nil {
					return err
				}
				for _, u := range unclear {
					c.say("%s: left out %s", name, clean(u))
				}
				found[name] = r
				c.say("%s: %s of %s", name, many(int64(len(r.Items())), "price", "prices"), r.Date())
			}
			return price.Update(out, found)
		},
	}
	cmd.Flags().StringSliceVar(&regions, "regions", nil, "regions whose prices to fetch")
	cmd.Flags().StringVar(&out, "out", "prices.json", "price file to put them into")
	return cmd
}
