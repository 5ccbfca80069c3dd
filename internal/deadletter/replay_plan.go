package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
)

const (
	// continueWithin is how long after its beginning a replay that was interrupted is gone on with. Later the same words
	// begin a new one.
	continueWithin = 24 * time.Hour
	// maxPlanned bounds a plan, and so the memory of a replay: 32 bytes each, and the Vorgangsnummern.
	maxPlanned = 1_000_000
	// maxDoubtful is how many dead letters that may have been booked a plan names one by one.
	maxDoubtful = 20
)

// ErrTooMany says that a plan would be too large.
var ErrTooMany = fmt.Errorf("more than %d dead letters: select fewer", maxPlanned)

// Selection says which dead letters to replay.
type Selection struct {
	// Seqs are sequences in KEX_DEADLETTERS.
	Seqs []uint64
	// All takes all that Filter selects and that are there when Plan is called, instead of Seqs.
	All    bool
	Filter Filter
	// Name is what was asked for, in the words of who asked: a replay of the same name that was interrupted is gone on
	// with. Empty means all members above, which is wrong for a filter with times that depend on now.
	Name string
}

// name identifies the selection.
func (s Selection) name() (string, error) {
	if s.Name != "" {
		return s.Name, nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("naming the selection: %w", err)
	}
	return string(text), nil
}

// PlanOptions are the limits of a plan.
type PlanOptions struct {
	// MaxReplays leaves out what was replayed so often already; 0 does not.
	MaxReplays int
	// AllowDuplicates takes what may have been booked: it is booked a second time then.
	AllowDuplicates bool
	// Fresh begins anew where an interrupted replay would be gone on with.
	Fresh bool
}

// LeftOut says why a dead letter that was selected is not replayed.
type LeftOut string

// The reasons to leave one out.
const (
	// MayBeBooked means that the API may have booked the update: nobody knows.
	MayBeBooked LeftOut = "may_be_booked"
	// TooOften means that it was replayed MaxReplays times already.
	TooOften LeftOut = "too_often"
	// NoWay means that it has no subject it could go to.
	NoWay LeftOut = "no_way"
)

// PlannedGroup is the dead letters of a plan with one cause.
type PlannedGroup struct {
	// ID is the fingerprint's, empty for one of other texts.
	ID string `json:"group,omitempty"`
	Fingerprint

	// Send is how many are to be sent.
	Send int `json:"send"`
	// MayBeBooked are those that nobody knows of whether they are booked; with AllowDuplicates they are part of Send.
	MayBeBooked int `json:"mayBeBooked,omitempty"`
	// TooOften and NoWay are left out.
	TooOften int `json:"tooOften,omitempty"`
	NoWay    int `json:"noWay,omitempty"`
	// Oldest and Newest are when the first and the last of all these were stored.
	Oldest time.Time `json:"oldest"`
	Newest time.Time `json:"newest"`
}

// Plan is what a replay will do. It is a snapshot: what becomes a dead letter later is not part of it.
type Plan struct {
	// Groups are in the order of their first dead letter.
	Groups []PlannedGroup `json:"groups"`
	// Send is how many are to be sent, of so many Vorgänge.
	Send      int `json:"send"`
	Vorgaenge int `json:"vorgaenge"`
	// LeftOut counts those that are selected and stay, by why.
	LeftOut map[LeftOut]int `json:"leftOut,omitempty"`
	// MayBeBooked counts those that nobody knows of whether they are booked, sent or left out.
	MayBeBooked int `json:"mayBeBooked,omitempty"`
	// Doubtful are the first of those, at most maxDoubtful.
	Doubtful []uint64 `json:"doubtful,omitempty"`
	// Missing are the chosen ones that are not there.
	Missing []uint64 `json:"missing,omitempty"`
	// UpTo is the last sequence that is part of it.
	UpTo uint64 `json:"upTo"`
	// Continues is set if somebody has begun the same replay and it has not ended.
	Continues *journal.ReplayRun `json:"continues,omitempty"`

	opts      PlanOptions
	run       journal.ReplayRun // As it will be begun; or the old one to replace, with Fresh.
	replaces  *journal.ReplayRun
	letters   []planned
	left      []leftOut
	vorgaenge []string
}

type leftOut struct {
	planned
	why LeftOut
	err error // Of NoWay.
}

// Plan makes a plan: what a selection means now, and what of it may be sent. It reads headers alone and changes
// nothing.
func (s *Store) Plan(ctx context.Context, sel Selection, opts PlanOptions) (*Plan, error) {
	p, err := s.plan(ctx, sel, opts)
	if err != nil || p.Continues == nil || len(p.letters) > 0 {
		return p, err
	}
	opts.Fresh = true // Nothing is left of the one that was interrupted.
	return s.plan(ctx, sel, opts)
}

