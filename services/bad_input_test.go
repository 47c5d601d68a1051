package services_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services"
	"nightshift.dev/services/persistence"
)

// goodRequests has a request for every RPC that is right, or wrong only in that
// what it names is not there. Each of its fields is then made wrong in turn.
var goodRequests = map[string]string{
	"nightshift.account.v1.AccountService/CreateAccount": `account {id: "111122223333" name: "x" regions: "eu-west-1" labels {key: "a" value: "b"}}`,
	"nightshift.account.v1.AccountService/GetAccount":    `id: "111122223333"`,
	"nightshift.account.v1.AccountService/ListAccounts":  `page_size: 1 filter: "state = ACTIVE"`,
	"nightshift.account.v1.AccountService/UpdateAccount": `account {id: "111122223333" name: "y"} update_mask {paths: "name"}`,
	"nightshift.account.v1.AccountService/DeleteAccount": `id: "444455556666"`,

	"nightshift.account.v1.OnboardingService/CreateOnboarding":   `account {id: "777788889999" name: "x"} role_name: "Reader" trusted_principal: "111122223333"`,
	"nightshift.account.v1.OnboardingService/GetOnboarding":      `id: "777788889999"`,
	"nightshift.account.v1.OnboardingService/ListOnboardings":    `page_size: 1 filter: "state = FAILED"`,
	"nightshift.account.v1.OnboardingService/ImportAccounts":     `accounts {id: "777788889999" name: "x" role_arn: "arn:aws:iam::777788889999:role/Reader"} external_id: "shared" trusted_principal: "111122223333" validate_only: true`,
	"nightshift.account.v1.OnboardingService/StartVerification":  `account: "777788889999"`,
	"nightshift.account.v1.OnboardingService/FinishVerification": `verification {account: "777788889999" outcome: VERIFICATION_OUTCOME_FAILED checks {kind: CHECK_KIND_ASSUME_ROLE status: CHECK_STATUS_DENIED subject: "x"} start_time {seconds: 1} end_time {seconds: 2}} etag: "x"`,

	"nightshift.account.v1.VerificationService/VerifyAccount":            `id: "444455556666"`,
	"nightshift.account.v1.VerificationService/GetIdentity":              ``,
	"nightshift.account.v1.VerificationService/ListOrganizationAccounts": `page_size: 1 role_name: "Reader"`,

	"nightshift.audit.v1.AuditService/ListAuditEntries": `page_size: 1 filter: "phase = DENIED" order: AUDIT_ORDER_OLDEST_FIRST`,
	"nightshift.audit.v1.AuditService/GetAuditHead":     ``,

	"nightshift.auth.v1.AuthService/CreateToken":  `token {name: "x" role: ROLE_VIEWER accounts: "111122223333" expire_time {seconds: SOON}}`,
	"nightshift.auth.v1.AuthService/ListTokens":   `page_size: 1`,
	"nightshift.auth.v1.AuthService/RevokeToken":  `id: "0123456789abcdef"`,
	"nightshift.auth.v1.AuthService/WhoAmI":       ``,
	"nightshift.auth.v1.AuthService/Authenticate": `hash: "01234567890123456789012345678901"`,

	"nightshift.cleanup.v1.CleanupService/ListCleanupRules": `parameters {key: "runs_days" value: "3"}`,
	"nightshift.cleanup.v1.CleanupService/PreviewCleanup":   `parameters {key: "targets" value: "outbox"}`,

	"nightshift.deadletter.v1.DeadLetterService/ListDeadLetters":  `page_size: 1 consumer: "x"`,
	"nightshift.deadletter.v1.DeadLetterService/GetDeadLetter":    `id: 1`,
	"nightshift.deadletter.v1.DeadLetterService/ReplayDeadLetter": `id: 1`,
	"nightshift.deadletter.v1.DeadLetterService/DeleteDeadLetter": `id: 1`,

	"nightshift.exemption.v1.ExemptionService/CreateExemption": `exemption {filter: "rule_id = \"x\"" by: "ana" reason: "known" expire_time {seconds: SOON}} validate_only: true`,
	"nightshift.exemption.v1.ExemptionService/GetExemption":    `id: "x"`,
	"nightshift.exemption.v1.ExemptionService/ListExemptions":  `page_size: 1`,
	"nightshift.exemption.v1.ExemptionService/UpdateExemption": `exemption {id: "x" reason: "known"} update_mask {paths: "reason"}`,
	"nightshift.exemption.v1.ExemptionService/DeleteExemption": `id: "x"`,

	"nightshift.finding.v1.FindingService/GetFinding":          `id: "` + someFinding + `" read_mask {paths: "id"}`,
	"nightshift.finding.v1.FindingService/ListFindings":        `page_size: 1 filter: "state = OPEN" order_by: "id" read_mask {paths: "id"}`,
	"nightshift.finding.v1.FindingService/ListTransitions":     `finding_id: "` + someFinding + `" page_size: 1`,
	"nightshift.finding.v1.FindingService/WatchFindings":       `filter: "state = OPEN"`,
	"nightshift.finding.v1.FindingService/SummarizeFindings":   `filter: "state = OPEN" facets: FACET_RULE facet_size: 3`,
	"nightshift.finding.v1.FindingService/ListFindingDays":     `filter: "account = \"x\"" start_date: "2026-03-01" end_date: "2026-03-02"`,
	"nightshift.finding.v1.FindingService/BatchUpdateFindings": `findings {id: "` + someFinding + `"} actor: "ana" comment {text: "hm"}`,
	"nightshift.finding.v1.FindingService/ListHolds":           `page_size: 1`,
	"nightshift.finding.v1.FindingService/ListHeldTransitions": `run_id: "x/1" page_size: 1`,
	"nightshift.finding.v1.FindingService/ReleaseHold":         `run_id: "x/1" account: "111122223333" actor: "ana"`,
	"nightshift.finding.v1.FindingService/DiscardHold":         `run_id: "x/1" account: "111122223333" actor: "ana"`,

	"nightshift.health.v1.HealthService/ListComponents":                   ``,
	"nightshift.health.v1.HealthService/ListComponentTransitions":         `page_size: 1 filter: "component = \"nats\""`,
	"nightshift.health.v1.HealthService/CheckComponents":                  ``,
	"nightshift.health.v1.HealthStateService/RecordComponents":            `looks {component {name: "service/x" kind: COMPONENT_KIND_SERVICE state: COMPONENT_STATE_UP since_time {seconds: 1} check_time {seconds: 1}} transitions {component: "service/x" to_state: COMPONENT_STATE_UP time {seconds: 1}}}`,
	"nightshift.health.v1.HealthStateService/ListComponentStates":         ``,
	"nightshift.health.v1.HealthStateService/ListRecordedTransitions":     `page_size: 1 filter: "component = \"nats\""`,
	"nightshift.health.v1.HealthStateService/GetDatabase":                 ``,
	"nightshift.health.v1.HealthStateService/ListAccountScans":            ``,
	"nightshift.inventory.v1.InventoryService/ListInstances":              `page_size: 1 filter: "region = \"x\"" order_by: "name"`,
	"nightshift.inventory.v1.InventoryService/GetInstance":                `id: "i-1"`,
	"nightshift.inventory.v1.InventoryService/ListInstanceDays":           `id: "i-1" page_size: 1`,
	"nightshift.inventory.v1.InventoryService/RecordInstances":            `account: "111122223333" region: "eu-west-1" scan_time {seconds: 1767225600} records {instance {id: "i-1" arn: "arn:aws:ec2:eu-west-1:111122223333:instance/i-1" account: "111122223333" region: "eu-west-1" tags {key: "a" value: "b"}} days {day: "2025-12-31" cpu {average: 1 p95: 1 maximum: 1 hours: 3} memory {unknown: "no agent"} read_time {seconds: 1767225600}}}`,
	"nightshift.job.v1.JobService/CreateJob":                              `job {name: "bad-input" kind: "cleanup" schedule: "0 0 1 1 *" parameters {key: "targets" value: "outbox"} labels {key: "a" value: "b"} misfire {limit: 1} backoff {initial {seconds: 1} max {seconds: 2}}}`,
	"nightshift.job.v1.JobService/GetJob":                                 `name: "bad-input"`,
	"nightshift.job.v1.JobService/ListJobs":                               `page_size: 1 kind: "waste" labels {key: "a" value: "b"}`,
	"nightshift.job.v1.JobService/UpdateJob":                              `job {name: "bad-input" description: "x" schedule: "0 0 1 1 *"} update_mask {paths: "description" paths: "schedule" paths: "time_zone"}`,
	"nightshift.job.v1.JobService/DeleteJob":                              `name: "nothing"`,
	"nightshift.job.v1.JobService/PauseJob":                               `name: "bad-input" reason: "x"`,
	"nightshift.job.v1.JobService/ResumeJob":                              `name: "bad-input"`,
	"nightshift.job.v1.JobService/RunJob":                                 `name: "bad-input" parameters {key: "outbox_days" value: "7"} request_id: "1" requested_by: "ana"`,
	"nightshift.job.v1.JobService/BackfillJob":                            `name: "bad-input" start_time {seconds: 1767225600} end_time {seconds: 1767312000} request_id: "1" requested_by: "ana" dry_run: true`,
	"nightshift.job.v1.JobService/ListNextFires":                          `schedule: "0 0 * * *" count: 2 time_zone: "Europe/Berlin" after_time {seconds: 1767225600}`,
	"nightshift.notification.v1.NotificationConfigService/SetReceiver":    `receiver {name: "bad" email {to: "a@example.com"}}`,
	"nightshift.notification.v1.NotificationConfigService/GetReceiver":    `name: "bad"`,
	"nightshift.notification.v1.NotificationConfigService/ListReceivers":  ``,
	"nightshift.notification.v1.NotificationConfigService/DeleteReceiver": `name: "none"`,
	"nightshift.notification.v1.NotificationConfigService/SetRoute":       `route {name: "bad" position: 1 filter: "severity >= HIGH" to_owner: true group_by: "account" group_wait {seconds: 1} group_interval {seconds: 5} repeat_interval {seconds: 3600} quiet_hours {weekdays: 1 start: "18:00" end: "08:00" time_zone: "Europe/Dublin"} quiet_below: SEVERITY_HIGH max_messages_per_hour: 3}`,
	"nightshift.notification.v1.NotificationConfigService/ListRoutes":     ``,
	"nightshift.notification.v1.NotificationConfigService/DeleteRoute":    `name: "none"`,
	"nightshift.notification.v1.NotificationConfigService/SetContact":     `contact {owner: "team" receivers: "bad"}`,
	"nightshift.notification.v1.NotificationConfigService/ListContacts":   `page_size: 1`,
	"nightshift.notification.v1.NotificationConfigService/DeleteContact":  `owner: "nobody"`,
	"nightshift.notification.v1.NotificationConfigService/CreateSilence":  `silence {filter: "rule_id = \"x\"" author: "ana" comment: "known" expire_time {seconds: SOON}}`,
	"nightshift.notification.v1.NotificationConfigService/ListSilences":   `page_size: 1`,
	"nightshift.notification.v1.NotificationConfigService/ExpireSilence":  `id: "none"`,
	"nightshift.notification.v1.NotificationConfigService/ListDeliveries": `page_size: 1 filter: "state = DEAD"`,
	"nightshift.notification.v1.NotificationConfigService/GetDelivery":    `id: "none"`,
	"nightshift.notification.v1.NotificationConfigService/ResendDelivery": `id: "none"`,
	"nightshift.notification.v1.NotificationQueueService/GetConfig":       `version: "1"`,
	"nightshift.notification.v1.NotificationQueueService/AddNotices":      `notices {route: "bad" receivers: "bad" group_key: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" group {key: "account" value: "1"} notice {event_id: "FindingOpened/1" event: "FindingOpened" time {seconds: 1767225600}} due_time {seconds: SOON} interval {seconds: 5}}`,
	"nightshift.notification.v1.NotificationQueueService/ClaimGroups":     `limit: 1 lease {seconds: 5}`,
	"nightshift.notification.v1.NotificationQueueService/FlushGroup":      `group_key: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" lease_id: "x" through: 1`,
	"nightshift.notification.v1.NotificationQueueService/ClaimDeliveries": `limit: 1 lease {seconds: 5}`,
	"nightshift.notification.v1.NotificationQueueService/FinishDelivery":  `id: "x" lease_id: "x" attempt {time {seconds: 1767225600} duration {seconds: 1}}`,
	"nightshift.notification.v1.NotificationService/TestReceiver":         `receiver: "none"`,
	"nightshift.notification.v1.NotificationService/ExplainNotification":  `finding_id: "` + someFinding + `" event: "FindingResolved" time {seconds: SOON}`,
	"nightshift.report.v1.ReportService/CreateReport":                     `format: FORMAT_JSON filter: "rule_id = \"x\"" since_time {seconds: 1767225600}`,
	"nightshift.retention.v1.RetentionService/PreviewRetention":           `target: TARGET_RUNS before_time {seconds: 1700000000} keep: 3`,
	"nightshift.retention.v1.RetentionService/ApplyRetention":             `target: TARGET_RUNS before_time {seconds: 1700000000} keep: 3 limit: 1`,
	"nightshift.retention.v1.RetentionService/ReportRetention":            `job: "cleanup" run_id: "cleanup/1" target: TARGET_RUNS before_time {seconds: 1700000000} count: 1 retained {reason: "x" count: 1}`,
	"nightshift.rule.v1.RuleService/ListRules":                            `account: "111122223333"`,
	"nightshift.rule.v1.RuleService/GetRule":                              `id: "ebs-unattached" account: "111122223333"`,
	"nightshift.run.v1.RunService/StartRun":                               `trigger {run_id: "bad-input/2026-01-01T00:00:00Z" job: "bad-input" kind: "nobody" cause: CAUSE_SCHEDULE planned_time {seconds: 1767225600} fire_time {seconds: 1767225600} parameters {key: "a" value: "b"} timeout {seconds: 60} backoff {initial {seconds: 1} max {seconds: 2}} run_timeout {seconds: 60} missed {first_time {seconds: 1767225600} last_time {seconds: 1767225600} count: 1}}`,
	"nightshift.run.v1.RunService/PlanRun":                                `run_id: "bad-input/2026-01-01T00:00:00Z" scopes {scope {service: "nobody" account: "111122223333" region: "eu-west-1"} role_arn: "x" external_id: "x" partition: "aws" failure {resource_type: "x" status: COVERAGE_STATUS_DENIED error: "x"}}`,
	"nightshift.run.v1.RunService/FailRun":                                `run_id: "bad-input/none" error: "x"`,
	"nightshift.run.v1.RunService/StartScope":                             `run_id: "bad-input/2026-01-01T00:00:00Z" scope {service: "nobody" account: "111122223333" region: "eu-west-1"} execution: "1"`,
	"nightshift.run.v1.RunService/BeatScope":                              `run_id: "bad-input/2026-01-01T00:00:00Z" scope {service: "nobody" account: "111122223333" region: "eu-west-1"} execution: "1" progress {meter {calls: 1} counts {key: "a" value: 1}}`,
	"nightshift.run.v1.RunService/RetryScope":                             `run_id: "bad-input/2026-01-01T00:00:00Z" scope {service: "nobody" account: "111122223333" region: "eu-west-1"} execution: "1" error: "x"`,
	"nightshift.run.v1.RunService/CancelRun":                              `id: "bad-input/none" reason: "x" requested_by: "ana"`,
	"nightshift.run.v1.RunService/RetryRun":                               `id: "bad-input/none" scopes {service: "nobody" account: "111122223333" region: "eu-west-1"} request_id: "1" requested_by: "ana"`,
	"nightshift.run.v1.RunService/GetRun":                                 `id: "bad-input/none"`,
	"nightshift.run.v1.RunService/ListRuns":                               `page_size: 1 filter: "state = FAILED"`,
	"nightshift.run.v1.RunService/ListRunScopes":                          `run_id: "bad-input/none" page_size: 1`,
	"nightshift.run.v1.RunService/WatchRun":                               `id: "bad-input/none"`,
	"nightshift.scan.v1.ScanService/Scan":                                 `accounts: "999900001111" regions: "us-east-1" outcomes: OUTCOME_VIOLATION`,
	"nightshift.scan.v1.ScopeStateService/ListScopeState":                 `scope {service: "waste" account: "111122223333" region: "eu-west-1"} rules: "ebs-unattached"`,
	"nightshift.systemlog.v1.SystemLogService/ListEntries":                `page_size: 1 filter: "event = \"x\""`,
	"nightshift.systemlog.v1.SystemLogService/WatchEntries":               `filter: "event = \"x\""`,
}

