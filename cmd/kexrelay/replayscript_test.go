package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdSequences writes down where every stream ends, so that two moments can be compared.
func cmdSequences(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sequences FILE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	streams := connectScript(ts).ListStreams(ctx)
	var lines []string
	for info := range streams.Info() {
		lines = append(lines, fmt.Sprintf("%s %d\n", info.Config.Name, info.State.LastSeq))
	}
	ts.Check(streams.Err())
	slices.Sort(lines)
	if len(lines) == 0 {
		ts.Fatalf("there is no stream")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Join(lines, "")), 0o600))
}
