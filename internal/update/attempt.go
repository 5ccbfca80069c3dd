package update

import "time"

// Attempt is what is written down about an update before it is decoded or sent, and after an answer that does not
// settle it, so that whoever comes next knows what was done.
type Attempt struct {
	// Seq and StoredAt together are the update's identity.
	Seq      uint64
	StoredAt time.Time
	// Attempts counts the POSTs made, the one about to be made included.
	Attempts int
	// Unknowns counts those of which nobody knows whether they were booked.
	Unknowns int
	// Crashes counts the processes that died while they decoded or sent the update.
	Crashes int
	// Timeout is how long the POST may take: who finds the record waits that long for its answer. It is kept in
	// milliseconds, rounded up.
	Timeout time.Duration
	// RequestID is the X-TraceId of the last POST, the one about to be made included; it may be empty. It is kept
	// up to 255 bytes.
	RequestID string
}

// Past is what is known from before about an update: from other processes, or from this one before it lost its
// lease. The zero value means that nothing is.
type Past struct {
	// Settled says that the update has a result: it only has to be acked.
	Settled bool
	// Attempts, Unknowns, Crashes and RequestID are those of its last record. Crashes includes the one that Left or
	// Opened tells of, Unknowns does not: whether that outcome stays unknown shows at Until.
	Attempts  int
	Unknowns  int
	Crashes   int
	RequestID string
	// Left says that a POST was begun of which no answer is recorded. Wait until Resolved is closed or Until has
	// passed; after that its outcome is unknown.
	Left bool
	// Opened says that a process began to decode it and recorded nothing further.
	Opened bool
	// Own says that Left or Opened tells of this very process, which did not die: it counts as no crash, and who
	// still holds the update in memory knows better.
	Own bool
	// Until is when nobody's answer is expected any more, on this machine's monotonic clock; zero unless Left.
	Until time.Time
	// Resolved is closed when something became known meanwhile: then ask again. Nil unless Left.
	Resolved <-chan struct{}
}