const someFinding = "0123456789abcdef0123456789abcdef"

// TestBadInput makes every field of every request of every RPC wrong, in all
// ways there are for its type. Each answer is one that a caller can act on: not
// INTERNAL, with a reason, and naming the field.
func TestBadInput(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cloud := simaws.Generate(simaws.Options{Seed: 3, Accounts: 1, Regions: 1, Resources: 20})
	endpoint := httptest.NewServer(simaws.New(cloud, simaws.Config{NoQuotas: true}))
	t.Cleanup(endpoint.Close)
	set := map[string]string{
		"DATABASE_URL": devtest.DB(t, persistence.Migrate), "NIGHTSHIFT_AWS_ENDPOINT": endpoint.URL, "NIGHTSHIFT_AWS_ACCESS_KEY_ID": cloud.Accounts[0].AccessKey,
		"NIGHTSHIFT_AWS_SECRET_ACCESS_KEY": simaws.FakeSecret, "NIGHTSHIFT_HEALTH_INTERVAL": "1h",
	}
	host, err := app.Start(ctx, app.Options{
		Definitions: services.All, Listen: func(string) string { return "127.0.0.1:0" }, Bus: bus.Config{Options: devtest.NATS(t).Options()},
		Lookup: func(name string) (string, bool) { v, ok := set[name]; return v, ok }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	life, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- host.Run(life) }()
	t.Cleanup(func() { stop(); <-ended })

	soon := fmt.Sprint(time.Now().AddDate(0, 1, 0).Unix())
	known := map[string]bool{}
	var calls errgroup.Group
	calls.SetLimit(8)
	for _, def := range services.All {
		conn := host.Dial(def.Name)
		for _, method := range methods(ctx, t, conn) {
			name := string(method.Parent().FullName()) + "/" + string(method.Name())
			text, there := goodRequests[name]
			if !there {
				t.Errorf("%s has no request in this test: give it one", name)
				continue
			}
			known[name] = true
			c := caller{conn, method}
			good := newMessage(t, method.Input())
			if err := prototext.Unmarshal([]byte(strings.ReplaceAll(text, "SOON", soon)), good); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := c.call(ctx, good, false); err != nil {
				if wrong := whatIsWrong(err, ""); wrong != "" || status.Code(err) == codes.InvalidArgument {
					t.Errorf("%s, as it should be, is %s: %v", name, wrong, err)
				}
			}
			// What is no message at all, and text that is not UTF-8 in its first field.
			for _, b := range [][]byte{{0xff, 0xff, 0xff}, {0x0a, 0x02, 0xff, 0xfe}} {
				if err := c.call(ctx, rawMessage(b), true, grpc.ForceCodecV2(rawCodec{})); err == nil || whatIsWrong(err, "") != "" || status.Code(err) != codes.InvalidArgument {
					if b[0] == 0xff || method.Input().Fields().ByNumber(1) != nil && method.Input().Fields().ByNumber(1).Kind() == protoreflect.StringKind {
						t.Errorf("%s with bytes %x: %v", name, b, err)
					}
				}
			}
			for _, w := range wrongs(good.ProtoReflect(), "", 0) {
				calls.Go(func() error {
					bad := proto.Clone(good)
					w.set(bad.ProtoReflect())
					switch err := c.call(ctx, bad, w.must); {
					case err == nil && w.must:
						t.Errorf("%s with %s %s is not refused", name, w.field, w.how)
					case err != nil:
						if wrong := whatIsWrong(err, w.field); wrong != "" {
							t.Errorf("%s with %s %s: the answer is %s: %v", name, w.field, w.how, wrong, err)
						}
					}
					return nil
				})
			}
		}
	}
	_ = calls.Wait()
	for name := range goodRequests {
		if !known[name] {
			t.Errorf("%s is in this test, and is none", name)
		}
	}
}

// methods asks a server for all of its methods that are ours.
func methods(ctx context.Context, t *testing.T, conn grpc.ClientConnInterface) (all []protoreflect.MethodDescriptor) {
	t.Helper()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.CloseSend()
	for _, s := range resp.GetListServicesResponse().GetService() {
		if !strings.HasPrefix(s.GetName(), "nightshift.") {
			continue
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(s.GetName()))
		if err != nil {
			t.Fatal(err)
		}
		for i := range d.(protoreflect.ServiceDescriptor).Methods().Len() {
			all = append(all, d.(protoreflect.ServiceDescriptor).Methods().Get(i))
		}
	}
	return all
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return typ.New().Interface()
}

// caller calls one method.
type caller struct {
	conn   grpc.ClientConnInterface
	method protoreflect.MethodDescriptor
}

// call returns the method's error; of a stream, that of its beginning. A stream
// that has nothing to say for a while has begun, unless an error must come.
func (c caller) call(ctx context.Context, req any, must bool, opts ...grpc.CallOption) error {
	path := "/" + string(c.method.Parent().FullName()) + "/" + string(c.method.Name())
	typ, err := protoregistry.GlobalTypes.FindMessageByName(c.method.Output().FullName())
	if err != nil {
		return err
	}
	resp := typ.New().Interface()
	if !c.method.IsStreamingServer() {
		return c.conn.Invoke(ctx, path, req, resp, opts...)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path, opts...)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if !must {
		defer time.AfterFunc(300*time.Millisecond, cancel).Stop()
	}
	switch err := stream.RecvMsg(resp); {
	case errors.Is(err, io.EOF), errors.Is(err, errs.Canceled):
		return nil
	default:
		return err
	}
}

// rawMessage is sent as it is.
type rawMessage []byte

type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(rawMessage))}, nil
}

