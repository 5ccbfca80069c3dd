package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/update"
)

// published is one update that lies in the stream, and with --wait how it ended.
type published struct {
	Name           string      `json:"-"`
	File           string      `json:"file,omitempty"`
	Vorgangsnummer string      `json:"vorgangsnummer"`
	Kind           update.Kind `json:"kind"`
	UpdateID       string      `json:"updateId"`
	Seq            uint64      `json:"seq"`
	// TraceID is absent on a duplicate that was not waited for: the stored update has that of the first time.
	TraceID string `json:"traceId,omitempty"`
	// Duplicate says that the update was in the stream already and was not stored again.
	Duplicate bool `json:"duplicate"`

	// Outcome and what follows is there with --wait alone; outcome is waiting at the time limit.
	Outcome           update.Outcome `json:"outcome,omitempty"`
	Status            int            `json:"status,omitempty"`
	Reason            fault.Reason   `json:"reason,omitempty"`
	Detail            string         `json:"detail,omitempty"`
	Attempts          int            `json:"attempts,omitempty"`
	PossibleDuplicate bool           `json:"possibleDuplicate,omitempty"`
	DeadLetterSeq     uint64         `json:"deadLetterSeq,omitempty"`
	DurationMs        *int64         `json:"durationMs,omitempty"`
}

// unpublished is a line of the JSON output about what could not be published.
type unpublished struct {
	File           string      `json:"file,omitempty"`
	Vorgangsnummer string      `json:"vorgangsnummer"`
	Kind           update.Kind `json:"kind"`
	Error          string      `json:"error"`
}

// stillWaiting is the outcome of an update that has none yet.
const stillWaiting update.Outcome = "waiting"

func (p *published) settle(e journal.EventData) {
	p.Outcome, p.Status, p.Reason, p.Detail = e.Outcome, e.Status, e.Reason, e.Detail
	p.Attempts, p.PossibleDuplicate, p.DeadLetterSeq, p.DurationMs = e.Attempts, e.PossibleDuplicate, e.DeadLetterSeq, e.DurationMs
	if e.TraceID != "" {
		p.TraceID = e.TraceID
	}
}

// state is the last column for people.
func (p *published) state() cell {
	switch p.Outcome {
	case update.Delivered:
		words := "delivered"
		if p.Status != 0 {
			words += " (" + strconv.Itoa(p.Status) + ")"
		}
		if p.PossibleDuplicate {
			return cell{words + ", possibly twice", warn}
		}
		return cell{words + p.again(), good}
	case update.DeadLettered:
		words := fmt.Sprintf("dead letter %d: %s", p.DeadLetterSeq, p.Reason)
		if p.Duplicate {
			words = "not stored again, " + words
		}
		if p.Detail != "" {
			words += ": " + p.Detail
		}
		return cell{words, bad}
	case stillWaiting:
		return cell{"still waiting" + p.again(), warn}
	case update.Discarded, update.Erased: // By an operator, before it was sent.
		words := string(p.Outcome)
		if p.Detail != "" {
			words += ": " + p.Detail
		}
		return cell{words + p.again(), warn}
	case update.Replayed, update.DoubleBooked: // Never waited for.
	}
	if p.Duplicate {
		return cell{"not stored again", warn}
	}
	return cell{"stored", good}
}

func (p *published) again() string {
	if p.Duplicate {
		return ", not stored again"
	}
	return ""
}

// nameShare is how much of a terminal's width names of files may take, in percent, and traceShare how much a trace ID
// may: made by kexrelay it fits into 80 columns.
const (
	nameShare       = 40
	nameShareNarrow = 25
	traceShare      = 30
	wideReport      = 110
)

// idWidth is as long as the longest ID that publish makes: comments- and a UUID.
const idWidth = 45

// publishReport prints a line per update.
type publishReport struct {
	p     *printer
	table *table
}

