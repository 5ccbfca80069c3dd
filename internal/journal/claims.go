package journal

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const claimPrefix = "replay."

// Claim says that a dead letter is being replayed, or was. It is what makes a message in KEX_UPDATES a replay, and what
// keeps two operators, or one after a crash, from publishing it twice. It is made before the publish, marked after
// the PubAck, and outlives the dead letter for as long as the new message is in the stream.
type Claim struct {
	// DeadLetterSeq and DeadLetterAt are the dead letter's identity.
	DeadLetterSeq uint64    `json:"deadLetterSeq"`
	DeadLetterAt  time.Time `json:"deadLetterAt"`
	// MsgID is the Nats-Msg-Id of the new message.
	MsgID string `json:"msgId"`
	// UpdateID and TraceID are the original update's, Replays counts its replays, this one included.
	UpdateID  string    `json:"updateId"`
	TraceID   string    `json:"traceId"`
	Replays   int       `json:"replays"`
	ClaimedAt time.Time `json:"claimedAt"`
	// UpdateSeq is the new message's sequence in KEX_UPDATES, 0 until its publish was confirmed and marked.
	UpdateSeq   uint64    `json:"updateSeq,omitempty"`
	PublishedAt time.Time `json:"publishedAt,omitzero"`
	// MayBeBooked reports that the API may have booked the dead letter's update already.
	MayBeBooked bool `json:"mayBeBooked,omitempty"`
	// Purpose is what the dead letter is claimed for.
	Purpose Purpose `json:"purpose,omitempty"`
	// BodyDigest is that of the body which an edit publishes instead of the dead letter's.
	BodyDigest string `json:"bodyDigest,omitempty"`

	written written
}

// Purpose is what a dead letter is claimed for. There is one claim for all of them, so that nothing that is discarded
// here is sent from there.
type Purpose string

// The purposes.
const (
	PurposeReplay  Purpose = ""
	PurposeEdit    Purpose = "edit"
	PurposeDiscard Purpose = "discard"
	PurposeErase   Purpose = "erase"
)

// ClaimedError says that a dead letter is claimed for another purpose already, by somebody who is at it or was
// interrupted.
type ClaimedError struct{ Claim Claim }

// Error says how to go on.
func (e *ClaimedError) Error() string {
	seq := e.Claim.DeadLetterSeq
	switch e.Claim.Purpose {
	case PurposeEdit:
		return fmt.Sprintf("an edit of it was begun: kexrelay deadletters edit %d goes on with it", seq)
	case PurposeDiscard:
		return fmt.Sprintf("it is being discarded: kexrelay deadletters discard %d goes on with it", seq)
	case PurposeErase:
		return "it is being erased: kexrelay deadletters erase goes on with it"
	case PurposeReplay:
	}
	return fmt.Sprintf("a replay of it was begun: kexrelay deadletters replay %d goes on with it", seq)
}

// WrittenAt is when the server stored the claim as it is, zero on one that was just made here.
func (c Claim) WrittenAt() time.Time { return c.written.at }

// Published reports whether the publish was confirmed. If it was not, nobody knows whether the message was
// published: whoever claimed may have died on either side of it.
func (c Claim) Published() bool { return c.UpdateSeq != 0 }

// ReplayMsgID is the Nats-Msg-Id of the replay of a dead letter.
func ReplayMsgID(deadLetterSeq uint64, storedAt time.Time) string {
	return claimPrefix + Identity(deadLetterSeq, storedAt)
}

// Claims is the replay claims in KEX_CONTROL. Use NewClaims; its methods are safe for concurrent use.
type Claims struct{ control control }

// NewClaims makes a Claims without a call.
func NewClaims(js jetstream.JetStream) *Claims { return &Claims{control: control{js: js}} }

// Lookup tells whether a message of KEX_UPDATES with these headers is a replay. It is one only if a claim backs it: the
// Kex-* headers of a publisher are ignored, then the result is nil without an error. Messages without Kex-Replay-Of
// cost no call.
//
// The error is a *fault.Error as from Settle: as long as NATS does not say, nobody knows whose update it is.
func (c *Claims) Lookup(ctx context.Context, header map[string][]string) (*update.Replay, error) {
	key, ok := claimKey(header)
	if !ok {
		return nil, nil //nolint:nilnil // No replay is the ordinary answer, as documented.
	}
	var claim Claim
	w, err := c.control.get(ctx, key, &claim)
	if errors.Is(err, errNoKey) || err != nil && w.revision != 0 {
		return nil, nil //nolint:nilnil // As above: a publisher wrote the headers, or somebody else a value that is no claim.
	}
	if err != nil {
		return nil, storageFault(ctx, "looking for the claim of a replay", err)
	}
	if claim.MsgID != nats.Header(header).Get(jetstream.MsgIDHeader) || claim.Replays < 1 {
		return nil, nil //nolint:nilnil // As above.
	}
	return &update.Replay{
		DeadLetterSeq: claim.DeadLetterSeq,
		UpdateID:      claim.UpdateID,
		TraceID:       claim.TraceID,
		Replays:       claim.Replays,
		MayBeBooked:   claim.MayBeBooked,
	}, nil
}

