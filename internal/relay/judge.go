package relay

import (
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/hold"
)

const (
	// maxUnknown is how many unknown outcomes an update is sent again after.
	maxUnknown = 3
	// maxThrottles is the throttle of one update from which on it counts as its own trouble, if others succeed.
	maxThrottles = 3
)

// action is what becomes of an update after an attempt. It is a closed set.
type action uint8

const (
	// deliver: booked; settle it as delivered.
	deliver action = iota + 1
	// deadLetter: settle it as a dead letter.
	deadLetter
	// retry: the same update again after its own backoff.
	retry
	// repeat: the same update again at once, with a fresh token.
	repeat
	// keep: back to its lane; a hold decides when sending goes on.
	keep
	// leave: nothing happened, our own stop or a hold came first.
	leave
)

// String is the action's name in logs.
func (a action) String() string {
	switch a {
	case deliver:
		return "delivered"
	case deadLetter:
		return "deadlettered"
	case retry:
		return "retry"
	case repeat:
		return "repeat"
	case keep:
		return "held"
	case leave:
		return "interrupted"
	}
	return "undecided"
}

// verdict is what was decided. It is computed once, then logged and carried out.
type verdict struct {
	action action
	// reason is the dead letter's.
	reason fault.Reason
	// hold is raised with it, if not empty; wait is the pause that was asked for, also for a retry.
	hold fault.Reason
	wait time.Duration
}

// circumstances are what the decision depends on beside the answer itself.
type circumstances struct {
	// sent reports whether a POST was made. Without one, the failure is the token endpoint's or the message's.
	sent bool
	// renewed reports that the attempt already was the repeat with a fresh token.
	renewed bool
	// held reports whether a hold for the answer's own reason is on.
	held bool
	// unknowns and throttles of this update, this answer included.
	unknowns, throttles int
	// spent is the retry budget used, othersWork that the API worked for others since the update's first failure.
	spent      time.Duration
	othersWork bool
	rows       rows
}

// judge decides what becomes of an update: the outcome table, in one place. f is nil for a booked request.
func judge(cfg Config, f *fault.Error, c circumstances) verdict {
	if f == nil {
		return verdict{action: deliver}
	}
	switch f.Kind {
	case fault.Interrupted:
		return verdict{action: leave}
	case fault.Permanent:
		return judgePermanent(f, c)
	case fault.Systemic:
		// A single 401 only says that the token was no longer good: one repeat with a fresh one. A probe of this very
		// hold does without, so that a rejected secret is not tried twice as often.
		if f.Reason == fault.Unauthorized && c.sent && !c.renewed && !c.held {
			return verdict{action: repeat}
		}
		return verdict{action: keep, hold: f.Reason, wait: f.RetryAfter}
	case fault.Throttled:
		// One update that is throttled again and again while others pass is in its own trouble: holding everybody
		// for it would let one Vorgang stop all.
		if c.throttles >= maxThrottles && c.othersWork && !c.held {
			return judgeTransient(cfg, f, c)
		}
		return verdict{action: keep, hold: fault.Throttling, wait: f.RetryAfter}
	case fault.Transient:
		return judgeTransient(cfg, f, c)
	}
	return judgeTransient(cfg, f, c) // unclassified: retried, never dead-lettered straight away
}

func judgePermanent(f *fault.Error, c circumstances) verdict {
	if f.Reason != fault.Forbidden {
		return verdict{action: deadLetter, reason: f.Reason}
	}
	// One Vorgang may be none of ours; five in a row without a success mean that we lack the right ourselves. Those
	// that were on their way meanwhile are not dead letters.
	switch {
	case c.rows.refusedNow:
		return verdict{action: deadLetter, reason: fault.Forbidden, hold: fault.Forbidden}
	case c.held || c.rows.refused >= refusedRow:
		return verdict{action: keep, hold: fault.Forbidden}
	default:
		return verdict{action: deadLetter, reason: fault.Forbidden}
	}
}

func judgeTransient(cfg Config, f *fault.Error, c circumstances) verdict {
	switch {
	case !c.sent:
		// No POST was made: the token endpoint fails, and it fails for everybody.
		return verdict{action: keep, hold: f.Reason, wait: f.RetryAfter}
	case f.Unknown && cfg.ParkUnknown:
		// The policy is never to repeat it, so waiting for the end of a hold would not help it.
		return verdict{action: deadLetter, reason: fault.UnknownOutcome}
	case c.held || c.rows.outage:
		return verdict{action: keep, hold: fault.Outage}
	case f.Unknown && c.unknowns > maxUnknown:
		return verdict{action: deadLetter, reason: fault.UnknownOutcome}
	case c.othersWork && c.spent >= cfg.RetryBudget:
		return verdict{action: deadLetter, reason: fault.Exhausted}
	default:
		return verdict{action: retry, wait: f.RetryAfter}
	}
}

// signal is what an attempt's answer says about the API as a whole.
func signal(f *fault.Error, sent bool) hold.Signal {
	if f == nil {
		return hold.Signal{Kind: hold.Works}
	}
	if f.Reason == fault.ObjectMissing || f.Reason == fault.Storage {
		return hold.Signal{} // The document could not be read: the API was not asked to the end.
	}
	switch f.Kind {
	case fault.Interrupted:
		return hold.Signal{}
	case fault.Permanent:
		switch {
		case !sent:
			return hold.Signal{}
		case f.Reason == fault.Forbidden:
			return hold.Signal{Kind: hold.Refused}
		default:
			return hold.Signal{Kind: hold.Works}
		}
	case fault.Systemic:
		return hold.Signal{Kind: hold.Unauthorized}
	case fault.Throttled:
		return hold.Signal{Kind: hold.Throttled, Wait: f.RetryAfter}
	case fault.Transient:
	}
	return hold.Signal{Kind: hold.Failed, Wait: f.RetryAfter}
}
