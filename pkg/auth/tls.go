package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/errs"
)

// The files of a directory of certificates, by the names that Kubernetes gives
// them.
const (
	caFile   = "ca.crt"
	certFile = "tls.crt"
	keyFile  = "tls.key"
)

// trustDomain begins the names of services in certificates:
// spiffe://nightshift/<service>. Installations are told apart by their CAs.
const trustDomain = "spiffe://nightshift/"

// Operator is the name in the certificate of whoever has the installation in
// hand: it may do everything, so that there can be a first token.
const Operator = "operator"

// TLS is a directory of certificates. The files are read again when they
// change; while they cannot be used, those from before are.
type TLS struct {
	dir string
	log *slog.Logger

	mu     sync.Mutex
	stamp  string // of the files that were read last, whether they could be used or not
	loaded *certificates
}

// certificates are what is in the files.
type certificates struct {
	roots *x509.CertPool
	own   *tls.Certificate // nil: none
	name  string           // service of own; empty: none
}

// LoadTLS reads ca.crt, tls.crt and tls.key. A client may go without the
// latter two. The error says which file is wrong.
func LoadTLS(dir string, log *slog.Logger) (*TLS, error) {
	t := &TLS{dir: dir, log: log, stamp: stampOf(dir)}
	loaded, err := readCertificates(dir)
	if err != nil {
		return nil, errs.New(errs.InvalidArgument, "BAD_CERTIFICATES", "the certificates in %s cannot be used: %v", dir, err)
	}
	t.loaded = loaded
	return t, nil
}

func readCertificates(dir string) (*certificates, error) {
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	c := &certificates{roots: x509.NewCertPool()}
	if !c.roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", caFile)
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		_, noCert := os.Stat(filepath.Join(dir, certFile))
		_, noKey := os.Stat(filepath.Join(dir, keyFile))
		if errors.Is(noCert, fs.ErrNotExist) && errors.Is(noKey, fs.ErrNotExist) {
			return c, nil
		}
	}
	if err != nil {
		return nil, err
	}
	c.own = &own
	if c.name, err = serviceIn(own.Leaf); err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	return c, nil
}

// stampOf changes when a file does.
func stampOf(dir string) string {
	var b strings.Builder
	for _, name := range []string{caFile, certFile, keyFile} {
		if i, err := os.Stat(filepath.Join(dir, name)); err == nil {
			fmt.Fprintf(&b, "%d %d;", i.ModTime().UnixNano(), i.Size())
		} else {
			b.WriteByte(';')
		}
	}
	return b.String()
}

// now is what is in the files now.
func (t *TLS) now() *certificates {
	t.mu.Lock()
	defer t.mu.Unlock()
	stamp := stampOf(t.dir)
	if stamp == t.stamp {
		return t.loaded
	}
	t.stamp = stamp
	loaded, err := readCertificates(t.dir)
	switch {
	case err == nil && loaded.name != t.loaded.name:
		err = fmt.Errorf("it is the certificate of %q, and was that of %q", loaded.name, t.loaded.name)
		fallthrough
	case err != nil:
		t.log.Warn("new certificates cannot be used; those from before are", "directory", t.dir, "error", err)
		return t.loaded
	}
	t.log.Info("new certificates", "directory", t.dir)
	t.loaded = loaded
	return loaded
}

// Name is the name of the service in the certificate; empty: there is none.
func (t *TLS) Name() string { return t.now().name }

// Server is how a server listens: whoever shows a certificate must show one of
// the CA; who shows none must say otherwise who he is.
func (t *TLS) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := t.now()
			if c.own == nil {
				return nil, errors.New("there is no certificate to serve with")
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{*c.own},
				ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: c.roots,
				SessionTicketsDisabled: true, // or somebody comes in by what was valid once
			}, nil
		},
	}
}

// Client is how to call a service: the one that answers must have the
// certificate of that name or, without any such name, of the host. An empty
// service wants the host's.
func (t *TLS) Client(service string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c := t.now(); c.own != nil {
				return c.own, nil
			}
			return &tls.Certificate{}, nil
		},
		// Not skipped but done below: what counts is the service's name, and the roots of now.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection: func(s tls.ConnectionState) error {
			return t.now().verify(s, service)
		},
	}
}

// verify decides whether it is the service that answers.
func (c *certificates) verify(s tls.ConnectionState, service string) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the server shows no certificate")
	}
	o := x509.VerifyOptions{Roots: c.roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, i := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(i)
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(o); err != nil {
		return err
	}
	name, err := serviceIn(leaf)
	switch {
	case err != nil:
		return err
	case name == "" || service == "":
		return leaf.VerifyHostname(s.ServerName)
	case name != service:
		return fmt.Errorf("it is %s that answers, not %s", name, service)
	}
	return nil
}

// serviceIn is the name of the service in a certificate; empty: none.
func serviceIn(c *x509.Certificate) (string, error) {
	name := ""
	for _, u := range c.URIs {
		s, ok := strings.CutPrefix(u.String(), trustDomain)
		if !ok {
			continue
		}
		if name != "" || s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return "", errors.New("the certificate's name is not like " + trustDomain + "persistence, or there are several")
		}
		name = s
	}
	return name, nil
}

// PeerOf tells who is at the other end of a connection by his certificate.
// The error is UNAUTHENTICATED when it has none, or one that has expired
// since.
func PeerOf(s tls.ConnectionState, now time.Time) (Principal, error) {
	if len(s.VerifiedChains) == 0 {
		return Principal{}, Missing()
	}
	leaf := s.VerifiedChains[0][0]
	name, err := serviceIn(leaf)
	switch {
	case err != nil:
		return Principal{}, unauthenticated("CERTIFICATE_INVALID", "the certificate cannot be used").Wrap(err)
	case name == "":
		return Principal{}, unauthenticated("CERTIFICATE_INVALID", "the certificate names no service: it needs a URI such as %spersistence", trustDomain)
	case now.After(leaf.NotAfter):
		return Principal{}, unauthenticated("CERTIFICATE_EXPIRED", "the certificate has expired on %s; connect anew with another", leaf.NotAfter.Format(time.RFC3339))
	}
	p := Service(name)
	p.Expire = leaf.NotAfter
	if name == Operator {
		p.Role = authv1.Role_ROLE_ADMIN
	}
	return p, nil
}
