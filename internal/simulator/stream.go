package simulator

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
)

const (
	// streamedBody is from which size on a document is digested while it comes, and not kept.
	streamedBody = maxPooledBody
	// keptEnd is what is kept of such a document's beginning and of its end.
	keptEnd = 64 << 10
)

// base64Bytes are the characters of base64, without the padding.
var base64Bytes = func() (set [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		set[c] = true
	}
	return set
}()

// streamed is what is known of a body that was too large to be kept.
type streamed struct {
	digest [sha256.Size]byte
	size   int64
	// ends are its beginning and its end.
	ends []byte
	// plain reports that there is nothing but base64 between them: the whole is well-formed if they are.
	plain bool
}

// streams reports whether a request's body is digested while it comes.
func (s *Simulator) streams(t target, r *http.Request) bool {
	return t.kind == KindDocument && r.ContentLength > streamedBody && !s.config.KeepBodies
}

// readStream reads a body in constant memory. The answer is for one that is too large.
func readStream(w http.ResponseWriter, r *http.Request, limit int64, buffer *bytes.Buffer) (*streamed, *Answer, error) {
	body := http.MaxBytesReader(w, r.Body, limit)
	digest := sha256.New()
	b := &streamed{plain: true}
	part := make([]byte, keptEnd)
	var last []byte // What came last, at most keptEnd.
	for {
		n, err := io.ReadFull(body, part)
		_, _ = digest.Write(part[:n]) // Never fails.
		b.size += int64(n)
		if buffer.Len() < keptEnd {
			buffer.Write(part[:n]) // The first part.
		} else {
			last = append(last, part[:n]...)
			over := max(0, len(last)-keptEnd)
			for _, c := range last[:over] {
				b.plain = b.plain && base64Bytes[c]
			}
			last = last[:copy(last, last[over:])]
		}
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return nil, tooLargeAnswer(), nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && b.size == r.ContentLength {
			break
		}
		if err != nil {
			return nil, nil, err
		}
	}
	buffer.Write(last)
	digest.Sum(b.digest[:0])
	b.ends = buffer.Bytes()
	return b, nil, nil
}

// check is checkBody for a streamed document.
func (b *streamed) check(contentType string) *Answer {
	if !b.plain {
		return malformed("Nur Base64 in einem Dokument dieser Größe", b.ends)
	}
	return checkBody(KindDocument, contentType, b.ends)
}
