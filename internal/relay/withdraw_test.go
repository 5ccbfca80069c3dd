package relay

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/hold"
	"kexrelay/internal/update"
)

// withdraw takes an update back at once, or says why not. results counts what was written.
func (b *bench) withdraw(d *fakeDelivery, results *atomic.Int64) error {
	w, err := b.Withdraw(b.tenure, d.Subject(), d.Seq(), d.StoredAt())
	if err != nil {
		return err
	}
	return w.Commit(context.Background(), update.Discarded, func(context.Context) error {
		if slices.ContainsFunc(b.journal.all(), func(s *update.Settlement) bool { return s.Update.Seq == d.Seq() }) {
			return ErrSettled // As the server says of a second result.
		}
		results.Add(1)
		return nil
	})
}

// bodies are those of the requests made, in their order.
func (b *bench) bodies() []string {
	var bodies []string
	for _, r := range b.api.requests() {
		bodies = append(bodies, r.body)
	}
	return bodies
}

// An update that waits for its next attempt is taken back, and what is behind it goes on at once.
func TestWhatWaitsForARetryIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(int, update.Request) error { return unavailable() }},
			func(c *Config) { c.RetryInitial = time.Hour; c.RetryMaxInterval = time.Hour })
		first, second := comments(1, "1"), comments(2, "1")
		b.Accept(first)
		b.Accept(second)
		synctest.Wait()
		began := time.Now()
		var results atomic.Int64
		if err := b.withdraw(first, &results); err != nil {
			t.Fatal(err)
		}
		<-first.acked
		synctest.Wait()
		if got := b.bodies(); !slices.Equal(got, []string{`["comment 1"]`, `["comment 2"]`}) {
			t.Errorf("sent %v, want the second after the first was taken back", got)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the second waited %s", took)
		}
		if results.Load() != 1 || len(b.journal.all()) != 0 {
			t.Errorf("%d results, %d settlements", results.Load(), len(b.journal.all()))
		}
		if got := b.tenure.story(); got != "sending 1/1, idle 1/1, sending 1/1, settled 1/0, sending 2/1, idle 2/1" {
			t.Errorf("ledger: %s", got)
		}
	})
}

// One that is behind others, or not even fetched yet, is taken back where it is; the others are sent in their order.
func TestWhatIsNotAtTheHeadIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		b.gate.Raise(fault.Operator, 0, "paused", true)
		d := []*fakeDelivery{comments(1, "1"), comments(2, "1"), comments(3, "1"), comments(4, "1")}
		for _, fetched := range d[:3] {
			b.Accept(fetched)
		}
		var results atomic.Int64
		for _, i := range []int{1, 3} {
			if err := b.withdraw(d[i], &results); err != nil {
				t.Fatal(err)
			}
		}
		b.Accept(d[3])
		b.gate.Clear(fault.Operator)
		for _, each := range d {
			<-each.acked
		}
		if got := b.bodies(); !slices.Equal(got, []string{`["comment 1"]`, `["comment 3"]`}) {
			t.Errorf("sent %v", got)
		}
		if results.Load() != 2 {
			t.Errorf("%d results", results.Load())
		}
	})
}

// countWithdrawn notes the outcomes of what was taken back.
type countWithdrawn struct {
	noObserver

	mu  sync.Mutex
	how []update.Outcome
}

func (c *countWithdrawn) Withdrawn(_ update.Kind, outcome update.Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.how = append(c.how, outcome)
}

