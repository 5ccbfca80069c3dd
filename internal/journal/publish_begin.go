package journal

import (
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// answered hears what became of a publish. It is called on the goroutine that reads all answers: it must not wait.
type answered func(ack *jetstream.PubAck, err error)

// begun are the publishes without an answer that somebody wants to hear of.
type begun struct {
	mu      sync.Mutex
	waiting map[*nats.Msg]answered
}

// end tells whoever waits, once: an answer, a timeout and a lost connection may all want to be the first.
func (b *begun) end(m *nats.Msg, ack *jetstream.PubAck, err error) {
	if done := b.take(m); done != nil {
		done(ack, err)
	}
}

func (b *begun) take(m *nats.Msg) answered {
	b.mu.Lock()
	defer b.mu.Unlock()
	done := b.waiting[m]
	delete(b.waiting, m)
	return done
}

func (b *begun) add(m *nats.Msg, done answered) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting[m] = done
}

// begin publishes a message that carries a Nats-Msg-Id, once, and returns without waiting: done is called, once, with
// the PubAck or with why there is none, within the publish timeout. False means that nothing was begun and done is not
// called. No repeat is made: whoever hears an error calls Publish with the same message.
func (p *Publisher) begin(m *nats.Msg, done answered) bool {
	js, err := p.open()
	if err != nil {
		return false
	}
	p.begun.add(m, done)
	_, err = js.PublishMsgAsync(m, p.once...)
	if err == nil {
		return true
	}
	// A connection that went away in this moment may have told done already.
	return p.begun.take(m) == nil
}
