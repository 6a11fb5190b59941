// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-lb/sluice/integration/lab"
)

// metricsAddr is the controller's, on the lab's Control.
const metricsAddr = "127.0.0.1:9407"

// startController starts the controller. It says how often it has synced.
func (b *bench) startController(ctx context.Context) (err error) {
	b.controller, err = b.StartController(ctx, "controller", "--metrics-address="+metricsAddr)
	return err
}

// idle counts what the controller writes when a pod has changed in nothing that matters, twice, and after a restart.
func (b *bench) idle(ctx context.Context) error {
	before, err := os.Stat(b.audit)
	if err != nil {
		return err
	}
	for i := range 2 {
		synced, err := b.syncs(ctx)
		if err != nil {
			return err
		}
		patch := fmt.Appendf(nil, `{"metadata": {"labels": {"touched": "%d"}}}`, i)
		_, err = b.api.Client().CoreV1().Pods(namespace).Patch(ctx, podOf(0, 0).Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return err
		}
		if err := b.untilSynced(ctx, synced+1); err != nil {
			return err
		}
	}
	if err := b.controller.Stop(ctx); err != nil {
		return err
	}
	if err := b.startController(ctx); err != nil {
		return err
	}
	if err := b.untilSynced(ctx, 1); err != nil {
		return err
	}
	writes, err := b.writes(before.Size())
	if err != nil {
		return err
	}
	for _, w := range writes {
		fmt.Fprintf(os.Stderr, "\n  written although nothing has changed: %s", w)
	}
	b.figures.add("controller_idle_writes", float64(len(writes)), "", maxIdleWrite,
		"controller, writes in two syncs and after a restart with nothing changed, without those of its election")
	return b.usage("controller_restart", "controller, from exec to the end of its first sync with nothing changed", b.controller, noBar)
}

func (b *bench) untilSynced(ctx context.Context, times int) error {
	return lab.Until(ctx, limit, fmt.Sprintf("the controller has synced %d times", times), func(ctx context.Context) error {
		synced, err := b.syncs(ctx)
		if err == nil && synced < times {
			err = fmt.Errorf("it has %d times", synced)
		}
		return err
	})
}

// syncs is how often the controller has synced without an error.
func (b *bench) syncs(ctx context.Context) (int, error) {
	client := http.Client{Transport: &http.Transport{DialContext: b.Control.Dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metricsAddr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	_, after, ok := strings.Cut(string(text), `sluice_syncs_total{result="ok"} `)
	if !ok {
		return 0, nil
	}
	count, _, _ := strings.Cut(after, "\n")
	return strconv.Atoi(count)
}

// writes lists what the controller has written since the audit log had a size, but for the Lease of its election.
func (b *bench) writes(since int64) ([]string, error) {
	log, err := os.ReadFile(b.audit)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, line := range bytes.Split(bytes.TrimSpace(log[since:]), []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var event struct {
			Verb, RequestURI string
			ObjectRef        struct{ Resource, Name string }
			ResponseStatus   struct{ Code int }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		if event.Verb == "create" && event.ResponseStatus.Code == http.StatusConflict {
			continue // it is there, as the controller wanted to make sure: a new leader does so with the keys of peers
		}
		if event.ObjectRef.Resource != "leases" || event.ObjectRef.Name != "sluice-controller" {
			out = append(out, event.Verb+" "+event.RequestURI)
		}
	}
	return out, nil
}
