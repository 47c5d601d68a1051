// Jobkind is a service of another team that brings its own kind of job,
// certificates: each run looks at the TLS certificates of some hosts, one scope
// per host, and counts those that expire soon. Schedules, runs, retries,
// cancelling and the rest come from Nightshift. Beside `make run`:
//
//	NIGHTSHIFT_TOKEN_FILE=.nightshift/token go run ./examples/jobkind
//	nightshift jobs create certs --kind certificates --schedule "@daily" --param hosts=example.com,example.org:8443 --param days=30
//	nightshift jobs run certs --watch
//
// Start a second one, kill one of them in the middle: the other does the rest.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/job"
)

func main() {
	app.Main(app.Definition{
		Name: "certificates", Summary: "looks after the expiry of TLS certificates", Port: 7390,
		New: func(_ context.Context, env *app.Env) (app.Service, error) {
			job.Handle(env, certificates)
			return app.Handlers{}, nil
		},
	})
}

var certificates = job.Kind{Name: "certificates", Plan: plan, Do: check, Concurrency: 8}

// plan makes one scope per host.
func plan(_ context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
	var scopes []*runv1.PlannedScope
	for host := range hosts(t.GetParameters()) {
		scopes = append(scopes, job.Part(host))
	}
	if len(scopes) == 0 {
		return nil, job.Permanent(errors.New("the parameter hosts names none: want a list with commas, such as example.com,example.org:8443"))
	}
	if _, err := days(t.GetParameters()); err != nil {
		return nil, err
	}
	return scopes, nil
}

// check looks at one host.
func check(ctx context.Context, t *job.Task) error {
	soon, err := days(t.Parameters)
	if err != nil {
		return err
	}
	for host := range hosts(t.Parameters) {
		if !t.IsPart(host) {
			continue
		}
		expires, err := expiry(ctx, host)
		if err != nil {
			return err
		}
		left := time.Until(expires)
		t.Count("checked", 1)
		if left < soon {
			t.Count("expiring", 1)
			t.Log.WarnContext(ctx, "a certificate expires soon", "host", host, "expires", expires, "days", int(left.Hours()/24))
		}
	}
	return nil
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

// expiry asks a host for its certificate. A name that cannot be one, or that
// nobody knows, stays so; a connection that fails may work the next time.
func expiry(ctx context.Context, host string) (time.Time, error) {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, "443"
	}
	if !hostName.MatchString(name) {
		return time.Time{}, job.Permanent(fmt.Errorf("%q is not the name of a host", host))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// It is the expiry that is looked at, also of certificates that are not trusted, or expired already.
	dialer := tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(name, port))
	if unknown := (*net.DNSError)(nil); errors.As(err, &unknown) && unknown.IsNotFound {
		return time.Time{}, job.Permanent(err)
	}
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].NotAfter, nil
}

// hosts are those of the parameter, each once.
func hosts(parameters map[string]string) map[string]bool {
	all := map[string]bool{}
	for host := range strings.SplitSeq(parameters["hosts"], ",") {
		if host = strings.TrimSpace(host); host != "" {
			all[host] = true
		}
	}
	return all
}

// days is how soon is soon.
func days(parameters map[string]string) (time.Duration, error) {
	n := 30
	if text := parameters["days"]; text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > 3650 {
			return 0, job.Permanent(fmt.Errorf("the parameter days is %q: want 1 to 3650", text))
		}
	}
	return time.Duration(n) * 24 * time.Hour, nil
}
