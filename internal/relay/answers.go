package relay

import (
	"sync"
	"time"

	"kexrelay/internal/hold"
)

// Rows that make a hold.
const (
	// refusedRow is how many Vorgänge in a row may be refused (403) before it is not their fault any more.
	refusedRow = 5
	// outageRow is how many failures in a row, on outageKeys different Vorgänge, are an outage. With fewer Vorgänge
	// than that, a row on all there are counts after outageAge.
	outageRow  = 10
	outageKeys = 5
	outageAge  = 5 * time.Second
)

// answers remembers what the API said lately to whom, in the order it came, across all lanes: a decision about one
// update depends on how others fare.
type answers struct {
	mu sync.Mutex
	// good are the last two Vorgänge, different ones, that got an answer outside the outage class.
	good [2]goodAnswer

	failures     int
	failedKeys   map[string]struct{}
	failingSince time.Time
	unknownInRow bool
	refusedKeys  map[string]struct{}
}

type goodAnswer struct {
	key string
	at  time.Time
}

// rows is what the answers in a row say after one more of them.
type rows struct {
	// refused counts the different Vorgänge refused in a row, this one included; refusedNow reports that this very
	// answer made the row long enough for a hold.
	refused    int
	refusedNow bool
	// outage reports that the row of failures is long enough for a hold, unknown that the outcome of one of them
	// is not known.
	outage, unknown bool
}

// record takes note of one answer, booked if it was a success, and gives the rows it ends or prolongs. lanes is how many Vorgänge have work.
func (a *answers) record(key string, kind hold.SignalKind, booked, unknown bool, lanes int, now time.Time) rows {
	a.mu.Lock()
	defer a.mu.Unlock()
	refusedBefore := len(a.refusedKeys)
	switch kind {
	case hold.Failed:
		a.failedLocked(key, unknown, now)
	case hold.Refused:
		a.goodLocked(key, now)
		if a.refusedKeys == nil {
			a.refusedKeys = make(map[string]struct{})
		}
		if len(a.refusedKeys) <= refusedRow {
			a.refusedKeys[key] = struct{}{}
		}
	case hold.Works:
		a.goodLocked(key, now)
		// A refusal for another reason, a 404 say, does not show that we have the right.
		if booked {
			clear(a.refusedKeys)
		}
	case hold.Throttled, hold.Unauthorized:
		a.goodLocked(key, now)
	case hold.Nothing:
	}
	enough := len(a.failedKeys) >= outageKeys || (len(a.failedKeys) >= lanes && now.Sub(a.failingSince) >= outageAge)
	return rows{
		refused:    len(a.refusedKeys),
		refusedNow: len(a.refusedKeys) == refusedRow && refusedBefore < refusedRow,
		outage:     a.failures >= outageRow && enough,
		unknown:    a.unknownInRow,
	}
}

func (a *answers) failedLocked(key string, unknown bool, now time.Time) {
	if a.failedKeys == nil {
		a.failedKeys = make(map[string]struct{})
	}
	if a.failures == 0 {
		a.failingSince = now
	}
	a.failures++
	a.unknownInRow = a.unknownInRow || unknown
	if len(a.failedKeys) < outageKeys {
		a.failedKeys[key] = struct{}{}
	}
}

// goodLocked notes an answer outside the outage class: it ends the row of failures.
func (a *answers) goodLocked(key string, now time.Time) {
	a.failures, a.unknownInRow = 0, false
	clear(a.failedKeys)
	if a.good[0].key != key {
		a.good[1] = a.good[0]
	}
	a.good[0] = goodAnswer{key: key, at: now}
}

// othersWorkSince reports whether another Vorgang than key got an answer outside the outage class after since.
func (a *answers) othersWorkSince(key string, since time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, good := range a.good {
		if good.key != key && good.at.After(since) {
			return true
		}
	}
	return false
}

// narrow reports whether the row of failures is about so few Vorgänge that one more, key, could tell whether the API
// or only they are in trouble.
func (a *answers) narrow(key string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, failed := a.failedKeys[key]
	return !failed && a.failures > 0 && len(a.failedKeys) < outageKeys
}
