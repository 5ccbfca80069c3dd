package main

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kexrelay/internal/update"
)

// The relay accepts every body that publish makes, and finds in it what went in.
func TestDocumentBodyIsWhatTheRelayTakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[A-Za-zÄÖÜäöüß0-9 "&<>'._-]{1,60}`).Draw(t, "name")
		content := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "content")
		body, err := documentBody(name, content)
		if err != nil {
			t.Fatalf("making the body: %v", err)
		}
		_, err = update.Decode(update.Message{Subject: "kex.vorgang.1.dokument", Body: body, Seq: 1}, func() string { return "t" })
		if err != nil {
			t.Fatalf("the relay refuses %s: %v", body, err)
		}
	})
}

// The largest document that is said to fit does fit, with the longest name.
func TestMostContentFits(t *testing.T) {
	const limit = 64 << 10
	body, err := documentBody(strings.Repeat("n", 255), make([]byte, mostContent(limit)))
	if err != nil {
		t.Fatal(err)
	}
	if room := limit - len(body); room < headerRoom || room > headerRoom+bodyRoom {
		t.Errorf("%d bytes are left for the headers", room)
	}
	headers := "NATS/1.0\r\nNats-Msg-Id: \r\nX-TraceId: \r\n\r\n"
	if most := len(headers) + update.MaxIDLength + update.MaxTraceIDLength; most > headerRoom {
		t.Errorf("headers can have %d bytes, more than the %d they are given", most, headerRoom)
	}
}

// The ID of a document is the same for the same document only.
func TestDocumentIDs(t *testing.T) {
	base := documentID("1", "a.pdf", sha256.Sum256([]byte("content")))
	if again := documentID("1", "a.pdf", sha256.Sum256([]byte("content"))); again != base {
		t.Errorf("the same document has the IDs %s and %s", base, again)
	}
	seen := map[string]string{base: "the first"}
	for what, id := range map[string]string{
		"another Vorgang": documentID("2", "a.pdf", sha256.Sum256([]byte("content"))),
		"another name":    documentID("1", "b.pdf", sha256.Sum256([]byte("content"))),
		"other content":   documentID("1", "a.pdf", sha256.Sum256([]byte("Content"))),
		"moved border":    documentID("1a", ".pdf", sha256.Sum256([]byte("content"))),
	} {
		if other, ok := seen[id]; ok {
			t.Errorf("%s has the ID of %s", what, other)
		}
		seen[id] = what
	}
}

// Trace IDs begin with the system's code and do not come twice.
func TestTraceIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newTraceID("sys")
		if !strings.HasPrefix(id, "sys") || !update.ValidTraceID(id) || seen[id] {
			t.Fatalf("bad trace ID %q", id)
		}
		seen[id] = true
	}
}

// Comments are sent as they were written.
func TestCommentsAreEncodedAsTheyAre(t *testing.T) {
	got, err := encodeComments([]string{`<b>"Ä"</b>`, "zwei & drei"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`["<b>\"Ä\"</b>","zwei & drei"]`, string(got)); diff != "" {
		t.Error(diff)
	}
}
