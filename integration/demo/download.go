// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluice-lb/sluice/integration/lab"
)

// The download lasts about four seconds at nginx's limit: long enough for an agent to die, and to come back.
const (
	downloadSize = 32 << 20
	progress     = 6 << 20 // bytes that must arrive while the agent is dead, and again before it is killed
)

// download gives the same random bytes every time, so that what arrives can be compared.
func download() []byte {
	data := make([]byte, downloadSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // never returns an error
	return data
}

// killAgent kills the agent of the node that serves a running download, shows that bytes still flow, and restarts it.
func (t *tour) killAgent(ctx context.Context) error {
	t.out.step("An agent is killed under a running download, and restarted")
	if err := t.clearLogs(); err != nil {
		return err
	}
	file := filepath.Join(t.Dir(), "downloaded")
	headers := file + ".headers"
	var stats bytes.Buffer
	curl := t.Client.Command(ctx, "curl", "-sS", "--fail", "--max-time", "60", "-o", file, "-D", headers,
		"-w", "%{size_download} bytes, %{num_connects} connection, HTTP %{http_code}", t.url()+"/download")
	curl.Stdout, curl.Stderr = &stats, &stats
	if err := curl.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- curl.Wait() }()
	if err := t.dieAndReturn(ctx, file, headers); err != nil {
		return errors.Join(err, curl.Process.Kill(), <-ended)
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("the download broke: %w: %s", err, stats.String())
	}
	t.out.command("client", "curl -O "+t.url()+"/download", stats.String())
	return t.checkDownload(file, stats.String())
}

// dieAndReturn does the killing between two looks at the growing file.
func (t *tour) dieAndReturn(ctx context.Context, file, headers string) error {
	if err := grown(ctx, file, progress); err != nil {
		return err
	}
	text, err := os.ReadFile(headers)
	if err != nil {
		return err
	}
	_, after, _ := strings.Cut(string(text), "X-Pod: ")
	name, _, _ := strings.Cut(after, "\r\n")
	pod, err := t.podNamed(name)
	if err != nil {
		return err
	}
	agent := t.Agent(pod.Node)
	agent.Kill()
	t.out.command(pod.Node.Name, fmt.Sprintf("kill -9 %d", agent.PID()),
		fmt.Sprintf("the agent of %s, which serves the download from %s, is gone", pod.Node.Name, pod.Name))
	if err := grown(ctx, file, progress); err != nil {
		return fmt.Errorf("with the agent dead: %w", err)
	}
	t.out.checked("%d MB more arrived without it", progress>>20)
	if err := t.StartAgent(ctx, pod.Node); err != nil {
		return err
	}
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	if st.Size() == downloadSize {
		return errors.New("the download was over before the agent was back: it proves nothing")
	}
	t.out.checked("a new agent is ready, %d of %d MB into the download", st.Size()>>20, downloadSize>>20)
	return nil
}

// grown waits until a file has n bytes more than now. A file that is not there has none.
func grown(ctx context.Context, file string, n int64) error {
	size := func() int64 {
		if st, err := os.Stat(file); err == nil {
			return st.Size()
		}
		return 0
	}
	target := size() + n
	return lab.Until(ctx, 10*time.Second, "the download goes on", func(context.Context) error {
		if s := size(); s < target {
			return fmt.Errorf("it stands at %d bytes", s)
		}
		return nil
	})
}

func (t *tour) checkDownload(file, stats string) error {
	got, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, download()) {
		return fmt.Errorf("the downloaded %d bytes are not those that nginx has", len(got))
	}
	if want := fmt.Sprintf("%d bytes, 1 connection, HTTP 200", downloadSize); stats != want {
		return fmt.Errorf("curl reports %q, want %q", stats, want)
	}
	t.out.checked("complete and unchanged, on one connection")
	return nil
}
