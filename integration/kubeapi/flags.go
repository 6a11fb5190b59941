// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-lb/sluice/integration/lab"
)

const (
	etcdURL  = "http://127.0.0.1:2379"
	peersURL = "http://127.0.0.1:2380"
	// serviceCIDRs are where ClusterIPs come from. The first address is the Service kubernetes'.
	serviceCIDRs      = "10.96.0.0/16,fd00:96::/112"
	kubernetesService = "10.96.0.1"
	issuer            = "https://kubernetes.default.svc"
)

// run starts one of the programs. Its log is control-NAME.log in the lab.
func (s *Server) run(name string, flags []string) (*lab.Process, error) {
	return s.host.Start(filepath.Join(s.o.Programs, name), flags...)
}

func (s *Server) etcdFlags(ctx context.Context) []string {
	flags := []string{
		"--name=test", "--data-dir=" + filepath.Join(s.dir, "etcd"),
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=" + peersURL, "--initial-advertise-peer-urls=" + peersURL,
		"--initial-cluster=test=" + peersURL,
	}
	// Nobody's data outlives the machine, and its disk is shared with others' tests. 3.4 has no such flag.
	const noSync = "--unsafe-no-fsync"
	help, err := s.host.Command(ctx, filepath.Join(s.o.Programs, "etcd"), "--help").Output()
	if err == nil && strings.Contains(string(help), noSync) {
		flags = append(flags, noSync)
	}
	return flags
}

func (s *Server) apiServerFlags() []string {
	return slices.Concat([]string{
		"--etcd-servers=" + etcdURL,
		"--advertise-address=" + s.host.Addr.String(), "--secure-port=" + port,
		"--tls-cert-file=" + s.pki.file("server.crt"), "--tls-private-key-file=" + s.pki.file("server.key"),
		"--client-ca-file=" + s.pki.file("ca.crt"),
		"--service-account-key-file=" + s.pki.file("accounts.key"),
		"--service-account-signing-key-file=" + s.pki.file("accounts.key"),
		"--service-account-issuer=" + issuer,
		"--service-cluster-ip-range=" + serviceCIDRs,
		"--authorization-mode=Node,RBAC",
		"--allow-privileged=true", // as on any cluster whose nodes have agents
	}, s.o.APIServerFlags)
}

// startManager starts kube-controller-manager, under the rights that it has in a cluster. It needs
// a ready API server: it waits for one no longer than ten seconds.
func (s *Server) startManager() error {
	const name = "system:kube-controller-manager"
	cert, err := s.pki.client(name)
	if err != nil {
		return err
	}
	file := s.pki.file("manager.kubeconfig")
	if err := s.write(file, user{ClientCertificateData: cert.cert, ClientKeyData: cert.key}); err != nil {
		return err
	}
	flags := []string{
		"--kubeconfig=" + file, "--use-service-account-credentials",
		"--service-account-private-key-file=" + s.pki.file("accounts.key"), "--root-ca-file=" + s.pki.file("ca.crt"),
		"--leader-elect=false", "--secure-port=0", // it is alone, and nobody asks it anything
		"--kube-api-qps=1000", "--kube-api-burst=1000", // with 20 a second, its start alone takes 4 s longer
	}
	if len(s.o.Controllers) > 0 {
		flags = append(flags, "--controllers="+strings.Join(s.o.Controllers, ","))
	}
	s.manager, err = s.run("kube-controller-manager", flags)
	return err
}

func (s *Server) url() string { return fmt.Sprintf("https://%s:%s", s.host.Addr, port) }
