package inventory

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/aws"
)

// filterValues is how many values one EC2 filter may hold.
const filterValues = 200

// stream reads pages until there are no more: more tells, next reads one and
// returns its token. Nothing is kept of a page. Errors are next's own.
func stream(ctx context.Context, action string, more func() bool, next func() (*string, error)) error {
	var turn aws.Turn
	for more() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		token, err := next()
		if err != nil {
			return err
		}
		if err := turn.Page(action, token); err != nil {
			return err
		}
	}
	return nil
}

// batches calls do for the distinct resources in groups of at most n, with
// their ids. A resource given twice is filled twice with one question. The
// error is the context's.
func batches[T any](ctx context.Context, rs []*T, n int, id func(*T) string, do func(ctx context.Context, ids []string, rs []*T)) error {
	byID := make(map[string][]*T, len(rs))
	for _, r := range rs {
		byID[id(r)] = append(byID[id(r)], r)
	}
	for ids := range slices.Chunk(unique(rs, id), n) {
		if ctx.Err() != nil {
			break
		}
		var of []*T
		for _, i := range ids {
			of = append(of, byID[i]...)
		}
		do(ctx, ids, of)
	}
	return context.Cause(ctx)
}

// unique returns the resources' ids in their order, each once.
func unique[T any](rs []*T, id func(*T) string) []string {
	seen := make(map[string]bool, len(rs))
	ids := make([]string, 0, len(rs))
	for _, r := range rs {
		if i := id(r); !seen[i] {
			seen[i] = true
			ids = append(ids, i)
		}
	}
	return ids
}

func filter(name string, values []string) []types.Filter {
	return []types.Filter{{Name: &name, Values: values}}
}

// val is what p points to, or nothing: AWS leaves out what it does not know.
func val[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

func tags(in []types.Tag) map[string]string {
	if len(in) == 0 {
		return nil
	}
	m := make(map[string]string, len(in))
	for _, t := range in {
		if t.Key != nil {
			m[*t.Key] = val(t.Value)
		}
	}
	return m
}

func groupIDs(in []types.GroupIdentifier) []string {
	var ids []string
	for _, g := range in {
		if id := val(g.GroupId); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}
