package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// shown finds commands in pages: at the beginning of a line, after a prompt
// and variables, up to what is not ours.
var (
	shown   = regexp.MustCompile(`(?m)^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*nightshift ([a-z][^|#\n]*)`)
	quoted  = regexp.MustCompile(`'[^']*'|"[^"]*"`)
	flagged = regexp.MustCompile(`(?:^|\s)(--[a-z][a-z-]*)`)
	word    = regexp.MustCompile(`^[a-z]+$`)
)

// What pages and helps show can be run: the command is there, and so are its
// flags.
func TestShownCommandsAreThere(t *testing.T) {
	t.Parallel()
	root := (&cli{lookup: func(string) (string, bool) { return "", false }}).command()
	check := func(where, text string) (found int) {
		for _, m := range shown.FindAllStringSubmatch(text, -1) {
			line := quoted.ReplaceAllString(strings.TrimSuffix(strings.TrimSpace(m[1]), `\`), "x")
			var path []string
			for _, w := range strings.Fields(line) {
				if !word.MatchString(w) {
					break
				}
				path = append(path, w)
			}
			cmd, _, err := root.Find(path)
			if err != nil || cmd == root {
				t.Errorf("%s shows %q, and there is no such command", where, line)
				continue
			}
			found++
			for _, f := range flagged.FindAllStringSubmatch(line, -1) {
				name := strings.TrimPrefix(f[1], "--")
				if cmd.Flag(name) == nil && cmd.InheritedFlags().Lookup(name) == nil && name != "help" {
					t.Errorf("%s shows %q, and %s has no %s", where, line, cmd.CommandPath(), f[1])
				}
			}
		}
		return found
	}
	pages, err := filepath.Glob("../../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, "../../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		found += check(filepath.Base(page), string(text))
	}
	if found < 100 {
		t.Errorf("only %d commands found in the pages", found)
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		check("the help of "+cmd.CommandPath(), cmd.Example)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}
