package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/bus"
)

func (c *cli) deployCommand() *cobra.Command {
	return group("deploy", "Make what an installation needs", c.deployCerts(), c.deployNATS(), c.deployPostgres())
}

// natsConfig is the file that a NATS server includes.
const natsConfig = "nightshift.conf"

func (c *cli) deployNATS() *cobra.Command {
	var dir, server string
	var rotate []string
	var withCerts bool
	cmd := &cobra.Command{
		Use:   "nats --out DIR",
		Short: "Write a NATS user for each service, with no more rights than it needs",
		Long: `Writes ` + natsConfig + `, which a NATS server includes: an account with a user for each service, one for subscribers and one
for operators, and what each may do. Passwords are made at random; the file has only their hashes. Beside it is one file
for each user, such as waste.env, readable by you alone, with the NATS_URL of that service.

Passwords that are there already are kept: run it again with a newer version for newer rights, and have the server reload its
configuration. --rotate makes a new one.

With --with-certs each user's file is nats.env in the directory that "deploy certs" makes for the same service, for its
NATS_URL_FILE: one directory has all that a service needs, and nothing of another.`,
		Example: `  nightshift deploy nats --out ./nats
  nightshift deploy nats --out ./nats --server nats://nats-0:4222,nats://nats-1:4222
  nightshift deploy nats --out ./nats --rotate waste,subscriber
  nightshift deploy nats --out certs --with-certs --server tls://nats:4222`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var names []string
			for _, u := range bus.Users() {
				names = append(names, u.Name)
			}
			for _, r := range rotate {
				if !slices.Contains(names, r) {
					return usage("--rotate %q is not one of %s", r, strings.Join(names, ", "))
				}
			}
			servers, err := serverURLs(server)
			if err != nil {
				return err
			}
			files := natsFiles(dir, withCerts)
			passwords := map[string]string{}
			for _, name := range names {
				old, err := natsPassword(files(name), name)
				if err != nil {
					return err
				}
				if passwords[name] = old; old == "" || slices.Contains(rotate, name) {
					passwords[name] = rand.Text()
				}
			}
			config, err := bus.ServerConfig(passwords)
			if err != nil {
				return err
			}
			for _, name := range names {
				var with []string
				for _, s := range servers {
					s.User = url.UserPassword(name, passwords[name])
					with = append(with, s.String())
				}
				if err := replaceFile(files(name), "NATS_URL="+strings.Join(with, ",")+"\n", 0o600); err != nil {
					return err
				}
			}
			// Hashes of long random passwords: the server's own user may read them.
			if err := replaceFile(files(natsServer), config, 0o644); err != nil {
				return err
			}
			c.say("wrote %s and the credentials of %s to %s", natsConfig, strings.Join(names, ", "), dir)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "out", "", "directory to write to")
	f.StringVar(&server, "server", "nats://127.0.0.1:4222", "where services find NATS, separated by commas; tls://host:4222 for encrypted connections")
	f.BoolVar(&withCerts, "with-certs", false, "a directory for each user, as \"deploy certs\" makes them; the admin's is the operator's, the server's is nats")
	f.StringSliceVar(&rotate, "rotate", nil, "users that get a new password")
	_ = cmd.MarkFlagRequired("out")
	_ = cmd.MarkFlagDirname("out")
	return cmd
}

// natsServer stands for the server among the users.
const natsServer = "nats"

// natsFiles tells where the file of a user is, and that of the server.
func natsFiles(dir string, withCerts bool) func(user string) string {
	return func(user string) string {
		switch {
		case withCerts && user == natsServer:
			return filepath.Join(dir, natsServer, natsConfig)
		case user == natsServer:
			return filepath.Join(dir, natsConfig)
		case withCerts && user == bus.UserAdmin:
			return filepath.Join(dir, auth.Operator, "nats.env") // the same people
		case withCerts:
			return filepath.Join(dir, user, "nats.env")
		default:
			return filepath.Join(dir, user+".env")
		}
	}
}

// serverURLs reads a list of NATS servers.
func serverURLs(list string) (out []*url.URL, err error) {
	for i, s := range strings.Split(list, ",") {
		u, err := url.Parse(strings.TrimSpace(s))
		switch {
		case err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			return nil, usage("--server: address %d of the list cannot be read: want nats://host:port", i+1)
		case u.User != nil:
			return nil, usage("--server: address %d of the list has a user: this command adds them", i+1)
		}
		out = append(out, u)
	}
	return out, nil
}

// natsPassword reads the password of a user from the file that a run before
// has left; "" without one.
func natsPassword(path, user string) (string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(string(b), "NATS_URL=")), ",")
	u, err := url.Parse(first)
	if err == nil && u.User.Username() == user {
		if p, ok := u.User.Password(); ok {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not what this command writes; move it away, and a new password is made", path)
}

// replaceFile writes a file whole or not at all, and makes its directory.
func replaceFile(path, content string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
