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

func TestHoldsAreSharedByReason(t *testing.T) {
	js := setUp(t, topology.Options{})
	holds := NewHolds(js)
	list := func() []Hold {
		t.Helper()
		all, err := NewHolds(js).List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range all {
			if age := time.Since(all[i].UpdatedAt); age < 0 || age > time.Minute {
				t.Errorf("updated %s ago", age)
			}
			all[i].UpdatedAt = time.Time{}
		}
		return all
	}
	if all := list(); all != nil {
		t.Errorf("holds %v in a new bucket", all)
	}
	outage := Hold{Reason: fault.Outage, Since: storedAt, NextProbe: storedAt.Add(time.Second), Detail: "status 503", Replica: "a"}
	operator := Hold{Reason: fault.Operator, Since: storedAt, Until: storedAt.Add(time.Hour), Replica: "b"}
	for _, hold := range []Hold{{Reason: fault.Outage, Since: storedAt, Detail: "older"}, outage, operator} {
		if err := holds.Put(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]Hold{operator, outage}, list()); diff != "" {
		t.Errorf("holds (-want +got):\n%s", diff)
	}
	for range 2 {
		if err := holds.Remove(t.Context(), fault.Outage); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]Hold{operator}, list()); diff != "" {
		t.Errorf("holds (-want +got):\n%s", diff)
	}
	without := NewHolds(connect(t, embeddedtest.Run(t).URL()))
	if _, err := without.List(t.Context()); err == nil || !strings.Contains(err.Error(), "kexrelay setup") {
		t.Errorf("List without a bucket: %v", err)
	}
	if err := without.Put(t.Context(), operator); err == nil || !strings.Contains(err.Error(), "hold") && !strings.Contains(err.Error(), "setup") {
		t.Errorf("Put without a bucket: %v", err)
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
