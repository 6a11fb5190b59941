// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluice-lb/sluice/daemon/internal/lb"
)

// headerTime bounds how long a caller may take for its request's header, so that a stuck one frees its connection.
const headerTime = 5 * time.Second

// newRegistry gives a registry with what every Go process tells about itself.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sluice_build_info", Help: "Always 1; the label tells the version.",
		ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
	registry.MustRegister(build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// measured gives a sync that is counted and timed.
func measured(registry *prometheus.Registry, sync func(context.Context) error) func(context.Context) error {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_syncs_total", Help: "Runs of Snapshot, Compile and Apply, by result: ok or error.",
	}, []string{"result"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "sluice_sync_duration_seconds", Help: "Duration of one run of Snapshot, Compile and Apply.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
	})
	registry.MustRegister(total, seconds)
	return func(ctx context.Context) error {
		began := time.Now()
		err := sync(ctx)
		seconds.Observe(time.Since(began).Seconds())
		result := "ok"
		if err != nil {
			result = "error"
		}
		total.WithLabelValues(result).Inc()
		return err
	}
}

// gaugeIssues tells how many issues there are now.
func gaugeIssues(registry *prometheus.Registry, count func() int) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sluice_issues", Help: "Things that are wrong with objects now, as logged when they appeared.",
	}, func() float64 { return float64(count()) }))
}

// gaugeLeading tells whether this controller is the one that writes.
func gaugeLeading(registry *prometheus.Registry, leading func() bool) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sluice_controller_leading", Help: "1 while this controller leads, and 0 while it waits.",
	}, func() float64 {
		if leading() {
			return 1
		}
		return 0
	}))
}

// gaugeVIPs tells how many VIPs there are, by family and by whether this node owns them.
func gaugeVIPs(registry *prometheus.Registry, state func() lb.State) {
	for _, is6 := range []bool{false, true} {
		for _, owned := range []bool{false, true} {
			family := "IPv4"
			if is6 {
				family = "IPv6"
			}
			registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "sluice_vips", Help: "VIPs that this node balances, by family and by whether it owns them.",
				ConstLabels: prometheus.Labels{"family": family, "owned": strconv.FormatBool(owned)},
			}, func() float64 {
				n := 0
				for _, v := range state().VIPs {
					if v.Addr.Is6() == is6 && v.Owned == owned {
						n++
					}
				}
				return float64(n)
			}))
		}
	}
}

// serveHTTP serves a handler on --metrics-address until ctx ends; an empty address serves nothing.
func serveHTTP(ctx context.Context, address string, handler http.Handler) error {
	if address == "" {
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("serve metrics on --metrics-address %q: %w", address, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTime}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// controllerHandler serves a registry at /metrics, at /healthz that the process answers, and at /readyz whether it could
// lead.
func controllerHandler(registry *prometheus.Registry, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}
