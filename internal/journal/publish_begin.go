package journal

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// answered hears what became of a publish. It is called on the goroutine that reads all answers: it must not wait.
type answered func(ack jetstream.PubAck, err error)

// begun are the publishes without an answer. It is what jetstream's own asynchronous publishing is, without a timer, two
// channels and a decoded JSON for each message, which together are a twentieth of what a relay of small updates does: all
// have the same time, so the oldest is the first whose time is over, and one timer is enough.
type begun struct {
	nc      *nats.Conn
	timeout time.Duration

	mu sync.Mutex
	// inbox begins the subjects of answers, empty until there is a subscription; a number follows that never comes again.
	inbox  string
	sub    *nats.Subscription
	status chan nats.Status
	number uint64
	// waiting are all without an answer; oldest and newest are the ends of their list.
	waiting        map[uint64]*awaited
	oldest, newest *awaited
	timer          *time.Timer // Runs while there is an oldest.
}

// awaited is a publish without an answer.
type awaited struct {
	number        uint64
	until         time.Time
	done          answered
	before, after *awaited
}

func newBegun(nc *nats.Conn, timeout time.Duration) *begun {
	b := &begun{nc: nc, timeout: timeout, waiting: map[uint64]*awaited{}}
	b.timer = time.AfterFunc(timeout, b.expire)
	b.timer.Stop()
	return b
}

// publish publishes a message and returns without waiting: done is called, once, with the PubAck or with why there is none,
// within the timeout. An error means that done is not called.
func (b *begun) publish(m *nats.Msg, done answered) error {
	a, reply, err := b.add(done)
	if err != nil {
		return err
	}
	err = b.nc.PublishMsg(&nats.Msg{Subject: m.Subject, Reply: reply, Header: m.Header, Data: m.Data})
	if err == nil || b.take(a.number) == nil { // A connection that went away in this moment may have told done already.
		return nil
	}
	return err
}

// add makes room for an answer and gives the subject that it is to come to.
func (b *begun) add(done answered) (a *awaited, reply string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.openLocked(); err != nil {
		return nil, "", err
	}
	if len(b.waiting) >= maxPending {
		return nil, "", jetstream.ErrTooManyStalledMsgs
	}
	b.number++
	a = &awaited{number: b.number, until: time.Now().Add(b.timeout), done: done, before: b.newest}
	b.waiting[a.number] = a
	if b.newest = a; a.before == nil {
		b.oldest = a
		b.timer.Reset(b.timeout)
	} else {
		a.before.after = a
	}
	return a, b.inbox + strconv.FormatUint(a.number, 10), nil
}

// openLocked listens for answers, and for the end of the connection.
func (b *begun) openLocked() error {
	if b.sub != nil {
		return nil
	}
	inbox := b.nc.NewInbox() + "."
	sub, err := b.nc.Subscribe(inbox+"*", b.answer)
	if err != nil {
		return err
	}
	b.inbox, b.sub = inbox, sub
	b.status = b.nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	go b.watch(b.status)
	return nil
}

// watch ends what waits for answers whenever the connection is lost: they went with it.
func (b *begun) watch(status <-chan nats.Status) {
	for s := range status {
		if s == nats.CLOSED {
			b.endAll(nats.ErrConnectionClosed)
			return
		}
		b.endAll(nats.ErrDisconnected)
	}
}

// answer takes the server's answer.
func (b *begun) answer(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 10, 64)
	if err != nil {
		return
	}
	a := b.take(number)
	if a == nil {
		return // It came too late.
	}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		a.done(jetstream.PubAck{}, jetstream.ErrNoStreamResponse)
		return
	}
	a.done(decodePubAck(m.Data))
}

// take ends the wait for an answer, nil if it has ended already.
func (b *begun) take(number uint64) *awaited {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.waiting[number]
	if a != nil {
		b.removeLocked(a)
	}
	return a
}

func (b *begun) removeLocked(a *awaited) {
	delete(b.waiting, a.number)
	if a.before == nil {
		b.oldest = a.after
	} else {
		a.before.after = a.after
	}
	if a.after == nil {
		b.newest = a.before
	} else {
		a.after.before = a.before
	}
}

// expire tells those whose time is over.
func (b *begun) expire() {
	b.mu.Lock()
	var late []*awaited
	for now := time.Now(); b.oldest != nil && !now.Before(b.oldest.until); {
		late = append(late, b.oldest)
		b.removeLocked(b.oldest)
	}
	if b.oldest != nil {
		b.timer.Reset(time.Until(b.oldest.until))
	}
	b.mu.Unlock()
	for _, a := range late {
		a.done(jetstream.PubAck{}, jetstream.ErrAsyncPublishTimeout)
	}
}

// endAll tells all who wait that there will be no answer.
func (b *begun) endAll(err error) {
	b.mu.Lock()
	all := b.waiting
	b.waiting, b.oldest, b.newest = map[uint64]*awaited{}, nil, nil
	b.mu.Unlock()
	for _, a := range all {
		a.done(jetstream.PubAck{}, err)
	}
}

// close ends the subscription and all waiting. What is published later opens another one.
func (b *begun) close() {
	b.mu.Lock()
	sub, status := b.sub, b.status
	b.sub, b.status = nil, nil
	b.mu.Unlock()
	if sub != nil {
		_ = sub.Unsubscribe() // It fails only if the connection is closed, and then there is nothing to unsubscribe.
		b.nc.RemoveStatusListener(status)
	}
	b.endAll(jetstream.ErrJetStreamPublisherClosed)
}

// decodePubAck reads the server's answer to a publish.
func decodePubAck(data []byte) (jetstream.PubAck, error) {
	if ack, ok := usualPubAck(data); ok {
		return ack, nil
	}
	var answer struct {
		jetstream.PubAck

		Error *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(data, &answer); {
	case err != nil:
		return jetstream.PubAck{}, jetstream.ErrInvalidJSAck
	case answer.Error != nil:
		return jetstream.PubAck{}, answer.Error
	case answer.Stream == "":
		return jetstream.PubAck{}, jetstream.ErrInvalidJSAck
	}
	return answer.PubAck, nil
}

// usualPubAck reads an answer as the server words it for a result that is not there yet:
//
//	{"stream":"KEX_RESULTS","seq":4711}
func usualPubAck(data []byte) (jetstream.PubAck, bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`+topology.StreamResults+`","seq":`))
	if !ok || len(rest) < 2 || len(rest) > 20 || rest[0] == '0' || rest[len(rest)-1] != '}' {
		return jetstream.PubAck{}, false
	}
	seq := uint64(0)
	for _, c := range rest[:len(rest)-1] {
		if c < '0' || c > '9' {
			return jetstream.PubAck{}, false
		}
		seq = seq*10 + uint64(c-'0') // At most 19 digits: it fits.
	}
	return jetstream.PubAck{Stream: topology.StreamResults, Sequence: seq}, true
}
