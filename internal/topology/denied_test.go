package topology

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestADeniedCallEndsAtOnce(t *testing.T) {
	var d Denials
	early, earlyEnd := Call(d.Into(t.Context()), time.Hour)
	defer earlyEnd()
	tell := d.Listen()
	ctx, cancel := Call(d.Into(t.Context()), time.Hour)
	defer cancel()
	child, stop := context.WithTimeout(ctx, time.Hour) // As the client makes of it.
	defer stop()
	tell("$JS.API.CONSUMER.DELETE.KEX_UPDATES.x") // Nobody waits for it.
	if ctx.Err() != nil || child.Err() != nil {
		t.Fatalf("ended: %v, %v", ctx.Err(), child.Err())
	}
	tell("$JS.API.STREAM.INFO.KEX_UPDATES")
	<-child.Done()
	for _, err := range []error{ctx.Err(), child.Err()} {
		if !errors.Is(err, ErrDenied) || !errors.Is(err, context.DeadlineExceeded) ||
			err.Error() != "NATS does not permit it: this user has no right to $JS.API.STREAM.INFO.KEX_UPDATES" {
			t.Errorf("%v", err)
		}
	}
	if early.Err() != nil {
		t.Error("a call ended of which nobody listens")
	}
	next, done := Call(d.Into(t.Context()), time.Hour) // What was denied before says nothing about the next one.
	if next.Err() != nil {
		t.Error(next.Err())
	}
	done()
	<-next.Done()
	if !errors.Is(next.Err(), context.Canceled) || len(d.waiting) != 1 {
		t.Errorf("%v, %d waiting", next.Err(), len(d.waiting))
	}
	late, end := Call(d.Into(t.Context()), time.Millisecond)
	defer end()
	<-late.Done()
	if err := late.Err(); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrDenied) {
		t.Error(err)
	}
	if plain, end := Call(t.Context(), time.Hour); true {
		end()
		if !errors.Is(plain.Err(), context.Canceled) {
			t.Error(plain.Err())
		}
	}
}
