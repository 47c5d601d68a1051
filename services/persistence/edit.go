package persistence

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

const (
	// tendPoll is how often findings are looked at whose acknowledgement may have
	// ended, or whose account has another owner.
	tendPoll = 15 * time.Second
	// editChunk is how many findings one transaction changes of those.
	editChunk = 1000
	// answersKept is how long the answer to a request is kept for when it comes again.
	answersKept = 24 * time.Hour
	// changesKept is how long it is remembered what a run did.
	changesKept = 30 * 24 * time.Hour
)

func storedAck(b []byte) (*findingv1.Acknowledgement, error) {
	if b == nil {
		return nil, nil
	}
	a := &findingv1.Acknowledgement{}
	return a, proto.Unmarshal(b, a)
}

// own sets who answers for the finding.
func (f *finding) own(accountOwner string) {
	f.Owner = cmp.Or(f.Assignee, f.ResourceOwner, accountOwner)
}

// accountOwners are the owners of the accounts of observations, by account.
func (tx *transaction) accountOwners(ctx context.Context, found []*observation) (map[string]string, error) {
	accounts := map[string]bool{}
	for _, o := range found {
		accounts[o.row.Account] = true
	}
	ids := make([]string, 0, len(accounts))
	for id := range accounts {
		ids = append(ids, id)
	}
	return tx.ownersOf(ctx, ids)
}

func (tx *transaction) ownersOf(ctx context.Context, accounts []string) (map[string]string, error) {
	var rows []struct{ ID, Owner string }
	if err := tx.NewRaw("SELECT id, owner FROM accounts WHERE owner <> '' AND id = ANY(?)", pgdialect.Array(accounts)).Scan(ctx, &rows); err != nil {
		return nil, err
	}
	owners := map[string]string{}
	for _, r := range rows {
		owners[r.ID] = r.Owner
	}
	return owners, nil
}

const editFindings = `
	UPDATE findings f SET ack = w.ack, ack_until = w.ack_until, assignee = w.assignee, owner = w.owner, state = w.state,
		exemption = w.exemption, exemption_id = w.exemption_id, reopen_count = w.reopen_count, revision = w.revision
	FROM written w WHERE f.id = w.id`

// edit has change look at findings, by id, under the locks of their scopes,
// and writes what people can change of those it returns. Whatever it changes
// it counts up the revision of. Findings that are not there are left out.
func (tx *transaction) edit(ctx context.Context, ids []string, change func(rows map[string]*finding, owners map[string]string) (changed []*finding, err error)) error {
	var places []struct{ ID, Service, Account, Region string }
	if err := tx.NewRaw("SELECT id, service, account, region FROM findings WHERE id = ANY(?)", pgdialect.Array(ids)).Scan(ctx, &places); err != nil {
		return err
	}
	var scopes []scopeKey
	var accounts []string
	for _, p := range places { // which never change
		k := scopeKey{"", p.Service, p.Account, p.Region}
		if !slices.Contains(scopes, k) {
			scopes = append(scopes, k)
		}
		if !slices.Contains(accounts, p.Account) {
			accounts = append(accounts, p.Account)
		}
	}
	if err := tx.lockScopes(ctx, scopes); err != nil {
		return err
	}
	owners, err := tx.ownersOf(ctx, accounts)
	if err != nil {
		return err
	}
	var rows []*finding
	if err := selectFindings(tx).Where("f.id = ANY(?)", pgdialect.Array(ids)).Order("f.id").Scan(ctx, &rows); err != nil {
		return err
	}
	byID := make(map[string]*finding, len(rows))
	for _, f := range rows {
		byID[f.ID] = f
	}
	changed, err := change(byID, owners)
	if err != nil || len(changed) == 0 {
		return err
	}
	if _, err := tx.NewRaw(createWritten).Exec(ctx); err != nil {
		return err
	}
	if err := tx.copyInto(ctx, "written", findingColumns, len(changed), func(i int) ([]any, error) { return changed[i].columns() }); err != nil {
		return err
	}
	_, err = tx.NewRaw(editFindings).Exec(ctx)
	return err
}

// said adds a transition that leaves the state as it is.
func (tx *transaction) said(f *finding, kind findingv1.TransitionKind, cause findingv1.Cause, t *findingv1.Transition) error {
	p, err := f.proto()
	if err != nil {
		return err
	}
	t.FindingId, t.Kind, t.Cause, t.Time, t.Actor = f.ID, kind, cause, timestamppb.New(tx.now), tx.actor
	t.FromState, t.ToState, t.FromSeverity, t.ToSeverity, t.FromCost, t.ToCost = f.State, f.State, f.Severity, f.Severity, p.GetMonthlyCost(), p.GetMonthlyCost()
	tx.changes = append(tx.changes, change{p, t})
	return nil
}

