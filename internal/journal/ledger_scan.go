package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// The ledger's bucket as the stream it is.
const ledgerStream = "KV_" + topology.BucketLedger

const (
	// lagPause is how long a reader waits for a replica that has not got yet what its leader has, and lagPatience how
	// long in all.
	lagPause    = 50 * time.Millisecond
	lagPatience = 10 * time.Second
)

// errLagging says that a stream's replica did not catch up with its leader.
var errLagging = errors.New("the replica that answers lags behind: look at the cluster")

// ledgerWriter is one holder's part of the ledger: <partition>.<epoch>.<id>.<slot>.
type ledgerWriter struct {
	partition int
	epoch     uint64
	id        string
}

func (w ledgerWriter) prefix() string {
	return strconv.Itoa(w.partition) + "." + strconv.FormatUint(w.epoch, 10) + "." + w.id + "."
}

func (w ledgerWriter) key(slot int) string { return w.prefix() + strconv.Itoa(slot) }

// subjects is the filter for everything the writer wrote.
func (w ledgerWriter) subjects() string { return ledgerPrefix + w.prefix() + ">" }

const ledgerPrefix = "$KV." + topology.BucketLedger + "."

// ledgerSubject is a filter for a partition.
func ledgerSubject(partition int, rest string) string {
	return ledgerPrefix + strconv.Itoa(partition) + "." + rest
}

func parseLedgerSubject(subject string) (ledgerWriter, bool) {
	rest, ok := strings.CutPrefix(subject, ledgerPrefix)
	tokens := strings.Split(rest, ".")
	if !ok || len(tokens) != 4 {
		return ledgerWriter{}, false
	}
	partition, err := strconv.Atoi(tokens[0])
	if err != nil {
		return ledgerWriter{}, false
	}
	epoch, err := strconv.ParseUint(tokens[1], 10, 64)
	if err != nil {
		return ledgerWriter{}, false
	}
	return ledgerWriter{partition: partition, epoch: epoch, id: tokens[2]}, true
}

// found is the last record of an update that former holders left.
type found struct {
	record
	writer ledgerWriter
	number uint64
	own    bool // Written by this very process.
}

// after reports whether f was written after g. Within an epoch the commits' numbers grow, also from one writer to the
// next; a holder that writes on after it lost its lease is in an older epoch.
func (f found) after(g found) bool {
	if f.writer.epoch != g.writer.epoch {
		return f.writer.epoch > g.writer.epoch
	}
	return f.number >= g.number // Equal numbers are one message, in which the later record counts.
}

// leftovers is what former holders of a partition left in the ledger.
type leftovers struct {
	records map[key]found
	writers map[ledgerWriter]struct{}
}

func newLeftovers() leftovers {
	return leftovers{records: map[key]found{}, writers: map[ledgerWriter]struct{}{}}
}

// readLedger reads what every writer but one's own left in the ledger, up to and including one's own fence. It may
// read from a replica that lags: the fence comes last there too, so once it is seen everything is.
func readLedger(ctx context.Context, js jetstream.JetStream, own ledgerWriter, process string, fence uint64, logger *slog.Logger) (leftovers, error) {
	left := newLeftovers()
	from := uint64(0)
	for until := time.Now().Add(lagPatience); ; {
		scan := Scan{Stream: ledgerStream, Filters: []string{ledgerSubject(own.partition, ">")}, FromSeq: from, ToSeq: fence, Patience: electionTimeout}
		for msg, err := range scan.Messages(ctx, js) {
			if err != nil {
				return leftovers{}, err
			}
			meta, err := msg.Metadata()
			if err != nil {
				return leftovers{}, err
			}
			if err := left.add(msg, own, process, logger); err != nil {
				return leftovers{}, err
			}
			from = meta.Sequence.Stream + 1
		}
		if from > fence {
			return left, nil
		}
		if time.Now().After(until) {
			return leftovers{}, fmt.Errorf("reading the ledger up to %d: %w", fence, errLagging)
		}
		pause(ctx, lagPause)
	}
}

// add takes the records of a message. What is no message of the ledger is passed over and told.
func (l *leftovers) add(msg jetstream.Msg, own ledgerWriter, process string, logger *slog.Logger) error {
	writer, ok := parseLedgerSubject(msg.Subject())
	if ok && writer == own {
		return nil
	}
	batch, err := decodeBatch(msg.Data())
	if errors.Is(err, errLedgerVersion) {
		return fmt.Errorf("reading %s: %w", msg.Subject(), err)
	}
	if !ok || err != nil {
		if len(msg.Data()) > 0 { // Else an operator removed a key, which leaves an empty message.
			logger.Warn("message in the ledger is not one of ours; it is passed over",
				slog.String("subject", printable(msg.Subject(), maxDetail)), slog.Any("error", err))
		}
		return nil
	}
	l.take(writer, batch, batch.process == process)
	return nil
}

// take keeps the later one of two records of the same update.
func (l *leftovers) take(writer ledgerWriter, batch ledgerBatch, own bool) {
	l.writers[writer] = struct{}{}
	for _, r := range batch.records {
		f := found{record: r, writer: writer, number: batch.number, own: own}
		if there, ok := l.records[r.key]; !ok || f.after(there) {
			l.records[r.key] = f
		}
	}
}

// purgeWriters removes what former writers wrote up to and including a sequence; what they may still write stays,
// because whoever follows them wants to see it.
func purgeWriters(ctx context.Context, js jetstream.JetStream, writers map[ledgerWriter]struct{}, to uint64) error {
	if len(writers) == 0 {
		return nil
	}
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, ledgerStream)
	if err != nil {
		return Explain("opening the ledger", js, err)
	}
	for w := range writers {
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(w.subjects()), jetstream.WithPurgeSequence(to+1)); err != nil {
			return Explain("removing the records of former holders from the ledger", js, err)
		}
	}
	return nil
}
