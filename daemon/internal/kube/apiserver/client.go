// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"log/slog"
	"time"

	nadclient "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/clientset/versioned"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// requestTime is how long a request that is no watch may take. A server that accepts connections and never answers must not
// hold a controller up for good.
const requestTime = 30 * time.Second

// Client talks to one API server.
type Client struct {
	kube kubernetes.Interface
	nads nadclient.Interface
	host string
	own  rest.Config // for leader election, which must not wait behind other requests
}

// NewClient reads a kubeconfig file, or, if that is "", what Kubernetes puts into every pod for its ServiceAccount. It sends
// nothing.
func NewClient(kubeconfig, userAgent string) (*Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil && kubeconfig == "" {
		return nil, fmt.Errorf("find the API server: %w: outside of a pod, name a file with --kubeconfig, "+
			"or a directory of manifests with --manifests", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read --kubeconfig %q: %w", kubeconfig, err)
	}
	config.UserAgent = userAgent
	config.QPS = -1 // the API server's priority and fairness is what limits us
	c := &Client{host: config.Host, own: *config}

	typed := rest.CopyConfig(config)
	typed.ContentType, typed.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	if c.kube, err = kubernetes.NewForConfig(typed); err != nil {
		return nil, fmt.Errorf("make a client of %s: %w", config.Host, err)
	}
	if c.nads, err = nadclient.NewForConfig(config); err != nil { // of a CRD, which has no protobuf
		return nil, fmt.Errorf("make a client of %s: %w", config.Host, err)
	}
	return c, nil
}

// Host gives the API server's address, for people.
func (c *Client) Host() string { return c.host }

// LogTo makes client-go log where we do. It is for the whole process, so main calls it once.
func LogTo(logger *slog.Logger) { klog.SetSlogLogger(logger) }
