package services_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/config"
	"nightshift.dev/services"
)

const root = "nightshift.dev/"

// layers are our packages from the bottom up. A package may import those of
// lower layers and, where peers is set, those beside it.
var layers = []struct {
	packages []string // a trailing /... takes all below
	peers    bool
}{
	{packages: []string{"gen/..."}, peers: true},
	{packages: []string{"pkg/rule", "pkg/errs", "pkg/access", "pkg/simaws", "pkg/plain"}},
	{packages: []string{"pkg/audit", "pkg/auth", "pkg/config", "pkg/filter", "pkg/page", "pkg/price", "pkg/aws", "pkg/report", "pkg/notify"}},
	{packages: []string{"pkg/bus", "pkg/inventory", "pkg/devstack/..."}},
	{packages: []string{"pkg/app"}},
	{packages: []string{"pkg/job/..."}},
	{packages: []string{"pkg/scan/..."}},
	{packages: []string{"services/scheduler", "services/waste", "services/security", "services/cleanup", "services/health", "services/persistence", "services/notification"}},
	{packages: []string{"services"}},
	{packages: []string{"services/cmd/..."}},
	{packages: []string{"services/chaos"}}, // tests alone, and of all
}

// bans say who alone may import what, and why.
var bans = []struct {
	imports *regexp.Regexp
	only    []string
	why     string
}{
	{regexp.MustCompile(`^github\.com/(uptrace/bun|pressly/goose)`), []string{"services/persistence"},
		"one service owns Postgres"},
	{regexp.MustCompile(`^github\.com/jackc/pgx`), []string{"services/persistence", "pkg/devstack/..."},
		"one service owns Postgres; devstack makes empty databases"},
	{regexp.MustCompile(`^github\.com/(nats-io|synadia-io)/`), []string{"pkg/bus", "pkg/devstack/..."},
		"everybody else speaks in events"},
	{regexp.MustCompile(`^github\.com/aws/`), []string{"pkg/aws", "pkg/inventory", "pkg/simaws"},
		"rules and services see values, never an SDK type"},
	{regexp.MustCompile(`^nightshift\.dev/pkg/(devstack|simaws)`), []string{"pkg/devstack/...", "pkg/simaws", "services/cmd/nightshift/...", "services/cmd/simaws"},
		"what is for demos and tests stays out of the services"},
	{regexp.MustCompile(`^(net|net/http|os|os/exec|syscall|io/fs|database/sql|google\.golang\.org/.*)$`), []string{"!pkg/rule"},
		"rules are pure"},
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", root+"gen/...", root+"pkg/...", root+"services/...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, root)
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 15 {
		t.Fatalf("only %d packages listed", len(pkgs))
	}
	return pkgs
}

func match(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if dir, ok := strings.CutSuffix(p, "/..."); ok {
			return path == dir || strings.HasPrefix(path, dir+"/")
		}
		return p == path
	})
}

func layer(path string) int {
	return slices.IndexFunc(layers, func(l struct {
		packages []string
		peers    bool
	}) bool {
		return match(l.packages, path)
	})
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		from := layer(p.ImportPath)
		if from < 0 {
			t.Errorf("%s has no layer: give it one in this test", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			path, ours := strings.CutPrefix(imp, root)
			if !ours || path == p.ImportPath {
				continue
			}
			to := layer(path)
			family := strings.HasPrefix(path, p.ImportPath+"/") || strings.HasPrefix(p.ImportPath, path+"/")
			if to > from || to == from && !layers[from].peers && !family {
				t.Errorf("%s imports %s, which is not below it", p.ImportPath, path)
			}
		}
	}
}

func TestImportsAreForThoseWhoMay(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		for _, ban := range bans {
			if not, ok := strings.CutPrefix(ban.only[0], "!"); ok {
				if p.ImportPath != not {
					continue
				}
			} else if match(ban.only, p.ImportPath) {
				continue
			}
			for _, imp := range p.Imports {
				if ban.imports.MatchString(imp) {
					t.Errorf("%s imports %s: %s", p.ImportPath, imp, ban.why)
				}
			}
		}
	}
}

