// Package batchfile reads JSONL batch lines and writes result and error lines, in both forms: OpenAI's Batch API and
// the simple one. It is pure: bytes in, bytes out.
package batchfile

// Form is how a line is written; its result is written the same way.
type Form uint8

const (
	OpenAI Form = iota // {"custom_id","method","url","body"}; also lines whose form cannot be told
	Simple             // {"custom_id","prompt"|"messages", parameters beside them}
)

// String returns the form's name as the worker protocol and reports have it.
func (f Form) String() string {
	if f == Simple {
		return "simple"
	}
	return "openai"
}

// URLs that a line may name.
const (
	ChatCompletions = "/v1/chat/completions"
	Completions     = "/v1/completions"
	Embeddings      = "/v1/embeddings"
	Responses       = "/v1/responses"
	Score           = "/v1/score"
	Rerank          = "/v1/rerank"
)

// Codes of the errors that stoker itself writes for a line.
const (
	CodeInvalidJSON       = "invalid_json"
	CodeInvalidEncoding   = "invalid_encoding"
	CodeInvalidRequest    = "invalid_request"
	CodeDuplicateCustomID = "duplicate_custom_id"
	CodeLineTooLong       = "line_too_long"
	CodeBatchCancelled    = "batch_cancelled"
	CodeBatchExpired      = "batch_expired"
	CodeRequestTimeout    = "request_timeout"
	CodeEngineCrashed     = "engine_crashed"
)

// Request is one valid line. Its slices alias the line that was parsed.
type Request struct {
	Ref
	URL   string
	Body  []byte // raw JSON: the body of an OpenAI line; the whole line of a simple one
	Model string // the model the request asks for, "" if it names none
	// MaxTokens is how long the request lets an answer get, in tokens; 0 if it does not say.
	MaxTokens int64
}

// Ref is what a result line says of its request.
type Ref struct {
	CustomID string // "line-<n>" if the line gave none; "" with HasID false if unreadable
	HasID    bool
	Line     int64 // physical line number from 1
	Form     Form
	Metadata []byte // raw JSON to echo in the simple form; nil if none
}

// LineError is why a line cannot run. It costs only the line.
type LineError struct {
	Ref
	Code    string // one of the codes above
	Message string
	Column  int // byte column from 1; 0 if it concerns the whole line
}

func (e *LineError) Error() string { return e.Code + ": " + e.Message }

// Failure is why a request has no answer.
type Failure struct {
	Code    string // one of the codes above; "" for an HTTP-like error
	Message string
	Status  int    // HTTP-like status; 0 for stoker's own codes
	Body    []byte // HTTP-like: the raw {"error":{…}} object of the engine
}

// Info is what the books keep of a successful answer.
type Info struct {
	PromptTokens     int64
	CompletionTokens int64
	FinishReason     string // of the first choice; "" where there is none
}
