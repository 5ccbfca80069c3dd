package trace

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// State is how an update stands.
type State string

// The states.
const (
	Delivered  State = "delivered"
	DeadLetter State = "deadletter"
	Waiting    State = "waiting"
	Sending    State = "sending"
	Discarded  State = "discarded"
	Erased     State = "erased"
	// Replayed: its replay was published, and neither that nor a result of it is found.
	Replayed State = "replayed"
)

// Story is everything that is known of one update, its replays included.
type Story struct {
	Query          string      `json:"query"`
	UpdateID       string      `json:"updateId"`
	TraceID        string      `json:"traceId,omitempty"`
	Vorgangsnummer string      `json:"vorgangsnummer"`
	Kind           update.Kind `json:"kind"`
	State          State       `json:"state"`
	// PossibleDuplicate and DoubleBooked say that it may be, or is, booked more than once.
	PossibleDuplicate bool `json:"possibleDuplicate,omitempty"`
	DoubleBooked      bool `json:"doubleBooked,omitempty"`
	// DeadLetterSeq is the dead letter that is open work now, 0 for none.
	DeadLetterSeq uint64 `json:"deadLetterSeq,omitempty"`
	Steps         []Step `json:"steps"`
	// Wait is what it waits for, for one that is not settled.
	Wait *Wait `json:"wait,omitempty"`
}

// What is what happened in a step.
type What string

// The steps, beside the outcomes of results.
const (
	Published What = "published"
	Attempted What = "attempted"
	Claimed   What = "claimed"
)

// Step is one thing that happened.
type Step struct {
	// At is zero where nobody wrote down when.
	At        time.Time `json:"at,omitzero"`
	What      What      `json:"what"`
	UpdateSeq uint64    `json:"updateSeq,omitempty"`
	// DeadLetterSeq is the dead letter that the step made or was about.
	DeadLetterSeq uint64 `json:"deadLetterSeq,omitempty"`
	// Attempts counts the requests that the step tells of, RequestIDs are their X-TraceId: the first ones and the last.
	Attempts   int      `json:"attempts,omitempty"`
	RequestIDs []string `json:"requestIds,omitempty"`
	// Attempt is which request it was, where the step tells of a single one: then At is when it began. DurationMs is
	// how long it took, WaitMs how long it was from its answer to the next request. Unknown says that it may be booked.
	Attempt    int    `json:"attempt,omitempty"`
	DurationMs *int64 `json:"durationMs,omitempty"`
	WaitMs     *int64 `json:"waitMs,omitempty"`
	Unknown    bool   `json:"unknown,omitempty"`
	Status     int    `json:"status,omitempty"`
	Reason     string `json:"reason,omitempty"`
	// Text says it to people; it holds text of others.
	Text string `json:"text"`

	order time.Time
}

// Wait is what an update waits for.
type Wait struct {
	UpdateSeq uint64 `json:"updateSeq"`
	Partition int    `json:"partition"`
	// Ahead counts the older updates of the same Vorgang, which go first; AheadMore says that there are more. Oldest is
	// the first of them.
	Ahead     int    `json:"ahead"`
	AheadMore bool   `json:"aheadMore,omitempty"`
	Oldest    uint64 `json:"oldest,omitempty"`
	// OldestDoing is the ledger's record of that one, which goes next.
	OldestDoing *journal.InFlight `json:"oldestDoing,omitempty"`
	// Doing is the ledger's record, nil if no request was ever prepared.
	Doing *journal.InFlight `json:"doing,omitempty"`
	Holds []journal.Hold    `json:"holds,omitempty"`
	// Replica has the right to send it, since HeardAt nothing was heard of it; empty if nobody has.
	Replica string    `json:"replica,omitempty"`
	HeardAt time.Time `json:"heardAt,omitzero"`
	// Standing is what that replica answers, nil if it does not know the update or does not answer.
	Standing *journal.Standing `json:"standing,omitempty"`
}

// tell puts what was found together, update by update.
func (t *Tracer) tell(ctx context.Context, query string, f *findings) ([]Story, error) {
	stories := map[string]*Story{}
	of := func(id string) *Story {
		if stories[id] == nil {
			stories[id] = &Story{Query: query, UpdateID: id}
		}
		return stories[id]
	}
	told := map[uint64]bool{}
	for _, e := range f.events {
		s := of(e.Data.UpdateID)
		s.about(e.Data.TraceID, e.Data.Vorgangsnummer, e.Data.Kind)
		letter, there := f.letters[e.Data.DeadLetterSeq]
		if there && e.Data.Outcome == update.DeadLettered {
			told[letter.Seq] = true
		}
		s.event(e.Data, letter)
	}
	for _, letter := range f.letters {
		s := of(letter.UpdateID)
		s.about(letter.TraceID, letter.Vorgangsnummer, letter.Kind)
		if !told[letter.Seq] {
			s.letter(letter)
		}
		if err := t.claim(ctx, s, letter); err != nil {
			return nil, err
		}
	}
	for _, w := range f.waiting {
		s := of(w.UpdateID)
		s.about(w.TraceID, w.Vorgangsnummer, w.Kind)
		if err := t.wait(ctx, s, w, f); err != nil {
			return nil, err
		}
	}
	out := make([]Story, 0, len(stories))
	for _, s := range stories {
		s.conclude(f.letters)
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Story) int {
		return cmp.Or(a.Steps[0].order.Compare(b.Steps[0].order), strings.Compare(a.UpdateID, b.UpdateID))
	})
	return out, nil
}

