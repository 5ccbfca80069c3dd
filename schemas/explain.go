package schemas

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// explain words a validator's error for people, one text per problem. The library's own texts quote the value, which
// may be somebody's document; these are made of what the schema says alone.
func explain(sch *jsonschema.Schema, err error) []string {
	failed, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return []string{"cannot be validated"}
	}
	var problems []string
	for leaf := range leaves(failed) {
		problems = append(problems, explainOne(sch, leaf)...)
	}
	slices.Sort(problems) // The validator walks maps.
	return slices.Compact(problems)
}

// leaves walks the errors that have no causes of their own.
func leaves(e *jsonschema.ValidationError) func(yield func(*jsonschema.ValidationError) bool) {
	var walk func(e *jsonschema.ValidationError, yield func(*jsonschema.ValidationError) bool) bool
	walk = func(e *jsonschema.ValidationError, yield func(*jsonschema.ValidationError) bool) bool {
		if len(e.Causes) == 0 {
			return yield(e)
		}
		for _, cause := range e.Causes {
			if !walk(cause, yield) {
				return false
			}
		}
		return true
	}
	return func(yield func(*jsonschema.ValidationError) bool) { walk(e, yield) }
}

func explainOne(root *jsonschema.Schema, e *jsonschema.ValidationError) []string {
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		return missing(e.InstanceLocation, k.Missing, "is missing (member names are case-sensitive)")
	case *kind.DependentRequired:
		return missing(e.InstanceLocation, k.Missing, "is missing beside "+k.Prop)
	}
	if at := place(e.InstanceLocation); at != "" {
		return []string{at + ": " + wording(root, e)}
	}
	return []string{wording(root, e)}
}

func missing(parent, members []string, text string) []string {
	problems := make([]string, 0, len(members))
	for _, member := range members {
		problems = append(problems, place(append(slices.Clone(parent), member))+": "+text)
	}
	return problems
}

// wording says what is wrong with a value, without the value.
func wording(root *jsonschema.Schema, e *jsonschema.ValidationError) string {
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		return "is " + article(k.Got) + ", not " + article(strings.Join(k.Want, " or "))
	case *kind.Const:
		return fmt.Sprintf("is not %v", k.Want)
	case *kind.Enum:
		return "is none of " + strings.Trim(fmt.Sprint(k.Want), "[]")
	case *kind.Format:
		return "is not a " + k.Want
	case *kind.MinLength:
		if k.Got == 0 {
			return "is empty"
		}
		return fmt.Sprintf("has fewer than %d characters", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("has more than %d characters", k.Want)
	case *kind.MinItems:
		if k.Got == 0 {
			return "is empty"
		}
		return fmt.Sprintf("has fewer than %d elements", k.Want)
	case *kind.Minimum:
		return "is less than " + k.Want.RatString()
	case *kind.Maximum:
		return "is more than " + k.Want.RatString()
	}
	if rule := description(root, e.InstanceLocation); rule != "" {
		return "does not follow its rule: " + rule
	}
	return "does not follow its schema's " + strings.Join(e.ErrorKind.KeywordPath(), "/")
}

func article(typeName string) string {
	switch {
	case typeName == "null":
		return typeName
	case strings.ContainsAny(typeName[:1], "aeiou"):
		return "an " + typeName
	}
	return "a " + typeName
}

// description is what the schema says in words about the value at a location.
func description(sch *jsonschema.Schema, location []string) string {
	for _, step := range location {
		next := property(sch, step)
		if next == nil {
			next = items(sch)
		}
		sch = next
	}
	if sch = target(sch); sch == nil {
		return ""
	}
	return sch.Description
}

// place words a location: nothing for the whole text, else filename, data.updateId, [3]. Only members that a schema names have errors, so
// that no name in it was made up by whoever wrote the text.
func place(location []string) string {
	var b strings.Builder
	for _, step := range location {
		if _, err := strconv.Atoi(step); err == nil {
			b.WriteString("[" + step + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(step)
	}
	return b.String()
}
