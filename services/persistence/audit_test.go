package persistence

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/audit"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
)

const (
	callAttempted = auditv1.Phase_PHASE_ATTEMPTED
	callSucceeded = auditv1.Phase_PHASE_SUCCEEDED
	callFailed    = auditv1.Phase_PHASE_FAILED
	callDenied    = auditv1.Phase_PHASE_DENIED
)

func auditRecord(call string, phase auditv1.Phase, set ...func(*auditv1.Record)) *auditv1.Record {
	r := &auditv1.Record{
		CallId: call, Phase: phase, Time: timestamppb.New(epoch.Add(123456789 * time.Nanosecond)), Service: "persistence", Method: "nightshift.x.v1.X/Change", Count: 1, Peer: "10.0.0.1:1",
		Principal: &auditv1.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: "ana", Id: "t1", Role: authv1.Role_ROLE_OPERATOR},
	}
	for _, f := range set {
		f(r)
	}
	return r
}

func auditMessage(r *auditv1.Record) *bus.Message[*auditv1.AuditRecorded] {
	return &bus.Message[*auditv1.AuditRecorded]{Body: &auditv1.AuditRecorded{Record: r}, Subject: auditSubject + r.GetService()}
}

func writeAudit(t testing.TB, s *Service, records ...*auditv1.Record) {
	t.Helper()
	var batch []*bus.Message[*auditv1.AuditRecorded]
	for _, r := range records {
		batch = append(batch, auditMessage(r))
	}
	for i, err := range s.onAuditRecorded(t.Context(), batch) {
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
}

// auditLog is the whole log, page by page.
func auditLog(t testing.TB, s *Service, req *auditv1.ListAuditEntriesRequest) (all []*auditv1.Entry) {
	t.Helper()
	for {
		resp, err := s.ListAuditEntries(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, resp.GetEntries()...)
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			return all
		}
	}
}

// verifyAudit says where the log breaks.
func verifyAudit(t testing.TB, s *Service, heads ...audit.Head) []string {
	t.Helper()
	v := audit.NewVerifier(audit.Head{}, heads...)
	var said []string
	for _, e := range auditLog(t, s, &auditv1.ListAuditEntriesRequest{PageSize: 7, Order: auditv1.AuditOrder_AUDIT_ORDER_OLDEST_FIRST}) {
		for _, b := range v.Next(e) {
			said = append(said, b.String())
		}
	}
	for _, b := range v.End() {
		said = append(said, b.String())
	}
	return said
}

