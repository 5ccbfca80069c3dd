package deadletter

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// world is where a runner sends to: what it was sent, and how that ends.
type world struct {
	mu   sync.Mutex
	sent []uint64
	at   []time.Duration
	// ends says how a replay ends and after how long; nil means that it does not.
	ends func(seq uint64) (*End, time.Duration)
	// item, if not nil, changes what comes of the sending.
	item func(*Item)
	// canary is what somebody else has chosen.
	canary journal.Canary
	begin  time.Time
}

func well(uint64) (*End, time.Duration) { return &End{Outcome: update.Delivered}, time.Second }

func badly(uint64) (*End, time.Duration) {
	return &End{Outcome: update.DeadLettered, DeadLetterSeq: 99, Reason: fault.Gone}, time.Second
}

func planOf(letters ...planned) *Plan {
	p := &Plan{letters: letters, UpTo: 1000}
	for _, letter := range letters {
		for int(letter.vorgang) >= len(p.vorgaenge) {
			p.vorgaenge = append(p.vorgaenge, strconv.Itoa(len(p.vorgaenge)))
		}
		for int(letter.group) >= len(p.Groups) {
			name := "g" + strconv.Itoa(len(p.Groups))
			p.Groups = append(p.Groups, PlannedGroup{ID: name, Fingerprint: Fingerprint{Error: name}})
		}
	}
	return p
}

// run carries a plan out in a world.
func (w *world) run(ctx context.Context, plan *Plan, opts RunOptions) (Report, []Item, error) {
	w.begin = time.Now()
	var items []Item
	opts.Report = func(i Item) { items = append(items, i) }
	var r *runner
	var ending sync.WaitGroup
	stop := make(chan struct{})
	r = newRunner(plan, opts, runnerDeps{
		replay: func(_ context.Context, letter planned) (Item, error) {
			item := plan.item(letter)
			item.Seq, item.Result = letter.seq, Replayed
			if w.item != nil {
				w.item(&item)
			}
			if item.Result != Replayed {
				return item, nil
			}
			w.mu.Lock()
			w.sent, w.at = append(w.sent, letter.seq), append(w.at, time.Since(w.begin))
			w.mu.Unlock()
			if w.ends != nil {
				if end, after := w.ends(letter.seq); end != nil {
					ending.Go(func() {
						select {
						case <-time.After(after):
						case <-stop:
							return
						}
						select {
						case r.events <- event{seq: letter.seq, end: *end}:
						case <-stop:
						}
					})
				}
			}
			return item, nil
		},
		canary: func(_ context.Context, _ string, proposed planned, old *journal.Canary) (journal.Canary, error) {
			if w.canary.Seq != 0 && old == nil {
				return w.canary, nil
			}
			return journal.Canary{Seq: proposed.seq, StoredAt: proposed.at()}, nil
		},
		published: func(context.Context, planned) (bool, error) { return false, nil },
	})
	r.setLetters()
	err := r.run(ctx)
	close(stop)
	ending.Wait()
	return r.report, items, err
}

var hundred = func() (all []planned) {
	for seq := range uint64(100) {
		all = append(all, planned{seq: seq + 1, vorgang: uint32(seq % 10)})
	}
	return all
}()

func TestABadCanaryIsTheOnlyOneOfItsGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		letters := slices.Clone(hundred)
		for i := range letters {
			letters[i].group = uint32(i % 2) // Group 1 is fine.
		}
		w := &world{ends: func(seq uint64) (*End, time.Duration) {
			if seq%2 == 1 {
				return badly(seq)
			}
			return well(seq)
		}}
		report, _, err := w.run(t.Context(), planOf(letters...), RunOptions{Canary: true, Wait: time.Minute, MaxFailures: 10})
		if err != nil || report.Delivered != 50 || report.DeadAgain != 1 || report.NotSent != 49 {
			t.Errorf("%+v, %v", report, err)
		}
		if g := report.Groups[0]; !g.Refused() || g.Canary != 1 || g.NotSent != 49 {
			t.Errorf("group 0: %+v", g)
		}
		if g := report.Groups[1]; g.Refused() || g.Canary != 2 || g.NotSent != 0 {
			t.Errorf("group 1: %+v", g)
		}
	})
}

func TestTheOthersWaitForTheCanaryAndTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{ends: well}
		report, _, err := w.run(t.Context(), planOf(hundred...), RunOptions{Canary: true, Wait: time.Minute, Rate: 10})
		if err != nil || report.Delivered != 100 {
			t.Fatalf("%+v, %v", report, err)
		}
		if w.at[0] != 0 || w.at[1] < time.Second {
			t.Errorf("the canary was sent at %v, the next at %v, its end came after 1s", w.at[0], w.at[1])
		}
		if took := w.at[99] - w.at[1]; took < 9700*time.Millisecond || took > 10*time.Second {
			t.Errorf("98 more took %v at 10 a second", took)
		}
	})
}

func TestSoManyFailuresEndTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{ends: badly}
		report, _, err := w.run(t.Context(), planOf(hundred...), RunOptions{Wait: time.Minute, Rate: 10, MaxFailures: 3})
		if err != nil || report.Stop != StopFailures || report.DeadAgain < 3 || report.DeadAgain > 15 || report.Replayed != report.DeadAgain {
			t.Errorf("%+v, %v; want a stop soon after the third", report, err)
		}
		if report.NotSent != 100-report.Replayed {
			t.Errorf("%d sent and %d not", report.Replayed, report.NotSent)
		}
	})
}

func TestWhatDoesNotEndIsWaitedForNoLongerThanAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		begin := time.Now()
		report, items, err := w.run(t.Context(), planOf(hundred...), RunOptions{Canary: true, Wait: time.Minute})
		if err != nil || report.Stop != StopWaiting || report.Waiting != 1 || report.NotSent != 99 || len(items) != 1 || !items[0].Canary {
			t.Errorf("%+v, %v", report, err)
		}
		if took := time.Since(begin); took < time.Minute || took > 61*time.Second {
			t.Errorf("waited for %v", took)
		}
	})
}

// With a hold on, what was not sent stays among the dead letters, where it is safe.
func TestNoMoreAreOnTheirWayThanTheWindowTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var letters []planned
		for seq := range uint64(1000) {
			letters = append(letters, planned{seq: seq + 1, vorgang: uint32(seq)})
		}
		w := &world{}
		report, _, err := w.run(t.Context(), planOf(letters...), RunOptions{Wait: time.Minute})
		if err != nil || report.Waiting != window || report.NotSent != 1000-window || report.Stop != StopWaiting {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

// What is gone, or cannot be sent, says nothing about its group: another one is the canary.
func TestACanaryThatWasNotSentIsReplaced(t *testing.T) {
	for name, err := range map[string]error{"discarded meanwhile": ErrNotFound, "without its body": errUnfit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{ends: badly, item: func(i *Item) {
					if i.Seq == 1 {
						i.Result, i.Err = Skipped, err
					}
				}}
				report, items, err := w.run(t.Context(), planOf(hundred...), RunOptions{Canary: true, Wait: time.Minute})
				if err != nil || report.Skipped != 1 || report.DeadAgain != 1 || report.NotSent != 98 || report.Groups[0].Canary != 2 {
					t.Errorf("%+v, %v, %v", report, items, err)
				}
			})
		})
	}
}

// Somebody else who replays the same has chosen another canary: its end counts, and it is sent if nobody has.
func TestTheCanaryOfAnotherCounts(t *testing.T) {
	for name, gone := range map[string]bool{"sent by him": true, "not sent by him": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{ends: badly, canary: journal.Canary{Seq: 7}}
				if gone {
					w.item = func(i *Item) {
						if i.Seq == 7 {
							i.Result, i.End = Duplicate, &End{Outcome: update.DeadLettered}
						}
					}
				}
				report, _, err := w.run(t.Context(), planOf(hundred...), RunOptions{Canary: true, Wait: time.Minute})
				if err != nil || report.Groups[0].Canary != 7 || !report.Groups[0].Refused() || report.DeadAgain != 1 {
					t.Errorf("%+v, %v", report, err)
				}
				if want := []uint64{7}; !gone && !cmp.Equal(w.sent, want) || gone && w.sent != nil {
					t.Errorf("sent %v", w.sent)
				}
			})
		})
	}
}

func TestAnErrorEndsTheRunWithItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough")
		w := &world{ends: well, item: func(i *Item) {
			time.Sleep(time.Millisecond) // Else all may be sent before the one that is to end it has its turn.
			if i.Seq == 30 {
				cancel(why)
			}
		}}
		report, _, err := w.run(ctx, planOf(hundred...), RunOptions{Wait: time.Minute})
		if !errors.Is(err, why) || report.Replayed == 0 || report.Replayed > 90 || report.Replayed != report.Waiting+report.Delivered {
			t.Errorf("%+v, %v", report, err)
		}
	})
}
