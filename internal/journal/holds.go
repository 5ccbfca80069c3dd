package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	holdPrefix = topology.HoldPrefix
	// headerKVOperation marks a message that removes a key.
	headerKVOperation = "KV-Operation"
)

// Errors of Holds, for errors.Is.
var (
	// ErrHoldChanged says that a record is not at the revision that was to be replaced.
	ErrHoldChanged = errChanged
	// ErrNoHold says that there is no record for a reason.
	ErrNoHold = errNoKey
)

// Hold is one reason why nobody sends, as it is kept in KEX_CONTROL. Times are its writer's and for people; what
// decides are durations.
type Hold struct {
	Reason fault.Reason `json:"reason"`
	Since  time.Time    `json:"since"`
	// NextProbe is when the next try is due, absent where nothing is tried.
	NextProbe time.Time `json:"nextProbe,omitzero"`
	// Until is when an operator's hold ends by itself, absent where it does not.
	Until time.Time `json:"until,omitzero"`
	// Detail is scrubbed text for people.
	Detail string `json:"detail,omitempty"`
	// Replica and Process raised it; a command has no process.
	Replica string `json:"replica,omitempty"`
	Process string `json:"process,omitempty"`
	// UpdatedAt is when this was written, Writer the process that wrote it.
	UpdatedAt time.Time `json:"updatedAt"`
	Writer    string    `json:"writer,omitempty"`
	// WaitMillis is how long it was, when this was written, until the next probe, or until an operator's hold ends;
	// 0 for one that ends by a command alone.
	WaitMillis int64 `json:"waitMs,omitempty"`
	// Booking reports whether a probe may be a real request, Failed counts the probes that failed.
	Booking bool `json:"booking"`
	Failed  int  `json:"failedProbes,omitempty"`
	// Raises grows with every answer that began or prolonged the hold.
	Raises uint64 `json:"raises"`
	// Prober is the process whose probe is out, ProbedBy its replica, and Probe numbers the probes.
	Prober   string `json:"prober,omitempty"`
	ProbedBy string `json:"probedBy,omitempty"`
	Probe    uint64 `json:"probe,omitempty"`

	// Revision is the key's. Age is how old the value is by the server's own clock, 0 where it was not asked.
	Revision uint64        `json:"-"`
	Age      time.Duration `json:"-"`
}

// Holds is the holds that all replicas share: one key per reason in KEX_CONTROL, written by compare-and-set. Use
// NewHolds; its methods are safe for concurrent use. Errors say what to do next.
type Holds struct{ control control }

// NewHolds makes a Holds without a call.
func NewHolds(js jetstream.JetStream) *Holds { return &Holds{control: control{js: js}} }

// Create writes a hold for a reason that has none; ErrHoldChanged says that it has.
func (h *Holds) Create(ctx context.Context, hold Hold) (revision uint64, err error) {
	return h.control.create(ctx, holdKey(hold.Reason), hold.kept())
}

// Update replaces a hold that is still at revision; ErrHoldChanged says that it is not.
func (h *Holds) Update(ctx context.Context, hold Hold, revision uint64) (uint64, error) {
	return h.control.update(ctx, holdKey(hold.Reason), hold.kept(), revision)
}

// Remove says that nothing is held for a reason any more, if the hold is still at revision; ErrHoldChanged says that
// it is not.
func (h *Holds) Remove(ctx context.Context, reason fault.Reason, revision uint64) error {
	key := holdKey(reason)
	return h.control.call(ctx, "removing", key, func(ctx context.Context, kv jetstream.KeyValue) error {
		err := kv.Delete(ctx, key, jetstream.LastRevision(revision))
		if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			return errChanged
		}
		return err
	})
}

func holdKey(reason fault.Reason) string { return holdPrefix + string(reason) }

// kept is a hold as it is written.
func (h Hold) kept() Hold {
	h.Since, h.NextProbe, h.Until = utc(h.Since), utc(h.NextProbe), utc(h.Until)
	h.Detail = printable(h.Detail, maxDetail)
	h.UpdatedAt = utc(h.UpdatedAt)
	return h
}

// Get reads the hold of a reason, with its age; ErrNoHold says that there is none. A value that is no hold, written by
// hand perhaps, counts as one without anything in it.
func (h *Holds) Get(ctx context.Context, reason fault.Reason) (Hold, error) {
	now, err := h.serverTime(ctx)
	if err != nil {
		return Hold{}, err
	}
	return h.get(ctx, reason, now)
}

