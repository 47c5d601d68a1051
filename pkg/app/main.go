package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"nightshift.dev/pkg/config"
)

// Main is the whole of a service's binary: it runs the service until SIGINT
// or SIGTERM and ends the process with 0, or with 1 after an error, or with 2
// when it was called wrongly.
func Main(def Definition) {
	os.Exit(run(def, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

func run(def Definition, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "%s: %v\n", def.Name, err)
		return 1
	}
	switch {
	case len(args) == 0:
		if err := serve(def, lookup); err != nil {
			return fail(err)
		}
		return 0
	case len(args) == 1 && args[0] == "health":
		if err := checkHealth(def, lookup); err != nil {
			return fail(err)
		}
		return 0
	case len(args) == 1 && args[0] == "version":
		fmt.Fprintln(stdout, def.Name, Version)
		return 0
	case len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help"):
		usage(stdout, def)
		return 0
	default:
		usage(stderr, def)
		return 2
	}
}

func usage(w io.Writer, def Definition) {
	fmt.Fprintf(w, "%s: %s\n\nUsage:\n  %s           run until SIGINT or SIGTERM\n  %s health    0 when the running service serves, 1 otherwise\n  %s version\n\nEnvironment:\n",
		def.Name, def.Summary, def.Name, def.Name, def.Name)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range append(config.Vars(Config{}), config.Vars(def.Config)...) {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", v.Name, v.Default, v.Help)
	}
	_ = tw.Flush()
}

func serve(def Definition, lookup func(string) (string, bool)) error {
	var cfg Config
	if err := config.Load(&cfg, lookup); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := NewLog(os.Stderr, cfg.LogLevel, cfg.LogFormat)
	slog.SetDefault(log)
	flush, err := Telemetry(ctx, def.Name)
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = flush(ctx)
	}()
	security, err := cfg.Security(def.Name, log)
	if err != nil {
		return err
	}
	events, err := NATS(cfg.NATSURL, cfg.NATSURLFile, security)
	if err != nil {
		return err
	}
	events.Replicas = cfg.Replicas
	host, err := Start(ctx, Options{
		Definitions: []Definition{def},
		Listen:      func(string) string { return listenAddr(def, cfg) },
		Security:    security,
		Bus:         events,
		Lookup:      lookup,
		Log:         log,
		StopTimeout: cfg.StopTimeout,
	})
	if err != nil {
		return err
	}
	return host.Run(ctx)
}

func listenAddr(def Definition, cfg Config) string {
	if cfg.Listen != "" {
		return cfg.Listen
	}
	return def.addr()
}

// checkHealth asks the service that runs with the same environment.
func checkHealth(def Definition, lookup func(string) (string, bool)) error {
	var cfg Config
	if err := config.Load(&cfg, lookup); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(listenAddr(def, cfg))
	if err != nil {
		return fmt.Errorf("NIGHTSHIFT_LISTEN: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	security, err := cfg.Security(def.Name, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(net.JoinHostPort(host, port), append(ClientOptions(), grpc.WithTransportCredentials(security.transport(def.Name)))...)
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if s := resp.GetStatus(); s != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("is %s", s)
	}
	return nil
}

// NewLog returns a log of a format: json, text, or auto, which is text when
// the file is a terminal.
func NewLog(w *os.File, level slog.Level, format string) *slog.Logger {
	tty := term.IsTerminal(int(w.Fd()))
	if format == "text" || format == "auto" && tty {
		_, noColor := os.LookupEnv("NO_COLOR")
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: noColor || !tty}))
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}
