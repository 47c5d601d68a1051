package main

import "github.com/spf13/cobra"

func (c *cli) deployCommand() *cobra.Command {
	return group("deploy", "Write what an installation is set up with", c.deployPostgres())
}
