package update_test

import (
	"math"
	"strings"
	"testing"

	"kexrelay/internal/update"
)

func decodeHeader(header map[string][]string) *update.Update {
	u, err := update.Decode(update.Message{Subject: commentsSubject, Header: header, Body: []byte(`["a"]`), Seq: 17}, makeTraceID)
	if err != nil {
		panic(err) // No header makes an update invalid.
	}
	return u
}

func TestMsgIDIsTheUpdatesID(t *testing.T) {
	t.Parallel()
	const generated = "KEX_UPDATES-17"
	notPrintable := "header Nats-Msg-Id is not 1 to 255 printable ASCII characters: it is not the update's ID"
	misspelt := func(name string) string {
		return "header Nats-Msg-Id is misspelt " + name + ": the server does not deduplicate by it, and it is not the update's ID"
	}
	for name, c := range map[string]struct {
		header   map[string][]string
		id, note string
	}{
		"absent":        {nil, generated, ""},
		"no values":     {map[string][]string{"Nats-Msg-Id": {}}, generated, ""},
		"given":         {map[string][]string{"Nats-Msg-Id": {"crm 4711~"}}, "crm 4711~", ""},
		"first of two":  {map[string][]string{"Nats-Msg-Id": {"a", "b"}}, "a", ""},
		"trimmed":       {map[string][]string{"Nats-Msg-Id": {" a\t"}}, "a", ""},
		"longest":       {map[string][]string{"Nats-Msg-Id": {strings.Repeat("x", 255)}}, strings.Repeat("x", 255), ""},
		"too long":      {map[string][]string{"Nats-Msg-Id": {strings.Repeat("x", 256)}}, generated, notPrintable},
		"empty":         {map[string][]string{"Nats-Msg-Id": {""}}, generated, notPrintable},
		"not ASCII":     {map[string][]string{"Nats-Msg-Id": {"ä"}}, generated, notPrintable},
		"control":       {map[string][]string{"Nats-Msg-Id": {"a\x1b[2J"}}, generated, notPrintable},
		"lower case":    {map[string][]string{"nats-msg-id": {"a"}}, generated, misspelt("nats-msg-id")},
		"HTTP's way":    {map[string][]string{"Nats-Msg-ID": {"a"}}, generated, misspelt("Nats-Msg-ID")},
		"both ways":     {map[string][]string{"nats-msg-id": {"a"}, "Nats-Msg-Id": {"b"}, "NATS-MSG-ID": {"c"}}, "b", ""},
		"two misspelt":  {map[string][]string{"nats-msg-id": {"a"}, "NATS-MSG-ID": {"c"}}, generated, misspelt("NATS-MSG-ID")},
		"another K":     {map[string][]string{"natſ-msg-id": {"a"}}, generated, ""},
		"another name":  {map[string][]string{"Nats-Msg-Ix": {"a"}}, generated, ""},
		"only Kex ones": {map[string][]string{"Kex-Update-Id": {"a"}}, generated, ""},
	} {
		for range 8 { // Maps have no order; the result has.
			if u := decodeHeader(c.header); u.ID != c.id || u.Note != c.note {
				t.Errorf("%s: got ID %q, note %q, want %q, %q", name, u.ID, u.Note, c.id, c.note)
			}
		}
	}
}

func TestTraceIDIsThePublishersIfItCanBeUsed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header    map[string][]string
		id, shown string
	}{
		"absent":       {nil, madeTraceID, ""},
		"empty":        {map[string][]string{"X-TraceId": {" "}}, madeTraceID, ""},
		"given":        {map[string][]string{"X-TraceId": {"sys12345678"}}, "sys12345678", ""},
		"HTTP's way":   {map[string][]string{"X-Traceid": {"sys1"}}, "sys1", ""},
		"lower case":   {map[string][]string{"x-traceid": {"sys1"}}, "sys1", ""},
		"several ways": {map[string][]string{"x-traceid": {"a"}, "X-TraceId": {"b"}, "X-TRACEID": {"c"}}, "b", ""},
		"two wrong":    {map[string][]string{"x-traceid": {"a"}, "X-TRACEID": {"c"}}, "c", ""},
		"longest":      {map[string][]string{"X-TraceId": {strings.Repeat("x", 128)}}, strings.Repeat("x", 128), ""},
		"too long":     {map[string][]string{"X-TraceId": {strings.Repeat("x", 129)}}, madeTraceID, strings.Repeat("x", 128)},
		"immense":      {map[string][]string{"X-TraceId": {strings.Repeat("ä", 60_000)}}, madeTraceID, strings.Repeat("?", 128)},
		"a space":      {map[string][]string{"X-TraceId": {"abc def"}}, madeTraceID, "abc def"},
		"trimmed":      {map[string][]string{"X-TraceId": {" sys1\t"}}, "sys1", ""},
		"not ASCII":    {map[string][]string{"X-TraceId": {"sys-ä"}}, madeTraceID, "sys-??"},
		"control":      {map[string][]string{"X-TraceId": {"a\r\nb\x00\x7f"}}, madeTraceID, "a??b??"},
	} {
		for range 8 {
			if u := decodeHeader(c.header); u.TraceID != c.id || u.PublisherTraceID != c.shown {
				t.Errorf("%s: got %q, told %q, want %q, %q", name, u.TraceID, u.PublisherTraceID, c.id, c.shown)
			}
		}
	}
}

