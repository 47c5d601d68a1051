// Package app is what every service runs on: a gRPC server with health,
// reflection, validation, deadlines, recovery, logs, traces and metrics; a
// connection to the bus; and one order of starting and stopping.
//
// It exists so that a service is its business and nothing else, and so that
// one process can host one service or all of them through the same
// constructors. It must not know any service.
package app

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/bus"
)

// Version is what this build calls itself; the linker sets it.
var Version = "dev"

// Service is a running service. Everything that can fail on the way there is
// done by its constructor. One that is an io.Closer is closed when no call and
// no handler is left.
type Service interface {
	// Register adds the service's APIs to its server.
	Register(s grpc.ServiceRegistrar)
	// Run does the work that no caller asks for, such as loops, until ctx
	// ends, and then returns nil once it has let go of everything. It returns
	// earlier only with an error, which stops the process.
	Run(ctx context.Context) error
}

// Handlers is the whole Service of one that does nothing but handle messages,
// registered on its bus: it has no API and no loops.
type Handlers struct{}

// Register implements Service.
func (Handlers) Register(grpc.ServiceRegistrar) {}

// Run implements Service.
func (Handlers) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Env is what a constructor is given.
type Env struct {
	// Name of the service.
	Name string
	// Log carries the service's name.
	Log *slog.Logger
	// Bus is the service's connection to the bus. Handlers registered on it
	// begin to be called when every service of the process stands.
	Bus *bus.Bus
	// Dial returns the connection to another service, by name. It connects
	// when it is used, waits for a service that is not there yet as long as
	// the call's deadline allows, and turns errors back into those of errs.
	Dial func(service string) grpc.ClientConnInterface
	// Lookup tells a configuration variable's value and whether it is set.
	Lookup func(name string) (string, bool)
	// Now is the clock.
	Now func() time.Time
}

// Definition is a service as the list of services knows it.
type Definition struct {
	// Name is lower-case letters; it is also the binary's name.
	Name string
	// Summary is one line for help texts.
	Summary string
	// Port is the gRPC port the service listens on unless told otherwise; 0
	// takes a free one, for a service that nobody calls.
	Port int
	// Config is the zero value of the service's configuration struct, from
	// which the reference of variables is made.
	Config any
	// New builds the service. What it opened before an error it closes.
	New func(ctx context.Context, env *Env) (Service, error)
}

// AddrVar is the variable that says where a service is to be reached.
func (d Definition) AddrVar() string { return AddrVar(d.Name) }

// AddrVar is the variable that says where a service is to be reached, such as
// NIGHTSHIFT_PERSISTENCE_ADDR.
func AddrVar(service string) string { return "NIGHTSHIFT_" + strings.ToUpper(service) + "_ADDR" }

// addr is where the service listens unless told otherwise.
func (d Definition) addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.Port)) }

// DefaultAddr is where a service of Nightshift listens and is looked for unless
// told otherwise: loopback, at its well-known port. Other services are looked
// for where AddrVar says; their port here is 0.
func DefaultAddr(service string) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[service]))
}

// ports are the well-known ports, in one place so that a service can be found
// by one that does not link it.
var ports = map[string]int{
	"scheduler": 7301, "waste": 7302, "security": 7303, "cleanup": 7304,
	"health": 7305, "persistence": 7306, "notification": 7307,
}

// Config is what every service process reads from its environment.
type Config struct {
	Listen      string        `env:"NIGHTSHIFT_LISTEN" help:"Address the gRPC server listens on. Default: 127.0.0.1 and the service's well-known port."`
	NATSURL     string        `env:"NATS_URL" envDefault:"nats://127.0.0.1:4222" help:"NATS servers, separated by commas; with tls:// they must have a certificate of the CA in NIGHTSHIFT_TLS_DIR, and are shown the service's."`
	NATSURLFile string        `env:"NATS_URL_FILE" help:"File with the NATS_URL to use, as \"nightshift deploy nats\" writes it, so that its password is in no environment. Default: none."`
	Replicas    int           `env:"NIGHTSHIFT_STREAM_REPLICAS" envDefault:"0" help:"How many NATS servers keep each stream, 1 to 5: 3 in production. 0 leaves streams as they are and makes new ones with 1."`
	TLSDir      string        `env:"NIGHTSHIFT_TLS_DIR" help:"Directory with ca.crt, tls.crt and tls.key, read again when they change: callers must show a certificate of the CA or a token. Default: none, and nobody is asked."`
	TokenFile   string        `env:"NIGHTSHIFT_TOKEN_FILE" help:"File with a token to call other services of this machine with that have no TLS, such as .nightshift/token for a service beside nightshift up. Default: none."`
	Insecure    bool          `env:"NIGHTSHIFT_INSECURE" envDefault:"false" help:"Allows to listen beyond this machine without TLS: everybody who reaches the service may do everything."`
	LogLevel    slog.Level    `env:"NIGHTSHIFT_LOG_LEVEL" envDefault:"info" help:"Least level that is logged: debug, info, warn or error."`
	LogFormat   string        `env:"NIGHTSHIFT_LOG_FORMAT" envDefault:"auto" help:"json, text, or auto: text on a terminal, json otherwise."`
	StopTimeout time.Duration `env:"NIGHTSHIFT_STOP_TIMEOUT" envDefault:"4s" help:"How long work in hand may take to finish when the process is asked to stop."`
	auth.OIDCConfig
}
