package queue

// State says what the fetching is doing. It is a closed set.
type State string

// The states.
const (
	StateStopped     State = "stopped"     // Run is not running.
	StateFetching    State = "fetching"    // Updates are fetched as they come.
	StateBusy        State = "busy"        // There is enough to do; only the pin is kept.
	StateFull        State = "full"        // The bytes are used up; only the pin is kept.
	StateInterrupted State = "interrupted" // NATS or the consumer does not answer.
)

// States lists all states.
func States() []State {
	return []State{StateStopped, StateFetching, StateBusy, StateFull, StateInterrupted}
}

// Stats says what a queue holds now and counts what it did since it was made.
type Stats struct {
	State   State
	Held    int   // Updates handed over and not settled yet.
	Bodies  int   // How many of those have their body in memory,
	Bytes   int64 // and how many bytes those are.
	Pending uint64
	// Stranded is the oldest update that was acked and is still in the stream, 0 for none: the server could not
	// remove it.
	Stranded uint64

	Delivered   uint64 // Updates handed over.
	Redelivered uint64 // Deliveries of what was held already: only the ack handle was replaced.
	Reacked     uint64 // Deliveries of what was acked already: acked again, not handed over.
	Heartbeats  uint64
	Pulls       uint64 // Requests for updates.
	PinPulls    uint64 // Requests that only keep the pin.
	PinLosses   uint64 // Times another client was pinned.
	CatchUps    uint64 // Times updates were read from the stream: delivered elsewhere, or lost on their way.
	Dropped     uint64 // Bodies not kept or dropped to make room.
	Reread      uint64 // Bodies read again.
}

type counters struct {
	delivered, redelivered, reacked, beats uint64
	pulls, pinPulls, pinLosses, catchUps   uint64
	dropped, reread                        uint64
}

// Stats gives the numbers of this moment.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	state, _ := q.state.Load().(State)
	return Stats{
		State: state, Held: len(q.held), Bodies: q.bodies, Bytes: q.bytes, Pending: q.pending,
		Stranded:  q.stranded.Load(),
		Delivered: q.delivered, Redelivered: q.redelivered, Reacked: q.reacked, Heartbeats: q.beats,
		Pulls: q.pulls, PinPulls: q.pinPulls, PinLosses: q.pinLosses, CatchUps: q.catchUps,
		Dropped: q.dropped, Reread: q.reread,
	}
}
