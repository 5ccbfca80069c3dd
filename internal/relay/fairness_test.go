package relay

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// The API answers every POST with 504 while a harmless GET works: nobody can say what is booked. Under the hold no
// update becomes a dead letter as long as others can find out whether it is over.
func TestUnknownOutcomesUnderAHoldAreNoDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var healthy atomic.Bool
		api := &fakeAPI{ping: func() error { return nil }, answer: func(int, update.Request) error {
			if healthy.Load() {
				return nil
			}
			f := status(504, fault.Transient, fault.Outage)
			f.Unknown = true
			return f
		}}
		b := start(t, api, func(c *Config) { c.RetryMaxInterval = time.Second })
		var all []*fakeDelivery
		for i := range 30 {
			d := comments(uint64(i+1), strconv.Itoa(i))
			all = append(all, d)
			b.Accept(d)
		}
		time.Sleep(40 * time.Second) // some forty probes
		if n := b.journal.count(update.DeadLettered); n != 0 || !b.gate.Held(fault.Outage) {
			t.Fatalf("%d dead letters, held %v", n, b.gate.Held(fault.Outage))
		}
		sent := make(map[string]int)
		for _, r := range b.api.requests() {
			if sent[r.vorgang]++; sent[r.vorgang] > 1+maxUnknown {
				t.Errorf("an update was sent %d times", sent[r.vorgang])
			}
		}
		healthy.Store(true)
		for _, d := range all {
			<-d.acked
		}
		for _, s := range b.journal.all() {
			if s.Outcome != update.Delivered && s.Reason != fault.UnknownOutcome {
				t.Errorf("settlement %+v", s)
			}
		}
	})
}

// One Vorgang alone makes an outage hold. Another Vorgang's update must not wait for the pace of its probes.
func TestAFreshVorgangEndsAHoldThatOneBadVorgangCaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(_ int, r update.Request) error {
			if r.Vorgangsnummer == "bad" {
				return status(500, fault.Transient, fault.Outage)
			}
			return nil
		}}, nil)
		b.Accept(comments(1, "bad"))
		time.Sleep(10 * time.Minute)
		if !b.gate.Held(fault.Outage) {
			t.Fatal("no hold")
		}
		begin := time.Now()
		d := comments(2, "good")
		b.Accept(d)
		<-d.acked
		if waited := time.Since(begin); waited > time.Second {
			t.Errorf("the good Vorgang waited %v", waited)
		}
	})
}

func TestStorageHoldEndsSoonAfterItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		begin := time.Now()
		b.journal.refuse = func(*update.Settlement) error {
			if time.Since(begin) < 10*time.Minute {
				return status(0, fault.Systemic, fault.Storage)
			}
			return nil
		}
		for i := range 8 {
			b.Accept(comments(uint64(i+1), strconv.Itoa(i)))
		}
		time.Sleep(10 * time.Minute)
		first := time.Duration(0)
		for b.gate.Held(fault.Storage) {
			<-b.gate.Changed()
			if len(b.journal.all()) > 0 && first == 0 {
				first = time.Since(begin)
			}
		}
		if rest := time.Since(begin) - first; rest > time.Second {
			t.Errorf("the hold went on for %v after the first write was through", rest)
		}
	})
}

// A token that became invalid during an outage is no rejected secret.
func TestAProbesOnly401IsRepeatedWithAFreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var expired atomic.Bool
		expired.Store(true)
		b := start(t, &fakeAPI{answer: func(int, update.Request) error {
			switch {
			case time.Since(begin) < time.Minute:
				return unavailable()
			case expired.Swap(false):
				return status(401, fault.Systemic, fault.Unauthorized)
			}
			return nil
		}}, nil)
		var all []*fakeDelivery
		for i := range 20 {
			d := comments(uint64(i+1), strconv.Itoa(i))
			all = append(all, d)
			b.Accept(d)
		}
		for _, d := range all {
			<-d.acked
			if b.gate.Held(fault.Unauthorized) {
				t.Fatal("held unauthorized for one expired token")
			}
		}
	})
}

// A 404 in between does not show that we have the right: the row of refusals goes on.
func TestOnlyASuccessEndsARowOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(_ int, r update.Request) error {
			if r.Vorgangsnummer[0] == 'n' {
				return status(404, fault.Permanent, fault.NotFound)
			}
			return status(403, fault.Permanent, fault.Forbidden)
		}}, func(c *Config) { c.Concurrency = 1 })
		for i := range 40 {
			b.Accept(comments(uint64(2*i+1), fmt.Sprint("f", i)))
			b.Accept(comments(uint64(2*i+2), fmt.Sprint("n", i)))
		}
		time.Sleep(time.Hour)
		refused := 0
		for _, s := range b.journal.all() {
			if s.Reason == fault.Forbidden {
				refused++
			}
		}
		if refused > refusedRow {
			t.Errorf("%d dead letters forbidden, want at most %d", refused, refusedRow)
		}
	})
}
