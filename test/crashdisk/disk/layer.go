package disk

const pageSize = 4096

type page [pageSize]byte

// layer is a disk's contents, or what differs from those of the layer below. What neither has is zeros.
type layer struct {
	below *layer
	pages map[int64]*page
}

func newLayer(below *layer) *layer { return &layer{below: below, pages: map[int64]*page{}} }

var zeros page

// page returns a page to read.
func (l *layer) page(n int64) *page {
	for ; l != nil; l = l.below {
		if p := l.pages[n]; p != nil {
			return p
		}
	}
	return &zeros
}

// own returns a page of this layer to write to.
func (l *layer) own(n int64) *page {
	p := l.pages[n]
	if p == nil {
		p = new(page)
		if l.below != nil {
			*p = *l.below.page(n)
		}
		l.pages[n] = p
	}
	return p
}

func (l *layer) read(dst []byte, at int64) {
	for len(dst) > 0 {
		n := copy(dst, l.page(at / pageSize)[at%pageSize:])
		dst, at = dst[n:], at+int64(n)
	}
}

func (l *layer) write(src []byte, at int64) {
	for len(src) > 0 {
		n := copy(l.own(at / pageSize)[at%pageSize:], src)
		src, at = src[n:], at+int64(n)
	}
}
