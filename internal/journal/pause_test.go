package journal

import (
	"errors"
	"testing"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func TestAPauseIsADurationByTheServersClock(t *testing.T) {
	holds := NewHolds(setUp(t, topology.Options{}))
	if _, err := holds.Resume(t.Context(), ""); !errors.Is(err, ErrNoHold) {
		t.Errorf("Resume of nothing: %v", err)
	}
	endless, was, err := holds.Pause(t.Context(), Pause{Text: "maintenance", By: "jane@desk"})
	if err != nil || was.Revision != 0 {
		t.Fatalf("%+v, %v", was, err)
	}
	if endless.WaitMillis != 0 || !endless.Until.IsZero() || endless.Reason != fault.Operator {
		t.Errorf("a pause without end is %+v", endless)
	}
	until := time.Now().Add(time.Hour)
	for name, p := range map[string]Pause{"for": {For: time.Hour}, "until": {Until: until}} {
		is, was, err := holds.Pause(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if wait := time.Duration(is.WaitMillis) * time.Millisecond; wait > time.Hour || wait < time.Hour-time.Minute {
			t.Errorf("%s: waits %v, want an hour", name, wait)
		}
		if diff := is.Until.Sub(until).Abs(); diff > time.Minute {
			t.Errorf("%s: until %v, want %v", name, is.Until, until)
		}
		if was.Revision == 0 || is.Raises != was.Raises+1 || !is.Since.Equal(endless.Since) {
			t.Errorf("%s: %+v replaces %+v", name, is, was)
		}
	}
	if _, _, err := holds.Pause(t.Context(), Pause{Until: time.Now().Add(-time.Minute)}); !errors.Is(err, ErrPauseOver) {
		t.Errorf("a pause that is over: %v", err)
	}
	if was, err := holds.Resume(t.Context(), ""); err != nil || was.WaitMillis == 0 {
		t.Errorf("%+v, %v", was, err)
	}
	if all, err := holds.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%v, %v after the resume", all, err)
	}
}

// The pause of a kind is one of its own: it is no hold, is resumed alone, and stays when the pause of everything ends.
func TestAPauseOfOneKindIsOneOfItsOwn(t *testing.T) {
	holds := NewHolds(setUp(t, topology.Options{}))
	changes := make(chan HoldChange, 10)
	go func() { _ = holds.Watch(t.Context(), func(c HoldChange) { changes <- c }) }()
	told := func(kind update.Kind, gone bool) {
		t.Helper()
		select {
		case c := <-changes:
			if c.Kind() != kind || c.Gone != gone {
				t.Errorf("told of %q, gone %v; want %q, %v", c.Kind(), c.Gone, kind, gone)
			}
		case <-time.After(time.Minute):
			t.Fatalf("nothing was told of %q", kind)
		}
	}
	if _, _, err := holds.Pause(t.Context(), Pause{Kind: update.Document, Text: "scanner broken"}); err != nil {
		t.Fatal(err)
	}
	told(update.Document, false)
	if _, _, err := holds.Pause(t.Context(), Pause{}); err != nil {
		t.Fatal(err)
	}
	told("", false)
	if all, err := holds.List(t.Context()); err != nil || len(all) != 1 || all[0].Reason != fault.Operator || all[0].Kind() != "" {
		t.Errorf("the holds are %+v, %v", all, err)
	}
	for kind, want := range map[update.Kind]int{update.Document: 2, update.Comments: 1} { //nolint:exhaustive // The others cannot be paused.
		if all, err := holds.ListFor(t.Context(), kind); err != nil || len(all) != want {
			t.Errorf("of %s: %+v, %v; want %d", kind, all, err, want)
		}
	}
	if _, err := holds.Resume(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	told("", true)
	if all, err := holds.Kinds(t.Context()); err != nil || len(all) != 1 || all[0].Kind() != update.Document || all[0].Detail != "scanner broken" {
		t.Errorf("paused kinds after a resume of everything: %+v, %v", all, err)
	}
	if _, err := holds.Resume(t.Context(), update.Comments); !errors.Is(err, ErrNoHold) {
		t.Errorf("resume of the kind that is not paused: %v", err)
	}
	if was, err := holds.Resume(t.Context(), update.Document); err != nil || was.Detail != "scanner broken" {
		t.Errorf("%+v, %v", was, err)
	}
	told(update.Document, true)
}
