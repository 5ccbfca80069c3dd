package relay

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

func TestDeliveredUpdateIsSettledThenAcked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		d := comments(7, "123456")
		d.header = map[string][]string{"X-TraceId": {"crm1"}, "Nats-Msg-Id": {"id-7"}}
		b.journal.refuse = func(*update.Settlement) error {
			select {
			case <-d.acked:
				t.Error("acked before it was settled")
			default:
			}
			return nil
		}
		b.Accept(d)
		<-d.acked
		got := b.journal.all()[0]
		if got.Outcome != update.Delivered || got.Attempts != 1 || got.RequestID != "crm1" || got.Status != 200 ||
			got.Update.ID != "id-7" || got.PossibleDuplicate {
			t.Errorf("settlement %+v", got)
		}
		if sent := b.api.requests(); len(sent) != 1 || sent[0].body != `["comment 7"]` {
			t.Errorf("sent %+v", sent)
		}
	})
}

func TestRetriesCarryOneTraceIDPerRequestAndKeepTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(n int, r update.Request) error {
			if r.Vorgangsnummer == "1" && n <= 2 {
				return unavailable()
			}
			return nil
		}}, nil)
		first, second := comments(1, "1"), comments(2, "1")
		first.header = map[string][]string{"X-TraceId": {"t"}}
		b.Accept(first)
		b.Accept(second)
		<-second.acked
		var ids []string
		for _, r := range b.api.requests() {
			ids = append(ids, r.traceID)
		}
		if len(ids) != 4 || ids[0] != "t" || ids[1] != "t-2" || ids[2] != "t-3" {
			t.Errorf("request IDs %q, want t, t-2, t-3 and then the second update's", ids)
		}
		if s := b.journal.all(); s[0].Update.Seq != 1 || s[0].Attempts != 3 || s[1].Update.Seq != 2 {
			t.Errorf("settled out of order or miscounted: %+v, %+v", s[0], s[1])
		}
	})
}

func TestATraceIDMadeHereStaysTheSameAcrossAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(n int, _ update.Request) error {
			if n == 1 {
				return unavailable()
			}
			return nil
		}}, nil)
		d := comments(1, "1")
		b.Accept(d)
		<-d.acked
		sent := b.api.requests()
		if sent[0].traceID[:3] != "kxr" || sent[1].traceID != sent[0].traceID+"-2" {
			t.Errorf("request IDs %q and %q", sent[0].traceID, sent[1].traceID)
		}
	})
}

// 1,000 updates of one Vorgang that always gets 500, in front of others: the others are delivered meanwhile.
func TestStuckVorgangKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: 10 * time.Millisecond, answer: func(_ int, r update.Request) error {
			if r.Vorgangsnummer == "bad" {
				return status(500, fault.Transient, fault.Outage)
			}
			return nil
		}}, nil)
		seq := uint64(0)
		for range 1000 {
			seq++
			b.Accept(comments(seq, "bad"))
		}
		begin := time.Now()
		var others []*fakeDelivery
		for i := range 500 {
			seq++
			d := comments(seq, fmt.Sprint("v", i))
			others = append(others, d)
			b.Accept(d)
		}
		for _, d := range others {
			<-d.acked
		}
		// 500 requests of 10 ms, 8 at once, and one slot now and then for the bad one.
		if took := time.Since(begin); took > 700*time.Millisecond {
			t.Errorf("the others took %v, want about 630ms", took)
		}
		if n := b.journal.count(update.DeadLettered); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

func TestRetryBudgetEndsOnlyWhileOthersSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(_ int, r update.Request) error {
			if r.Vorgangsnummer == "bad" {
				return status(500, fault.Transient, fault.Outage)
			}
			return nil
		}}, func(c *Config) { c.RetryBudget = 10 * time.Minute })
		bad := comments(1, "bad")
		b.Accept(bad)
		time.Sleep(24 * time.Hour) // nobody else: a hold, not a dead letter
		if n := len(b.journal.all()); n != 0 || !b.gate.Held(fault.Outage) {
			t.Fatalf("%d settled without anybody succeeding", n)
		}
		var begin time.Time
		for seq := uint64(2); ; seq++ {
			d := comments(seq, fmt.Sprint("v", seq))
			b.Accept(d)
			<-d.acked
			if begin.IsZero() {
				begin = time.Now() // the first success of another ended the hold
			}
			select {
			case <-bad.acked:
			case <-time.After(5 * time.Second):
				continue
			}
			break
		}
		s := b.journal.all()
		last := s[len(s)-1]
		if last.Outcome != update.DeadLettered || last.Reason != fault.Exhausted || last.Status != 500 ||
			!strings.Contains(last.Detail, "while others got through; the last answer: ") {
			t.Errorf("settlement %+v, want a dead letter exhausted", last)
		}
		if took := time.Since(begin); took < 10*time.Minute || took > 12*time.Minute {
			t.Errorf("exhausted after %v of others succeeding, want the budget of 10m", took)
		}
	})
}

