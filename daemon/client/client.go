// Package client asks a running daemon, over its Unix socket.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/go-json-experiment/json"

	"stoker/daemon/api"
	"stoker/store"
)

// ErrNotRunning means that no daemon answers on the socket.
var ErrNotRunning = errors.New("daemon is not running")

// Client asks one daemon.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client for the daemon on a socket. It connects with the first question.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status asks what the daemon is doing.
func (c *Client) Status(ctx context.Context) (*api.Status, error) {
	return get[api.Status](ctx, c, "/api/v1/status")
}

// Batches asks for all batches in a state, or all with state "".
func (c *Client) Batches(ctx context.Context, state store.State) (*api.Batches, error) {
	return get[api.Batches](ctx, c, "/api/v1/batches?state="+url.QueryEscape(string(state)))
}

// Batch asks for one batch by its id. The error is store.ErrNotFound if there is none.
func (c *Client) Batch(ctx context.Context, id string) (*api.Batch, error) {
	return get[api.Batch](ctx, c, "/api/v1/batches/"+url.PathEscape(id))
}

// Verify has the daemon prove the invariants of one batch, or of all with id "".
func (c *Client) Verify(ctx context.Context, id string) (*api.Verification, error) {
	return get[api.Verification](ctx, c, "/api/v1/verify?id="+url.QueryEscape(id))
}

func get[T any](ctx context.Context, c *Client, path string) (*T, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unanswered(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, c.unanswered(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, failure(resp.StatusCode, body)
	}
	v := new(T)
	if err := json.Unmarshal(body, v); err != nil {
		return nil, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return v, nil
}

// unanswered says why there is no answer, without the address that only this package knows.
func (c *Client) unanswered(err error) error {
	if asked, ok := errors.AsType[*url.Error](err); ok {
		err = asked.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("ask %s: %w", c.socket, ErrNotRunning)
	case isDial(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("ask the daemon: %w", err)
	}
	return fmt.Errorf("ask %s: it ended before it had answered: %w", c.socket, ErrNotRunning)
}

// isDial reports whether nobody was reached.
func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

func failure(code int, body []byte) error {
	var e api.ErrorBody
	message := http.StatusText(code)
	if json.Unmarshal(body, &e) == nil && e.Error.Message != "" {
		message = e.Error.Message
	}
	if code == http.StatusNotFound {
		return fmt.Errorf("%s (%w)", message, store.ErrNotFound)
	}
	return errors.New(message)
}