func (h *Holds) get(ctx context.Context, reason fault.Reason, now time.Time) (Hold, error) {
	type answer struct {
		hold       Hold
		written    written
		unreadable bool
	}
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	got, err := topology.Ask(ctx, func(ctx context.Context) (a answer, err error) {
		a.written, err = h.control.get(ctx, holdKey(reason), &a.hold)
		if a.unreadable = err != nil && a.written.revision != 0; a.unreadable {
			err = nil
		}
		return a, err
	})
	switch {
	case err != nil && ctx.Err() != nil: // None of the questions was answered: nobody has said yet what it was about.
		return Hold{}, Explain("reading "+holdKey(reason), h.control.js, err)
	case err != nil:
		return Hold{}, err
	}
	hold, w := got.hold, got.written
	if got.unreadable {
		hold = Hold{}
	}
	hold.Reason, hold.Revision, hold.Age = reason, w.revision, max(now.Sub(w.at), 0)
	return hold, nil
}

// List gives the holds that are on, in the order of fault.HoldReasons, with their age.
func (h *Holds) List(ctx context.Context) ([]Hold, error) {
	now, err := h.serverTime(ctx)
	if err != nil {
		return nil, err
	}
	var holds []Hold
	for _, reason := range fault.HoldReasons() {
		hold, err := h.get(ctx, reason, now)
		if errors.Is(err, errNoKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		holds = append(holds, hold)
	}
	return holds, nil
}

// Kinds gives the pauses of one kind of updates alone, with their age.
func (h *Holds) Kinds(ctx context.Context) ([]Hold, error) {
	now, err := h.serverTime(ctx)
	if err != nil {
		return nil, err
	}
	var pauses []Hold
	for _, kind := range update.Kinds() {
		pause, err := h.get(ctx, fault.OperatorFor(string(kind)), now)
		if errors.Is(err, errNoKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pauses = append(pauses, pause)
	}
	return pauses, nil
}

// ListFor gives what holds the updates of one kind: the holds, and its own pause.
func (h *Holds) ListFor(ctx context.Context, kind update.Kind) ([]Hold, error) {
	holds, err := h.List(ctx)
	if err != nil {
		return nil, err
	}
	pauses, err := h.Kinds(ctx)
	if err != nil {
		return nil, err
	}
	for _, pause := range pauses {
		if pause.Kind() == kind {
			holds = append(holds, pause)
		}
	}
	return holds, nil
}

// Kind is what a pause is about, empty for one of everything, and for every other hold.
func (h Hold) Kind() update.Kind {
	kind, _ := strings.CutPrefix(string(h.Reason), string(fault.OperatorFor("")))
	if kind == string(h.Reason) {
		return ""
	}
	return update.Kind(kind)
}

// known reports whether a key is one of a hold or of a pause of one kind.
func known(reason fault.Reason) bool {
	return slices.Contains(fault.HoldReasons(), reason) || slices.ContainsFunc(update.Kinds(), func(kind update.Kind) bool {
		return reason == fault.OperatorFor(string(kind))
	})
}

// serverTime is the time by the clock that also stamps what is stored, so that differences say how old it is whatever
// this machine's clock shows. It is asked before reading: what is written in between is 0 old.
func (h *Holds) serverTime(ctx context.Context) (time.Time, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := topology.Ask(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		return h.control.js.Stream(ctx, controlStream)
	})
	if err != nil {
		return time.Time{}, Explain("asking for the server's time", h.control.js, err)
	}
	return stream.CachedInfo().TimeStamp, nil
}

// HoldChange is one hold that was written or removed.
type HoldChange struct {
	Hold

	// Gone says that it was removed; then only reason and revision are there.
	Gone bool
}

// Watch tells the holds and the pauses of one kind that are on and then every change, in order, until ctx ends or the bucket cannot be read any
// more: the error says why. A bucket that was made anew is not noticed: List now and then.
func (h *Holds) Watch(ctx context.Context, tell func(HoldChange)) error {
	prefix := controlSubject(holdPrefix)
	scan := Scan{Stream: controlStream, Filters: []string{prefix + ">"}, Follow: true}
	for msg, err := range scan.Messages(ctx, h.control.js) {
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("following the holds: %w", err)
		}
		reason := fault.Reason(strings.TrimPrefix(msg.Subject(), prefix))
		if !known(reason) {
			continue
		}
		change := HoldChange{Gone: msg.Headers().Get(headerKVOperation) != ""}
		if !change.Gone && json.Unmarshal(msg.Data(), &change.Hold) != nil {
			change.Hold = Hold{}
		}
		change.Reason, change.Revision = reason, meta.Sequence.Stream
		tell(change)
	}
	return nil
}
