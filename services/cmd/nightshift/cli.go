package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"nightshift.dev/pkg/app"
	"nightshift.dev/services"
)

// cli is one invocation: where it reads and writes, and the global flags.
type cli struct {
	out, err       io.Writer
	lookup         func(string) (string, bool)
	now            func() time.Time
	outTTY, errTTY bool
	// size of the terminal in characters.
	size func() (width, height int)

	output            string
	dataDir           string
	addrs             map[string]string
	tlsDir, tokenFile string
	color             string
	timeout           time.Duration
	verbose           bool

	// giveUp ends the process when a stop takes too long; nil: wait for it.
	giveUp func()

	// limited is the context that --timeout ends; nil without.
	limited context.Context

	// started is set once cobra has understood the command line.
	started bool

	mu    sync.Mutex
	above io.Writer // where lines go while progress is shown below them
	conns []*grpc.ClientConn
}

// errTimeout is the cause of a context that --timeout ended.
var errTimeout = errors.New("not done within --timeout")

// defaultDataDir is where "up" keeps its data unless told otherwise: beside
// what one is working on, easy to see and to delete.
const defaultDataDir = ".nightshift"

func (c *cli) run(ctx context.Context, args []string) int {
	root := c.command()
	root.SetArgs(args)
	root.SetOut(c.out)
	root.SetErr(c.err)
	err := root.ExecuteContext(ctx)
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	return c.finish(ctx, err)
}

func (c *cli) command() *cobra.Command {
	var cancel context.CancelFunc
	root := &cobra.Command{
		Use:   "nightshift",
		Short: "Finds waste in AWS accounts, and follows it from opened to resolved",
		Long: `Nightshift looks after AWS accounts while their owners sleep: it finds waste on schedules, follows every finding from
opened to resolved, and says what it costs.

  nightshift up          everything in one process; a demo estate when there are no AWS credentials
  nightshift scan        look at the account the environment points at; needs nothing else, changes nothing

` + exitHelp,
		Example: `  nightshift up --demo
  nightshift findings list --severity high
  nightshift scan waste --regions eu-west-1 -o jsonl | jq .monthly_cost.high`,
		SilenceUsage: true, SilenceErrors: true,
		Args: noneOf,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			c.started = true
			if !slices.Contains(formats, c.output) {
				return usage("-o %q is not one of %s", c.output, strings.Join(formats, ", "))
			}
			if !slices.Contains(colors, c.color) {
				return usage("--color %q is not one of %s", c.color, strings.Join(colors, ", "))
			}
			if c.timeout < 0 {
				return usage("--timeout %s is negative", c.timeout)
			}
			for service, addr := range c.addrs {
				if _, _, err := net.SplitHostPort(addr); err != nil || !known(service) {
					return usage("--addr %s=%s is not SERVICE=HOST:PORT with a service of %s", service, addr, strings.Join(serviceNames(), ", "))
				}
			}
			if c.timeout > 0 {
				c.limited, cancel = context.WithTimeoutCause(cmd.Context(), c.timeout, errTimeout)
				cmd.SetContext(c.limited)
			}
			return nil
		},
		PersistentPostRun: func(*cobra.Command, []string) {
			if cancel != nil {
				cancel()
			}
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return hint{err, "\"" + cmd.CommandPath() + " --help\" lists the flags."}
	})
	f := root.PersistentFlags()
	f.StringVarP(&c.output, "output", "o", "table", "output: "+strings.Join(formats, ", "))
	f.StringVar(&c.dataDir, "data-dir", "", `directory of "up", also where other commands learn its addresses (default "`+defaultDataDir+`", or $NIGHTSHIFT_DATA_DIR)`)
	f.StringToStringVar(&c.addrs, "addr", nil, "address of a service, SERVICE=HOST:PORT; may be given several times")
	f.StringVar(&c.tlsDir, "tls-dir", "", "directory with ca.crt of services that use TLS, and an operator's tls.crt and tls.key (default $NIGHTSHIFT_TLS_DIR)")
	f.StringVar(&c.tokenFile, "token-file", "", `file with the token to call with (default $NIGHTSHIFT_TOKEN, $NIGHTSHIFT_TOKEN_FILE, that of "up", ~/.config/nightshift/token)`)
	f.DurationVar(&c.timeout, "timeout", 0, "give up after this long, such as 30s or 10m (default: 30s for a call, none for what goes on)")
	f.StringVar(&c.color, "color", "auto", "colours: "+strings.Join(colors, ", ")+"; auto respects NO_COLOR")
	f.BoolVarP(&c.verbose, "verbose", "v", false, "say more on stderr")
	complete(root, "output", formats...)
	complete(root, "color", colors...)
	_ = root.MarkPersistentFlagDirname("data-dir")
	_ = root.MarkPersistentFlagDirname("tls-dir")
	_ = root.MarkPersistentFlagFilename("token-file")

	root.AddCommand(c.upCommand(), c.scanCommand(),
		c.findingsCommand(), c.exemptionsCommand(), c.reportCommand(), c.runsCommand(), c.jobsCommand(), c.rulesCommand(), c.accountsCommand(), c.logsCommand(), c.deadLettersCommand(),
		c.healthCommand(), c.doctorCommand(), c.inventoryCommand(), c.cleanupCommand(), c.auditCommand(),
		c.tokensCommand(), c.whoamiCommand(), c.deployCommand(),
		c.notifyCommand(), c.pricesCommand(), c.versionCommand())
	for _, g := range []struct {
		id, title string
		commands  []string
	}{
		{"look", "Look:", []string{"up", "scan", "doctor"}},
		{"ask", "Ask the running services:", []string{"findings", "exemptions", "report", "runs", "jobs", "rules", "accounts", "logs", "deadletters", "health", "inventory", "cleanup", "notify"}},
		{"allow", "Decide who may what:", []string{"whoami", "tokens", "audit", "deploy"}},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, cmd := range root.Commands() {
			if slices.Contains(g.commands, cmd.Name()) {
				cmd.GroupID = g.id
			}
		}
	}
	tidy(root)
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages |", ".FlagUsages | plainSwitches |"))
	return root
}