// An erased update is never sent, and stays in the stream, in front of its lane, until it was overwritten there: an ack would
// leave its bytes in the servers' files.
func TestAnErasedUpdateStaysUntilItIsOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counted := &countWithdrawn{}
		b := start(t, &fakeAPI{}, nil)
		b.deps.Observer = counted // Nothing was accepted yet.
		first, second, third := comments(1, "1"), comments(2, "1"), comments(3, "2")
		w, err := b.Withdraw(b.tenure, first.Subject(), first.Seq(), first.StoredAt())
		if err != nil {
			t.Fatal(err)
		}
		b.Accept(first)
		b.Accept(second)
		b.Accept(third)
		results := 0
		if err := w.Commit(t.Context(), update.Erased, func(context.Context) error { results++; return nil }); err != nil {
			t.Fatal(err)
		}
		<-third.acked
		time.Sleep(time.Minute)
		select {
		case <-first.acked:
			t.Error("it is acknowledged before it is overwritten")
		default:
		}
		if got := b.bodies(); !slices.Equal(got, []string{`["comment 3"]`}) {
			t.Errorf("sent %v", got)
		}
		if _, err := b.Withdraw(b.tenure, first.Subject(), first.Seq(), first.StoredAt()); !errors.Is(err, ErrSettled) {
			t.Errorf("taken back again: %v", err)
		}
		w.LetGo()
		<-first.acked
		<-second.acked
		w.LetGo() // A second time nothing happens.
		if got := b.bodies(); !slices.Equal(got, []string{`["comment 3"]`, `["comment 2"]`}) || results != 1 {
			t.Errorf("sent %v, %d results", got, results)
		}
		if !slices.Equal(counted.how, []update.Outcome{update.Erased}) {
			t.Errorf("counted %v", counted.how)
		}
	})
}

// What is being sent, or may have been booked, is not taken back.
func TestWhatMayBeBookedIsNotTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: time.Second, answer: func(n int, _ update.Request) error {
			if n == 1 {
				return &fault.Error{Kind: fault.Transient, Reason: fault.Outage, Unknown: true, Detail: "no answer"}
			}
			return nil
		}}, nil)
		d := comments(1, "1")
		b.Accept(d)
		time.Sleep(500 * time.Millisecond)
		var results atomic.Int64
		if err := b.withdraw(d, &results); !errors.Is(err, ErrInHand) {
			t.Errorf("while it is sent: %v", err)
		}
		time.Sleep(510 * time.Millisecond)
		if err := b.withdraw(d, &results); !errors.Is(err, ErrMayBeBooked) {
			t.Errorf("after an unknown outcome: %v", err)
		}
		<-d.acked
		if results.Load() != 0 || b.journal.count(update.Delivered) != 1 {
			t.Errorf("%d results, %+v", results.Load(), b.journal.all())
		}
	})
}

// While it is decided nothing is sent; after a release everything goes on as if nobody had asked.
func TestAReleasedUpdateIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		d := comments(1, "1")
		w, err := b.Withdraw(b.tenure, d.Subject(), d.Seq(), d.StoredAt())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Withdraw(b.tenure, d.Subject(), d.Seq(), d.StoredAt()); !errors.Is(err, ErrInHand) {
			t.Errorf("a second time: %v", err)
		}
		b.Accept(d)
		time.Sleep(time.Hour)
		if n := len(b.api.requests()); n != 0 {
			t.Fatalf("%d requests", n)
		}
		w.Release()
		<-d.acked
		if n := len(b.api.requests()); n != 1 {
			t.Errorf("%d requests", n)
		}
	})
}

// A worker that takes the update in the same moment either has it first, or does not send it.
func TestTakingBackAndSendingExcludeEachOther(t *testing.T) {
	for range 20 {
		b := start(t, &fakeAPI{}, nil)
		var results atomic.Int64
		var all sync.WaitGroup
		back := make(chan string, 100)
		for i := range 100 {
			d := comments(uint64(i+1), strconv.Itoa(i))
			all.Go(func() { b.Accept(d) })
			all.Go(func() {
				if b.withdraw(d, &results) == nil {
					back <- d.body
				}
				<-d.acked
			})
		}
		all.Wait()
		close(back)
		sent := b.bodies()
		for body := range back {
			if slices.Contains(sent, body) {
				t.Errorf("%s was taken back and sent", body)
			}
		}
		if n := len(sent) + int(results.Load()); n != 100 {
			t.Errorf("%d sent or taken back of 100", n)
		}
	}
}

// Without the right to send nobody may say that an update will not be sent.
func TestOnlyTheHolderTakesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		b.gate.Raise(fault.Operator, 0, "paused", true)
		var results atomic.Int64
		d := comments(1, "1")
		b.Accept(d)
		b.tenure.refuse = func() error { // The right goes while the record is written.
			b.tenure.refuse = nil
			b.tenure.lose()
			return nil
		}
		if err := b.withdraw(d, &results); !errors.Is(err, ErrNotHeld) || results.Load() != 0 {
			t.Errorf("%v, %d results", err, results.Load())
		}
		if err := b.withdraw(d, &results); !errors.Is(err, ErrNotHeld) {
			t.Errorf("afterwards: %v", err)
		}
		if got := b.tenure.story(); got != "sending 1/0, idle 1/0" {
			t.Errorf("ledger: %s", got)
		}
		b.gate.Clear(fault.Operator)
		<-d.acked // Forgotten.
	})
}

