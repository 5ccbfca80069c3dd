// Package relay is the pipeline: what happens to an update between the stream and its result.
//
// The way of an update, each step a function of this package:
//
//	Accept  the queue hands a fetched update over; it joins the lane of its Vorgang
//	work    a worker passes the gate (hold), then takes the head of a lane
//	recall  what former processes left about it: settled already, being sent, given up while decoding
//	open    the body is read and decoded; what can never be right is settled without a call
//	attempt token, rate, gate once more, the ledger's record, a place in flight, the lease, then one POST
//	judge   the one function that decides what becomes of the answer
//	settle  dead letter, result event, then the ack: only now does the update leave the stream
//
// The package knows neither HTTP nor NATS: kex, queue and journal satisfy the small interfaces below, and app puts
// them together. Another target for the same updates would be another Sender.
package relay

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/hold"
	"kexrelay/internal/lane"
	"kexrelay/internal/update"
)

// ErrStopping is the cause that ends what is still being sent when the shutdown timeout is over.
var ErrStopping = errors.New("the relay is stopping")

// Delivery is one update as the queue holds it for us.
type Delivery interface {
	// Subject is the subject it was published to.
	Subject() string
	Seq() uint64
	// StoredAt is when the stream stored it; with Seq it is the update's identity.
	StoredAt() time.Time
	// Message gives the update with its body, reading it from the stream again if it was dropped to save memory.
	// The body stays in memory until Release, Park, Ack or Forget. update.ErrRemoved says that it is gone.
	Message(ctx context.Context) (update.Message, error)
	// Release says that the body is not used at the moment, but soon will be.
	Release()
	// Park says that the body is not needed for a while: it may be dropped.
	Park()
	// Ack says that the update is settled: it leaves the stream.
	Ack(ctx context.Context) error
	// Forget gives the update up without an ack.
	Forget()
}

// Tenure is one holder's time on one partition: the right to send, and the ledger of what is being sent.
type Tenure interface {
	// Held reports whether a POST may start now. Lost is closed when it never may again.
	Held() bool
	Lost() <-chan struct{}
	// Bound is the stream's last sequence when the partition was taken over: above it nothing was ever sent.
	Bound() uint64
	// Past tells what former holders left about an update.
	Past(seq uint64, storedAt time.Time) update.Past
	// Known is Past, also of what this tenure itself has sent and not settled.
	Known(seq uint64, storedAt time.Time) update.Past
	// Opening and Sending write the record before decoding and before a POST, and return when it is kept.
	Opening(ctx context.Context, a update.Attempt) error
	Sending(ctx context.Context, a update.Attempt) error
	// Answered says that the attempt has a definite end that does not settle the update.
	Answered(a update.Attempt)
	// Settled says that the update's result is kept.
	Settled(seq uint64, storedAt time.Time)
}

// Sender makes attempts at the API. All errors are faults.
type Sender interface {
	// Authorize makes sure that a token is in hand.
	Authorize(ctx context.Context) error
	// Send is one attempt: one POST.
	Send(ctx context.Context, r update.Request) (update.Answer, error)
	// Ping asks whether the API answers at all, and books nothing.
	Ping(ctx context.Context, traceID string) error
}

// Journal writes settlements down, idempotently.
type Journal interface {
	Settle(ctx context.Context, s *update.Settlement) error
	// Begin is Settle for the usual case without the wait: done hears, once, whether it is written down, from a
	// goroutine that must not be kept waiting. After an error, or if it returns false, which means that done hears
	// nothing, Settle is to be called.
	Begin(s *update.Settlement, done func(error)) bool
	// Unfinished is the settlement of an update whose dead letter is there without its result, nil if none is.
	Unfinished(ctx context.Context, u *update.Update) (*update.Settlement, error)
}

// Claims tells replays from updates that only look like one.
type Claims interface {
	Lookup(ctx context.Context, header map[string][]string) (*update.Replay, error)
}

