// Package deadletter is operators' work on dead letters: list them, look at one, count them, send them back.
//
// A dead letter lies behind an update's way: journal wrote it when the update could not be booked, and it stays
// until somebody acts. [Store.Replay] puts the update at the end of its way again, once, whoever else does the same
// at the same time and wherever the last one was interrupted. Nothing here shows an update's content.
package deadletter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
)

// callTimeout bounds every call to NATS; a caller's longer deadline is for its whole work.
const callTimeout = 5 * time.Second

// ErrNotFound says that a dead letter is not there: it was replayed or removed, or there never was one.
var ErrNotFound = errors.New("there is no such dead letter: it was already replayed or removed")

// Config is what a Store is made with.
type Config struct {
	// Source is the CloudEvents source of the events it writes, urn:kexrelay:<name>.
	Source string
	// Actor is what this machine knows of the operator, for the audit events.
	Actor journal.Actor
}

// Store works on the dead letters in KEX_DEADLETTERS. Use New; its methods are safe for concurrent use. Errors say what
// to do next.
type Store struct {
	js        jetstream.JetStream
	source    string
	journal   *journal.Journal
	updates   *journal.Updates
	publisher *journal.Publisher
	results   *journal.Results
	claims    *journal.Claims
	bodies    *journal.Bodies
	audit     *journal.Auditor
	// interrupt, if not nil, is asked after each step of a replay: an error ends the replay there as a crash would.
	// Tests kill with it.
	interrupt func(step) error

	mu      sync.Mutex
	streams map[string]jetstream.Stream
}

// New makes a Store on the connection of js. It makes no call.
func New(js jetstream.JetStream, cfg Config) *Store {
	publisher := journal.NewPublisher(js, journal.PublisherConfig{})
	return &Store{
		js:        js,
		source:    cfg.Source,
		journal:   journal.New(js, journal.Config{Source: cfg.Source}),
		updates:   journal.NewUpdates(js),
		publisher: publisher,
		results:   journal.NewResults(js),
		claims:    journal.NewClaims(js),
		bodies:    journal.NewBodies(js),
		audit:     journal.NewAuditor(js, publisher, cfg.Actor),
		streams:   make(map[string]jetstream.Stream),
	}
}

// Close ends the Store's subscriptions; the connection stays open.
func (s *Store) Close() {
	s.journal.Close()
	s.publisher.Close()
}

// read gets one dead letter as it lies in the stream. ErrNotFound says that it is not there.
func (s *Store) read(ctx context.Context, seq uint64) (*jetstream.RawStreamMsg, error) {
	msg, err := s.message(ctx, topology.StreamDeadLetters, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("dead letter %d: %w", seq, ErrNotFound)
	}
	return msg, err
}

// message gets one message of a stream, with options such as the next one of a subject.
func (s *Store) message(ctx context.Context, name string, seq uint64, opts ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := s.stream(ctx, name)
	if err != nil {
		return nil, err
	}
	msg, err := stream.GetMsg(ctx, seq, opts...)
	return msg, journal.Explain(fmt.Sprintf("reading message %d of %s", seq, name), s.js, err)
}

// info asks for a stream's state.
func (s *Store) info(ctx context.Context, name string, opts ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := s.stream(ctx, name)
	if err != nil {
		return nil, err
	}
	info, err := stream.Info(ctx, opts...)
	return info, journal.Explain("reading the state of "+name, s.js, err)
}

// stream opens a stream once: the handle is good for as long as the connection.
//
//nolint:ireturn // jetstream has no other type for it.
func (s *Store) stream(ctx context.Context, name string) (jetstream.Stream, error) {
	s.mu.Lock()
	stream, ok := s.streams[name]
	s.mu.Unlock()
	if ok {
		return stream, nil
	}
	stream, err := s.js.Stream(ctx, name)
	if err != nil {
		return nil, journal.Explain("opening "+name, s.js, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[name] = stream
	return stream, nil
}
