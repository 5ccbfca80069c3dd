package schemas_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"kexrelay/internal/update"
	"kexrelay/schemas"
)

// snippets finds the body that the README's program in a language publishes, and how it is written there: as a text, or
// as the elements of a list that a JSON library writes.
var snippets = map[string]struct {
	body *regexp.Regexp
	list bool
}{
	"sh":     {body: regexp.MustCompile(`'(\[.*\])'`)},
	"go":     {body: regexp.MustCompile("\\[\\]byte\\(`(.*)`\\)")},
	"java":   {body: regexp.MustCompile(`byte\[\] body = "(.*)"\.getBytes\(StandardCharsets\.UTF_8\)`)},
	"python": {body: regexp.MustCompile(`json\.dumps\(\[(.*)\]\)\.encode\(\)`), list: true},
	"csharp": {body: regexp.MustCompile(`SerializeToUtf8Bytes\(new\[\] \{ (.*) \}\)`), list: true},
	"php":    {body: regexp.MustCompile(`json_encode\(\[(.*)\]\)`), list: true},
}

var (
	quotedText = regexp.MustCompile(`["']([^"']*)["']`)
	published  = regexp.MustCompile(`kex\.vorgang\.([A-Za-z0-9_-]{1,64})\.([a-z]+)\b`)
)

// What the README's programs publish goes to a subject that is taken, has the headers in their spelling, and a body that
// the schema of its kind takes. (The programs themselves need each language's client.)
func TestTheREADMEsProgramsPublishWhatIsTaken(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Publish from a CRM\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for language, snippet := range snippets {
		found := 0
		for _, block := range blocks(section, language) {
			match := snippet.body.FindStringSubmatch(block)
			if match == nil {
				continue // By reference: no body in the program.
			}
			found++
			body := strings.ReplaceAll(match[1], `\"`, `"`)
			if snippet.list {
				var elements []string
				for _, element := range quotedText.FindAllStringSubmatch(match[1], -1) {
					elements = append(elements, element[1])
				}
				if rest := strings.Trim(quotedText.ReplaceAllString(match[1], ""), ", "); rest != "" {
					t.Errorf("%s: beside texts the list has %s", language, rest)
				}
				written, err := json.Marshal(elements)
				if err != nil {
					t.Fatal(err)
				}
				body = string(written)
			}
			if err := schemas.Validate(schemas.Comments, []byte(body)); err != nil {
				t.Errorf("%s: the body %s: %v", language, body, err)
			}
			subject := published.FindStringSubmatch(block)
			if subject == nil || subject[2] != string(update.Comments) {
				t.Errorf("%s: published to %q", language, subject)
			}
			for _, header := range []string{"X-TraceId", "crm-4711"} {
				if !strings.Contains(block, header) {
					t.Errorf("%s: without %s", language, header)
				}
			}
			// The clients of Java and .NET have an option for it.
			if !strings.Contains(block, "Nats-Msg-Id") && !strings.Contains(block, "messageId(") && !strings.Contains(block, "MsgId = ") {
				t.Errorf("%s: without an idempotency key", language)
			}
		}
		if found != 1 {
			t.Errorf("%s: %d programs publish comments", language, found)
		}
	}
}

// blocks are the code blocks of a language.
func blocks(text, language string) []string {
	var all []string
	for _, rest := range strings.Split(text, "\n```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(rest, "\n```")
		all = append(all, block)
	}
	return all
}
