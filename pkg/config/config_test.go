package config_test

import (
	"strings"
	"testing"
	"time"

	"nightshift.dev/pkg/config"
)

type shared struct {
	Level string `env:"LEVEL" envDefault:"info" help:"How much is logged."`
}

type cfg struct {
	shared
	URL   string        `env:"DATABASE_URL,required" help:"Where Postgres is."`
	Wait  time.Duration `env:"WAIT" envDefault:"5s" help:"How long to wait."`
	Many  int           `env:"MANY" envDefault:"3"`
	Other string
}

func from(m map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

func TestLoad(t *testing.T) {
	t.Parallel()
	var c struct {
		URL  string        `env:"DATABASE_URL,required" help:"Where Postgres is."`
		Wait time.Duration `env:"WAIT" envDefault:"5s" help:"How long to wait."`
		Many int           `env:"MANY" envDefault:"3"`
	}
	if err := config.Load(&c, from(map[string]string{"DATABASE_URL": "x", "MANY": "7", "WAIT": ""})); err != nil {
		t.Fatal(err)
	}
	if c.URL != "x" || c.Wait != 5*time.Second || c.Many != 7 {
		t.Errorf("%+v", c)
	}
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	var c struct {
		URL  string        `env:"DATABASE_URL,required" help:"Where Postgres is."`
		Wait time.Duration `env:"WAIT" envDefault:"5s"`
		Many int           `env:"MANY"`
	}
	err := config.Load(&c, from(map[string]string{"WAIT": "secret-soon", "MANY": "secret-few"}))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"DATABASE_URL: must be set: Where Postgres is.", "WAIT: is not a valid duration, such as 30s", "MANY: is not a valid whole number"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a value was repeated: %s", err)
	}
}

func TestVars(t *testing.T) {
	t.Parallel()
	vars := config.Vars(cfg{})
	if len(vars) != 4 || vars[0].Name != "LEVEL" || vars[1].Name != "DATABASE_URL" || !vars[1].Required || vars[2].Default != "5s" {
		t.Errorf("%+v", vars)
	}
	if config.Vars(nil) != nil {
		t.Error("nil has variables")
	}
}
