package simulator

import (
	"encoding/hex"
	"maps"
	"time"
)

// Booking is one update that the simulator booked.
type Booking struct {
	// Seq is the place in the order of all bookings, from 1.
	Seq            int    `json:"seq"`
	Vorgangsnummer string `json:"vorgangsnummer"`
	Kind           string `json:"kind"`
	TraceID        string `json:"traceId"`
	// Request is the Seq of the Request that was booked.
	Request int `json:"request"`
	// Digest is the SHA-256 of the body in hex, Size its length in bytes.
	Digest   string    `json:"digest"`
	Size     int64     `json:"size"`
	BookedAt time.Time `json:"bookedAt"`
	// Status is the answered status code: 0 as long as there is no answer, and for ever if it was cut off.
	Status int `json:"status"`
	// Body is the body as it came in, only with Config.KeepBodies. It must not be changed.
	Body []byte `json:"body,omitempty"`
}

// Request is one request to the API, whatever came of it.
type Request struct {
	// Seq is the place in the order of arrival, from 1.
	Seq    int    `json:"seq"`
	Kind   string `json:"kind"`
	Method string `json:"method"`
	// Path is only set for KindOther.
	Path           string `json:"path,omitempty"`
	Vorgangsnummer string `json:"vorgangsnummer,omitempty"`
	TraceID        string `json:"traceId,omitempty"`
	// Digest and Size are those of the body; Digest is empty if it was not read to its end.
	Digest string `json:"digest,omitempty"`
	Size   int64  `json:"size"`
	// ReceivedAt is when the headers were read, BookedAt is zero if it was not booked, AnsweredAt is when the
	// handling ended, zero as long as it goes on.
	ReceivedAt time.Time `json:"receivedAt"`
	BookedAt   time.Time `json:"bookedAt,omitzero"`
	AnsweredAt time.Time `json:"answeredAt,omitzero"`
	// Status is the answered status code: 0 without an answer.
	Status int  `json:"status"`
	Booked bool `json:"booked"`
	// RepeatedTraceID reports that its X-TraceId had been used before, by any request.
	RepeatedTraceID bool `json:"repeatedTraceId,omitempty"`
	// Overlapping reports that another request of the same Vorgang, whose client was still there, was being
	// worked on when this one came.
	Overlapping bool `json:"overlapping,omitempty"`
	// ClientGone reports that the client had left before the answer.
	ClientGone bool `json:"clientGone,omitempty"`
}

// TokenRequest is one request to the token endpoint. It holds neither secrets nor tokens.
type TokenRequest struct {
	// Seq is the place in the order of arrival, from 1.
	Seq             int       `json:"seq"`
	TraceID         string    `json:"traceId,omitempty"`
	RepeatedTraceID bool      `json:"repeatedTraceId,omitempty"`
	Scope           string    `json:"scope,omitempty"`
	Subject         string    `json:"subject,omitempty"`
	Actor           string    `json:"actor,omitempty"`
	ReceivedAt      time.Time `json:"receivedAt"`
	AnsweredAt      time.Time `json:"answeredAt,omitzero"`
	// Status is 0 without an answer.
	Status int `json:"status"`
	// Error is the OAuth error code of a refusal.
	Error string `json:"error,omitempty"`
	// Issued reports that a token was issued.
	Issued bool `json:"issued"`
}

// Counts are numbers since the start or the last reset; requests are those to the API, not to the token endpoint.
type Counts struct {
	Requests int `json:"requests"`
	// Finished are those whose handling has ended, Cut those of them that ended without an answer.
	Finished int `json:"finished"`
	Cut      int `json:"cut"`
	Booked   int `json:"booked"`
	// RepeatedTraceIDs counts requests (token requests included) with an X-TraceId used before, MissingTraceIDs
	// updates without one.
	RepeatedTraceIDs int `json:"repeatedTraceIds"`
	MissingTraceIDs  int `json:"missingTraceIds"`
	// Overlapping counts requests that overlapped another one of the same Vorgang.
	Overlapping           int `json:"overlapping"`
	TokenRequests         int `json:"tokenRequests"`
	TokenRequestsFinished int `json:"tokenRequestsFinished"`
	TokensIssued          int `json:"tokensIssued"`
}

