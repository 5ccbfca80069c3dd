// Package fault is the one error type that carries what has to be known to decide about an update.
//
// Whoever sees a failure first (the HTTP status, the JSON error, the refused publish) classifies it as a
// [*Error]; everybody above passes it on, wrapped with %w, and only relay's judge turns it into a decision.
// The package is a leaf: it knows neither HTTP nor NATS.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind says whose fault a failure is and so what may be done about it.
type Kind uint8

const (
	// Permanent failures come again whenever the same update is sent: the update becomes a dead letter.
	Permanent Kind = iota + 1
	// Transient failures may pass by themselves: the update is retried with backoff.
	Transient
	// Throttled means the API asked for a pause: sending is held, no retry budget is spent.
	Throttled
	// Systemic failures would hit every update alike (wrong secret, storage full): sending is held.
	Systemic
	// Interrupted means our own stop ended the work: neither a failure nor an attempt.
	Interrupted
)

// String is the kind's name in logs.
func (k Kind) String() string {
	switch k {
	case Permanent:
		return "permanent"
	case Transient:
		return "transient"
	case Throttled:
		return "throttled"
	case Systemic:
		return "systemic"
	case Interrupted:
		return "interrupted"
	}
	return "unclassified"
}

// Reason names why an update became a dead letter or why sending is held. It is a closed set: reasons are
// subject tokens (kex.deadletter.<reason>.…), metric labels and filter values.
type Reason string

// Reasons of dead letters.
const (
	BadRequest     Reason = "bad_request"     // 400: data malformed or a mandatory field missing.
	Gone           Reason = "gone"            // 410: the Vorgang is deleted.
	NotFound       Reason = "not_found"       // 404.
	Rejected       Reason = "rejected"        // Any other 4xx.
	Redirected     Reason = "redirected"      // 3xx: never followed.
	UnknownOutcome Reason = "unknown_outcome" // Sent, but nobody can say whether it was booked.
	Invalid        Reason = "invalid"         // The message itself can never be right; no call was made.
	ObjectMissing  Reason = "object_missing"  // The referenced document is missing or damaged.
	Exhausted      Reason = "exhausted"       // Retry budget spent while others succeeded.
	CrashLoop      Reason = "crash_loop"      // Being sent when a process died, three times.
)

// Reasons of holds. Forbidden is both: single refusals are dead letters, a row of them is a hold.
const (
	Forbidden    Reason = "forbidden"    // 403: not authorised for the resource.
	Unauthorized Reason = "unauthorized" // 401 with a fresh token, or the token endpoint refuses the client.
	Throttling   Reason = "throttled"    // 429, or 503 with Retry-After.
	Outage       Reason = "outage"       // The API or the token endpoint does not work for anybody.
	Storage      Reason = "storage"      // NATS refuses what is to be written, or does not give what is to be read.
	Operator     Reason = "operator"     // Somebody paused the relay.
)

// DeadLetterReasons lists every reason a dead letter can carry, in the order of the outcome table.
func DeadLetterReasons() []Reason {
	return []Reason{
		BadRequest, Gone, Forbidden, NotFound, Rejected, Redirected,
		UnknownOutcome, Invalid, ObjectMissing, Exhausted, CrashLoop,
	}
}

// HoldReasons lists every reason sending can be held for.
func HoldReasons() []Reason {
	return []Reason{Operator, Storage, Unauthorized, Forbidden, Throttling, Outage}
}

// OperatorFor is what a pause of one kind of updates alone is kept under. It is none of HoldReasons: all else is sent.
func OperatorFor(kind string) Reason { return Operator + "." + Reason(kind) }

// Error is a classified failure. Its text and Detail never contain tokens, secrets or the update's content:
// whoever makes one has scrubbed them.
type Error struct {
	Kind   Kind
	Reason Reason
	// Status is the API's status code for the record, 0 where no answer came. Nobody above kex decides by it.
	Status int
	// RetryAfter is the wait the other side asked for, 0 if it asked for none.
	RetryAfter time.Duration
	// Unknown reports that the request left this process and may have been booked.
	Unknown bool
	// Detail is the bounded, scrubbed text that goes into results and dead letters.
	Detail string
	// Err is the cause, if another error was.
	Err error
}

// Error says what happened in one line.
func (e *Error) Error() string {
	text := string(e.Reason)
	if text == "" { // Interrupted work has no reason.
		text = e.Kind.String()
	}
	if e.Status != 0 {
		text = fmt.Sprintf("%s (status %d)", text, e.Status)
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.Err != nil && e.Detail == "" {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the cause, so that errors.Is(err, context.Canceled) works through a fault.
func (e *Error) Unwrap() error { return e.Err }

// Of returns the classified failure in err's chain. An error nobody classified counts as transient with reason
// outage, because an unknown failure is retried, never dead-lettered straight away. Of(nil) is nil.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*Error](err); ok {
		return f
	}
	return &Error{Kind: Transient, Reason: Outage, Err: err}
}
