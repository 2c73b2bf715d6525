package outbox

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/store"
	"stoker/store/durable"
)

// object is OpenAI's batch object (openai-openapi, schema Batch) with stoker's own part beside it. Times are Unix seconds.
type object struct {
	ID               string            `json:"id"`
	Object           string            `json:"object"`
	Endpoint         string            `json:"endpoint"`
	Model            *string           `json:"model"`
	Errors           *objectErrors     `json:"errors"`
	InputFileID      string            `json:"input_file_id"`
	CompletionWindow string            `json:"completion_window"`
	Status           string            `json:"status"`
	OutputFileID     *string           `json:"output_file_id"`
	ErrorFileID      *string           `json:"error_file_id"`
	CreatedAt        int64             `json:"created_at"`
	InProgressAt     *int64            `json:"in_progress_at"`
	ExpiresAt        *int64            `json:"expires_at"`
	FinalizingAt     *int64            `json:"finalizing_at"`
	CompletedAt      *int64            `json:"completed_at"`
	FailedAt         *int64            `json:"failed_at"`
	ExpiredAt        *int64            `json:"expired_at"`
	CancellingAt     *int64            `json:"cancelling_at"`
	CancelledAt      *int64            `json:"cancelled_at"`
	RequestCounts    requestCounts     `json:"request_counts"`
	Usage            usage             `json:"usage"`
	Metadata         map[string]string `json:"metadata"`
	Stoker           stokerPart        `json:"stoker"`
}

type objectErrors struct {
	Object string        `json:"object"`
	Data   []objectError `json:"data"`
}

type objectError struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Param   *string `json:"param"`
	Line    *int64  `json:"line"`
}

type requestCounts struct {
	Total     uint32 `json:"total"`
	Completed uint32 `json:"completed"`
	Failed    uint32 `json:"failed"`
}

type usage struct {
	InputTokens         uint64       `json:"input_tokens"`
	InputTokensDetails  inputDetail  `json:"input_tokens_details"`
	OutputTokens        uint64       `json:"output_tokens"`
	OutputTokensDetails outputDetail `json:"output_tokens_details"`
	TotalTokens         uint64       `json:"total_tokens"`
}

type inputDetail struct {
	CachedTokens uint64 `json:"cached_tokens"`
}

type outputDetail struct {
	ReasoningTokens uint64 `json:"reasoning_tokens"`
}

// stokerPart is what OpenAI's object has no place for.
type stokerPart struct {
	Name            string           `json:"name"`
	Queue           string           `json:"queue"`
	Input           inputPart        `json:"input"`
	Output          *filePart        `json:"output"`
	Errors          *filePart        `json:"errors"`
	Engines         []store.Engine   `json:"engines"`
	RequestedModels []string         `json:"requested_models"`
	FinishReasons   map[string]int64 `json:"finish_reasons"`
	Seconds         float64          `json:"seconds"` // from the first request to the last record
	TokensPerSecond float64          `json:"tokens_per_second"`
	Redone          uint32           `json:"redone"`
	RetryOf         *string          `json:"retry_of"`
	TopErrors       []topError       `json:"top_errors"`
}

type inputPart struct {
	Name    string         `json:"name"`
	SHA256  durable.SHA256 `json:"sha256"`
	Bytes   int64          `json:"bytes"`
	Lines   uint32         `json:"lines"`
	Changed bool           `json:"changed_after_claim"`
}

type filePart struct {
	Name   string         `json:"name"`
	SHA256 durable.SHA256 `json:"sha256"`
	Bytes  int64          `json:"bytes"`
}

type topError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Count   int64  `json:"count"`
}

// maxTopErrors bounds the list of most frequent errors.
const maxTopErrors = 10

// batchObject returns NAME.batch.json's bytes.
func batchObject(b *store.Batch, pub *store.Publication, totals *store.Totals) ([]byte, error) {
	m, r := b.Meta, b.Record
	o := object{
		ID: m.ID, Object: "batch", Endpoint: m.Endpoint, InputFileID: fileID(m.ID, "input"), CompletionWindow: "24h",
		Status: string(pub.State), CreatedAt: m.CreatedAt / 1000, FinalizingAt: seconds(r.FinalizingAt),
		RequestCounts: requestCounts{m.Requests, totals.Completed, totals.Failed},
		Usage: usage{
			InputTokens: totals.PromptTokens, OutputTokens: totals.CompletionTokens, TotalTokens: totals.PromptTokens + totals.CompletionTokens,
		},
		Metadata: m.Metadata,
		Stoker: stokerPart{
			Name: pub.Name.String(), Queue: m.Queue,
			Input:   inputPart{m.Input.Name.String(), m.Input.SHA256, m.Input.Bytes, m.Requests, pub.Changed},
			Engines: nonNil(r.Engines), RequestedModels: nonNil(m.Models), FinishReasons: totals.FinishReasons,
			Redone: b.Progress().Redone, TopErrors: topErrors(totals),
		},
	}
	if model := r.Model(); model != "" {
		o.Model = &model
	}
	if pub.State == store.Failed {
		o.FailedAt = o.FinalizingAt
		o.Errors = refusal(m.Refused)
	} else {
		o.InProgressAt, o.CompletedAt = seconds(r.InProgressAt), o.FinalizingAt
		o.Stoker.Seconds = float64(max(0, r.FinalizingAt-r.InProgressAt)) / 1000 // clocks are set back
	}
	if s := o.Stoker.Seconds; s > 0 {
		o.Stoker.TokensPerSecond = float64(totals.CompletionTokens) / s
	}
	for _, f := range pub.Files {
		part := &filePart{pub.Name.String() + f.Suffix, f.SHA256, f.Bytes}
		if f.Suffix == store.SuffixOutput {
			id := fileID(m.ID, "output")
			o.Stoker.Output, o.OutputFileID = part, &id
		} else {
			id := fileID(m.ID, "errors")
			o.Stoker.Errors, o.ErrorFileID = part, &id
		}
	}
	out, err := json.Marshal(o, jsontext.WithIndent("  "), json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode batch object of %s: %w", m.ID, err)
	}
	return append(out, '\n'), nil
}

func fileID(batch, part string) string {
	return "file-" + strings.TrimPrefix(batch, "batch_") + "-" + part
}

func seconds(ms int64) *int64 {
	if ms == 0 {
		return nil
	}
	s := ms / 1000
	return &s
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func refusal(r *store.Refusal) *objectErrors {
	e := objectError{Code: r.Code, Message: r.Message}
	if r.Line > 0 {
		e.Line = &r.Line
	}
	return &objectErrors{Object: "list", Data: []objectError{e}}
}

// topErrors returns the most frequent errors, the most frequent first.
func topErrors(t *store.Totals) []topError {
	all := make([]topError, 0, len(t.Errors))
	for key, n := range t.Errors {
		all = append(all, topError{key.Code, key.Message, n})
	}
	slices.SortFunc(all, func(a, b topError) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
	})
	return all[:min(len(all), maxTopErrors)]
}