// Stats are the counts with their breakdowns.
type Stats struct {
	Counts
	// ByStatus counts finished requests by answered status, 0 for those without an answer.
	ByStatus map[int]int `json:"byStatus"`
	// ByKind counts requests by kind.
	ByKind        map[string]int `json:"byKind"`
	TokenByStatus map[int]int    `json:"tokenByStatus"`
}

// Counts returns the numbers of now. It is cheap.
func (s *Simulator) Counts() Counts {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.ledger.counts
}

// Stats returns the numbers of now with their breakdowns.
func (s *Simulator) Stats() Stats {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{
		Counts: l.counts, ByStatus: maps.Clone(l.byStatus), ByKind: maps.Clone(l.byKind), TokenByStatus: maps.Clone(l.tokenStatus),
	}
}

// Ledger returns all bookings in the order they were made. While requests come in, it is a prefix of what will
// have been booked.
func (s *Simulator) Ledger() []Booking {
	var bookings []Booking
	eachChunk(s.ledger, &s.ledger.bookings, func(e **entry) { bookings = append(bookings, (*e).booking()) })
	return bookings
}

// Bookings returns one Vorgang's bookings in the order they were made.
func (s *Simulator) Bookings(vorgangsnummer string) []Booking {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	v := s.ledger.vorgaenge[vorgangsnummer]
	if v == nil {
		return nil
	}
	bookings := make([]Booking, len(v.bookings))
	for i, e := range v.bookings {
		bookings[i] = e.booking()
	}
	return bookings
}

// Requests returns all requests to the API in the order of arrival, those in flight included.
func (s *Simulator) Requests() []Request {
	var requests []Request
	eachChunk(s.ledger, &s.ledger.requests, func(e *entry) { requests = append(requests, e.request()) })
	return requests
}

// TokenRequests returns all requests to the token endpoint in the order of arrival.
func (s *Simulator) TokenRequests() []TokenRequest {
	var requests []TokenRequest
	eachChunk(s.ledger, &s.ledger.tokens, func(e *tokenEntry) { requests = append(requests, e.TokenRequest) })
	return requests
}

// RepeatedTraceIDs returns every X-TraceId that more than one request had, with the number of requests.
func (s *Simulator) RepeatedTraceIDs() map[string]int {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return maps.Clone(s.ledger.repeated)
}

// eachChunk visits a list of the ledger. It takes the mutex per chunk, so that a snapshot of millions of entries
// does not stop the server, and ends at a reset.
func eachChunk[T any](l *ledger, list *chunked[T], visit func(*T)) {
	l.mu.Lock()
	epoch := l.epoch
	l.mu.Unlock()
	for i := 0; ; i++ {
		if !visitChunk(l, epoch, i, list, visit) {
			return
		}
	}
}

func visitChunk[T any](l *ledger, epoch uint64, i int, list *chunked[T], visit func(*T)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch != epoch {
		return false
	}
	chunk := list.chunk(i)
	for j := range chunk {
		visit(&chunk[j])
	}
	return len(chunk) == chunkSize
}

// booking copies what was booked. The ledger's mutex is held.
func (e *entry) booking() Booking {
	return Booking{
		Seq: e.bookingSeq, Vorgangsnummer: e.vorgang.number, Kind: e.kind, TraceID: e.traceID, Request: e.seq,
		Digest: hex.EncodeToString(e.bodySHA[:]), Size: e.size, BookedAt: e.booked, Status: e.status, Body: e.body,
	}
}

// request copies a request. The ledger's mutex is held.
func (e *entry) request() Request {
	r := Request{
		Seq: e.seq, Kind: e.kind, Method: e.method, Path: e.path, TraceID: e.traceID, Size: e.size,
		ReceivedAt: e.received, BookedAt: e.booked, AnsweredAt: e.finished, Status: e.status, Booked: !e.booked.IsZero(),
		RepeatedTraceID: e.repeated, Overlapping: e.overlapping, ClientGone: e.clientGone,
	}
	if e.vorgang != nil {
		r.Vorgangsnummer = e.vorgang.number
	}
	if e.read {
		r.Digest = hex.EncodeToString(e.bodySHA[:])
	}
	return r
}
