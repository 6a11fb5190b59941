// SPDX-License-Identifier: Apache-2.0

// Package kubeapi owns a real Kubernetes control plane for one test: etcd, kube-apiserver and kube-controller-manager as
// processes on a host of a lab, and what kubelets, a scheduler and Multus would write there for the lab's nodes and pods. It
// must not know the programs under test, and leaves nothing behind: its processes and files go with the lab.
package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sluice-lb/sluice/integration/lab"
)

const (
	// startLimit bounds the start of a program that takes seconds, on a machine that is busy with other things.
	startLimit = 3 * time.Minute
	// callLimit bounds one call of the API server.
	callLimit = 30 * time.Second
	port      = "6443"
)

// Options say what to start, and where.
type Options struct {
	// Lab is on whose Control the server runs; it needs lab.Options.Management. Nil means a lab of the server's own, which
	// has nothing but Control.
	Lab *lab.Lab
	// Programs is the directory with the programs. Empty means what the function Programs gives.
	Programs string
	// APIServerFlags are further flags of kube-apiserver.
	APIServerFlags []string
	// Controllers are those of kube-controller-manager that run, by name. Empty means all. Without serviceaccount-controller
	// no pod can be created.
	Controllers []string
}

// Server is a running control plane. Its methods are for one goroutine, but for Config, Client and Kubectl.
type Server struct {
	o       Options
	own     *lab.Lab // nil where the lab is another's, or is closed
	host    *lab.Host
	dir     string
	pki     *pki
	config  *rest.Config // the admin's
	client  kubernetes.Interface
	objects *objects

	etcd, api, manager *lab.Process
}

// New starts the control plane, with the CRD of NADs. It returns when pods can be created in the namespace default: seconds
// later, on a quiet machine.
func New(ctx context.Context, o Options) (*Server, error) {
	s := &Server{o: o}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, s.Logs()), s.Close())
	}
	return s, nil
}

// prepare makes all that is no process.
func (s *Server) prepare(ctx context.Context) (err error) {
	if s.o.Programs == "" {
		if s.o.Programs, err = Programs(ctx); err != nil {
			return err
		}
	}
	if s.o.Lab == nil {
		if s.own, err = lab.NewControl(ctx, []string{s.o.Programs}); err != nil {
			return err
		}
		s.o.Lab = s.own
	}
	s.host = s.o.Lab.Control
	if !s.host.Addr.IsValid() {
		return errors.New("start an API server: the lab has no management network, so set lab.Options.Management")
	}
	s.dir = filepath.Join(s.o.Lab.Dir(), "kubernetes")
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		return fmt.Errorf("start an API server: %w", err)
	}
	if s.pki, err = newPKI(s.dir, s.host.Addr.AsSlice(), net.ParseIP(kubernetesService)); err != nil {
		return err
	}
	return s.connect()
}

// connect makes the clients. They need no running server.
func (s *Server) connect() error {
	admin, err := s.pki.client("admin", "system:masters")
	if err != nil {
		return err
	}
	if err := s.write(s.Kubeconfig(), user{ClientCertificateData: admin.cert, ClientKeyData: admin.key}); err != nil {
		return err
	}
	s.config = &rest.Config{
		Host: s.url(),
		TLSClientConfig: rest.TLSClientConfig{
			CAData: s.pki.ca(), CertData: admin.cert, KeyData: admin.key,
		},
		Dial: s.host.Dial,
		QPS:  -1, // no limit
	}
	if s.client, err = kubernetes.NewForConfig(s.config); err != nil {
		return fmt.Errorf("make the client: %w", err)
	}
	s.objects, err = newObjects(s.config, s.client, s.o.Lab)
	return err
}

func (s *Server) start(ctx context.Context) error {
	var err error
	if s.etcd, err = s.run("etcd", s.etcdFlags(ctx)); err != nil {
		return err
	}
	if err := s.StartAPI(ctx); err != nil {
		return err
	}
	if err := s.installNADs(ctx); err != nil {
		return err
	}
	return lab.Until(ctx, startLimit, "pods can be created", func(ctx context.Context) error {
		if err := running(s.manager); err != nil {
			return err
		}
		return s.objects.hasAccount(ctx, "default", "default")
	})
}

// StopAPI takes the API server away, at once and without farewell. kube-controller-manager goes too: one that leads by a Lease ends
// itself when it cannot renew that. If it stayed, it would call nodes dead as soon as the server is back, because it has not seen
// their heartbeats meanwhile.
func (s *Server) StopAPI() {
	s.manager.Kill()
	s.api.Kill()
}

// StartAPI starts the API server, at the same address and with the same data, and kube-controller-manager when it is ready.
func (s *Server) StartAPI(ctx context.Context) (err error) {
	if s.api, err = s.run("kube-apiserver", s.apiServerFlags()); err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.startManager()
}

// RestartEtcd stops etcd, starts it with the same data, and waits until the API server is ready again.
func (s *Server) RestartEtcd(ctx context.Context) error {
	stopping, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := s.etcd.Stop(stopping); err != nil {
		return err
	}
	var err error
	if s.etcd, err = s.run("etcd", s.etcdFlags(ctx)); err != nil {
		return err
	}
	return s.ready(ctx)
}

// ready waits until the API server says so, and reads from etcd, whose absence it may not have noticed.
func (s *Server) ready(ctx context.Context) error {
	return lab.Until(ctx, startLimit, "the API server is ready", func(ctx context.Context) error {
		if err := errors.Join(running(s.etcd), running(s.api)); err != nil {
			return err
		}
		// A server whose etcd is away may leave a request without an answer for long.
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if _, err := s.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
			return err
		}
		_, err := s.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}

// running says whether a process still runs.
func running(p *lab.Process) error {
	select {
	case <-p.Done():
		return fmt.Errorf("%s has ended", filepath.Base(p.Log))
	default:
		return nil
	}
}

// Close ends all processes. Closing again succeeds.
func (s *Server) Close() error {
	for _, p := range []*lab.Process{s.manager, s.api, s.etcd} {
		if p != nil {
			p.Kill()
		}
	}
	if s.own == nil {
		return nil
	}
	own := s.own
	s.own = nil
	return own.Close()
}

// logTail is how much of each log Logs gives, in octets.
const logTail = 8 << 10

// Logs gives the last of what each program has written.
func (s *Server) Logs() string {
	out := ""
	for _, p := range []*lab.Process{s.etcd, s.api, s.manager} {
		if p != nil {
			text := p.Output()
			out += "--- " + filepath.Base(p.Log) + "\n" + text[max(0, len(text)-logTail):]
		}
	}
	return out
}
