package relay

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/fault"
)

func TestWhatCannotBeReadHoldsEverythingUntilItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		var works atomic.Bool
		unreadable := comments(1, "1")
		unreadable.refuse = func() error {
			if works.Load() {
				return nil
			}
			return &fault.Error{Kind: fault.Systemic, Reason: fault.Storage, Detail: "STREAM.MSG.GET is not permitted"}
		}
		b.Accept(unreadable)
		synctest.Wait()
		if holds := b.gate.Holds(); len(holds) != 1 || holds[0].Reason != fault.Storage || holds[0].Detail != "STREAM.MSG.GET is not permitted" {
			t.Fatalf("holds %+v, want storage with its reason", holds)
		}
		time.Sleep(10 * time.Minute)
		works.Store(true)
		<-unreadable.acked
		synctest.Wait()
		if b.gate.Held(fault.Storage) || len(b.api.requests()) != 1 || b.journal.all()[0].Attempts != 1 {
			t.Errorf("held %v, %d requests", b.gate.Held(fault.Storage), len(b.api.requests()))
		}
	})
}

func TestWhoLostTheLeaseDoesNotWaitForWhatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, &fakeAPI{}, nil)
		unreadable := comments(1, "1")
		unreadable.refuse = func() error {
			return &fault.Error{Kind: fault.Systemic, Reason: fault.Storage, Detail: "no"}
		}
		b.Accept(unreadable)
		synctest.Wait()
		b.tenure.lose()
		<-unreadable.acked // forgotten
		synctest.Wait()
		if b.gate.Held(fault.Storage) {
			t.Error("the hold of what nobody reads here any more is still on")
		}
	})
}

func TestAPurgeIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := start(t, &fakeAPI{}, nil)
		b.deps.Logger = slog.New(slog.NewTextHandler(&log, nil))
		for seq := range uint64(500) {
			gone := comments(seq+1, "1")
			gone.removed = true
			b.Accept(gone)
		}
		time.Sleep(2 * removalsPause)
		b.stop()
		<-b.done
		if text := log.String(); strings.Count(text, "removed") != 1 || !strings.Contains(text, "updates=500 first_seq=1 last_seq=500") {
			t.Errorf("logged %s", text)
		}
	})
}
