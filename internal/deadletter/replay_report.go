package deadletter

import (
	"fmt"
	"time"

	"kexrelay/internal/update"
)

// Stop says why a run ended before everything was sent and had ended. The empty one means that it did not.
type Stop string

// The reasons to stop.
const (
	// StopFailures means that as many went wrong as are allowed.
	StopFailures Stop = "failures"
	// StopWaiting means that nothing happened for as long as it was to be waited. The same call goes on.
	StopWaiting Stop = "waiting"
)

// Report is what became of a plan.
type Report struct {
	Totals

	// Delivered, DeadAgain, Removed and Waiting are how those ended that were sent: booked, a new dead letter, removed
	// by somebody while they waited, not yet.
	Delivered int `json:"delivered"`
	DeadAgain int `json:"deadAgain"`
	Removed   int `json:"removed"`
	Waiting   int `json:"waiting"`
	// NotSent are those of the plan that were not sent and stay.
	NotSent int  `json:"notSent"`
	Stop    Stop `json:"stop,omitempty"`
	// Groups are those of the plan.
	Groups []GroupReport `json:"groups"`
}

// GroupReport is what became of a group of a plan.
type GroupReport struct {
	ID string `json:"group,omitempty"`
	// Canary is the dead letter that was sent first, 0 for none; End how it ended, nil while it has not.
	Canary uint64 `json:"canary,omitempty"`
	End    *End   `json:"end,omitempty"`
	// NotSent are those that were not sent and stay.
	NotSent int `json:"notSent"`
}

// Refused reports that the rest of the group stays because the canary was not delivered.
func (g GroupReport) Refused() bool { return g.End != nil && g.End.Outcome != update.Delivered }

// Progress is how far a run is.
type Progress struct {
	// Total is how many are to be sent, Done how many need nothing more: ended, or left alone for good.
	Total, Done int
	// Delivered and Failed are part of Done.
	Delivered, Failed int
	// Canaries are those that the others of their group wait for; Sent what was sent and has not ended, those included.
	Canaries, Sent int
	// Quiet is for how long nothing has happened although something is waited for, 0 otherwise.
	Quiet time.Duration
}

// close reports what did not end, and counts what was not sent.
func (r *runner) close() {
	for _, item := range r.sent {
		r.report.Waiting++
		r.tell(item)
	}
	for g := range r.report.Groups {
		r.report.Groups[g].NotSent = r.sched.groups[g].unsent
		r.report.NotSent += r.sched.groups[g].unsent
	}
}

// reportLeft reports what was not planned.
func (r *runner) reportLeft() {
	for _, seq := range r.plan.Missing {
		r.skip(Item{Seq: seq, Err: fmt.Errorf("dead letter %d: %w", seq, ErrNotFound)})
	}
	for _, left := range r.plan.left {
		item := r.plan.item(left.planned)
		item.LeftOut, item.Err = left.why, r.plan.leftError(left)
		r.skip(item)
	}
}

func (r *runner) skip(item Item) {
	item.Result = Skipped
	r.report.add(Skipped)
	r.tell(item)
}

func (r *runner) tell(item Item) {
	if r.opts.Report != nil {
		r.opts.Report(item)
	}
}

func (r *runner) progress() {
	if r.opts.Progress == nil {
		return
	}
	r.opts.Progress(Progress{
		Total: len(r.plan.letters), Done: len(r.plan.letters) - r.sched.unsent - r.sched.out - len(r.sent),
		Delivered: r.report.Delivered, Failed: r.report.DeadAgain + r.report.Failed,
		Canaries: len(r.canaries), Sent: len(r.sent), Quiet: r.quiet(),
	})
}
