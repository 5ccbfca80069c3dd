// Package schemas is the public interface written down for machines: a JSON Schema (2020-12) per message, valid and
// invalid examples of each, and the AsyncAPI document that says where which message goes.
//
// An update meets it before its way begins: `kexrelay publish` validates with it what people hand in. The relay
// itself checks with the faster decoder of package update; tests hold the two against each other, and every example
// against its schema.
//
// Some rules a schema cannot say. [Validate] checks them too, because every JSON parser decides them differently:
//   - The text is UTF-8 without a byte order mark, one JSON value with nothing after it.
//   - No member that the schema names is there twice in one object. Others may be.
//   - An escaped surrogate (\ud83d) has its other half: alone it is no character.
//   - Nesting ends at [MaxDepth] levels.
package schemas

import (
	"bytes"
	"embed"
	"fmt"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// FS holds the schemas (<name>.schema.json), asyncapi.yaml, and the examples under examples/<name>/valid and
// examples/<name>/invalid.
//
//go:embed *.schema.json asyncapi.yaml examples
var FS embed.FS

// Name is the name of a schema.
type Name string

// The schemas.
const (
	Document          Name = "document"            // Body of an update of kind dokument.
	DocumentReference Name = "document-reference"  // The same with its content in the object store.
	Comments          Name = "comments"            // Body of an update of kind kommentare.
	Result            Name = "result"              // A result event.
	DeadLetterHeaders Name = "dead-letter-headers" // A dead letter's headers, as an object of strings.
)

// ResultDataID identifies the schema of a result event's data: the event's dataschema.
const ResultDataID = "urn:kexrelay:schema:result-data:v1"

// Names lists all schemas.
func Names() []Name { return []Name{Document, DocumentReference, Comments, Result, DeadLetterHeaders} }

// ID is the schema's $id.
func (n Name) ID() string { return "urn:kexrelay:schema:" + string(n) + ":v1" }

// File is the schema's path in FS.
func (n Name) File() string { return string(n) + ".schema.json" }

// Error says why a text does not follow a schema. Its texts name members that the schema knows, byte offsets (from
// 0) and what the schema wants; they never repeat what stands in the text.
type Error struct {
	Name Name
	// Problems are one per place, in the order of their texts; there is at least one.
	Problems []string
}

// Error gives all problems in one line.
func (e *Error) Error() string {
	var b bytes.Buffer
	b.WriteString(string(e.Name))
	for i, problem := range e.Problems {
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(problem)
	}
	return b.String()
}

// Validate checks a text against a schema and the rules that the package comment names. What does not follow them
// is an [*Error]; any other error means that there is no such schema. It takes about 50 ms per MB and copies the
// text several times over: it is for people's input, not for the relay's way.
func Validate(name Name, data []byte) error {
	all, err := compiled()
	if err != nil {
		return err
	}
	sch, ok := all[name]
	if !ok {
		return fmt.Errorf("there is no schema %q", name)
	}
	value, problem := read(data, sch)
	if problem != "" {
		return &Error{Name: name, Problems: []string{problem}}
	}
	if err := sch.Validate(value); err != nil {
		return &Error{Name: name, Problems: explain(sch, err)}
	}
	return nil
}

// compiled compiles all schemas at their first use: most processes never need them.
var compiled = sync.OnceValues(func() (map[Name]*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	c.UseLoader(jsonschema.SchemeURLLoader{}) // Nothing is ever loaded from outside.
	for _, name := range Names() {
		text, err := FS.ReadFile(name.File())
		if err != nil {
			return nil, fmt.Errorf("reading schema %s: %w", name, err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("parsing schema %s: %w", name, err)
		}
		if err := c.AddResource(name.ID(), doc); err != nil {
			return nil, fmt.Errorf("adding schema %s: %w", name, err)
		}
	}
	all := make(map[Name]*jsonschema.Schema)
	for _, name := range Names() {
		sch, err := c.Compile(name.ID())
		if err != nil {
			return nil, fmt.Errorf("compiling schema %s: %w", name, err)
		}
		all[name] = sch
	}
	return all, nil
})
