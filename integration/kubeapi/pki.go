// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is the cluster's certificate authority. It lives as long as one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// pair is a certificate with its key, both in PEM.
type pair struct{ cert, key []byte }

// validity covers a test, and clocks that differ: the machine's may be set while it runs.
const validity = 24 * time.Hour

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "sluice-test-ca"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	a := &authority{cert: template, key: key}
	der, err := a.sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

// sign gives a certificate in DER.
func (a *authority) sign(template *x509.Certificate, key crypto.PublicKey) ([]byte, error) {
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64)); err != nil {
		return nil, fmt.Errorf("choose a serial number: %w", err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-validity), time.Now().Add(validity)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %q: %w", template.Subject.CommonName, err)
	}
	return der, nil
}

// server issues a certificate for names and addresses.
func (a *authority) server(name string, dns []string, ips []net.IP) (pair, error) {
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: dns, IPAddresses: ips,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// client issues a certificate by which the API server knows a user, and the groups that the user is in.
func (a *authority) client(user string, groups ...string) (pair, error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (a *authority) issue(template *x509.Certificate) (pair, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return pair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := a.sign(template, key.Public())
	return pair{cert: certPEM(der), key: keyPEM}, err
}

// newKey makes a private key, which comes in PEM too.
func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("write a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// pki is what the server's programs read, as files in one directory: ca.crt, server.crt, server.key, and accounts.key, which
// signs the tokens of ServiceAccounts and, read as a public key, verifies them.
type pki struct {
	*authority
	dir string
}

// newPKI makes the files for a server at an address. service is the address of the Service kubernetes.
func newPKI(dir string, address, service net.IP) (*pki, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	serving, err := ca.server("kube-apiserver",
		[]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		[]net.IP{address, service, net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	_, accounts, err := newKey()
	if err != nil {
		return nil, err
	}
	p := &pki{authority: ca, dir: dir}
	for name, text := range map[string][]byte{
		"ca.crt": p.ca(), "server.crt": serving.cert, "server.key": serving.key, "accounts.key": accounts,
	} {
		if err := os.WriteFile(p.file(name), text, 0o600); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
	}
	return p, nil
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

// ca is the authority's certificate in PEM.
func (p *pki) ca() []byte { return certPEM(p.cert.Raw) }
