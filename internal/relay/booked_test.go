package relay

import (
	"testing"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// Whoever replays a dead letter must be told that it may be booked already, and whoever reads the result of such a
// replay that it may be the second booking.
func TestWhatMayBeBookedIsToldAcrossReplays(t *testing.T) {
	unknown := &fault.Error{Kind: fault.Transient, Reason: fault.Outage, Unknown: true}
	for name, test := range map[string]struct {
		unknowns          int
		last              *fault.Error
		replay            *update.Replay
		outcome           update.Outcome
		duplicate, booked bool
	}{
		"answered":                      {outcome: update.DeadLettered},
		"the last one unknown":          {unknowns: 1, last: unknown, outcome: update.DeadLettered, booked: true},
		"an earlier one unknown":        {unknowns: 1, outcome: update.DeadLettered, duplicate: true, booked: true},
		"an earlier one, and delivered": {unknowns: 1, outcome: update.Delivered, duplicate: true},
		"a replay":                      {replay: &update.Replay{}, outcome: update.Delivered},
		"a replay of what may be booked": {
			replay: &update.Replay{MayBeBooked: true}, outcome: update.Delivered, duplicate: true,
		},
		"the same, dead again": {
			replay: &update.Replay{MayBeBooked: true}, outcome: update.DeadLettered, duplicate: true, booked: true,
		},
	} {
		it := &item{}
		it.progress.unknowns = test.unknowns
		s := (&Relay{}).settlement(it, &update.Update{Replay: test.replay}, attempted{fault: test.last}, test.outcome, "")
		if s.PossibleDuplicate != test.duplicate || s.MayBeBooked != test.booked {
			t.Errorf("%s: possible duplicate %v, may be booked %v; want %v and %v",
				name, s.PossibleDuplicate, s.MayBeBooked, test.duplicate, test.booked)
		}
	}
}
