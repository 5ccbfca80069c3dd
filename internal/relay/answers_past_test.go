package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

func TestASettlementTellsWhatTheRequestsBeforeCameTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{latency: 20 * time.Millisecond, answer: func(n int, _ update.Request) error {
			switch n {
			case 1, 2:
				return unavailable()
			case 3:
				return &fault.Error{Kind: fault.Transient, Reason: fault.Outage, Unknown: true}
			}
			return status(410, fault.Permanent, fault.Gone)
		}}, nil)
		began := time.Now()
		d := comments(1, "1")
		d.header = map[string][]string{"X-TraceId": {"t"}}
		b.Accept(d)
		<-d.acked
		got := b.journal.all()[0].Answers
		if len(got) != 4 {
			t.Fatalf("%d answers: %s", len(got), got)
		}
		for i, want := range []update.PastAnswer{
			{Attempt: 1, RequestID: "t", Status: 503, Reason: fault.Outage},
			{Attempt: 2, RequestID: "t-2", Status: 503, Reason: fault.Outage},
			{Attempt: 3, RequestID: "t-3", Reason: fault.Outage, Unknown: true},
			{Attempt: 4, RequestID: "t-4", Status: 410, Reason: fault.Gone},
		} {
			want.At, want.DurationMs = b.api.requests()[i].at, 20
			if got[i] != want {
				t.Errorf("answer %d: %+v, want %+v", i+1, got[i], want)
			}
		}
		if !got[0].At.Equal(began) || got[1].At.Sub(got[0].At) < 250*time.Millisecond {
			t.Errorf("the requests began at %s and %s, the update came at %s", got[0].At, got[1].At, began)
		}
	})
}

// What is delivered at once is nearly everything: nothing is kept of it.
func TestAnUpdateThatIsSettledByItsFirstRequestKeepsNoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{answer: func(_ int, r update.Request) error {
			if r.Vorgangsnummer == "gone" {
				return status(410, fault.Permanent, fault.Gone)
			}
			return nil
		}}, nil)
		for i, vorgang := range []string{"1", "gone"} {
			d := comments(uint64(i+1), vorgang)
			b.Accept(d)
			<-d.acked
			if s := b.journal.all()[i]; s.Answers != nil {
				t.Errorf("%s: %s", vorgang, s.Answers)
			}
		}
	})
	it := &item{progress: progress{attempts: 1, requestID: "t"}}
	u := &update.Update{}
	r := &Relay{}
	a := attempted{sent: true, status: 200, at: time.Now()}
	if n := testing.AllocsPerRun(100, func() { r.settlement(it, u, a, update.Delivered, "") }); n > 1 {
		t.Errorf("%.0f allocations for a settlement, want its own alone", n)
	}
}

func TestRequestsOfAnotherProcessShowInTheNumberOfTheFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		b.inherit(1, func(uint64) update.Past { return update.Past{Attempts: 2, RequestID: "t-2"} })
		d := comments(1, "1")
		d.header = map[string][]string{"X-TraceId": {"t"}}
		b.Accept(d)
		<-d.acked
		s := b.journal.all()[0]
		if s.Attempts != 3 || len(s.Answers) != 1 || s.Answers.Earlier() != 2 || s.Answers[0].RequestID != "t-3" || s.Answers[0].Status != 200 {
			t.Errorf("%d attempts, answers %+v", s.Attempts, s.Answers)
		}
	})
}
