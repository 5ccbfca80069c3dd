package deadletter

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

func TestAnErrorTextIsMaskedToItsCause(t *testing.T) {
	tests := map[string][]string{
		"":                                      {"", "  ", "\n"},
		"the Vorgang is deleted":                {"the Vorgang is deleted", " the  Vorgang is\tdeleted "},
		"Vorgang <*> is deleted":                {"Vorgang 123456 is deleted", "Vorgang 9 is deleted", "Vorgang -12 is deleted", "Vorgang 1e9 is deleted"},
		"base64Content: is empty":               {"base64Content: is empty"},
		"at byte <*>, of <*>":                   {"at byte 17, of 2000", "at byte 1, of 3.14"},
		"trace-<*> failed":                      {"trace-1 failed", "trace-22 failed", "trace-22-3 failed"},
		`{"code":<*>,"message":"Straße <*>"}`:   {`{"code":1,"message":"Straße 5"}`, `{"code":4711,"message":"Straße 12"}`},
		"comments: element <*> has HTTP/<*> in": {"comments: element 3 has HTTP/1.1 in"},
		// IDs, with few digits and with many.
		"partner ABC<*> unknown": {"partner ABC1 unknown", "partner ABC12 unknown", "partner ABC123 unknown", "partner ABC1234567 unknown"},
		"part X<*>Y":             {"part X1Y", "part X12345Y"},
		"trace <*>": {
			"trace 0b5c3c1e-1111-4222-8333-444444444444", "trace ffffffff-ffff-4fff-8fff-ffffffffff1f", "trace 4bf92f3577b34da6a3ce929d0e0e4736",
			"trace a1b2c3", "trace a11b22c33",
		},
		// Times and durations.
		"no answer at <*>": {
			"no answer at 2026-11-22T14:05:06Z", "no answer at 2026-11-22T14:05:06.1Z", "no answer at 2026-11-22T14:05:06.123456789Z",
			"no answer at 2026-11-22T14:05:06.12+01:00", "no answer at 2026-11-22T14:05:06.123", "no answer at 2026-11-22 14:05:06", "no answer at 14:05:06",
		},
		"no answer after <*>": {"no answer after 30s", "no answer after 1m0.5s", "no answer after 1h2m3s", "no answer after 999ms", "no answer after 7"},
		// Lists, and what was redacted.
		"lines <*> fail":      {"lines 1 fail", "lines 1, 2 fail", "lines 3, 17, 100 fail", "lines 1 2;3 fail"},
		`file "<*>" is empty`: {`file "[redacted]" is empty`, `file "[redacted] [redacted]" is empty`, `file "[redacted] 2024 [redacted]" is empty`},
	}
	for want, texts := range tests {
		for _, text := range texts {
			if got := mask(text); got != want {
				t.Errorf("mask(%q) = %q, want %q", text, got, want)
			}
		}
	}
}

// The API repeats IDs that we know, in its own way: some have no digit, and numbers of requests.
func TestIDsThatAreKnownAreMaskedWhateverTheyLookLike(t *testing.T) {
	const want = `{"path":"/vorgang/<*>/kommentare","traceId":"<*>","of":"<*>"} order`
	for _, ids := range [][3]string{
		{"kxrabcdefghijklmnop", "ABCDEF", "order"},
		{"kxrab2cdefghijk3lmn", "A1", "crm:1/x"},
		{"kxr2222222222222222", "123456", "7"},
		{"sys1", "B4GX2L", "0b5c3c1e-1111-4222-8333-444444444444"},
	} {
		for _, number := range []string{"", "-2", "-17", "-r1", "-r12-3"} {
			letter := Summary{TraceID: ids[0], RequestID: ids[0] + number, Vorgangsnummer: ids[1], UpdateID: ids[2]}
			if ids[2] == "order" { // Too short to be told from a word: it stays.
				ids[2] = "KEX_UPDATES-4711"
			}
			letter.Detail = fmt.Sprintf(`{"path":"/vorgang/%s/kommentare","traceId":"%s","of":"%s"} order`, ids[1], ids[0]+number, ids[2])
			got := strings.Replace(letter.Fingerprint().Error, "KEX_UPDATES-<*>", "<*>", 1)
			if got != want {
				t.Errorf("%s is masked to %s", letter.Detail, got)
			}
		}
	}
	if got := mask("ABCDEFG is not ABCDEF", "ABCDEF"); got != "ABCDEFG is not <*>" {
		t.Errorf("a word that begins like an ID: %q", got)
	}
}

// rapidPieces are parts of error texts; between them comes what differs.
var rapidPieces = []string{
	"timestamp", "Feld", "filename", ":", " ", ", ", `"`, "{", "/", "-", "base64Content", "ist ungültig", "=", "(", ")", "status", ".", " at ", "[redacted]",
}

