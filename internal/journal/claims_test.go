package journal

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func aClaim() Claim {
	return Claim{DeadLetterSeq: 7, DeadLetterAt: storedAt, UpdateID: "crm-1", TraceID: "sys1", Replays: 2}
}

func acquire(t *testing.T, claims *Claims, claim Claim) Claim {
	t.Helper()
	got, created, err := claims.Acquire(t.Context(), claim)
	if err != nil || !created {
		t.Fatalf("Acquire: created %v, %v", created, err)
	}
	return got
}

func TestAMessageIsAReplayOnlyIfAClaimBacksIt(t *testing.T) {
	js := setUp(t, topology.Options{})
	claims := NewClaims(js)
	claim := acquire(t, claims, aClaim())
	acquire(t, claims, Claim{DeadLetterSeq: 8, DeadLetterAt: storedAt, UpdateID: "crm-2"}) // Without a count: not ours.
	id := "replay.7-1795356306123456789"
	if claim.MsgID != id {
		t.Fatalf("the claim's message ID is %s, want %s", claim.MsgID, id)
	}
	tests := map[string]struct {
		header map[string][]string
		replay bool
	}{
		"ours":                      {map[string][]string{"Nats-Msg-Id": {id}, "Kex-Replay-Of": {"7"}}, true},
		"no headers":                {nil, false},
		"an ordinary update":        {map[string][]string{"Nats-Msg-Id": {"crm-1"}}, false},
		"the ID alone":              {map[string][]string{"Nats-Msg-Id": {id}}, false},
		"a publisher's Kex headers": {map[string][]string{"Nats-Msg-Id": {"crm-1"}, "Kex-Replay-Of": {"7"}, "Kex-Replays": {"9"}, "Kex-Update-Id": {"x"}}, false},
		"without an ID":             {map[string][]string{"Kex-Replay-Of": {"7"}}, false},
		"two dead letters":          {map[string][]string{"Nats-Msg-Id": {id}, "Kex-Replay-Of": {"7", "8"}}, false},
		"another dead letter":       {map[string][]string{"Nats-Msg-Id": {id}, "Kex-Replay-Of": {"8"}}, false},
		"another time":              {map[string][]string{"Nats-Msg-Id": {"replay.7-1"}, "Kex-Replay-Of": {"7"}}, false},
		"no claim":                  {map[string][]string{"Nats-Msg-Id": {"replay.9-1795356306123456789"}, "Kex-Replay-Of": {"9"}}, false},
		"a claim that counts none":  {map[string][]string{"Nats-Msg-Id": {"replay.8-1795356306123456789"}, "Kex-Replay-Of": {"8"}}, false},
		"no number":                 {map[string][]string{"Nats-Msg-Id": {"replay.x-y"}, "Kex-Replay-Of": {"x"}}, false},
		"an odd number":             {map[string][]string{"Nats-Msg-Id": {"replay.07-1795356306123456789"}, "Kex-Replay-Of": {"07"}}, false},
		"a wildcard":                {map[string][]string{"Nats-Msg-Id": {"replay.*"}, "Kex-Replay-Of": {"*"}}, false},
		"another spelling":          {map[string][]string{"nats-msg-id": {id}, "kex-replay-of": {"7"}}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := claims.Lookup(t.Context(), test.header)
			if err != nil {
				t.Fatal(err)
			}
			var want *update.Replay
			if test.replay {
				want = &update.Replay{DeadLetterSeq: 7, UpdateID: "crm-1", TraceID: "sys1", Replays: 2}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("replay (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLookingForAClaimNeedsNATSOnlyForReplays(t *testing.T) {
	js := connect(t, embeddedtest.Run(t).URL())
	claims := NewClaims(js)
	replay := map[string][]string{"Nats-Msg-Id": {"replay.7-1"}, "Kex-Replay-Of": {"7"}}
	_, err := claims.Lookup(t.Context(), replay)
	wantStorage(t, err, "kexrelay setup")
	js.Conn().Close()
	if got, err := claims.Lookup(t.Context(), map[string][]string{"Nats-Msg-Id": {"crm-1"}, "X-TraceId": {"sys1"}}); got != nil || err != nil {
		t.Errorf("an ordinary update: %v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = claims.Lookup(ctx, replay)
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Kind != fault.Interrupted {
		t.Errorf("after our stop: %v, want an interruption", err)
	}
}

func TestAClaimIsMadeOnceAndMarkedOnce(t *testing.T) {
	js := setUp(t, topology.Options{})
	claims := NewClaims(js)
	mine := acquire(t, claims, aClaim())
	theirs, created, err := NewClaims(js).Acquire(t.Context(), aClaim())
	if err != nil || created || theirs.Published() {
		t.Fatalf("the second Acquire: created %v, published %v, %v", created, theirs.Published(), err)
	}
	if age := time.Since(theirs.WrittenAt()); age < 0 || age > time.Minute {
		t.Errorf("claimed %s ago", age)
	}
	if mine, err = claims.Mark(t.Context(), mine, 19); err != nil || !mine.Published() {
		t.Fatalf("Mark: %v", err)
	}
	marked, err := claims.Mark(t.Context(), theirs, 20)
	if err != nil || marked.UpdateSeq != 19 {
		t.Errorf("the second Mark gives %d, %v; want the first one's 19", marked.UpdateSeq, err)
	}
	got, found, err := claims.Get(t.Context(), 7, storedAt)
	if err != nil || !found || got.UpdateSeq != 19 || got.PublishedAt.IsZero() {
		t.Errorf("Get: %+v, %v, %v", got, found, err)
	}
	if _, found, err := claims.Get(t.Context(), 7, storedAt.Add(1)); found || err != nil {
		t.Errorf("Get of another time: found %v, %v", found, err)
	}
}

func TestSweepingRemovesFinishedClaimsAlone(t *testing.T) {
	js := setUp(t, topology.Options{})
	claims := NewClaims(js)
	for seq := uint64(1); seq <= 4; seq++ {
		claim := acquire(t, claims, Claim{DeadLetterSeq: seq, DeadLetterAt: storedAt, UpdateID: "crm", Replays: 1})
		if seq == 2 {
			continue // Never marked.
		}
		if _, err := claims.Mark(t.Context(), claim, 10+seq); err != nil {
			t.Fatal(err)
		}
	}
	asked := map[uint64]bool{}
	finished := func(_ context.Context, claim Claim) (bool, error) {
		if claim.WrittenAt().IsZero() {
			t.Errorf("nobody knows how old claim %d is", claim.DeadLetterSeq)
		}
		asked[claim.DeadLetterSeq] = claim.Published()
		return claim.DeadLetterSeq == 1 || claim.DeadLetterSeq == 4, nil
	}
	if n, err := claims.Sweep(t.Context(), time.Now().Add(-time.Hour), 10, finished); n != 0 || err != nil || len(asked) != 0 {
		t.Errorf("young claims: removed %d, %v, asked about %v", n, err, asked)
	}
	if n, err := claims.Sweep(t.Context(), time.Now().Add(time.Hour), 10, finished); n != 2 || err != nil {
		t.Errorf("all: removed %d, %v; want 2", n, err)
	}
	if diff := cmp.Diff(map[uint64]bool{1: true, 2: false, 3: true, 4: true}, asked); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	for seq, want := range map[uint64]bool{1: false, 2: true, 3: true, 4: false} {
		if _, found, err := claims.Get(t.Context(), seq, storedAt); found != want || err != nil {
			t.Errorf("claim %d: found %v, %v", seq, found, err)
		}
	}
	if n := streamState(t, js, controlStream).Msgs; n != 2 {
		t.Errorf("%d messages in the bucket, want no marks of removal", n)
	}
}

// However many of the oldest stay for ever: with a few looks at a time all others go.
func TestClaimsThatStayDoNotBlockTheSweep(t *testing.T) {
	js := setUp(t, topology.Options{})
	claims := NewClaims(js)
	const stay, all = 5, 8
	for seq := uint64(1); seq <= all; seq++ {
		acquire(t, claims, Claim{DeadLetterSeq: seq, DeadLetterAt: storedAt, UpdateID: "crm", Replays: 1})
	}
	removed := 0
	for looks := 0; removed < all-stay; looks++ {
		asked := 0
		n, err := claims.Sweep(t.Context(), time.Now().Add(time.Hour), 2, func(_ context.Context, claim Claim) (bool, error) {
			asked++
			return claim.DeadLetterSeq > stay, nil
		})
		if err != nil || asked != 2 || looks > 1000 {
			t.Fatalf("sweep %d removed %d of %d asked about, %v", looks, n, asked, err)
		}
		removed += n
	}
}
