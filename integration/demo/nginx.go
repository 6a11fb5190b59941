// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/integration/lab"
)

// nginxConf is one pod's nginx. /download is slow on purpose: it must last while an agent dies and returns.
const nginxConf = `daemon off;
user root;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
	access_log %[1]s/access.log;
	default_type text/plain;
	server {
		listen 80;
		root %[1]s;
		add_header X-Pod %[2]s;
		location = /download { limit_rate 8m; }
		location = /ready { access_log off; return 200; }
	}
}
`

// startNginx runs nginx in a pod, with a page that names the pod, and reports the pod ready once nginx answers.
func startNginx(ctx context.Context, p *lab.Pod) error {
	dir := p.Dir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("start nginx in pod %q: %w", p, err)
	}
	conf := filepath.Join(dir, "nginx.conf")
	err := errors.Join(
		os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, p.Name), 0o644),
		os.WriteFile(filepath.Join(dir, "index.html"), []byte(page(p)+"\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "download"), download(), 0o644),
	)
	if err != nil {
		return fmt.Errorf("start nginx in pod %q: %w", p, err)
	}
	proc, err := p.Start("nginx", "-c", conf)
	if err != nil {
		return err
	}
	err = lab.Until(ctx, 10*time.Second, "nginx answers in pod "+p.Name, func(ctx context.Context) error {
		return p.Command(ctx, "curl", "-sS", "--fail", "http://127.0.0.1/ready").Run()
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, proc.Output())
	}
	return p.SetReady(true)
}

// page is what a pod's nginx answers with.
func page(p *lab.Pod) string { return "nginx in pod " + p.Name }

func accessLog(p *lab.Pod) string { return filepath.Join(p.Dir(), "access.log") }

func (t *tour) clearLogs() error {
	var errs []error
	for _, p := range t.pods {
		errs = append(errs, os.Truncate(accessLog(p), 0))
	}
	return errors.Join(errs...)
}

// loggedClients waits until a pod's access log has so many lines and gives the client addresses of all lines. nginx writes a
// line when the request has ended, which may be after curl has.
func loggedClients(ctx context.Context, p *lab.Pod, lines int) ([]netip.Addr, error) {
	var clients []netip.Addr
	err := lab.Until(ctx, 5*time.Second, p.Name+" has logged its requests", func(context.Context) error {
		text, err := os.ReadFile(accessLog(p))
		if err != nil {
			return err
		}
		clients = nil
		for line := range strings.Lines(string(text)) {
			addr, err := netip.ParseAddr(strings.Fields(line)[0])
			if err != nil {
				return err
			}
			clients = append(clients, addr)
		}
		if len(clients) < lines {
			return fmt.Errorf("the access log has %d lines of %d", len(clients), lines)
		}
		return nil
	})
	return clients, err
}

// lastLine gives the last line of a pod's access log, or what kept it from being read.
func lastLine(p *lab.Pod) string {
	text, err := os.ReadFile(accessLog(p))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}
