package main

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
	"kexrelay/internal/trace"
)

// membersOf gives a line for each JSON member of a type: its path and its JSON type, with ? if it may be absent.
func membersOf(path string, of reflect.Type) (lines []string) {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	switch {
	case of == reflect.TypeFor[time.Time]():
		return []string{path + " string"}
	case of == reflect.TypeFor[[]byte]():
		return []string{path + " string"}
	case of.Kind() == reflect.Slice:
		return membersOf(path+"[]", of.Elem())
	case of.Kind() == reflect.Map:
		return membersOf(path+".*", of.Elem())
	case of.Kind() != reflect.Struct:
		return []string{path + " " + jsonKind(of.Kind())}
	}
	for field := range of.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-", !field.IsExported() && !field.Anonymous:
		case name == "":
			lines = append(lines, membersOf(path, field.Type)...) // Embedded.
		default:
			if options != "" {
				name += "?"
			}
			lines = append(lines, membersOf(path+"."+name, field.Type)...)
		}
	}
	return lines
}

func jsonKind(kind reflect.Kind) string {
	switch kind { //nolint:exhaustive // The rest are numbers.
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	}
	return "number"
}

// Programs read what -o json prints: a member may be added, and the list then too, but none may go or change.
func TestJSONOutputKeepsItsMembers(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	for _, output := range []struct {
		command string
		of      reflect.Type
	}{
		{"deadletters list", reflect.TypeFor[deadletter.Summary]()},
		{"deadletters list --group", reflect.TypeFor[deadletter.Group]()},
		{"deadletters show", reflect.TypeFor[shown]()},
		{"trace", reflect.TypeFor[trace.Story]()},
		{"results list", reflect.TypeFor[journal.Event]()},
	} {
		fmt.Fprintf(&got, "# %s\n", output.command)
		for _, line := range membersOf("", output.of) {
			fmt.Fprintln(&got, line)
		}
	}
	const golden = "testdata/json_members.txt"
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", golden, diff)
	}
}
