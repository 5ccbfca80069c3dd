package integration

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	gotoken "go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var onlyLong = flag.Bool("only-long", false,
	"with -tags integration: run only the tests that are not there, or are shorter, without the tag")

// chooseLong makes this run one of the tests of longTests alone.
func chooseLong() error {
	names, err := longTests(".")
	if err != nil {
		return err
	}
	fmt.Println("these need the build tag integration, or are longer with it:", strings.Join(names, " "))
	return flag.Set("test.run", "^("+strings.Join(names, "|")+")$")
}

// longTests are the tests in a directory's files with the build tag integration, and those that look at the constant
// long, by themselves or through a function. They are found in the source, so that none is forgotten. Functions are told
// apart by their names: rather one test too many.
func longTests(dir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	longer, uses := map[string]bool{"long": true}, make(map[string][]string)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), path, text, 0)
		if err != nil {
			return nil, err
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			name := f.Name.Name
			longer[name] = longer[name] || needsTag(string(text)) && strings.HasPrefix(name, "Test")
			ast.Inspect(f.Body, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					uses[name] = append(uses[name], id.Name)
				}
				return true
			})
		}
	}
	for found := true; found; {
		found = false
		for name, used := range uses {
			if !longer[name] && slices.ContainsFunc(used, func(other string) bool { return longer[other] }) {
				longer[name], found = true, true
			}
		}
	}
	var tests []string
	for name := range longer {
		if longer[name] && strings.HasPrefix(name, "Test") && name != "TestMain" {
			tests = append(tests, name)
		}
	}
	if len(tests) == 0 {
		return nil, errors.New("no test is longer with the build tag integration")
	}
	slices.Sort(tests)
	return tests, nil
}

// needsTag reports whether a file is not there without the build tag integration.
func needsTag(text string) bool {
	line, _, _ := strings.Cut(text, "\n")
	needs, err := constraint.Parse(line)
	return err == nil && needs.Eval(func(tag string) bool { return tag == "integration" }) && !needs.Eval(func(string) bool { return false })
}

// What needs the tag is found, by its file, by the constant and through a function, and nothing else is.
func TestOnlyLongFindsAllThatAreLonger(t *testing.T) {
	t.Parallel()
	tests, err := longTests(".")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"TestComposeCarriesAPublishedComment": true, "TestOutageLosesAndRepeatsNothing": true,
		"TestNothingIsLostOrSilentlyRepeatedInChaos": true, "TestReplayOfDeadLettersOfSixCauses": true,
		"TestRetryAfterIsKeptByEverybody": false, "TestReplicasShareThePartitionsAndTheRate": false,
	} {
		if slices.Contains(tests, name) != want {
			t.Errorf("%s is longer: %v, want %v", name, !want, want)
		}
	}
}
