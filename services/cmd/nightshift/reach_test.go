package main

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
)

const (
	someAccount = "123456789012"
	someID      = "0123456789abcdef0123456789abcdef"
)

// reachedBy says of every RPC which command calls it, or after a # why none does.
var reachedBy = map[string]string{
	"account.v1.AccountService/CreateAccount":                  "accounts add " + someAccount,
	"account.v1.AccountService/DeleteAccount":                  "accounts remove " + someAccount,
	"account.v1.AccountService/GetAccount":                     "accounts get " + someAccount,
	"account.v1.AccountService/ListAccounts":                   "accounts list",
	"account.v1.AccountService/UpdateAccount":                  "accounts suspend " + someAccount,
	"account.v1.OnboardingService/CreateOnboarding":            "accounts onboard " + someAccount,
	"account.v1.OnboardingService/FinishVerification":          "# health records what it has found",
	"account.v1.OnboardingService/GetOnboarding":               "accounts onboardings x",
	"account.v1.OnboardingService/ImportAccounts":              "accounts import --trusted-principal " + someAccount,
	"account.v1.OnboardingService/ListOnboardings":             "accounts onboardings",
	"account.v1.OnboardingService/StartVerification":           "# health says that it begins",
	"account.v1.VerificationService/GetIdentity":               "accounts onboard " + someAccount,
	"account.v1.VerificationService/ListOrganizationAccounts":  "accounts import",
	"account.v1.VerificationService/VerifyAccount":             "accounts verify " + someAccount,
	"audit.v1.AuditService/GetAuditHead":                       "audit head",
	"audit.v1.AuditService/ListAuditEntries":                   "audit list",
	"auth.v1.AuthService/Authenticate":                         "# services ask about the tokens of their callers",
	"auth.v1.AuthService/CreateToken":                          "tokens create x",
	"auth.v1.AuthService/ListTokens":                           "tokens list",
	"auth.v1.AuthService/RevokeToken":                          "tokens revoke 0123456789abcdef",
	"auth.v1.AuthService/WhoAmI":                               "whoami",
	"cleanup.v1.CleanupService/ListCleanupRules":               "cleanup rules",
	"cleanup.v1.CleanupService/PreviewCleanup":                 "cleanup preview",
	"deadletter.v1.DeadLetterService/DeleteDeadLetter":         "deadletters delete 1",
	"deadletter.v1.DeadLetterService/GetDeadLetter":            "deadletters show 1",
	"deadletter.v1.DeadLetterService/ListDeadLetters":          "deadletters list",
	"deadletter.v1.DeadLetterService/ReplayDeadLetter":         "deadletters replay 1",
	"exemption.v1.ExemptionService/CreateExemption":            "exemptions add --rule x --reason x --until 2099-01-01",
	"exemption.v1.ExemptionService/DeleteExemption":            "exemptions remove x",
	"exemption.v1.ExemptionService/GetExemption":               "exemptions show x",
	"exemption.v1.ExemptionService/ListExemptions":             "exemptions list",
	"exemption.v1.ExemptionService/UpdateExemption":            "exemptions update x --reason x",
	"finding.v1.FindingService/BatchUpdateFindings":            "findings comment " + someID + " --text x",
	"finding.v1.FindingService/DiscardHold":                    "findings discard x",
	"finding.v1.FindingService/GetFinding":                     "findings show " + someID,
	"finding.v1.FindingService/ListFindingDays":                "findings trend",
	"finding.v1.FindingService/ListFindings":                   "findings list",
	"finding.v1.FindingService/ListHeldTransitions":            "findings held x",
	"finding.v1.FindingService/ListHolds":                      "findings held",
	"finding.v1.FindingService/ListTransitions":                "findings history " + someID,
	"finding.v1.FindingService/ReleaseHold":                    "findings release x",
	"finding.v1.FindingService/SummarizeFindings":              "findings totals",
	"finding.v1.FindingService/WatchFindings":                  "findings watch",
	"health.v1.HealthService/CheckComponents":                  "health --now",
	"health.v1.HealthService/ListComponentTransitions":         "health history",
	"health.v1.HealthService/ListComponents":                   "health",
	"health.v1.HealthStateService/GetDatabase":                 "doctor",
	"health.v1.HealthStateService/ListAccountScans":            "# health asks, and shows it in the state of accounts",
	"health.v1.HealthStateService/ListComponentStates":         "# health asks; HealthService.ListComponents shows it",
	"health.v1.HealthStateService/ListRecordedTransitions":     "# health asks; HealthService.ListComponentTransitions shows it",
	"health.v1.HealthStateService/RecordComponents":            "# health records what it has seen",
	"inventory.v1.InventoryService/GetInstance":                "inventory show i-1",
	"inventory.v1.InventoryService/ListInstanceDays":           "inventory show i-1",
	"inventory.v1.InventoryService/ListInstances":              "inventory list",
	"inventory.v1.InventoryService/RecordInstances":            "# the job health-check records what it has seen",
	"job.v1.JobService/BackfillJob":                            "jobs backfill x --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z",
	"job.v1.JobService/CreateJob":                              "jobs create x --kind waste --schedule @daily",
	"job.v1.JobService/DeleteJob":                              "jobs delete x",
	"job.v1.JobService/GetJob":                                 "jobs get x",
	"job.v1.JobService/ListJobs":                               "jobs list",
	"job.v1.JobService/ListNextFires":                          "jobs next x",
	"job.v1.JobService/PauseJob":                               "jobs pause x",
	"job.v1.JobService/ResumeJob":                              "jobs resume x",
	"job.v1.JobService/RunJob":                                 "jobs run x",
	"job.v1.JobService/UpdateJob":                              "jobs update x --description x",
	"notification.v1.NotificationConfigService/CreateSilence":  "notify silence --for 1h --comment x --filter severity=HIGH",
	"notification.v1.NotificationConfigService/DeleteContact":  "notify contacts delete x",
	"notification.v1.NotificationConfigService/DeleteReceiver": "notify receivers delete x",
	"notification.v1.NotificationConfigService/DeleteRoute":    "notify routes delete x",
	"notification.v1.NotificationConfigService/ExpireSilence":  "notify expire x",
	"notification.v1.NotificationConfigService/GetDelivery":    "notify deliveries show x",
	"notification.v1.NotificationConfigService/GetReceiver":    "notify receivers get x",
	"notification.v1.NotificationConfigService/ListContacts":   "notify contacts list",
	"notification.v1.NotificationConfigService/ListDeliveries": "notify deliveries list",
	"notification.v1.NotificationConfigService/ListReceivers":  "notify receivers list",
	"notification.v1.NotificationConfigService/ListRoutes":     "notify routes list",
	"notification.v1.NotificationConfigService/ListSilences":   "notify silences list",
	"notification.v1.NotificationConfigService/ResendDelivery": "notify resend x",
	"notification.v1.NotificationConfigService/SetContact":     "notify contacts set x --receiver x",
	"notification.v1.NotificationConfigService/SetReceiver":    "notify receivers set x --email a@example.com",
	"notification.v1.NotificationConfigService/SetRoute":       "notify routes set x --receiver x",
	"notification.v1.NotificationQueueService/AddNotices":      "# the notification service",
	"notification.v1.NotificationQueueService/ClaimDeliveries": "# the notification service",
	"notification.v1.NotificationQueueService/ClaimGroups":     "# the notification service",
	"notification.v1.NotificationQueueService/FinishDelivery":  "# the notification service",
	"notification.v1.NotificationQueueService/FlushGroup":      "# the notification service",
	"notification.v1.NotificationQueueService/GetConfig":       "# the notification service",
	"notification.v1.NotificationService/ExplainNotification":  "notify explain " + someID,
	"notification.v1.NotificationService/TestReceiver":         "notify test x",
	"report.v1.ReportService/CreateReport":                     "report waste",
	"retention.v1.RetentionService/ApplyRetention":             "# the job cleanup removes; cleanup run starts it",
	"retention.v1.RetentionService/PreviewRetention":           "# cleanup counts; cleanup preview shows it",
	"retention.v1.RetentionService/ReportRetention":            "# the job cleanup reports; logs shows it",
	"rule.v1.RuleService/GetRule":                              "# rules explain does not know which service has the rule, and asks all for theirs",
	"rule.v1.RuleService/ListRules":                            "rules explain x",
	"run.v1.RunService/BeatScope":                              "# workers",
	"run.v1.RunService/CancelRun":                              "runs cancel x",
	"run.v1.RunService/FailRun":                                "# workers",
	"run.v1.RunService/GetRun":                                 "runs show x",
	"run.v1.RunService/ListRunScopes":                          "runs show x",
	"run.v1.RunService/ListRuns":                               "runs list",
	"run.v1.RunService/PlanRun":                                "# workers",
	"run.v1.RunService/RetryRun":                               "runs retry x",
	"run.v1.RunService/RetryScope":                             "# workers",
	"run.v1.RunService/StartRun":                               "# workers",
	"run.v1.RunService/StartScope":                             "# workers",
	"run.v1.RunService/WatchRun":                               "runs watch x",
	"scan.v1.ScanService/Scan":                                 "# scan runs the same engine in its own process; jobs run asks the services",
	"scan.v1.ScopeStateService/ListScopeState":                 "# workers",
	"systemlog.v1.SystemLogService/ListEntries":                "logs",
	"systemlog.v1.SystemLogService/WatchEntries":               "logs --follow",
}

