package health

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/errs"
)

var serviceName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

const (
	// glanceTimeout bounds the look at one component.
	glanceTimeout = 5 * time.Second
	// entrances is how many accounts are entered at once.
	entrances = 16
	// manyPending is how many messages a consumer may be behind.
	manyPending = 10_000
	// fullShare is the share of what is allowed at which something is nearly full.
	fullShare = 0.9
	// slowOutbox is how long an event may wait to be published.
	slowOutbox = 5 * time.Minute
)

// apart is how far two bad looks must be from each other to count as two.
func (s *Service) apart() time.Duration { return s.cfg.Interval / 3 }

// lapse is how long a look holds when no other follows.
func (s *Service) lapse() time.Duration { return 3*s.cfg.Interval + time.Minute }

// look looks at everything and has it recorded.
func (s *Service) look(ctx context.Context, at time.Time) {
	s.looking.Lock()
	defer s.looking.Unlock()
	if known, err := s.ask(ctx); err == nil {
		s.mu.Lock()
		s.book.adopt(known)
		s.mu.Unlock()
	}
	glances, all := s.glances(ctx)
	if ctx.Err() != nil {
		return
	}
	names := map[string]bool{}
	s.mu.Lock()
	for _, g := range glances {
		names[g.name] = true
		s.book.note(g, at, s.apart(), s.lapse())
	}
	if all {
		s.book.keep(names)
	}
	req := &healthv1.RecordComponentsRequest{Looks: s.book.looks(names), All: all}
	s.mu.Unlock()

	recorded, err := s.record(ctx, req)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.recorded && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the state of components cannot be recorded; it is remembered here", "error", err)
		}
		s.recorded = false
		return
	}
	s.book.adopt(recorded)
	s.recorded = true
}

// ask reads what is recorded.
func (s *Service) ask(ctx context.Context) ([]*healthv1.Component, error) {
	ctx, cancel := context.WithTimeout(ctx, glanceTimeout)
	defer cancel()
	r, err := s.states.ListComponentStates(ctx, &healthv1.ListComponentStatesRequest{}, grpc.WaitForReady(false))
	return r.GetComponents(), err
}

// record has looks recorded, as many in a call as it takes.
func (s *Service) record(ctx context.Context, req *healthv1.RecordComponentsRequest) (now []*healthv1.Component, err error) {
	const most = 1000
	for looks := range slices.Chunk(req.GetLooks(), most) {
		part := &healthv1.RecordComponentsRequest{Looks: looks, All: req.GetAll() && len(req.GetLooks()) <= most}
		ctx, cancel := context.WithTimeout(ctx, 2*glanceTimeout)
		r, err := s.states.RecordComponents(ctx, part, grpc.WaitForReady(false))
		cancel()
		if err != nil {
			return nil, err
		}
		now = r.GetComponents()
	}
	return now, nil
}

// glances looks at everything. all is false when it is not known which accounts
// there are: those known are left as they are then.
func (s *Service) glances(ctx context.Context) (out []*glance, all bool) {
	var (
		mu  sync.Mutex
		g   errgroup.Group
		add = func(x *glance) { mu.Lock(); defer mu.Unlock(); out = append(out, x) }
	)
	for _, name := range s.cfg.Services {
		g.Go(func() error { add(s.lookAtService(ctx, name)); return nil })
	}
	g.Go(func() error { add(s.lookAtBus(ctx)); return nil })
	g.Go(func() error { add(s.lookAtDatabase(ctx)); return nil })
	g.Go(func() error {
		asking, cancel := context.WithTimeout(ctx, glanceTimeout)
		defer cancel()
		r, err := s.states.ListAccountScans(asking, &healthv1.ListAccountScansRequest{}, grpc.WaitForReady(false))
		if err != nil {
			return nil //nolint:nilerr // that persistence does not answer is its own component's affair
		}
		all = true
		var accounts errgroup.Group
		accounts.SetLimit(entrances)
		for _, a := range r.GetAccounts() {
			accounts.Go(func() error { add(s.lookAtAccount(ctx, a)); return nil })
		}
		return accounts.Wait()
	})
	_ = g.Wait()
	return out, all
}

