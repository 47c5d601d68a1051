package persistence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	"nightshift.dev/pkg/audit"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/page"
)

const (
	// auditMessages is how many records are chained in one transaction.
	auditMessages = 200
	// auditPage bounds the payloads of a page, in bytes: an answer holds each
	// twice.
	auditPage = 512 << 10
)

// auditEntry is a row of the audit log.
type auditEntry struct {
	bun.BaseModel `bun:"table:audit_entries,alias:e"`

	Sequence int64  `bun:",pk"`
	Payload  []byte `bun:""`
	Hash     []byte `bun:""`
	auditIndex
}

// auditIndex is what entries are found by.
type auditIndex struct {
	Time          time.Time             `bun:""`
	CallID        string                `bun:""`
	Phase         auditv1.Phase         `bun:""`
	PrincipalKind auditv1.PrincipalKind `bun:""`
	Principal     string                `bun:""`
	PrincipalID   string                `bun:""`
	Service       string                `bun:""`
	Method        string                `bun:""`
	Code          int32                 `bun:""`
	Reason        string                `bun:""`
}

func auditIndexOf(r *auditv1.Record) auditIndex {
	p := r.GetPrincipal()
	return auditIndex{
		Time: micros(r.GetTime().AsTime()), CallID: clean(r.GetCallId()), Phase: r.GetPhase(), PrincipalKind: p.GetKind(), Principal: clean(p.GetName()),
		PrincipalID: clean(p.GetId()), Service: clean(r.GetService()), Method: clean(r.GetMethod()), Code: r.GetCode(), Reason: clean(r.GetReason()),
	}
}

// show puts into a record what the log says where that is not what the record
// says, so that whoever compares the record with its payload sees it.
func (have auditIndex) show(r *auditv1.Record) {
	want := auditIndexOf(r)
	if !have.Time.Equal(want.Time) {
		r.Time = timestamppb.New(have.Time)
	}
	if have.CallID != want.CallID {
		r.CallId = have.CallID
	}
	if have.Phase != want.Phase {
		r.Phase = have.Phase
	}
	if have.Service != want.Service {
		r.Service = have.Service
	}
	if have.Method != want.Method {
		r.Method = have.Method
	}
	if have.Code != want.Code {
		r.Code = have.Code
	}
	if have.Reason != want.Reason {
		r.Reason = have.Reason
	}
	if have.PrincipalKind == want.PrincipalKind && have.Principal == want.Principal && have.PrincipalID == want.PrincipalID {
		return
	}
	if r.Principal == nil {
		r.Principal = &auditv1.Principal{}
	}
	r.Principal.Kind, r.Principal.Name, r.Principal.Id = have.PrincipalKind, have.Principal, have.PrincipalID
}

// onAuditRecorded puts records into the chain, each phase of a call once.
func (s *Service) onAuditRecorded(ctx context.Context, batch []*bus.Message[*auditv1.AuditRecorded]) []error {
	verdicts := make([]error, len(batch))
	var records []*auditv1.Record
	for i, m := range batch {
		r := m.Body.GetRecord()
		if err := auditable(r, m.Subject); err != nil {
			verdicts[i] = bus.Drop(err)
			continue
		}
		records = append(records, r)
	}
	if err := s.chain(ctx, records); err != nil {
		for i := range verdicts {
			if verdicts[i] == nil {
				verdicts[i] = verdict(err)
			}
		}
	}
	return verdicts
}

// auditSubject is where a service publishes its records, and no other's: the
// server holds it to that.
const auditSubject = "nightshift.audit.v1.AuditRecorded."

func auditable(r *auditv1.Record, subject string) error {
	switch {
	case r.GetCallId() == "" || r.GetService() == "" || !r.GetTime().IsValid():
		return errors.New("the record has no call, service or time")
	case r.GetPhase() < auditv1.Phase_PHASE_ATTEMPTED || r.GetPhase() > auditv1.Phase_PHASE_DENIED:
		return fmt.Errorf("the record has phase %d, which there is not", r.GetPhase())
	case subject != auditSubject+r.GetService():
		return fmt.Errorf("the record says that it is of service %q, and comes by %s", r.GetService(), subject)
	}
	return nil
}

