package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"kexrelay/internal/update"
)

// A message of the ledger is text, so that `nats kv get KEX_LEDGER …` shows people what was being sent:
//
//	kexrelay-ledger/1 9f86d081884c7d65 4711
//	s 12345 1732284306123456789 1 0 0 30000 sys12345678
//	i 12399 1732284306223456789 4 1 0 30000 sys12345679-4
//
// First the version, the process and the number of the commit; then one line per update: state, sequence, stored
// time in ns, attempts, unknowns, crashes, timeout in ms, request ID. An upper-case state was carried over from a
// former holder. The order of commits counts, not that of messages: one that was published again lies later.
const (
	ledgerMagic   = "kexrelay-ledger/"
	ledgerVersion = "1"

	maxRequestID = 255
	// recordFrame bounds a line without its request ID.
	recordFrame = len("s ") + 2*len("18446744073709551615 ") + 3*len("2147483647 ") + len("9223372036854775807 ") + len("\n")
	// maxCommitRecords and maxCommitSize bound a message of the ledger.
	maxCommitRecords = 256
	maxCommitSize    = 32 << 10
)

var (
	errNoLedger      = errors.New("not a message of the ledger")
	errLedgerVersion = errors.New("written by a newer version of kexrelay: run that one, or a newer one")
)

// key names an update for ever, as Identity does.
type key struct {
	seq uint64
	at  int64 // Nanoseconds since 1970.
}

func keyOf(seq uint64, storedAt time.Time) key { return key{seq: seq, at: storedAt.UnixNano()} }

// state is what was being done to an update.
type state byte

const (
	stateOpening state = 'o'
	stateSending state = 's'
	stateIdle    state = 'i'
	// stateReopening is an update that is opened although a POST of it was left without an answer that nobody has
	// counted as unknown yet.
	stateReopening state = 'r'

	carriedBit = 'a' - 'A'
)

// record is what the ledger says about one update.
type record struct {
	key
	state state
	// carried says that a former holder left it so, and that its crash is counted already.
	carried   bool
	attempts  int
	unknowns  int
	crashes   int
	timeoutMs int64
	requestID string
}

func recordOf(a update.Attempt, s state) record {
	return record{
		key: keyOf(a.Seq, a.StoredAt), state: s,
		attempts: bounded(a.Attempts), unknowns: bounded(a.Unknowns), crashes: bounded(a.Crashes),
		timeoutMs: max(0, int64((a.Timeout+time.Millisecond-1)/time.Millisecond)), requestID: oneLine(a.RequestID),
	}
}

// left reports that a POST was begun of which no answer is recorded.
func (r *record) left() bool { return r.state == stateSending || r.state == stateReopening }

// opened reports that the update was being decoded.
func (r *record) opened() bool { return r.state == stateOpening || r.state == stateReopening }

func bounded(n int) int { return max(0, min(n, math.MaxInt32)) }