func TestIDsAreValidOrNot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text                 string
		id, traceID, request bool
	}{
		{"", false, false, false},
		{"crm-4711~!", true, true, true},
		{"crm 4711", true, false, false},
		{" crm", false, false, false},
		{"crm ", false, false, false},
		{"ä", false, false, false},
		{"a\x7f", false, false, false},
		{"a\n", false, false, false},
		{strings.Repeat("x", 128), true, true, true},
		{strings.Repeat("x", 129), true, false, true},
		{strings.Repeat("x", 170), true, false, false},
		{strings.Repeat("x", 255), true, false, false},
		{strings.Repeat("x", 256), false, false, false},
	} {
		if got := update.ValidID(c.text); got != c.id {
			t.Errorf("%q is an ID: %v", c.text, got)
		}
		if got := update.ValidTraceID(c.text); got != c.traceID {
			t.Errorf("%q is a trace ID: %v", c.text, got)
		}
		if got := update.ValidRequestTraceID(c.text); got != c.request {
			t.Errorf("%q is a request's trace ID: %v", c.text, got)
		}
	}
}

// Whatever the publisher wrote and however often it was tried: the API's client takes the trace ID.
func TestEveryRequestsTraceIDIsValid(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("x", update.MaxTraceIDLength)
	for _, id := range []string{"sys1", longest, longest + "x", "abc def", "ä", ""} {
		for _, replay := range []*update.Replay{nil, {UpdateID: "a", TraceID: id, Replays: math.MaxInt}} {
			u, err := update.Decode(update.Message{
				Subject: commentsSubject, Header: map[string][]string{"X-TraceId": {id}}, Body: []byte(`["a"]`), Replay: replay,
			}, makeTraceID)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{1, math.MaxInt} {
				if request := u.RequestTraceID(n); !update.ValidRequestTraceID(request) {
					t.Errorf("X-TraceId %q gives the request %q", id, request)
				}
			}
			if !update.ValidTraceID(id) && u.PublisherTraceID == "" && id != "" {
				t.Errorf("X-TraceId %q is not told", id)
			}
		}
	}
}

func TestATraceIDIsMadeOnlyIfThereIsNone(t *testing.T) {
	t.Parallel()
	m := update.Message{Subject: commentsSubject, Header: map[string][]string{"X-TraceId": {"sys1"}}, Body: []byte(`["a"]`)}
	_, err := update.Decode(m, func() string {
		t.Error("made a trace ID although there is one")
		return ""
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTraceContextIsPassedOnlyIfValid(t *testing.T) {
	t.Parallel()
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for parent, valid := range map[string]bool{
		good:                   true,
		" " + good + " ":       true,
		"":                     false,
		good[:54]:              false,
		good + "-":             false,
		good + "-x":            false,
		"01" + good[2:]:        true,
		"01" + good[2:] + "-x": true,
		"01" + good[2:] + "x":  false,
		"01" + good[2:] + "-ä": false,
		"01" + good[2:] + "-" + strings.Repeat("x", 300): false,
		"ff" + good[2:]:                                           false,
		strings.ToUpper(good):                                     false,
		"0g" + good[2:]:                                           false,
		good[:53] + "0g":                                          false,
		strings.Replace(good, "f067", "g067", 1):                  false,
		strings.Replace(good, "4", "g", 1):                        false,
		strings.Replace(good, "-", "_", 1):                        false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01": false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01": false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01": false,
	} {
		u := decodeHeader(map[string][]string{"Traceparent": {parent}, "TraceState": {"crm=1"}})
		if valid && (u.Traceparent != strings.TrimSpace(parent) || u.Tracestate != "crm=1") {
			t.Errorf("%q was dropped: got %q, %q", parent, u.Traceparent, u.Tracestate)
		}
		if !valid && (u.Traceparent != "" || u.Tracestate != "") {
			t.Errorf("%q passed: got %q, %q", parent, u.Traceparent, u.Tracestate)
		}
	}
	for state, valid := range map[string]bool{
		"":                                    true,
		"crm=1":                               true,
		"a=1,b=2":                             true,
		"a=1 ,\t, b=x y":                      true,
		"1tenant@crm=1":                       true,
		"a_-*/0=~":                            true,
		strings.Repeat("a", 256) + "=1":       true,
		strings.Repeat("a", 257) + "=1":       false,
		strings.Repeat("a", 242) + "@b=1":     false,
		"a@" + strings.Repeat("b", 15) + "=1": false,
		"a@1=1":                               false,
		"@b=1":                                false,
		"a@=1":                                false,
		"crm":                                 false,
		"=1":                                  false,
		"a=":                                  false,
		"a=b=c":                               false,
		"A=1":                                 false,
		"1a=1":                                false,
		"_a=1":                                false,
		"ä=1":                                 false,
		"a=ä":                                 false,
		"a=1,a=2":                             false,
		"a=\x00":                              false,
		strings.Repeat("a=1,", 200):           false,
		many(32):                              true,
		many(33):                              false,
	} {
		u := decodeHeader(map[string][]string{"traceparent": {good}, "tracestate": {state}})
		want := ""
		if valid {
			want = strings.Trim(state, " \t")
		}
		if u.Traceparent != good || u.Tracestate != want {
			t.Errorf("%.60q: got %q, %q, want %q", state, u.Traceparent, u.Tracestate, want)
		}
	}
	u := decodeHeader(map[string][]string{"traceparent": {good}, "tracestate": {"a=1", "b=2"}})
	if u.Tracestate != "a=1,b=2" {
		t.Errorf("got %q of two lines", u.Tracestate)
	}
	if u = decodeHeader(map[string][]string{"traceparent": {good, good}}); u.Traceparent != "" {
		t.Error("two traceparents passed")
	}
}

// many is a tracestate of n members.
func many(n int) string {
	members := make([]string, 0, n)
	for i := range n {
		members = append(members, "v"+strings.Repeat("x", i/10)+string(rune('0'+i%10))+"=1")
	}
	return strings.Join(members, ",")
}