func TestUnknownOutcomeIsRepeatedFlaggedAndBounded(t *testing.T) {
	for name, test := range map[string]struct {
		park      bool
		unknowns  int
		requests  int
		outcome   update.Outcome
		duplicate bool
	}{
		"retry and booked":       {unknowns: 1, requests: 2, outcome: update.Delivered, duplicate: true},
		"retry, always unknown":  {unknowns: 99, requests: 4, outcome: update.DeadLettered, duplicate: true},
		"park at the first":      {park: true, unknowns: 99, requests: 1, outcome: update.DeadLettered},
		"nothing unknown at all": {unknowns: 0, requests: 1, outcome: update.Delivered},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, &fakeAPI{answer: func(n int, _ update.Request) error {
					if n <= test.unknowns {
						f := status(504, fault.Transient, fault.Outage)
						f.Unknown = true
						return f
					}
					return nil
				}}, func(c *Config) { c.ParkUnknown = test.park })
				d := comments(1, "1")
				b.Accept(d)
				<-d.acked
				s := b.journal.all()[0]
				if s.Outcome != test.outcome || s.PossibleDuplicate != test.duplicate || s.Attempts != test.requests {
					t.Errorf("settlement %+v", s)
				}
				if s.Outcome == update.DeadLettered && s.Reason != fault.UnknownOutcome {
					t.Errorf("reason %s", s.Reason)
				}
			})
		})
	}
}

func TestInvalidUpdateIsADeadLetterWithoutACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		bad, good := comments(1, "1"), comments(2, "1")
		bad.body = `["unfinished`
		wrong := &fakeDelivery{seq: 3, subject: "kex.vorgang.a.b.c", body: "x", acked: make(chan struct{})}
		b.Accept(bad)
		b.Accept(good)
		b.Accept(wrong)
		<-good.acked
		<-wrong.acked
		if n := len(b.api.requests()); n != 1 {
			t.Errorf("%d calls, want the good one's", n)
		}
		for _, s := range b.journal.all() {
			if s.Update.Seq != 2 && (s.Reason != fault.Invalid || s.Attempts != 0 || s.RequestID != "" || s.Detail == "") {
				t.Errorf("settlement of an invalid update %+v", s)
			}
		}
	})
}

func TestStopFinishesWhatIsBeingSentAndTakesNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: 20 * time.Second}, nil)
		var all []*fakeDelivery
		for i := range 100 {
			d := comments(uint64(i+1), strconv.Itoa(i))
			all = append(all, d)
			b.Accept(d)
		}
		time.Sleep(time.Second)
		begin := time.Now()
		b.stop()
		<-b.done
		if took := time.Since(begin); took != 19*time.Second {
			t.Errorf("stopped after %v, want when the last request was answered", took)
		}
		if sent, settled := len(b.api.requests()), len(b.journal.all()); sent != 8 || settled != 8 {
			t.Errorf("%d sent, %d settled, want the 8 in flight", sent, settled)
		}
		for _, d := range all[8:] {
			select {
			case <-d.acked:
				t.Fatal("an update that was not sent was acked")
			default:
			}
		}
	})
}

func TestStopEndsWhatTakesLongerThanTheShutdownTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: time.Hour}, nil)
		b.Accept(comments(1, "1"))
		time.Sleep(time.Second)
		begin := time.Now()
		b.stop()
		<-b.done
		if took := time.Since(begin); took != 35*time.Second {
			t.Errorf("stopped after %v, want the shutdown timeout of 35s", took)
		}
		if n := len(b.journal.all()); n != 0 {
			t.Errorf("%d settled although nothing was answered", n)
		}
	})
}

func TestRemovedUpdateLetsItsLaneGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		gone, next := comments(1, "1"), comments(2, "1")
		gone.removed = true
		b.Accept(gone)
		b.Accept(next)
		<-gone.acked // forgotten
		<-next.acked
		if n := len(b.journal.all()); n != 1 {
			t.Errorf("%d settled, want the other one", n)
		}
	})
}

func TestRateIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, func(c *Config) { c.Rate = 20 })
		var last *fakeDelivery
		for i := range 100 {
			last = comments(uint64(i+1), strconv.Itoa(i))
			b.Accept(last)
		}
		time.Sleep(10 * time.Second)
		sent := b.api.requests()
		if len(sent) != 100 {
			t.Fatalf("%d sent in 10s at 20/s", len(sent))
		}
		for i := 21; i < len(sent); i++ {
			if gap := sent[i].at.Sub(sent[i-21].at); gap <= time.Second {
				t.Fatalf("22 requests within %v at a rate of 20/s", gap)
			}
		}
	})
}
