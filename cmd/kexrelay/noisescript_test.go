package main

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// noise is what must never reach a terminal: escape sequences of all kinds, the second set of control characters, marks
// that turn the reading order, line ends, and what is no UTF-8.
const noise = "\x1b[2J\x1b]0;title\x07\x1b]52;c;YQ==\x1b\\\x1bP1$q\x1b\\\u009b31m\x9b31m\xff\xed\xa0\x80\u202e\u2066\u200b\ufeff\u2028\r\nINF fake\b\x7f"

// cmdNoisy puts beside each message of results, dead letters, audit and control two copies that somebody else could have
// written, with noise in every text: in one of them where anything may stand, in the other also in the words that tell
// messages apart. And it publishes updates that are nothing but noise.
func cmdNoisy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: noisy")
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	js := connectScript(ts)
	written := 0
	for _, name := range []string{topology.StreamResults, topology.StreamDeadLetters, topology.StreamAudit, "KV_" + topology.BucketControl} {
		stream, err := js.Stream(ctx, name)
		ts.Check(err)
		info := stream.CachedInfo()
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
			msg, err := stream.GetMsg(ctx, seq)
			if err != nil {
				continue // Removed.
			}
			for _, all := range []bool{true, false} { // Of a key the last one counts.
				_, err := js.PublishMsg(ctx, noisy(msg, all))
				ts.Check(err)
				written++
			}
		}
	}
	for _, m := range []*nats.Msg{
		{Subject: "kex.vorgang.123.kommentare", Data: []byte(`["` + noise + `"]`)},
		{Subject: "kex.vorgang.123.kommentare", Data: []byte(noise)},
		{Subject: "kex.vorgang.123.dokument", Data: []byte(`{"filename":"` + noise + `","base64Content":"` + noise + `"}`)},
		{Subject: "kex.vorgang.1\x1b[2J\u009b.kommentare", Data: []byte(`["x"]`)},
		{Subject: "kex.vorgang.1.kom\x1b[2Jmentare", Data: []byte(`["x"]`)},
	} {
		m.Header = nats.Header{
			update.HeaderTraceID: {"t" + noise}, jetstream.MsgIDHeader: {m.Subject + strconv.Itoa(len(m.Data)) + noise},
			"Traceparent": {noise}, "Kex-Detail": {noise},
		}
		_, err := js.PublishMsg(ctx, m)
		ts.Check(err)
		written++
	}
	ts.Logf("%d messages written", written)
}

// named are the members and headers that tell messages apart.
var named = []string{
	"specversion", "id", "source", "type", "subject", "time", "dataschema", "datacontenttype", "outcome", "kind", "reason", "action",
	"vorgangsnummer", "process", topology.HeaderReason, topology.HeaderOutcome, topology.HeaderUpdateSubject, "Content-Type",
}

// noisy is a copy of a message with noise in its texts.
func noisy(msg *jetstream.RawStreamMsg, all bool) *nats.Msg {
	out := nats.NewMsg(msg.Subject)
	for name, values := range msg.Header {
		if strings.HasPrefix(name, "Nats-") {
			continue
		}
		out.Header[name] = values
		if isText(values[0]) && (all || !slices.Contains(named, name)) {
			out.Header[name] = []string{values[0] + noise}
		}
	}
	out.Header[topology.HeaderDetail] = []string{"a detail" + noise}
	out.Data = msg.Data
	var members map[string]any
	if json.Unmarshal(msg.Data, &members) == nil {
		soil(members, all)
		out.Data, _ = json.Marshal(members)
	}
	return out
}

// soil puts noise into all texts of a JSON object.
func soil(members map[string]any, all bool) {
	for _, name := range slices.Collect(maps.Keys(members)) {
		switch value := members[name].(type) {
		case map[string]any:
			soil(value, all)
		case string:
			if isText(value) && (all || !slices.Contains(named, name)) {
				members[name] = value + noise
			}
		}
	}
}

// isText leaves out what has a form of its own: a number, a time.
func isText(value string) bool {
	_, noNumber := strconv.ParseFloat(value, 64)
	_, noTime := time.Parse(time.RFC3339, value)
	return noNumber != nil && noTime != nil && value != "true"
}

// cmdHarmless looks for what could steer a terminal in what the last command printed, and in files.
func cmdHarmless(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: harmless [FILE...]")
	}
	for _, name := range append(args, "stdout", "stderr") {
		text := ts.ReadFile(name)
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }) {
				ts.Fatalf("%s could steer a terminal: %q", name, line)
			}
		}
		if strings.Contains(text, "\nINF fake") {
			ts.Fatalf("a foreign text begins a line of %s:\n%s", name, text)
		}
	}
}
