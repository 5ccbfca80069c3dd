package schemas_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
	"kexrelay/schemas"
)

// asyncAPI is the document as the values that JSON knows, which its schemas can be applied to.
func asyncAPI(t *testing.T) map[string]any {
	t.Helper()
	text, err := schemas.FS.ReadFile("asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return as[map[string]any](t, asJSON(t, doc))
}

func asJSON(t *testing.T, v any) any {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(encode(t, v)))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// at walks into the document, following references within it.
func at(t *testing.T, doc map[string]any, steps ...string) any {
	t.Helper()
	var v any = doc
	for _, step := range steps {
		object, ok := v.(map[string]any)
		if !ok || object[step] == nil {
			t.Fatalf("there is no %s", strings.Join(steps, "/"))
		}
		v = resolve(t, doc, object[step])
	}
	return v
}

func resolve(t *testing.T, doc map[string]any, v any) any {
	t.Helper()
	object, _ := v.(map[string]any)
	ref, _ := object["$ref"].(string)
	inside, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return v
	}
	return at(t, doc, strings.Split(inside, "/")...)
}

func child(t *testing.T, doc map[string]any, steps ...string) map[string]any {
	t.Helper()
	return as[map[string]any](t, at(t, doc, steps...))
}

func as[T any](t *testing.T, v any) T {
	t.Helper()
	value, ok := v.(T)
	if !ok {
		t.Fatalf("got a %T, want a %T", v, value)
	}
	return value
}

func TestEveryReferenceResolves(t *testing.T) {
	t.Parallel()
	doc := asyncAPI(t)
	files := map[string]bool{}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, element := range v {
				walk(element)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				if inside, ok := strings.CutPrefix(ref, "#/"); ok {
					at(t, doc, strings.Split(inside, "/")...)
				} else if _, err := schemas.FS.ReadFile(path.Clean(ref)); err != nil {
					t.Errorf("%s: %v", ref, err)
				} else {
					files[path.Clean(ref)] = true
				}
			}
			for _, member := range v {
				walk(member)
			}
		}
	}
	walk(doc)
	for _, name := range schemas.Names() {
		if !files[name.File()] {
			t.Errorf("no message uses schema %s", name)
		}
	}
}

func TestAddressesAreTheCodesSubjects(t *testing.T) {
	t.Parallel()
	doc := asyncAPI(t)
	const vorgang = "123456"
	for name, want := range map[string]struct{ subject, stream, wildcard string }{
		"dokument":   {update.SubjectPrefix + vorgang + "." + string(update.Document), topology.StreamUpdates, "kex.vorgang.>"},
		"kommentare": {update.SubjectPrefix + vorgang + "." + string(update.Comments), topology.StreamUpdates, "kex.vorgang.>"},
		"result":     {topology.ResultSubject(update.Delivered, vorgang, update.Document), topology.StreamResults, topology.SubjectResults},
		"deadletter": {topology.DeadLetterSubject(fault.Gone, vorgang, update.Document), topology.StreamDeadLetters, topology.SubjectDeadLetters},
	} {
		channel := child(t, doc, "channels", name)
		address, _ := channel["address"].(string)
		values := strings.NewReplacer("{vorgangsnummer}", vorgang, "{outcome}", string(update.Delivered),
			"{reason}", string(fault.Gone), "{kind}", string(update.Document))
		subject := values.Replace(address)
		if subject != want.subject {
			t.Errorf("%s: got %s, want %s", name, subject, want.subject)
		}
		if want.stream == topology.StreamUpdates {
			if _, kind, err := update.ParseSubject(subject); err != nil || string(kind) != name {
				t.Errorf("%s: got kind %s, error %v", subject, kind, err)
			}
		}
		var parameters []string
		for _, match := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(address, -1) {
			parameters = append(parameters, match[1])
		}
		if got := slices.Collect(maps.Keys(child(t, doc, "channels", name, "parameters"))); !sameSet(got, parameters) {
			t.Errorf("%s: got parameters %v, its address has %v", name, got, parameters)
		}
		stream, _ := at(t, doc, "channels", name, "x-jetstream", "stream").(string)
		if stream != want.stream {
			t.Errorf("%s: got stream %s, want %s", name, stream, want.stream)
		}
		if got := at(t, doc, "x-jetstream", "streams", stream, "subjects"); fmt.Sprint(got) != "["+want.wildcard+"]" {
			t.Errorf("%s: got subjects %v, want %s", stream, got, want.wildcard)
		}
	}
	if got := len(child(t, doc, "channels")); got != 4 {
		t.Errorf("got %d channels, the test knows 4", got)
	}
	stored := strings.NewReplacer("{partition}", "0", "{vorgangsnummer}", vorgang, "{kind}", string(update.Document)).
		Replace(as[string](t, at(t, doc, "x-jetstream", "streams", topology.StreamUpdates, "storedAs")))
	if want := topology.StoredSubject(0, vorgang, update.Document); stored != want {
		t.Errorf("got %s, want %s", stored, want)
	}
	at(t, doc, "x-jetstream", "objectStores", topology.BucketDocuments)
}

