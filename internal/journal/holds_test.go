package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
)

func TestHoldsAreKeptByReason(t *testing.T) {
	js := setUp(t, topology.Options{})
	holds := NewHolds(js)
	list := func() []Hold {
		t.Helper()
		all, err := NewHolds(js).List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range all {
			if all[i].Age < 0 || all[i].Age > time.Minute || all[i].Revision == 0 {
				t.Errorf("age %s, revision %d", all[i].Age, all[i].Revision)
			}
			all[i].Age, all[i].Revision = 0, 0
		}
		return all
	}
	if all := list(); all != nil {
		t.Errorf("holds %v in a new bucket", all)
	}
	outage := Hold{
		Reason: fault.Outage, Since: storedAt, NextProbe: storedAt.Add(time.Second), UpdatedAt: storedAt, Detail: "status 503",
		Replica: "a", Process: "p", Writer: "q", WaitMillis: 1000, Booking: true, Failed: 3, Raises: 2, Prober: "q", ProbedBy: "b", Probe: 7,
	}
	operator := Hold{Reason: fault.Operator, Since: storedAt, Until: storedAt.Add(time.Hour), UpdatedAt: storedAt, Replica: "b"}
	first, err := holds.Create(t.Context(), Hold{Reason: fault.Outage})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holds.Create(t.Context(), outage); !errors.Is(err, ErrHoldChanged) {
		t.Errorf("Create of one that is there: %v", err)
	}
	second, err := holds.Update(t.Context(), outage, first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holds.Update(t.Context(), outage, first); !errors.Is(err, ErrHoldChanged) {
		t.Errorf("Update of a former revision: %v", err)
	}
	if _, err := holds.Create(t.Context(), operator); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Hold{operator, outage}, list()); diff != "" {
		t.Errorf("holds (-want +got):\n%s", diff)
	}
	if err := holds.Remove(t.Context(), fault.Outage, first); !errors.Is(err, ErrHoldChanged) {
		t.Errorf("Remove of a former revision: %v", err)
	}
	if err := holds.Remove(t.Context(), fault.Outage, second); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Hold{operator}, list()); diff != "" {
		t.Errorf("holds (-want +got):\n%s", diff)
	}
	if _, err := holds.Get(t.Context(), fault.Outage); !errors.Is(err, ErrNoHold) {
		t.Errorf("Get of one that was removed: %v", err)
	}
	if _, err := holds.Create(t.Context(), outage); err != nil {
		t.Errorf("Create after a removal: %v", err)
	}
	without := NewHolds(connect(t, embeddedtest.Run(t).URL()))
	if _, err := without.List(t.Context()); err == nil || !strings.Contains(err.Error(), "kexrelay setup") {
		t.Errorf("List without a bucket: %v", err)
	}
	if _, err := without.Create(t.Context(), operator); err == nil || !strings.Contains(err.Error(), "setup") {
		t.Errorf("Create without a bucket: %v", err)
	}
}

// The age of a hold is told by the server's clock alone.
func TestTheAgeOfAHoldIsTheServers(t *testing.T) {
	holds := NewHolds(setUp(t, topology.Options{}))
	wrong := time.Now().Add(-24 * time.Hour)
	begin := time.Now()
	if _, err := holds.Create(t.Context(), Hold{Reason: fault.Outage, Since: wrong, UpdatedAt: wrong, NextProbe: wrong}); err != nil {
		t.Fatal(err)
	}
	for {
		hold, err := holds.Get(t.Context(), fault.Outage)
		if err != nil {
			t.Fatal(err)
		}
		if hold.Age >= 50*time.Millisecond {
			if most := time.Since(begin) + 100*time.Millisecond; hold.Age > most {
				t.Errorf("age %v, it was written %v ago", hold.Age, most)
			}
			return
		}
	}
}

// What somebody wrote by hand is a hold without anything in it, not the end of all reading.
func TestAValueThatIsNoHoldIsReadAsAnEmptyOne(t *testing.T) {
	js := setUp(t, topology.Options{})
	kv, err := js.KeyValue(t.Context(), topology.BucketControl)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), "hold.outage", "down since noon"); err != nil {
		t.Fatal(err)
	}
	holds := NewHolds(js)
	hold, err := holds.Get(t.Context(), fault.Outage)
	if err != nil || hold.Reason != fault.Outage || hold.Revision == 0 {
		t.Fatalf("%+v, %v", hold, err)
	}
	if _, err := holds.Update(t.Context(), Hold{Reason: fault.Outage, Detail: "503"}, hold.Revision); err != nil {
		t.Error(err)
	}
}

func TestWatchTellsWhatIsThereAndEveryChange(t *testing.T) {
	js := setUp(t, topology.Options{})
	holds := NewHolds(js)
	revision, err := holds.Create(t.Context(), Hold{Reason: fault.Outage, Detail: "first"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan HoldChange, 10)
	done := make(chan error, 1)
	go func() { done <- holds.Watch(ctx, func(c HoldChange) { changes <- c }) }()
	next := func() HoldChange {
		t.Helper()
		select {
		case c := <-changes:
			return c
		case <-time.After(time.Minute):
			t.Fatal("no change is told")
			return HoldChange{}
		}
	}
	if c := next(); c.Gone || c.Reason != fault.Outage || c.Detail != "first" || c.Revision != revision {
		t.Errorf("told %+v of what is there", c)
	}
	kv, err := js.KeyValue(t.Context(), topology.BucketControl)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"hold.nosuch", "lease.9"} { // Neither is told.
		if _, err := kv.PutString(t.Context(), key, "{}"); err != nil {
			t.Fatal(err)
		}
	}
	second, err := holds.Update(t.Context(), Hold{Reason: fault.Outage, Detail: "second"}, revision)
	if err != nil {
		t.Fatal(err)
	}
	if c := next(); c.Detail != "second" || c.Revision != second {
		t.Errorf("told %+v of an update", c)
	}
	if err := holds.Remove(t.Context(), fault.Outage, second); err != nil {
		t.Fatal(err)
	}
	if c := next(); !c.Gone || c.Reason != fault.Outage || c.Revision <= second {
		t.Errorf("told %+v of a removal", c)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch ends with %v", err)
	}
}

func TestErrorsOfACallSayWhatToDo(t *testing.T) {
	js := connect(t, embeddedtest.Run(t).URL())
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"timeout": {context.DeadlineExceeded, "check the connection, and the user's rights"},
		"other":   {errors.New("something"), "doing: something"},
	} {
		if got := Explain("doing", js, fmt.Errorf("wrapped: %w", test.err)); !errors.Is(got, test.err) {
			t.Errorf("%s: %v does not wrap its cause", name, got)
		}
		if got := Explain("doing", js, test.err); !strings.Contains(got.Error(), test.want) {
			t.Errorf("%s: %v does not say %q", name, got, test.want)
		}
	}
	if err := Explain("doing", js, nil); err != nil {
		t.Errorf("no error gives %v", err)
	}
}