func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

// whatIsWrong says what is wrong with an error about a field, "" if nothing is.
func whatIsWrong(err error, field string) string {
	st := status.Convert(err)
	switch st.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.OutOfRange, codes.Aborted, codes.PermissionDenied:
	default:
		return "of code " + st.Code().String()
	}
	for _, inside := range []string{"goroutine", ".go:", "SQLSTATE", "ERROR:", "panic", "pgx", "runtime error"} {
		if strings.Contains(st.Message(), inside) {
			return "about our insides"
		}
	}
	var reason bool
	var fields []string
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason() != "" && d.GetDomain() == errs.Domain
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				fields = append(fields, v.GetField())
				if v.GetDescription() == "" {
					return "without a description of " + v.GetField()
				}
			}
		}
	}
	switch {
	case !reason:
		return "without a reason"
	case st.Code() == codes.InvalidArgument && (len(fields) == 0 || slices.Contains(fields, "")):
		return "without a field"
	case len(st.Message()) > 2<<10:
		return fmt.Sprintf("%d bytes long", len(st.Message()))
	}
	return ""
}

// wrong is one way to make a field wrong.
type wrong struct {
	field string // its path
	how   string
	must  bool // whatever the field, this has to be refused
	set   func(protoreflect.Message)
}

var long = strings.Repeat("x", 1<<16)