func TestParametersAreTheCodesSets(t *testing.T) {
	t.Parallel()
	doc := asyncAPI(t)
	for name, want := range map[string][]string{
		"outcome": words(update.Outcomes()),
		"reason":  words(fault.DeadLetterReasons()),
		"kind":    append(words(update.Kinds()), string(update.Invalid)),
	} {
		var got []string
		for _, value := range as[[]any](t, at(t, doc, "components", "parameters", name, "enum")) {
			got = append(got, as[string](t, value))
		}
		if !sameSet(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestEveryHeaderIsDocumented(t *testing.T) {
	t.Parallel()
	doc := asyncAPI(t)
	deadLetter := []string{}
	for name := range readSchema(t, schemas.DeadLetterHeaders).Properties {
		deadLetter = append(deadLetter, name)
	}
	for what, c := range map[string]struct{ got, want []string }{
		"update": {
			slices.Collect(maps.Keys(child(t, doc, "components", "schemas", "updateHeaders", "properties"))),
			[]string{
				update.HeaderMsgID, update.HeaderTraceID, update.HeaderTraceparent, update.HeaderTracestate,
				update.HeaderUpdateID, update.HeaderReplayOf, update.HeaderReplays,
			},
		},
		"result": {
			slices.Collect(maps.Keys(child(t, doc, "components", "schemas", "resultHeaders", "properties"))),
			[]string{
				"Content-Type", update.HeaderMsgID, update.HeaderTraceID, update.HeaderTraceparent,
				topology.HeaderOutcome, topology.HeaderUpdateID, topology.HeaderUpdateSeq, topology.HeaderUpdateAt,
			},
		},
		"dead letter": {
			deadLetter,
			[]string{
				update.HeaderMsgID, update.HeaderTraceID, update.HeaderTraceparent, update.HeaderTracestate,
				topology.HeaderReason, topology.HeaderStatus, topology.HeaderDetail, topology.HeaderAttempts,
				topology.HeaderUpdateID, topology.HeaderUpdateSeq, topology.HeaderUpdateAt, topology.HeaderUpdateSubject,
				topology.HeaderRequestID, topology.HeaderAnswers, topology.HeaderFirstAttemptAt, topology.HeaderDeadLetteredAt, topology.HeaderReplays, topology.HeaderMayBeBooked,
				topology.HeaderBodyObject, topology.HeaderBodySize, topology.HeaderBodyDigest,
			},
		},
	} {
		if !sameSet(c.got, c.want) {
			t.Errorf("headers of a %s:\n got %v\nwant %v", what, slices.Sorted(slices.Values(c.got)), slices.Sorted(slices.Values(c.want)))
		}
	}
}

func TestMessageExamplesAreValid(t *testing.T) {
	t.Parallel()
	doc := asyncAPI(t)
	for name := range child(t, doc, "components", "messages") {
		message := child(t, doc, "components", "messages", name)
		examples, _ := message["examples"].([]any)
		if len(examples) == 0 {
			t.Errorf("message %s has no example", name)
		}
		for _, example := range examples {
			example := as[map[string]any](t, example)
			if headers, ok := example["headers"]; ok {
				validateBy(t, doc, message["headers"], headers, name+" headers")
			}
			validateBy(t, doc, message["payload"], example["payload"], name+" payload")
		}
	}
}

// validateBy checks a value against a schema of the document: one of our files, or one written in place.
func validateBy(t *testing.T, doc map[string]any, schema, value any, what string) {
	t.Helper()
	object, _ := resolve(t, doc, schema).(map[string]any)
	if multi, ok := object["schema"].(map[string]any); ok {
		file, _ := multi["$ref"].(string)
		name := schemas.Name(strings.TrimSuffix(path.Clean(file), ".schema.json"))
		if err := schemas.Validate(name, encode(t, value)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("urn:test", object); err != nil {
		t.Fatal(err)
	}
	sch, err := c.Compile("urn:test")
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := sch.Validate(value); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}
