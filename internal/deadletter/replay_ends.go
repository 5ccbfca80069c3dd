package deadletter

import (
	"time"

	"kexrelay/internal/update"
)

// heard takes the end of a replay, of whoever sent it. It may come before the worker who sent it is back.
func (r *runner) heard(e event) {
	r.ends[e.seq] = e.end
	r.settle(e.seq)
}

// settle draws the conclusions of a replay's end, once that is known.
func (r *runner) settle(seq uint64) {
	end, ok := r.ends[seq]
	if !ok {
		return
	}
	if item, ours := r.sent[seq]; ours {
		r.changed = time.Now()
		delete(r.sent, seq)
		item.End = &end
		r.count(end)
		r.tell(item)
	}
	if group, waits := r.canaries[seq]; waits {
		r.changed = time.Now()
		delete(r.canaries, seq)
		r.report.Groups[group].End = &end
		r.sched.judge(group, end.Outcome == update.Delivered)
	}
}

func (r *runner) count(end End) {
	switch end.Outcome {
	case update.Delivered:
		r.report.Delivered++
	case update.DeadLettered:
		r.report.DeadAgain++
		r.failed()
	case update.Discarded, update.Erased, update.Replayed, update.DoubleBooked:
		r.report.Removed++
	}
}

// failed counts what went wrong; too much of it ends the run, after what is on its way.
func (r *runner) failed() {
	if r.failures++; r.opts.MaxFailures > 0 && r.failures >= r.opts.MaxFailures {
		r.halted, r.report.Stop = true, StopFailures
	}
}
