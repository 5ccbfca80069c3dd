package hold

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kexrelay/internal/fault"
)

// latency is how long the fake store's calls and news take.
const latency = 10 * time.Millisecond

var errAway = errors.New("the store is away")

// fakeStore is the records of a fleet in memory.
type fakeStore struct {
	mu       sync.Mutex
	revision uint64
	records  map[fault.Reason]Record
	storedAt map[fault.Reason]time.Time
	watchers map[chan Change]bool
	away     bool
	deaf     bool // watchers hear nothing
	writes   int
}

func newStore() *fakeStore {
	return &fakeStore{
		records: make(map[fault.Reason]Record), storedAt: make(map[fault.Reason]time.Time), watchers: make(map[chan Change]bool),
	}
}

// call is the way to the store and back.
func (s *fakeStore) call(ctx context.Context) error {
	select {
	case <-time.After(latency):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	return nil
}

func (s *fakeStore) Create(ctx context.Context, r Record) (uint64, error) { return s.write(ctx, r, 0) }

func (s *fakeStore) Update(ctx context.Context, r Record, revision uint64) (uint64, error) {
	return s.write(ctx, r, revision)
}

func (s *fakeStore) write(ctx context.Context, r Record, revision uint64) (uint64, error) {
	if err := s.call(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[r.Reason].Revision != revision {
		return 0, ErrConflict
	}
	s.writes++
	s.putLocked(r)
	return s.revision, nil
}

func (s *fakeStore) putLocked(r Record) {
	s.revision++
	r.Revision, r.Age = s.revision, 0
	s.records[r.Reason], s.storedAt[r.Reason] = r, time.Now()
	s.tellLocked(Change{Record: r})
}

func (s *fakeStore) Remove(ctx context.Context, reason fault.Reason, revision uint64) error {
	if err := s.call(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[reason].Revision != revision {
		return ErrConflict
	}
	s.writes++
	s.removeLocked(reason)
	return nil
}

func (s *fakeStore) removeLocked(reason fault.Reason) {
	s.revision++
	delete(s.records, reason)
	s.tellLocked(Change{Record: Record{Reason: reason, Revision: s.revision}, Gone: true})
}

func (s *fakeStore) tellLocked(c Change) {
	if s.deaf {
		return
	}
	for w := range s.watchers {
		w <- c
	}
}

func (s *fakeStore) Get(ctx context.Context, reason fault.Reason) (Record, error) {
	if err := s.call(ctx); err != nil {
		return Record{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[reason]
	if !ok {
		return Record{}, ErrGone
	}
	r.Age = time.Since(s.storedAt[reason])
	return r, nil
}

func (s *fakeStore) List(ctx context.Context) ([]Record, error) {
	if err := s.call(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Record
	for reason, r := range s.records {
		r.Age = time.Since(s.storedAt[reason])
		all = append(all, r)
	}
	return all, nil
}

func (s *fakeStore) Watch(ctx context.Context, tell func(Change)) error {
	news := make(chan Change, 1000)
	s.mu.Lock()
	for _, r := range s.records {
		news <- Change{Record: r}
	}
	s.watchers[news] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, news)
		s.mu.Unlock()
	}()
	for {
		select {
		case c := <-news:
			select {
			case <-time.After(latency):
			case <-ctx.Done():
				return nil
			}
			tell(c)
		case <-ctx.Done():
			return nil
		}
	}
}

// at does something to the store at once.
func (s *fakeStore) at(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *fakeStore) record(reason fault.Reason) Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[reason]
}

// replica is one gate of the fleet.
type replica struct {
	*Gate

	fleet *Fleet
	name  string
	stop  func()
	idle  atomic.Bool // without the right to send
}

const takeover = 35 * time.Second

// join starts one more replica until the test ends.
func (s *fakeStore) join(t *testing.T, name string) *replica {
	t.Helper()
	r := &replica{Gate: New(Config{
		Limit: 8, Initial: 500 * time.Millisecond, MaxInterval: time.Minute, Replica: name,
		Logger: slog.New(slog.DiscardHandler),
	}), name: name}
	r.fleet = r.Share(Sharing{
		Store: s, Process: "process of " + name, Takeover: takeover,
		Active: func() bool { return !r.idle.Load() },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.fleet.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(r.stop)
	return r
}

// news waits until everybody knows.
func news() { time.Sleep(20 * latency) }

// probe waits for a pass whose claim stands.
func (r *replica) probe(t *testing.T) *Pass {
	t.Helper()
	for {
		pass := enter(t, r.Gate)
		if pass.Claim(t.Context()) {
			return pass
		}
		pass.Leave(Signal{})
	}
}

// passes reports whether a request may be made now, and gives the pass back.
func (r *replica) lets(t *testing.T) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	pass, err := r.Enter(ctx)
	if err != nil {
		return false
	}
	ok := !pass.Probe()
	pass.Leave(Signal{})
	return ok
}

// fleet is two replicas of one store, in the current bubble.
func fleet(t *testing.T) (s *fakeStore, a, b *replica) {
	t.Helper()
	s = newStore()
	a, b = s.join(t, "a"), s.join(t, "b")
	news()
	return s, a, b
}
