package fault

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestOfFindsTheFaultThroughWrappers(t *testing.T) {
	f := &Error{Kind: Permanent, Reason: Gone, Status: 410}
	if got := Of(fmt.Errorf("sending: %w", f)); got != f {
		t.Errorf("got %v", got)
	}
	if Of(nil) != nil {
		t.Error("a fault without an error")
	}
}

func TestAnUnclassifiedErrorIsRetriedNeverDeadLettered(t *testing.T) {
	cause := errors.New("surprise")
	got := Of(cause)
	if got.Kind != Transient || got.Reason != Outage || got.Unknown || !errors.Is(got, cause) {
		t.Errorf("got %+v", got)
	}
}

func TestCausesAreSeenThroughAFault(t *testing.T) {
	if !errors.Is(&Error{Kind: Interrupted, Err: context.Canceled}, context.Canceled) {
		t.Error("the cause is hidden")
	}
}

func TestTextSaysReasonStatusAndDetail(t *testing.T) {
	for want, f := range map[string]*Error{
		"gone (status 410): the Vorgang is deleted": {Kind: Permanent, Reason: Gone, Status: 410, Detail: "the Vorgang is deleted", Err: errors.New("x")},
		"outage: refused":        {Kind: Transient, Reason: Outage, Err: errors.New("refused")},
		"interrupted: not sent":  {Kind: Interrupted, Detail: "not sent"},
		"throttled (status 429)": {Kind: Throttled, Reason: Throttling, Status: 429},
	} {
		if got := f.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
