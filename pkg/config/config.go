// Package config reads a service's configuration from environment variables
// into a struct, and says of each variable what it is for.
//
// A configuration is a plain struct with tags:
//
//	type Config struct {
//		URL string `env:"DATABASE_URL,required" help:"Postgres to use, as a URL or DSN."`
//	}
//
// It exists so that every service has the same words for a wrong value, and
// so that the reference of all variables is made from the structs.
package config

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/caarlos0/env/v11"

	"nightshift.dev/pkg/errs"
)

// Load fills the struct that into points to. lookup tells a variable's value
// and whether it is set, as os.LookupEnv does. The error names every variable
// that is missing or cannot be read; values are not repeated in it, since
// they can hold secrets.
func Load(into any, lookup func(string) (string, bool)) error {
	vars := map[string]string{}
	for _, v := range Vars(into) {
		if s, ok := lookup(v.Name); ok && s != "" {
			vars[v.Name] = s
		}
	}
	err := env.ParseWithOptions(into, env.Options{Environment: vars})
	if err == nil {
		return nil
	}
	out := errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used")
	var all env.AggregateError
	if !errors.As(err, &all) {
		return out.Wrap(err)
	}
	for _, e := range all.Errors {
		var (
			parse    env.ParseError
			missing  env.VarIsNotSetError
			empty    env.EmptyVarError
			variable string
		)
		switch {
		case errors.As(e, &parse):
			variable = parse.Name
			for _, v := range Vars(into) {
				if v.Field == parse.Name {
					variable = v.Name
				}
			}
			out = out.Field(variable, "is not a valid %s", kind(parse.Type))
		case errors.As(e, &missing):
			out = out.Field(missing.Key, "must be set%s", helpOf(into, missing.Key))
		case errors.As(e, &empty):
			out = out.Field(empty.Key, "must not be empty%s", helpOf(into, empty.Key))
		default:
			out = out.Wrap(e)
		}
	}
	return out
}

func kind(t reflect.Type) string {
	switch t.String() {
	case "time.Duration":
		return "duration, such as 30s or 5m"
	case "bool":
		return "switch: true or false"
	case "slog.Level":
		return "level: debug, info, warn or error"
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "whole number"
	case reflect.Float64:
		return "number"
	default:
		return t.String()
	}
}

func helpOf(into any, name string) string {
	for _, v := range Vars(into) {
		if v.Name == name && v.Help != "" {
			return ": " + v.Help
		}
	}
	return ""
}

// Var describes one variable.
type Var struct {
	// Name of the variable, such as DATABASE_URL; Field of the struct.
	Name, Field string
	// Default is used when the variable is unset or empty.
	Default string
	// Help is one sentence.
	Help string
	// Required variables have no default.
	Required bool
}

// Vars lists the variables of a configuration struct or a pointer to one, in
// the order of its fields. A nil configuration has none.
func Vars(cfg any) []Var {
	if cfg == nil {
		return nil
	}
	t := reflect.TypeOf(cfg)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: %s is not a struct", t))
	}
	var vars []Var
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			vars = append(vars, Vars(reflect.Zero(f.Type).Interface())...)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("env"), ",")
		if name == "" {
			continue
		}
		vars = append(vars, Var{
			Name: name, Field: f.Name, Default: f.Tag.Get("envDefault"), Help: f.Tag.Get("help"),
			Required: strings.Contains(options, "required") || strings.Contains(options, "notEmpty"),
		})
	}
	return vars
}
