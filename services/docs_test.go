package services_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/config"
	"nightshift.dev/services"
)

var update = flag.Bool("update", false, "write the generated pages instead of comparing them")

// docs/configuration.md is made from the configuration structs.
func TestConfigurationPageIsCurrent(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("<!-- Generated from the configuration structs by \"make generate\"; do not edit. -->\n" +
		"# Configuration\n\n" +
		"Every service reads environment variables and nothing else. A value that cannot be used stops the service with a\n" +
		"message that names the variable. `<service> help` prints the same list.\n\n## Every service\n\n")
	table(&b, config.Vars(app.Config{}))
	b.WriteString("\nTraces and metrics are exported when any of `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_EXPORTER` or\n" +
		"`OTEL_METRICS_EXPORTER` (`otlp`, `prometheus`, `console`, `none`) is set; these and all other `OTEL_*` variables mean\n" +
		"what the OpenTelemetry specification says.\n\n## Where services find each other\n\n" +
		"| variable | default |\n|---|---|\n")
	for _, def := range services.All {
		fmt.Fprintf(&b, "| `%s` | `%s` |\n", def.AddrVar(), app.DefaultAddr(def.Name))
	}
	for _, def := range services.All {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", def.Name, sentence(def.Summary))
		if vars := config.Vars(def.Config); len(vars) > 0 {
			table(&b, vars)
		} else {
			b.WriteString("Nothing to set.\n")
		}
	}
	const path = "../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if read(t, path) != b.String() {
		t.Errorf("%s is not what the structs say: run make generate", path)
	}
}

func table(b *strings.Builder, vars []config.Var) {
	b.WriteString("| variable | default | what it is |\n|---|---|---|\n")
	for _, v := range vars {
		def := "`" + v.Default + "`"
		switch {
		case v.Required:
			def = "must be set"
		case v.Default == "":
			def = "none"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", v.Name, def, strings.ReplaceAll(v.Help, "|", "\\|"))
	}
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + strings.TrimSuffix(s[1:], ".") + "."
}
