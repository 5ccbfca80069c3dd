package main

import (
	"strings"
	"testing"

	"kexrelay/internal/journal"
)

// A relay takes no longer reason, and what it refuses would be erased nowhere.
func TestTheReasonOfAnErasureIsBounded(t *testing.T) {
	for length, refused := range map[int]bool{journal.MaxCancelReason: false, journal.MaxCancelReason + 1: true} {
		c := &deadLettersEraseCommand{vorgang: "1", because: strings.Repeat("x", length), yes: true}
		if err := c.check(); (err != nil) != refused {
			t.Errorf("%d bytes: %v", length, err)
		}
	}
}

// What is left for one reason is told together, and thousands are not named one by one.
func TestWhatIsLeftIsToldByReason(t *testing.T) {
	var left []leftUpdate
	for i := range uint64(14) {
		u := leftUpdate{Reason: "no relay answers"}
		u.UpdateSeq = i + 1
		if i == 2 {
			u.Reason = "it is being sent"
		}
		left = append(left, u)
	}
	got := strings.Join(leftWords(left), "\n")
	want := "updates 1, 2, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more: no relay answers\nupdate 3: it is being sent"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	if got := leftWords(left[:2]); len(got) != 1 || got[0] != "updates 1, 2: no relay answers" {
		t.Errorf("%v", got)
	}
}
