package update_test

import (
	"regexp"
	"strings"
	"testing"

	"kexrelay/internal/update"
)

func TestParseSubject(t *testing.T) {
	t.Parallel()
	const alphabet = "subject: the Vorgangsnummer has a character outside A-Z a-z 0-9 _ - at its byte "
	const kinds = "subject: the kind is neither dokument nor kommentare"
	longest := strings.Repeat("9", 64)
	for subject, want := range map[string]struct {
		vorgangsnummer string
		kind           update.Kind
		detail         string
	}{
		"kex.vorgang.123456.dokument":             {"123456", update.Document, ""},
		"kex.vorgang.123456.kommentare":           {"123456", update.Comments, ""},
		"kex.vorgang.aZ_-09.kommentare":           {"aZ_-09", update.Comments, ""},
		"kex.vorgang." + longest + ".dokument":    {longest, update.Document, ""},
		"kex.vorgang." + longest + "9.dokument":   {"~", update.Document, "subject: the Vorgangsnummer has 65 bytes, more than 64"},
		"kex.vorgang." + many4000() + ".dokument": {"~", update.Document, "subject: the Vorgangsnummer has 4000 bytes, more than 64"},
		"kex.vorgang..dokument":                   {"~", update.Document, "subject: the Vorgangsnummer is empty"},
		"kex.vorgang.*.dokument":                  {"~", update.Document, alphabet + "0"},
		"kex.vorgang.>.kommentare":                {"~", update.Comments, alphabet + "0"},
		"kex.vorgang.12Ä.dokument":                {"~", update.Document, alphabet + "2"},
		"kex.vorgang.~.dokument":                  {"~", update.Document, alphabet + "0"},
		"kex.vorgang.1/2.dokument":                {"~", update.Document, alphabet + "1"},
		"kex.vorgang.1%2F.dokument":               {"~", update.Document, alphabet + "1"},
		"kex.vorgang.1\n.dokument":                {"~", update.Document, alphabet + "1"},
		"kex.vorgang.../dokument":                 {"~", update.Invalid, "subject: has 5 tokens, not the 4 of kex.vorgang.<vorgangsnummer>.<kind>"},
		"kex.vorgang.123456.txt":                  {"123456", update.Invalid, kinds},
		"kex.vorgang.123456.Dokument":             {"123456", update.Invalid, kinds},
		"kex.vorgang.123456.invalid":              {"123456", update.Invalid, kinds},
		"kex.vorgang.123456.*":                    {"123456", update.Invalid, kinds},
		"kex.vorgang.123456.":                     {"123456", update.Invalid, kinds},
		"kex.vorgang.ä.txt":                       {"~", update.Invalid, alphabet + "0"},
		"kex.vorgang.123456":                      {"~", update.Invalid, "subject: has 3 tokens, not the 4 of kex.vorgang.<vorgangsnummer>.<kind>"},
		"kex.vorgang.":                            {"~", update.Invalid, "subject: has 3 tokens, not the 4 of kex.vorgang.<vorgangsnummer>.<kind>"},
		"kex.vorgang.1.dokument.2":                {"~", update.Invalid, "subject: has 5 tokens, not the 4 of kex.vorgang.<vorgangsnummer>.<kind>"},
		"kex.vorgang.1.dokument.":                 {"~", update.Invalid, "subject: has 5 tokens, not the 4 of kex.vorgang.<vorgangsnummer>.<kind>"},
		"kex.update.0.123456.dokument":            {"~", update.Invalid, "subject: does not begin with kex.vorgang."},
		"KEX.vorgang.123456.dokument":             {"~", update.Invalid, "subject: does not begin with kex.vorgang."},
		"":                                        {"~", update.Invalid, "subject: does not begin with kex.vorgang."},
	} {
		vorgangsnummer, kind, err := update.ParseSubject(subject)
		if got := detailOf(t, err); vorgangsnummer != want.vorgangsnummer || kind != want.kind || got != want.detail {
			t.Errorf("%.60q: got %s, %s, %q, want %+v", subject, vorgangsnummer, kind, got, want)
		}
	}
}

func many4000() string { return strings.Repeat("1", 4000) }

func TestParseSubjectIsCheap(t *testing.T) {
	got := testing.AllocsPerRun(100, func() {
		if _, _, err := update.ParseSubject(documentSubject); err != nil {
			t.Error(err)
		}
	})
	if got != 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}

// FuzzParseSubject holds the parser against the contract's one line, and its results against what a subject of ours
// may be made of.
func FuzzParseSubject(f *testing.F) {
	for _, seed := range []string{documentSubject, commentsSubject, "kex.vorgang.*.dokument", "kex.vorgang.1.2.3", "kex.vorgang..", "kex.vorgang.Ä.dokument", ""} {
		f.Add(seed)
	}
	contract := regexp.MustCompile(`^kex\.vorgang\.([A-Za-z0-9_-]{1,64})\.(dokument|kommentare)$`)
	token := regexp.MustCompile(`^([A-Za-z0-9_-]{1,64}|~)$`)
	f.Fuzz(func(t *testing.T, subject string) {
		vorgangsnummer, kind, err := update.ParseSubject(subject)
		want := contract.FindStringSubmatch(subject)
		if (err == nil) != (want != nil) {
			t.Fatalf("got error %v, the contract says %v", err, want)
		}
		if want != nil && (vorgangsnummer != want[1] || string(kind) != want[2]) {
			t.Errorf("got %s, %s, want %v", vorgangsnummer, kind, want)
		}
		if !token.MatchString(vorgangsnummer) || (kind != update.Document && kind != update.Comments && kind != update.Invalid) {
			t.Errorf("got %q, %q: no tokens of a subject", vorgangsnummer, kind)
		}
		detailOf(t, err)
	})
}
