package journal

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kexrelay/internal/topology"
)

func aRun(id string) ReplayRun {
	return ReplayRun{ID: id, Selection: "--all", UpTo: 9, Letters: storedAt, BegunAt: storedAt.Add(time.Hour), By: "ops@host"}
}

func sameRun(t *testing.T, got, want ReplayRun) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(ReplayRun{})); diff != "" {
		t.Errorf("run (-want +got):\n%s", diff)
	}
}

func TestWhoeverReplaysTheSameWorksOnOneRun(t *testing.T) {
	claims := NewClaims(setUp(t, topology.Options{}))
	ctx := t.Context()
	if _, found, err := claims.Run(ctx, "--all"); found || err != nil {
		t.Fatalf("no run yet: %v, %v", found, err)
	}
	first, begun, err := claims.BeginRun(ctx, aRun("a"), nil)
	if !begun || err != nil {
		t.Fatalf("first: begun %v, %v", begun, err)
	}
	second, begun, err := claims.BeginRun(ctx, aRun("b"), nil)
	if begun || err != nil {
		t.Fatalf("second: begun %v, %v", begun, err)
	}
	sameRun(t, second, aRun("a"))
	third, begun, err := claims.BeginRun(ctx, aRun("c"), &second)
	if !begun || err != nil {
		t.Fatalf("in its place: begun %v, %v", begun, err)
	}
	if late, begun, err := claims.BeginRun(ctx, aRun("d"), &second); begun || err != nil || late.ID != "c" {
		t.Errorf("in the place of one that was replaced: %+v, %v, %v", late, begun, err)
	}
	if err := claims.EndRun(ctx, first); err != nil {
		t.Fatal(err)
	}
	got, found, err := claims.Run(ctx, "--all")
	if !found || err != nil {
		t.Fatalf("the end of a replaced run took the new one away: %v", err)
	}
	sameRun(t, got, aRun("c"))
	if err := claims.EndRun(ctx, third); err != nil {
		t.Fatal(err)
	}
	if _, found, err := claims.Run(ctx, "--all"); found || err != nil {
		t.Errorf("after the end: %v, %v", found, err)
	}
}

func TestAGroupHasOneCanary(t *testing.T) {
	claims := NewClaims(setUp(t, topology.Options{}))
	ctx := t.Context()
	run, _, err := claims.BeginRun(ctx, aRun("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	propose := func(group string, seq uint64) Canary {
		t.Helper()
		got, err := claims.Canary(ctx, run, group, Canary{Seq: seq, StoredAt: storedAt})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := propose("gone.410", 4)
	if again := propose("gone.410", 5); again.Seq != 4 || !again.StoredAt.Equal(storedAt) {
		t.Errorf("a second proposal gives %+v, want the first", again)
	}
	if other := propose("rejected.409", 5); other.Seq != 5 {
		t.Errorf("another group's is %+v", other)
	}
	next, err := claims.ReplaceCanary(ctx, run, "gone.410", first, Canary{Seq: 6, StoredAt: storedAt})
	if err != nil || next.Seq != 6 {
		t.Fatalf("replaced: %+v, %v", next, err)
	}
	if late, err := claims.ReplaceCanary(ctx, run, "gone.410", first, Canary{Seq: 7, StoredAt: storedAt}); err != nil || late.Seq != 6 {
		t.Errorf("replaced at the same time: %+v, %v; want the first replacement", late, err)
	}
	if err := claims.EndRun(ctx, run); err != nil {
		t.Fatal(err)
	}
	if _, err := claims.canary(ctx, run, "gone.410"); err == nil {
		t.Error("a canary outlived its run")
	}
}

func TestRunsThatNobodyGoesOnWithAreSwept(t *testing.T) {
	claims := NewClaims(setUp(t, topology.Options{}))
	ctx := t.Context()
	run, _, err := claims.BeginRun(ctx, aRun("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claims.Canary(ctx, run, "g", Canary{Seq: 1, StoredAt: storedAt}); err != nil {
		t.Fatal(err)
	}
	claim := acquire(t, claims, aClaim())
	if err := claims.SweepRuns(ctx, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, found, err := claims.Run(ctx, "--all"); !found || err != nil {
		t.Errorf("a young run is gone: %v", err)
	}
	if err := claims.SweepRuns(ctx, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, found, err := claims.Run(ctx, "--all"); found || err != nil {
		t.Errorf("an old run is still there: %v", err)
	}
	if _, err := claims.canary(ctx, run, "g"); err == nil {
		t.Error("an old run's canary is still there")
	}
	if _, found, err := claims.Get(ctx, claim.DeadLetterSeq, claim.DeadLetterAt); !found || err != nil {
		t.Errorf("a claim went with the runs: %v", err)
	}
}
