package pyenv

import (
	"context"
	"errors"
	"os/exec"
	"syscall"

	"stoker/hint"
)

// What the errors of this package match with errors.Is. The first two are permanent, unless IsTemporary says otherwise: no
// retry cures them.
var (
	ErrNoPython = errors.New("no usable Python")
	ErrNoVLLM   = errors.New("no vLLM")
	ErrNoSpace  = errors.New("not enough disk space")
	ErrInstall  = errors.New("install failed")
)

// Error is a failure with what the user can do about it. Its kind is one of the errors above.
type Error = hint.Error

// IsTemporary reports whether the machine was at fault, not what was asked of it: too little memory, or so much else to do
// that an answer took too long.
func IsTemporary(e *Error) bool {
	var exit *exec.ExitError
	if errors.As(e.Err, &exit) {
		ws, ok := exit.Sys().(syscall.WaitStatus)
		return ok && ws.Signaled() // by the timeout, or by the kernel
	}
	return errors.Is(e.Err, syscall.ENOMEM) || errors.Is(e.Err, syscall.EAGAIN) || errors.Is(e.Err, context.DeadlineExceeded)
}
