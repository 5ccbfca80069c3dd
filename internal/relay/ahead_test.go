package relay

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// While requests are being made the records of the next ones are written: with an API as quick as the ledger, the
// wait for it costs no throughput. Never are more requests made at once than configured, and no record is old.
func TestRecordsAreWrittenAheadOfTheirPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const updates, wait = 800, 4 * time.Millisecond
		api := &fakeAPI{latency: wait}
		b := start(t, api, nil)
		b.tenure.refuse = func() error { time.Sleep(wait); return nil } // Each record takes as long as an answer.
		begun := time.Now()
		var last *fakeDelivery
		for i := range updates {
			last = comments(uint64(i+1), strconv.Itoa(100_000+i))
			b.Accept(last)
		}
		<-last.acked
		synctest.Wait()
		took := time.Since(begun)
		if api.most != 8 {
			t.Errorf("%d requests at once, want 8", api.most)
		}
		// 8 at once, one after the other, take half as long as records and requests in turn.
		if least := updates / 8 * wait; took > least*3/2 {
			t.Errorf("%d updates took %v, want little more than %v: requests wait for their records", updates, took, least)
		}
	})
}
