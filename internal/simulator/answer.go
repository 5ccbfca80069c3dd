package simulator

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// redirectPath is where a scripted redirect points if it does not say where.
const redirectPath = "/redirected"

// fillSize is how much of a huge answer is written at a time.
const fillSize = 32 << 10

// exchange is one request and how it can be answered.
type exchange struct {
	w http.ResponseWriter
	r *http.Request
	// stopped ends waits besides Simulator.closed; nil if there is no Server to be stopped.
	stopped <-chan struct{}
	closed  <-chan struct{}
	// body is what has been read of the request, for an echo.
	body []byte
}

// pause waits. It reports false if the waiting ended early because the server stops or, if the client's leaving
// matters, because the client left.
func (x *exchange) pause(d time.Duration, clientMatters bool) bool {
	if d <= 0 {
		return true
	}
	var gone <-chan struct{}
	if clientMatters {
		gone = x.r.Context().Done()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-gone:
	case <-x.closed:
	case <-x.stopped:
	}
	return false
}

// cut ends the connection without a (further) answer.
func (x *exchange) cut(reset bool) {
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2 has no connection to take over; this resets the stream.
	}
	if reset {
		inner := conn
		if tls, ok := conn.(interface{ NetConn() net.Conn }); ok {
			inner = tls.NetConn()
		}
		if tcp, ok := inner.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // Without it the cut is merely an orderly end.
			_ = tcp.Close()
		}
	}
	_ = conn.Close()
}

// send writes an answer as it is scripted. status and text are what the API says by itself: text is the body, or
// empty for none.
func (x *exchange) send(a *Answer, status int, text string) {
	size := int64(len(text))
	if a.BodySize > 0 {
		size = a.BodySize
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		text, size = "", 0 // They have no body by definition.
	}
	x.setHeaders(x.w.Header(), a, status, size)
	x.w.WriteHeader(status)
	if size == 0 {
		return
	}
	if a.Cut == CutMidAnswer {
		size /= 2
	}
	if a.BodySize > 0 {
		x.fill(a, size)
	} else {
		x.write(a, text[:size])
	}
	if a.Cut == CutMidAnswer {
		_ = http.NewResponseController(x.w).Flush()
		x.cut(a.Reset)
	}
}

func (x *exchange) setHeaders(header http.Header, a *Answer, status int, size int64) {
	if a.RetryAfter > 0 {
		value := strconv.FormatInt(int64((a.RetryAfter+time.Second-1)/time.Second), 10)
		if a.RetryAfterForm == RetryAfterDate {
			value = time.Now().Add(a.RetryAfter + time.Second - 1).UTC().Format(http.TimeFormat)
		}
		header.Set("Retry-After", value)
	}
	if status/100 == 3 && status != http.StatusNotModified {
		location := a.Location
		if location == "" {
			location = redirectPath
		}
		header.Set("Location", location)
	}
	if size > 0 {
		header.Set("Content-Type", "application/json")
		header.Set("Content-Length", strconv.FormatInt(size, 10))
	}
	for name, value := range a.Headers { // Last, so that a script can say anything.
		header.Set(name, value)
	}
}

// write sends text, byte by byte if the answer drips. It reports false if the client or the server has left.
func (x *exchange) write(a *Answer, text string) bool {
	if a.Drip == 0 {
		_, err := io.WriteString(x.w, text) //nolint:gosec // JSON; quoting the input is the purpose.
		return err == nil
	}
	flusher := http.NewResponseController(x.w)
	_ = flusher.Flush()
	for i := range len(text) {
		if !x.pause(a.Drip, true) {
			return false
		}
		if _, err := x.w.Write([]byte{text[i]}); err != nil {
			return false
		}
		_ = flusher.Flush()
	}
	return true
}

// fill sends the first size bytes of a JSON body of a.BodySize bytes, without ever holding it.
func (x *exchange) fill(a *Answer, size int64) {
	const head, tail = `{"message":"`, `"}`
	var chunk strings.Builder
	for written := int64(0); written < size; {
		chunk.Reset()
		if written == 0 {
			chunk.WriteString(head)
		}
		filler := min(fillSize, a.BodySize-written-int64(chunk.Len())-int64(len(tail)))
		if filler > 0 {
			chunk.WriteString(strings.Repeat("x", int(filler)))
		}
		if written+int64(chunk.Len()) >= a.BodySize-int64(len(tail)) {
			chunk.WriteString(tail)
		}
		text := chunk.String()
		text = text[:min(int64(len(text)), size-written)]
		if !x.write(a, text) {
			return
		}
		written += int64(len(text))
	}
}

// apiError is the JSON body of the API's errors.
type apiError struct {
	Timestamp time.Time `json:"timestamp"`
	Status    int       `json:"status"`
	Error     string    `json:"error"`
	Message   string    `json:"message,omitempty"`
	Path      string    `json:"path"`
	TraceID   string    `json:"traceId,omitempty"`
	// Authorization and Input are only there if the script asks for an echo.
	Authorization string `json:"authorization,omitempty"`
	Input         string `json:"input,omitempty"`
}

// errorText is the API's JSON error.
func (x *exchange) errorText(a *Answer, status int) string {
	const echoed = 2048
	e := apiError{
		Timestamp: time.Now().UTC(), Status: status, Error: http.StatusText(status), Message: a.message,
		Path: x.r.URL.Path, TraceID: x.r.Header.Get("X-Traceid"),
	}
	if a.Echo {
		e.Authorization = x.r.Header.Get("Authorization")
		e.Input = string(x.body[:min(len(x.body), echoed)])
	}
	if !utf8.ValidString(e.Path) {
		e.Path = strings.ToValidUTF8(e.Path, "\uFFFD")
	}
	text, err := json.Marshal(e)
	if err != nil {
		return "{}" // Cannot be: strings, a time and a number.
	}
	return string(text)
}
