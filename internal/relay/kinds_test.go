package relay

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/hold"
	"kexrelay/internal/update"
)

func document(seq uint64, vorgang string) *fakeDelivery {
	d := comments(seq, vorgang)
	d.subject = update.SubjectPrefix + vorgang + ".dokument"
	d.body = `{"filename": "a.pdf", "base64Content": "JVBERi0x"}`
	return d
}

// pauseKind pauses or resumes a kind as the record's revision says it happened.
func (b *bench) pauseKind(kind update.Kind, revision uint64, gone bool) {
	b.gate.KindChanged(hold.Change{Record: hold.Record{Reason: fault.OperatorFor(string(kind)), Revision: revision}, Gone: gone})
}

// sentSoFar is what was sent to which Vorgang, by Vorgang: they are sent side by side.
func (b *bench) sentSoFar() string {
	var sent []string
	for _, r := range b.api.requests() {
		sent = append(sent, r.vorgang+":"+r.body[:1])
	}
	slices.Sort(sent)
	return strings.Join(sent, " ")
}

// A kind that is paused waits with what is behind it in its Vorgang; everything else is sent. The order of a Vorgang stays.
func TestAPausedKindBlocksItsOwnVorgangAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: 5 * time.Millisecond}, nil)
		b.pauseKind(update.Document, 1, false)
		all := []*fakeDelivery{
			document(1, "1"), comments(2, "1"), // Behind a document.
			comments(3, "2"), document(4, "2"), // Before one.
			comments(5, "3"),
		}
		for _, d := range all {
			b.Accept(d)
		}
		time.Sleep(time.Hour)
		if got := b.sentSoFar(); got != "2:[ 3:[" {
			t.Fatalf("sent %s, want the comments that are behind no document", got)
		}
		if s := b.Stats().Lanes; s.Held != 2 || s.Running != 0 {
			t.Errorf("%+v, want two lanes held", s)
		}
		if all[0].parked == 0 {
			t.Error("the body of what is paused stays in memory")
		}
		b.pauseKind(update.Document, 2, true)
		for _, d := range all {
			<-d.acked
		}
		var first []string
		for _, r := range b.api.requests() {
			if r.vorgang == "1" {
				first = append(first, r.body[:1])
			}
		}
		if got := strings.Join(first, ""); got != "{[" {
			t.Errorf("of Vorgang 1 sent %s, want the document first", got)
		}
	})
}

// What was prepared already is not sent any more once its kind is paused, and is not lost.
func TestAPausedKindStopsWhatWaitsForTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, func(c *Config) { c.Rate = 1 })
		var all []*fakeDelivery
		for i := range 20 {
			all = append(all, document(uint64(i+1), string(rune('a'+i))))
			b.Accept(all[i])
		}
		time.Sleep(3500 * time.Millisecond)
		before := len(b.api.requests())
		b.pauseKind(update.Document, 1, false)
		time.Sleep(time.Hour)
		if after := len(b.api.requests()); after != before || before == 0 || before == 20 {
			t.Errorf("%d requests before the pause and %d after it", before, after)
		}
		b.pauseKind(update.Document, 2, true)
		for _, d := range all {
			<-d.acked
		}
		if n := len(b.api.requests()); n != 20 {
			t.Errorf("%d requests for 20 updates", n)
		}
	})
}

// The time in which its kind is paused costs an update no retry budget.
func TestAPausedKindBurnsNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(n int, r update.Request) error {
			if r.Kind == update.Document && n <= 2 {
				return unavailable()
			}
			return nil
		}}, func(c *Config) { c.RetryBudget = time.Minute })
		doc := document(1, "1")
		b.Accept(doc)
		time.Sleep(100 * time.Millisecond)
		b.pauseKind(update.Document, 1, false)
		for i := range 60 { // Others succeed meanwhile.
			d := comments(uint64(10+i), "2")
			b.Accept(d)
			<-d.acked
			time.Sleep(time.Minute)
		}
		b.pauseKind(update.Document, 2, true)
		<-doc.acked
		if n := b.journal.count(update.DeadLettered); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

// parkedDelivery tells when its body is not needed for a while: right before its lane is held.
type parkedDelivery struct {
	*fakeDelivery
	onPark func()
}

func (d parkedDelivery) Park() { d.onPark() }

// A resume in the very moment in which a lane is held does not leave it behind.
func TestNoLaneIsForgottenBetweenPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		b.pauseKind(update.Document, 1, false)
		d := document(1, "1")
		b.Relay.Accept(parkedDelivery{d, func() { b.pauseKind(update.Document, 2, true) }}, b.tenure)
		synctest.Wait()
		select {
		case <-d.acked:
		default:
			t.Errorf("forgotten: %+v", b.Stats())
		}
	})
}
