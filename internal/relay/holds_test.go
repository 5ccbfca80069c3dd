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

// While the API is down nothing is dead-lettered, no budget is spent and only probes are sent.
func TestOutageHoldsAndDeliversEverythingAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		b := start(t, &fakeAPI{latency: 5 * time.Millisecond, answer: func(int, update.Request) error {
			if time.Since(begin) < time.Hour {
				return unavailable()
			}
			return nil
		}}, func(c *Config) { c.RetryBudget = time.Minute })
		var all []*fakeDelivery
		for i := range 500 {
			d := comments(uint64(i+1), strconv.Itoa(i%100))
			all = append(all, d)
			b.Accept(d)
		}
		time.Sleep(30 * time.Second)
		if !b.gate.Held(fault.Outage) {
			t.Fatal("no outage hold after 30s")
		}
		if n := len(b.api.requests()); n > 60 {
			t.Errorf("%d requests in the first 30s of an outage, want the first round and a handful of probes", n)
		}
		for _, d := range all {
			<-d.acked
		}
		if n := b.journal.count(update.Delivered); n != 500 {
			t.Errorf("%d delivered, want 500", n)
		}
		if n := b.journal.count(update.DeadLettered); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

func TestRetryAfterIsKeptToTheInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(n int, r update.Request) error {
			if r.Vorgangsnummer == "1" && n == 1 {
				f := status(429, fault.Throttled, fault.Throttling)
				f.RetryAfter = 5 * time.Second
				return f
			}
			return nil
		}}, func(c *Config) { c.Concurrency = 1 })
		begin := time.Now()
		first := comments(1, "1")
		b.Accept(first)
		synctest.Wait()
		second := comments(2, "2")
		b.Accept(second)
		<-first.acked
		<-second.acked
		for i, r := range b.api.requests()[1:] {
			if at := r.at.Sub(begin); at < 5*time.Second {
				t.Errorf("request %d at %v, inside the 5s", i+2, at)
			}
		}
	})
}

func TestThirdThrottleOfOneUpdateIsItsOwnTroubleWhenOthersSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(n int, r update.Request) error {
			if r.Vorgangsnummer == "slow" && n <= 6 {
				f := status(429, fault.Throttled, fault.Throttling)
				f.RetryAfter = 100 * time.Millisecond
				return f
			}
			return nil
		}}, nil)
		slow := comments(1, "slow")
		b.Accept(slow)
		for seq := uint64(2); ; seq++ {
			d := comments(seq, fmt.Sprint("v", seq))
			b.Accept(d)
			<-d.acked
			time.Sleep(200 * time.Millisecond)
			select {
			case <-slow.acked:
			default:
				if seq > 5 && b.gate.Held(fault.Throttling) {
					t.Fatal("everybody is held again by the throttle of one update")
				}
				continue
			}
			break
		}
	})
}

func TestExpiredTokenIsRepeatedOnceThenHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rejected atomic.Bool
		rejected.Store(true)
		b := start(t, &fakeAPI{answer: func(int, update.Request) error {
			if rejected.Load() {
				return status(401, fault.Systemic, fault.Unauthorized)
			}
			return nil
		}}, nil)
		d := comments(1, "1")
		b.Accept(d)
		synctest.Wait()
		if sent := b.api.requests(); len(sent) != 2 || sent[0].at != sent[1].at || sent[0].traceID == sent[1].traceID {
			t.Fatalf("requests after a 401: %+v, want one repeat at once with an ID of its own", sent)
		}
		if !b.gate.Held(fault.Unauthorized) {
			t.Fatal("no hold after the second 401")
		}
		rejected.Store(false)
		<-d.acked
		if n := b.journal.count(update.DeadLettered); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

func TestRejectedClientHoldsAtTheFirstUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		var wrong atomic.Bool
		wrong.Store(true)
		api.authorize = func() error {
			if wrong.Load() {
				return status(401, fault.Systemic, fault.Unauthorized)
			}
			return nil
		}
		b := start(t, api, nil)
		d := comments(1, "1")
		b.Accept(d)
		time.Sleep(10 * time.Minute)
		if !b.gate.Held(fault.Unauthorized) || len(api.requests()) != 0 || len(b.journal.all()) != 0 {
			t.Fatal("a rejected client must hold, send nothing and settle nothing")
		}
		wrong.Store(false)
		<-d.acked
	})
}