func headOf(t testing.TB, s *Service) audit.Head {
	t.Helper()
	resp, err := s.GetAuditHead(t.Context(), &auditv1.GetAuditHeadRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return audit.Head{Sequence: resp.GetSequence(), Hash: resp.GetHash()}
}

func TestAuditLog(t *testing.T) {
	t.Parallel()
	s := service(t)
	if h := headOf(t, s); h.Sequence != 0 || len(h.Hash) != audit.HashSize {
		t.Errorf("the head of nothing is %v", h)
	}
	nasty := "a\x00b\u202e'; DROP TABLE audit_entries; --"
	records := []*auditv1.Record{
		auditRecord("c1", callAttempted), auditRecord("c1", callSucceeded, func(r *auditv1.Record) { r.Before, r.After = `{"a":1}`, `{"a":2}` }),
		auditRecord("c2", callDenied, func(r *auditv1.Record) { r.Method, r.Reason, r.Code = nasty, "NO_SUCH_METHOD", 12; r.Principal = nil }),
		auditRecord("c3", callAttempted, func(r *auditv1.Record) { r.Request = strings.Repeat("x", 16<<10); r.Principal.Name = "bob" }),
	}
	writeAudit(t, s, records...)
	writeAudit(t, s, records[1:3]...) // come again
	writeAudit(t, s, records[0], auditRecord("c3", callFailed, func(r *auditv1.Record) { r.Principal.Name = "bob" }))
	all := auditLog(t, s, &auditv1.ListAuditEntriesRequest{Order: auditv1.AuditOrder_AUDIT_ORDER_OLDEST_FIRST})
	if len(all) != 5 || !proto.Equal(all[2].GetRecord(), records[2]) {
		t.Errorf("the log is %v", all)
	}
	if said := verifyAudit(t, s, headOf(t, s), audit.Head{Sequence: 2, Hash: all[1].GetHash()}); len(said) > 0 {
		t.Error(said)
	}
	for filter, want := range map[string]string{
		``:                  "5 4 3 2 1",
		`phase = DENIED`:    "3",
		`principal = "bob"`: "5 4",
		`call_id = "c1"`:    "2 1",
		`principal_kind = TOKEN AND sequence < 4`: "2 1",
		`method : "DROP TABLE"`:                   "3",
		`code = 12 AND reason = "NO_SUCH_METHOD"`: "3",
		`time > "2025-01-01T00:00:00Z" AND service = "persistence" AND principal_id = "t1" AND NOT phase = ATTEMPTED`: "5 2",
	} {
		var got []string
		for _, e := range auditLog(t, s, &auditv1.ListAuditEntriesRequest{Filter: filter, PageSize: 2}) {
			got = append(got, fmt.Sprint(e.GetSequence()))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", filter, got, want)
		}
	}
	for name, m := range map[string]*bus.Message[*auditv1.AuditRecorded]{
		"nothing":         auditMessage(nil),
		"no phase":        auditMessage(auditRecord("c9", 0)),
		"phase 9":         auditMessage(auditRecord("c9", 9)),
		"another service": {Body: &auditv1.AuditRecorded{Record: auditRecord("c9", callAttempted)}, Subject: auditSubject + "waste"},
	} {
		if err := s.onAuditRecorded(t.Context(), []*bus.Message[*auditv1.AuditRecorded]{m})[0]; err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	for name, req := range map[string]*auditv1.ListAuditEntriesRequest{"filter": {Filter: "nonsense = 1"}, "page_token": {PageToken: "x"}} {
		if _, err := s.ListAuditEntries(t.Context(), req); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A page stays small enough for any client, whatever is in the log.
func TestAuditPagesAreBounded(t *testing.T) {
	t.Parallel()
	s := service(t)
	long := strings.Repeat("x", 16<<10)
	var records []*auditv1.Record
	for n := range 60 {
		records = append(records, auditRecord(fmt.Sprint("c", n), callFailed, func(r *auditv1.Record) { r.Request, r.Before, r.After = long, long, long }))
	}
	writeAudit(t, s, records...)
	req := &auditv1.ListAuditEntriesRequest{PageSize: 1000}
	resp, err := s.ListAuditEntries(t.Context(), req)
	if err != nil || proto.Size(resp) > 2<<20 || resp.GetNextPageToken() == "" {
		t.Errorf("a page has %d bytes (%v)", proto.Size(resp), err)
	}
	if got := len(auditLog(t, s, req)); got != 60 {
		t.Errorf("%d entries", got)
	}
}

// Whatever is done to the table by somebody who may do everything is found,
// and at its place.
func TestAuditTampering(t *testing.T) {
	t.Parallel()
	rehash := func(ctx context.Context, db *pgx.Conn, from int64) error {
		rows, err := db.Query(ctx, "SELECT sequence, payload, (SELECT hash FROM audit_entries p WHERE p.sequence = e.sequence - 1) FROM audit_entries e WHERE sequence >= $1 ORDER BY sequence", from)
		if err != nil {
			return err
		}
		type row struct {
			Sequence      int64
			Payload, Hash []byte
		}
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
		if err != nil {
			return err
		}
		before := all[0].Hash
		for _, r := range all {
			before = audit.Hash(r.Sequence, before, r.Payload)
			if _, err := db.Exec(ctx, "UPDATE audit_entries SET hash = $2 WHERE sequence = $1", r.Sequence, before); err != nil {
				return err
			}
		}
		return nil
	}
	other, err := audit.Encode(auditRecord("c7", callAttempted, func(r *auditv1.Record) { r.Principal.Name = "nobody" }))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		do   func(ctx context.Context, db *pgx.Conn) error
		want []string // beginnings, without a head of the log as it was
		with []string // with one
	}{
		"changed payload": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				_, err := db.Exec(ctx, "UPDATE audit_entries SET payload = $1 WHERE sequence = 7", other)
				return err
			},
			want: []string{"entry 7: its hash is not", "entry 7: what is shown, and found by, is not what was hashed: principal"},
		},
		"changed column": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				_, err := db.Exec(ctx, "UPDATE audit_entries SET principal = 'nobody', time = time - interval '1 day' WHERE sequence = 7")
				return err
			},
			want: []string{"entry 7: what is shown, and found by, is not what was hashed: time, principal"},
		},
		"changed hash": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				_, err := db.Exec(ctx, "UPDATE audit_entries SET hash = sha256('') WHERE sequence = 7")
				return err
			},
			want: []string{"entry 7: its hash is not", "entry 8: its hash is not"},
		},
		"deleted row": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				_, err := db.Exec(ctx, "DELETE FROM audit_entries WHERE sequence = 7")
				return err
			},
			want: []string{"entry 7: is missing"},
		},
		"deleted and moved up": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				_, err := db.Exec(ctx, "DELETE FROM audit_entries WHERE sequence = 7; UPDATE audit_entries SET sequence = sequence - 1 WHERE sequence = 8")
				return err
			},
			want: []string{"entry 7: its hash is not", "entry 8: is missing"},
		},
		"first rows deleted": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				_, err := db.Exec(ctx, "DELETE FROM audit_entries WHERE sequence < 4")
				return err
			},
			want: []string{"entry 1: is missing, and all to entry 3"},
		},
		"swapped rows": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				_, err := db.Exec(ctx, "UPDATE audit_entries SET sequence = 100 WHERE sequence = 5; UPDATE audit_entries SET sequence = 5 WHERE sequence = 7; UPDATE audit_entries SET sequence = 7 WHERE sequence = 100")
				return err
			},
			want: []string{"entry 5: its hash is not", "entry 6: its hash is not", "entry 7: its hash is not", "entry 8: its hash is not"},
		},
		"truncated tail": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				_, err := db.Exec(ctx, "DELETE FROM audit_entries WHERE sequence > 17")
				return err
			},
			with: []string{"entry 18: is missing, and all to entry 20: the log reached 20:"},
		},
		"everything gone": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				_, err := db.Exec(ctx, "TRUNCATE audit_entries")
				return err
			},
			with: []string{"entry 1: is missing, and all to entry 20: the log reached 20:"},
		},
		"forged from a row on": {
			do: func(ctx context.Context, db *pgx.Conn) error {
				if _, err := db.Exec(ctx, "UPDATE audit_entries SET payload = $1, principal = 'nobody' WHERE sequence = 7", other); err != nil {
					return err
				}
				return rehash(ctx, db, 7)
			},
			with: []string{"entry 20: its hash was"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			dsn := devtest.DB(t, migrated)
			s, _ := replica(t, dsn)
			var records []*auditv1.Record
			for n := range 20 {
				records = append(records, auditRecord(fmt.Sprint("c", n+1), callAttempted))
			}
			writeAudit(t, s, records...)
			head := headOf(t, s)
			if said := verifyAudit(t, s, head); len(said) > 0 {
				t.Fatal(said)
			}
			db, err := pgx.Connect(ctx, dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close(ctx)
			if err := c.do(ctx, db); err == nil || !strings.Contains(err.Error(), "append-only") {
				t.Fatalf("the trigger let it through: %v", err)
			}
			if _, err := db.Exec(ctx, "ALTER TABLE audit_entries DISABLE TRIGGER USER"); err != nil {
				t.Fatal(err)
			}
			if err := c.do(ctx, db); err != nil {
				t.Fatal(err)
			}
			check := func(what string, want, got []string) {
				if len(want) != len(got) {
					t.Errorf("%s: found %q, want %q", what, got, want)
					return
				}
				for i := range want {
					if !strings.HasPrefix(got[i], want[i]) {
						t.Errorf("%s: found %q, want %q", what, got[i], want[i])
					}
				}
			}
			check("without a head", c.want, verifyAudit(t, s))
			check("with a head", slices.Concat(c.want, c.with), verifyAudit(t, s, head))
		})
	}
}

