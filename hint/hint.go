// Package hint has the error that tells its reader what to do.
package hint

// Error is a failure with what the user can do about it.
type Error struct {
	Kind    error  // a sentinel error of the package that it comes from
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
