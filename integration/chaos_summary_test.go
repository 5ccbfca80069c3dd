package integration

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"kexrelay/internal/simulator"
	"kexrelay/internal/update"
)

// byBooking gives the booked requests in the order of booking.
func byBooking(requests []simulator.Request) []simulator.Request {
	var booked []simulator.Request
	for _, r := range requests {
		if r.Booked {
			booked = append(booked, r)
		}
	}
	slices.SortStableFunc(booked, func(a, b simulator.Request) int { return a.BookedAt.Compare(b.BookedAt) })
	return booked
}

// moment is something that changes whether the relay could send, or a request.
type moment struct {
	at time.Time
	// waiting, down and unfit change how many updates wait, how many troubles NATS has, how many a replica has.
	waiting, down int
	unfit         int
	replica       int
	request       bool
}

// moments are all of a run, in their order.
func (e *evidence) moments() []moment {
	var all []moment
	for _, events := range e.settled {
		for _, event := range events {
			all = append(all, moment{at: event.Data.ReceivedAt, waiting: 1}, moment{at: event.Data.SettledAt, waiting: -1})
		}
	}
	for _, r := range e.requests {
		all = append(all, moment{at: r.ReceivedAt, request: true})
	}
	for _, t := range e.troubles {
		from, to := moment{at: t.from, replica: t.replica}, moment{at: t.to, replica: t.replica}
		switch {
		case t.kind == natsDown && e.single:
			from.down, to.down = 1, -1
		case t.replica != everyone:
			from.unfit, to.unfit = 1, -1
		}
		all = append(all, from, to)
	}
	slices.SortStableFunc(all, func(a, b moment) int { return a.at.Compare(b.at) })
	return all
}

// worstStall is the longest time without any request while an update waited and the API, NATS (of a cluster, a majority)
// and a replica with all its links were up; and when it began.
func (e *evidence) worstStall() (worst time.Duration, began time.Time) {
	waiting, down := 0, 0
	unfit := make(map[int]int)
	var since time.Time
	for _, m := range e.moments() {
		if !since.IsZero() && m.at.Sub(since) > worst {
			worst, began = m.at.Sub(since), since
		}
		waiting += m.waiting
		down += m.down
		unfit[m.replica] += m.unfit
		could := waiting > 0 && down == 0 && (unfit[0] == 0 || unfit[1] == 0)
		switch {
		case !could:
			since = time.Time{}
		case m.request || since.IsZero():
			since = m.at
		}
	}
	return worst, began
}

// summary are the figures of a run.
func (c *chaos) summary(e *evidence) string {
	var b strings.Builder
	line := func(name string, value any) { fmt.Fprintf(&b, "  %-46s %v\n", name, value) }
	names := make([]string, 0, len(c.counts))
	for name := range c.counts {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare)
	for _, name := range names {
		line(name, c.counts[name])
	}
	acked, again, outcomes, flags, told, flaggedTwice, toldTwice, booked := 0, 0, make(map[update.Outcome]int), 0, 0, 0, 0, 0
	for _, trace := range e.traces() {
		acked += len(e.updates[trace].acked)
		if e.storedAgain(trace) {
			again++
		}
		for _, event := range e.settled[trace] {
			outcomes[event.Data.Outcome]++
			if isFlagged(&event) {
				flags++
			}
		}
		told += len(e.notices[trace])
		n := len(e.bookings(trace))
		booked += n
		switch {
		case n > 1 && e.flagged(trace):
			flaggedTwice++
		case n > 1 && e.told(trace):
			toldTwice++
		}
	}
	_, late := e.orderBreaks()
	worst, began := e.worstStall()
	line("updates acknowledged", acked)
	line("stored again after a lost PubAck", again)
	line("requests", len(e.requests))
	line("booked", booked)
	line("delivered", outcomes[update.Delivered])
	line("dead letters", outcomes[update.DeadLettered])
	line("lost", len(checkLost(e)))
	line("duplicates: flagged", flaggedTwice)
	line("duplicates: told", toldTwice)
	line("duplicates: silent", len(checkDuplicates(e)))
	line("flags", flags)
	line("flags without a cause", len(checkFlags(e)))
	line("flags missing", len(checkFlagMissing(e)))
	line("double_booked events", told)
	line("order breaks", len(checkOrder(e)))
	line("booked late by the network, flagged", late)
	line("worst stall", fmt.Sprintf("%v from %s on", worst.Round(10*time.Millisecond), began.UTC().Format("15:04:05.000")))
	return b.String()
}
