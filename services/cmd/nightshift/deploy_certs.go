package main

import (
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"nightshift.dev/pkg/auth"
)

var serviceName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// issued is one certificate of "deploy certs".
type issued struct {
	name, dir string
	expire    time.Time
	written   bool
}

var issuedColumns = []column[issued]{
	{name: "name", head: "Name", text: func(i issued) string { return i.name }},
	{name: "expire_time", head: "Until", text: func(i issued) string { return when(timestamppb.New(i.expire)) }, csv: func(i issued) string { return i.expire.Format(time.RFC3339) }},
	{name: "state", head: "", text: func(i issued) string {
		if i.written {
			return "new"
		}
		return "as it was"
	}},
	{name: "directory", head: "NIGHTSHIFT_TLS_DIR", text: func(i issued) string { return i.dir }},
}

func issuedTree(i issued) object {
	return object{{"name", i.name}, {"expire_time", i.expire.Format(time.RFC3339)}, {"written", i.written}, {"directory", i.dir}}
}

func (c *cli) deployCerts() *cobra.Command {
	var (
		out          string
		names, hosts []string
		life, caLife time.Duration
	)
	cmd := &cobra.Command{
		Use: "certs", Short: "Make a certificate authority, and a certificate for each service", Args: cobra.NoArgs,
		Long: `Makes a certificate authority, and below it a directory with ca.crt, tls.crt and tls.key for each service and for the operator,
for their NIGHTSHIFT_TLS_DIR. A service is known by the name in its certificate, spiffe://nightshift/<name>; whoever has the
operator's may do everything, and makes the first token with it.

Run it again to renew: the authority stays, and certificates that have lived two thirds of their lives are written anew. Services
read theirs again by themselves. Whoever can read ca.key can be anybody: keep it apart from the services.`,
		Example: `  nightshift deploy certs --out certs
  nightshift deploy certs --out certs --host nightshift.internal --host 10.0.3.7
  nightshift deploy certs --out certs --lifetime 720h -o json`,
		RunE: func(*cobra.Command, []string) error {
			if life <= 0 || caLife <= 0 {
				return usage("--lifetime and --ca-lifetime are lengths of time, such as 2160h")
			}
			for _, n := range names {
				if !serviceName.MatchString(n) {
					return usage("--name %q is no name of a service: lower-case letters, digits and hyphens", n)
				}
			}
			now := c.now()
			ca, made, err := auth.OpenCA(out, now, caLife)
			if err != nil {
				return err
			}
			p := newPrinter(c, issuedTree, issuedColumns)
			all := append(append(slices.Clone(serviceNames()), auth.Operator), names...)
			for i, name := range all {
				if slices.Contains(all[:i], name) {
					continue
				}
				one := issued{name: name, dir: filepath.Join(out, name)}
				if one.expire, one.written, err = ca.Issue(name, append([]string{name, "localhost", "127.0.0.1", "::1"}, hosts...), now, life); err != nil {
					return err
				}
				if err := p.add(one); err != nil {
					return err
				}
			}
			if err := p.close(); err != nil {
				return err
			}
			what := "the authority in %s goes on until %s"
			if made {
				what = "made an authority in %s that lives until %s"
			}
			c.say(what, out, when(timestamppb.New(ca.Expire())))
			c.say("the first token: NIGHTSHIFT_TLS_DIR=%s nightshift tokens create NAME --role admin", filepath.Join(out, auth.Operator))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "certs", "directory to write into")
	f.StringSliceVar(&names, "name", nil, "also for services of your own, by their names")
	f.StringSliceVar(&hosts, "host", nil, "further host names and addresses at which the services are reached by tools that know nothing of their names")
	f.DurationVar(&life, "lifetime", 90*24*time.Hour, "how long certificates live")
	f.DurationVar(&caLife, "ca-lifetime", 5*365*24*time.Hour, "how long a new authority lives")
	_ = cmd.MarkFlagDirname("out")
	return cmd
}