// oneLine keeps a request ID from ending its line; those that kexrelay makes need no change.
func oneLine(s string) string {
	s = cut(s, maxRequestID)
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

func (r *record) timeout() time.Duration { return time.Duration(r.timeoutMs) * time.Millisecond }

// size bounds what the record takes in a message.
func (r *record) size() int { return recordFrame + len(r.requestID) }

func (r *record) append(b []byte) []byte {
	letter := byte(r.state)
	if r.carried {
		letter -= carriedBit
	}
	b = append(b, letter, ' ')
	b = strconv.AppendUint(b, r.seq, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, r.at, 10)
	for _, n := range [...]int64{int64(r.attempts), int64(r.unknowns), int64(r.crashes), r.timeoutMs} {
		b = append(b, ' ')
		b = strconv.AppendInt(b, n, 10)
	}
	b = append(b, ' ')
	b = append(b, r.requestID...)
	return append(b, '\n')
}

// ledgerBatch is one message of the ledger. A process writes one when it takes over that holds no records.
type ledgerBatch struct {
	process string
	number  uint64
	records []record
}

func (b *ledgerBatch) appendHeader(to []byte) []byte {
	to = append(to, ledgerMagic+ledgerVersion+" "...)
	to = append(to, b.process...)
	to = append(to, ' ')
	to = strconv.AppendUint(to, b.number, 10)
	return append(to, '\n')
}

func (b *ledgerBatch) encode() []byte {
	size := len(ledgerMagic) + 64
	for i := range b.records {
		size += b.records[i].size()
	}
	out := b.appendHeader(make([]byte, 0, size))
	for i := range b.records {
		out = b.records[i].append(out)
	}
	return out
}

// decodeBatch reads what encode wrote. errNoLedger says that it is something else or damaged, errLedgerVersion that
// a newer kexrelay wrote it.
func decodeBatch(data []byte) (ledgerBatch, error) {
	head, rest, ok := bytes.Cut(data, []byte{'\n'})
	line, isOurs := strings.CutPrefix(string(head), ledgerMagic)
	fields := strings.Split(line, " ")
	if !ok || !isOurs || len(fields) < 1 {
		return ledgerBatch{}, errNoLedger
	}
	if fields[0] != ledgerVersion {
		if newer, err := strconv.ParseUint(fields[0], 10, 16); err == nil && newer > 1 {
			return ledgerBatch{}, errLedgerVersion
		}
		return ledgerBatch{}, errNoLedger
	}
	if len(fields) != 3 || fields[1] == "" {
		return ledgerBatch{}, errNoLedger
	}
	number, err := decimal(fields[2], math.MaxInt64)
	if err != nil {
		return ledgerBatch{}, errNoLedger
	}
	batch := ledgerBatch{process: fields[1], number: uint64(number)} //nolint:gosec // G115: decimal gives no negative number.
	for n := 1; len(rest) > 0; n++ {
		head, rest, ok = bytes.Cut(rest, []byte{'\n'})
		r, err := decodeRecord(string(head))
		if !ok || err != nil {
			return ledgerBatch{}, fmt.Errorf("%w: line %d is damaged", errNoLedger, n+1)
		}
		batch.records = append(batch.records, r)
	}
	return batch, nil
}

func decodeRecord(line string) (record, error) {
	fields := strings.SplitN(line, " ", 8)
	if len(fields) != 8 || len(fields[0]) != 1 || len(fields[7]) > maxRequestID || oneLine(fields[7]) != fields[7] {
		return record{}, errNoLedger
	}
	letter := fields[0][0]
	r := record{carried: letter < 'a', requestID: strings.Clone(fields[7])}
	if r.carried {
		letter += carriedBit
	}
	r.state = state(letter)
	if !r.left() && !r.opened() && r.state != stateIdle {
		return record{}, errNoLedger
	}
	var err error
	if r.seq, err = strconv.ParseUint(fields[1], 10, 64); err != nil || strconv.FormatUint(r.seq, 10) != fields[1] {
		return record{}, errNoLedger
	}
	if r.at, err = strconv.ParseInt(fields[2], 10, 64); err != nil || strconv.FormatInt(r.at, 10) != fields[2] {
		return record{}, errNoLedger
	}
	var numbers [4]int64
	for i := range numbers {
		limit := int64(math.MaxInt32)
		if i == 3 {
			limit = int64(math.MaxInt64 / time.Millisecond)
		}
		if numbers[i], err = decimal(fields[3+i], limit); err != nil {
			return record{}, err
		}
	}
	r.attempts, r.unknowns, r.crashes, r.timeoutMs = int(numbers[0]), int(numbers[1]), int(numbers[2]), numbers[3]
	return r, nil
}

// decimal reads a number from 0 to limit as we write it.
func decimal(s string, limit int64) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > limit || strconv.FormatInt(n, 10) != s {
		return 0, errNoLedger
	}
	return n, nil
}