// The stack of the compose file is secure without further ado: everybody shows
// a certificate, and nobody has the keys of another.
func TestComposeKeepsKeysApart(t *testing.T) {
	t.Parallel()
	compose := read(t, "../docker-compose.yml")
	for _, bad := range []string{"NIGHTSHIFT_INSECURE", "NATS_URL:", "nats://", "\n    ports:"} {
		if strings.Contains(compose, bad) {
			t.Errorf("docker-compose.yml has %q", bad)
		}
	}
	_, blocks, found := strings.Cut(compose, "\nservices:\n")
	blocks, _, end := strings.Cut(blocks, "\nnetworks:\n")
	if !found || !end {
		t.Fatal("docker-compose.yml has no services, or no networks after them")
	}
	mounts := map[string]string{}
	heads := regexp.MustCompile(`(?m)^  ([a-z-]+):$`).FindAllStringSubmatchIndex(blocks, -1)
	for i, h := range heads {
		body := blocks[h[1]:]
		if i+1 < len(heads) {
			body = blocks[h[1]:heads[i+1][0]]
		}
		name := blocks[h[2]:h[3]]
		for _, m := range regexp.MustCompile(`(keys[a-z-]*):(/\S*?):?(ro)?["\]\s]`).FindAllStringSubmatch(body, -1) {
			if mounts[name] != "" || m[3] != "ro" {
				t.Errorf("%s mounts %s, and has %q already; keys are mounted read-only, one volume each", name, m[0], mounts[name])
			}
			mounts[name] = m[1] + " " + m[2]
		}
		if strings.Contains(body, "*keymaker") && !slices.Contains([]string{"certs", "nats-users"}, name) {
			t.Errorf("%s has every key", name)
		}
	}
	want := map[string]string{"nats": "keys-nats /etc/nats/keys", "nightshift": "keys-operator /keys"}
	for _, def := range services.All {
		want[def.Name] = "keys-" + def.Name + " /keys"
		if !strings.Contains(compose, "    - keys-"+def.Name+":/deploy/"+def.Name+"\n") {
			t.Errorf("nothing fills the volume keys-%s", def.Name)
		}
	}
	if !maps.Equal(mounts, want) {
		t.Errorf("keys are mounted as %v; want %v", mounts, want)
	}
}

// A service that exists is complete: it has a binary, a block in the compose
// file with a health check, a port of its own, and every variable it reads is
// explained.
func TestNoServiceIsForgotten(t *testing.T) {
	t.Parallel()
	compose := read(t, "../docker-compose.yml")
	configuration := read(t, "../docs/configuration.md")
	ports := map[int]string{}
	for _, def := range services.All {
		main := read(t, filepath.Join("cmd", def.Name, "main.go"))
		if !strings.Contains(main, "app.Main("+def.Name+".Definition)") {
			t.Errorf("cmd/%s/main.go does not run the service", def.Name)
		}
		if !regexp.MustCompile(`(?m)^  ` + def.Name + `:$`).MatchString(compose) {
			t.Errorf("docker-compose.yml has no block for %s", def.Name)
		}
		if def.Summary == "" || def.New == nil {
			t.Errorf("%s has no summary or no constructor", def.Name)
		}
		if want := app.DefaultAddr(def.Name); !strings.HasSuffix(want, ":"+strconv.Itoa(def.Port)) {
			t.Errorf("%s has port %d, and is looked for at %s", def.Name, def.Port, want)
		}
		if other, taken := ports[def.Port]; taken {
			t.Errorf("%s and %s share port %d", def.Name, other, def.Port)
		}
		ports[def.Port] = def.Name
		for _, v := range config.Vars(def.Config) {
			if v.Help == "" {
				t.Errorf("%s: variable %s has no help", def.Name, v.Name)
			}
			if !strings.Contains(configuration, "`"+v.Name+"`") {
				t.Errorf("docs/configuration.md does not explain %s; run make generate", v.Name)
			}
		}
		if n := len(config.Vars(def.Config)); n > 10 {
			t.Errorf("%s reads %d variables of its own: nobody sets so many", def.Name, n)
		}
	}
	// And the other way round: every folder with a Definition is in the list.
	dirs, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !d.IsDir() || d.Name() == "cmd" || d.Name() == "chaos" {
			continue
		}
		if !slices.ContainsFunc(services.All, func(def app.Definition) bool { return def.Name == d.Name() }) {
			t.Errorf("services/%s is not in services.All", d.Name())
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
