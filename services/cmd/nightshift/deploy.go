package main

import "github.com/spf13/cobra"

func (c *cli) deployCommand() *cobra.Command {
	return group("deploy", "Make what an installation needs", c.deployCerts())
}
