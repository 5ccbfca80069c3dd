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

// Action is what an operator did, the last token of the audit event's subject.
type Action string

// The actions.
const (
	ActionReplay  Action = "replay"
	ActionEdit    Action = "edit"
	ActionDiscard Action = "discard"
	ActionErase   Action = "erase"
	ActionReveal  Action = "reveal"
	ActionExport  Action = "export"
	ActionImport  Action = "import"
	ActionCancel  Action = "cancel"
	ActionPause   Action = "pause"
	ActionResume  Action = "resume"
)

// Actor is who did it: as the server knows him, and as this machine does. The latter is what the operator's machine
// says and proves nothing.
type Actor struct {
	// User and Account are the server's, empty if the user may not ask for them.
	User    string `json:"user,omitempty"`
	Account string `json:"account,omitempty"`
	OSUser  string `json:"osUser,omitempty"`
	Host    string `json:"host,omitempty"`
}

// AuditEvent tells what an operator did. It never holds content.
type AuditEvent struct {
	// ID is also the message's Nats-Msg-Id: the same ID is never stored twice within the duplicate window.
	ID     string    `json:"id"`
	Action Action    `json:"action"`
	At     time.Time `json:"at"`
	// Actor is filled in by Audit.
	Actor Actor `json:"actor"`
	// Reason is the operator's own word.
	Reason string `json:"reason,omitempty"`
	// What it was done to.
	DeadLetterSeq  uint64 `json:"deadLetterSeq,omitempty"`
	UpdateSeq      uint64 `json:"updateSeq,omitempty"`
	UpdateID       string `json:"updateId,omitempty"`
	TraceID        string `json:"traceId,omitempty"`
	Vorgangsnummer string `json:"vorgangsnummer,omitempty"`
	Kind           string `json:"kind,omitempty"`
	// DigestBefore and DigestAfter are of the body, SHA-256=<base64url>.
	DigestBefore string `json:"digestBefore,omitempty"`
	DigestAfter  string `json:"digestAfter,omitempty"`
	// Details are facts of the action alone: a filter, counts, a deadline.
	Details map[string]string `json:"details,omitempty"`
}

// Auditor writes audit events. Use NewAuditor; its methods are safe for concurrent use.
type Auditor struct {
	js        jetstream.JetStream
	publisher *Publisher
	actor     Actor
	asked     lazy[Actor]
}

// NewAuditor makes an Auditor without a call. actor is what this machine knows of who acts.
func NewAuditor(js jetstream.JetStream, publisher *Publisher, actor Actor) *Auditor {
	return &Auditor{js: js, publisher: publisher, actor: actor}
}

// Audit writes an event down and returns when the server has confirmed it. What it tells must happen only then, if it
// is something that cannot be seen otherwise (content was shown).
func (a *Auditor) Audit(ctx context.Context, e AuditEvent) error {
	e.Actor = a.Actor(ctx)
	if e.At.IsZero() {
		e.At = time.Now()
	}
	e.At, e.Reason = utc(e.At), printable(e.Reason, maxDetail)
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encoding the audit event: %w", err)
	}
	_, err = a.publisher.Publish(ctx, &nats.Msg{
		Subject: topology.AuditSubject(string(e.Action)),
		Header:  nats.Header{jetstream.MsgIDHeader: {e.ID}, headerContentType: {dataContentType}},
		Data:    body,
	})
	if err != nil {
		return fmt.Errorf("writing the audit event: %w", err)
	}
	return nil
}

// Actor is who acts on this connection. The server is asked once.
func (a *Auditor) Actor(ctx context.Context) Actor {
	actor, err := a.asked.open(func() (Actor, error) { return a.ask(ctx) })
	if err != nil {
		return a.actor // The user may not ask, which must not keep him from being told of.
	}
	return actor
}

const (
	userInfoSubject = "$SYS.REQ.USER.INFO"
	userInfoTimeout = 2 * time.Second
)

func (a *Auditor) ask(ctx context.Context) (Actor, error) {
	ctx, cancel := context.WithTimeout(ctx, userInfoTimeout)
	defer cancel()
	msg, err := a.js.Conn().RequestWithContext(ctx, userInfoSubject, nil)
	if err != nil {
		return Actor{}, err
	}
	var answer struct {
		Data *struct {
			User    string `json:"user"`
			Account string `json:"account"`
		} `json:"data"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return Actor{}, err
	}
	if answer.Data == nil {
		return Actor{}, errors.New("the server does not say who is connected")
	}
	actor := a.actor
	actor.User, actor.Account = printable(answer.Data.User, maxIDs), printable(answer.Data.Account, maxIDs)
	return actor, nil
}