// claimKey finds the claim that a message's headers name. The key is the message's ID, of which the header must name
// the dead letter; both are a publisher's text until the claim is found.
func claimKey(header map[string][]string) (key string, ok bool) {
	of := header[topology.HeaderReplayOf]
	id := header[jetstream.MsgIDHeader]
	if len(of) != 1 || len(id) != 1 {
		return "", false
	}
	rest, ok := strings.CutPrefix(id[0], claimPrefix)
	if !ok {
		return "", false
	}
	seq, nanos, ok := strings.Cut(rest, "-")
	if !ok || seq != of[0] || !number(seq) || !number(nanos) {
		return "", false
	}
	return id[0], true
}

// number reports whether s is a decimal number as we write one.
func number(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	return err == nil && n > 0 && strconv.FormatInt(n, 10) == s
}

// Acquire makes the claim, or gives the one that is there already: created says which. ClaimedAt and MsgID are set
// here. A *ClaimedError says that the one there has another purpose; it is given all the same.
func (c *Claims) Acquire(ctx context.Context, claim Claim) (Claim, bool, error) {
	claim.DeadLetterAt, claim.ClaimedAt = utc(claim.DeadLetterAt), utc(time.Now())
	claim.MsgID = ReplayMsgID(claim.DeadLetterSeq, claim.DeadLetterAt)
	revision, err := c.control.create(ctx, claim.MsgID, claim)
	if err == nil {
		claim.written = written{revision: revision}
		return claim, true, nil
	}
	if !errors.Is(err, errChanged) {
		return Claim{}, false, err
	}
	there, found, err := c.Get(ctx, claim.DeadLetterSeq, claim.DeadLetterAt)
	if err == nil && !found {
		err = fmt.Errorf("claiming dead letter %d: the claim went away while it was read: try again", claim.DeadLetterSeq)
	}
	if err == nil && there.Purpose != claim.Purpose {
		err = &ClaimedError{Claim: there}
	}
	return there, false, err
}

// Change writes an unpublished claim anew, for another purpose or another body, unless somebody else wrote it
// meanwhile.
func (c *Claims) Change(ctx context.Context, claim Claim) (Claim, error) {
	revision, err := c.control.update(ctx, claim.MsgID, claim, claim.written.revision)
	if errors.Is(err, errChanged) {
		return claim, fmt.Errorf("changing the claim of dead letter %d: somebody else was faster: try again", claim.DeadLetterSeq)
	}
	claim.written = written{revision: revision}
	return claim, err
}

// Get reads the claim of a dead letter.
func (c *Claims) Get(ctx context.Context, deadLetterSeq uint64, storedAt time.Time) (claim Claim, found bool, err error) {
	w, err := c.control.get(ctx, ReplayMsgID(deadLetterSeq, storedAt), &claim)
	if errors.Is(err, errNoKey) {
		return Claim{}, false, nil
	}
	claim.written = w
	return claim, err == nil, err
}

// Mark writes down that the replay was published as updateSeq. If somebody else marked it meanwhile, theirs counts.
func (c *Claims) Mark(ctx context.Context, claim Claim, updateSeq uint64) (Claim, error) {
	claim.UpdateSeq, claim.PublishedAt = updateSeq, utc(time.Now())
	revision, err := c.control.update(ctx, claim.MsgID, claim, claim.written.revision)
	if errors.Is(err, errChanged) {
		theirs, found, err := c.Get(ctx, claim.DeadLetterSeq, claim.DeadLetterAt)
		if err == nil && (!found || !theirs.Published()) {
			err = fmt.Errorf("marking the replay of dead letter %d: its claim was changed by somebody else: try again", claim.DeadLetterSeq)
		}
		return theirs, err
	}
	claim.written = written{revision: revision}
	return claim, err
}
