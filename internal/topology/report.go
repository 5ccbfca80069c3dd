package topology

import (
	"fmt"
	"strings"
)

// Action is what setup did, or in a dry run would do, to one thing.
type Action string

// The actions.
const (
	Unchanged Action = "unchanged"
	Created   Action = "created"
	Updated   Action = "updated"
	Removed   Action = "removed"
)

// Change is one setting that differed.
type Change struct {
	// Field is the setting's name as the nats CLI's JSON has it.
	Field string `json:"field"`
	Old   string `json:"old"`
	New   string `json:"new"`

	fixed, tunable bool
}

// String is "field: old → new".
func (c Change) String() string { return c.Field + ": " + c.Old + " → " + c.New }

// Thing is one stream, bucket or consumer.
type Thing struct {
	// Name says what it is and how it is called, e.g. "stream KEX_UPDATES".
	Name    string   `json:"name"`
	Action  Action   `json:"action"`
	Changes []Change `json:"changes,omitempty"`
	// Note tells what else was done to it, e.g. that a consumer begins again.
	Note string `json:"note,omitempty"`
}

// String is the thing's line in the report.
func (t Thing) String() string {
	line := t.Name + ": " + string(t.Action)
	if len(t.Changes) > 0 {
		changes := make([]string, len(t.Changes))
		for i, c := range t.Changes {
			changes[i] = c.String()
		}
		line += " (" + strings.Join(changes, "; ") + ")"
	}
	if t.Note != "" {
		line += ", " + t.Note
	}
	return line
}

// Report is what setup did or would do, in its order.
type Report struct {
	// DryRun says that nothing was changed: actions are what would be done.
	DryRun     bool    `json:"dryRun"`
	Server     string  `json:"server"` // The connected server's version.
	Partitions int     `json:"partitions"`
	Things     []Thing `json:"things"`
}

// Changed reports whether anything was, or in a dry run would be, done.
func (r Report) Changed() bool {
	for _, t := range r.Things {
		if t.Action != Unchanged {
			return true
		}
	}
	return false
}

// String is one line per thing.
func (r Report) String() string {
	var b strings.Builder
	for _, t := range r.Things {
		fmt.Fprintln(&b, t)
	}
	return b.String()
}
