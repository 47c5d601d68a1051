package persistence

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	"nightshift.dev/pkg/errs"
)

func TestAccounts(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	in := &accountv1.Account{Id: "111122223333", Name: "prod", RoleArn: "arn:aws:iam::111122223333:role/r", ExternalId: "x", Regions: []string{"eu-west-1", "us-east-1"},
		Owner: "ops", Labels: map[string]string{"a": "b"}}
	created, err := s.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: in})
	if err != nil {
		t.Fatal(err)
	}
	a := created.GetAccount()
	if a.GetPartition() != "aws" || a.GetState() != accountv1.AccountState_ACCOUNT_STATE_ACTIVE || a.GetEtag() == "" || a.GetCreateTime() == nil || a.GetRegions()[1] != "us-east-1" {
		t.Errorf("created %v", a)
	}
	if _, err := s.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: in}); !errors.Is(err, errs.AlreadyExists) {
		t.Errorf("created twice: %v", err)
	}
	got, err := s.GetAccount(ctx, &accountv1.GetAccountRequest{Id: a.GetId()})
	if err != nil || !proto.Equal(got.GetAccount(), a) {
		t.Errorf("got %v, want %v (%v)", got, a, err)
	}

	update := &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: a.GetId(), Etag: a.GetEtag(), Name: "production", State: accountv1.AccountState_ACCOUNT_STATE_SUSPENDED},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"name", "state"}}}
	updated, err := s.UpdateAccount(ctx, update)
	if err != nil {
		t.Fatal(err)
	}
	if u := updated.GetAccount(); u.GetName() != "production" || u.GetOwner() != "ops" || u.GetState() != accountv1.AccountState_ACCOUNT_STATE_SUSPENDED || u.GetEtag() == a.GetEtag() {
		t.Errorf("updated %v", u)
	}
	if _, err := s.UpdateAccount(ctx, update); !errors.Is(err, errs.Aborted) {
		t.Errorf("a stale etag: %v", err)
	}
	update.Account.Etag = ""
	update.UpdateMask.Paths = []string{"create_time"}
	if _, err := s.UpdateAccount(ctx, update); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("a mask that cannot be: %v", err)
	}
	update.UpdateMask = nil
	if u, err := s.UpdateAccount(ctx, update); err != nil || u.GetAccount().GetOwner() != "" || len(u.GetAccount().GetRegions()) != 0 {
		t.Errorf("without a mask: %v, %v", u, err)
	}
	update.Account.Name = "a\x00b"
	if _, err := s.UpdateAccount(ctx, update); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("a name with NUL: %v", err)
	}

	for i := range 5 {
		if _, err := s.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: fmt.Sprintf("%012d", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	req, ids := &accountv1.ListAccountsRequest{PageSize: 2, Filter: `state = "ACTIVE"`}, []string{}
	for {
		resp, err := s.ListAccounts(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range resp.GetAccounts() {
			ids = append(ids, a.GetId())
		}
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if fmt.Sprint(ids) != "[000000000000 000000000001 000000000002 000000000003 000000000004]" {
		t.Errorf("active accounts %v", ids)
	}

	if _, err := s.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: a.GetId(), Etag: a.GetEtag()}); !errors.Is(err, errs.Aborted) {
		t.Errorf("deleting with a stale etag: %v", err)
	}
	if _, err := s.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: a.GetId()}); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		second(s.GetAccount(ctx, &accountv1.GetAccountRequest{Id: a.GetId()})),
		second(s.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: a.GetId()})),
		second(s.UpdateAccount(ctx, &accountv1.UpdateAccountRequest{Account: a})),
	} {
		if !errors.Is(err, errs.NotFound) {
			t.Errorf("an account that is gone: %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
