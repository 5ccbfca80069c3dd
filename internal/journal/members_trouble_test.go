package journal

import (
	"strings"
	"testing"
	"time"
)

// A process that NATS takes nothing from knows it once its leases are lost, since when, and why; and no longer than that.
func TestAProcessKnowsThatItCannotWrite(t *testing.T) {
	t.Parallel()
	a, store := memberLeases(t, leaseServer(t), "a")
	m, _ := runMembers(t, a)
	awaitFleet(t, m, "itself", alive(a))
	if trouble := m.Trouble(); trouble != nil {
		t.Fatalf("trouble without any: %+v", trouble)
	}
	await := func(what string, wanted func(*Trouble) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !wanted(m.Trouble()); pause(t.Context(), 5*time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not told: %s; but %+v", what, m.Trouble())
			}
		}
	}
	begin := time.Now()
	store.end(blocked)
	await("why nothing is written", func(trouble *Trouble) bool {
		return trouble != nil && trouble.Since.After(begin) && strings.Contains(trouble.Detail, "deadline exceeded")
	})
	if took := time.Since(begin); took < a.timing.valid {
		t.Errorf("told after %v, before its leases are lost", took)
	}
	store.end(nil)
	await("that it is over", func(trouble *Trouble) bool { return trouble == nil })
}
