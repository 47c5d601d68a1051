// Command simaws serves a simulated AWS on a loopback address: EC2, CloudWatch, STS and Organizations over a generated estate. Point any AWS tool at it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"nightshift.dev/pkg/simaws"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "simaws:", err)
		os.Exit(1)
	}
}

// estateFlags are the flags of every command: which estate it is about.
type estateFlags struct {
	options simaws.Options
	now     string
	file    string
}

func (f *estateFlags) add(c *cobra.Command, withFile bool) {
	fl := c.Flags()
	fl.Uint64Var(&f.options.Seed, "seed", 1, "decides everything about the estate")
	fl.IntVar(&f.options.Resources, "resources", 400, "instances, volumes, snapshots and addresses in all")
	fl.IntVar(&f.options.Accounts, "accounts", 3, "accounts of the organization")
	fl.IntVar(&f.options.Regions, "regions", 3, "regions of each account, us-east-1 first")
	fl.StringVar(&f.now, "now", "", "the moment the estate describes, as 2026-01-02T03:00:00Z (default: the start of this hour)")
	if withFile {
		fl.StringVar(&f.file, "estate", "", "load the estate from this JSON or YAML file instead of generating one")
	}
}

func (f *estateFlags) load() (*simaws.Estate, error) {
	if f.file != "" {
		return simaws.Load(f.file)
	}
	if f.now != "" {
		t, err := time.Parse(time.RFC3339, f.now)
		if err != nil {
			return nil, fmt.Errorf("--now %q is not a time like 2026-01-02T03:00:00Z", f.now)
		}
		f.options.Now = t
	}
	return simaws.Generate(f.options), nil
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "simaws",
		Short: "A simulated AWS on a loopback address",
		Long: `simaws speaks the wire protocols of EC2, CloudWatch, STS and Organizations to unmodified AWS SDKs and tools, over an
estate generated from a seed or loaded from a file. It pages and throttles as AWS does, injects faults on request, and
knows the right answer of every rule for every resource.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(serveCommand(), healthCommand(), truthCommand(), estateCommand())
	return root
}

func serveCommand() *cobra.Command {
	var f estateFlags
	var listen, faults, policy string
	var config simaws.Config
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve an estate; prints the variables that point AWS tools at it",
		Example: `  simaws serve
  # in another terminal, after pasting the lines it prints:
  aws ec2 describe-volumes --filters Name=status,Values=available
  simaws serve --resources 100000 --accounts 25 --no-quotas
  simaws serve --faults faults.json      # [{"kind":"throttle","share":0.2},{"kind":"reset","region":"eu-west-1","after":3}]
  simaws serve --policy readonly.json    # whatever it does not allow is denied
  curl -X PUT -d '[{"kind":"latency","delay":"250ms"}]' http://127.0.0.1:4566/_simaws/faults
  curl http://127.0.0.1:4566/_simaws/stats`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := f.load()
			if err != nil {
				return err
			}
			if faults != "" {
				if config.Faults, err = simaws.LoadFaults(faults); err != nil {
					return err
				}
			}
			if policy != "" {
				if config.Policy, err = simaws.LoadPolicy(policy); err != nil {
					return err
				}
			}
			s := simaws.New(e, config)
			done, err := s.Listen(c.Context(), listen)
			if err != nil {
				return err
			}
			for _, v := range s.Env() {
				_, _ = fmt.Fprintln(c.OutOrStdout(), "export", v)
			}
			_, _ = fmt.Fprintf(c.ErrOrStderr(), "simaws: %d resources in %d accounts on %s; Ctrl-C stops it\n", e.Resources(), len(e.Accounts), s.URL())
			return <-done
		},
	}
	f.add(c, true)
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:4566", "address to listen on; port 0 picks a free one")
	c.Flags().BoolVar(&config.NoQuotas, "no-quotas", false, "turn AWS's token buckets off")
	c.Flags().StringVar(&faults, "faults", "", "JSON or YAML file with a list of faults")
	c.Flags().StringVar(&policy, "policy", "", "IAM policy document that limits every session of an assumed role")
	return c
}

// healthCommand is for containers: their image has nothing else to ask with.
func healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "health [URL]",
		Short: "Tell whether a running simaws answers: 0 when it does, 1 otherwise",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			url := "http://127.0.0.1:4566"
			if len(args) == 1 {
				url = args[0]
			}
			ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/_simaws/faults", nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s answers %s", url, resp.Status)
			}
			return nil
		},
	}
}

func truthCommand() *cobra.Command {
	var f estateFlags
	var output, rule string
	c := &cobra.Command{
		Use:   "truth",
		Short: "Print the right answer of every rule for every resource",
		Example: `  simaws truth --seed 7 -o jsonl
  simaws truth --estate estate.json --rule ebs-unattached -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := f.load()
			if err != nil {
				return err
			}
			var rows []simaws.Truth
			for _, t := range e.Truth() {
				if rule == "" || t.RuleID == rule {
					rows = append(rows, t)
				}
			}
			enc := json.NewEncoder(c.OutOrStdout())
			switch output {
			case "json":
				enc.SetIndent("", "  ")
				return enc.Encode(rows)
			case "jsonl":
				for _, t := range rows {
					if err := enc.Encode(t); err != nil {
						return err
					}
				}
				return nil
			}
			return fmt.Errorf("-o %q is not json or jsonl", output)
		},
	}
	f.add(c, true)
	c.Flags().StringVarP(&output, "output", "o", "jsonl", "json or jsonl")
	c.Flags().StringVar(&rule, "rule", "", "only this rule")
	return c
}

func estateCommand() *cobra.Command {
	var f estateFlags
	var output string
	c := &cobra.Command{
		Use:   "estate",
		Short: "Write a generated estate as a file that serve and truth load",
		Example: `  simaws estate --seed 7 --resources 1000 > estate.json
  simaws estate --output estate.yaml     # to edit by hand`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := f.load()
			if err != nil {
				return err
			}
			if output != "" {
				return e.Save(output)
			}
			if err := e.Write(c.OutOrStdout()); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				return err
			}
			return nil
		},
	}
	f.add(c, false)
	c.Flags().StringVar(&output, "output", "", "file to write, .json or .yaml (default: JSON to stdout)")
	return c
}
