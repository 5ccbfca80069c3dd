package trace

import (
	"maps"
	"slices"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// Day is what happened on one day.
type Day struct {
	// Day is the date, YYYY-MM-DD.
	Day string `json:"day"`
	// Published counts the updates that were published on that day and have been settled since, replays not included.
	Published int `json:"published"`
	// Delivered counts what was booked, Documents and Comments the updates among it by kind.
	Delivered    int `json:"delivered"`
	Documents    int `json:"documents"`
	Comments     int `json:"comments"`
	DeadLettered int `json:"deadlettered"`
	Replayed     int `json:"replayed"`
	Discarded    int `json:"discarded"`
	Erased       int `json:"erased"`
	// PossibleDuplicates counts what may have been booked more than once, DoubleBooked what was.
	PossibleDuplicates int `json:"possibleDuplicates"`
	DoubleBooked       int `json:"doubleBooked"`
}

// Sum adds another day's numbers.
func (d *Day) Sum(o Day) {
	d.Published += o.Published
	d.Delivered += o.Delivered
	d.Documents += o.Documents
	d.Comments += o.Comments
	d.DeadLettered += o.DeadLettered
	d.Replayed += o.Replayed
	d.Discarded += o.Discarded
	d.Erased += o.Erased
	d.PossibleDuplicates += o.PossibleDuplicates
	d.DoubleBooked += o.DoubleBooked
}

// Count counts results by day. Its memory grows with the days, not with the results.
type Count struct {
	zone *time.Location
	days map[string]*Day
}

// NewCount makes a Count for the days of a time zone.
func NewCount(zone *time.Location) *Count { return &Count{zone: zone, days: map[string]*Day{}} }

// DayOf is the beginning of the day that a moment lies in.
func DayOf(at time.Time, zone *time.Location) time.Time {
	year, month, day := at.In(zone).Date()
	return time.Date(year, month, day, 0, 0, 0, 0, zone)
}

func (c *Count) day(at time.Time) *Day {
	name := at.In(c.zone).Format(time.DateOnly)
	if c.days[name] == nil {
		c.days[name] = &Day{Day: name}
	}
	return c.days[name]
}

// Add counts one result.
func (c *Count) Add(e journal.EventData) {
	day := c.day(e.SettledAt)
	settlement := false
	switch e.Outcome {
	case update.Delivered:
		day.Delivered++
		settlement = true
		switch e.Kind {
		case update.Document:
			day.Documents++
		case update.Comments:
			day.Comments++
		case update.Invalid: // Never delivered.
		}
	case update.DeadLettered:
		day.DeadLettered++
		settlement = true
	case update.Replayed:
		day.Replayed++
	case update.Discarded:
		day.Discarded++
		settlement = e.DeadLetterSeq == 0 // Of an update that waited.
	case update.Erased:
		day.Erased++
		settlement = e.DeadLetterSeq == 0 // As above.
	case update.DoubleBooked:
		day.DoubleBooked++
	}
	if e.PossibleDuplicate && e.Outcome == update.Delivered {
		day.PossibleDuplicates++
	}
	if settlement && e.ReplayOf == 0 && !e.ReceivedAt.IsZero() {
		c.day(e.ReceivedAt).Published++
	}
}

// Days gives the days from since on that have something to tell, in order.
func (c *Count) Days(since time.Time) []Day {
	first := since.In(c.zone).Format(time.DateOnly)
	var days []Day
	for _, name := range slices.Sorted(maps.Keys(c.days)) {
		if name >= first {
			days = append(days, *c.days[name])
		}
	}
	return days
}