// wrongs are the ways to make the fields of a message wrong, those of messages
// in it included.
func wrongs(m protoreflect.Message, path string, depth int) (all []wrong) {
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		at := path + string(fd.Name())
		add := func(how string, must bool, set func(protoreflect.Message)) {
			all = append(all, wrong{at, how, must, set})
		}
		put := func(how string, must bool, v protoreflect.Value) {
			add(how, must, func(m protoreflect.Message) { m.Set(fd, v) })
		}
		switch {
		case fd.IsMap():
			entries := func(how string, must bool, n int, key func(int) string, value string) {
				if fd.MapKey().Kind() != protoreflect.StringKind || fd.MapValue().Kind() != protoreflect.StringKind {
					return
				}
				add(how, must, func(m protoreflect.Message) {
					for k := range n {
						m.Mutable(fd).Map().Set(protoreflect.ValueOfString(key(k)).MapKey(), protoreflect.ValueOfString(value))
					}
				})
			}
			entries("of 2,000 entries", false, 2_000, func(k int) string { return fmt.Sprint("k", k) }, "v")
			entries("with an empty key", false, 1, func(int) string { return "" }, "v")
			entries("with NUL", false, 1, func(int) string { return "a\x00b" }, "c\x00d")
			entries("with a long key", false, 1, func(int) string { return long }, "v")
			entries("with a long value", false, 1, func(int) string { return "k" }, long)
		case fd.IsList():
			kind := fd.Kind()
			add("of 2,000 items", false, func(m protoreflect.Message) {
				list := m.Mutable(fd).List()
				for range 2_000 {
					if kind == protoreflect.MessageKind && list.Len() > 0 {
						list.Append(list.Get(0))
					} else if kind == protoreflect.MessageKind {
						list.AppendMutable()
					} else if list.Len() > 0 {
						list.Append(list.Get(0))
					} else {
						list.Append(list.NewElement())
					}
				}
			})
			add("of an empty item", false, func(m protoreflect.Message) {
				m.Clear(fd)
				list := m.Mutable(fd).List()
				list.Append(list.NewElement())
			})
			if kind == protoreflect.MessageKind {
				if depth < 4 {
					inner := m.NewField(fd).List().NewElement().Message()
					if m.Get(fd).List().Len() > 0 {
						inner = m.Get(fd).List().Get(0).Message()
					}
					for _, w := range wrongs(inner, at+"[0].", depth+1) {
						all = append(all, wrong{w.field, w.how, w.must, func(m protoreflect.Message) {
							list := m.Mutable(fd).List()
							if list.Len() == 0 {
								list.AppendMutable()
							}
							w.set(list.Get(0).Message())
						}})
					}
				}
				continue
			}
			for _, v := range scalars(fd) {
				add("of "+v.how, v.must, func(m protoreflect.Message) {
					m.Clear(fd)
					m.Mutable(fd).List().Append(v.value)
				})
			}
		case fd.Message() != nil:
			for how, v := range map[string]proto.Message{
				"out of range": &timestamppb.Timestamp{Seconds: math.MaxInt64}, "before all time": &timestamppb.Timestamp{Seconds: math.MinInt64}, "with too many nanoseconds": &timestamppb.Timestamp{Nanos: math.MaxInt32},
				"in the year 1": &timestamppb.Timestamp{Seconds: -62135596800}, "in the year 9999": &timestamppb.Timestamp{Seconds: 253402300799, Nanos: 999999999},
				"of 10,000 years": &durationpb.Duration{Seconds: 315576000000}, "longer than any": &durationpb.Duration{Seconds: math.MaxInt64}, "below 0": &durationpb.Duration{Seconds: -1}, "of two signs": &durationpb.Duration{Seconds: 1, Nanos: -1},
				"of no field": &fieldmaskpb.FieldMask{Paths: []string{"bogus"}}, "of nothing": &fieldmaskpb.FieldMask{Paths: []string{""}}, "of NUL": &fieldmaskpb.FieldMask{Paths: []string{"id\x00"}}, "of too deep a field": &fieldmaskpb.FieldMask{Paths: []string{"a.b.c.d.e.f"}},
				"without a kind": &structpb.Value{}, "of a number that is none": structpb.NewNumberValue(math.NaN()),
			} {
				if v.ProtoReflect().Descriptor() == fd.Message() {
					put(how, fd.Message().FullName() == "google.protobuf.FieldMask", protoreflect.ValueOfMessage(v.ProtoReflect()))
				}
			}
			add("left out", false, func(m protoreflect.Message) { m.Clear(fd) })
			if strings.HasPrefix(string(fd.Message().FullName()), "google.") || depth >= 4 {
				continue
			}
			add("that is empty", false, func(m protoreflect.Message) { m.Set(fd, m.NewField(fd)) })
			for _, w := range wrongs(m.Get(fd).Message(), at+".", depth+1) {
				all = append(all, wrong{w.field, w.how, w.must, func(m protoreflect.Message) { w.set(m.Mutable(fd).Message()) }})
			}
		default:
			for _, v := range scalars(fd) {
				put(v.how, v.must, v.value)
			}
		}
	}
	return all
}

