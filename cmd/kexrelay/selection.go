package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// selection is the flags that several commands select updates by. The zero value selects all.
type selection struct {
	vorgang string
	kinds   []string
	since   string
}

func (s *selection) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.vorgang, "vorgang", "", "only of this `Vorgangsnummer`; '~' stands for updates that had no valid one")
	cmd.Flags().StringSliceVar(&s.kinds, "kind", nil, "only of this `kind`: document or comments")
	completeNothing(cmd, "vorgang")
	completeFixed(cmd, "kind", "document", "comments", string(update.Document), string(update.Comments), string(update.Invalid))
}

func (s *selection) registerSince(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.since, "since", "", "only from this `time` on: 90s, 15m, 2h, 7d, 2026-01-31, '2026-01-31 13:00' or RFC 3339")
	completeFixed(cmd, "since", "15m", "1h", "24h", "7d")
}

// selected is what a selection's texts mean.
type selected struct {
	vorgang string
	kinds   []update.Kind
	since   time.Time
}

// parse reads the texts; a wrong one is a usage error.
func (s *selection) parse(now time.Time) (selected, error) {
	var out selected
	if s.vorgang != "" {
		number, err := parseVorgang(s.vorgang)
		if err != nil {
			return selected{}, err
		}
		out.vorgang = number
	}
	for _, text := range s.kinds {
		kind, err := parseKind(text)
		if err != nil {
			return selected{}, err
		}
		out.kinds = append(out.kinds, kind)
	}
	since, err := parseSince(s.since, now)
	if err != nil {
		return selected{}, err
	}
	out.since = since
	return out, nil
}

// parseVorgang checks a Vorgangsnummer given to filter by; "~" stands for updates that had no valid one.
func parseVorgang(text string) (string, error) {
	if text == update.NoVorgangsnummer {
		return text, nil
	}
	return checkVorgang(text)
}

// checkVorgang checks a Vorgangsnummer to publish to.
func checkVorgang(text string) (string, error) {
	if _, _, err := update.ParseSubject(update.SubjectPrefix + text + "." + string(update.Document)); err != nil {
		return "", usagef("--vorgang: %q is no Vorgangsnummer: 1 to %d of the characters A-Z a-z 0-9 _ -", shorten(printable(text), 80), update.MaxVorgangsnummerLength)
	}
	return text, nil
}

// parseKind takes the API's German names and the English ones.
func parseKind(text string) (update.Kind, error) {
	switch text {
	case string(update.Document), "document":
		return update.Document, nil
	case string(update.Comments), "comments":
		return update.Comments, nil
	case string(update.Invalid):
		return update.Invalid, nil
	}
	return "", usagef("--kind: %q is none of document (dokument), comments (kommentare), invalid", text)
}

// parseSince reads a moment in the past: how long ago, a local date with or without time, or RFC 3339.
func parseSince(text string, now time.Time) (time.Time, error) { return parseTime("since", text, now) }

// parseTime is parseSince for the value of any flag.
func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := parseAgo(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	for _, layout := range []string{time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	return time.Time{}, usagef("--%s: %q is no time: write 15m, 2h, 7d, 2026-01-31, '2026-01-31 13:00' or RFC 3339", flag, text)
}

// parseAgo is time.ParseDuration with days.
func parseAgo(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 0 || n > 36500 {
			return 0, fmt.Errorf("%q is no number of days", days)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	return time.ParseDuration(text)
}

// parseMembers checks the values of a flag that takes members of a closed set.
func parseMembers[T ~string](flag string, given []string, known []T) ([]T, error) {
	var out []T
	for _, text := range given {
		if !slices.Contains(known, T(text)) {
			return nil, usagef("--%s: %q is none of %s", flag, text, strings.Join(names(known), ", "))
		}
		out = append(out, T(text))
	}
	return out, nil
}

func names[T ~string](all []T) []string {
	texts := make([]string, len(all))
	for i, one := range all {
		texts[i] = string(one)
	}
	return texts
}

// parseReasons checks the values of --reason.
func parseReasons(given []string) ([]fault.Reason, error) {
	return parseMembers("reason", given, fault.DeadLetterReasons())
}

// parseOutcomes checks the values of --outcome.
func parseOutcomes(given []string) ([]update.Outcome, error) {
	return parseMembers("outcome", given, update.Outcomes())
}
