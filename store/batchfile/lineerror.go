package batchfile

import "fmt"

// TooLongError is the error of a line that the Splitter did not keep. Its Ref is what the line's first bytes tell.
func TooLongError(line Line, maxLine int) *LineError {
	return &LineError{
		Ref:     new(Parser).salvage(line.Head, line.Number),
		Code:    CodeLineTooLong,
		Message: fmt.Sprintf("the line has %d bytes, max_line is %d", line.Length, maxLine),
	}
}

// DuplicateError is the error of a valid line whose custom_id an earlier one has. firstLine is 0 if the caller does not
// know which.
func DuplicateError(ref Ref, firstLine int64) *LineError {
	first := "an earlier line"
	if firstLine > 0 {
		first = fmt.Sprintf("line %d", firstLine)
	}
	return &LineError{Ref: ref, Code: CodeDuplicateCustomID, Message: fmt.Sprintf("custom_id %q is already that of %s", ref.CustomID, first)}
}