// Observer counts. Its methods must be cheap.
type Observer interface {
	// Attempt is one POST and how it ended, nil if it was booked.
	Attempt(kind update.Kind, err error, took time.Duration)
	// Settled is one update whose end is written down.
	Settled(s *update.Settlement)
	// Withdrawn is one update that was taken back before it was sent: discarded or erased.
	Withdrawn(kind update.Kind, outcome update.Outcome)
}

// Config is what the pipeline is set to.
type Config struct {
	// Concurrency is how many requests are made at once, at most. Up to as many updates more are being prepared.
	Concurrency int
	// Rate is the most requests per second, 0 for no limit; see SetRate.
	Rate float64
	// RetryInitial and RetryMaxInterval bound the delays between two attempts of an update.
	RetryInitial, RetryMaxInterval time.Duration
	// RetryBudget is how long an update is retried while others succeed.
	RetryBudget time.Duration
	// ParkUnknown makes a dead letter of an update whose outcome is unknown, instead of sending it again.
	ParkUnknown bool
	// RequestTimeout is how long one POST may take: how long a successor has to wait for its result.
	RequestTimeout time.Duration
	// ShutdownTimeout is how long what is being sent may take after the stop.
	ShutdownTimeout time.Duration
	// TracePrefix begins the trace IDs made here.
	TracePrefix string
}

// Deps is what the pipeline works with.
type Deps struct {
	Sender  Sender
	Journal Journal
	Claims  Claims
	// Documents are asked for what updates carry by reference.
	Documents Documents
	Memory    Memory
	Observer  Observer
	// Tracer, if not nil, shows updates in traces.
	Tracer Tracer
	Gate   *hold.Gate
	Logger *slog.Logger
	// OnReady, if not nil, hears how many lanes could be worked on at once: intake pauses while there are enough.
	OnReady func(ready int)
}

// Relay is the pipeline. Use New.
type Relay struct {
	cfg      Config
	deps     Deps
	lanes    *lane.Lanes[*item]
	answers  answers
	pace     *pacer
	inFlight atomic.Int64
	fresh    atomic.Bool   // the next probe is to be the newest lane's
	probes   atomic.Uint64 // alternates between the lane that waits longest and the newest
	stuck    atomic.Int64  // writes that storage has refused and that are being repeated
	spent    atomic.Int64  // updates that are held back and may not be sent again
	works    broadcast     // a write that storage had refused got through
	single   single        // those that a crash interrupted are sent one at a time
	waits    sync.WaitGroup
	removals removals
	busy     *busy
	settling atomic.Int64 // settlements that no worker waits for
	// withdrawn are updates that an operator takes back, or has taken back.
	withdrawn withdrawals
}

// item is one update in its lane: what must be known of it even while its body is not in memory.
type item struct {
	delivery Delivery
	tenure   Tenure
	kind     update.Kind
	progress progress
	// told is what may be shown of its progress while a worker has it.
	told atomic.Pointer[update.Answers]
	// recalled is set once what former processes left was taken over; crashed marks one that they died with.
	recalled, crashed bool
	// left is set until it was looked for what the process that was sending it may have decided.
	left bool
	// opened is set once the record before decoding was written; spent once no repeat is left after unknown outcomes.
	opened, spent bool
	// memory is what reading its object takes.
	memory int64
	// trace is where its trace goes on in this process, empty until that began.
	trace string
}

// New makes a pipeline. Run starts it.
func New(cfg Config, deps Deps) *Relay {
	r := &Relay{
		cfg:   cfg,
		deps:  deps,
		lanes: lane.New[*item](deps.OnReady),
		pace:  newPacer(cfg.Rate),
		busy:  newBusy(),
	}
	deps.Gate.OnKinds(r.lanes.Resume) // Those that are paused still are held again in their turn.
	return r
}

// SetRate changes the most requests per second, 0 for no limit. Requests keep 8 % more distance than that asks for, so
// that no second sees more of them, whenever it begins.
func (r *Relay) SetRate(perSecond float64) { r.pace.set(perSecond) }

// Pause lets no request start for a while, if there is a rate.
func (r *Relay) Pause(d time.Duration) { r.pace.pause(d) }

