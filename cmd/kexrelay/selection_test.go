package main

import (
	"errors"
	"testing"
	"time"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func TestSinceTakesAgesAndTimes(t *testing.T) {
	zone := time.FixedZone("here", 2*60*60)
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, zone)
	tests := map[string]time.Time{
		"":                     {},
		"90s":                  now.Add(-90 * time.Second),
		"7d":                   now.Add(-7 * 24 * time.Hour),
		"0s":                   now,
		"2026-03-09":           time.Date(2026, 3, 9, 0, 0, 0, 0, zone),
		"2026-03-09 13:05":     time.Date(2026, 3, 9, 13, 5, 0, 0, zone),
		"2026-03-09 13:05:06":  time.Date(2026, 3, 9, 13, 5, 6, 0, zone),
		"2026-03-09T13:05":     time.Date(2026, 3, 9, 13, 5, 0, 0, zone),
		"2026-03-09T13:05:06Z": time.Date(2026, 3, 9, 13, 5, 6, 0, time.UTC),
	}
	for text, want := range tests {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-5m", "-1d", "99999999d", "2026-13-01", "1.2.2026"} {
		if got, err := parseSince(text, now); err == nil {
			t.Errorf("%q is taken as %v", text, got)
		}
	}
}

func TestKindsHaveTwoNames(t *testing.T) {
	tests := map[string]update.Kind{
		"dokument": update.Document, "document": update.Document,
		"kommentare": update.Comments, "comments": update.Comments, "invalid": update.Invalid,
	}
	for text, want := range tests {
		if got, err := parseKind(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	_, err := parseKind("Dokument")
	if exit, ok := errors.AsType[*exitError](err); !ok || exit.code != exitUsage {
		t.Errorf("an unknown kind gives %v, want a usage error", err)
	}
}

func TestSizes(t *testing.T) {
	tests := map[string]int64{
		"1B": 1, "512B": 512, "1K": 1 << 10, "20GiB": 20 << 30, "500MB": 5e8, "2 TiB": 2 << 40,
		"unlimited": topology.Unlimited, "-1": topology.Unlimited,
	}
	for text, want := range tests {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "1", "1000", "-2", "x", "1.5GiB", "9999999999TiB", "GiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is taken as %d", text, got)
		}
	}
}
