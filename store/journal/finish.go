package journal

// Finish is a finish_reason in one byte of a frame.
type Finish uint8

const (
	finishNone  Finish = 0
	finishOther Finish = 255
)

// finishNames are the reasons of the OpenAI API and of vLLM (FINISH_REASON_STRINGS in vllm/v1/engine). Their positions
// are stored: only append.
var finishNames = [...]string{"", "stop", "length", "tool_calls", "function_call", "content_filter", "abort", "error", "repetition"}

// FinishOf encodes a reason; one that is not known becomes "other".
func FinishOf(reason string) Finish {
	for i, name := range finishNames {
		if name == reason {
			return Finish(i)
		}
	}
	return finishOther
}

// String returns the reason, or "" for none.
func (f Finish) String() string {
	if int(f) < len(finishNames) {
		return finishNames[f]
	}
	return "other"
}