// switchboard answers every call of every service with next to nothing, but for
// the first of a method that is waited for: that one ends with its caller, who
// could make nothing of such an answer.
type switchboard struct {
	mu     sync.Mutex
	called map[string]func() // to be told, by method
}

func (s *switchboard) expect(method string) (called <-chan struct{}) {
	c := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.called[method] = func() { close(c) }
	return c
}

func (s *switchboard) answer(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	method = strings.TrimPrefix(method, "/nightshift.")
	s.mu.Lock()
	told := s.called[method]
	delete(s.called, method)
	s.mu.Unlock()
	if told != nil {
		told()
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
		return err
	}
	if strings.HasSuffix(method, "/ListOrganizationAccounts") { // without one there is nothing to import
		return stream.SendMsg(&accountv1.ListOrganizationAccountsResponse{Accounts: []*accountv1.OrganizationAccount{
			{Id: someAccount, State: accountv1.OrganizationAccountState_ORGANIZATION_ACCOUNT_STATE_ACTIVE}}})
	}
	return stream.SendMsg(&emptypb.Empty{}) // which is a message of any type without its fields
}

// Whatever people may call, a command calls.
func TestEveryRPCIsReached(t *testing.T) {
	t.Parallel()
	board := &switchboard{called: map[string]func(){}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(board.answer))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	env := map[string]string{"NIGHTSHIFT_DATA_DIR": "", "NATS_URL": "nats://127.0.0.1:1"}
	for _, name := range serviceNames() {
		env["NIGHTSHIFT_"+strings.ToUpper(name)+"_ADDR"] = l.Addr().String()
	}
	var rpcs []string
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(f.Package()), "nightshift.") {
			return true
		}
		for i := range f.Services().Len() {
			for k := range f.Services().Get(i).Methods().Len() {
				rpcs = append(rpcs, strings.TrimPrefix(string(f.Services().Get(i).FullName()), "nightshift.")+"/"+string(f.Services().Get(i).Methods().Get(k).Name()))
			}
		}
		return true
	})
	for rpc := range reachedBy {
		if !slices.Contains(rpcs, rpc) {
			t.Errorf("%s is in this test, and is none", rpc)
		}
	}
	for _, rpc := range rpcs {
		command := reachedBy[rpc]
		switch {
		case command == "":
			t.Errorf("no command calls %s: say here which does, or why none has to", rpc)
			continue
		case strings.HasPrefix(command, "#"):
			continue
		}
		t.Run(rpc, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			called := board.expect(rpc)
			ended := make(chan result, 1)
			go func() { ended <- terminal(ctx, 0, env, strings.Fields(command)...) }()
			select {
			case <-called:
				cancel()
				<-ended
			case r := <-ended:
				select {
				case <-called:
				default:
					t.Errorf("nightshift %s does not call it: exit %d\n%s%s", command, r.code, r.out, r.err)
				}
			}
		})
	}
}