func (s *Service) lookAtBus(ctx context.Context) *glance {
	ctx, cancel := context.WithTimeout(ctx, glanceTimeout)
	defer cancel()
	g := &glance{name: "nats", kind: healthv1.ComponentKind_COMPONENT_KIND_BUS, state: up}
	st, err := s.bus.Status(ctx)
	if err != nil {
		g.state, g.reason = down, errorText(err)
		return g
	}
	var (
		wrong            []string
		messages, behind uint64
	)
	if len(st.Missing) > 0 {
		wrong = append(wrong, "there is no stream "+strings.Join(st.Missing, ", "))
	}
	if st.StoreLimit > 0 && float64(st.Stored) > fullShare*float64(st.StoreLimit) {
		wrong = append(wrong, fmt.Sprintf("JetStream's storage is %d %% full", 100*st.Stored/st.StoreLimit))
	}
	for _, stream := range st.Streams {
		messages += stream.Messages
		switch {
		case stream.Leaderless:
			g.state = down
			wrong = append(wrong, "stream "+stream.Name+" has no leader")
		case stream.Current < stream.Replicas:
			wrong = append(wrong, fmt.Sprintf("of stream %s %d of %d replicas are current", stream.Name, stream.Current, stream.Replicas))
		}
		for _, c := range stream.Consumers {
			behind += c.Pending
			if c.Pending > manyPending {
				wrong = append(wrong, fmt.Sprintf("consumer %s is %d messages behind", c.Name, c.Pending))
			}
		}
	}
	g.attributes = map[string]string{
		"server": st.Server, "version": st.Version, "rtt": st.RTT.Round(time.Microsecond).String(), "streams": strconv.Itoa(len(st.Streams)),
		"messages": strconv.FormatUint(messages, 10), "pending": strconv.FormatUint(behind, 10),
	}
	if len(wrong) > 0 {
		if g.state == up {
			g.state = degraded
		}
		g.reason = strings.Join(wrong, "; ")
		return g
	}
	g.reason = fmt.Sprintf("%d streams, %d messages wait for consumers", len(st.Streams), behind)
	return g
}

func (s *Service) lookAtDatabase(ctx context.Context) *glance {
	ctx, cancel := context.WithTimeout(ctx, 2*glanceTimeout) // persistence itself waits five seconds for its database
	defer cancel()
	g := &glance{name: "postgres", kind: healthv1.ComponentKind_COMPONENT_KIND_DATABASE, state: up}
	r, err := s.states.GetDatabase(ctx, &healthv1.GetDatabaseRequest{}, grpc.WaitForReady(false))
	switch {
	case errs.Reason(err) == "DATABASE_UNAVAILABLE", errs.Reason(err) == "DATABASE_TOO_SLOW":
		g.state, g.reason = down, errorText(err)
		return g
	case err != nil:
		g.state, g.reason = unknown, "persistence, which would tell, does not answer: "+errorText(err)
		return g
	}
	var wrong []string
	if r.GetReadOnly() {
		wrong = append(wrong, "the server is a standby and takes no writes")
	}
	if m := r.GetMaxConnections(); m > 0 && float64(r.GetConnections()) >= fullShare*float64(m) {
		wrong = append(wrong, fmt.Sprintf("%d of %d connections are taken", r.GetConnections(), m))
	}
	if age := r.GetOutboxAge().AsDuration(); age > slowOutbox {
		wrong = append(wrong, fmt.Sprintf("%d events wait to be published, the oldest for %s", r.GetOutbox(), age.Round(time.Second)))
	}
	g.attributes = map[string]string{
		"version": r.GetVersion(), "schema": strconv.FormatInt(r.GetSchemaVersion(), 10), "size_bytes": strconv.FormatInt(r.GetSizeBytes(), 10),
		"connections": strconv.Itoa(int(r.GetConnections())), "outbox": strconv.FormatInt(r.GetOutbox(), 10),
	}
	if len(wrong) > 0 {
		g.state, g.reason = degraded, strings.Join(wrong, "; ")
		return g
	}
	g.reason = fmt.Sprintf("version %s, %d of %d connections", r.GetVersion(), r.GetConnections(), r.GetMaxConnections())
	return g
}

