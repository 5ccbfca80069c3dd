package relay

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/update"
)

// inAnySecond is the most requests that began within one second, whenever it begins.
func inAnySecond(sent []sentRequest) int {
	most, first := 0, 0
	for i := range sent {
		for sent[i].at.Sub(sent[first].at) > time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// accept hands n updates of n Vorgänge over and gives them.
func accept(b *bench, t Tenure, first, n int) []*fakeDelivery {
	all := make([]*fakeDelivery, n)
	for i := range all {
		all[i] = comments(uint64(first+i), strconv.Itoa(first+i))
		b.Relay.Accept(all[i], t)
	}
	return all
}

// What writing the record costs, now and then, must not bunch the requests: the API counts when they come.
func TestASlowLedgerBunchesNoRequests(t *testing.T) {
	for _, rate := range []float64{1, 5, 20, 200} {
		t.Run(strconv.Itoa(int(rate)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, &fakeAPI{}, func(c *Config) { c.Rate, c.Concurrency = rate, 64 })
				var n atomic.Int64
				b.tenure.refuse = func() error {
					if n.Add(1)%10 == 0 {
						time.Sleep(300 * time.Millisecond)
					}
					return nil
				}
				accept(b, b.tenure, 1, 1000)
				time.Sleep(20 * time.Second)
				sent := b.api.requests()
				if most := inAnySecond(sent); most > int(rate) {
					t.Errorf("%d requests in one second at a rate of %v/s", most, rate)
				}
				if want := int(10 * rate); len(sent) < min(want, 900) {
					t.Errorf("%d requests in 20 s at a rate of %v/s, want at least %d", len(sent), rate, want)
				}
			})
		})
	}
}

func TestTheRateIsUsed(t *testing.T) {
	for _, rate := range []float64{0.5, 7, 100, 500} {
		t.Run(strconv.FormatFloat(rate, 'g', -1, 64), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := start(t, &fakeAPI{latency: 20 * time.Millisecond}, func(c *Config) { c.Rate, c.Concurrency = rate, 64 })
				b.tenure.refuse = func() error { time.Sleep(time.Millisecond); return nil }
				seconds := 40.0
				accept(b, b.tenure, 1, int(rate*seconds)+1)
				time.Sleep(time.Duration(seconds * float64(time.Second)))
				if n, want := len(b.api.requests()), int(rate*seconds*0.9); n < want {
					t.Errorf("%d requests in %v s at a rate of %v/s, want at least %d", n, seconds, rate, want)
				}
			})
		})
	}
}

func TestASmallerRateHoldsForThoseThatWaitToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, func(c *Config) { c.Rate, c.Concurrency = 20, 64 })
		accept(b, b.tenure, 1, 200)
		time.Sleep(time.Second)
		before := len(b.api.requests())
		b.SetRate(2)
		time.Sleep(10 * time.Second)
		if n := len(b.api.requests()) - before; n < 17 || n > 21 {
			t.Errorf("%d requests in 10 s at a rate of 2/s", n)
		}
		b.SetRate(20)
		before = len(b.api.requests())
		time.Sleep(5 * time.Second)
		if n := len(b.api.requests()) - before; n < 90 {
			t.Errorf("%d requests in 5 s at a rate of 20/s again", n)
		}
		if most := inAnySecond(b.api.requests()); most > 20 {
			t.Errorf("%d requests in one second", most)
		}
		b.SetRate(0)
		time.Sleep(time.Millisecond)
		if n := len(b.api.requests()); n != 200 {
			t.Errorf("%d requests sent when there was no rate any more, want all 200", n)
		}
	})
}

func TestAPauseHoldsWhateverTheRateBecomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, func(c *Config) { c.Rate = 20 })
		b.Pause(3 * time.Second)
		b.SetRate(10)
		b.SetRate(40)
		accept(b, b.tenure, 1, 10)
		time.Sleep(3*time.Second - time.Nanosecond)
		synctest.Wait()
		if n := len(b.api.requests()); n != 0 {
			t.Errorf("%d requests during the pause", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := len(b.api.requests()); n != 1 {
			t.Errorf("%d requests when the pause ended, want 1", n)
		}
	})
}

// One tenure ends while many of its updates wait for their turn at a low rate: it does not wait for them, none of them
// is sent, and those of the other tenure are.
func TestATenureEndsWithoutWaitingForTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, func(c *Config) { c.Rate, c.Concurrency = 1, 16 })
		ending, other := b.tenure, newTenure()
		theirs := accept(b, ending, 1, 8)
		ours := accept(b, other, 101, 8)
		time.Sleep(2 * time.Second)
		before := len(b.api.requests())
		begin := time.Now()
		b.Quiet(t.Context(), ending)
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("quiet after %v", took)
		}
		ending.lose()
		for _, d := range theirs {
			<-d.acked // Forgotten, if not sent before.
		}
		for _, d := range ours {
			<-d.acked
		}
		for _, r := range b.api.requests()[before:] {
			if n, err := strconv.Atoi(r.vorgang); err != nil || n < 100 {
				t.Errorf("Vorgang %s was sent after its tenure had ended", r.vorgang)
			}
		}
		if n := len(b.api.requests()); n >= 16 {
			t.Errorf("%d requests: nothing was given up", n)
		}
	})
}

// Quiet waits for what is being written to the ledger, not for what is being sent; Settled waits for that too.
func TestQuietWaitsForRecordsAndSettledForAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: 10 * time.Second}, nil)
		writing := make(chan struct{})
		accept(b, b.tenure, 1, 1)
		synctest.Wait() // Being sent.
		b.tenure.refuse = func() error { <-writing; return nil }
		accept(b, b.tenure, 2, 1)
		synctest.Wait() // Being written.

		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		b.Quiet(short, b.tenure)
		if time.Since(begin) != time.Second {
			t.Errorf("quiet after %v although a record is being written", time.Since(begin))
		}
		close(writing)
		b.Quiet(t.Context(), b.tenure)
		if time.Since(begin) != time.Second {
			t.Errorf("quiet after %v although only a request is being answered", time.Since(begin))
		}
		b.Settled(t.Context(), b.tenure)
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("settled after %v, want when the request was answered", took)
		}
		if n := b.journal.count(update.Delivered); n != 1 || len(b.api.requests()) != 1 {
			t.Errorf("%d delivered, %d requests, want the one that was being sent", n, len(b.api.requests()))
		}
	})
}

func TestWhoGivesUpFreesThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(1)
		wanted := func() (bool, [2]<-chan struct{}) { return true, [2]<-chan struct{}{} }
		first, err := p.prepare(t.Context(), wanted)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.prepare(ctx, wanted); !errors.Is(err, errNotPaced) {
			t.Fatalf("got %v while another prepares", err)
		}
		first.release()
		first.release() // Once is enough.
		second, err := p.prepare(t.Context(), wanted)
		if err != nil {
			t.Fatal(err)
		}
		if err := second.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		second.release()
		if p.prepared != 0 {
			t.Errorf("%d places taken", p.prepared)
		}
	})
}
