package main

import (
	"github.com/spf13/cobra"

	"nightshift.dev/services/persistence"
)

func (c *cli) deployPostgres() *cobra.Command {
	var migrate bool
	cmd := &cobra.Command{
		Use: "postgres", Short: "Print the SQL that makes the roles in Postgres, or bring its schema up to date", Args: cobra.NoArgs,
		Long: `Print the SQL that makes the roles in Postgres and says what they may do, to be run by a superuser with psql.

With --migrate, bring the schema of the database in NIGHTSHIFT_MIGRATE_DATABASE_URL up to date instead, as a step of its own before a new
version starts: then persistence needs no role but ` + persistence.RoleApp + `.`,
		Example: `  nightshift deploy postgres | psql --set ON_ERROR_STOP=1 --single-transaction --dbname nightshift
  NIGHTSHIFT_MIGRATE_DATABASE_URL=postgres://` + persistence.RoleOwner + `@db/nightshift nightshift deploy postgres --migrate`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !migrate {
				c.print("%s", persistence.RolesSQL())
				return nil
			}
			dsn := c.env("NIGHTSHIFT_MIGRATE_DATABASE_URL")
			if dsn == "" {
				return usage("--migrate needs the database in NIGHTSHIFT_MIGRATE_DATABASE_URL: a command line would show its password")
			}
			if err := persistence.Migrate(cmd.Context(), dsn); err != nil {
				return err
			}
			c.say("the schema is up to date")
			return nil
		},
	}
	cmd.Flags().BoolVar(&migrate, "migrate", false, "bring the schema up to date")
	return cmd
}
