package update

import (
	"slices"
	"strings"
)

// Bounds of W3C trace context, https://www.w3.org/TR/trace-context/.
const (
	traceparentLength   = 55  // 00-<32 hex>-<16 hex>-<2 hex>; later versions may append to it.
	maxTraceparent      = 256 // Ours: a later version's addition is carried, but not at any length.
	maxTracestate       = 512 // What everybody must be able to carry.
	maxTracestateVendor = 32
)

// traceContext gives the publisher's trace context, or nothing of it if traceparent is not valid: a tracestate
// without its traceparent has no meaning. An invalid tracestate alone is dropped alone.
func traceContext(h headers) (traceparent, tracestate string) {
	traceparent = h.traceparent.first()
	if len(h.traceparent.values) != 1 || !validTraceparent(traceparent) {
		return "", ""
	}
	tracestate = h.tracestate.first()
	if len(h.tracestate.values) > 1 { // One list, split over several lines.
		tracestate = strings.Join(h.tracestate.values, ",")
	}
	if !validTracestate(tracestate) {
		tracestate = ""
	}
	return traceparent, tracestate
}

// validTraceparent checks the syntax of version 00, and of later versions as far as version 00 can know them.
func validTraceparent(s string) bool {
	if len(s) < traceparentLength || len(s) > maxTraceparent || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	version, traceID, parentID, flags := s[:2], s[3:35], s[36:52], s[53:55]
	if !isHex(version) || !isHex(traceID) || !isHex(parentID) || !isHex(flags) {
		return false
	}
	if strings.Trim(traceID, "0") == "" || strings.Trim(parentID, "0") == "" || version == "ff" {
		return false
	}
	if len(s) == traceparentLength {
		return true
	}
	return version != "00" && s[traceparentLength] == '-' && printable(s, maxTraceparent)
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// validTracestate checks a list of key=value members; empty members are allowed, twice the same key is not.
func validTracestate(s string) bool {
	if len(s) > maxTracestate {
		return false
	}
	var keys [maxTracestateVendor]string
	n := 0
	for member := range strings.SplitSeq(s, ",") {
		member = strings.Trim(member, " \t")
		if member == "" {
			continue
		}
		key, value, ok := strings.Cut(member, "=")
		if !ok || n == len(keys) || !validStateKey(key) || !validStateValue(value) {
			return false
		}
		if slices.Contains(keys[:n], key) {
			return false
		}
		keys[n] = key
		n++
	}
	return true
}

// validStateKey: a simple key begins with a letter; tenant@system allows a digit before the tenant.
func validStateKey(key string) bool {
	tenant, system, multi := strings.Cut(key, "@")
	if !multi {
		return len(key) <= 256 && stateKeyPart(key) && !isDigit(key[0])
	}
	return len(tenant) <= 241 && stateKeyPart(tenant) && len(system) <= 14 && stateKeyPart(system) && !isDigit(system[0])
}

func stateKeyPart(s string) bool {
	for i := range len(s) {
		c := s[i]
		first := 'a' <= c && c <= 'z' || isDigit(c)
		if !first && (i == 0 || strings.IndexByte("_-*/", c) < 0) {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func validStateValue(s string) bool {
	return printable(s, 256) && !strings.ContainsAny(s, ",=")
}
