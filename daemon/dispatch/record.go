package dispatch

import (
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"stoker/engine"
	"stoker/store/batchfile"
	"stoker/store/journal"
)

// answer records what the engine made of a request.
func (d *Dispatcher) answer(a engine.Answer) error {
	f := d.land(a.Key)
	if f == nil {
		return nil
	}
	r := f.run
	r.engine = d.engine
	switch {
	case a.Status < 200 || a.Status > 599:
		return d.recordFailure(r, f.seq, &f.req.Ref, badGateway(fmt.Sprintf("the engine answered with status %d", a.Status)))
	case a.Status != 200:
		return d.recordFailure(r, f.seq, &f.req.Ref, batchfile.Failure{Status: a.Status, Body: a.Body})
	}
	id, requestID := ids(r.id, f.req.Line)
	line, info, err := d.encoder.AppendOutput(d.line[:0], &f.req, id, requestID, a.Body)
	if err != nil {
		return d.recordFailure(r, f.seq, &f.req.Ref, badGateway("the engine's response cannot be read: "+err.Error()))
	}
	d.line = line
	if len(line) > d.lineLimit {
		return d.recordFailure(r, f.seq, &f.req.Ref, badGateway(fmt.Sprintf("the engine's response makes a line of %d bytes", len(line))))
	}
	return d.record(r, journal.Frame{
		Kind: journal.KindOutput, Seq: f.seq, Status: 200, Finish: journal.FinishOf(info.FinishReason),
		PromptTokens: clamp(info.PromptTokens), CompletionTokens: clamp(info.CompletionTokens), Payload: line,
	})
}

// recordFailure records that a request has no answer.
func (d *Dispatcher) recordFailure(r *run, seq uint32, ref *batchfile.Ref, f batchfile.Failure) error {
	id, requestID := ids(r.id, ref.Line)
	d.line = batchfile.AppendError(d.line[:0], ref, id, requestID, f)
	if len(d.line) > d.lineLimit { // no journal would take it, in no life
		f.Body, f.Message = nil, fmt.Sprintf("the error makes a line of %d bytes", len(d.line))
		bare := *ref
		bare.Metadata = nil
		d.line = batchfile.AppendError(d.line[:0], &bare, id, requestID, f)
	}
	return d.record(r, journal.Frame{Kind: journal.KindError, Seq: seq, Status: uint16(f.Status), Payload: d.line})
}

func (d *Dispatcher) record(r *run, f journal.Frame) error {
	fresh, err := r.batch.Append(f)
	if err := d.patient(err); err != nil {
		return err
	}
	if err == nil && !fresh {
		return nil
	}
	r.dirty = true
	d.uncommitted += len(f.Payload)
	if f.Kind == journal.KindOutput {
		d.totals.Completed++
	} else {
		d.totals.Failed++
	}
	d.totals.PromptTokens += uint64(f.PromptTokens)
	d.totals.CompletionTokens += uint64(f.CompletionTokens)
	much := d.uncommitted >= commitBytes
	d.due = d.due || much
	if r.batch.Complete() || much {
		return d.commit()
	}
	return nil
}

// ids are those of a result line: its own, "batch_req_…", and its response's request_id, "req_…", which OpenAI's clients
// quote when they report a problem.
func ids(batch string, line int64) (id, requestID string) {
	id = batchfile.RequestID(batch, line)
	return id, strings.TrimPrefix(id, "batch_")
}

// badGateway is the failure of a request that the engine answered, but not so that it is of use.
func badGateway(message string) batchfile.Failure {
	body := append([]byte(nil), `{"error":{"message":`...)
	body, _ = jsontext.AppendQuote(body, message) // what is not UTF-8 becomes U+FFFD
	body = append(body, `,"type":"BadGatewayError","param":null,"code":502}}`...)
	return batchfile.Failure{Status: http.StatusBadGateway, Body: body}
}

func clamp(n int64) uint32 { return uint32(max(0, min(n, math.MaxUint32))) }
