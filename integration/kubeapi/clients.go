// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/sluice-lb/sluice/integration/lab"
)

type user = clientcmdapi.AuthInfo

// Client is the admin's, for this process.
func (s *Server) Client() kubernetes.Interface { return s.client }

// Config is the admin's, for other clients in this process. It has no limit of its own on calls per second.
func (s *Server) Config() *rest.Config { return rest.CopyConfig(s.config) }

// Kubeconfig is the path of the admin's, for programs on the lab's hosts.
func (s *Server) Kubeconfig() string { return s.pki.file("admin.kubeconfig") }

// AccountKubeconfig writes a kubeconfig with a token of a ServiceAccount, as a pod of it would have on a node, and gives its
// path. The token holds for an hour, and says which node it is for unless that is empty.
func (s *Server) AccountKubeconfig(ctx context.Context, namespace, name, node string) (string, error) {
	request := &authenticationv1.TokenRequest{}
	if node != "" {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: node}
	}
	answer, err := s.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("ask for a token of ServiceAccount %s/%s: %w", namespace, name, err)
	}
	file := filepath.Join(s.dir, strings.Join([]string{namespace, name, node, "kubeconfig"}, "."))
	return file, s.write(file, user{Token: answer.Status.Token})
}

// write writes a kubeconfig of one user.
func (s *Server) write(file string, as user) error {
	const name = "test"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: s.url(), CertificateAuthorityData: s.pki.ca()}
	config.AuthInfos[name] = &as
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", file, err)
	}
	return nil
}

// Kubectl runs kubectl on the server's host as the admin, and gives what it prints. The error carries what it writes to
// standard error.
func (s *Server) Kubectl(ctx context.Context, args ...string) (string, error) {
	flags := []string{"--kubeconfig=" + s.Kubeconfig(), "--cache-dir=" + filepath.Join(s.dir, "kubectl")}
	out, err := s.host.Command(ctx, filepath.Join(s.o.Programs, "kubectl"), append(flags, args...)...).Output()
	return string(out), err
}

// Watch has kubectl print the events of some kind as JSON, first those that make what is there. The arguments are those of
// kubectl get.
func (s *Server) Watch(args ...string) (*lab.Process, error) {
	flags := []string{
		"--kubeconfig=" + s.Kubeconfig(), "--cache-dir=" + filepath.Join(s.dir, "kubectl"),
		"get", "--watch", "--output-watch-events", "--output=json",
	}
	return s.host.Start(filepath.Join(s.o.Programs, "kubectl"), append(flags, args...)...)
}
