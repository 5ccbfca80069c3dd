package journal

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
)

const holdPrefix = "hold."

// Hold is one reason why a relay does not send, as others see it in KEX_CONTROL.
type Hold struct {
	Reason fault.Reason `json:"reason"`
	Since  time.Time    `json:"since"`
	// NextProbe is when the relay tries next, absent where nothing is tried.
	NextProbe time.Time `json:"nextProbe,omitzero"`
	// Until is when the hold ends by itself, absent where it does not.
	Until time.Time `json:"until,omitzero"`
	// Detail is scrubbed text for people.
	Detail string `json:"detail,omitempty"`
	// Replica is who wrote it.
	Replica   string    `json:"replica,omitempty"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// Holds makes holds visible to other processes: one key per reason in KEX_CONTROL, the last writer's. Use NewHolds;
// its methods are safe for concurrent use. Errors say what to do next.
type Holds struct{ control control }

// NewHolds makes a Holds without a call.
func NewHolds(js jetstream.JetStream) *Holds { return &Holds{control: control{js: js}} }

// Put writes a hold, replacing what was said about its reason before. UpdatedAt is set here.
func (h *Holds) Put(ctx context.Context, hold Hold) error {
	hold.Since, hold.NextProbe, hold.Until = utc(hold.Since), utc(hold.NextProbe), utc(hold.Until)
	hold.Detail = printable(hold.Detail, maxDetail)
	hold.UpdatedAt = utc(time.Now())
	return h.control.put(ctx, holdPrefix+string(hold.Reason), hold)
}

// Remove says that nothing is held for a reason any more. Removing one that is not there is no error.
func (h *Holds) Remove(ctx context.Context, reason fault.Reason) error {
	return h.control.remove(ctx, holdPrefix+string(reason))
}

// List gives the holds that are on, in the order of fault.HoldReasons.
func (h *Holds) List(ctx context.Context) ([]Hold, error) {
	var holds []Hold
	for _, reason := range fault.HoldReasons() {
		var hold Hold
		_, err := h.control.get(ctx, holdPrefix+string(reason), &hold)
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
