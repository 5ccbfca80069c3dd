package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kexrelay/internal/journal"
)

const (
	// window bounds what was sent and has not ended. With a hold on, or a Vorgang that waits long, the rest stays where
	// it is safe: among the dead letters.
	window = 200
	// lookEvery is how often it is looked whether nothing happens any more.
	lookEvery = 250 * time.Millisecond
	// maxBehind is how much later than its time one may be sent and the next one still come in time.
	maxBehind = 50 * time.Millisecond
)

// runnerDeps is what a runner does to the world.
type runnerDeps struct {
	replay func(context.Context, planned) (Item, error)
	// canary proposes a group's canary, in place of old if there is one, and gives the one that all agree on.
	canary func(ctx context.Context, key string, proposed planned, old *journal.Canary) (journal.Canary, error)
	// published says whether the replay of a dead letter that is gone was published.
	published func(context.Context, planned) (bool, error)
}

// runner carries a plan out. One goroutine, in run, has all of its state; workers make the calls.
type runner struct {
	plan  *Plan
	opts  RunOptions
	deps  runnerDeps
	sched *schedule

	events   chan event
	finished chan finished
	working  int
	nextAt   time.Time // When the next one may be sent.
	changed  time.Time // When something happened last.

	// sent are those that were sent and have not ended, ends the ends of all replays since the run began.
	sent map[uint64]Item
	ends map[uint64]End
	// canaries are those that groups wait for, by the dead letter; replaced are those that proved nothing, by group.
	canaries map[uint64]uint32
	replaced map[uint32]*journal.Canary
	// elsewhere are canaries that were handled out of their turn.
	elsewhere map[uint64]bool

	failures int
	halted   bool
	report   Report
}

// event is the end of a replay, or why no more are heard.
type event struct {
	seq uint64
	end End
	err error
}

// finished is what a worker has done.
type finished struct {
	i    int // Of the letter that was given.
	item Item
	err  error
	// canary is set if the letter was to be one: the one that was agreed on. unproven says that it is gone without
	// having been sent.
	canary   *journal.Canary
	unproven bool
}

func newRunner(plan *Plan, opts RunOptions, deps runnerDeps) *runner {
	r := &runner{
		plan: plan, opts: opts, deps: deps,
		events: make(chan event), finished: make(chan finished),
		sent: map[uint64]Item{}, ends: map[uint64]End{},
		canaries: map[uint64]uint32{}, replaced: map[uint32]*journal.Canary{}, elsewhere: map[uint64]bool{},
	}
	for _, group := range plan.Groups {
		r.report.Groups = append(r.report.Groups, GroupReport{ID: group.ID})
	}
	return r
}

// setLetters takes the plan's letters as they are now.
func (r *runner) setLetters() {
	r.sched = newSchedule(r.plan.letters, len(r.plan.vorgaenge), len(r.plan.Groups), r.opts.Canary)
}

// run sends and waits until everything has ended, or there is a reason to stop. It returns when no worker works.
func (r *runner) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	r.changed = time.Now()
	var failed error
	for {
		if failed == nil && ctx.Err() == nil {
			r.handOut(ctx, timer)
		}
		if r.over(failed != nil || ctx.Err() != nil) {
			break
		}
		var err error
		select {
		case f := <-r.finished:
			r.working--
			err = r.done(f)
		case e := <-r.events:
			if err = e.err; err == nil {
				r.heard(e)
			}
		case <-timer.C:
		case <-ticker.C:
		case <-whileWorking(ctx, r.working):
		}
		if err != nil && failed == nil {
			failed = err // The first is the cause of the others.
			cancel()
		}
		r.progress()
	}
	r.close()
	if failed == nil && ctx.Err() != nil {
		failed = fmt.Errorf("replaying: %w", context.Cause(ctx))
	}
	return failed
}

// whileWorking is ctx's end as long as nobody works who would tell of it: it stays closed.
func whileWorking(ctx context.Context, working int) <-chan struct{} {
	if working > 0 {
		return nil
	}
	return ctx.Done()
}