// A switch is shown as --once, not as --once[=true|false].
func init() {
	const values = "[=true|false]"
	cobra.AddTemplateFunc("plainSwitches", func(s string) string { return strings.ReplaceAll(s, values, strings.Repeat(" ", len(values))) })
}

// tidy leaves out of help texts that the default of a map is an empty one.
func tidy(cmd *cobra.Command) {
	for _, set := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		set.VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() == "stringToString" {
				f.DefValue = ""
			}
		})
	}
	for _, sub := range cmd.Commands() {
		tidy(sub)
	}
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, Args: noneOf,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, cmd := range commands {
		if cmd.Example != "" {
			first, _, _ := strings.Cut(cmd.Example, "\n")
			g.Example += first + "\n"
		}
	}
	g.Example = strings.TrimRight(g.Example, "\n")
	g.AddCommand(commands...)
	return g
}

// noneOf refuses what is no command of a group, and says which are near.
func noneOf(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(text)
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Example: "  nightshift version -o json",
		RunE: func(*cobra.Command, []string) error {
			v := object{{"version", app.Version}, {"services", stringList(serviceNames())}}
			return printOne(c, v, func(o object) object { return o }, []column[object]{
				{name: "version", text: func(object) string { return app.Version }},
				{name: "services", text: func(object) string { return strings.Join(serviceNames(), " ") }},
			}, func() { c.print("nightshift %s\n", app.Version) })
		},
	}
}

func serviceNames() []string {
	names := make([]string, len(services.All))
	for i, d := range services.All {
		names[i] = d.Name
	}
	return names
}

func known(service string) bool { return slices.Contains(serviceNames(), service) }

// say writes a line to stderr, above progress if there is any.
func (c *cli) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.err
	if c.above != nil {
		w = c.above
	}
	_, _ = fmt.Fprintf(w, format+"\n", args...)
}