// A result that NATS refuses is written again, and the update is not sent meanwhile.
func TestARefusedResultIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		d := comments(1, "1")
		w, err := b.Withdraw(b.tenure, d.Subject(), d.Seq(), d.StoredAt())
		if err != nil {
			t.Fatal(err)
		}
		b.Accept(d)
		tries := 0
		if err := w.Commit(t.Context(), update.Discarded, func(context.Context) error {
			if tries++; tries < 4 {
				return &fault.Error{Kind: fault.Systemic, Reason: fault.Storage, Detail: "full"}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		<-d.acked
		if n := len(b.api.requests()); n != 0 || tries != 4 {
			t.Errorf("%d requests, %d tries", n, tries)
		}
		if b.gate.Held(fault.Storage) {
			t.Error("sending is still held")
		}
	})
}

// When writing the result is cut short it may be there all the same: nobody is told that the update is not taken back, and
// no request of it begins.
func TestACutShortResultIsUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		d := comments(1, "1")
		w, err := b.Withdraw(b.tenure, d.Subject(), d.Seq(), d.StoredAt())
		if err != nil {
			t.Fatal(err)
		}
		b.Accept(d)
		ctx, cut := context.WithCancel(t.Context())
		if err := w.Commit(ctx, update.Discarded, func(ctx context.Context) error {
			cut()
			return &fault.Error{Kind: fault.Interrupted, Err: context.Cause(ctx)}
		}); !errors.Is(err, ErrUnconfirmed) {
			t.Errorf("cut short: %v", err)
		}
		time.Sleep(time.Hour)
		if n := len(b.api.requests()); n != 0 {
			t.Errorf("%d requests", n)
		}
		if got := b.tenure.story(); got != "sending 1/0" {
			t.Errorf("ledger: %s, want the record left for whoever comes next", got)
		}
	})
}

// What a relay tells of an update that waits: what its requests came to, and when the next one is due.
func TestTheStandingOfWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: time.Second, answer: func(int, update.Request) error { return unavailable() }}, nil)
		first, second := comments(1, "1"), comments(2, "1")
		b.Accept(first)
		b.Accept(second)
		standing := func(d *fakeDelivery) Standing {
			s, found := b.Standing(d.Subject(), d.Seq(), d.StoredAt())
			if !found {
				t.Fatalf("update %d is not known", d.Seq())
			}
			return s
		}
		time.Sleep(500 * time.Millisecond)
		if s := standing(first); !s.InHand || len(s.Answers) != 0 || !s.Next.IsZero() {
			t.Errorf("while it is sent: %+v", s)
		}
		time.Sleep(501 * time.Millisecond)
		s := standing(first)
		if s.InHand || len(s.Answers) != 1 || s.Answers[0].Status != 503 || s.Next.Before(time.Now()) || s.Next.After(time.Now().Add(time.Second)) {
			t.Errorf("after an answer: %+v", s)
		}
		if s := standing(second); s.Ahead != 1 || s.InHand || !s.Next.Equal(standing(first).Next) {
			t.Errorf("behind it: %+v", s)
		}
		time.Sleep(time.Until(s.Next) + 100*time.Millisecond)
		if s := standing(first); !s.InHand || len(s.Answers) != 1 {
			t.Errorf("while it is sent again: %+v", s)
		}
		if _, found := b.Standing("kex.vorgang.1.kommentare", 3, first.StoredAt()); found {
			t.Error("an update that is not there is known")
		}
		b.gate.KindChanged(hold.Change{Record: hold.Record{Reason: fault.OperatorFor("kommentare"), Revision: 1}})
		time.Sleep(10 * time.Second)
		if s := standing(first); !s.Paused {
			t.Errorf("while its kind is paused: %+v", s)
		}
	})
}