// Two replicas take what comes twice, late, in any order and at once, and are
// cut off in the middle: the chain holds, and each phase of each call is in it
// once.
func TestAuditChainProperty(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	replicas := make([]*Service, 2)
	for i := range replicas {
		replicas[i], _ = replica(t, dsn)
	}
	rapid.Check(t, func(rt *rapid.T) {
		before := headOf(t, replicas[0])
		want := map[string]bool{}
		var records []*auditv1.Record
		for n := range rapid.IntRange(1, 25).Draw(rt, "calls") {
			call := fmt.Sprint("c", before.Sequence, ".", n)
			for _, phase := range rapid.SampledFrom([][]auditv1.Phase{{callAttempted, callSucceeded}, {callAttempted, callFailed}, {callAttempted}, {callFailed}, {callDenied}}).Draw(rt, call) {
				records = append(records, auditRecord(call, phase))
				want[call+phase.String()] = true
			}
		}
		type delivery struct {
			replica int
			cutOff  time.Duration
			records []*auditv1.Record
		}
		var deliveries []delivery
		deal := func(records []*auditv1.Record, cutOffs ...time.Duration) {
			records = rapid.Permutation(records).Draw(rt, "order")
			for len(records) > 0 {
				n := rapid.IntRange(1, len(records)).Draw(rt, "batch")
				deliveries = append(deliveries, delivery{rapid.IntRange(0, 1).Draw(rt, "replica"), rapid.SampledFrom(cutOffs).Draw(rt, "cut off"), records[:n]})
				records = records[n:]
			}
		}
		deal(records, 0, 500*time.Microsecond, 2*time.Millisecond)
		deal(records, 0)
		var at sync.WaitGroup
		for _, d := range deliveries {
			at.Go(func() {
				ctx := t.Context()
				if d.cutOff > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, d.cutOff)
					defer cancel()
				}
				var batch []*bus.Message[*auditv1.AuditRecorded]
				for _, r := range d.records {
					batch = append(batch, auditMessage(r))
				}
				for _, err := range replicas[d.replica].onAuditRecorded(ctx, batch) {
					if err != nil && d.cutOff == 0 {
						t.Error(err)
					}
				}
			})
		}
		at.Wait()
		v := audit.NewVerifier(before)
		for _, e := range auditLog(t, replicas[0], &auditv1.ListAuditEntriesRequest{Filter: fmt.Sprint("sequence > ", before.Sequence), Order: auditv1.AuditOrder_AUDIT_ORDER_OLDEST_FIRST}) {
			for _, b := range v.Next(e) {
				rt.Error(b)
			}
			key := e.GetRecord().GetCallId() + e.GetRecord().GetPhase().String()
			if !want[key] {
				rt.Errorf("%s is there, and is not wanted, or twice", key)
			}
			delete(want, key)
		}
		if len(want) > 0 {
			rt.Errorf("%v are missing", want)
		}
	})
}
