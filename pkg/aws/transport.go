package aws

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// newHTTPClient is the SDK's own client, so that it can add AWS_CA_BUNDLE to
// it, with a pool for many scopes at once.
func newHTTPClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = 5 * time.Second }).
		WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConns = 512
			t.MaxIdleConnsPerHost = 64
			t.MaxConnsPerHost = 256
			t.TLSHandshakeTimeout = 10 * time.Second
			if t.TLSClientConfig == nil {
				t.TLSClientConfig = &tls.Config{}
			}
			t.TLSClientConfig.MinVersion = tls.VersionTLS12
		}).
		// A big page may take long, but never without a byte. Together with the dialling it is less than a job's handler may
		// go without progress.
		WithReadTimeout(40 * time.Second)
}

// client mends what lies between the SDK and net/http.
type client struct{ next sdk.HTTPClient }

// Do sends one request.
//
// The SDK closes the request's body as soon as the response's headers are
// there. A closed body's WriteTo reports io.EOF as an error, net/http takes
// that for a failed write, and drops the connection that is still being read.
// Without WriteTo, net/http uses Read, for which io.EOF is the proper end.
//
// A success without a body would be decoded as an empty list with no further
// page, which proves resources gone that are not: it is an error.
func (c client) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r = r.WithContext(r.Context())
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	resp, err := c.next.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	var first [1]byte
	if _, err := io.ReadFull(resp.Body, first[:]); err != nil {
		resp.Body.Close()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read response: %w", err)
	}
	resp.Body = &prefixed{first: first[0], ReadCloser: resp.Body}
	return resp, nil
}

// prefixed gives back the byte that was read ahead.
type prefixed struct {
	first byte
	given bool
	io.ReadCloser
}

// Read reads the byte, then the rest.
func (p *prefixed) Read(b []byte) (int, error) {
	if p.given || len(b) == 0 {
		return p.ReadCloser.Read(b)
	}
	p.given = true
	b[0] = p.first
	return 1, nil
}