func newPublishReport(p *printer, items []item) *publishReport {
	widest := 0
	for _, one := range items {
		widest = max(widest, len([]rune(one.name)))
	}
	share := nameShare
	if p.width < wideReport {
		share = nameShareNarrow
	}
	if most := p.width * share / 100; most > 0 {
		widest = min(widest, most)
	}
	t := p.table(column{title: "UPDATE", min: widest, share: share}, column{title: "SEQ", min: 6, right: true},
		column{title: "UPDATE ID", min: idWidth, from: 140}, column{title: "TRACE ID", min: 23, share: traceShare}, column{title: "STATE"})
	return &publishReport{p: p, table: t}
}

func (r *publishReport) add(line *published) error {
	if r.p.json {
		return r.p.object(line)
	}
	if err := r.table.stream(); err != nil {
		return err
	}
	trace := line.TraceID
	if trace == "" {
		trace = "-"
	}
	return r.table.add(text(line.Name), text(strconv.FormatUint(line.Seq, 10)), text(line.UpdateID), text(trace), line.state())
}

// failure reports what could not be published to programs; people are told on stderr.
func (r *publishReport) failure(line unpublished) error {
	if !r.p.json {
		return nil
	}
	return r.p.object(line)
}

// follow waits for the results of what was published and reports each update with its result. The code says how they
// ended.
func (r *publishing) follow(ctx context.Context, from journal.Position, sent []*published) (code int, err error) {
	open := map[uint64][]*published{}
	awaited := make([]journal.Awaited, len(sent))
	for i, line := range sent {
		awaited[i] = journal.Awaited{Seq: line.Seq, Duplicate: line.Duplicate}
		open[line.Seq] = append(open[line.Seq], line)
	}
	limited, cancel := context.WithTimeout(ctx, r.command.wait)
	defer cancel()
	bar := newWaiting(r.env, len(open))
	defer bar.done()
	for event, waitErr := range r.results.WaitFor(limited, from, awaited) {
		if waitErr != nil {
			err = waitErr
			break
		}
		bar.clearForOutput()
		for _, line := range open[event.Data.UpdateSeq] {
			dead, err := r.settled(line, event.Data)
			if err != nil {
				return code, err
			}
			if dead {
				code = exitDeadLetter
			}
		}
		delete(open, event.Data.UpdateSeq)
		bar.one()
	}
	bar.done()
	return r.leave(ctx, open, sent, code, err)
}

// settled reports an update with its result.
func (r *publishing) settled(line *published, e journal.EventData) (dead bool, err error) {
	if line.Duplicate && (e.Vorgangsnummer != line.Vorgangsnummer || e.Kind != line.Kind) {
		return false, r.taken(line, e)
	}
	line.settle(e)
	return line.Outcome != update.Delivered, r.report.add(line)
}

// taken says that what was not stored again is another update: its ID was given away.
func (r *publishing) taken(line *published, e journal.EventData) error {
	return r.fail(item{name: line.Name, file: line.File}, fmt.Errorf("the ID %s is that of update %d, for Vorgang %s (%s); an ID is for one update alone",
		line.UpdateID, line.Seq, e.Vorgangsnummer, e.Kind))
}

// leave reports what has no result yet.
func (r *publishing) leave(ctx context.Context, open map[uint64][]*published, sent []*published, code int, err error) (int, error) {
	if len(open) == 0 {
		return code, nil
	}
	for _, line := range sent {
		if _, waiting := open[line.Seq]; !waiting {
			continue
		}
		line.Outcome = stillWaiting
		if err := r.report.add(line); err != nil {
			return code, err
		}
	}
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return code, err
	}
	fmt.Fprintf(r.env.stderr, "kexrelay: no result within %s for %s; kexrelay status says why, kexrelay results watch shows them\n",
		r.command.wait, count(len(open), "update", "updates"))
	if code == 0 {
		code = exitWaiting
	}
	return code, nil
}
