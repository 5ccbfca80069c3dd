package journal

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// standingPatience is how long a relay is waited for that is asked how an update stands.
const standingPatience = time.Second

// StandingQuestion is what is asked on topology.StandingSubject.
type StandingQuestion struct {
	Seq      uint64    `json:"updateSeq"`
	StoredAt time.Time `json:"storedAt"`
	Subject  string    `json:"subject"`
}

// Standing is what the relay with the right to send an update knows of it, and nobody else: it is written down nowhere.
type Standing struct {
	// Known says that the relay has fetched it.
	Known bool `json:"known"`
	// Ahead counts the updates of the Vorgang that the relay has before it, InHand says that it is being worked on.
	Ahead  int  `json:"ahead,omitempty"`
	InHand bool `json:"inHand,omitempty"`
	// NextAttempt is when its Vorgang is tried again, zero unless it waits for that. A hold may be in the way.
	NextAttempt time.Time `json:"nextAttempt,omitzero"`
	// Paused says that it waits for the end of a pause of a kind.
	Paused bool `json:"paused,omitempty"`
	// Answers are those of the requests that this relay has made for it and that settled nothing, the first ones and the
	// last.
	Answers update.Answers `json:"answers,omitempty"`
}

// AskStanding asks the process that has the right to send an update how it stands. Nothing is known where nobody answers: a
// relay that is gone, an older one, or one without the right to listen.
func AskStanding(ctx context.Context, js jetstream.JetStream, process string, w Waiting) (Standing, error) {
	var s Standing
	question := StandingQuestion{Seq: w.Seq, StoredAt: w.StoredAt, Subject: w.Subject}
	if answered, err := askReplica(ctx, js, topology.StandingSubject(process), question, &s, standingPatience); !answered {
		return Standing{}, err
	}
	return s, nil
}
