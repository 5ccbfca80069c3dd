package relay

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kexrelay/internal/fault"
	"kexrelay/internal/hold"
	"kexrelay/internal/update"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeDelivery is an update held in memory.
type fakeDelivery struct {
	seq     uint64
	subject string
	header  map[string][]string
	body    string
	removed bool
	// refuse, if not nil, is why the body cannot be read now.
	refuse func() error

	mu     sync.Mutex
	reads  int
	inUse  bool
	parked int
	acked  chan struct{}
}

func comments(seq uint64, vorgang string) *fakeDelivery {
	return &fakeDelivery{
		seq: seq, subject: update.SubjectPrefix + vorgang + ".kommentare",
		body: fmt.Sprintf(`["comment %d"]`, seq), acked: make(chan struct{}),
	}
}

func (d *fakeDelivery) Subject() string { return d.subject }
func (d *fakeDelivery) Seq() uint64     { return d.seq }
func (d *fakeDelivery) Forget()         { close(d.acked) }

func (d *fakeDelivery) StoredAt() time.Time { return time.Unix(1, 0) }

func (d *fakeDelivery) Park() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inUse = false
	d.parked++
}

func (d *fakeDelivery) Release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inUse = false
}

// released reports whether its body is in memory for nobody.
func (d *fakeDelivery) released() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.inUse
}

func (d *fakeDelivery) Ack(context.Context) error {
	close(d.acked)
	return nil
}

func (d *fakeDelivery) Message(context.Context) (update.Message, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	d.inUse = true
	if d.removed {
		return update.Message{}, fmt.Errorf("reading update %d: %w", d.seq, update.ErrRemoved)
	}
	if d.refuse != nil {
		if err := d.refuse(); err != nil {
			return update.Message{}, err
		}
	}
	return update.Message{
		Subject: d.subject, Header: d.header, Body: []byte(d.body), Seq: d.seq, StoredAt: time.Unix(1, 0),
	}, nil
}

// sentRequest is one request as the fake API saw it.
type sentRequest struct {
	vorgang, traceID, body string
	at                     time.Time
}

// fakeAPI answers each request by a function and remembers the requests.
type fakeAPI struct {
	latency   time.Duration
	answer    func(n int, r update.Request) error
	authorize func() error
	ping      func() error

	mu    sync.Mutex
	sent  []sentRequest
	perV  map[string]int
	pings int
	most  int // requests at once
	now   int
}

func (a *fakeAPI) Authorize(context.Context) error {
	if a.authorize != nil {
		return a.authorize()
	}
	return nil
}

func (a *fakeAPI) Ping(context.Context, string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pings++
	return a.ping()
}

func (a *fakeAPI) Send(ctx context.Context, r update.Request) (update.Answer, error) {
	a.mu.Lock()
	if a.perV == nil {
		a.perV = make(map[string]int)
	}
	a.perV[r.Vorgangsnummer]++
	n := a.perV[r.Vorgangsnummer]
	a.sent = append(a.sent, sentRequest{r.Vorgangsnummer, r.TraceID, string(r.Body), time.Now()})
	a.now++
	a.most = max(a.most, a.now)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.now--
		a.mu.Unlock()
	}()
	if a.latency > 0 {
		select {
		case <-time.After(a.latency):
		case <-ctx.Done():
			return update.Answer{}, &fault.Error{Kind: fault.Interrupted, Unknown: true, Err: context.Cause(ctx)}
		}
	}
	if a.answer != nil {
		if err := a.answer(n, r); err != nil {
			return update.Answer{}, err
		}
	}
	return update.Answer{Status: 200}, nil
}

func (a *fakeAPI) requests() []sentRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]sentRequest(nil), a.sent...)
}

// fakeJournal keeps settlements.
type fakeJournal struct {
	refuse func(s *update.Settlement) error
	// unfinished is what a former process wrote half of, by the update's sequence.
	unfinished map[uint64]*update.Settlement

	mu      sync.Mutex
	settled []*update.Settlement
}

func (j *fakeJournal) Unfinished(_ context.Context, u *update.Update) (*update.Settlement, error) {
	if s := j.unfinished[u.Seq]; s != nil {
		s.Update = u
		return s, nil
	}
	return nil, nil
}

func (j *fakeJournal) Settle(_ context.Context, s *update.Settlement) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.refuse != nil {
		if err := j.refuse(s); err != nil {
			return err
		}
	}
	j.settled = append(j.settled, s)
	return nil
}

// Begin refuses what Settle would, and says so from another goroutine.
func (j *fakeJournal) Begin(s *update.Settlement, done func(error)) bool {
	go func() { done(j.Settle(context.Background(), s)) }()
	return true
}

func (j *fakeJournal) all() []*update.Settlement {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]*update.Settlement(nil), j.settled...)
}

func (j *fakeJournal) count(outcome update.Outcome) int {
	n := 0
	for _, s := range j.all() {
		if s.Outcome == outcome {
			n++
		}
	}
	return n
}

