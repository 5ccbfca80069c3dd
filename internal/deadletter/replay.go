package deadletter

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	// replayWorkers is how many dead letters are worked on at once. A replay is a handful of calls one after the
	// other: over a network most of its time is waiting.
	replayWorkers = 8
	// sweepFactor is how many old claims are looked at for each dead letter replayed: more than one, so that they
	// become fewer over time.
	sweepFactor = 2
	// publishMargin is how long after a claim its message is surely published or never. It is above all that a replay
	// waits and repeats, and above the duplicate window, for which the server still knows the message's ID.
	publishMargin = topology.DuplicateWindow + time.Hour
	// lossPatience is how long a run goes on trying while NATS is away.
	lossPatience = 20 * time.Second
	firstPause   = 100 * time.Millisecond
	slowestPause = 2 * time.Second
)

// RunOptions says how a plan is carried out.
type RunOptions struct {
	// Canary sends one dead letter of each group before the others; they stay if it does not end well.
	Canary bool
	// Wait is for how long nothing may happen to what was sent before the run ends without its outcome. 0 waits for no
	// outcome at all, and goes without Canary.
	Wait time.Duration
	// Rate is how many are sent in a second, 0 for no limit.
	Rate float64
	// MaxFailures ends the run when so many went wrong; 0 does not.
	MaxFailures int
	// By says who replays, for others who replay the same.
	By string
	// Report, if not nil, hears of each dead letter when it is done with, Progress of each change. Neither is called
	// twice at the same time.
	Report   func(Item)
	Progress func(Progress)
}

// Result says what became of one dead letter.
type Result string

// The results.
const (
	// Replayed means that this call published the update again.
	Replayed Result = "replayed"
	// Duplicate means that it had been published already, by somebody else or before an interruption; this call did
	// what was left to do.
	Duplicate Result = "duplicate"
	// Skipped means that there was nothing to do or that it can do no good; Err says why. The dead letter, if there
	// is one, stays.
	Skipped Result = "skipped"
	// Failed means that it went wrong for this one; Err says why and what to do. The dead letter stays.
	Failed Result = "failed"
)

// Item is what became of one dead letter.
type Item struct {
	Seq            uint64      `json:"seq"`
	Result         Result      `json:"result"`
	UpdateID       string      `json:"updateId,omitempty"`
	Vorgangsnummer string      `json:"vorgangsnummer,omitempty"`
	Kind           update.Kind `json:"kind,omitempty"`
	TraceID        string      `json:"traceId,omitempty"`
	// Group is the ID of the group it is planned in.
	Group string `json:"group,omitempty"`
	// Canary reports that it was sent before the others of its group.
	Canary bool `json:"canary,omitempty"`
	// UpdateSeq is the new message's sequence in KEX_UPDATES, for Replayed and Duplicate.
	UpdateSeq uint64 `json:"updateSeq,omitempty"`
	// End is how the update ended this time, nil as long as that is not known.
	End *End `json:"end,omitempty"`
	// LeftOut is why it was left out of the plan, for Skipped.
	LeftOut LeftOut `json:"leftOut,omitempty"`
	// Err is why, for Skipped and Failed. Skipped with ErrNotFound: it was already replayed or removed.
	Err error `json:"-"`
}

// End is how a replayed update ended.
type End struct {
	// Outcome is delivered, deadlettered, or discarded or erased if somebody removed it before it was sent.
	Outcome update.Outcome `json:"outcome"`
	// DeadLetterSeq is the new dead letter, Reason, Status and Detail what it says.
	DeadLetterSeq uint64       `json:"deadLetterSeq,omitempty"`
	Reason        fault.Reason `json:"reason,omitempty"`
	Status        int          `json:"status,omitempty"`
	Detail        string       `json:"detail,omitempty"`
}

// endOf reads the end of a replay off the event that tells of it; ok says that the event does.
func endOf(e journal.Event) (end End, ok bool) {
	switch e.Data.Outcome {
	case update.Delivered, update.DeadLettered, update.Discarded, update.Erased:
		return End{
			Outcome: e.Data.Outcome, DeadLetterSeq: e.Data.DeadLetterSeq,
			Reason: e.Data.Reason, Status: e.Data.Status, Detail: e.Data.Detail,
		}, true
	case update.Replayed, update.DoubleBooked:
	}
	return End{}, false
}

