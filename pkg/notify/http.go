package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// mostAnswer bounds what is read of an answer, in bytes, and answerTime
	// how long.
	mostAnswer = 4 << 10
	answerTime = 2 * time.Second
	// mostRetryAfter bounds what a receiver may ask for.
	mostRetryAfter = 24 * time.Hour
)

// client returns the one HTTP client of all receivers.
func (s *Sender) client() *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: s.guard}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        s.tls.Clone(),
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 32 << 10,
	}
	if s.cfg.AllowPrivate {
		// Behind a proxy nobody can tell where a request ends.
		t.Proxy = http.ProxyFromEnvironment
	}
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// address reads the URL of a receiver. what says which, since the URL itself
// can be a secret.
func (a *attempt) address(what, raw string, httpsOnly bool) (*url.URL, error) {
	bad := func(why string) (*url.URL, error) {
		return nil, &Failure{Permanent: true, Receiver: true, Detail: a.detail("%s %s", what, why)}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "":
		return bad("is no URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return bad("must begin with https://")
	case u.Scheme == "http" && httpsOnly && !a.cfg.AllowPrivate:
		return bad("must begin with https://")
	case u.User != nil:
		return bad("must not hold credentials")
	}
	u.Fragment = ""
	return u, nil
}

// post sends a JSON body and says what the answer means.
func (a *attempt) post(ctx context.Context, to *url.URL, body any, header http.Header) (string, error) {
	raw, ok := body.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return "", &Failure{Permanent: true, Detail: "the message cannot be written as JSON"}
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(raw))
	if err != nil {
		return "", &Failure{Permanent: true, Receiver: true, Detail: "the receiver's URL cannot be used"}
	}
	if header != nil {
		req.Header = header
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "nightshift/"+cmp.Or(a.cfg.Version, "dev"))
	resp, err := a.http.Do(req)
	if err != nil {
		return "", a.unreached(ctx, to.Host, err)
	}
	// An answer that trickles in is cut off; the status has said enough.
	cut := time.AfterFunc(answerTime, func() { _ = resp.Body.Close() })
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	cut.Stop()
	_ = resp.Body.Close()
	return a.answered(resp, string(answer))
}

// answered says what a status means. A refusal of this message is permanent;
// one of the credentials or the address is the receiver's, and waits for
// somebody to put it right.
func (a *attempt) answered(resp *http.Response, answer string) (string, error) {
	detail := "HTTP " + strconv.Itoa(resp.StatusCode)
	if text := http.StatusText(resp.StatusCode); text != "" {
		detail += " " + text
	}
	if answer = strings.TrimSpace(answer); answer != "" {
		detail += ": " + answer
	}
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return a.detail("%s", detail), nil
	case code >= 300 && code < 400:
		return "", &Failure{Permanent: true, Receiver: true, Detail: a.detail("HTTP %d: redirects are not followed; give the address it leads to", code)}
	case code == http.StatusGone:
		return "", &Failure{Permanent: true, Receiver: true, Detail: a.detail("%s", detail)}
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusNotFound, code == http.StatusMethodNotAllowed,
		code == http.StatusProxyAuthRequired, code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		return "", &Failure{Receiver: true, RetryAfter: a.retryAfter(resp.Header.Get("Retry-After")), Detail: a.detail("%s", detail)}
	}
	return "", &Failure{Permanent: true, Detail: a.detail("%s", detail)}
}

// retryAfter reads the header: seconds or a time.
func (a *attempt) retryAfter(v string) time.Duration {
	var d time.Duration
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		d = time.Duration(min(n, int64(mostRetryAfter/time.Second))) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(a.Time)
	}
	return max(0, min(d, mostRetryAfter))
}

// unreached says why no answer came. The error itself holds the URL, and is
// dropped.
func (a *attempt) unreached(ctx context.Context, host string, err error) error {
	if ctx.Err() != nil {
		return a.ended(ctx, host)
	}
	if r := (refused{}); errors.As(err, &r) {
		return &Failure{Permanent: true, Receiver: true, Detail: a.detail("%s: %s; NIGHTSHIFT_NOTIFY_ALLOW_PRIVATE allows private ones", host, r.Error())}
	}
	return &Failure{Receiver: true, Detail: a.detail("%s: %s", host, reason(err))}
}

// ended is the failure of an attempt whose time was up, or that was called
// off.
func (a *attempt) ended(ctx context.Context, host string) error {
	f := &Failure{Receiver: true, Detail: a.detail("%s: no answer in time", host), cause: ctx.Err()}
	if errors.Is(ctx.Err(), context.Canceled) {
		f.Receiver, f.Detail = false, a.detail("%s: called off", host)
	}
	return f
}

// reason is the innermost part of a network error that is fit to be told.
func reason(err error) string {
	var (
		dns      *net.DNSError
		cert     *tls.CertificateVerificationError
		op       *net.OpError
		location *url.Error
	)
	switch {
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return "no such host"
		}
		return "its name cannot be looked up"
	case errors.As(err, &cert):
		return "its certificate is not trusted: " + cert.Err.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed without an answer"
	case errors.As(err, &op):
		return fmt.Sprintf("%s: %v", op.Op, op.Err)
	case errors.As(err, &location):
		return location.Err.Error()
	}
	return err.Error()
}
