package app

import (
	"os"
	"strings"

	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

// NATS is how to reach the bus: at url or, where a file is named, at what that
// holds; by tls:// with the certificates. The file is what "nightshift deploy
// nats" writes for a user, or the URL alone; errors do not repeat it.
func NATS(url, file string, s Security) (bus.Config, error) {
	if file != "" {
		bad := errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used")
		b, err := os.ReadFile(file)
		if err != nil {
			return bus.Config{}, bad.Field("NATS_URL_FILE", "cannot be read: %v", err)
		}
		url = strings.TrimPrefix(strings.TrimSpace(string(b)), "NATS_URL=")
		if url == "" || strings.ContainsAny(url, " \t\r\n") {
			return bus.Config{}, bad.Field("NATS_URL_FILE", "is not a file with one NATS_URL, such as \"nightshift deploy nats\" writes")
		}
	}
	c := bus.Config{URL: url}
	if strings.Contains(url, "tls://") {
		c.TLS = s.ServiceTLS()
	}
	return c, nil
}
