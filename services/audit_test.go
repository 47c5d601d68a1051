package services_test

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	exemptionv1 "nightshift.dev/gen/nightshift/exemption/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	_ "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/audit"
	"nightshift.dev/pkg/errs"
)

// What a field that could be a secret is called, and which of these are none:
// places in a list, and references to where a secret is kept.
var (
	secretive = regexp.MustCompile(`secret|password|token|credential|api_key|private_key|external_id|template_parameters`)
	harmless  = regexp.MustCompile(`^(next_|)page_token$|^resume_token$|^(url|routing_key|signing|token|password)_secret$`)
)

// Whatever is asked and answered goes into the audit log, except what is
// marked as secret. A field that has such a name and is not marked fails here.
func TestNoSecretReachesTheAuditLog(t *testing.T) {
	t.Parallel()
	seen := map[protoreflect.FullName]bool{}
	marked := 0
	var walk func(m protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			o, _ := f.Options().(*descriptorpb.FieldOptions)
			switch kind := f.Kind(); {
			case o.GetDebugRedact():
				marked++
			case slices.Contains([]protoreflect.Kind{protoreflect.StringKind, protoreflect.BytesKind}, kind) || f.IsMap():
				if name := string(f.Name()); secretive.MatchString(name) && !harmless.MatchString(name) {
					t.Errorf("%s: mark it debug_redact, or say here that it is harmless", f.FullName())
				}
			case f.Message() != nil:
				walk(f.Message())
			}
			if f.IsMap() && f.MapValue().Message() != nil {
				walk(f.MapValue().Message())
			}
		}
	}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(f.Path(), "nightshift/") {
			return true
		}
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				walk(methods.Get(j).Input())
				walk(methods.Get(j).Output())
			}
		}
		return true
	})
	if len(seen) < 100 || marked == 0 {
		t.Errorf("only %d messages were looked at, %d fields are marked", len(seen), marked)
	}
}