// print writes to stdout.
func (c *cli) print(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintf(c.out, format, args...)
}

// env returns a variable, or "".
func (c *cli) env(name string) string { v, _ := c.lookup(name); return v }

// dir returns the data directory, and whether somebody named it.
func (c *cli) dir() (path string, named bool) {
	if c.dataDir != "" {
		return c.dataDir, true
	}
	if d := c.env("NIGHTSHIFT_DATA_DIR"); d != "" {
		return d, true
	}
	return defaultDataDir, false
}

// endpoints is what a running "up" writes into its data directory.
type endpoints struct {
	PID      int               `json:"pid"`
	Services map[string]string `json:"services"`
	NATS     string            `json:"nats,omitempty"`
	AWS      string            `json:"aws,omitempty"`
}

const endpointsFile = "endpoints.json"

func readEndpoints(dir string) (*endpoints, error) {
	b, err := os.ReadFile(filepath.Join(dir, endpointsFile))
	if err != nil {
		return nil, err
	}
	var e endpoints
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, endpointsFile), err)
	}
	return &e, nil
}

// addr says where a service is, and who says so: --addr, then a data directory
// that was named, then the service's variable, then the usual data directory,
// then the well-known port.
func (c *cli) addr(service string) (addr, source string, err error) {
	if a := c.addrs[service]; a != "" {
		return a, "from --addr", nil
	}
	dir, named := c.dir()
	e, err := readEndpoints(dir)
	switch {
	case err == nil && (named || c.env(app.AddrVar(service)) == "") && e.Services[service] != "":
		return e.Services[service], "from " + filepath.Join(dir, endpointsFile), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	case named && err != nil:
		return "", "", hint{fmt.Errorf("nothing runs on the data directory %s", dir),
			fmt.Sprintf("\"nightshift up --data-dir %s\" starts it; without --data-dir and NIGHTSHIFT_DATA_DIR the usual addresses are tried.", dir)}
	}
	if a := c.env(app.AddrVar(service)); a != "" {
		return a, "from " + app.AddrVar(service), nil
	}
	return app.DefaultAddr(service), "the usual address", nil
}

// dial returns the connection to a service. Calls fail at once when nobody
// listens, with advice.
func (c *cli) dial(service string) (grpc.ClientConnInterface, error) {
	addr, source, err := c.addr(service)
	if err != nil {
		return nil, err
	}
	how, err := c.way(service, addr, source)
	if err != nil {
		return nil, err
	}
	tell := func(err error) error { return how.notLetIn(c.unreachable(service, addr, source, err)) }
	// Ours come first, so that they see errors as the others leave them.
	opts := append([]grpc.DialOption{
		grpc.WithTransportCredentials(how.transport),
		grpc.WithUserAgent("nightshift/" + app.Version),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(receiveLimit)),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return tell(invoke(ctx, method, req, reply, cc, opts...))
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := streamer(ctx, desc, cc, method, opts...)
			if err != nil {
				return nil, tell(err)
			}
			return telling{s, tell}, nil
		}),
	}, app.ClientOptions()...)
	if how.bearer != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(how.bearer))
	}
	conn, err := grpc.NewClient(addr, opts...)
	if err != nil {
		return nil, usage("%s (%s) is not an address: %v", addr, source, err)
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

// receiveLimit bounds an answer, in bytes: a page of a thousand findings with
// long lists of evidence is some megabytes.
const receiveLimit = 64 << 20

// telling is a stream whose errors explain themselves.
type telling struct {
	grpc.ClientStream
	tell func(error) error
}

func (s telling) RecvMsg(m any) error { return s.tell(s.ClientStream.RecvMsg(m)) }

// complete registers the values of a flag for the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// completing asks a running service for names. A shell does not wait: what is
// not there at once is not offered.
func (c *cli) completing(names func(ctx context.Context) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		found, err := names(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func stringList(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}
