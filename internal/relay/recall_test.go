package relay

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// inherit makes the bench's tenure know a past.
func (b *bench) inherit(bound uint64, past func(seq uint64) update.Past) {
	b.tenure.bound, b.tenure.past = bound, past
}

func TestTheLedgerIsWrittenBeforeEveryPostAndFreedAfterTheResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *bench
		b = start(t, &fakeAPI{answer: func(n int, _ update.Request) error {
			last := b.tenure.entries[len(b.tenure.entries)-1]
			if last.what != "sending" || last.Attempts != n || last.RequestID == "" || last.Timeout != 30*time.Second {
				t.Errorf("request %d was sent with %+v in the ledger", n, last)
			}
			if n == 1 {
				return unavailable()
			}
			return nil
		}}, nil)
		b.journal.refuse = func(*update.Settlement) error {
			if got := b.tenure.story(); got != "sending 1/1, idle 1/1, sending 1/2" {
				t.Errorf("before the result: %s", got)
			}
			return nil
		}
		d := comments(1, "1")
		b.Accept(d)
		<-d.acked
		synctest.Wait()
		if got := b.tenure.story(); got != "sending 1/1, idle 1/1, sending 1/2, settled 1/0" {
			t.Errorf("ledger: %s", got)
		}
	})
}

func TestNothingIsSentWithoutTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		b.tenure.refuse = func() error { // the lease goes while the record is written
			if b.tenure.refuse = nil; true {
				b.tenure.expired = true
				close(b.tenure.gone)
			}
			return nil
		}
		first, second := comments(1, "1"), comments(2, "1")
		b.Accept(first)
		b.Accept(second)
		<-first.acked // forgotten
		<-second.acked
		if n := len(b.api.requests()); n != 0 || len(b.journal.all()) != 0 {
			t.Fatalf("%d requests, %d settled after the lease was lost", n, len(b.journal.all()))
		}
		if got := b.tenure.story(); got != "sending 1/1, idle 1/0" {
			t.Errorf("ledger: %s, want the record taken back", got)
		}
	})
}

func TestLosingTheLeaseDropsWhatIsHeldAndSettlesWhatIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: 10 * time.Second}, func(c *Config) { c.Concurrency = 1 })
		sent, held := comments(1, "1"), comments(2, "2")
		b.Accept(sent)
		synctest.Wait()
		b.Accept(held)
		time.Sleep(time.Second)
		b.tenure.lose()
		<-held.acked
		<-sent.acked
		if s := b.journal.all(); len(s) != 1 || s[0].Update.Seq != 1 {
			t.Fatalf("settled %+v, want what was being sent", s)
		}
		// The same Vorgang under a new tenure goes on behind.
		b.tenure = newTenure()
		again := comments(2, "2")
		b.Accept(again)
		<-again.acked
		if n := len(b.journal.all()); n != 2 {
			t.Fatalf("%d settled", n)
		}
	})
}

func TestSettledUpdateIsOnlyAcked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		b.inherit(10, func(uint64) update.Past { return update.Past{Settled: true} })
		d, next := comments(1, "1"), comments(11, "1")
		b.Accept(d)
		b.Accept(next)
		<-d.acked
		<-next.acked
		if n := len(b.api.requests()); n != 1 {
			t.Errorf("%d requests, want the new update's", n)
		}
	})
}

// A process that died between a dead letter and its result had decided: sent again, the update could be delivered and
// lie among the dead letters as well.
func TestWhatAProcessHalfSettledIsSettledAsItHadDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		b.journal.unfinished = map[uint64]*update.Settlement{
			1: {Outcome: update.DeadLettered, Reason: fault.BadRequest, DeadLetterSeq: 210},
		}
		b.inherit(2, func(uint64) update.Past { return update.Past{Left: true, Attempts: 1, Crashes: 1, Until: time.Now()} })
		half, whole := comments(1, "1"), comments(2, "2")
		b.Accept(half)
		b.Accept(whole)
		<-half.acked
		<-whole.acked
		if n := len(b.api.requests()); n != 1 {
			t.Errorf("%d requests, want the one of the update nobody had decided about", n)
		}
		for _, s := range b.journal.all() {
			if s.Update.Seq == 1 && (s.Outcome != update.DeadLettered || s.DeadLetterSeq != 210) {
				t.Errorf("settled %+v", s)
			}
		}
		if n := len(b.journal.all()); n != 2 {
			t.Errorf("%d settled, want 2", n)
		}
	})
}

