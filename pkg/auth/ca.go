package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// CA is a certificate authority for development and small installations: a key
// in a file. Whoever has the file can be any service.
type CA struct {
	dir string
	own tls.Certificate
}

// backdate is how long before now a certificate begins, for clocks that differ.
const backdate = 5 * time.Minute

// OpenCA opens the authority in a directory, ca.crt and ca.key, and makes one
// that lives as long as life when there is none. made says so.
func OpenCA(dir string, now time.Time, life time.Duration) (ca *CA, made bool, err error) {
	ca = &CA{dir: dir}
	ca.own, err = tls.LoadX509KeyPair(filepath.Join(dir, caFile), filepath.Join(dir, "ca.key"))
	switch {
	case err == nil:
		if !now.Before(ca.own.Leaf.NotAfter) {
			return nil, false, fmt.Errorf("the authority in %s has expired on %s: remove it, and give everybody new certificates", dir, ca.own.Leaf.NotAfter.Format(time.DateOnly))
		}
		return ca, false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, err
	}
	for _, name := range []string{caFile, "ca.key"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, false, fmt.Errorf("%s has %s and not both of ca.crt and ca.key: bring the other one back, or remove it to begin anew", dir, name)
		}
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Nightshift CA " + now.UTC().Format(time.DateOnly)}, NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, err
	}
	if ca.own, err = issue(template, nil); err != nil {
		return nil, false, err
	}
	if err := write(ca.own, filepath.Join(dir, caFile), filepath.Join(dir, "ca.key")); err != nil {
		return nil, false, err
	}
	return ca, true, nil
}

// Expire is when the authority ends, and with it all it has issued.
func (ca *CA) Expire() time.Time { return ca.own.Leaf.NotAfter }

// Issue writes ca.crt, tls.crt and tls.key of a service into the directory of
// its name. What is there and good for more than a third of its life is left
// alone, unless it lacks a host; written says so.
func (ca *CA) Issue(service string, hosts []string, now time.Time, life time.Duration) (expire time.Time, written bool, err error) {
	dir := filepath.Join(ca.dir, service)
	if c, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile)); err == nil && ca.fits(c.Leaf, service, hosts, now) {
		return c.Leaf.NotAfter, false, nil
	}
	id, err := url.Parse(trustDomain + service)
	if err != nil {
		return time.Time{}, false, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: service}, NotBefore: now.Add(-backdate), NotAfter: now.Add(life), URIs: []*url.URL{id},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if template.NotAfter.After(ca.Expire()) {
		template.NotAfter = ca.Expire()
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	c, err := issue(template, &ca.own)
	if err != nil {
		return time.Time{}, false, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return time.Time{}, false, err
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.own.Certificate[0]})
	if err := replace(filepath.Join(dir, caFile), root, 0o644); err != nil {
		return time.Time{}, false, err
	}
	return c.Leaf.NotAfter, true, write(c, filepath.Join(dir, certFile), filepath.Join(dir, keyFile))
}

// fits tells whether a certificate can stay.
func (ca *CA) fits(c *x509.Certificate, service string, hosts []string, now time.Time) bool {
	if name, err := serviceIn(c); err != nil || name != service || c.CheckSignatureFrom(ca.own.Leaf) != nil {
		return false
	}
	for _, h := range hosts {
		if c.VerifyHostname(h) != nil {
			return false
		}
	}
	return c.NotAfter.Sub(now) > c.NotAfter.Sub(c.NotBefore)/3
}

// issue makes a key and a certificate for it, signed by parent or, without
// one, by itself.
func issue(template *x509.Certificate, parent *tls.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return tls.Certificate{}, err
	}
	signed, signer := template, any(key)
	if parent != nil {
		signed, signer = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signed, key.Public(), signer)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

func write(c tls.Certificate, cert, key string) error {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return err
	}
	if err := replace(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return replace(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o644)
}

// replace writes a file as a whole: whoever reads it finds the old or the new.
func replace(path string, b []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path+".new", b, mode); err != nil {
		return err
	}
	if err := os.Chmod(path+".new", mode); err != nil { // one that was left behind keeps its own
		return err
	}
	return os.Rename(path+".new", path)
}
