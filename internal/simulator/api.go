package simulator

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// traceHeader is X-TraceId as net/http writes header names, which saves making it so per request.
const traceHeader = "X-Traceid"

// maxTraceID bounds what is kept of an X-TraceId, in bytes.
const maxTraceID = 256

// serve finds the part that a request is for.
func (s *Simulator) serve(w http.ResponseWriter, r *http.Request, stopped <-chan struct{}) {
	switch {
	case r.URL.Path == AdminPath || strings.HasPrefix(r.URL.Path, AdminPath+"/"):
		s.admin.ServeHTTP(w, r)
	case r.URL.Path == TokenPath:
		s.serveToken(w, r, stopped)
	default:
		s.serveAPI(w, r, stopped)
	}
}

// target is what a request to the API is about.
type target struct {
	kind           string
	vorgangsnummer string
	// refusal is the answer to a KindOther.
	refusal *Answer
}

// targetOf reads the URL. It looks at the escaped path, because an escaped slash belongs to the Vorgangsnummer.
func targetOf(r *http.Request) target {
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), BasePath)
	if ok && (rest == "" || rest == "/") {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return target{kind: KindProbe}
		}
		return target{kind: KindOther, refusal: &Answer{Status: http.StatusMethodNotAllowed}}
	}
	if rest, ok = strings.CutPrefix(rest, "/vorgang/"); !ok {
		return target{kind: KindOther, refusal: &Answer{Status: http.StatusNotFound}}
	}
	escaped, kind, ok := strings.Cut(rest, "/")
	number, err := url.PathUnescape(escaped)
	if !ok || err != nil || number == "" || escaped == "." || escaped == ".." || (kind != KindDocument && kind != KindComments) {
		return target{kind: KindOther, refusal: &Answer{Status: http.StatusNotFound}}
	}
	if r.Method != http.MethodPost {
		return target{kind: KindOther, refusal: &Answer{Status: http.StatusMethodNotAllowed}}
	}
	return target{kind: kind, vorgangsnummer: number}
}

// isUpdate reports whether the request wants something to be booked.
func (t target) isUpdate() bool { return t.kind == KindDocument || t.kind == KindComments }

// serveAPI is a request's way: record, fate, body, latency, booking, answer.
func (s *Simulator) serveAPI(w http.ResponseWriter, r *http.Request, stopped <-chan struct{}) {
	t := targetOf(r)
	a := arrival{
		kind: t.kind, method: r.Method, vorgangsnummer: t.vorgangsnummer, traceID: traceIDOf(r), gone: r.Context().Done(),
	}
	if t.kind == KindOther {
		a.path = r.URL.EscapedPath()
	}
	e := s.ledger.arrive(a)
	defer s.logRequest(r.Context(), e)
	defer s.ledger.leave(e)

	p := s.plan.Load()
	f := s.fateOf(p, t, r)
	x := &exchange{w: w, r: r, stopped: stopped, closed: s.closed}

	buffer := s.bodies.take()
	defer s.bodies.give(buffer)
	if f.answer == nil || !f.answer.Early {
		refusal, err := s.takeBody(x, t, f, e, buffer)
		if err != nil {
			return // The client did not send all of it; nobody waits for an answer.
		}
		if refusal != nil {
			f.answer = refusal
		}
	}
	s.finish(x, p, f, t, e)
}

// takeBody reads a body, records it, and checks it if it is to be booked: the answer says what is wrong with it.
func (s *Simulator) takeBody(x *exchange, t target, f fate, e *entry, buffer *bytes.Buffer) (*Answer, error) {
	contentType := x.r.Header.Get("Content-Type")
	if s.streams(t, x.r) {
		body, refusal, err := readStream(x.w, x.r, s.config.MaxBody, buffer)
		if refusal != nil || err != nil {
			return refusal, err
		}
		x.body = body.ends
		s.ledger.bodyRead(e, body.digest, body.size, nil)
		if books(f.answer) {
			return body.check(contentType), nil
		}
		return nil, nil //nolint:nilnil // Nothing is wrong.
	}
	refusal, err := readBody(x.w, x.r, s.config.MaxBody, buffer)
	if err != nil {
		return nil, err
	}
	x.body = buffer.Bytes()
	s.bodyRead(e, x.body, refusal == nil)
	if refusal == nil && t.isUpdate() && books(f.answer) {
		refusal = checkBody(t.kind, contentType, x.body)
	}
	return refusal, nil
}

