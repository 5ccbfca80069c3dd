package update

import (
	"strconv"
	"strings"
)

// Bounds of the headers that become part of an update's identity.
const (
	MaxIDLength      = 255 // Bytes of a Nats-Msg-Id.
	MaxTraceIDLength = 128 // Bytes of an X-TraceId.
	// maxSuffix is the longest that Update.RequestTraceID adds: -r<k>-<n>.
	maxSuffix = 2 + 19 + 1 + 19
)

// ValidID reports whether s can be an update's ID, as JetStream takes it in a Nats-Msg-Id: 1 to MaxIDLength printable
// ASCII characters, the first and the last of which are no spaces, for readers of headers drop those.
func ValidID(s string) bool {
	return printable(s, MaxIDLength) && s[0] != ' ' && s[len(s)-1] != ' '
}

// ValidTraceID reports whether s can be an update's trace ID: 1 to MaxTraceIDLength printable ASCII characters without
// any space, for it is sent on in an HTTP header and begins the trace IDs of all requests.
func ValidTraceID(s string) bool { return len(s) <= MaxTraceIDLength && ValidRequestTraceID(s) }

// ValidRequestTraceID reports whether s can be a request's trace ID: what Update.RequestTraceID makes of a valid one.
func ValidRequestTraceID(s string) bool {
	return printable(s, MaxTraceIDLength+maxSuffix) && !strings.Contains(s, " ")
}

// headers are the ones an update's identity is made of. All others belong to the publisher; Kex-* ones are ours
// alone and ignored on an update, whoever wrote them.
type headers struct {
	msgID       header
	traceID     header
	traceparent header
	tracestate  header
}

// header is one header's values and the name it was found under; a zero one was not there.
type header struct {
	name   string
	values []string
}

// readHeaders finds the known headers in any case. If one is there in several spellings, the documented one
// counts, else the first in byte order: a redelivery must be read the same way as the delivery before it.
func readHeaders(all map[string][]string) headers {
	var h headers
	for name, values := range all {
		switch {
		case foldsTo(name, HeaderMsgID):
			h.msgID.prefer(name, values, HeaderMsgID)
		case foldsTo(name, HeaderTraceID):
			h.traceID.prefer(name, values, HeaderTraceID)
		case foldsTo(name, HeaderTraceparent):
			h.traceparent.prefer(name, values, HeaderTraceparent)
		case foldsTo(name, HeaderTracestate):
			h.tracestate.prefer(name, values, HeaderTracestate)
		}
	}
	return h
}

func (h *header) prefer(name string, values []string, documented string) {
	switch {
	case len(values) == 0, h.name == documented:
	case h.name == "", name == documented, name < h.name:
		*h = header{name: name, values: values}
	}
}

// first is the header's first value without the white space around it, as HTTP reads one.
func (h *header) first() string {
	if len(h.values) == 0 {
		return ""
	}
	return strings.Trim(h.values[0], " \t")
}

// foldsTo compares a name with a known one regardless of ASCII case. strings.EqualFold would also take the
// Kelvin sign for a k.
func foldsTo(name, known string) bool {
	if len(name) != len(known) {
		return false
	}
	for i := range len(name) {
		if lower(name[i]) != lower(known[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// publisherID is the publisher's idempotency key, or "" and, if it meant to give one, what is wrong with it.
// Only the exact spelling counts, because only that one made the server deduplicate: an ID that did not
// would be told in results as if it had.
func publisherID(h headers) (id, note string) {
	switch id = h.msgID.first(); {
	case h.msgID.name == "":
		return "", ""
	case h.msgID.name != HeaderMsgID:
		return "", "header " + HeaderMsgID + " is misspelt " + h.msgID.name +
			": the server does not deduplicate by it, and it is not the update's ID"
	case !ValidID(id):
		return "", "header " + HeaderMsgID + " is not 1 to " + strconv.Itoa(MaxIDLength) +
			" printable ASCII characters: it is not the update's ID"
	}
	return id, ""
}

// publisherTraceID is the publisher's trace ID, or "" and what can be shown of an invalid one.
func publisherTraceID(h headers) (id, shown string) {
	return usableTraceID(h.traceID.first())
}

// usableTraceID is id if it is valid, or "" and what can be shown of it.
func usableTraceID(id string) (usable, shown string) {
	if id == "" || ValidTraceID(id) {
		return id, ""
	}
	return "", makePrintable(id)
}

// printable reports whether s is 1 to limit characters from space to tilde.
func printable(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if !isPrintable(s[i]) {
			return false
		}
	}
	return true
}

func isPrintable(c byte) bool { return ' ' <= c && c <= '~' }

// makePrintable cuts s to MaxTraceIDLength bytes and writes ? for each byte that is not printable ASCII.
func makePrintable(s string) string {
	b := []byte(s[:min(len(s), MaxTraceIDLength)])
	for i, c := range b {
		if !isPrintable(c) {
			b[i] = '?'
		}
	}
	return string(b)
}