// What people do through any service ends in the log with who, what, before
// and after, and what they were not let do; nothing of it is a secret, and the
// chain holds.
func TestAuditOfEverything(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	g := startGuarded(t)
	conn, scheduler := g.dial(t, "persistence", ""), g.dial(t, "scheduler", "")
	operator, admin, viewer := bear(ctx, g.tokens["operator"]), bear(ctx, g.tokens["admin"]), bear(ctx, g.tokens["viewer"])
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(err error, kind errs.Kind) {
		t.Helper()
		if !errors.Is(err, kind) {
			t.Errorf("%v, want %v", err, kind)
		}
	}
	exemptions, accounts, jobs := exemptionv1.NewExemptionServiceClient(conn), accountv1.NewAccountServiceClient(conn), jobv1.NewJobServiceClient(scheduler)
	made, err := exemptions.CreateExemption(operator, &exemptionv1.CreateExemptionRequest{Exemption: &exemptionv1.Exemption{
		Filter: `rule_id = "x"`, By: "somebody else", Reason: "why\u202e", ExpireTime: timestamppb.New(time.Now().Add(48 * time.Hour))}})
	must(err)
	id := made.GetExemption().GetId()
	_, err = exemptions.UpdateExemption(operator, &exemptionv1.UpdateExemptionRequest{Exemption: &exemptionv1.Exemption{Id: id, Reason: "another"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"reason"}}})
	must(err)
	_, err = exemptions.DeleteExemption(operator, &exemptionv1.DeleteExemptionRequest{Id: id})
	must(err)
	_, err = exemptions.DeleteExemption(operator, &exemptionv1.DeleteExemptionRequest{Id: id})
	refused(err, errs.NotFound)
	_, err = exemptions.DeleteExemption(viewer, &exemptionv1.DeleteExemptionRequest{Id: id})
	refused(err, errs.PermissionDenied)
	_, err = exemptions.ListExemptions(bear(ctx, g.tokens["garbage"]), &exemptionv1.ListExemptionsRequest{})
	refused(err, errs.Unauthenticated)
	_, err = accounts.CreateAccount(admin, &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: ownAccount, RoleArn: "arn:aws:iam::" + ownAccount + ":role/x", ExternalId: "hunter2hunter2"}})
	must(err)
	_, err = accounts.UpdateAccount(admin, &accountv1.UpdateAccountRequest{Account: &accountv1.Account{Id: ownAccount, Owner: "ops"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"owner"}}})
	must(err)
	_, err = jobs.PauseJob(operator, &jobv1.PauseJobRequest{Name: "waste-scan", Reason: "holidays"})
	must(err)
	var none exemptionv1.ListExemptionsRequest
	refused(call(operator, scheduler, "/nightshift.job.v1.JobService/Explode", &none, &exemptionv1.ListExemptionsResponse{}), errs.Unimplemented)

	// What is denied is written in the background: the last of it has come when all has.
	api := auditv1.NewAuditServiceClient(conn)
	type line struct{ who, what, phase, reason, before, after string }
	want := []line{
		{"operator", "ExemptionService/CreateExemption", "SUCCEEDED", "", "", `"reason":"why\u202e"`},
		{"operator", "ExemptionService/UpdateExemption", "SUCCEEDED", "", `"reason":"why\u202e"`, `"reason":"another"`},
		{"operator", "ExemptionService/DeleteExemption", "SUCCEEDED", "", `"reason":"another"`, ""},
		{"operator", "ExemptionService/DeleteExemption", "FAILED", "EXEMPTION_NOT_FOUND", "", ""},
		{"viewer", "ExemptionService/DeleteExemption", "DENIED", "ROLE_TOO_LOW", "", ""},
		{"", "ExemptionService/ListExemptions", "DENIED", "TOKEN_INVALID", "", ""},
		{"admin", "AccountService/CreateAccount", "SUCCEEDED", "", "", `"id":"` + ownAccount},
		{"admin", "AccountService/UpdateAccount", "SUCCEEDED", "", `"role_arn"`, `"owner":"ops"`},
		{"operator", "JobService/PauseJob", "SUCCEEDED", "", `"name":"waste-scan"`, `"pause_reason":"holidays"`},
		{"operator", "JobService/Explode", "DENIED", "METHOD_UNKNOWN", "", ""},
	}
	var entries []*auditv1.Entry
	matches := func(w line) bool {
		return slices.ContainsFunc(entries, func(e *auditv1.Entry) bool {
			r := e.GetRecord()
			return r.GetPrincipal().GetName() == w.who && strings.HasSuffix(r.GetMethod(), "."+w.what) && r.GetPhase().String() == "PHASE_"+w.phase && r.GetReason() == w.reason &&
				strings.Contains(r.GetBefore(), w.before) && strings.Contains(r.GetAfter(), w.after) && (w.before == "") == (r.GetBefore() == "") && (w.after == "") == (r.GetAfter() == "") &&
				r.GetPeer() != "" && r.GetUserAgent() != ""
		})
	}
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		r, err := api.ListAuditEntries(admin, &auditv1.ListAuditEntriesRequest{PageSize: 1000, Order: auditv1.AuditOrder_AUDIT_ORDER_OLDEST_FIRST})
		must(err)
		entries = r.GetEntries()
		if i := slices.IndexFunc(want, func(w line) bool { return !matches(w) }); i < 0 {
			break
		} else if ctx.Err() != nil {
			t.Fatalf("%v is not in the log:\n%v", want[i], entries)
		}
	}
	v := audit.NewVerifier(audit.Head{})
	began := map[string]bool{}
	for _, e := range entries {
		for _, b := range v.Next(e) {
			t.Error(b)
		}
		switch r := e.GetRecord(); r.GetPhase() {
		case auditv1.Phase_PHASE_ATTEMPTED:
			began[r.GetCallId()] = true
		case auditv1.Phase_PHASE_SUCCEEDED, auditv1.Phase_PHASE_FAILED:
			if !began[r.GetCallId()] {
				t.Errorf("%v ended before it began", r)
			}
		}
		for name, token := range g.tokens {
			if name != "garbage" && strings.Contains(string(e.GetPayload()), token) {
				t.Errorf("the token of %s is in the log: %v", name, e)
			}
		}
		if strings.Contains(string(e.GetPayload()), "hunter2") {
			t.Errorf("an external id is in the log: %v", e)
		}
	}
	for _, who := range []context.Context{operator, viewer} {
		_, err := api.ListAuditEntries(who, &auditv1.ListAuditEntriesRequest{})
		refused(err, errs.PermissionDenied)
		_, err = api.GetAuditHead(who, &auditv1.GetAuditHeadRequest{})
		refused(err, errs.PermissionDenied)
	}
}
