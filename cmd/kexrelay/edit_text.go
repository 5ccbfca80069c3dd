package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// contentMember is the member of a document that nobody edits as text.
const contentMember = "base64Content"

// maxEditText bounds what an editor is given.
const maxEditText = 4 << 20

// member is a member of a JSON object, its value as it was written.
type member struct {
	name  string
	value json.RawMessage
}

// editText is a body as a person edits it: JSON in lines, a document's content as a placeholder.
type editText struct {
	text string
	// content is the value behind the placeholder, nil if there is none.
	content     json.RawMessage
	placeholder string
}

// newEditText makes the text of a body. One that is no JSON is edited as it is, if it is text.
func newEditText(body []byte) (editText, error) {
	members, err := objectMembers(body)
	if err == nil {
		return documentText(members)
	}
	t := editText{text: string(body)}
	var indented bytes.Buffer
	if json.Indent(&indented, body, "", "  ") == nil {
		t.text = indented.String() + "\n"
	}
	switch {
	case !utf8.ValidString(t.text):
		return t, errors.New("its body is no text: give it a new one with --file, or publish it anew")
	case len(t.text) > maxEditText:
		return t, fmt.Errorf("its body is too large to edit (%s): publish it anew", size(int64(len(t.text))))
	}
	return t, nil
}

func documentText(members []member) (editText, error) {
	t := editText{}
	for i, m := range members {
		if m.name == contentMember && t.content == nil {
			t.content = m.value
			t.placeholder = fmt.Sprintf("(%s as it is)", size(int64(len(m.value))))
			members[i].value = json.RawMessage(quoted(t.placeholder))
		}
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, joinMembers(members), "", "  "); err != nil {
		return t, fmt.Errorf("showing the body: %w", err)
	}
	if indented.Len() > maxEditText {
		return t, fmt.Errorf("its body is too large to edit (%s): publish it anew", size(int64(indented.Len())))
	}
	t.text = indented.String() + "\n"
	return t, nil
}

// body makes a body of the edited text again. Errors never quote it.
func (t editText) body(edited string) ([]byte, error) {
	members, err := objectMembers([]byte(edited))
	if err == nil {
		for i, m := range members {
			if t.content != nil && m.name == contentMember && string(m.value) == quoted(t.placeholder) {
				members[i].value = t.content
			}
		}
		return joinMembers(members), nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(edited)); err != nil {
		return nil, errors.New(jsonProblem(err))
	}
	return compact.Bytes(), nil
}

// withFile is a document's body with another name or content. A nil content stays, and so does an empty name.
func withFile(body []byte, filename string, content []byte) ([]byte, error) {
	members, err := objectMembers(body)
	if err != nil && content == nil {
		return nil, errors.New("its body is no JSON object: give it a new content with --file too")
	}
	put := func(name string, value json.RawMessage) {
		kept := members[:0]
		done := false
		for _, m := range members {
			switch {
			case m.name == name && !done:
				m.value, done = value, true
			case m.name == name:
				continue
			}
			kept = append(kept, m)
		}
		if members = kept; !done {
			members = append(members, member{name, value})
		}
	}
	if filename != "" {
		put("filename", json.RawMessage(quoted(filename)))
	}
	if content != nil {
		kept := members[:0]
		for _, m := range members {
			if m.name != "object" { // The new content takes the place of a reference.
				kept = append(kept, m)
			}
		}
		members = kept
		put(contentMember, content)
	}
	return joinMembers(members), nil
}

// objectMembers reads the members of one JSON object in their order.
func objectMembers(body []byte) ([]member, error) {
	tokens := json.NewDecoder(bytes.NewReader(body))
	first, err := tokens.Token()
	if err != nil || first != json.Delim('{') || !json.Valid(body) {
		return nil, errors.New("no JSON object")
	}
	var members []member
	for tokens.More() {
		token, err := tokens.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errors.New("no JSON object")
		}
		m := member{name: name}
		if err := tokens.Decode(&m.value); err != nil {
			return nil, errors.New("no JSON object")
		}
		members = append(members, m)
	}
	return members, nil
}

func joinMembers(members []member) []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(quoted(m.name))
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// quoted is a text as JSON, without escapes for HTML.
func quoted(text string) string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // A string always can be.
	return strings.TrimSuffix(b.String(), "\n")
}

// maxDiffLines is how many lines are compared; of longer texts only how many there are is told.
const maxDiffLines = 2000

// diffLines is what changed between two texts, line by line: "-" removed, "+" added. Unchanged lines are left away.
func diffLines(before, after string) []string {
	a, b := trimCommon(linesOf(before), linesOf(after))
	if len(a) > maxDiffLines || len(b) > maxDiffLines {
		return []string{fmt.Sprintf("- %d lines", len(a)), fmt.Sprintf("+ %d lines", len(b))}
	}
	common := commonLengths(a, b)
	var out []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out = append(out, "- "+a[i])
			i++
		default:
			out = append(out, "+ "+b[j])
			j++
		}
	}
	return out
}

func linesOf(text string) []string { return strings.Split(strings.TrimSuffix(text, "\n"), "\n") }

// trimCommon leaves away what two texts begin and end with alike.
func trimCommon(a, b []string) (restA, restB []string) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

// commonLengths has the length of the longest common part of a[i:] and b[j:] at i, j.
func commonLengths(a, b []string) [][]int {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i, line := range slices.Backward(a) {
		for j, other := range slices.Backward(b) {
			common[i][j] = max(common[i+1][j], common[i][j+1])
			if line == other {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	return common
}