func (s *Story) about(traceID, vorgangsnummer string, kind update.Kind) {
	s.TraceID = cmp.Or(s.TraceID, traceID)
	s.Vorgangsnummer = cmp.Or(s.Vorgangsnummer, vorgangsnummer)
	s.Kind = cmp.Or(s.Kind, kind)
}

// add adds a step. What was written down by several clocks, or without a time, still comes after what led to it.
func (s *Story) add(step Step) {
	step.order = step.At
	for _, there := range s.Steps {
		if there.UpdateSeq == step.UpdateSeq && there.What != What(update.Replayed) && there.order.After(step.order) {
			step.order = there.order
		}
	}
	s.Steps = append(s.Steps, step)
}

// event tells one result: a settlement with the publish and the requests before it, or a notice.
func (s *Story) event(d journal.EventData, letter deadletter.Summary) {
	settled := Step{
		At: d.SettledAt, What: What(d.Outcome), UpdateSeq: d.UpdateSeq, DeadLetterSeq: d.DeadLetterSeq,
		Status: d.Status, Reason: string(d.Reason),
	}
	s.PossibleDuplicate = s.PossibleDuplicate || d.PossibleDuplicate
	switch d.Outcome {
	case update.Delivered:
		s.published(d.ReceivedAt, d.UpdateSeq, d.ReplayOf)
		s.requests(requestedOf(d, time.Time{}))
		settled.Text = withStatus("delivered", d.Status)
		if d.PossibleDuplicate {
			settled.Text += "; an earlier request had no answer and may be booked too: look into the Vorgang"
		}
	case update.DeadLettered:
		s.published(d.ReceivedAt, d.UpdateSeq, d.ReplayOf)
		s.requests(requestedOf(d, letter.FirstAttemptAt))
		settled.Text = deadLetterText(d.DeadLetterSeq, string(d.Reason), d.Status, d.Detail)
	case update.Replayed:
		settled.Text = fmt.Sprintf("dead letter %d was sent back as update %d", d.DeadLetterSeq, d.UpdateSeq)
	case update.DoubleBooked:
		s.DoubleBooked = true
		settled.Text = "BOOKED TWICE: " + d.Detail
	case update.Discarded, update.Erased:
		settled.Text = fmt.Sprintf("dead letter %d was %s", d.DeadLetterSeq, d.Outcome)
		if d.DeadLetterSeq == 0 { // It is about an update that waited.
			s.published(d.ReceivedAt, d.UpdateSeq, d.ReplayOf)
			s.requests(requestedOf(d, time.Time{}))
			settled.Text = string(d.Outcome)
		}
		if d.Detail != "" {
			settled.Text += ": " + d.Detail
		}
	}
	s.add(settled)
}

// requestedOf is what a settlement tells of the requests.
func requestedOf(d journal.EventData, firstAt time.Time) requested {
	return requested{
		seq: d.UpdateSeq, attempts: d.Attempts, last: d.RequestID, at: firstAt, unanswered: d.PossibleDuplicate, settled: true, answers: d.Answers,
	}
}

func requestedOfLetter(l deadletter.Summary) requested {
	return requested{
		seq: l.UpdateSeq, attempts: l.Attempts, last: l.RequestID, at: l.FirstAttemptAt, unanswered: l.MayBeBooked, settled: true, answers: l.Answers,
	}
}

// letter tells a dead letter of which no result is there any more.
func (s *Story) letter(l deadletter.Summary) {
	s.published(l.UpdateAt, l.UpdateSeq, 0)
	s.requests(requestedOfLetter(l))
	at := l.DeadLetteredAt
	if at.IsZero() {
		at = l.StoredAt
	}
	s.add(Step{
		At: at, What: What(update.DeadLettered), UpdateSeq: l.UpdateSeq, DeadLetterSeq: l.Seq, Status: l.Status, Reason: string(l.Reason),
		Text: deadLetterText(l.Seq, string(l.Reason), l.Status, l.Detail) + " (its result is not kept any more)",
	})
}

func deadLetterText(seq uint64, reason string, status int, detail string) string {
	text := withStatus(fmt.Sprintf("dead letter %d: %s", seq, reason), status)
	if detail != "" {
		text += ": " + detail
	}
	return text
}

func withStatus(text string, status int) string {
	if status == 0 {
		return text
	}
	return fmt.Sprintf("%s (%d)", text, status)
}

func (s *Story) published(at time.Time, seq, replayOf uint64) {
	if slices.ContainsFunc(s.Steps, func(there Step) bool { return there.What == Published && there.UpdateSeq == seq && there.At.Equal(at) }) {
		return
	}
	text := fmt.Sprintf("published, stored as update %d", seq)
	if replayOf != 0 {
		text = fmt.Sprintf("published again as the replay of dead letter %d, stored as update %d", replayOf, seq)
	}
	s.add(Step{At: at, What: Published, UpdateSeq: seq, Text: text})
}

