package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"kexrelay/internal/journal"
)

// cmdStored looks for secrets in whatever NATS gives: each message of each stream, and so also each value of a bucket and
// each piece of an object. They must be there, or with ! be nowhere.
func cmdStored(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] stored FILE")
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	js := connectScript(ts)
	found := map[string]string{} // Where, by canary.
	messages := 0
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		stream, err := js.Stream(ctx, info.Config.Name)
		ts.Check(err)
		for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
			msg, err := stream.GetMsg(ctx, seq)
			if err != nil {
				continue // Removed.
			}
			messages++
			text := fmt.Sprintf("%s %v %s", msg.Subject, msg.Header, msg.Data)
			for canary := range strings.Lines(ts.ReadFile(args[0])) {
				if canary = strings.TrimSpace(canary); canary != "" && strings.Contains(text, canary) {
					found[canary] += fmt.Sprintf(" %s/%d", info.Config.Name, seq)
				}
			}
		}
	}
	ts.Check(journal.Explain("listing the streams", js, streams.Err()))
	switch {
	case messages == 0:
		ts.Fatalf("there is no message in any stream")
	case neg && len(found) > 0:
		ts.Fatalf("found in %v", found)
	case !neg && len(found) < len(strings.Fields(ts.ReadFile(args[0]))):
		ts.Fatalf("only %v was found", found)
	}
	ts.Logf("%d messages were looked at", messages)
}
