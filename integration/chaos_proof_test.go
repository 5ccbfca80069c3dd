package integration

import (
	"slices"
	"testing"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/simulator"
	"kexrelay/internal/update"
)

// goodEvidence is a run of three updates in which nothing is wrong: a and b of one Vorgang were delivered, b after an
// attempt whose answer was cut off; c is a dead letter that was refused.
func goodEvidence() *evidence {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	e := &evidence{
		updates: map[string]*sentUpdate{}, letters: map[uint64]uint64{1: 3}, handlers: map[string]handler{}, repeated: map[string]int{}, single: true,
		troubles: []trouble{{kind: natsDown, replica: everyone, from: at(-60), to: at(-50)}},
	}
	for seq, trace := range []string{"a", "b", "c"} {
		vorgang := []string{"1", "1", "2"}[seq]
		e.updates[trace] = &sentUpdate{vorgang: vorgang, kind: "kommentare", traceID: trace, digest: trace, tries: 1, acked: []uint64{uint64(seq) + 1}}
		event := journal.Event{Data: journal.EventData{
			TraceID: trace, RequestID: trace, Vorgangsnummer: vorgang, UpdateSeq: uint64(seq) + 1, Outcome: update.Delivered, Attempts: 1,
			ReceivedAt: at(seq * 4), SettledAt: at(seq*4 + 4),
		}}
		switch trace {
		case "b":
			event.Data.PossibleDuplicate, event.Data.Attempts, event.Data.RequestID = true, 2, "b-2"
		case "c":
			event.Data.Outcome, event.Data.Reason, event.Data.DeadLetterSeq = update.DeadLettered, fault.BadRequest, 1
		}
		e.results = append(e.results, event)
	}
	request := func(trace, update, vorgang string, second, status int, booked bool) {
		r := simulator.Request{
			Seq: len(e.requests) + 1, Kind: "kommentare", Vorgangsnummer: vorgang, TraceID: trace, Digest: update,
			ReceivedAt: at(second), AnsweredAt: at(second + 1), Status: status, Booked: booked,
		}
		if booked {
			r.BookedAt = at(second)
		}
		e.requests = append(e.requests, r)
		e.handlers[trace] = handler{replica: 0, generation: 1}
	}
	request("a", "a", "1", 1, 200, true)
	request("b", "b", "1", 5, 0, true)
	request("b-2", "b", "1", 7, 200, true)
	request("c", "c", "2", 9, 400, false)
	return e
}

