package journal

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// Unfinished is the settlement of an update whose dead letter a former process has written and whose result it has not,
// nil if there is no such dead letter. What was decided is decided: sent again, the update could be delivered and lie
// among the dead letters, where somebody may replay it.
//
// Ask it for updates that a process left while it was sending them, before anything is sent: no younger update of the
// Vorgang was settled since, so the dead letter is the Vorgang's last of this kind. Errors are those of Settle.
func (j *Journal) Unfinished(ctx context.Context, u *update.Update) (*update.Settlement, error) {
	doing := fmt.Sprintf("looking for a dead letter of update %d", u.Seq)
	call, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := j.js.Stream(call, topology.StreamDeadLetters)
	if err != nil {
		return nil, storageFault(ctx, doing, Explain(doing, j.js, err))
	}
	msg, err := stream.GetLastMsgForSubject(call, topology.DeadLetterSubject("*", u.Vorgangsnummer, u.Kind))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, nil //nolint:nilnil // As documented.
	case err != nil:
		return nil, storageFault(ctx, doing, Explain(doing, j.js, err))
	}
	// One that came back from an export has another ID: its update has been settled long ago.
	if msg.Header.Get(jetstream.MsgIDHeader) != DeadLetterID(u) {
		return nil, nil //nolint:nilnil // As documented.
	}
	number := func(name string) int {
		n, _ := strconv.Atoi(msg.Header.Get(name)) // Written by us; 0 if somebody else did.
		return n
	}
	at := func(name string) time.Time {
		t, _ := time.Parse(time.RFC3339Nano, msg.Header.Get(name))
		return t
	}
	mayBe := msg.Header.Get(topology.HeaderMayBeBooked) == "true"
	attempts, requestID := number(topology.HeaderAttempts), msg.Header.Get(topology.HeaderRequestID)
	return &update.Settlement{
		Update: u, Outcome: update.DeadLettered, Reason: fault.Reason(msg.Header.Get(topology.HeaderReason)),
		Status: number(topology.HeaderStatus), Detail: msg.Header.Get(topology.HeaderDetail),
		Attempts: attempts, RequestID: requestID,
		Answers:           update.ParseAnswers(msg.Header.Get(topology.HeaderAnswers), requestID, attempts),
		PossibleDuplicate: mayBe, MayBeBooked: mayBe,
		FirstAttemptAt: at(topology.HeaderFirstAttemptAt), SettledAt: at(topology.HeaderDeadLetteredAt),
		DeadLetterSeq: msg.Sequence,
	}, nil
}