func (s *Store) plan(ctx context.Context, sel Selection, opts PlanOptions) (*Plan, error) {
	name, err := sel.name()
	if err != nil {
		return nil, err
	}
	letters, err := s.info(ctx, topology.StreamDeadLetters)
	if err != nil {
		return nil, err
	}
	p := &Plan{LeftOut: make(map[LeftOut]int), Groups: []PlannedGroup{}, UpTo: letters.State.LastSeq, opts: opts}
	if err := s.continues(ctx, p, name, &sel, letters.Created); err != nil {
		return nil, err
	}
	building := planning{plan: p, groups: map[Fingerprint]uint32{}, vorgaenge: map[string]uint32{}}
	if sel.All {
		sel.Filter.UpTo = minSet(sel.Filter.UpTo, p.UpTo)
		for summary, err := range s.List(ctx, sel.Filter) {
			if err == nil {
				err = building.add(summary)
			}
			if err != nil {
				return nil, err
			}
		}
		return p, nil
	}
	for _, seq := range slices.Compact(slices.Sorted(slices.Values(sel.Seqs))) {
		msg, err := s.read(ctx, seq)
		if errors.Is(err, ErrNotFound) {
			p.Missing = append(p.Missing, seq)
			continue
		}
		if err == nil {
			err = building.add(summarize(msg.Subject, msg.Header, msg.Sequence, msg.Time, int64(len(msg.Data))))
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

// continues finds out whether the plan is that of a replay which has not ended, and prepares the run.
func (s *Store) continues(ctx context.Context, p *Plan, name string, sel *Selection, created time.Time) error {
	now, err := s.info(ctx, topology.StreamResults)
	if err != nil {
		return err
	}
	filter, err := json.Marshal(sel.Filter)
	if err != nil {
		return fmt.Errorf("encoding the selection: %w", err)
	}
	p.run = journal.ReplayRun{
		ID: newRunID(), Selection: name, Filter: filter, UpTo: p.UpTo, Letters: created,
		BegunAt: now.TimeStamp, ResultsAfter: now.State.LastSeq,
	}
	old, found, err := s.claims.Run(ctx, name)
	if err != nil || !found {
		return err
	}
	if p.opts.Fresh || !old.Letters.Equal(created) || now.TimeStamp.Sub(old.BegunAt) > continueWithin {
		p.replaces = &old
		return nil
	}
	p.Continues = &old
	p.UpTo = old.UpTo
	if err := json.Unmarshal(old.Filter, &sel.Filter); err != nil {
		return fmt.Errorf("reading what the interrupted replay selects: %w", err)
	}
	return nil
}

// planning is a plan while it grows.
type planning struct {
	plan      *Plan
	groups    map[Fingerprint]uint32
	vorgaenge map[string]uint32
	sending   []bool // By Vorgang.
}

func (b *planning) add(s Summary) error {
	if len(b.plan.letters)+len(b.plan.left) >= maxPlanned {
		return ErrTooMany
	}
	letter := planned{seq: s.Seq, storedAt: s.StoredAt.UnixNano(), vorgang: b.vorgang(s.Vorgangsnummer), group: b.group(s)}
	group := &b.plan.Groups[letter.group]
	group.Newest = s.StoredAt
	if s.MayBeBooked {
		group.MayBeBooked++
		b.plan.MayBeBooked++
		if len(b.plan.Doubtful) < maxDoubtful {
			b.plan.Doubtful = append(b.plan.Doubtful, s.Seq)
		}
	}
	if why, err := b.plan.opts.leaveOut(s); why != "" {
		b.plan.left = append(b.plan.left, leftOut{letter, why, err})
		b.plan.LeftOut[why]++
		switch why {
		case TooOften:
			group.TooOften++
		case NoWay:
			group.NoWay++
		case MayBeBooked: // Counted above.
		}
		return nil
	}
	if !b.sending[letter.vorgang] {
		b.sending[letter.vorgang] = true
		b.plan.Vorgaenge++
	}
	b.plan.letters = append(b.plan.letters, letter)
	b.plan.Send++
	group.Send++
	return nil
}

func (b *planning) vorgang(number string) uint32 {
	v, there := b.vorgaenge[number]
	if !there {
		v = uint32(len(b.vorgaenge)) //nolint:gosec // G115: at most maxPlanned.
		b.vorgaenge[number] = v
		b.plan.vorgaenge = append(b.plan.vorgaenge, number)
		b.sending = append(b.sending, false)
	}
	return v
}

// group is the index of the letter's cause. There are no more than a list of groups has.
func (b *planning) group(s Summary) uint32 {
	mark := s.Fingerprint()
	id := mark.ID()
	if _, there := b.groups[mark]; !there && len(b.groups) >= maxGroups {
		mark.Error, id = OtherErrors, ""
	}
	g, there := b.groups[mark]
	if !there {
		g = uint32(len(b.groups)) //nolint:gosec // G115: at most maxGroups.
		b.groups[mark] = g
		b.plan.Groups = append(b.plan.Groups, PlannedGroup{ID: id, Fingerprint: mark, Oldest: s.StoredAt})
	}
	return g
}

// leaveOut says why a dead letter is not sent, nothing if it is.
func (o PlanOptions) leaveOut(s Summary) (LeftOut, error) {
	if _, _, err := destination(s); err != nil {
		return NoWay, err
	}
	switch {
	case s.MayBeBooked && !o.AllowDuplicates:
		return MayBeBooked, nil
	case o.MaxReplays > 0 && s.Replays >= o.MaxReplays:
		return TooOften, nil
	}
	return "", nil
}

// key names the group for all who work on the same replay.
func (g PlannedGroup) key() string {
	return fmt.Sprintf("%s %s %d %s", g.Kind, g.Reason, g.Status, g.Error)
}

// at is a planned letter's time.
func (p planned) at() time.Time { return time.Unix(0, p.storedAt).UTC() }

// item is a planned letter before anything became of it.
func (p *Plan) item(letter planned) Item {
	return Item{
		Seq: letter.seq, Vorgangsnummer: p.vorgaenge[letter.vorgang], Kind: p.Groups[letter.group].Kind,
		Group: p.Groups[letter.group].ID,
	}
}

// minSet is the smaller one of two bounds of which 0 is none.
func minSet(a, b uint64) uint64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
