// Package waste is the service that finds what costs money and serves nobody:
// its rules, one file each, on the scan engine.
//
// It must not import another service. A new rule is a new file that adds
// itself to Rules; nothing else changes.
package waste

import (
	"context"

	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/scan"
)

// Config is what the service reads from its environment.
type Config struct {
	scan.Config
	Params string `env:"NIGHTSHIFT_WASTE_PARAMS" help:"Parameters of waste rules, such as ec2-stopped.min_days=45, separated by commas; for one account with its number and a slash before it. Default: the rules' own."`
}

// Definition is the service as the list of services knows it.
var Definition = app.Definition{
	Name:    "waste",
	Summary: "finds AWS resources that cost money and serve nobody",
	Port:    7302,
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
