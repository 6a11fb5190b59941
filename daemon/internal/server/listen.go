// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// drainTime is what requests get to end in when the agent stops. It is less than the plugin waits for an answer.
	drainTime = 5 * time.Second
	// headerTime bounds how long a caller may take for its request's header, so that a stuck one frees its connection.
	headerTime = 10 * time.Second
)

// Run listens on the socket and answers until the context ends. It takes the place of a socket on which nobody listens,
// and refuses if somebody does.
func (s *Server) Run(ctx context.Context, socketPath string) error {
	listener, err := listen(ctx, socketPath)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTime,
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	s.opts.Logger.Info("listening", "socket", socketPath)
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", socketPath, err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		// Callers that are cut off take the agent for gone, which is what it is about to be.
		s.opts.Logger.Warn("requests are cut off", "err", errors.Join(err, server.Close()))
	}
	<-served
	return nil
}

func listen(ctx context.Context, path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	// The directory's mode is what keeps others out: it holds from before the socket is there.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("close the socket's directory to others: %w", err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close the socket to others: %w", err), listener.Close())
	}
	return listener, nil
}

// removeStale removes a socket that a killed agent left.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for another agent: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way and no socket: remove it", path)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("another agent listens on %s: stop it first", path), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("look for another agent: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of an agent that is gone: %w", err)
	}
	return nil
}
