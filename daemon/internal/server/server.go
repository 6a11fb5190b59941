// SPDX-License-Identifier: Apache-2.0

// Package server owns the agent's HTTP surface on its unix socket: it decodes requests, calls what the agent is made
// of, and encodes answers, as package api describes. It must not decide anything itself.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/sluice-lb/sluice/daemon/api"
)

// maxBody bounds a request's body, in octets. An attachment has a few hundred.
const maxBody = 64 << 10

// Attachments is what the server needs of the attachment set. Put and Remove are idempotent; an *api.Error that they
// return reaches the caller as it is.
type Attachments interface {
	Put(a api.Attachment) error
	Get(k api.Key) (api.Attachment, bool)
	Remove(k api.Key) error
}

// Options are what the server calls. All fields are required.
type Options struct {
	Attachments Attachments
	// Serve returns when the datapath serves the attachment, which was put before the call, or with the reason why not.
	Serve func(ctx context.Context, a api.Attachment) error
	// Services gives the balancing as this node does it.
	Services func() ([]api.Service, error)
	// Issues gives what is wrong with objects and interfaces now.
	Issues func() ([]api.Issue, error)
	// State gives the compiled State; the server encodes it as JSON.
	State func() any
	// Ready gives nil, or the reason why the agent does not serve yet.
	Ready   func() error
	Metrics http.Handler
	Logger  *slog.Logger
}

// Server answers on the agent's socket.
type Server struct {
	opts Options
	mux  *http.ServeMux
}

// New gives a server that does not listen yet.
func New(opts Options) *Server {
	s := &Server{opts: opts, mux: http.NewServeMux()}
	s.mux.HandleFunc("POST /v1/attachments", s.addAttachment)
	s.mux.HandleFunc("GET /v1/attachments/{containerID}/{ifname}", s.getAttachment)
	s.mux.HandleFunc("DELETE /v1/attachments/{containerID}/{ifname}", s.removeAttachment)
	s.mux.HandleFunc("GET /v1/services", s.getServices)
	s.mux.HandleFunc("GET /v1/issues", s.getIssues)
	s.mux.HandleFunc("GET /debug/state", s.getState)
	s.mux.HandleFunc("GET /healthz", s.getHealth)
	s.mux.HandleFunc("GET /readyz", s.getReadiness)
	s.mux.Handle("GET /metrics", opts.Metrics)
	s.mux.HandleFunc("/", s.unknown)
	return s
}

// ServeHTTP answers one request. It lets tests and other listeners use the server without its socket.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// HealthHandler serves only /healthz, /readyz and /metrics: what may be asked over the network, where everybody can
// ask.
func (s *Server) HealthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.getHealth)
	mux.HandleFunc("GET /readyz", s.getReadiness)
	mux.Handle("GET /metrics", s.opts.Metrics)
	return mux
}

func (s *Server) addAttachment(w http.ResponseWriter, r *http.Request) {
	var a api.Attachment
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(body, &a)
	}
	if err == nil {
		err = a.Validate()
	}
	if err != nil {
		s.refuse(w, r, http.StatusBadRequest, &api.Error{
			Code: api.CodeInvalid, Msg: "the body is no attachment", Details: err.Error(),
		})
		return
	}
	if err := s.opts.Attachments.Put(a); err != nil {
		s.fail(w, r, fmt.Sprintf("attachment %s is not taken", a.Key()), err)
		return
	}
	if err := s.opts.Serve(r.Context(), a); err != nil {
		// The attachment stays: the agent goes on trying, and the plugin removes it if it gives up.
		s.refuse(w, r, http.StatusServiceUnavailable, &api.Error{
			Code:    api.CodeTryAgain,
			Msg:     fmt.Sprintf("the datapath does not serve attachment %s yet", a.Key()),
			Details: err.Error(),
		})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) getAttachment(w http.ResponseWriter, r *http.Request) {
	k := requestKey(r)
	a, ok := s.opts.Attachments.Get(k)
	if !ok {
		s.refuse(w, r, http.StatusNotFound, &api.Error{
			Code: api.CodeUnknownContainer, Msg: fmt.Sprintf("the agent does not know attachment %s", k),
		})
		return
	}
	s.answer(w, r, a)
}

func (s *Server) removeAttachment(w http.ResponseWriter, r *http.Request) {
	k := requestKey(r)
	if err := k.Validate(); err != nil {
		s.refuse(w, r, http.StatusBadRequest, &api.Error{
			Code: api.CodeInvalid, Msg: "the path names no attachment", Details: err.Error(),
		})
		return
	}
	if err := s.opts.Attachments.Remove(k); err != nil {
		s.fail(w, r, fmt.Sprintf("attachment %s is not removed", k), err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func requestKey(r *http.Request) api.Key {
	return api.Key{ContainerID: r.PathValue("containerID"), IfName: r.PathValue("ifname")}
}

func (s *Server) getServices(w http.ResponseWriter, r *http.Request) {
	services, err := s.opts.Services()
	if err != nil {
		s.fail(w, r, "the services are not known", err)
		return
	}
	if services == nil {
		services = []api.Service{} // a list in JSON, even if it is empty
	}
	s.answer(w, r, services)
}

func (s *Server) getIssues(w http.ResponseWriter, r *http.Request) {
	issues, err := s.opts.Issues()
	if err != nil {
		s.fail(w, r, "the issues are not known", err)
		return
	}
	if issues == nil {
		issues = []api.Issue{} // a list in JSON, even if it is empty
	}
	s.answer(w, r, issues)
}

func (s *Server) getState(w http.ResponseWriter, r *http.Request) { s.answer(w, r, s.opts.State()) }

func (s *Server) getHealth(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, "ok\n") // a caller that has gone needs no answer
}

func (s *Server) getReadiness(w http.ResponseWriter, _ *http.Request) {
	if err := s.opts.Ready(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// unknown tells a caller of another version that it is one.
func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	s.refuse(w, r, http.StatusNotFound, &api.Error{
		Code: api.CodeIncompatible,
		Msg:  fmt.Sprintf("this agent has no %s %s: use plugin, agent and command line of one version", r.Method, r.URL.Path),
	})
}

// fail answers with an error of what the server calls: an *api.Error as it is, any other as a fault of ours.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, msg string, err error) {
	e := &api.Error{Code: api.CodeInternal, Msg: msg, Details: err.Error()}
	errors.As(err, &e)
	status := http.StatusInternalServerError
	switch e.Code {
	case api.CodeInvalid:
		status = http.StatusBadRequest
	case api.CodeTryAgain:
		status = http.StatusServiceUnavailable
	}
	s.refuse(w, r, status, e)
}

// refuse answers with an error, and logs it: the caller may be a plugin whose output nobody keeps.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, status int, e *api.Error) {
	s.opts.Logger.Warn("request refused", "method", r.Method, "path", r.URL.Path, "code", e.Code, "err", e)
	s.write(w, r, status, e)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, value any) {
	s.write(w, r, http.StatusOK, value)
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		s.opts.Logger.Error("answer is not encodable", "method", r.Method, "path", r.URL.Path, "err", err)
		http.Error(w, "the answer is not encodable", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a caller that has gone needs no answer
}
