package hold

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

func (s *fakeStore) pauseKind(kind string, d time.Duration) {
	s.at(func() {
		s.putLocked(Record{Reason: fault.OperatorFor(kind), Since: time.Now(), Detail: "why", WaitMillis: d.Milliseconds()})
	})
}

func (s *fakeStore) resumeKind(kind string) {
	s.at(func() { s.removeLocked(fault.OperatorFor(kind)) })
}

// A pause of one kind is everybody's within a second, also of one that comes later, and holds nothing else.
func TestAPauseOfOneKindIsTheFleets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		s.pauseKind("dokument", 0)
		news()
		c := s.join(t, "c")
		news()
		for _, r := range []*replica{a, b, c} {
			if !r.KindPaused("dokument") || r.KindPaused("kommentare") {
				t.Errorf("%s: %+v", r.name, r.Kinds())
			}
			if !r.lets(t) {
				t.Errorf("%s is held", r.name)
			}
		}
		time.Sleep(24 * time.Hour)
		if !a.KindPaused("dokument") || a.KindHeldFor("dokument") < 24*time.Hour {
			t.Errorf("not kept: %+v, %v", a.Kinds(), a.KindHeldFor("dokument"))
		}
		s.resumeKind("dokument")
		news()
		for _, r := range []*replica{a, b, c} {
			if r.KindPaused("dokument") || len(r.Kinds()) != 0 {
				t.Errorf("%s: %+v after the resume", r.name, r.Kinds())
			}
		}
		c.stop()
	})
}

// It ends at its deadline by each one's own clock, and its record goes.
func TestAPauseOfOneKindEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		var told atomic.Int64
		a.OnKinds(func() { told.Add(1) })
		s.pauseKind("dokument", time.Minute)
		news()
		time.Sleep(59 * time.Second)
		if !a.KindPaused("dokument") || !b.KindPaused("dokument") || told.Load() != 1 {
			t.Errorf("not paused before the deadline, told %d times", told.Load())
		}
		time.Sleep(time.Second + 500*time.Millisecond)
		if a.KindPaused("dokument") || b.KindPaused("dokument") || told.Load() != 2 {
			t.Errorf("paused after the deadline, told %d times", told.Load())
		}
		time.Sleep(2 * lookEvery)
		if s.record(fault.OperatorFor("dokument")).Revision != 0 {
			t.Error("the record of a pause that is over is still there")
		}
	})
}

// News that were lost are made up for by looking.
func TestAPauseOfOneKindIsFoundWithoutNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, _ := fleet(t)
		s.at(func() { s.deaf = true })
		s.pauseKind("kommentare", 0)
		time.Sleep(2 * lookEvery)
		if !a.KindPaused("kommentare") {
			t.Error("never found")
		}
		s.resumeKind("kommentare")
		time.Sleep(2 * lookEvery)
		if a.KindPaused("kommentare") {
			t.Error("its end was never found")
		}
	})
}
