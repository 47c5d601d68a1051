package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/audit"
)

// auditServer is a log that a test can tamper with. Its filters know call ids
// and a least sequence.
type auditServer struct {
	auditv1.UnimplementedAuditServiceServer
	entries []*auditv1.Entry
}

func (s *auditServer) write(r *auditv1.Record) {
	if r.Principal == nil {
		r.Principal = &auditv1.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: hostile, Id: "t1", Role: authv1.Role_ROLE_OPERATOR}
	}
	r.Time, r.Service, r.Method, r.Peer, r.UserAgent = at, "persistence", "nightshift.exemption.v1.ExemptionService/UpdateExemption", "10.0.3.7:51234", hostile
	if r.Count == 0 {
		r.Count = 1
	}
	payload, _ := audit.Encode(r)
	e := &auditv1.Entry{Sequence: int64(len(s.entries) + 1), Record: r, Payload: payload}
	var before []byte
	if len(s.entries) > 0 {
		before = s.entries[len(s.entries)-1].GetHash()
	}
	e.Hash = audit.Hash(e.GetSequence(), before, payload)
	s.entries = append(s.entries, e)
}

func (s *auditServer) ListAuditEntries(_ context.Context, r *auditv1.ListAuditEntriesRequest) (*auditv1.ListAuditEntriesResponse, error) {
	var found []*auditv1.Entry
	for _, e := range s.entries {
		var from int64
		_, _ = fmt.Sscanf(r.GetFilter(), "sequence >= %d", &from)
		if strings.HasPrefix(r.GetFilter(), "call_id") && !strings.Contains(r.GetFilter(), `"`+e.GetRecord().GetCallId()+`"`) || e.GetSequence() < from ||
			r.GetFilter() == "phase = DENIED" && e.GetRecord().GetPhase() != auditv1.Phase_PHASE_DENIED || r.GetFilter() == "(phase = FAILED)" && e.GetRecord().GetPhase() != auditv1.Phase_PHASE_FAILED {
			continue
		}
		found = append(found, e)
	}
	if r.GetOrder() != auditv1.AuditOrder_AUDIT_ORDER_OLDEST_FIRST {
		slices.Reverse(found)
	}
	// Three a page.
	n := len(r.GetPageToken())
	resp := &auditv1.ListAuditEntriesResponse{Entries: found[min(n, len(found)):min(n+3, len(found))]}
	if n+3 < len(found) {
		resp.NextPageToken = strings.Repeat("x", n+3)
	}
	return resp, nil
}

func (s *auditServer) GetAuditHead(context.Context, *auditv1.GetAuditHeadRequest) (*auditv1.GetAuditHeadResponse, error) {
	last := s.entries[len(s.entries)-1]
	return &auditv1.GetAuditHeadResponse{Sequence: last.GetSequence(), Hash: last.GetHash()}, nil
}

func serveAudit(t *testing.T) (*auditServer, map[string]string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, a := grpc.NewServer(), &auditServer{}
	auditv1.RegisterAuditServiceServer(s, a)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	a.write(&auditv1.Record{CallId: "CALL1", Phase: auditv1.Phase_PHASE_ATTEMPTED, Request: `{"x":1}`})
	a.write(&auditv1.Record{CallId: "CALL2", Phase: auditv1.Phase_PHASE_ATTEMPTED})
	a.write(&auditv1.Record{CallId: "CALL1", Phase: auditv1.Phase_PHASE_SUCCEEDED, Before: `{"by":"ana","tags":["a","b"],"gone":true}`, After: `{"by":"ana","tags":["a","c"],"new":{"x":1}}`})
	a.write(&auditv1.Record{CallId: "CALL3", Phase: auditv1.Phase_PHASE_DENIED, Reason: "ROLE_TOO_LOW", Count: 41, Principal: &auditv1.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS}})
	a.write(&auditv1.Record{CallId: "CALL4", Phase: auditv1.Phase_PHASE_FAILED, Reason: "CONFLICT", Before: `{"cut`, After: "", ChangeTruncated: true})
	a.write(&auditv1.Record{CallId: "CALL4", Phase: auditv1.Phase_PHASE_ATTEMPTED, Principal: &auditv1.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_SERVICE, Name: "cleanup"}})
	return a, map[string]string{"NIGHTSHIFT_PERSISTENCE_ADDR": l.Addr().String()}
}

