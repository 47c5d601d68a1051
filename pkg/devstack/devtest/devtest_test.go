package devtest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"nightshift.dev/pkg/devstack/devtest"
)

func migrate(ctx context.Context, dsn string) error {
	return execute(ctx, dsn, "CREATE TABLE thing (id int PRIMARY KEY); INSERT INTO thing VALUES (1)")
}

func migrateOther(ctx context.Context, dsn string) error {
	return execute(ctx, dsn, "CREATE TABLE other (id int PRIMARY KEY)")
}

func execute(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func TestEachTestHasItsOwnDatabase(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			// The same key everywhere: it would be there already if two shared a database.
			if err := execute(t.Context(), devtest.DB(t, migrate), "INSERT INTO thing VALUES (2)"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEachMigrationHasItsOwnTemplate(t *testing.T) {
	t.Parallel()
	if err := execute(t.Context(), devtest.DB(t, migrateOther), "INSERT INTO other VALUES (1)"); err != nil {
		t.Error(err)
	}
	if err := execute(t.Context(), devtest.DB(t, nil), "CREATE TABLE thing (); CREATE TABLE other ()"); err != nil {
		t.Error("an empty database is not empty:", err)
	}
}

// A test that leaves its connections open must not keep its database.
func TestDatabaseIsDropped(t *testing.T) {
	t.Parallel()
	var dsn string
	t.Run("inner", func(t *testing.T) {
		dsn = devtest.DB(t, migrate)
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if conn, err := pgx.Connect(t.Context(), dsn); err == nil {
		conn.Close(t.Context())
		t.Error("the database is still there after its test")
	}
}

func TestNATSKeepsWhatIsPublished(t *testing.T) {
	t.Parallel()
	s := devtest.NATS(t)
	nc, err := nats.Connect(s.URL(), s.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	if ack, err := js.Publish(t.Context(), "s", nil); err != nil || ack.Sequence != 1 {
		t.Errorf("publish = %+v, %v, want sequence 1", ack, err)
	}
}

func BenchmarkDB(b *testing.B) {
	for b.Loop() {
		devtest.DB(b, migrate)
	}
}
