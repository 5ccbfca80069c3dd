package hold

import (
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

func (s *fakeStore) pause(d time.Duration) {
	s.at(func() {
		s.putLocked(Record{
			Reason: fault.Operator, Since: time.Now(), WaitMillis: d.Milliseconds(),
			// Whatever clock wrote these, nobody goes by them.
			Until: time.Now().Add(-time.Hour), NextProbe: time.Now().Add(-time.Hour), UpdatedAt: time.Now().Add(24 * time.Hour),
			Raises: s.records[fault.Operator].Raises + 1,
		})
	})
}

func TestAPauseEndsAtItsDeadlineWhateverTheClocksSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		b.idle.Store(true)
		s.pause(30 * time.Minute)
		news()
		time.Sleep(30*time.Minute - time.Second)
		// One that comes late counts what is left, by the age of the record.
		c := s.join(t, "c")
		time.Sleep(100 * time.Millisecond)
		for _, r := range []*replica{a, b, c} {
			if r.lets(t) {
				t.Errorf("%s sends before the deadline", r.name)
			}
		}
		time.Sleep(time.Second)
		for _, r := range []*replica{a, b, c} {
			if !r.lets(t) {
				t.Errorf("%s is held after the deadline", r.name)
			}
		}
		if s.record(fault.Operator).Revision != 0 {
			t.Error("the record of a pause that is over is still there")
		}
		c.stop()
	})
}

func TestAPauseWithoutDeadlineEndsOnlyByResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		s.pause(0)
		news()
		time.Sleep(24 * time.Hour)
		if a.lets(t) || b.lets(t) {
			t.Fatal("sends during a pause")
		}
		s.at(func() { s.removeLocked(fault.Operator) })
		news()
		if !a.lets(t) || !b.lets(t) {
			t.Error("held after the resume")
		}
	})
}

func TestAPauseThatIsProlongedOrShortenedCountsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, _ := fleet(t)
		s.pause(time.Minute)
		time.Sleep(59 * time.Second)
		s.pause(time.Minute)
		time.Sleep(59 * time.Second)
		if a.lets(t) {
			t.Error("sends although the pause was prolonged")
		}
		s.pause(time.Hour)
		s.pause(time.Second)
		time.Sleep(2 * time.Second)
		if !a.lets(t) {
			t.Error("held although the pause was shortened")
		}
	})
}

// A pause that ended while no replica ran holds nobody, and its record goes.
func TestAPauseThatIsOverIsNotInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.pause(time.Minute)
		time.Sleep(2 * time.Minute)
		a := s.join(t, "a")
		if err := a.fleet.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !a.lets(t) {
			t.Error("held by a pause that is over")
		}
		time.Sleep(lookEvery)
		if s.record(fault.Operator).Revision != 0 {
			t.Error("its record is still there")
		}
		a.stop()
	})
}

// Storage is each process's own, and shown for all.
func TestStorageHoldsOnlyWhoFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		a.Raise(fault.Storage, 0, "full", true)
		news()
		if r := s.record(fault.Storage); r.Replica != "a" || r.Detail != "full" {
			t.Errorf("not shown: %+v", r)
		}
		if b.Held(fault.Storage) || !b.lets(t) {
			t.Error("the other one is held too")
		}
		a.Clear(fault.Storage)
		news()
		if s.record(fault.Storage).Revision != 0 || !a.lets(t) {
			t.Error("still shown, or held, after the end")
		}
		a.Raise(fault.Storage, 0, "full", true)
		news()
		a.stop()
		time.Sleep(2 * storageStale)
		if s.record(fault.Storage).Revision != 0 {
			t.Error("what a dead process left is still shown")
		}
	})
}

// Standbys end a pause for themselves; the record is left to those who send.
func TestStandbysLeaveTheRecordOfAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, a, b := fleet(t)
		a.idle.Store(true)
		b.idle.Store(true)
		s.pause(time.Minute)
		time.Sleep(2 * time.Minute)
		if s.writes != 0 || s.record(fault.Operator).Revision == 0 {
			t.Errorf("%d writes of standbys", s.writes)
		}
		if !a.lets(t) {
			t.Error("held after the deadline")
		}
		a.idle.Store(false)
		time.Sleep(lookEvery)
		if s.record(fault.Operator).Revision != 0 || b.Held(fault.Operator) {
			t.Error("the record is still there")
		}
	})
}
