package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/config"
	"nightshift.dev/services/scheduler"
)

var (
	full     = flag.Bool("full", false, "run the whole of every scenario, and judge recoveries by their times")
	seed     = flag.Uint64("seed", 0, "what the kills are drawn from; 0 takes a new one and prints it")
	kills    = flag.Int("kills", 0, "strikes in the scans; 0: 200 in a full run, 6 in a short one")
	duration = flag.Duration("duration", 0, "how long each way of firing is tried; 0: 3m in a full run, 12s in a short one")
)

// either is a value of the full run or of the short one.
func either[T any](whole, short T) T {
	if *full {
		return whole
	}
	return short
}

// Roles that the test binary takes on as a process of its own, so that it can be killed and frozen.
const (
	roleVar       = "CHAOS_ROLE"
	roleNATS      = "nats"
	roleScheduler = "scheduler"
	natsVar       = "CHAOS_NATS"
	skewVar       = "CHAOS_SKEW"
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVar) {
	case roleNATS:
		err = runNATS()
	case roleScheduler:
		err = runScheduler()
	default:
		flag.Parse()
		*seed = cmp.Or(*seed, rand.Uint64N(1_000_000)+1)
		*kills = cmp.Or(*kills, either(200, 6))
		*duration = cmp.Or(*duration, either(3*time.Minute, 12*time.Second))
		fmt.Printf("chaos: -seed %d\n", *seed)
		os.Exit(run(m))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(m *testing.M) int {
	defer func() {
		if binaries != "" {
			_ = os.RemoveAll(binaries)
		}
	}()
	return m.Run()
}

// natsConfig is what a NATS process is told.
type natsConfig struct {
	Name          string
	Port, Cluster int // Cluster is the port its peers reach it on; 0: it has none
	Routes        []string
	Dir           string
	SyncAlways    bool
}

func runNATS() error {
	var c natsConfig
	if err := json.Unmarshal([]byte(os.Getenv(natsVar)), &c); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: c.Name, Host: "127.0.0.1", Port: c.Port, JetStream: true, StoreDir: c.Dir, SyncAlways: c.SyncAlways, NoSigs: true,
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 8 << 30,
	}
	if c.Cluster != 0 {
		// Clients keep to the addresses they were given, which may be those of proxies.
		o.Cluster = server.ClusterOpts{Name: "chaos", Host: "127.0.0.1", Port: c.Cluster, NoAdvertise: true}
		for _, r := range c.Routes {
			u, err := url.Parse(r)
			if err != nil {
				return err
			}
			o.Routes = append(o.Routes, u)
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.SetLoggerV2(natsLog{}, false, false, false)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s.Start()
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

type natsLog struct{}

func (natsLog) Noticef(format string, args ...any) { say("INF", format, args) }
func (natsLog) Warnf(format string, args ...any)   { say("WRN", format, args) }
func (natsLog) Errorf(format string, args ...any)  { say("ERR", format, args) }
func (natsLog) Fatalf(format string, args ...any)  { say("FTL", format, args); os.Exit(1) }
func (natsLog) Debugf(string, ...any)              {}
func (natsLog) Tracef(string, ...any)              {}

func say(level, format string, args []any) {
	fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05.000"), level, fmt.Sprintf(format, args...))
}

// runScheduler is the scheduler's binary with a clock that is wrong.
func runScheduler() error {
	skew, err := time.ParseDuration(os.Getenv(skewVar))
	if err != nil {
		return err
	}
	var c app.Config
	if err := config.Load(&c, os.LookupEnv); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := app.NewLog(os.Stderr, c.LogLevel, "json")
	slog.SetDefault(log)
	host, err := app.Start(ctx, app.Options{
		Definitions: []app.Definition{scheduler.Definition},
		Listen:      func(string) string { return c.Listen },
		Bus:         bus.Config{URL: c.NATSURL},
		Lookup:      os.LookupEnv,
		Log:         log,
		StopTimeout: c.StopTimeout,
		Now:         func() time.Time { return time.Now().Add(skew) },
	})
	if err != nil {
		return err
	}
	return host.Run(ctx)
}