func TestAuditList(t *testing.T) {
	t.Parallel()
	_, env := serveAudit(t)
	r := execute(t, env, "audit", "list")
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	want := []string{"UpdateExemption of ExemptionService  failed CONFLICT", "nobody known", "done", "outcome unknown"}
	if r.code != 0 || len(lines) != 2+len(want) {
		t.Fatalf("code %d\n%s%s", r.code, r.out, r.err)
	}
	for i, w := range want {
		if !strings.Contains(strings.Join(strings.Fields(lines[2+i]), " "), strings.Join(strings.Fields(w), " ")) {
			t.Errorf("line %q, want %q", lines[2+i], w)
		}
	}
	if !strings.Contains(lines[3], "denied ROLE_TOO_LOW") || !strings.Contains(lines[3], "denied ROLE_TOO_LOW, 41 times") || !strings.Contains(lines[3], "10.0.3.7 ") {
		t.Errorf("a denial is %q", lines[3])
	}
	if strings.ContainsFunc(r.out, func(r rune) bool { return dangerous(r) && r != '\n' }) {
		t.Errorf("the table is dangerous: %q", r.out)
	}
	// One half alone is let through, or is shown; the other is looked for.
	if r := execute(t, env, "audit", "list", "--filter", "phase = FAILED"); !strings.Contains(r.out, "service cleanup") {
		t.Errorf("%s%s", r.out, r.err)
	}
	if r := execute(t, env, "audit", "list", "--limit", "1", "-o", "csv"); strings.Count(r.out, "\n") != 2 || !strings.Contains(r.err, "--limit 0") {
		t.Errorf("%s%s", r.out, r.err)
	}
	if r := execute(t, env, "audit", "list", "--denied"); strings.Count(r.out, "\n") != 3 {
		t.Errorf("%s%s", r.out, r.err)
	}
	var entries []map[string]any
	r = execute(t, env, "audit", "list", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &entries); err != nil || len(entries) != 6 || entries[0]["sequence"] != 6.0 || entries[5]["call_id"] != "CALL1" || entries[5]["phase"] != "ATTEMPTED" || len(entries[5]["hash"].(string)) != 64 {
		t.Errorf("%v\n%s", err, r.out)
	}
}

func TestAuditShow(t *testing.T) {
	t.Parallel()
	_, env := serveAudit(t)
	r := execute(t, env, "audit", "show", "CALL1")
	for _, want := range []string{"outcome", "done", "2026-09-01 12:30:00", "operator (t1)", "10.0.3.7:51234", "1 attempted, 3 succeeded", `{"x":1}`, "- gone: true", `+ new.x: 1`, `- tags[1]: "b"`, `+ tags[1]: "c"`} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%q is missing in\n%s", want, r.out)
		}
	}
	if strings.Contains(r.out, "by:") || strings.ContainsFunc(r.out, func(r rune) bool { return dangerous(r) && r != '\n' }) {
		t.Errorf("%q", r.out)
	}
	if r := execute(t, env, "audit", "show", "CALL4"); !strings.Contains(r.out, `{"cut`) || !strings.Contains(r.out, "cut off") {
		t.Errorf("%s%s", r.out, r.err)
	}
	if r := execute(t, env, "audit", "show", "NONE"); r.code != 1 || !strings.Contains(r.err, "no call NONE") {
		t.Errorf("%d %s", r.code, r.err)
	}
	if r := execute(t, env, "audit", "show", "CALL1", "-o", "csv"); r.code != 0 || strings.Count(r.out, "\n") != 3 {
		t.Errorf("%s%s", r.out, r.err)
	}
}