// Each check finds the one thing that it is for, and no other check has to: nothing that a check says about a run is
// true because the check is blind.
func TestEachCheckFindsWhatItIsFor(t *testing.T) {
	t.Parallel()
	again := func(e *evidence, i int) { e.results = append(e.results, e.results[i]) }
	for name, c := range map[string]struct {
		check string // "" if nothing may be found
		spoil func(*evidence)
	}{
		"nothing is wrong":               {"", func(*evidence) {}},
		"an update has no result":        {"checkLost", func(e *evidence) { e.results = e.results[1:] }},
		"a duplicate was stored":         {"checkLost", func(e *evidence) { e.updates["c"].repeats, e.updates["c"].duplicate = "a", true }},
		"an update ended twice":          {"checkResults", func(e *evidence) { again(e, 0) }},
		"a result of nobody's update":    {"checkResults", func(e *evidence) { again(e, 0); e.results[3].Data.TraceID = "x" }},
		"a result of another sequence":   {"checkResults", func(e *evidence) { e.results[0].Data.UpdateSeq = 9 }},
		"a dead letter is missing":       {"checkDeadLetters", func(e *evidence) { clear(e.letters) }},
		"a dead letter without a result": {"checkDeadLetters", func(e *evidence) { e.letters[2] = 1 }},
		"a dead letter was booked":       {"checkBooked", func(e *evidence) { e.requests[3].Booked = true }},
		"delivered but not booked":       {"checkBooked", func(e *evidence) { e.requests[0].Booked = false }},
		"booked as something else":       {"checkBooked", func(e *evidence) { e.requests[0].Digest = "x" }},
		"an invalid one was sent":        {"checkBooked", func(e *evidence) { e.updates["c"].invalid = true }},
		"booked twice without a word":    {"checkDuplicates", func(e *evidence) { e.results[1].Data.PossibleDuplicate = false }},
		"booked in another order":        {"checkOrder", func(e *evidence) { e.requests[0].BookedAt = e.requests[2].BookedAt.Add(time.Second) }},
		"two of a Vorgang at a time": {"checkOverlap", func(e *evidence) {
			e.requests[1].Overlapping, e.requests[0].AnsweredAt = true, e.requests[2].AnsweredAt
		}},
		"a trace ID was used twice":                               {"checkTraceIDs", func(e *evidence) { e.repeated["a"] = 2 }},
		"a flag for an answered request":                          {"checkFlags", func(e *evidence) { e.requests[1].Status = 500 }},
		"a flag for one that was sent once":                       {"checkFlags", func(e *evidence) { e.results[0].Data.PossibleDuplicate = true }},
		"a notice of a second booking too":                        {"checkFlags", func(e *evidence) { again(e, 0); e.results[3].Data.Outcome = update.DoubleBooked }},
		"a parked one that was answered":                          {"checkFlags", func(e *evidence) { e.results[2].Data.Reason = fault.UnknownOutcome }},
		"an open attempt is not told":                             {"checkFlagMissing", func(e *evidence) { e.results[1].Data.PossibleDuplicate, e.requests[1].Booked = false, false }},
		"more duplicates than troubles":                           {"checkFlagCount", func(e *evidence) { e.troubles, e.requests[1].Status = nil, 500 }},
		"something is left":                                       {"checkPending", func(e *evidence) { e.pending = []string{"one"} }},
		"nothing was sent for a minute":                           {"checkStall", func(e *evidence) { e.results[0].Data.SettledAt = e.results[0].Data.SettledAt.Add(time.Minute) }},
		"a flag, and the process died":                            {"", func(e *evidence) { e.requests[1].Status = 500; e.troubled1(died, 0) }},
		"a flag, and another one died":                            {"checkFlags", func(e *evidence) { e.requests[1].Status = 500; e.troubled1(died, 1) }},
		"a flag, and its way to the API broke":                    {"", func(e *evidence) { e.requests[1].Status = 500; e.troubled1(apiLink, 0) }},
		"a flag, and NATS was away, but the same process went on": {"checkFlags", func(e *evidence) { e.requests[1].Status = 500; e.troubled1(natsDown, everyone) }},
		"a flag, and NATS was away until another process went on": {"", func(e *evidence) {
			e.requests[1].Status = 500
			e.troubled1(natsDown, everyone)
			e.handlers["b-2"] = handler{replica: 1, generation: 1}
		}},
		"a minute without requests while NATS was away": {"", func(e *evidence) {
			last := e.results[0].Data.SettledAt
			e.results[0].Data.SettledAt = last.Add(time.Minute)
			e.troubles = append(e.troubles, trouble{kind: natsDown, replica: everyone, from: last.Add(20 * time.Second), to: last.Add(40 * time.Second)})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := goodEvidence()
			c.spoil(e)
			e.index()
			var found []string
			for _, check := range chaosChecks {
				if got := check.run(e); len(got) > 0 {
					t.Logf("%s: %s", check.name, got[0])
					found = append(found, check.name)
				}
			}
			if c.check == "" && len(found) > 0 || c.check != "" && !slices.Contains(found, c.check) {
				t.Errorf("found by %q, want by %q", found, c.check)
			}
		})
	}
}

// troubled1 adds a trouble during update b's first attempt.
func (e *evidence) troubled1(kind troubleKind, replica int) {
	r := e.requests[1]
	e.troubles = append(e.troubles, trouble{kind: kind, replica: replica, from: r.ReceivedAt, to: r.AnsweredAt})
}