// Totals counts items by their result.
type Totals struct {
	Replayed  int `json:"replayed"`
	Duplicate int `json:"duplicate"`
	Skipped   int `json:"skipped"`
	Failed    int `json:"failed"`
}

func (t *Totals) add(r Result) {
	switch r {
	case Replayed:
		t.Replayed++
	case Duplicate:
		t.Duplicate++
	case Skipped:
		t.Skipped++
	case Failed:
		t.Failed++
	}
}

// Replay carries a plan out: each dead letter goes back to where its update was published, at the end of the stream,
// in the order of the dead letters as far as one Vorgang is concerned. A dead letter is removed only after the server
// confirmed the new message, the mark on its claim and the replayed event.
//
// It may be called by several at the same time and again after any interruption: nothing is published twice, and as
// long as the run has not ended all agree on what is part of it and which are its canaries. What became of each dead
// letter is reported one by one. The error is what stopped the run before its end (NATS refuses or does not answer,
// ctx ended); dead letters not reported then were left as they are or will be continued by the next call.
func (s *Store) Replay(ctx context.Context, plan *Plan, opts RunOptions) (Report, error) {
	if opts.Canary && opts.Wait <= 0 {
		return Report{}, errors.New("replaying: a canary is sent to wait for how it ends")
	}
	r := newRunner(plan, opts, runnerDeps{
		replay: func(ctx context.Context, letter planned) (Item, error) {
			return s.replayPatiently(ctx, letter, plan.opts.AllowDuplicates)
		},
		canary: func(ctx context.Context, key string, letter planned, old *journal.Canary) (journal.Canary, error) {
			proposed := journal.Canary{Seq: letter.seq, StoredAt: letter.at()}
			if old != nil {
				return s.claims.ReplaceCanary(ctx, plan.run, key, *old, proposed)
			}
			return s.claims.Canary(ctx, plan.run, key, proposed)
		},
		published: func(ctx context.Context, letter planned) (bool, error) {
			claim, found, err := s.claims.Get(ctx, letter.seq, letter.at())
			return found && claim.Purpose == journal.PurposeReplay && claim.Published(), err
		},
	})
	r.reportLeft()
	if len(plan.letters) == 0 {
		if plan.Continues != nil {
			return r.report, s.claims.EndRun(ctx, *plan.Continues)
		}
		return r.report, nil
	}
	if err := s.begin(ctx, plan, opts); err != nil {
		return r.report, err
	}
	if err := s.auditReplay(ctx, plan); err != nil {
		return r.report, err
	}
	r.setLetters()
	if opts.Wait > 0 {
		stop := s.follow(ctx, plan, r.events)
		defer stop()
	}
	err := r.run(ctx)
	if err == nil && (r.report.Stop != StopWaiting || r.report.NotSent == 0) {
		err = s.claims.EndRun(ctx, plan.run)
	}
	if err == nil && r.report.Replayed+r.report.Duplicate > 0 {
		// Tidying up is for the next one if it does not work out for this one.
		now := time.Now()
		_, _ = s.sweepClaims(ctx, sweepFactor*(r.report.Replayed+r.report.Duplicate), now.Add(-journal.SweepAge), publishMargin)
		_ = s.claims.SweepRuns(ctx, now.Add(-journal.SweepAge-continueWithin))
	}
	return r.report, err
}

// begin writes the run down, or joins the one that is there. If somebody began it after the plan was made, what is not
// part of theirs is taken out.
func (s *Store) begin(ctx context.Context, plan *Plan, opts RunOptions) error {
	if plan.Continues != nil {
		plan.run = *plan.Continues
		return nil
	}
	plan.run.By = opts.By
	run, begun, err := s.claims.BeginRun(ctx, plan.run, plan.replaces)
	if err != nil || begun {
		plan.run = run
		return err
	}
	plan.run = run
	plan.Continues, plan.UpTo = &run, min(plan.UpTo, run.UpTo)
	for n, letter := range plan.letters {
		if letter.seq > plan.UpTo {
			plan.letters = plan.letters[:n]
			break
		}
	}
	return nil
}