func TestAuditVerify(t *testing.T) {
	t.Parallel()
	_, env := serveAudit(t)
	head := strings.TrimSpace(execute(t, env, "audit", "head").out)
	for name, c := range map[string]struct {
		args   []string
		tamper func(s *auditServer)
		code   int
		says   string
	}{
		"well":           {says: "intact: 6 entries, from 1 to 6"},
		"well with head": {args: []string{"--head", head}, says: "head    " + head},
		"from":           {args: []string{"--from", "4", "--head", head}, says: "3 entries, from 4 to 6"},
		"from the end":   {args: []string{"--from", "7", "--head", head}, says: "0 entries"},
		"beyond":         {args: []string{"--from", "9"}, code: 2, says: "beyond the end"},
		"no head":        {args: []string{"--head", "6:abc"}, code: 2, says: "no place and hash"},
		"head before":    {args: []string{"--head", head, "--from", "8"}, code: 2, says: "would not be looked at"},
		"no place":       {args: []string{"--from", "0"}, code: 2, says: "begin with 1"},
		"changed": {tamper: func(s *auditServer) {
			s.entries[2].Payload, s.entries[2].Record = s.entries[1].Payload, s.entries[1].Record
		}, code: 1,
			says: "the first at entry 3"},
		"shown otherwise": {tamper: func(s *auditServer) { s.entries[2].Record = s.entries[1].Record }, code: 1, says: "call_id, phase"},
		"missing":         {tamper: func(s *auditServer) { s.entries = slices.Delete(s.entries, 1, 3) }, code: 1, says: "is missing, and all to entry 3"},
		"missing before from": {args: []string{"--from", "4"}, tamper: func(s *auditServer) { s.entries = slices.Delete(s.entries, 2, 3) }, code: 1,
			says: "the first at entry 3"},
		"swapped":        {tamper: func(s *auditServer) { s.entries[1], s.entries[2] = s.entries[2], s.entries[1] }, code: 1, says: "comes after entry 3"},
		"end cut off":    {args: []string{"--head", head}, tamper: func(s *auditServer) { s.entries = s.entries[:4] }, code: 1, says: "the log reached " + head},
		"end, no head":   {tamper: func(s *auditServer) { s.entries = s.entries[:4] }, says: "4 entries"},
		"written anew":   {args: []string{"--head", head}, tamper: rewritten, code: 1, says: "written anew up to here"},
		"anew, from end": {args: []string{"--head", head, "--from", "7"}, tamper: rewritten, code: 1, says: "written anew up to here"},
		"no record":      {tamper: func(s *auditServer) { s.entries[5].Payload = []byte{0xff} }, code: 1, says: "is no record"},
		"short hash":     {tamper: func(s *auditServer) { s.entries[5].Hash = nil }, code: 1, says: "has 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, env := serveAudit(t)
			if c.tamper != nil {
				c.tamper(s)
			}
			r := execute(t, env, append([]string{"audit", "verify"}, c.args...)...)
			if r.code != c.code || !strings.Contains(r.out+r.err, c.says) {
				t.Errorf("code %d, want %d and %q\n%s%s", r.code, c.code, c.says, r.out, r.err)
			}
			if c.code == 2 {
				return
			}
			var v struct {
				Intact bool
				Head   struct{ Hash string }
			}
			r = execute(t, env, append([]string{"audit", "verify", "-o", "json"}, c.args...)...)
			if err := json.Unmarshal([]byte(r.out), &v); err != nil || v.Intact != (c.code == 0) || r.code != c.code {
				t.Errorf("%v: %s", err, r.out)
			}
		})
	}
}

// rewritten is a log whose first entry says something else, with all hashes made anew.
func rewritten(s *auditServer) {
	old := s.entries
	s.entries = nil
	for i, e := range old {
		r := proto.CloneOf(e.GetRecord())
		if i == 0 {
			r.Request = `{"x":2}`
		}
		s.write(r)
	}
}