func TestTextsOfOneCauseAreMaskedAlikeHoweverLongTheirNumbersAre(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOfN(rapid.SampledFrom(rapidPieces), 1, 30).Draw(t, "pieces")
		where := rapid.SliceOfN(rapid.IntRange(0, 5), len(pieces), len(pieces)).Draw(t, "where")
		fill := func(name string) string {
			digits := func() string { return rapid.StringMatching(`[1-9][0-9]{0,11}`).Draw(t, name) }
			var b strings.Builder
			for i, piece := range pieces {
				b.WriteString(piece)
				switch where[i] {
				case 0:
					b.WriteString(" " + digits() + " ")
				case 1:
					b.WriteString(" sys" + digits() + " ")
				case 2:
					b.WriteString(" 2026-11-22T14:05:06." + digits() + "Z ")
				case 3:
					b.WriteString(" AB" + digits() + "C ")
				}
			}
			return b.String()
		}
		one, other := fill("one"), fill("other")
		if len(one) >= cutText || len(other) >= cutText {
			return // How much was cut away is another question.
		}
		if a, b := mask(one), mask(other); a != b {
			t.Fatalf("%q\nis masked to %q,\n%q\nto %q", one, a, other, b)
		}
	})
}

// A detail is cut at so many bytes before it is masked: where that falls depends on how long its numbers are.
func TestATextThatWasCutIsMaskedAlikeWhereverItWasCut(t *testing.T) {
	t.Parallel()
	want := ""
	for n := 1; n < 60; n++ {
		text := fmt.Sprintf("the data is malformed: trace sys%s-%d at 2026-11-22T14:05:06.%sZ: ", strings.Repeat("7", n), n, strings.Repeat("9", n%9+1)) +
			strings.Repeat("field is missing in element 17 of the document; ", 40)
		for _, end := range []string{"", "..."} {
			got := mask(text[:1024-len(end)] + end)
			if want == "" {
				want = got
			}
			if got != want {
				t.Fatalf("cut with %q: %q, want %q", end, got, want)
			}
		}
	}
	// Of a short text that ends in an ID half of it is left.
	id := "0b5c3c1e-1111-4222-8333-444444444444"
	long := strings.Repeat(id+" ", 40)
	if a, b := mask("x "+long[:1022]), mask("xy "+long[:1021]); a != "x <*>" || b != "xy <*>" {
		t.Errorf("%q, %q", a, b)
	}
}

func FuzzMask(f *testing.F) {
	f.Add("trace sys12345678 at 2026-11-22T14:05:06Z", "sys12345678")
	f.Add("1, 2, 3 -5 [redacted]", "")
	f.Fuzz(func(t *testing.T, text, id string) {
		got := mask(text, id)
		if n := utf8.RuneCountInString(got); n > maxErrorText+utf8.RuneCountInString(text) || !utf8.ValidString(strings.ToValidUTF8(got, "?")) {
			t.Errorf("%d characters of %q", n, text)
		}
		if len(text) < cutText && mask(text+" ", id) != got {
			t.Errorf("%q and the same with a space differ", text)
		}
	})
}