// Accept takes an update over from the queue and returns at once. Updates of one Vorgang must come in stream order.
func (r *Relay) Accept(d Delivery, t Tenure) {
	key, kind := laneOf(d.Subject(), d.Seq())
	r.lanes.Add(key, &item{delivery: d, tenure: t, kind: kind})
	// An outage that only a few Vorgänge show may be theirs alone. One more can tell, and must not wait for the pace
	// of their probes.
	if r.deps.Gate.Held(fault.Outage) && r.answers.narrow(key) {
		r.fresh.Store(true)
		r.deps.Gate.ProbeNow(fault.Outage)
	}
}

// laneOf is the key of an update's lane: its Vorgang.
func laneOf(subject string, seq uint64) (key string, kind update.Kind) {
	key, kind, err := update.ParseSubject(subject)
	if err != nil {
		// No Vorgang, so no order to keep: such an update waits for nobody.
		key = update.NoVorgangsnummer + strconv.FormatUint(seq, 10)
	}
	return key, kind
}

// Run works until stop ends, then lets what is being sent finish and settle within the shutdown timeout. It returns
// when no worker is left.
func (r *Relay) Run(stop context.Context) {
	work, cancel := context.WithCancelCause(context.WithoutCancel(stop))
	defer cancel(nil)
	unwatch := context.AfterFunc(stop, func() {
		timer := time.AfterFunc(r.cfg.ShutdownTimeout, func() { cancel(ErrStopping) })
		context.AfterFunc(work, func() { timer.Stop() })
	})
	defer unwatch()

	var workers sync.WaitGroup
	for range 2 * r.cfg.Concurrency { // The gate bounds how many of them send, and how many prepare what is sent next.
		workers.Go(func() { r.work(stop, work) })
	}
	workers.Wait()
	r.waits.Wait()
	r.lanes.Stop()
}

// work is one worker: gate, lane, update, again.
func (r *Relay) work(stop, work context.Context) {
	for {
		pass, err := r.deps.Gate.Enter(stop)
		if err != nil {
			return
		}
		// Probes take the oldest and the newest lane in turn: neither a queue of bad updates in front nor a bad one
		// behind keeps a hold on.
		newest := pass.Probe() && (r.fresh.Swap(false) || r.probes.Add(1)%2 == 0)
		turn, err := r.lanes.Next(stop, newest)
		if err != nil {
			pass.Leave(hold.Signal{})
			return
		}
		if !pass.MayStart() {
			turn.ReturnFirst()
			pass.Leave(hold.Signal{})
			continue
		}
		if r.paused(turn.Item) {
			r.hold(turn)
			pass.Leave(hold.Signal{})
			continue
		}
		t := turn.Item.tenure
		r.busy.add(t, 1, 1)
		r.handle(stop, work, pass, turn)
		r.busy.add(t, -1, -1)
	}
}

// Stats is what the pipeline holds at one moment.
type Stats struct {
	Lanes lane.Stats
	// InFlight counts requests that are being made.
	InFlight int
}

// Stats counts what the pipeline holds now.
func (r *Relay) Stats() Stats {
	return Stats{Lanes: r.lanes.Stats(), InFlight: int(r.inFlight.Load())}
}

// traceID makes the trace ID of an update that came without a usable one. It depends on the update's identity
// alone: each time the update is opened, and in each process that does, it is the same.
func (r *Relay) traceID(it *item) string {
	var identity [16]byte
	binary.BigEndian.PutUint64(identity[:8], it.delivery.Seq())
	binary.BigEndian.PutUint64(identity[8:], uint64(it.delivery.StoredAt().UnixNano()))
	digest := sha256.Sum256(identity[:])
	var id [16]byte
	lowerBase32.Encode(id[:], digest[:10])
	return r.cfg.TracePrefix + string(id[:])
}

// lowerBase32 is base32 as it is usual, in lower case.
var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567")

// newTraceID makes a trace ID for a request that belongs to no update.
func (r *Relay) newTraceID() string {
	return r.cfg.TracePrefix + strings.ToLower(rand.Text()[:16])
}
