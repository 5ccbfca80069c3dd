package integration

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
)

// 2,000 documents of 300 kB pass while the relay's resident memory stays under 100 MB.
func TestMemoryStaysBoundedWhileDocumentsPass(t *testing.T) {
	const limit = 100_000_000
	documents := 400
	if long {
		documents = 2000
	}
	s := newSystem(t, simulator.Script{Latency: simulator.Fixed(5 * time.Millisecond)})
	content := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("0123456789abcdef"), 300_000/16))
	for i := range documents {
		s.publish(fmt.Sprintf("kex.vorgang.%d.dokument", 1+i%300),
			fmt.Sprintf(`{"filename":"scan-%d.pdf","base64Content":"%s"}`, i, content), nil)
	}
	s.serve("KEXRELAY_LOG_LEVEL=info")
	var peak atomic.Int64
	eventually(t, 3*time.Minute, "all documents are booked", func() bool {
		peak.Store(max(peak.Load(), s.relay.residentBytes(t)))
		return s.api.Counts().Booked == documents
	})
	s.drained(10 * time.Second)
	t.Logf("%d documents of 300 kB, peak resident memory %.1f MB", documents, float64(peak.Load())/1e6)
	if peak.Load() > memoryLimit(limit) {
		t.Errorf("peak resident memory %.1f MB, want below 100 MB", float64(peak.Load())/1e6)
	}
	if n := s.count(topology.StreamDeadLetters); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}
