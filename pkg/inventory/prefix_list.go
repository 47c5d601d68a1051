package inventory

import (
	"context"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

const (
	describePrefixLists = "ec2:DescribeManagedPrefixLists"
	prefixListEntries   = "ec2:GetManagedPrefixListEntries"
)

// PrefixList is a named list of address ranges. Lists do not nest.
type PrefixList struct {
	// ID such as pl-0abc; Name as its owner chose it.
	ID, Name string
	// AWS tells a list that AWS keeps of its own services' addresses; its
	// CIDRs are not read.
	AWS bool
	// Version is the one that was read; 0 where lists have none.
	Version int64
	// CIDRs are its entries, as AWS writes them.
	CIDRs []string
}

// sessionPrefixLists are the prefix lists that rules of a session mention.
type sessionPrefixLists struct{ lookup[PrefixList] }

// prefixLists reads prefix lists with their entries, each once in a session:
// one call for 200 lists, and one for every 100 entries of each. The facts are
// of the lists: one that cannot be read leaves the others alone.
func prefixLists(ctx context.Context, s *aws.Session, at time.Time, ids []string) map[string]rule.Fact[PrefixList] {
	return aws.Kept[sessionPrefixLists](s).get(ctx, describePrefixLists, at, ids, func(ctx context.Context, ids []string) (map[string]rule.Fact[PrefixList], error) {
		var lists []PrefixList
		// Asked for by filter: an unknown id given by name would refuse all.
		pages := ec2.NewDescribeManagedPrefixListsPaginator(s.EC2(), &ec2.DescribeManagedPrefixListsInput{
			MaxResults: new(int32(100)), Filters: filter("prefix-list-id", ids),
		})
		err := stream(ctx, describePrefixLists, pages.HasMorePages, func() (*string, error) {
			out, err := pages.NextPage(ctx)
			if err != nil {
				return nil, aws.Explain(err)
			}
			for _, l := range out.PrefixLists {
				lists = append(lists, PrefixList{
					ID: val(l.PrefixListId), Name: val(l.PrefixListName), AWS: strings.EqualFold(val(l.OwnerId), "AWS"), Version: val(l.Version),
				})
			}
			return out.NextToken, nil
		})
		facts := map[string]rule.Fact[PrefixList]{}
		for _, l := range lists {
			facts[l.ID] = rule.Known(l, describePrefixLists, at)
			if l.AWS {
				continue
			}
			cidrs, err := entries(ctx, s, l)
			if err != nil {
				facts[l.ID] = rule.Failed[PrefixList](prefixListEntries, err)
				continue
			}
			l.CIDRs = cidrs
			facts[l.ID] = rule.Known(l, prefixListEntries, at)
		}
		return facts, err
	})
}

// entries reads all entries of one version of a list, so that a change half-way
// does not mix two.
func entries(ctx context.Context, s *aws.Session, l PrefixList) ([]string, error) {
	in := &ec2.GetManagedPrefixListEntriesInput{PrefixListId: &l.ID, MaxResults: new(int32(100))}
	if l.Version > 0 {
		in.TargetVersion = &l.Version
	}
	var cidrs []string
	pages := ec2.NewGetManagedPrefixListEntriesPaginator(s.EC2(), in)
	err := stream(ctx, prefixListEntries, pages.HasMorePages, func() (*string, error) {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, aws.Explain(err)
		}
		for _, e := range out.Entries {
			cidrs = append(cidrs, val(e.Cidr))
		}
		return out.NextToken, nil
	})
	return cidrs, err
}