// handOut gives work to workers: what may be sent, no faster than the rate.
func (r *runner) handOut(ctx context.Context, timer *time.Timer) {
	for !r.halted && r.working < replayWorkers && len(r.sent)+r.working < window {
		if wait := time.Until(r.nextAt); wait > 0 {
			timer.Reset(wait)
			return
		}
		i, canary, ok := r.sched.next()
		if !ok {
			return
		}
		letter := r.sched.letters[i]
		if r.elsewhere[letter.seq] {
			r.sched.sent(i)
			continue
		}
		r.pace()
		r.working++
		go r.work(ctx, i, canary, r.replaced[letter.group])
	}
}

// pace sets when the next one may be sent. What a slow machine or a full window delayed is not made up for.
func (r *runner) pace() {
	if r.opts.Rate <= 0 {
		return
	}
	if now := time.Now(); now.Sub(r.nextAt) > maxBehind {
		r.nextAt = now
	}
	r.nextAt = r.nextAt.Add(time.Duration(float64(time.Second) / r.opts.Rate))
}

// work sends one dead letter. A canary is sent only if all agree that it is the group's; else theirs is, in case that
// whoever chose it could not.
func (r *runner) work(ctx context.Context, i int, canary bool, old *journal.Canary) {
	f := finished{i: i}
	defer func() { r.finished <- f }()
	letter := r.sched.letters[i]
	if canary {
		agreed, err := r.deps.canary(ctx, r.plan.Groups[letter.group].key(), letter, old)
		if f.err = err; err != nil {
			return
		}
		f.canary = &agreed
		letter.seq, letter.storedAt = agreed.Seq, agreed.StoredAt.UnixNano()
	}
	f.item, f.err = r.deps.replay(ctx, letter)
	if f.err != nil || !canary || !errors.Is(f.item.Err, ErrNotFound) {
		return
	}
	published, err := r.deps.published(ctx, letter)
	f.unproven, f.err = !published, err
}

// done takes what a worker has done.
func (r *runner) done(f finished) error {
	letter := r.plan.letters[f.i]
	if f.err != nil {
		r.sched.back(f.i)
		if f.canary != nil || r.sched.groups[letter.group].trial == onTrial {
			r.sched.retest(letter.group)
		}
		return f.err
	}
	r.changed = time.Now()
	group := letter.group
	own := f.canary == nil || f.canary.Seq == letter.seq
	if own {
		r.sched.sent(f.i)
	} else {
		r.sched.back(f.i)
		r.elsewhere[f.canary.Seq] = true
	}
	f.item.Group, f.item.Canary = r.plan.Groups[group].ID, f.canary != nil
	sent := f.item.Result == Replayed || f.item.Result == Duplicate
	if f.canary != nil {
		r.tried(group, *f.canary, sent || errors.Is(f.item.Err, ErrNotFound) && !f.unproven)
	}
	if !own && f.item.Result == Skipped { // Whoever chose it has sent it.
		r.settle(f.item.Seq)
		return nil
	}
	r.report.add(f.item.Result)
	switch {
	case !sent:
		if f.item.Result == Failed {
			r.failed()
		}
		r.tell(f.item)
	case r.opts.Wait == 0:
		r.report.Waiting++
		r.tell(f.item)
	default:
		r.sent[f.item.Seq] = f.item
		if f.item.End != nil {
			r.ends[f.item.Seq] = *f.item.End
		}
	}
	r.settle(f.item.Seq)
	return nil
}

// tried notes which canary was sent; proves says that its end will tell about the group.
func (r *runner) tried(group uint32, canary journal.Canary, proves bool) {
	if !proves {
		r.replaced[group] = &canary
		r.sched.retest(group)
		return
	}
	r.report.Groups[group].Canary = canary.Seq
	r.canaries[canary.Seq] = group
}

// over reports whether there is nothing more to do or to wait for.
func (r *runner) over(stopped bool) bool {
	if r.working > 0 {
		return false
	}
	if stopped {
		return true
	}
	if len(r.sent) == 0 && (r.halted || r.sched.unsent == 0) {
		return true
	}
	if r.quiet() >= r.opts.Wait && len(r.sent)+len(r.canaries) > 0 {
		r.report.Stop = StopWaiting
		return true
	}
	return false
}

// quiet is for how long nothing has happened to what is waited for; 0 if the next one only waits for its time.
func (r *runner) quiet() time.Duration {
	paced := time.Until(r.nextAt) > 0 && r.sched.ready.Len() > 0 && len(r.sent) < window && !r.halted
	if r.working > 0 || paced || len(r.sent)+len(r.canaries) == 0 {
		return 0
	}
	return time.Since(r.changed)
}