// BatchUpdateFindings implements FindingService.
func (s *Service) BatchUpdateFindings(ctx context.Context, req *findingv1.BatchUpdateFindingsRequest) (*findingv1.BatchUpdateFindingsResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	actor := strings.TrimSpace(auth.Actor(ctx, req.GetActor()))
	if err := s.checkBatch(req, actor); err != nil {
		return nil, err
	}
	resp := &findingv1.BatchUpdateFindingsResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		tx.actor, resp.Results = actor, nil // whatever an attempt before this one answered
		answered, err := tx.answered(ctx, req.GetRequestId(), req, resp)
		if err != nil || answered {
			return err
		}
		var ids []string
		for _, ref := range req.GetFindings() {
			ids = append(ids, ref.GetId())
		}
		var running []*exemption
		if req.GetAssign() != nil {
			if running, err = tx.runningExemptions(ctx); err != nil {
				return err
			}
		}
		err = tx.edit(ctx, ids, func(rows map[string]*finding, owners map[string]string) (changed []*finding, err error) {
			var was, is []*findingv1.Finding
			for _, id := range ids {
				if f := rows[id]; f != nil && auth.From(ctx).Sees(f.Account) && len(was) < auditedFindings {
					p, err := f.proto()
					if err != nil {
						return nil, err
					}
					was = append(was, p)
				}
			}
			app.Before(ctx, forAudit(was))
			for _, ref := range req.GetFindings() {
				f, result := rows[ref.GetId()], &findingv1.FindingResult{Id: ref.GetId()}
				if f != nil && !auth.From(ctx).Sees(f.Account) {
					f = nil // as if there were none
				}
				resp.Results = append(resp.Results, result)
				done, err := tx.update(f, ref, req, owners, running)
				if e := (*errs.Error)(nil); errors.As(err, &e) {
					result.Error = &findingv1.FindingError{Code: int32(codes.Code(e.Kind())), Reason: errs.Reason(err), Message: err.Error()}
					continue
				}
				if err != nil {
					return nil, err
				}
				if done {
					changed = append(changed, f)
				}
				if result.Finding, err = f.proto(); err != nil {
					return nil, err
				}
				result.Finding.Evidence = nil
				is = append(is, result.Finding)
			}
			app.After(ctx, forAudit(is))
			return changed, nil
		})
		if err != nil {
			return err
		}
		return tx.answer(ctx, req.GetRequestId(), resp)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// auditedFindings is how many findings of a batch the audit log shows.
const auditedFindings = 50

// forAudit is what people can change of findings.
func forAudit(findings []*findingv1.Finding) *findingv1.ListFindingsResponse {
	out := &findingv1.ListFindingsResponse{}
	for _, f := range findings[:min(len(findings), auditedFindings)] {
		out.Findings = append(out.Findings, &findingv1.Finding{Id: f.GetId(), State: f.GetState(), Owner: f.GetOwner(), Assignee: f.GetAssignee(), Acknowledgement: f.GetAcknowledgement(), Etag: f.GetEtag()})
	}
	return out
}

// checkBatch refuses what is wrong for all of the findings.
func (s *Service) checkBatch(req *findingv1.BatchUpdateFindingsRequest, actor string) error {
	bad := errs.New(errs.InvalidArgument, "BAD_UPDATE", "the findings cannot be updated")
	if n := len(req.GetFindings()); n == 0 || n > 1000 {
		return bad.Field("findings", "are %d; must be 1 to 1,000", n)
	}
	seen := map[string]bool{}
	for _, ref := range req.GetFindings() {
		if !findingID.MatchString(ref.GetId()) {
			return bad.Field("findings", "%q is no id of a finding, which is 32 hex digits", clean(ref.GetId()))
		}
		if seen[ref.GetId()] {
			return bad.Field("findings", "%s is named twice", ref.GetId())
		}
		seen[ref.GetId()] = true
	}
	if actor == "" {
		return bad.Field("actor", "is empty; say who does it")
	}
	switch a := req.GetAction().(type) {
	case nil:
		return bad.Field("action", "is missing; say what to do: acknowledge, unacknowledge, assign or comment")
	case *findingv1.BatchUpdateFindingsRequest_Acknowledge:
		if end := a.Acknowledge.GetExpireTime(); end != nil {
			switch t := timeOf(end); {
			case t == nil:
				return bad.Field("acknowledge.expire_time", "is no time")
			case !t.After(s.now()):
				return bad.Field("acknowledge.expire_time", "is %s, which is past; it must be in the future", t.Format(time.RFC3339))
			case t.After(s.now().Add(longestExemption)):
				return bad.Field("acknowledge.expire_time", "is %s; it must be within two years", t.Format(time.RFC3339))
			}
		}
	case *findingv1.BatchUpdateFindingsRequest_Comment:
		if strings.TrimSpace(a.Comment.GetText()) == "" {
			return bad.Field("comment.text", "is empty; say something")
		}
	}
	return nil
}

// update does to a finding what is asked for and says whether that changed it.
func (tx *transaction) update(f *finding, ref *findingv1.FindingRef, req *findingv1.BatchUpdateFindingsRequest, owners map[string]string, running []*exemption) (bool, error) {
	if f == nil {
		return false, errs.New(errs.NotFound, "FINDING_NOT_FOUND", "there is no finding %s", ref.GetId())
	}
	if etag := f.etag(); ref.GetEtag() != "" && ref.GetEtag() != etag {
		return false, errs.New(errs.Aborted, "STALE_ETAG", "finding %s has changed since it was read: its etag is %s now; read it again", f.ID, etag)
	}
	switch a := req.GetAction().(type) {
	case *findingv1.BatchUpdateFindingsRequest_Acknowledge:
		if f.State == findingv1.State_STATE_RESOLVED {
			return false, errs.New(errs.FailedPrecondition, "FINDING_RESOLVED", "finding %s is resolved: there is nothing to acknowledge", f.ID)
		}
		ack := &findingv1.Acknowledgement{By: tx.actor, Note: strings.TrimSpace(a.Acknowledge.GetNote()), Time: timestamppb.New(tx.now), ExpireTime: a.Acknowledge.GetExpireTime()}
		var err error
		if f.Ack, err = proto.Marshal(ack); err != nil {
			return false, err
		}
		f.AckUntil = timeOf(ack.GetExpireTime())
		f.Revision++
		return true, tx.said(f, findingv1.TransitionKind_TRANSITION_KIND_ACKNOWLEDGED, findingv1.Cause_CAUSE_USER, &findingv1.Transition{Reason: ack.GetNote(), Acknowledgement: ack})
	case *findingv1.BatchUpdateFindingsRequest_Unacknowledge:
		return tx.unacknowledge(f, findingv1.Cause_CAUSE_USER, "Its acknowledgement was taken back.")
	case *findingv1.BatchUpdateFindingsRequest_Assign:
		assignee := strings.TrimSpace(a.Assign.GetAssignee())
		if f.Assignee == assignee {
			return false, nil
		}
		from := f.Owner
		f.Assignee = assignee
		f.own(owners[f.Account])
		reason := "Assigned to " + assignee + "."
		if assignee == "" {
			reason = "Assigned to nobody."
			if f.Owner != "" {
				reason = "Given back to " + f.Owner + "."
			}
		}
		f.Revision++
		if err := tx.said(f, findingv1.TransitionKind_TRANSITION_KIND_ASSIGNED, findingv1.Cause_CAUSE_USER, &findingv1.Transition{Reason: reason, FromOwner: from, ToOwner: f.Owner}); err != nil {
			return false, err
		}
		_, err := tx.decideExemption(f, running, findingv1.Cause_CAUSE_USER)
		return true, err
	default:
		f.Revision++
		return true, tx.said(f, findingv1.TransitionKind_TRANSITION_KIND_COMMENTED, findingv1.Cause_CAUSE_USER, &findingv1.Transition{Reason: strings.TrimSpace(req.GetComment().GetText())})
	}
}

// unacknowledge ends an acknowledgement, if there is one.
func (tx *transaction) unacknowledge(f *finding, cause findingv1.Cause, reason string) (bool, error) {
	ended, err := storedAck(f.Ack)
	if err != nil || ended == nil {
		return false, err
	}
	f.Ack, f.AckUntil = nil, nil
	f.Revision++
	return true, tx.said(f, findingv1.TransitionKind_TRANSITION_KIND_UNACKNOWLEDGED, cause, &findingv1.Transition{Reason: reason, Acknowledgement: ended})
}

// answered says whether a request has been answered already, and then fills in
// the answer. If not, the caller goes on, and whoever comes with the same id
// meanwhile waits for it.
func (tx *transaction) answered(ctx context.Context, id string, req, resp proto.Message) (bool, error) {
	if id == "" {
		return false, nil
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return false, err
	}
	// Another caller does not get what this one was told.
	body = append(body, strings.Join(auth.From(ctx).Accounts, ",")...)
	digest := sha256.Sum256(body)
	r, err := tx.NewRaw("INSERT INTO finding_requests (id, time, digest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", id, tx.now, digest[:]).Exec(ctx)
	if err != nil {
		return false, err
	}
	if n, err := r.RowsAffected(); err != nil || n == 1 {
		return false, err
	}
	var before struct{ Digest, Response []byte }
	if err := tx.NewRaw("SELECT digest, response FROM finding_requests WHERE id = ?", id).Scan(ctx, &before); err != nil {
		return false, err
	}
	if !bytes.Equal(before.Digest, digest[:]) {
		return false, errs.New(errs.Aborted, "REQUEST_ID_USED", "request_id %s was used for another request; take a new one", id).
			Field("request_id", "was used for another request")
	}
	return true, proto.Unmarshal(before.Response, resp)
}

// answer keeps the answer for when the request comes again.
func (tx *transaction) answer(ctx context.Context, id string, resp proto.Message) error {
	if id == "" {
		return nil
	}
	body, err := proto.Marshal(resp)
	if err != nil {
		return err
	}
	_, err = tx.NewRaw("UPDATE finding_requests SET response = ? WHERE id = ?", body, id).Exec(ctx)
	return err
}

// tendFindings ends acknowledgements when their time has come, follows the
// owners of accounts and clears away, until ctx ends. All replicas do; of each
// finding it is one.
func (s *Service) tendFindings(ctx context.Context) {
	s.every(ctx, tendPoll, "tend findings", s.endAcknowledgements, s.followAccountOwners, s.clearAway)
}

// endAcknowledgements ends those whose time has come.
func (s *Service) endAcknowledgements(ctx context.Context) error {
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	for {
		var ids []string
		err := db.NewRaw("SELECT id FROM findings WHERE ack_until <= ? ORDER BY ack_until, id LIMIT ?", s.now().UTC(), editChunk).Scan(ctx, &ids)
		if err != nil || len(ids) == 0 {
			return fault(err)
		}
		err = s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
			return tx.edit(ctx, ids, func(rows map[string]*finding, _ map[string]string) (changed []*finding, err error) {
				for _, id := range ids {
					f := rows[id]
					if f == nil || f.AckUntil == nil || f.AckUntil.After(tx.now) {
						continue
					}
					if _, err := tx.unacknowledge(f, findingv1.Cause_CAUSE_ACKNOWLEDGEMENT_EXPIRED, "Its acknowledgement expired."); err != nil {
						return nil, err
					}
					changed = append(changed, f)
				}
				return changed, nil
			})
		})
		if err != nil {
			return err
		}
	}
}

