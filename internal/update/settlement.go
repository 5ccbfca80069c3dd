package update

import (
	"time"

	"kexrelay/internal/fault"
)

// Outcome is what a result event tells about an update. It is a closed set: outcomes are subject tokens and
// metric labels.
type Outcome string

// The outcomes: two settlements, then notices about an update that was settled before. Discarded and Erased are settlements
// too, of updates that an operator took back before they were sent.
const (
	Delivered    Outcome = "delivered"
	DeadLettered Outcome = "deadlettered"
	Replayed     Outcome = "replayed"
	Discarded    Outcome = "discarded"
	Erased       Outcome = "erased"
	DoubleBooked Outcome = "double_booked"
)

// Outcomes lists all outcomes.
func Outcomes() []Outcome {
	return []Outcome{Delivered, DeadLettered, Replayed, Discarded, Erased, DoubleBooked}
}

// Settlement is how an update ended. relay fills it once; journal writes it down as the result event and, for
// DeadLettered, as the dead letter before it.
type Settlement struct {
	Update *Update
	// Outcome is Delivered or DeadLettered.
	Outcome Outcome
	// Reason says why it is a dead letter; empty for Delivered.
	Reason fault.Reason
	// Status is the last answer's status code, 0 where no answer came.
	Status int
	// Detail is bounded and scrubbed: an excerpt of the API's answer or the name of the invalid field.
	Detail string
	// Attempts counts the POSTs made, 0 if none was.
	Attempts int
	// RequestID is the X-TraceId of the last request, empty if none was made.
	RequestID string
	// PossibleDuplicate reports that an earlier request of this update may have been booked too.
	PossibleDuplicate bool
	// MayBeBooked reports, of a dead letter, that a request of this update may have been booked, the last one
	// included: a replay may book it a second time.
	MayBeBooked bool
	// FirstAttemptAt is zero if no request was made.
	FirstAttemptAt time.Time
	SettledAt      time.Time
	// Answers are those of this process's requests, the last one included, if more than one request was made.
	Answers Answers
	// DeadLetterSeq is the dead letter's sequence if it is there already and only the result is missing, else 0.
	DeadLetterSeq uint64
}
