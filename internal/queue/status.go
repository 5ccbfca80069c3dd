package queue

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/topology"
)

// Headers of the server's word on a request.
const (
	headerStatus       = "Status"
	headerDescription  = "Description"
	headerPendingCount = "Nats-Pending-Messages"
)

const codeNobody = "503"

// status handles the server's word on a request. What it says about an older request than the current one counts
// only if it is about the consumer itself.
func (f *fetcher) status(m *nats.Msg) error {
	code, text := m.Header.Get(headerStatus), m.Header.Get(headerDescription)
	if request, err := strconv.ParseUint(m.Subject[len(f.inbox):], 10, 64); err == nil && code != codeNobody {
		f.q.mu.Lock()
		f.q.unproven.answered(request)
		f.q.mu.Unlock()
	}
	mine := f.current.open && m.Subject == f.current.reply
	if mine && code != "100" {
		f.current.open = false
	}
	switch code {
	case "100": // An idle heartbeat, which nobody asked for.
	case "404", "408": // Nothing more in time.
		if mine {
			f.ended()
		}
	case "423":
		f.pinLost()
	case codeNobody: // Nobody listens: there is no leader, or no consumer.
		f.suspect("no responders")
	case "400", "412":
		return f.refused(text)
	case "409":
		return f.conflict(m, mine, strings.ToLower(text))
	default:
		f.suspect(code + " " + text)
	}
	return nil
}

func (f *fetcher) conflict(m *nats.Msg, mine bool, text string) error {
	switch {
	case strings.Contains(text, "message size exceeds maxbytes"):
		if mine {
			f.full(m)
		}
	case strings.Contains(text, "batch completed"):
	case strings.Contains(text, "exceeded maxwaiting"): // Others ask too; they expire soon.
		f.retryAt = time.Now().Add(f.q.pullExpiry)
	case strings.Contains(text, "exceeded max"), strings.Contains(text, "push based"):
		return f.refused(text)
	case strings.Contains(text, "consumer deleted"):
		f.q.forgetAcks()
		f.suspect(text)
	default: // Leadership change, server shutdown.
		f.suspect(text)
	}
	return nil
}

// ended notes a request that expired: the consumer is there and has nothing more to give.
func (f *fetcher) ended() {
	f.healthy()
	if f.current.left < f.current.asked {
		return
	}
	// In a cluster a delivery is known only when its quorum has it, and one to a former process may have been on its way
	// there: without another behind it, nothing would tell of it before the ack wait is over.
	f.mustCheck, f.unsure = f.mustCheck || f.unsure, false
	f.q.mu.Lock()
	defer f.q.mu.Unlock()
	f.q.pending = 0
}

// full notes a request whose bytes are used up. If they were so before anything was delivered, the next update is
// larger than what the server takes nowadays, and would never come unless more is asked for.
func (f *fetcher) full(m *nats.Msg) {
	f.healthy()
	left, err := strconv.Atoi(m.Header.Get(headerPendingCount))
	if err != nil || left < f.current.asked {
		f.grown = 0
		return
	}
	if asked := f.current.most; asked < maxChunkBytes {
		f.grown = 2 * asked
		f.q.logger.Info("an update is larger than the request for it, asking for more", slog.Int64("bytes", f.grown))
		return
	}
	f.retryAt = time.Now().Add(maxPause)
	f.trouble(fmt.Errorf("the next update does not fit into a request of %d bytes", f.current.most))
}

// pinLost notes that another client was pinned, or that the pin expired. The next request asks for a new pin; if
// others were served meanwhile, the next delivery does not follow the last one, or there is none and the consumer is asked.
func (f *fetcher) pinLost() {
	if f.pin == "" {
		return
	}
	f.pin, f.unsure = "", true
	f.q.mu.Lock()
	f.q.pinLosses++
	f.q.mu.Unlock()
	f.q.logger.Info("the pin is lost, asking for a new one")
}

// suspect makes the fetcher look after the consumer before it asks again.
func (f *fetcher) suspect(text string) {
	f.mustCheck = true
	f.retryAt = time.Now().Add(minPause)
	f.trouble(fmt.Errorf("NATS says %q", text))
}

// refused says that the consumer does not take our kind of request, which no waiting changes.
func (f *fetcher) refused(text string) error {
	return fmt.Errorf("%w: %s of stream %s refuses the request for updates (%s); run kexrelay setup",
		ErrConsumerGone, f.q.consumer, topology.StreamUpdates, text)
}
