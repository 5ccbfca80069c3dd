package deadletter

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// maxGroups bounds the groups, and so the memory, whatever the details are like. One fingerprint per kind, reason and
// status takes what is left.
const maxGroups = 1000

// OtherErrors stands for the error texts that have no group of their own because there are too many.
const OtherErrors = "(other texts)"

// Group is the dead letters of one fingerprint.
type Group struct {
	// ID is the fingerprint's, as Filter.Group takes it; empty for a group of other texts, which has no filter.
	ID string `json:"group,omitempty"`
	Fingerprint

	Count int `json:"count"`
	// Oldest and Newest are when the first and the last of them were stored, as FirstSeq and LastSeq.
	Oldest   time.Time `json:"oldest"`
	Newest   time.Time `json:"newest"`
	FirstSeq uint64    `json:"firstSeq"`
	LastSeq  uint64    `json:"lastSeq"`
	// Replayed counts those that have had a replay before.
	Replayed int `json:"replayed"`
	// Bytes are those of the bodies.
	Bytes int64 `json:"bytes"`
}

func (g *Group) add(s Summary) {
	if g.Count == 0 {
		g.Oldest, g.FirstSeq = s.StoredAt, s.Seq
	}
	g.Count++
	g.Newest, g.LastSeq = s.StoredAt, s.Seq
	g.Bytes += s.Size
	if s.Replays > 0 {
		g.Replayed++
	}
}

// Groups counts what a filter selects by fingerprint, the largest group first. It reads headers alone.
func (s *Store) Groups(ctx context.Context, f Filter) ([]Group, error) {
	found := grouping{}
	for summary, err := range s.List(ctx, f) {
		if err != nil {
			return nil, err
		}
		found.add(summary)
	}
	return found.sorted(), nil
}

// grouping is groups by their fingerprint.
type grouping map[Fingerprint]*Group

func (all grouping) add(s Summary) {
	mark := s.Fingerprint()
	group, there := all[mark]
	if !there {
		id := mark.ID()
		if len(all) >= maxGroups {
			mark.Error, id = OtherErrors, ""
			group = all[mark]
		}
		if group == nil {
			group = &Group{ID: id, Fingerprint: mark}
			all[mark] = group
		}
	}
	group.add(s)
}

func (all grouping) sorted() []Group {
	groups := make([]Group, 0, len(all))
	for _, group := range all {
		groups = append(groups, *group)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.FirstSeq, b.FirstSeq))
	})
	return groups
}
