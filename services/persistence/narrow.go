package persistence

import (
	"context"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"go.einride.tech/aip/filtering"

	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/filter"
)

// only narrows a query to the accounts that the caller may see.
func only(ctx context.Context, column string, q *bun.SelectQuery) *bun.SelectQuery {
	if accounts := auth.From(ctx).Accounts; len(accounts) > 0 {
		q = q.Where(column+" = ANY(?)", pgdialect.Array(accounts))
	}
	return q
}

// actorOf is who does something, where somebody must be.
func actorOf(ctx context.Context, said string) (string, error) {
	actor := strings.TrimSpace(auth.Actor(ctx, said))
	if actor == "" {
		return "", errs.New(errs.InvalidArgument, "BAD_ACTOR", "nobody says who does it").Field("actor", "is empty; say who does it")
	}
	return actor, nil
}

// within tells whether an exemption is for findings of the caller's accounts
// alone.
func (x *exemption) within(p auth.Principal) bool {
	return len(p.Accounts) == 0 || x.where.within(p.Accounts)
}

// within tells whether what the predicate matches is for sure of one of these
// accounts.
func (p *predicate) within(accounts []string) bool {
	if p == nil {
		return false
	}
	some := func(f *filter.Filter) bool { return p.operand(f).within(accounts) }
	switch {
	case p.Op == filter.And:
		return slices.ContainsFunc(p.Operands, some)
	case p.Op == filter.Or:
		return !slices.ContainsFunc(p.Operands, func(f *filter.Filter) bool { return !some(f) })
	case p.Op == filtering.FunctionEquals && p.Name == "account":
		account, ok := p.Value.(string)
		return ok && slices.Contains(accounts, account)
	}
	return false
}