// fakeTenure is the right to send, with what a test says of the past.
type fakeTenure struct {
	bound  uint64
	past   func(seq uint64) update.Past
	refuse func() error

	mu      sync.Mutex
	entries []ledgerLine
	expired bool
	gone    chan struct{}
}

// ledgerLine is one call of the ledger.
type ledgerLine struct {
	what string
	update.Attempt
}

func newTenure() *fakeTenure { return &fakeTenure{gone: make(chan struct{})} }

func (f *fakeTenure) Bound() uint64         { return f.bound }
func (f *fakeTenure) Lost() <-chan struct{} { return f.gone }

func (f *fakeTenure) Held() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.expired
}

// lose takes the right to send away.
func (f *fakeTenure) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expired = true
	close(f.gone)
}

func (f *fakeTenure) Past(seq uint64, _ time.Time) update.Past {
	if f.past == nil {
		return update.Past{}
	}
	return f.past(seq)
}

// Known is what was noted last, or the past that the test tells of.
func (f *fakeTenure) Known(seq uint64, at time.Time) update.Past {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range slices.Backward(f.entries) {
		if e.Seq == seq && e.what != "settled" {
			return update.Past{Attempts: e.Attempts, Unknowns: e.Unknowns, RequestID: e.RequestID, Left: e.what == "sending"}
		} else if e.Seq == seq {
			return update.Past{}
		}
	}
	return f.Past(seq, at)
}

func (f *fakeTenure) note(what string, a update.Attempt) error {
	f.mu.Lock()
	refuse := f.refuse
	f.mu.Unlock()
	if refuse != nil {
		if err := refuse(); err != nil { // It may take its time.
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = append(f.entries, ledgerLine{what, a})
	return nil
}

func (f *fakeTenure) Opening(_ context.Context, a update.Attempt) error { return f.note("opening", a) }

func (f *fakeTenure) Sending(_ context.Context, a update.Attempt) error { return f.note("sending", a) }
func (f *fakeTenure) Answered(a update.Attempt)                         { _ = f.note("idle", a) }

func (f *fakeTenure) Settled(seq uint64, at time.Time) {
	_ = f.note("settled", update.Attempt{Seq: seq, StoredAt: at})
}

// story is what the ledger was told, in order.
func (f *fakeTenure) story() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, e := range f.entries {
		lines = append(lines, fmt.Sprintf("%s %d/%d", e.what, e.Seq, e.Attempts))
	}
	return strings.Join(lines, ", ")
}

type noClaims struct{}

func (noClaims) Lookup(context.Context, map[string][]string) (*update.Replay, error) {
	return nil, nil //nolint:nilnil // no claim is no error
}

type noObserver struct{}

func (noObserver) Attempt(update.Kind, error, time.Duration) {}
func (noObserver) Settled(*update.Settlement)                {}
func (noObserver) Withdrawn(update.Kind, update.Outcome)     {}

// bench is a relay and what surrounds it.
type bench struct {
	*Relay
	api     *fakeAPI
	journal *fakeJournal
	gate    *hold.Gate
	tenure  *fakeTenure
	stop    context.CancelFunc
	done    chan struct{}
}

// Accept hands an update over under the bench's tenure.
func (b *bench) Accept(d *fakeDelivery) { b.Relay.Accept(d, b.tenure) }

// start runs a relay in the current bubble until the test ends.
func start(t *testing.T, api *fakeAPI, change func(*Config)) *bench {
	t.Helper()
	journal := &fakeJournal{}
	b := startWith(t, api, journal, change)
	b.journal = journal
	return b
}

// startWith is start with another journal.
func startWith(t *testing.T, api *fakeAPI, journal Journal, change func(*Config)) *bench {
	t.Helper()
	cfg := Config{
		Concurrency: 8, RetryInitial: 500 * time.Millisecond, RetryMaxInterval: time.Minute,
		RetryBudget: 15 * time.Minute, ShutdownTimeout: 35 * time.Second, RequestTimeout: 30 * time.Second, TracePrefix: "kxr",
	}
	if change != nil {
		change(&cfg)
	}
	logger := slog.New(slog.DiscardHandler)
	b := &bench{
		api: api, tenure: newTenure(), done: make(chan struct{}),
		gate: hold.New(hold.Config{Limit: cfg.Concurrency, Initial: cfg.RetryInitial, MaxInterval: cfg.RetryMaxInterval, Logger: logger}),
	}
	b.Relay = New(cfg, Deps{
		Sender: api, Journal: journal, Claims: noClaims{}, Observer: noObserver{}, Gate: b.gate, Logger: logger,
	})
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() {
		defer close(b.done)
		b.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-b.done
	})
	return b
}

func status(code int, kind fault.Kind, reason fault.Reason) *fault.Error {
	return &fault.Error{Kind: kind, Reason: reason, Status: code, Detail: "the API said so"}
}

func unavailable() *fault.Error { return status(503, fault.Transient, fault.Outage) }