func TestGroupsCountWhatHasTheSameCause(t *testing.T) {
	b := setUp(t)
	for seq := uint64(1); seq <= 9; seq++ {
		letter := aDeadLetter(seq, strconv.FormatUint(seq, 10))
		letter.Detail = fmt.Sprintf("Vorgang %d is deleted", seq)
		switch seq {
		case 4, 5:
			letter.Reason, letter.Status = fault.Rejected, 422
		case 6:
			letter.Update.Kind = update.Document
		case 7:
			letter.Update.Replay = &update.Replay{Replays: 1}
		}
		b.write(t, letter)
	}
	groups, err := b.store.Groups(t.Context(), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Group{
		{Fingerprint: Fingerprint{update.Comments, fault.Gone, 410, "Vorgang <*> is deleted"}, Count: 6, FirstSeq: 1, LastSeq: 9, Replayed: 1, Bytes: 6 * 13},
		{Fingerprint: Fingerprint{update.Comments, fault.Rejected, 422, "Vorgang <*> is deleted"}, Count: 2, FirstSeq: 4, LastSeq: 5, Bytes: 2 * 13},
		{Fingerprint: Fingerprint{update.Document, fault.Gone, 410, "Vorgang <*> is deleted"}, Count: 1, FirstSeq: 6, LastSeq: 6, Bytes: 13},
	}
	if diff := cmp.Diff(want, groups, cmpopts.IgnoreFields(Group{}, "ID", "Oldest", "Newest")); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
	for _, group := range groups {
		n := 0
		for letter, err := range b.store.List(t.Context(), Filter{Group: group.ID}) {
			if err != nil || letter.Fingerprint() != group.Fingerprint || letter.StoredAt.Before(group.Oldest) || letter.StoredAt.After(group.Newest) {
				t.Errorf("%+v in %+v, %v", letter, group, err)
			}
			n++
		}
		if n != group.Count || !ValidFingerprintID(group.ID) {
			t.Errorf("%d by the ID %s of a group of %d", n, group.ID, group.Count)
		}
	}
}

func TestGroupsAreBounded(t *testing.T) {
	all := grouping{}
	for i := range 3 * maxGroups {
		detail := fmt.Sprintf("text %c%c%c", 'a'+i%26, 'a'+i/26%26, 'a'+i/676)
		all.add(Summary{Seq: uint64(i + 1), Reason: fault.Gone, Kind: update.Comments, Detail: detail, StoredAt: time.Now()})
	}
	groups := all.sorted()
	if len(groups) != maxGroups+1 || groups[0].Error != OtherErrors || groups[0].Count != 2*maxGroups || groups[0].ID != "" {
		t.Errorf("%d groups, the first %+v", len(groups), groups[0])
	}
}

func TestDeadLettersAreListedByWhatTheyWereAnswered(t *testing.T) {
	b := setUp(t)
	for seq, status := range []int{410, 404, 0, 503, 500} {
		letter := aDeadLetter(uint64(seq+1), "1")
		letter.Status, letter.Detail = status, fmt.Sprintf("Answer %d", status)
		if seq > 0 {
			letter.Update.Replay = &update.Replay{Replays: seq}
		}
		b.write(t, letter)
	}
	tests := map[string]struct {
		filter Filter
		want   []uint64
	}{
		"a status":          {Filter{Statuses: []Range{{410, 410}}}, []uint64{1}},
		"classes":           {Filter{Statuses: []Range{{400, 499}, {503, 503}}}, []uint64{1, 2, 4}},
		"no answer":         {Filter{Statuses: []Range{NoAnswer()}}, []uint64{3}},
		"never replayed":    {Filter{Replays: &Range{}}, []uint64{1}},
		"often replayed":    {Filter{Replays: &Range{2, 3}}, []uint64{3, 4}},
		"a text":            {Filter{Text: "ANSWER 5"}, []uint64{4, 5}},
		"behind a sequence": {Filter{After: 3}, []uint64{4, 5}},
		"behind the last":   {Filter{After: 5}, nil},
		"a snapshot":        {Filter{UpTo: 2}, []uint64{1, 2}},
		"a page":            {Filter{After: 1, Limit: 2}, []uint64{2, 3}},
		"sequence and time": {Filter{After: 1, Since: time.Now().Add(time.Hour)}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []uint64
			for summary, err := range b.store.List(t.Context(), test.filter) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, summary.Seq)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("dead letters (-want +got):\n%s", diff)
			}
		})
	}
}

// Whoever turns pages while dead letters come and go sees each once that was there all the time.
func TestPagesMissNothingAndRepeatNothing(t *testing.T) {
	b := setUp(t)
	fill(t, b.js, 30)
	seen := map[uint64]int{}
	for after, page := uint64(0), 0; ; page++ {
		last := uint64(0)
		for letter, err := range b.store.List(t.Context(), Filter{After: after, Limit: 7}) {
			if err != nil {
				t.Fatal(err)
			}
			seen[letter.Seq]++
			last = letter.Seq
		}
		if last == 0 {
			break
		}
		after = last
		if page < 3 {
			fill(t, b.js, 5)
			if done, err := b.store.Discard(t.Context(), uint64(page+1), DiscardOptions{Because: "x"}); err != nil || done.Err != nil {
				t.Fatal(done, err)
			}
		}
	}
	for seq := uint64(1); seq <= 45; seq++ {
		if seen[seq] != 1 {
			t.Errorf("%d was seen %d times", seq, seen[seq])
		}
	}
}

func TestADeadLetterIsFoundByWhateverNamesIt(t *testing.T) {
	b := setUp(t)
	twice := aDeadLetter(3, "1")
	twice.Update.ID = "crm-2"
	b.write(t, aDeadLetter(1, "1"), aDeadLetter(2, "1"), twice)
	for ref, want := range map[string][]uint64{"1": {1}, "crm-1": {1}, "sys3": {3}, "sys3-2": {3}, "crm-2": {2, 3}, "9": nil, "": nil} {
		found, err := b.store.Find(t.Context(), ref)
		var seqs []uint64
		for _, letter := range found {
			seqs = append(seqs, letter.Seq)
		}
		if diff := cmp.Diff(want, seqs); diff != "" || (err == nil) != (want != nil) {
			t.Errorf("Find(%s) (-want +got), %v:\n%s", ref, err, diff)
		}
	}
}
