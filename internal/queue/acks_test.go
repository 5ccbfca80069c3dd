package queue

import (
	"slices"
	"strconv"
	"testing"
	"time"
)

func TestAcksAreRememberedUntilALaterRequestIsAnswered(t *testing.T) {
	var u unproven
	now := time.Now()
	later := func(d time.Duration) time.Time { now = now.Add(d); return now }
	u.asked(1, later(0))
	u.add("a")
	u.asked(2, later(ackAge)) // Turns: "a" is older now.
	u.answered(2)             // Made in the same moment as the ack: proves nothing.
	u.add("b")
	if got := u.all(now); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("unproven: %v", got)
	}
	u.asked(3, later(ackAge))
	u.answered(3)
	u.add("c")
	u.asked(4, later(ackAge))
	u.answered(3) // An answer that was late.
	if len(u.older) != 2 {
		t.Fatalf("proven too early: %+v", u)
	}
	u.asked(5, later(ackAge)) // The fourth is proof enough.
	u.answered(4)
	if got := u.all(now); !slices.Equal(got, []string{"c"}) {
		t.Errorf("unproven: %v", got)
	}
	for i := range 2 * maxUnproven {
		u.add(strconv.Itoa(i))
	}
	if got := len(u.all(now)); got != maxUnproven {
		t.Errorf("%d are remembered, at most %d may be", got, maxUnproven)
	}
}