func (s *Service) lookAtAccount(ctx context.Context, a *healthv1.AccountScan) *glance {
	g := &glance{
		name: "account/" + a.GetAccount(), title: a.GetName(), kind: healthv1.ComponentKind_COMPONENT_KIND_ACCOUNT,
		attributes: map[string]string{"regions": strconv.Itoa(int(a.GetRegions())), "scopes": strconv.Itoa(int(a.GetScopes())), "failed_scopes": strconv.Itoa(int(a.GetFailedScopes()))},
	}
	if t := a.GetCompleteTime(); t != nil {
		g.attributes["complete_time"] = t.AsTime().Format(time.RFC3339)
	}
	entering, cancel := context.WithTimeout(ctx, 2*glanceTimeout)
	defer cancel()
	_, err := s.cloud.Session(entering, aws.Target{
		Account: a.GetAccount(), Partition: a.GetPartition(), RoleARN: a.GetRoleArn(), ExternalID: a.GetExternalId(), SessionName: "nightshift-health",
	}, "us-east-1")
	g.state, g.reason = judgeAccount(a, err, s.now(), s.cfg.Stale)
	return g
}

// judgeAccount says how an account is, by whether it can be entered and by what
// scans told of it.
func judgeAccount(a *healthv1.AccountScan, entered error, now time.Time, stale time.Duration) (healthv1.ComponentState, string) {
	switch aws.Classify(entered) {
	case 0:
	case aws.Denied, aws.Credentials:
		return down, "it cannot be entered: " + errorText(entered)
	default:
		return unknown, "whether it can be entered cannot be told: " + errorText(entered)
	}
	failed := ""
	if a.GetFailedScopes() > 0 {
		failed = fmt.Sprintf("%d of %d scopes were not seen in full by the newest runs", a.GetFailedScopes(), a.GetScopes())
		if e := a.GetError(); e != "" {
			failed += ": " + e
		}
	}
	complete := a.GetCompleteTime()
	switch {
	case failed != "" && a.GetFailedScopes() == a.GetScopes() && complete == nil:
		return down, failed
	case a.GetScanTime() == nil:
		return unknown, "it can be entered, and was never scanned yet"
	case complete == nil:
		return degraded, firstOf(failed, "it was never scanned completely yet")
	case now.Sub(complete.AsTime()) > stale:
		return degraded, fmt.Sprintf("the last complete scan was %s ago%s", age(now.Sub(complete.AsTime())), after("; ", failed))
	case failed != "":
		return degraded, failed
	}
	return up, fmt.Sprintf("%d regions scanned completely %s ago", a.GetRegions(), age(now.Sub(complete.AsTime())))
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}

// age is a length of time for people.
func age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return "a moment"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " minutes"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " hours"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " days"
}

// word is a state for people.
func word(s healthv1.ComponentState) string {
	return strings.TrimPrefix(s.String(), "COMPONENT_STATE_")
}

// dialing is how gRPC wraps the error of a connection that failed.
var dialing = regexp.MustCompile(`transport: Error while dialing: (.+?)"?$`)

// errorText is an error for people, without gRPC's words around it.
func errorText(err error) string {
	text := err.Error()
	if m := dialing.FindStringSubmatch(text); m != nil {
		text = m[1]
	}
	if errors.Is(err, errs.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		text = "no answer in time"
	}
	return text
}

// clip makes text fit for protobuf and Postgres, in so many bytes.
func clip(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= most {
		return s
	}
	n := most - len("…")
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
