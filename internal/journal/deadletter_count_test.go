package journal

import (
	"testing"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
)

func TestDeadLettersAreCountedByReason(t *testing.T) {
	js := setUp(t, topology.Options{})
	j := newJournal(t, js)
	count := func() (total uint64, byReason map[fault.Reason]DeadLetterCount) {
		t.Helper()
		counts, err := CountDeadLetters(t.Context(), js)
		if err != nil || len(counts) != len(fault.DeadLetterReasons()) {
			t.Fatalf("%v and %v, want one of each reason", counts, err)
		}
		byReason = make(map[fault.Reason]DeadLetterCount)
		for _, c := range counts {
			byReason[c.Reason] = c
			total += c.Count
			if c.Oldest.IsZero() != (c.Count == 0) {
				t.Errorf("%+v", c)
			}
		}
		return total, byReason
	}
	if total, _ := count(); total != 0 {
		t.Errorf("%d before there is any", total)
	}
	before := time.Now().Add(-time.Second)
	for seq := range uint64(5) {
		s := deadLettered(anUpdate(seq + 1))
		if seq == 3 {
			s.Reason = fault.Exhausted
		}
		settle(t, j, s)
	}
	total, counts := count()
	if gone := counts[fault.Gone]; total != 5 || gone.Count != 4 || counts[fault.Exhausted].Count != 1 || gone.Oldest.Before(before) {
		t.Errorf("%d: %+v", total, counts)
	}
	if oldest := counts[fault.Exhausted].Oldest; !oldest.After(counts[fault.Gone].Oldest) {
		t.Errorf("%+v, want the order in which they came", counts)
	}
}
