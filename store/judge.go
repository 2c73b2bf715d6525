package store

import (
	"hash/crc32"
	"runtime"

	"stoker/store/batchfile"
	"stoker/store/dedupe"
)

// judge has lines judged in the background, as many at a time as there are processors, and gives the verdicts in the order
// of the lines. It belongs to one goroutine.
type judge struct {
	hash    func(customID string) uint64
	give    func(*verdict) error
	gather  *chunk   // lines that are not given to anybody yet
	pending []*chunk // that are being judged, the oldest first
	text    int      // bytes in these
	spare   []*chunk
}

// verdict is what admission keeps of a line.
type verdict struct {
	row   row
	url   string // of a valid request, as the rest
	model string
	id    uint64 // hash of its custom_id
}

// chunkText is how many bytes of lines are judged together. A longer line is a chunk of its own.
const chunkText = 256 << 10

// pendingText bounds the bytes of lines that are being judged, but for the last chunk, however many processors there are.
const pendingText = 16 << 20

// chunk is some lines and, once done receives, their verdicts.
type chunk struct {
	text     []byte
	lines    []batchfile.Line // whose texts lie in text, or where it was before it grew
	verdicts []verdict
	parser   batchfile.Parser
	done     chan struct{}
}

func newJudge(ids *dedupe.Finder, give func(*verdict) error) *judge {
	return &judge{hash: ids.Hash, give: give, gather: newChunk()}
}

func newChunk() *chunk { return &chunk{done: make(chan struct{}, 1)} }

// add has a line judged, of which it keeps a copy. It gives verdicts on earlier ones.
func (j *judge) add(line batchfile.Line) error {
	if !j.gather.take(line) {
		if err := j.send(); err != nil {
			return err
		}
		j.gather.take(line)
	}
	return nil
}

// finish gives the verdicts that are left.
func (j *judge) finish() error {
	if err := j.send(); err != nil {
		return err
	}
	for len(j.pending) > 0 {
		if err := j.receive(); err != nil {
			return err
		}
	}
	return nil
}

// send has what is gathered judged, once somebody is free to.
func (j *judge) send() error {
	for len(j.pending) > 0 && (len(j.pending) == runtime.GOMAXPROCS(0) || j.text >= pendingText) {
		if err := j.receive(); err != nil {
			return err
		}
	}
	c := j.gather
	j.pending = append(j.pending, c)
	j.text += len(c.text)
	go c.judge(j.hash)
	if n := len(j.spare); n > 0 {
		j.gather, j.spare = j.spare[n-1], j.spare[:n-1]
	} else {
		j.gather = newChunk()
	}
	return nil
}

// receive waits for the oldest chunk's verdicts and gives them.
func (j *judge) receive() error {
	c := j.pending[0]
	j.pending = j.pending[1:]
	<-c.done
	j.text -= len(c.text)
	for i := range c.verdicts {
		if err := j.give(&c.verdicts[i]); err != nil {
			return err
		}
	}
	if cap(c.text) <= 2*chunkText {
		c.text, c.lines, c.verdicts = c.text[:0], c.lines[:0], c.verdicts[:0]
		j.spare = append(j.spare, c)
	}
	return nil
}

// take copies a line into the chunk, unless it is full.
func (c *chunk) take(line batchfile.Line) bool {
	text := &line.Text
	if line.TooLong {
		text = &line.Head
	}
	if len(c.lines) > 0 && len(c.text)+len(*text) > chunkText {
		return false
	}
	start := len(c.text)
	c.text = append(c.text, *text...)
	*text = c.text[start:]
	c.lines = append(c.lines, line)
	return true
}

func (c *chunk) judge(hash func(string) uint64) {
	for i := range c.lines {
		c.verdicts = append(c.verdicts, c.judgeLine(&c.lines[i], hash))
	}
	c.done <- struct{}{}
}

func (c *chunk) judgeLine(line *batchfile.Line, hash func(string) uint64) verdict {
	v := verdict{row: row{offset: line.Offset, length: uint32(min(line.Length, 1<<32-1)), line: uint32(line.Number)}}
	if line.TooLong {
		v.row.flags, v.row.text = rowInvalid|rowTooLong, crc32.Checksum(line.Head, crcTable)
		return v
	}
	v.row.text = crc32.Checksum(line.Text, crcTable)
	req, err := c.parser.Parse(line.Text, line.Number)
	if err != nil {
		v.row.flags = rowInvalid
		return v
	}
	v.url, v.model, v.id = req.URL, req.Model, hash(req.CustomID)
	return v
}
