package relay

import "kexrelay/internal/lane"

// paused reports whether an operator paused the kind of an update alone.
func (r *Relay) paused(it *item) bool { return r.deps.Gate.KindPaused(string(it.kind)) }

// hold takes a lane out of the way whose head is of a kind that is paused: what is behind it waits too, whatever it is, and
// all other lanes go on. Its body may go meanwhile.
func (r *Relay) hold(turn *lane.Turn[*item]) {
	it := turn.Item
	it.delivery.Park()
	turn.Hold()
	if !r.paused(it) { // The pause ended in between, before this lane waited for it.
		r.lanes.Resume()
	}
}

// movable is how many lanes may be worked on: those behind a paused kind show nothing about the API.
func (r *Relay) movable() int {
	lanes := r.lanes.Stats()
	return lanes.Lanes - lanes.Held
}