// fateOf asks all that can be asked before the body is read.
func (s *Simulator) fateOf(p *plan, t target, r *http.Request) fate {
	if answer := s.activeOutage(p, OfAPI); answer != nil {
		return fate{answer: answer}
	}
	if t.refusal != nil {
		return fate{answer: t.refusal}
	}
	if answer := p.throttle(); answer != nil {
		return fate{answer: answer}
	}
	if t.kind == KindProbe {
		f := p.probe()
		if f.answer == nil {
			f.answer = &Answer{Status: http.StatusNotFound, message: "Kein solcher Endpunkt"}
		}
		return f
	}
	if answer := s.tokens.check(r.Header.Get("Authorization")); answer != nil {
		return fate{answer: answer}
	}
	return p.update(t.kind, t.vorgangsnummer)
}

// bodyRead records a body; whole is false if it was too large to be read.
func (s *Simulator) bodyRead(e *entry, body []byte, whole bool) {
	if !whole {
		return
	}
	var kept []byte
	if s.config.KeepBodies {
		kept = append([]byte{}, body...) // The buffer goes back to the pool.
	}
	s.ledger.bodyRead(e, digest(body), int64(len(body)), kept)
}

// books reports whether an answer to an update means a booking.
func books(a *Answer) bool {
	switch {
	case a == nil:
		return true
	case a.Cut == CutBeforeBooking, a.Early:
		return false
	case a.Cut == CutAfterBooking:
		return true
	case a.Book != nil:
		return *a.Book
	}
	return a.Status == 0 || a.Status/100 == 2
}

// finish waits, books and answers.
func (s *Simulator) finish(x *exchange, p *plan, f fate, t target, e *entry) {
	a := f.answer
	if a == nil {
		a = &Answer{}
	}
	booking := t.isUpdate() && books(a)
	latency := a.Latency
	if latency == nil {
		latency = p.script.Latency
	}
	if latency != nil || a.AnswerLatency != nil {
		if f.chance == nil {
			f.chance = p.chance(t.vorgangsnummer, e.seq) // An answer that the script's rules did not decide.
		}
	}
	// A client that leaves does not stop a booking, as no server notices in time; it spares the wait for nothing.
	inTime := x.pause(latency.draw(f.chance), !booking)
	if inTime && booking {
		s.ledger.book(e)
	}
	if !inTime || !x.pause(a.AnswerLatency.draw(f.chance), true) {
		s.ledger.answered(e, 0)
		x.cut(false)
		return
	}
	if a.Cut == CutBeforeBooking || a.Cut == CutAfterBooking {
		s.ledger.answered(e, 0)
		x.cut(a.Reset)
		return
	}
	status := a.Status
	if status == 0 {
		status = successOf(t.kind)
	}
	s.ledger.answered(e, status)
	x.send(a, status, x.apiText(a, status))
}

// successOf is the API's status code for a booked update.
func successOf(kind string) int {
	if kind == KindDocument {
		return http.StatusCreated
	}
	return http.StatusOK
}

// apiText is the body that the API gives to a status: none for success.
func (x *exchange) apiText(a *Answer, status int) string {
	switch {
	case a.Body != "":
		return a.Body
	case status/100 == 2 && a.Drip == 0 && a.Cut != CutMidAnswer && !a.Echo:
		return ""
	}
	return x.errorText(a, status)
}

// traceIDOf is the request's X-TraceId, bounded.
func traceIDOf(r *http.Request) string {
	id := r.Header.Get(traceHeader)
	return id[:min(len(id), maxTraceID)]
}

// logRequest says what became of a request. The Vorgangsnummer is no content, the update is.
func (s *Simulator) logRequest(ctx context.Context, e *entry) {
	if !s.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	s.ledger.mu.Lock()
	request := e.request()
	s.ledger.mu.Unlock()
	s.log.LogAttrs(ctx, slog.LevelDebug, "request answered",
		slog.String("kind", request.Kind),
		slog.String("vorgangsnummer", request.Vorgangsnummer),
		slog.String("trace_id", request.TraceID),
		slog.Int("status", request.Status),
		slog.Bool("booked", request.Booked),
		slog.Int64("size", request.Size),
		slog.Duration("duration", request.AnsweredAt.Sub(request.ReceivedAt).Round(time.Microsecond)),
	)
}
