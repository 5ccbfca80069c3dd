package integration

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/update"
)

// sentUpdate is what the publisher knows about one update. Its trace ID is its own.
type sentUpdate struct {
	vorgang, kind, traceID string
	digest                 string
	// invalid says that it can never be booked.
	invalid bool
	// repeats is the trace ID of an update that had the same Nats-Msg-Id.
	repeats string
	// tries counts its publishes, acked are the sequences of those that were acknowledged, duplicate says that the last
	// PubAck called it stored before.
	tries     int
	acked     []uint64
	duplicate bool
	ackedAt   time.Time
}

// publishers is how many of them there are: one that waits for its PubAck must not keep all others from trying.
const publishers = 4

// roundSize is by how much the numbers of updates are apart that are published in different calls of publishAll.
const roundSize = 1_000_000

// publishAll publishes until ctx ends, as careful CRMs do: each update again with the same ID until it is acknowledged.
func (c *chaos) publishAll(ctx context.Context, seed uint64) error {
	nc, err := nats.Connect(linkURLs(c.publisher), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond),
		nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // Each publish has its own answer.
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	first := c.rounds * roundSize
	c.rounds++
	var all sync.WaitGroup
	for i := range publishers {
		all.Go(func() {
			p := chaosPublisher{chaos: c, js: js, n: first + i, random: rand.New(rand.NewPCG(seed, uint64(i)))}
			p.run(ctx)
		})
	}
	all.Wait()
	return nil
}

// chaosPublisher is one CRM.
type chaosPublisher struct {
	*chaos
	js     jetstream.JetStream
	n      int
	random *rand.Rand
	last   *sentUpdate
}

func (p *chaosPublisher) run(ctx context.Context) {
	for ; ctx.Err() == nil; p.n += publishers {
		u, m := p.next()
		p.mu.Lock()
		p.updates[u.traceID] = u
		p.mu.Unlock()
		if !p.publish(ctx, u, m) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(p.random.Int64N(int64(2 * publishers * p.cfg.pace)))):
		}
	}
}

// next makes an update: mostly comments, some documents, some that can never be booked, some with the ID of the one
// before.
func (p *chaosPublisher) next() (*sentUpdate, *nats.Msg) {
	u := &sentUpdate{
		vorgang: strconv.Itoa(100000 + p.random.IntN(p.cfg.vorgaenge)), kind: string(update.Comments), traceID: fmt.Sprintf("chaos%07d", p.n),
	}
	id := u.traceID
	body := fmt.Sprintf(`["chaos %d"]`, p.n)
	switch dice := p.random.IntN(100); {
	case dice < 4:
		u.kind = string(update.Document)
		content := documents()[:p.random.IntN(270_000)/4*4+30_000]
		body = fmt.Sprintf(`{"filename":"scan %d.pdf","base64Content":%q}`, p.n, content)
	case dice < 6:
		u.invalid = true
		switch p.random.IntN(4) {
		case 0:
			body = `[]`
		case 1:
			body = fmt.Sprintf(`["chaos %d"`, p.n)
		case 2:
			body = fmt.Sprintf("[\"\xff %d\"]", p.n)
		default:
			u.kind = "notiz"
		}
	case dice < 8 && p.last != nil:
		u.repeats, id = p.last.traceID, p.last.traceID
	}
	digest := sha256.Sum256([]byte(body))
	u.digest = hex.EncodeToString(digest[:])
	m := nats.NewMsg(update.SubjectPrefix + u.vorgang + "." + u.kind)
	m.Data = []byte(body)
	m.Header.Set("Nats-Msg-Id", id)
	m.Header.Set("X-TraceId", u.traceID)
	if u.repeats == "" {
		p.last = u
	}
	return u, m
}

// publish tries until the server acknowledges, and reports whether it did: at the end of the run an unacknowledged
// update is given half a minute.
func (p *chaosPublisher) publish(ctx context.Context, u *sentUpdate, m *nats.Msg) bool {
	given := time.Time{}
	for {
		p.mu.Lock()
		u.tries++
		p.mu.Unlock()
		try, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		ack, err := p.js.PublishMsg(try, m)
		cancel()
		if err == nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			u.duplicate, u.ackedAt = ack.Duplicate, time.Now()
			if u.repeats == "" || !ack.Duplicate {
				u.acked = append(u.acked, ack.Sequence)
				p.acked++
			}
			return true
		}
		if ctx.Err() != nil {
			if given.IsZero() {
				given = time.Now()
			}
			if time.Since(given) > 30*time.Second {
				return false
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// documents is base64 to take documents from.
var documents = sync.OnceValue(func() string {
	random := rand.NewChaCha8([32]byte{1})
	raw := make([]byte, 300_000)
	_, _ = random.Read(raw) // It never fails.
	return base64.StdEncoding.EncodeToString(slices.Clip(raw))
})