// auditReplay writes down who begins to replay what, before anything is sent.
func (s *Store) auditReplay(ctx context.Context, plan *Plan) error {
	return s.audit.Audit(ctx, journal.AuditEvent{
		ID: "replay-" + plan.run.ID + "-" + newRunID(), Action: journal.ActionReplay,
		Details: map[string]string{
			"run": plan.run.ID, "selection": plan.run.Selection,
			"send": strconv.Itoa(len(plan.letters)), "upTo": strconv.FormatUint(plan.UpTo, 10),
			"allowDuplicates": strconv.FormatBool(plan.opts.AllowDuplicates),
		},
	})
}

// follow reads the results of replays since the run began into a channel, until the returned function is called.
func (s *Store) follow(ctx context.Context, plan *Plan, into chan<- event) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		filter := journal.ResultFilter{
			Since: plan.run.BegunAt, After: plan.run.ResultsAfter,
			Outcomes: []update.Outcome{update.Delivered, update.DeadLettered, update.Discarded, update.Erased},
		}
		for e, err := range s.results.Watch(ctx, filter) {
			if err != nil {
				select {
				case into <- event{err: err}:
				case <-ctx.Done():
				}
				return
			}
			if e.Data.ReplayOf == 0 || e.Data.ReplayOf > plan.UpTo {
				continue
			}
			end, ok := endOf(e)
			if !ok {
				continue
			}
			select {
			case into <- event{seq: e.Data.ReplayOf, end: end}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// replayPatiently replays one dead letter and tries again while NATS is away for a moment: every step may be repeated.
func (s *Store) replayPatiently(ctx context.Context, letter planned, unsure bool) (Item, error) {
	until := time.Now().Add(lossPatience)
	for wait := firstPause; ; wait = min(2*wait, slowestPause) {
		item, err := s.replay(ctx, letter, unsure)
		if err == nil || !mayPass(err) || ctx.Err() != nil || time.Until(until) < wait {
			return item, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// mayPass reports whether an error is of a connection or a server that may be back in a moment.
func mayPass(err error) bool {
	if refused, ok := errors.AsType[*journal.PublishError](err); ok {
		return refused.Refusal == journal.RefusedForNow && !errors.Is(err, nats.ErrConnectionClosed)
	}
	if errors.Is(err, topology.ErrDenied) {
		return false
	}
	for _, passing := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
		nats.ErrReconnectBufExceeded, nats.ErrNoResponders, nats.ErrStaleConnection, jetstream.ErrNoStreamResponse,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.Code == 503
}

// newRunID makes the ID of a run.
func newRunID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // It never fails.
	return hex.EncodeToString(id[:])
}

// sweepClaims removes old claims of which neither the dead letter nor the new message is there any more.
//
// A claim whose publish was never confirmed names no message: whoever made it may have died before or after the
// publish. Its message is not there if every update there is was stored later than the claim by the margin.
func (s *Store) sweepClaims(ctx context.Context, limit int, before time.Time, margin time.Duration) (int, error) {
	return s.claims.Sweep(ctx, before, limit, func(ctx context.Context, claim journal.Claim) (bool, error) {
		letter, err := s.read(ctx, claim.DeadLetterSeq)
		if err == nil && letter.Time.Equal(claim.DeadLetterAt) {
			return false, nil
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return false, err
		}
		if !claim.Published() {
			return s.updatesBeginAfter(ctx, claim.WrittenAt().Add(margin))
		}
		waiting, err := s.waiting(ctx, claim)
		return !waiting, err
	})
}

// leftError says why a dead letter was left out of a plan, and what takes it in.
func (p *Plan) leftError(l leftOut) error {
	switch l.why {
	case MayBeBooked:
		return fmt.Errorf("dead letter %d may have been booked: look into the Vorgang, then allow duplicates or leave it: %w", l.seq, errNoWay)
	case TooOften:
		return fmt.Errorf("dead letter %d has had %d replays or more: force it or leave it: %w", l.seq, p.opts.MaxReplays, errNoWay)
	case NoWay:
	}
	return l.err
}
