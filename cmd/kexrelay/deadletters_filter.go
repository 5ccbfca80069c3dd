package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/fault"
)

// deadLetterFilter is the flags that select dead letters. The zero value selects all.
type deadLetterFilter struct {
	selection selection
	reasons   []string
	statuses  []string
	traceID   string
	updateID  string
	olderThan string
	newerThan string
	replays   string
	text      string
	group     string
}

// filterFlags are the names of the flags of deadLetterFilter.
func filterFlags() []string {
	return []string{
		"reason", "status", "kind", "vorgang", "trace-id", "update-id", "since", "older-than", "newer-than", "replays", "text", "fingerprint",
	}
}

func (d *deadLetters) registerFilter(cmd *cobra.Command) {
	f, flags := &d.filtered, cmd.Flags()
	flags.StringSliceVar(&f.reasons, "reason", nil, "only for this `reason`: bad_request, gone, …; several with commas")
	flags.StringSliceVar(&f.statuses, "status", nil, "only with this `status` of the API: 410, 4xx, 500-504, none; several with commas")
	f.selection.register(cmd)
	flags.StringVar(&f.traceID, "trace-id", "", "only with this trace `ID`, the update's or its last request's")
	flags.StringVar(&f.updateID, "update-id", "", "only of the update with this `ID` (the publisher's Nats-Msg-Id)")
	f.selection.registerSince(cmd)
	flags.StringVar(&f.olderThan, "older-than", "", "only dead letters for longer than this `duration`: 90s, 15m, 2h, 7d")
	flags.StringVar(&f.newerThan, "newer-than", "", "only dead letters for less than this `duration`")
	flags.StringVar(&f.replays, "replays", "", "only after this `number` of replays: 0, 2, 1-3, 2+")
	flags.StringVar(&f.text, "text", "", "only with this `text` in the detail, in upper or lower case")
	flags.StringVar(&f.group, "fingerprint", "", "only of this `group`, as list --group shows it")
	completeFixed(cmd, "reason", names(fault.DeadLetterReasons())...)
	completeFixed(cmd, "status", "4xx", "5xx", "none", "400", "403", "404", "410")
	completeFixed(cmd, "older-than", "15m", "1h", "24h", "7d")
	completeFixed(cmd, "newer-than", "15m", "1h", "24h", "7d")
	completeFixed(cmd, "replays", "0", "1+")
	completeNothing(cmd, "trace-id", "update-id", "text")
	register(cmd, "fingerprint", d.completeGroups)
}

// filter reads the flags; a wrong one is a usage error.
func (d *deadLetters) filter() (deadletter.Filter, error) {
	f, now := &d.filtered, time.Now()
	selected, err := f.selection.parse(now)
	if err != nil {
		return deadletter.Filter{}, err
	}
	reasons, err := parseReasons(f.reasons)
	if err != nil {
		return deadletter.Filter{}, err
	}
	filter := deadletter.Filter{
		Reasons: reasons, Kinds: selected.kinds, Vorgangsnummer: selected.vorgang, Since: selected.since,
		TraceID: f.traceID, UpdateID: f.updateID, Text: f.text, Group: strings.ToLower(f.group),
	}
	for _, text := range f.statuses {
		status, err := parseStatus(text)
		if err != nil {
			return deadletter.Filter{}, err
		}
		filter.Statuses = append(filter.Statuses, status)
	}
	if filter.Replays, err = parseReplays(f.replays); err != nil {
		return deadletter.Filter{}, err
	}
	if f.group != "" && !deadletter.ValidFingerprintID(filter.Group) {
		return deadletter.Filter{}, usagef("--fingerprint: %q is no group; kexrelay deadletters list --group shows them", shorten(printable(f.group), 80))
	}
	return filter, f.ages(&filter, now)
}

// ages reads the flags of age.
func (f *deadLetterFilter) ages(filter *deadletter.Filter, now time.Time) error {
	older, err := parseAge("older-than", f.olderThan)
	if err != nil {
		return err
	}
	newer, err := parseAge("newer-than", f.newerThan)
	if err != nil {
		return err
	}
	if older > 0 {
		filter.Until = now.Add(-older)
	}
	if newer > 0 && now.Add(-newer).After(filter.Since) {
		filter.Since = now.Add(-newer)
	}
	if !filter.Until.IsZero() && filter.Until.Before(filter.Since) {
		return usagef("--older-than together with --newer-than or --since leaves no time")
	}
	return nil
}

func parseAge(flag, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	age, err := parseAgo(text)
	if err != nil || age <= 0 {
		return 0, usagef("--%s: %q is no duration: write 90s, 15m, 2h or 7d", flag, text)
	}
	return age, nil
}

// parseStatus reads 410, 4xx, 500-504 or none.
func parseStatus(text string) (deadletter.Range, error) {
	const lowest, highest, class = 100, 599, 100
	if text == "none" {
		return deadletter.NoAnswer(), nil
	}
	if first, ok := strings.CutSuffix(strings.ToLower(text), "xx"); ok {
		if n, err := strconv.Atoi(first); err == nil && n >= lowest/class && n <= highest/class {
			return deadletter.Range{From: n * class, To: n*class + class - 1}, nil
		}
	}
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	low, errLow := strconv.Atoi(from)
	high, errHigh := strconv.Atoi(to)
	if errLow != nil || errHigh != nil || low < lowest || high > highest || low > high {
		return deadletter.Range{}, usagef("--status: %q is none of 410, 4xx, 500-504, none", text)
	}
	return deadletter.Range{From: low, To: high}, nil
}

// parseReplays reads 0, 2, 1-3 or 2+.
func parseReplays(text string) (*deadletter.Range, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // No bounds are an ordinary wish.
	}
	const unbounded = 1 << 30
	from, to, isRange := strings.Cut(text, "-")
	switch open, plus := strings.CutSuffix(text, "+"); {
	case plus:
		from, to = open, strconv.Itoa(unbounded)
	case !isRange:
		to = from
	}
	low, errLow := strconv.ParseUint(from, 10, 31)
	high, errHigh := strconv.ParseUint(to, 10, 31)
	if errLow != nil || errHigh != nil || low > high {
		return nil, usagef("--replays: %q is none of 0, 2, 1-3, 2+", text)
	}
	return &deadletter.Range{From: int(low), To: int(high)}, nil
}

// completeGroups offers the groups there are, with what they are about.
func (d *deadLetters) completeGroups(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	store, closeAll, err := d.open(ctx, cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer closeAll()
	groups, err := store.Groups(ctx, deadletter.Filter{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []cobra.Completion
	for _, group := range groups {
		if group.ID != "" && strings.HasPrefix(group.ID, prefix) {
			about := fmt.Sprintf("%d × %s %s, %s", group.Count, group.Reason, group.Kind, shorten(group.Error, 40))
			found = append(found, cobra.CompletionWithDesc(group.ID, printable(about)))
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
