package queue

import (
	"math"
	"strings"
)

const ackPrefix = "$JS.ACK."

// ackMeta is what the server tells about a delivery in its ack handle.
type ackMeta struct {
	streamSeq   uint64
	consumerSeq uint64
	storedAt    int64 // Unix time in nanoseconds.
	pending     uint64
}

// The ack handle's tokens behind the prefix: <stream>.<consumer>.<deliveries>.<stream sequence>.<consumer
// sequence>.<stored at>.<pending>, in the newer form preceded by <domain>.<account> and followed by a random token.
const (
	oldTokens    = 7
	newTokensMin = 9
	numbersAfter = 2
)

// parseAck reads an ack handle without allocating.
func parseAck(reply string) (ackMeta, bool) {
	rest, ok := strings.CutPrefix(reply, ackPrefix)
	if !ok {
		return ackMeta{}, false
	}
	skip := numbersAfter
	switch tokens := strings.Count(rest, ".") + 1; {
	case tokens >= newTokensMin:
		skip += newTokensMin - oldTokens
	case tokens < oldTokens:
		return ackMeta{}, false
	}
	for range skip {
		_, rest, _ = strings.Cut(rest, ".")
	}
	var numbers [oldTokens - numbersAfter]uint64
	for i := range numbers {
		var token string
		token, rest, _ = strings.Cut(rest, ".")
		if numbers[i], ok = parseNumber(token); !ok {
			return ackMeta{}, false
		}
	}
	return ackMeta{
		streamSeq:   numbers[1],
		consumerSeq: numbers[2],
		storedAt:    int64(numbers[3]), //nolint:gosec // G115: parseNumber bounds it.
		pending:     numbers[4],
	}, true
}

// parseNumber reads a decimal number that fits an int64.
func parseNumber(token string) (uint64, bool) {
	const maxDigits = 19 // Cannot overflow an uint64.
	if token == "" || len(token) > maxDigits {
		return 0, false
	}
	var n uint64
	for _, c := range []byte(token) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	return n, n <= math.MaxInt64
}