func TestSingleRefusalIsADeadLetterARowOfThemAHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refuseAll atomic.Bool
		b := start(t, &fakeAPI{latency: time.Millisecond, answer: func(_ int, r update.Request) error {
			if refuseAll.Load() || r.Vorgangsnummer == "foreign" {
				return status(403, fault.Permanent, fault.Forbidden)
			}
			return nil
		}}, nil)
		seq := uint64(0)
		next := func(v string) *fakeDelivery {
			seq++
			d := comments(seq, v)
			b.Accept(d)
			return d
		}
		for i := range 50 {
			if i%2 == 0 {
				<-next("foreign").acked
			}
			<-next(fmt.Sprint("v", i)).acked
		}
		if n := b.journal.count(update.DeadLettered); n != 25 || b.gate.Held(fault.Forbidden) {
			t.Fatalf("one foreign Vorgang among good ones: %d dead letters (want 25), held %v", n, b.gate.Held(fault.Forbidden))
		}
		refuseAll.Store(true)
		var late []*fakeDelivery
		for i := range 100 {
			late = append(late, next(fmt.Sprint("w", i)))
		}
		time.Sleep(time.Hour)
		if n := b.journal.count(update.DeadLettered) - 25; n < 4 || n > 5 || !b.gate.Held(fault.Forbidden) {
			t.Fatalf("403 for all: %d dead letters (want 5, or 4 if the sixth answer was faster), held %v", n, b.gate.Held(fault.Forbidden))
		}
		before := b.journal.count(update.DeadLettered)
		refuseAll.Store(false)
		for _, d := range late {
			<-d.acked
		}
		if n := b.journal.count(update.DeadLettered) - before; n != 0 {
			t.Errorf("%d more dead letters after the hold", n)
		}
	})
}

func TestOutageOfUnknownOutcomesIsProbedWithoutBooking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		down := func() bool { return time.Since(begin) < 10*time.Minute }
		unknown := func() error {
			f := status(502, fault.Transient, fault.Outage)
			f.Unknown = true
			return f
		}
		api := &fakeAPI{latency: 10 * time.Millisecond, answer: func(int, update.Request) error {
			if down() {
				return unknown()
			}
			return nil
		}}
		api.ping = func() error {
			if down() {
				return unknown()
			}
			return nil
		}
		b := start(t, api, nil)
		var all []*fakeDelivery
		for i := range 40 {
			d := comments(uint64(i+1), strconv.Itoa(i))
			all = append(all, d)
			b.Accept(d)
		}
		time.Sleep(9 * time.Minute)
		if n := len(api.requests()); n > 24 {
			t.Errorf("%d requests while outcomes are unknown, want no more than were on their way", n)
		}
		for _, d := range all {
			<-d.acked
		}
		if api.pings < 5 {
			t.Errorf("%d pings", api.pings)
		}
		if n := b.journal.count(update.Delivered); n != 40 {
			t.Errorf("%d delivered, want 40", n)
		}
	})
}

func TestStorageRefusalRepeatsThePublishNeverThePost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		begin := time.Now()
		b.journal.refuse = func(*update.Settlement) error {
			if time.Since(begin) < time.Minute {
				return status(0, fault.Systemic, fault.Storage)
			}
			return nil
		}
		first := comments(1, "1")
		b.Accept(first)
		time.Sleep(time.Second)
		second := comments(2, "2")
		b.Accept(second)
		time.Sleep(time.Second)
		if !b.gate.Held(fault.Storage) || len(b.api.requests()) != 1 {
			t.Fatalf("held %v, %d requests: want a hold and no further request", b.gate.Held(fault.Storage), len(b.api.requests()))
		}
		<-first.acked
		<-second.acked
		if n := len(b.api.requests()); n != 2 || b.gate.Held(fault.Storage) {
			t.Errorf("%d requests (want one each), held %v", n, b.gate.Held(fault.Storage))
		}
	})
}
