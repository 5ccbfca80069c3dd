package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

const (
	// CancelHeld is how long a relay keeps an update back, between the begin and the commit of a cancellation.
	CancelHeld = 15 * time.Second
	// MaxCancelReason bounds the reason, in bytes.
	MaxCancelReason = 1024
	// askPatience is how long a relay's answer is waited for, commitPatience how long the one that says it is done.
	askPatience    = 3 * time.Second
	commitPatience = 10 * time.Second
	// beingSentPause is the time between two tries while the update is being sent.
	beingSentPause = 200 * time.Millisecond
)

// CancelStep is a step of a cancellation that a relay is asked for. Between the first and the second the operator's side
// writes the audit event.
type CancelStep string

// The steps.
const (
	CancelBegin   CancelStep = "begin"   // Send it no more, for CancelHeld.
	CancelCommit  CancelStep = "commit"  // Write its result.
	CancelRelease CancelStep = "release" // Send it after all.
)

// CancelRequest is what is asked on topology.CancelSubject.
type CancelRequest struct {
	Step CancelStep `json:"step"`
	// Token names the cancellation in its later steps.
	Token    string    `json:"token"`
	Seq      uint64    `json:"updateSeq"`
	StoredAt time.Time `json:"storedAt"`
	// Reason is for the result, with the commit.
	Reason string `json:"reason,omitempty"`
}

// CancelState is what a relay answers.
type CancelState string

// The answers.
const (
	CancelReady       CancelState = "ready"         // To begin.
	CancelDone        CancelState = "discarded"     // To commit.
	CancelReleased    CancelState = "released"      // To release.
	CancelBeingSent   CancelState = "being_sent"    // As ErrBeingSent.
	CancelMayBeBooked CancelState = "may_be_booked" // As ErrMayBeBooked.
	CancelSettled     CancelState = "settled"       // As ErrSettled.
	CancelGone        CancelState = "gone"          // As ErrNoUpdate.
	CancelNotHeld     CancelState = "not_held"      // The right to send it is somebody else's.
	CancelUnconfirmed CancelState = "unconfirmed"   // As ErrCancelUnknown. Detail says why.
	CancelFailed      CancelState = "failed"        // Detail says why.
)

// CancelAnswer is a relay's answer.
type CancelAnswer struct {
	State  CancelState `json:"state"`
	Detail string      `json:"detail,omitempty"`
}

// askRelay cancels through the relay that has the right to send; asked is false if there is none that answers.
func (c Cancellation) askRelay(ctx context.Context, js jetstream.JetStream, w Waiting) (asked bool, err error) {
	patience, cancel := context.WithTimeout(ctx, cancelPatience)
	defer cancel()
	request := CancelRequest{Token: randomID(), Seq: w.Seq, StoredAt: w.StoredAt, Reason: c.Reason}
	for {
		subject, err := cancelSubject(ctx, js, w.Partition)
		if subject == "" || err != nil {
			return false, err
		}
		request.Step = CancelBegin
		answer, err := askCancel(ctx, js, subject, request, askPatience)
		if err != nil {
			return false, err
		}
		switch answer.State {
		case "":
			return false, nil
		case CancelReady:
			return true, c.through(ctx, js, subject, request, w)
		case CancelBeingSent, CancelNotHeld: // A moment later it may be otherwise.
		case CancelDone, CancelReleased, CancelMayBeBooked, CancelSettled, CancelGone, CancelFailed, CancelUnconfirmed:
			return true, cancelRefused(w.Seq, answer)
		}
		timer := time.NewTimer(beingSentPause)
		select {
		case <-timer.C:
		case <-patience.Done():
			timer.Stop()
			return true, cancelRefused(w.Seq, answer)
		}
	}
}

// through writes the audit event and lets the relay settle the update that it keeps back, then takes it out.
func (c Cancellation) through(ctx context.Context, js jetstream.JetStream, subject string, request CancelRequest, w Waiting) error {
	if err := c.audit(ctx, w); err != nil {
		request.Step = CancelRelease
		_, _ = askCancel(context.WithoutCancel(ctx), js, subject, request, askPatience) // Else it does so by itself, a little later.
		return err
	}
	request.Step = CancelCommit
	answer, err := askCancel(ctx, js, subject, request, commitPatience)
	if err != nil {
		return err
	}
	switch answer.State {
	case CancelDone:
		return c.takeOut(ctx, js, w)
	case "":
		return fmt.Errorf("update %d: %w", w.Seq, ErrCancelUnknown)
	case CancelReady, CancelReleased, CancelBeingSent, CancelMayBeBooked, CancelSettled, CancelGone, CancelNotHeld, CancelFailed, CancelUnconfirmed:
	}
	return cancelRefused(w.Seq, answer)
}

// cancelRefused is the error of an answer that is none of those wanted.
func cancelRefused(seq uint64, answer CancelAnswer) error {
	because := errors.New(answer.Detail)
	switch answer.State {
	case CancelBeingSent:
		because = ErrBeingSent
	case CancelMayBeBooked:
		because = ErrMayBeBooked
	case CancelSettled:
		because = ErrSettled
	case CancelGone:
		because = ErrNoUpdate
	case CancelNotHeld:
		because = ErrRelayRuns
	case CancelUnconfirmed:
		because = unconfirmed(because)
	case CancelFailed, CancelReady, CancelDone, CancelReleased:
	}
	return fmt.Errorf("update %d: %w", seq, because)
}

// cancelSubject is where the holder of a partition listens, "" if nobody has the right to send.
func cancelSubject(ctx context.Context, js jetstream.JetStream, partition int) (string, error) {
	h, err := holderOf(ctx, js, partition)
	if err != nil || h.Process == "" {
		return "", err
	}
	return topology.CancelSubject(h.Process), nil
}

// askCancel asks once. An empty state means that nobody answered.
func askCancel(ctx context.Context, js jetstream.JetStream, subject string, request CancelRequest, atMost time.Duration) (answer CancelAnswer, err error) {
	_, err = askReplica(ctx, js, subject, request, &answer, atMost)
	return answer, err
}

// askReplica asks one replica something. Nobody may be there to answer.
func askReplica(ctx context.Context, js jetstream.JetStream, subject string, question, answer any, atMost time.Duration) (answered bool, err error) {
	asking, cancel := topology.Call(ctx, atMost)
	defer cancel()
	data, err := json.Marshal(question)
	if err != nil {
		return false, err
	}
	msg, err := js.Conn().RequestWithContext(asking, subject, data)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, topology.ErrDenied):
		return false, Explain("asking the relay", js, err)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("asking the relay on %s: %w", subject, err)
	}
	if err := json.Unmarshal(msg.Data, answer); err != nil {
		return false, fmt.Errorf("reading the relay's answer on %s: %w", subject, err)
	}
	return true, nil
}
