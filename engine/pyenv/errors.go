package pyenv

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
)

// What the errors of this package match with errors.Is. The first two are permanent, unless Temporary says otherwise: no
// retry cures them.
var (
	ErrNoPython = errors.New("no usable Python")
	ErrNoVLLM   = errors.New("no vLLM")
	ErrNoSpace  = errors.New("not enough disk space")
	ErrInstall  = errors.New("install failed")
)

// Error is a failure with what the user can do about it.
type Error struct {
	Kind    error  // one of the sentinel errors above
	Message string // names the operation and the thing
	Hint    string // "" if there is nothing to say
	Err     error  // the cause; nil if there is none beneath
}

// Error tells all but the hint.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Is reports whether target is e's kind.
func (e *Error) Is(target error) bool { return target == e.Kind }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the machine was at fault, not what was asked of it: too little memory, or so much else to do
// that an answer took too long.
func (e *Error) Temporary() bool {
	var exit *exec.ExitError
	if errors.As(e.Err, &exit) {
		ws, ok := exit.Sys().(syscall.WaitStatus)
		return ok && ws.Signaled() // by the timeout, or by the kernel
	}
	return errors.Is(e.Err, syscall.ENOMEM) || errors.Is(e.Err, syscall.EAGAIN) || errors.Is(e.Err, context.DeadlineExceeded)
}
