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
	"kexrelay/internal/update"
)

const (
	// CancelHeld is how long a relay keeps an update back, between the begin and the commit of a cancellation.
	CancelHeld = 15 * time.Second
	// EraseHeld is how long it keeps an erased update in the stream, between the commit and the end: until then its
	// content is overwritten, which no acknowledgement does.
	EraseHeld = 2 * time.Minute
	// MaxCancelReason bounds the reason, in bytes.
	MaxCancelReason = 1024
	// askPatience is how long a relay's answer is waited for, commitPatience how long the one that says it is done.
	askPatience    = 3 * time.Second
	commitPatience = 10 * time.Second
	// beingSentPause is the time between two tries while the update is being sent.
	beingSentPause = 200 * time.Millisecond
)

// CancelStep is a step of a cancellation that a relay is asked for. Between the first and the second the operator's side
// writes the audit event. A relay answers CancelFailed to a step that it does not know.
type CancelStep string

// The steps.
const (
	CancelBegin   CancelStep = "begin"   // Send it no more, for CancelHeld; it is to be discarded.
	CancelErase   CancelStep = "erase"   // The same; it is to be erased. A relay that knows only begin must not discard it.
	CancelCommit  CancelStep = "commit"  // Write its result. If it is erased, keep it in the stream, for EraseHeld.
	CancelRelease CancelStep = "release" // Send it after all.
	CancelEnd     CancelStep = "end"     // Its content is overwritten: nothing is to be kept any more.
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
	CancelReady       CancelState = "ready"         // To begin and erase.
	CancelDone        CancelState = "discarded"     // To the commit of what was begun with begin.
	CancelErased      CancelState = "erased"        // To the commit of what was begun with erase.
	CancelReleased    CancelState = "released"      // To release and end.
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

// ask takes updates of one partition back through the relay that has the right to send, until there is none that answers.
// done counts the updates that were told of.
func (t *takingBack) ask(ctx context.Context, partition int, updates []Waiting) (done int, err error) {
	for _, w := range updates {
		now, asked, refused, err := t.askRelay(ctx, partition, w)
		if err == nil && asked {
			err = t.ended(now, refused)
		}
		if err != nil || !asked {
			return done, err
		}
		done++
	}
	return done, nil
}

// askRelay takes one update back; asked is false if there is no relay that answers.
func (t *takingBack) askRelay(ctx context.Context, partition int, w Waiting) (now Waiting, asked bool, refused, err error) {
	patience, cancel := context.WithTimeout(ctx, cancelPatience)
	defer cancel()
	request := CancelRequest{Token: randomID(), Seq: w.Seq, StoredAt: w.StoredAt}
	for {
		subject, err := t.cancelSubject(ctx, partition)
		if subject == "" || err != nil {
			return w, false, nil, err
		}
		request.Step = CancelBegin
		if t.Outcome == update.Erased {
			request.Step = CancelErase
		}
		answer, err := askCancel(ctx, t.js, subject, request, askPatience)
		if err != nil {
			return w, false, nil, err
		}
		switch answer.State {
		case "":
			return w, false, nil, nil
		case CancelReady:
			now, refused, err = t.through(ctx, subject, request, w)
			return now, true, refused, err
		case CancelSettled:
			refused, err = t.settledBefore(ctx, w)
			return w, true, refused, err
		case CancelBeingSent, CancelNotHeld: // A moment later it may be otherwise.
		case CancelDone, CancelErased, CancelReleased, CancelMayBeBooked, CancelGone, CancelFailed, CancelUnconfirmed:
			return w, true, t.refused(w.Seq, answer), nil
		}
		timer := time.NewTimer(beingSentPause)
		select {
		case <-timer.C:
		case <-patience.Done():
			timer.Stop()
			return w, true, t.refused(w.Seq, answer), context.Cause(ctx)
		}
	}
}

// through writes the audit event and lets the relay settle the update that it keeps back, then takes it out.
func (t *takingBack) through(ctx context.Context, subject string, request CancelRequest, w Waiting) (now Waiting, refused, err error) {
	say := func(step CancelStep) { // Else the relay does so by itself, a little later.
		request.Step, request.Reason = step, ""
		_, _ = askCancel(context.WithoutCancel(ctx), t.js, subject, request, askPatience)
	}
	now, err = t.read(ctx, w)
	if err == nil {
		err = t.audit(ctx, now)
	}
	if err != nil {
		say(CancelRelease)
		if errors.Is(err, ErrNoUpdate) {
			return now, err, nil
		}
		return now, nil, err
	}
	request.Step, request.Reason = CancelCommit, t.Reason
	answer, err := askCancel(ctx, t.js, subject, request, commitPatience)
	if err != nil {
		return now, nil, fmt.Errorf("update %d: %w", w.Seq, unconfirmed(err))
	}
	want := CancelDone
	if t.Outcome == update.Erased {
		want = CancelErased
	}
	switch answer.State {
	case want:
		refused, err = t.takeOut(ctx, now)
		if t.Outcome == update.Erased {
			say(CancelEnd)
		}
		return now, refused, err
	case "":
		return now, fmt.Errorf("update %d: %w", w.Seq, ErrCancelUnknown), nil
	case CancelSettled:
		refused, err = t.settledBefore(ctx, now)
		return now, refused, err
	case CancelReady, CancelDone, CancelErased, CancelReleased, CancelBeingSent, CancelMayBeBooked, CancelGone, CancelNotHeld, CancelFailed, CancelUnconfirmed:
	}
	return now, t.refused(w.Seq, answer), nil
}

// refused is the error of an answer that is none of those wanted.
func (t *takingBack) refused(seq uint64, answer CancelAnswer) error {
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
	case CancelFailed:
		if t.Outcome == update.Erased {
			because = fmt.Errorf("%w; if it is an older one it cannot erase: run this version of it, or stop every relay of the partition, then try again", because)
		}
	case CancelReady, CancelDone, CancelErased, CancelReleased:
	}
	return fmt.Errorf("update %d: %w", seq, because)
}

// cancelSubject is where the holder of a partition listens, "" if nobody has the right to send.
func (t *takingBack) cancelSubject(ctx context.Context, partition int) (string, error) {
	h, err := t.holder(ctx, partition)
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
