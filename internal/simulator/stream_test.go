package simulator

import (
	"encoding/hex"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// A large document is digested as if it had been kept, and judged as if it were small.
func TestALargeDocumentIsDigestedWhileItComes(t *testing.T) {
	c := listen(t, newSimulator(t, `{}`))
	for name, tt := range map[string]struct {
		before, after, odd string
		status             int
	}{
		"well-formed":          {`{"filename":"a.pdf","base64Content":"`, `"}`, "", http.StatusCreated},
		"in the other order":   {` { "base64Content": "`, `==", "filename":"\u00fc" } `, "", http.StatusCreated},
		"not closed":           {`{"filename":"a.pdf","base64Content":"`, `"`, "", http.StatusBadRequest},
		"without a name":       {`{"base64Content":"`, `"}`, "", http.StatusBadRequest},
		"no base64 at the end": {`{"filename":"a.pdf","base64Content":"`, `-"}`, "", http.StatusBadRequest},
		"no base64 in between": {`{"filename":"a.pdf","base64Content":"`, `"}`, "-", http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			content := strings.Repeat("ABCDabcd0123+/xy", streamedBody/32)
			body := tt.before + content + tt.odd + content + tt.after
			c.wantStatus(c.post("1", KindDocument, "", body), tt.status)
			requests := c.sim.Requests()
			last := requests[len(requests)-1]
			want := digest([]byte(body))
			if last.Size != int64(len(body)) || last.Digest != hex.EncodeToString(want[:]) || last.Booked != (tt.status == http.StatusCreated) {
				t.Errorf("recorded %+v of %d bytes", last, len(body))
			}
		})
	}
}

// Its size costs no memory, and a body that ends early has no digest.
func TestALargeDocumentIsNotKept(t *testing.T) {
	s := newSimulator(t, `{}`, func(config *Config) { config.MaxBody = 110 << 20 })
	c := listen(t, s)
	const size = 100 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	post := func(length int64, body io.Reader) answer {
		r := update(t.Context(), c.server.BaseURL(), c.token, "1", KindDocument, "", "")
		r.Body, r.ContentLength = io.NopCloser(body), length
		return c.do(r)
	}
	text := `{"filename":"a.pdf","base64Content":"`
	c.wantStatus(post(size+int64(len(text))+2, io.MultiReader(strings.NewReader(text), io.LimitReader(letters{}, size), strings.NewReader(`"}`))), http.StatusCreated)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
		t.Errorf("%d bytes were allocated for a document of %d", used, size)
	}
	if got := post(size, io.LimitReader(letters{}, size/2)); got.err == nil {
		t.Errorf("half a body was answered %d", got.status)
	}
	if err := s.WaitFor(t.Context(), func(counts Counts) bool { return counts.Finished == 2 }); err != nil {
		t.Fatal(err)
	}
	if last := s.Requests()[1]; last.Digest != "" || last.Booked || last.Status != 0 {
		t.Errorf("half a body is recorded as %+v", last)
	}
	c.wantStatus(post(110<<20+1, io.LimitReader(letters{}, 110<<20+1)), http.StatusRequestEntityTooLarge)
}

// letters never end.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'A'
	}
	return len(p), nil
}
