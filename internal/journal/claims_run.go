package journal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const runPrefix = "run."

// ReplayRun is what all who work on the same replay of many dead letters agree on: two operators at the same time, or
// one who goes on after an interruption. It is there from the run's beginning to its end.
type ReplayRun struct {
	// ID is unique per run.
	ID string `json:"id"`
	// Selection is what was asked for, as text; whoever asks for the same while the run is there works on it too.
	Selection string `json:"selection"`
	// Filter is the selection with its times as they were at the beginning, for whoever goes on later.
	Filter json.RawMessage `json:"filter,omitempty"`
	// UpTo is the last dead letter that is part of it. Letters is when KEX_DEADLETTERS was created: in another stream
	// the same sequences are other dead letters.
	UpTo    uint64    `json:"upTo"`
	Letters time.Time `json:"letters"`
	// BegunAt is the server's time, ResultsAfter the last result event there was: what it sends ends later.
	BegunAt      time.Time `json:"begunAt"`
	ResultsAfter uint64    `json:"resultsAfter"`
	// By is who began it.
	By string `json:"by,omitempty"`

	written written
}

// Canary is the dead letter that is sent before the others of its group.
type Canary struct {
	Seq      uint64    `json:"seq"`
	StoredAt time.Time `json:"storedAt"`

	written written
}

// Run gives the run of a selection that was begun and has not ended.
func (c *Claims) Run(ctx context.Context, selection string) (run ReplayRun, found bool, err error) {
	w, err := c.control.get(ctx, runKey(selection), &run)
	if errors.Is(err, errNoKey) || err == nil && run.Selection != selection {
		return ReplayRun{}, false, nil
	}
	run.written = w
	return run, err == nil, err
}

// BeginRun writes a run down, in place of old if that is given, or gives the one that somebody else has begun
// meanwhile: begun says which.
func (c *Claims) BeginRun(ctx context.Context, run ReplayRun, old *ReplayRun) (_ ReplayRun, begun bool, err error) {
	run.BegunAt, run.Letters = utc(run.BegunAt), utc(run.Letters)
	var revision uint64
	if old == nil {
		revision, err = c.control.create(ctx, runKey(run.Selection), run)
	} else {
		revision, err = c.control.update(ctx, runKey(run.Selection), run, old.written.revision)
	}
	if err == nil {
		run.written = written{revision: revision}
		return run, true, nil
	}
	if !errors.Is(err, errChanged) {
		return ReplayRun{}, false, err
	}
	theirs, found, err := c.Run(ctx, run.Selection)
	if err == nil && !found {
		err = errors.New("beginning the replay: another one of the same dead letters ended at this moment: try again")
	}
	return theirs, false, err
}

// EndRun removes a run and its canaries. One that somebody has begun in its place stays.
func (c *Claims) EndRun(ctx context.Context, run ReplayRun) error {
	if err := c.control.purgeUpTo(ctx, runKey(run.Selection), run.written.revision); err != nil {
		return err
	}
	return c.control.purge(ctx, canaryPrefix(run)+">")
}

// Canary proposes a canary for a group of a run and gives the one that all agree on: the first that was proposed.
func (c *Claims) Canary(ctx context.Context, run ReplayRun, group string, proposed Canary) (Canary, error) {
	proposed.StoredAt = utc(proposed.StoredAt)
	revision, err := c.control.create(ctx, canaryKey(run, group), proposed)
	if err == nil {
		proposed.written = written{revision: revision}
		return proposed, nil
	}
	if !errors.Is(err, errChanged) {
		return Canary{}, err
	}
	return c.canary(ctx, run, group)
}

// ReplaceCanary proposes another canary in place of one that proved nothing, and gives the one that all agree on.
func (c *Claims) ReplaceCanary(ctx context.Context, run ReplayRun, group string, old, proposed Canary) (Canary, error) {
	proposed.StoredAt = utc(proposed.StoredAt)
	revision, err := c.control.update(ctx, canaryKey(run, group), proposed, old.written.revision)
	if err == nil {
		proposed.written = written{revision: revision}
		return proposed, nil
	}
	if !errors.Is(err, errChanged) {
		return Canary{}, err
	}
	return c.canary(ctx, run, group)
}

func (c *Claims) canary(ctx context.Context, run ReplayRun, group string) (canary Canary, err error) {
	canary.written, err = c.control.get(ctx, canaryKey(run, group), &canary)
	if errors.Is(err, errNoKey) {
		err = errors.New("choosing the first dead letter to replay: the replay was ended by somebody else meanwhile: try again")
	}
	return canary, err
}

// SweepRuns removes the runs, and what is left of them, that were begun before a time: nobody went on with them.
func (c *Claims) SweepRuns(ctx context.Context, before time.Time) error {
	scan := Scan{Stream: controlStream, Filters: []string{controlSubject(runPrefix + ">")}, HeadersOnly: true}
	var old []string
	revisions := map[string]uint64{}
	for msg, err := range scan.Messages(ctx, c.control.js) {
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		if meta.Timestamp.After(before) {
			break // They come in the order of their last write.
		}
		key := msg.Subject()[len(controlSubject("")):]
		old, revisions[key] = append(old, key), meta.Sequence.Stream
	}
	for _, key := range old {
		if err := c.control.purgeUpTo(ctx, key, revisions[key]); err != nil {
			return err
		}
	}
	return nil
}

func runKey(selection string) string { return runPrefix + token(selection) }

func canaryPrefix(run ReplayRun) string { return runKey(run.Selection) + "." + run.ID + "." }

func canaryKey(run ReplayRun, group string) string { return canaryPrefix(run) + token(group) }

// token makes a key's token of any text.
func token(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:12])
}

// purgeUpTo removes a key as it was written with revision; what was written later stays.
func (c *control) purgeUpTo(ctx context.Context, key string, revision uint64) error {
	return c.purge(ctx, key, jetstream.WithPurgeSequence(revision+1))
}
