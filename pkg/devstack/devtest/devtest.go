// Package devtest gives a test a real Postgres database or a real NATS server of its own. Both are gone when the test
// is, and the server behind them when the test binary is, however it ends: a TestMain is not needed.
//
// It is for tests only. It imports devstack and pgx, and none of our packages.
package devtest

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"nightshift.dev/pkg/devstack"
)

// NATS starts a NATS server with JetStream in memory of this process, for t alone: it takes milliseconds. Connect with
// nats.Connect(s.URL(), s.Options()...).
func NATS(t testing.TB) *devstack.NATSServer {
	t.Helper()
	s, err := devstack.NATS(devstack.NATSOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// DB makes a database for t alone and returns its DSN; it is dropped at the end of t. migrate fills a template, once
// per function and test binary, of which every test gets a copy: 20 ms instead of all migrations. It must close its
// connections. nil: an empty database.
//
// A function counts by its name, so a closure must not do something else each time.
func DB(t testing.TB, migrate func(ctx context.Context, dsn string) error) string {
	t.Helper()
	c, err := start()
	if err != nil {
		t.Fatal(err)
	}
	template, err := c.template(migrate)
	if err != nil {
		t.Fatal(err)
	}
	name, err := c.create(template)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("devtest: drop %s: %v", name, err)
		}
	})
	return c.server.Database(name)
}

// cluster is the one server of this test binary. Nobody stops it: it is temporary, so it goes with the process.
type cluster struct {
	server   *devstack.PostgresServer
	strategy string // of CREATE DATABASE

	mu        sync.Mutex
	admin     *pgx.Conn
	names     int
	templates map[string]func() (string, error)
}

var start = sync.OnceValues(func() (*cluster, error) {
	ctx := context.Background() // outlives the test that happens to be the first
	server, err := devstack.Postgres(ctx, devstack.PostgresOptions{})
	if err != nil {
		return nil, err
	}
	admin, err := pgx.Connect(ctx, server.DSN())
	if err != nil {
		server.Stop()
		return nil, fmt.Errorf("devtest: %w", err)
	}
	c := &cluster{server: server, admin: admin, templates: map[string]func() (string, error){}}
	// Copying files is the only way of 14, and without fsync faster than the new way of 15.
	if !strings.HasPrefix(admin.PgConn().ParameterStatus("server_version"), "14.") {
		c.strategy = " STRATEGY file_copy"
	}
	return c, nil
})

// template is the name of the database that migrate has filled.
func (c *cluster) template(migrate func(ctx context.Context, dsn string) error) (string, error) {
	if migrate == nil {
		return "template1", nil
	}
	function := runtime.FuncForPC(reflect.ValueOf(migrate).Pointer()).Name()
	c.mu.Lock()
	once, ok := c.templates[function]
	if !ok {
		once = sync.OnceValues(func() (string, error) {
			name, err := c.create("template1")
			if err != nil {
				return "", err
			}
			if err := migrate(context.Background(), c.server.Database(name)); err != nil {
				return "", fmt.Errorf("devtest: %s: %w", function, err)
			}
			return name, nil
		})
		c.templates[function] = once
	}
	c.mu.Unlock()
	return once()
}

// create makes a database out of a template and returns its name.
func (c *cluster) create(template string) (string, error) {
	c.mu.Lock()
	c.names++
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), c.names)
	c.mu.Unlock()
	if err := c.exec("CREATE DATABASE " + name + " TEMPLATE " + template + c.strategy); err != nil {
		return "", fmt.Errorf("devtest: %w", err)
	}
	return name, nil
}

func (c *cluster) exec(sql string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.admin.Exec(context.Background(), sql)
	return err
}