func TestUpdateLeftByAnotherProcess(t *testing.T) {
	for name, test := range map[string]struct {
		park     bool
		past     update.Past
		resolved time.Duration
		want     func(s []*update.Settlement, requests int, took time.Duration) bool
	}{
		"its answer comes": {
			past: update.Past{Left: true, Attempts: 1, Crashes: 1}, resolved: 3 * time.Second,
			want: func(s []*update.Settlement, requests int, took time.Duration) bool {
				return len(s) == 0 && requests == 0 && took == 3*time.Second
			},
		},
		"its answer does not come": {
			past: update.Past{Left: true, Attempts: 2, Crashes: 1},
			want: func(s []*update.Settlement, requests int, took time.Duration) bool {
				return requests == 1 && took == 35*time.Second && s[0].Outcome == update.Delivered &&
					s[0].PossibleDuplicate && s[0].Attempts == 3
			},
		},
		"policy park": {
			park: true, past: update.Past{Left: true, Attempts: 1, Crashes: 1},
			want: func(s []*update.Settlement, requests int, took time.Duration) bool {
				return requests == 0 && took == 35*time.Second && s[0].Reason == fault.UnknownOutcome && s[0].RequestID == "t"
			},
		},
		"the third crash": {
			past: update.Past{Left: true, Attempts: 3, Crashes: 3},
			want: func(s []*update.Settlement, requests int, _ time.Duration) bool {
				return requests == 0 && s[0].Reason == fault.CrashLoop && s[0].Attempts == 3 && s[0].RequestID == "t-3"
			},
		},
		"three crashes while decoding": {
			past: update.Past{Opened: true, Crashes: 3},
			want: func(s []*update.Settlement, requests int, took time.Duration) bool {
				return requests == 0 && s[0].Reason == fault.CrashLoop && !s[0].PossibleDuplicate && took == 0
			},
		},
		"a definite answer, then the end": {
			past: update.Past{Attempts: 2, Unknowns: 0},
			want: func(s []*update.Settlement, requests int, took time.Duration) bool {
				return requests == 1 && took == 0 && s[0].Attempts == 3 && !s[0].PossibleDuplicate
			},
		},
		"a fourth unknown outcome": {
			past: update.Past{Left: true, Attempts: 4, Unknowns: 3, Crashes: 1},
			want: func(s []*update.Settlement, requests int, _ time.Duration) bool {
				return requests == 0 && s[0].Reason == fault.UnknownOutcome
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, &fakeAPI{}, func(c *Config) { c.ParkUnknown = test.park })
				begin := time.Now()
				resolved := make(chan struct{})
				b.inherit(10, func(uint64) update.Past {
					past := test.past
					if past.Left {
						past.Until, past.Resolved = begin.Add(35*time.Second), resolved
						select {
						case <-resolved:
							past = update.Past{Settled: true}
						default:
						}
					}
					return past
				})
				d := comments(1, "1")
				d.header = map[string][]string{"X-TraceId": {"t"}}
				b.Accept(d)
				other := comments(11, "2")
				b.Accept(other)
				<-other.acked // another Vorgang does not wait
				if time.Since(begin) != 0 {
					t.Errorf("another Vorgang waited %v", time.Since(begin))
				}
				if test.resolved > 0 {
					time.Sleep(test.resolved)
					close(resolved)
				}
				<-d.acked
				var own []*update.Settlement
				for _, s := range b.journal.all() {
					if s.Update.Seq == 1 {
						own = append(own, s)
					}
				}
				if took := time.Since(begin); !test.want(own, len(b.api.requests())-1, took) {
					t.Errorf("after %v, %d requests, settled %+v", took, len(b.api.requests())-1, own)
				}
			})
		})
	}
}

func TestUpdatesACrashInterruptedAreSentOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: time.Second}, nil)
		b.inherit(5, func(uint64) update.Past { return update.Past{Left: true, Attempts: 1, Crashes: 1, Until: time.Now()} })
		var all []*fakeDelivery
		for i := range 5 {
			d := comments(uint64(i+1), strconv.Itoa(i))
			all = append(all, d)
			b.Accept(d)
		}
		begin := time.Now()
		for _, d := range all {
			<-d.acked
		}
		if b.api.most != 1 || time.Since(begin) != 5*time.Second {
			t.Errorf("%d at once, %v in all; want one at a time", b.api.most, time.Since(begin))
		}
	})
}

// A lease may be lost while updates that a crash interrupted wait for each other. All that waits is dropped then: when the
// partition comes back, what is left of it goes on, and so does everything that is published later.
func TestWaitingForACrashedUpdateEndsWithTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: time.Second}, nil)
		b.inherit(5, func(uint64) update.Past { return update.Past{Left: true, Attempts: 1, Crashes: 1, Until: time.Now()} })
		for i := range 5 {
			b.Accept(comments(uint64(i+1), strconv.Itoa(i)))
		}
		synctest.Wait() // One is being sent, four wait.
		b.tenure.lose()
		b.tenure = newTenure() // Meanwhile somebody else has sent all of them.
		time.Sleep(time.Minute)
		if n := b.Stats().Lanes.Lanes; n != 0 {
			t.Errorf("%d Vorgänge have updates of a lease that was lost", n)
		}
		for i := range 5 {
			later := comments(uint64(i+6), strconv.Itoa(i))
			b.Accept(later)
			select {
			case <-later.acked:
			case <-time.After(time.Minute):
				t.Errorf("Vorgang %d stands still", i)
			}
		}
	})
}

func TestARecordPrecedesDecodingOfWhatMayHaveBeenOpenedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		b.inherit(1, nil)
		old, fresh := comments(1, "1"), comments(2, "1")
		b.Accept(old)
		b.Accept(fresh)
		<-fresh.acked
		synctest.Wait()
		if got := b.tenure.story(); got != "opening 1/0, sending 1/1, settled 1/0, sending 2/1, settled 2/0" {
			t.Errorf("ledger: %s", got)
		}
	})
}

func TestLedgerThatCannotBeWrittenHoldsAndSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		begin := time.Now()
		b.tenure.refuse = func() error {
			if time.Since(begin) < time.Minute {
				return status(0, fault.Systemic, fault.Storage)
			}
			return nil
		}
		d := comments(1, "1")
		b.Accept(d)
		time.Sleep(30 * time.Second)
		if !b.gate.Held(fault.Storage) || len(b.api.requests()) != 0 {
			t.Fatalf("held %v, %d requests", b.gate.Held(fault.Storage), len(b.api.requests()))
		}
		<-d.acked
		if n := len(b.api.requests()); n != 1 || b.gate.Held(fault.Storage) {
			t.Errorf("%d requests, held %v", n, b.gate.Held(fault.Storage))
		}
	})
}
