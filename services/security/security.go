// Package security is the service that finds what is exposed, unprotected or
// nobody's: its rules, one file each, on the scan engine.
//
// It must not import another service. A new rule is a new file that adds
// itself to Rules; nothing else changes.
package security

import (
	"context"

	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/scan"
)

// Config is what the service reads from its environment.
type Config struct {
	scan.Config
	Params string `env:"NIGHTSHIFT_SECURITY_PARAMS" help:"Parameters of security rules, such as ami-outdated.max_age_days=90, separated by commas; for one account with its number and a slash before it. Default: the rules' own."`
}

// Definition is the service as the list of services knows it.
var Definition = app.Definition{
	Name:    "security",
	Summary: "finds AWS resources that are exposed, unprotected or without an owner",
	Port:    7303,
	Config:  Config{},
	New: func(ctx context.Context, env *app.Env) (app.Service, error) {
		var c Config
		if err := config.Load(&c, env.Lookup); err != nil {
			return nil, err
		}
		return New(ctx, c, env)
	},
}

// New builds the service.
func New(ctx context.Context, c Config, env *app.Env) (*scan.Worker, error) {
	return scan.New(ctx, env, Rules, c.Config, c.Params)
}