// followAccountOwners gives findings that nobody else answers for to the owner
// their account has now.
func (s *Service) followAccountOwners(ctx context.Context) error {
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	var moved []struct{ Account, Owner string }
	err = db.NewRaw(`
		SELECT coalesce(a.id, o.account) AS account, coalesce(a.owner, '') AS owner
		FROM accounts a FULL JOIN account_owners o ON o.account = a.id
		WHERE coalesce(a.owner, '') <> coalesce(o.owner, '') ORDER BY 1`).Scan(ctx, &moved)
	if err != nil {
		return fault(err)
	}
	for _, m := range moved {
		for done := false; !done; {
			err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
				done = false
				var ids []string
				err := tx.NewRaw("SELECT id FROM findings WHERE account = ? AND assignee = '' AND resource_owner = '' AND owner <> ? LIMIT ?", m.Account, m.Owner, editChunk).Scan(ctx, &ids)
				if err != nil {
					return err
				}
				if len(ids) == 0 {
					done = true
					_, err := tx.NewRaw("INSERT INTO account_owners (account, owner) VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET owner = EXCLUDED.owner", m.Account, m.Owner).Exec(ctx)
					return err
				}
				running, err := tx.runningExemptions(ctx)
				if err != nil {
					return err
				}
				return tx.edit(ctx, ids, func(rows map[string]*finding, owners map[string]string) (changed []*finding, err error) {
					for _, f := range rows {
						if f.own(owners[f.Account]); f.Owner != m.Owner {
							// It has changed once more: the next round sees to it.
							done = true
							return nil, nil
						}
						f.Revision++
						if _, err := tx.decideExemption(f, running, findingv1.Cause_CAUSE_USER); err != nil {
							return nil, err
						}
						changed = append(changed, f)
					}
					return changed, nil
				})
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// clearAway removes what is remembered only for a while.
func (s *Service) clearAway(ctx context.Context) error {
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	now := s.now().UTC()
	for _, q := range []struct {
		sql  string
		args []any
	}{
		{"DELETE FROM finding_requests WHERE time < ?", []any{now.Add(-answersKept)}},
		{"DELETE FROM run_changes WHERE time < ?", []any{now.Add(-changesKept)}},
		{"DELETE FROM holds o WHERE time < ? AND NOT EXISTS (SELECT FROM held h WHERE h.run_id = o.run_id AND h.service = o.service AND h.account = o.account)", []any{now.Add(-changesKept)}},
		{"DELETE FROM finding_sums WHERE findings = 0 AND unpriced = 0 AND cost_low = 0 AND cost_high = 0", nil},
	} {
		if _, err := db.NewRaw(q.sql, q.args...).Exec(ctx); err != nil {
			return fault(err)
		}
	}
	return nil
}