type badValue struct {
	how   string
	must  bool
	value protoreflect.Value
}

// scalars are values that a field of its kind, and its name, may not be able
// to have.
func scalars(fd protoreflect.FieldDescriptor) (all []badValue) {
	add := func(how string, must bool, v any) { all = append(all, badValue{how, must, protoreflect.ValueOf(v)}) }
	switch fd.Kind() {
	case protoreflect.StringKind:
		add("of nothing", false, "")
		add("of NUL", false, "a\x00b")
		add("of odd characters", false, "'; DROP TABLE findings; --\r\n\x1b[31m\u202e%_\\")
		add("of 64 KiB", isRequest(fd) && fd.Name() != "error", long) // what AWS says is taken as it comes
		switch name := string(fd.Name()); {
		case name == "filter":
			for _, f := range []string{"(((", `bogus = 1`, `state = "`, `"a"`, `bogus.b.c.d:e`, "bogus = \"\x00\"", "bogus > 3", "id = id(id)", strings.Repeat("a = 1 AND ", 390) + "a = 1", strings.Repeat("(", 3999)} {
				add(fmt.Sprintf("of %.20q", f), true, f)
			}
		case name == "order_by":
			for _, o := range []string{"bogus", "id sideways", "id id id", "id,,id", "id; DROP TABLE findings", "id\x00"} {
				add(fmt.Sprintf("of %q", o), true, o)
			}
		case strings.HasSuffix(name, "token"):
			// Of no kind; of JSON that is none of ours; of a key of another kind.
			for _, o := range []string{"bogus", "!!!", "bnVsbA", "e30", "eyJrIjpudWxsLCJiIjpudWxsfQ", "eyJrIjpbIlx1MDAwMCJdLCJiIjoiIn0"} {
				add(fmt.Sprintf("of %q", o), true, o)
			}
		case strings.HasSuffix(name, "_date"), name == "day":
			for _, o := range []string{"0000-00-00", "2026-02-30", "9999-99-99", "tomorrow"} {
				add(fmt.Sprintf("of %q", o), true, o)
			}
		case name == "schedule":
			for _, o := range []string{"* * *", "99 * * * *", "@sometimes", "0 0 31 2 *", "*/0 * * * *"} {
				add(fmt.Sprintf("of %q", o), true, o)
			}
		case name == "time_zone":
			for _, o := range []string{"Mars/Olympus", "../../etc/passwd", "Local"} {
				add(fmt.Sprintf("of %q", o), true, o)
			}
		}
	case protoreflect.BytesKind:
		add("of nothing", false, []byte{})
		add("of 64 KiB", false, []byte(long))
	case protoreflect.EnumKind:
		add("that is none", false, protoreflect.EnumNumber(99))
		add("below 0", false, protoreflect.EnumNumber(-1))
		add("of 0", false, protoreflect.EnumNumber(0))
	case protoreflect.Int32Kind:
		add("below 0", strings.HasSuffix(string(fd.Name()), "_size"), int32(-1))
		add("of the least", false, int32(math.MinInt32))
		add("of the most", false, int32(math.MaxInt32))
	case protoreflect.Int64Kind:
		add("below 0", false, int64(-1))
		add("of the least", false, int64(math.MinInt64))
		add("of the most", false, int64(math.MaxInt64))
	case protoreflect.Uint64Kind:
		add("of 0", false, uint64(0))
		add("of the most", false, uint64(math.MaxUint64))
	case protoreflect.DoubleKind:
		for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, math.MaxFloat64} {
			add(fmt.Sprintf("of %g", v), false, v)
		}
	}
	return all
}

// isRequest says that the field is of a request itself, and not of a message in
// it, some of whose fields are the server's to set.
func isRequest(fd protoreflect.FieldDescriptor) bool {
	return strings.HasSuffix(string(fd.ContainingMessage().Name()), "Request")
}