// claim tells of a replay that somebody began and did not finish.
func (t *Tracer) claim(ctx context.Context, s *Story, letter deadletter.Summary) error {
	claim, found, err := t.Claims.Get(ctx, letter.Seq, letter.StoredAt)
	if err != nil || !found {
		return err
	}
	s.add(Step{
		At: claim.ClaimedAt, What: Claimed, DeadLetterSeq: letter.Seq,
		Text: fmt.Sprintf("a replay of dead letter %d was begun and not finished: kexrelay deadletters replay %d goes on with it", letter.Seq, letter.Seq),
	})
	return nil
}

// wait tells what an update waits for.
func (t *Tracer) wait(ctx context.Context, s *Story, w journal.Waiting, f *findings) error {
	s.published(w.StoredAt, w.Seq, w.ReplayOf)
	wait := &Wait{UpdateSeq: w.Seq, Partition: w.Partition}
	var err error
	if wait.Ahead, wait.Oldest, err = t.Updates.Ahead(ctx, w, maxAhead); err != nil {
		return err
	}
	wait.AheadMore = wait.Ahead == maxAhead
	if err := t.askHolder(ctx, wait, w); err != nil {
		return err
	}
	if doing, ok := f.ledger[w.Seq]; ok && doing.StoredAt.Equal(w.StoredAt) {
		wait.Doing = &doing
	}
	s.requests(requestedSoFar(*wait))
	if doing, ok := f.ledger[wait.Oldest]; ok && wait.Oldest != 0 {
		wait.OldestDoing = &doing
	}
	if wait.Holds, err = t.Holds.ListFor(ctx, w.Kind); err != nil {
		return err
	}
	s.Wait = wait
	return nil
}

// askHolder finds who has the right to send an update, and asks how it stands there.
func (t *Tracer) askHolder(ctx context.Context, wait *Wait, w journal.Waiting) error {
	holders, err := t.Holders(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(holders, func(h journal.Holder) bool { return h.Partition == w.Partition && !h.Released })
	if at < 0 {
		return nil
	}
	wait.Replica, wait.HeardAt = holders[at].Replica, holders[at].WrittenAt
	standing, err := t.Standing(ctx, holders[at].Process, w)
	if standing.Known {
		wait.Standing = &standing
	}
	return err
}

// requestedSoFar is what ledger and relay tell together. The ledger knows of a request before it is made, the relay has its
// answer a moment before the ledger.
func requestedSoFar(w Wait) requested {
	r := requested{seq: w.UpdateSeq}
	if w.Doing != nil {
		r.attempts, r.last, r.at, r.unanswered = w.Doing.Attempts, w.Doing.RequestID, w.Doing.WrittenAt, w.Doing.Unknowns > 0
		r.open = w.Doing.Doing == journal.DoingSending
	}
	if w.Standing == nil || len(w.Standing.Answers) == 0 {
		return r
	}
	r.answers = w.Standing.Answers
	if last := r.answers[len(r.answers)-1]; last.Attempt >= r.attempts {
		r.attempts, r.last, r.open = last.Attempt, last.RequestID, false
	}
	return r
}

// conclude sorts the steps and says how the update stands.
func (s *Story) conclude(letters map[uint64]deadletter.Summary) {
	slices.SortStableFunc(s.Steps, func(a, b Step) int { return a.order.Compare(b.order) })
	if s.Wait != nil {
		s.State = Waiting
		if s.Wait.Doing != nil && s.Wait.Doing.Doing == journal.DoingSending {
			s.State = Sending
		}
		return
	}
	for _, step := range s.Steps {
		switch update.Outcome(step.What) {
		case update.Delivered:
			s.State, s.DeadLetterSeq = Delivered, 0
		case update.DeadLettered:
			s.State, s.DeadLetterSeq = DeadLetter, 0
			if _, there := letters[step.DeadLetterSeq]; there {
				s.DeadLetterSeq = step.DeadLetterSeq
			}
		case update.Replayed:
			// Told after the publish, and so now and then after the new message's end.
			if !s.ended(step.UpdateSeq) {
				s.State, s.DeadLetterSeq = Replayed, 0
			}
		case update.Discarded:
			s.State, s.DeadLetterSeq = Discarded, 0
		case update.Erased:
			s.State, s.DeadLetterSeq = Erased, 0
		case update.DoubleBooked: // How it ended stays; that it is booked twice is said beside it.
		}
	}
}

// ended reports whether the steps tell how a message ended.
func (s *Story) ended(updateSeq uint64) bool {
	return slices.ContainsFunc(s.Steps, func(step Step) bool {
		if step.UpdateSeq != updateSeq {
			return false
		}
		switch update.Outcome(step.What) {
		case update.Delivered, update.DeadLettered, update.Discarded, update.Erased:
			return true
		case update.Replayed, update.DoubleBooked:
		}
		return false
	})
}