// chain appends records to the audit log.
func (s *Service) chain(ctx context.Context, records []*auditv1.Record) error {
	if len(records) == 0 {
		return nil
	}
	return s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		// One at a time: what is the last entry is known until the transaction ends.
		if _, err := tx.NewRaw("SELECT pg_advisory_xact_lock(?)", auditLock).Exec(ctx); err != nil {
			return err
		}
		head, err := auditHead(ctx, tx)
		if err != nil {
			return err
		}
		type key struct {
			CallID string
			Phase  auditv1.Phase
		}
		calls := make([]string, len(records))
		for i, r := range records {
			calls[i] = clean(r.GetCallId())
		}
		var have []key
		if err := tx.NewRaw("SELECT call_id, phase FROM audit_entries WHERE call_id = ANY(?)", pgdialect.Array(calls)).Scan(ctx, &have); err != nil {
			return err
		}
		var rows []*auditEntry
		for _, r := range records {
			row := &auditEntry{Sequence: head.Sequence + 1, auditIndex: auditIndexOf(r)}
			if k := (key{row.CallID, row.Phase}); slices.Contains(have, k) {
				continue
			} else {
				have = append(have, k)
			}
			if row.Payload, err = audit.Encode(r); err != nil {
				return err
			}
			row.Hash = audit.Hash(row.Sequence, head.Hash, row.Payload)
			rows, head = append(rows, row), audit.Head{Sequence: row.Sequence, Hash: row.Hash}
		}
		if len(rows) == 0 {
			return nil
		}
		_, err = tx.NewInsert().Model(&rows).Exec(ctx)
		return err
	})
}

// auditHead is where the audit log ends.
func auditHead(ctx context.Context, db bun.IDB) (audit.Head, error) {
	head := audit.Head{Hash: make([]byte, audit.HashSize)}
	var rows []*auditEntry
	err := db.NewSelect().Model(&rows).Column("sequence", "hash").Order("sequence DESC").Limit(1).Scan(ctx)
	if err == nil && len(rows) > 0 {
		head = audit.Head{Sequence: rows[0].Sequence, Hash: rows[0].Hash}
	}
	return head, fault(err)
}

// auditFields are what entries can be filtered by.
var auditFields = fields{
	"sequence":       {column: "e.sequence", kind: kindInteger},
	"time":           {column: "e.time", kind: kindTime},
	"call_id":        {column: "e.call_id", kind: kindText},
	"phase":          {column: "e.phase", kind: kindEnum, values: enumValues(auditv1.Phase(0))},
	"principal":      {column: "e.principal", kind: kindText},
	"principal_id":   {column: "e.principal_id", kind: kindText},
	"principal_kind": {column: "e.principal_kind", kind: kindEnum, values: enumValues(auditv1.PrincipalKind(0))},
	"service":        {column: "e.service", kind: kindText},
	"method":         {column: "e.method", kind: kindText},
	"code":           {column: "e.code", kind: kindInteger},
	"reason":         {column: "e.reason", kind: kindText},
}

// ListAuditEntries implements AuditService.
func (s *Service) ListAuditEntries(ctx context.Context, req *auditv1.ListAuditEntriesRequest) (*auditv1.ListAuditEntriesResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := auditFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	o := order[*auditEntry]{{expr: "e.sequence", desc: req.GetOrder() != auditv1.AuditOrder_AUDIT_ORDER_OLDEST_FIRST, key: intKey(func(e *auditEntry) int64 { return e.Sequence })}}
	bind := []string{"audit", fmt.Sprint(o[0].desc), req.GetFilter()}
	rows, next, err := list(ctx, o, req.GetPageToken(), page.Size(req.GetPageSize()), bind,
		func() *bun.SelectQuery { return where.apply(db.NewSelect().Model((*auditEntry)(nil))) })
	if err != nil {
		return nil, err
	}
	resp := &auditv1.ListAuditEntriesResponse{NextPageToken: next}
	size := 0
	for i, row := range rows {
		if size += len(row.Payload); size > auditPage && i > 0 {
			resp.NextPageToken = page.Token(o.place(rows[i-1]), bind...)
			break
		}
		resp.Entries = append(resp.Entries, row.proto())
	}
	return resp, nil
}

func (e *auditEntry) proto() *auditv1.Entry {
	out := &auditv1.Entry{Sequence: e.Sequence, Record: &auditv1.Record{}, Payload: e.Payload, Hash: e.Hash}
	if err := proto.Unmarshal(e.Payload, out.Record); err != nil {
		out.Record = &auditv1.Record{} // whoever verifies sees it
	}
	e.show(out.Record)
	return out
}

// GetAuditHead implements AuditService.
func (s *Service) GetAuditHead(ctx context.Context, _ *auditv1.GetAuditHeadRequest) (*auditv1.GetAuditHeadResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	head, err := auditHead(ctx, db)
	if err != nil {
		return nil, err
	}
	return &auditv1.GetAuditHeadResponse{Sequence: head.Sequence, Hash: head.Hash}, nil
}
