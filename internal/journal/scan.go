package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"kexrelay/internal/topology"
)

const (
	// scanHeartbeat is how soon a reader learns that its consumer is gone (two missed ones), and scanIdle how long
	// a reader of the past waits for a message before it asks whether there is one.
	scanHeartbeat = time.Second
	scanExpiry    = 5 * time.Second
	scanIdle      = time.Second
	scanBatch     = 500
	// scanInactive is when the server forgets a consumer that nobody pulls from; a slower reader gets a new one.
	scanInactive = 10 * time.Second
	// scanFull is how long a reader waits while its stream has as many consumers as the server allows (1,000, if nobody
	// says otherwise): those of many short readers, which are forgotten soon.
	scanFull = 3 * scanInactive
	// scanAnew is how long a consumer is asked for by one name. A cluster may give it to a server that has died, or was cut
	// off, in the last seconds, and then whoever asks for that name is answered by nobody until the server is back.
	scanAnew = 2 * time.Second
	// scanTries is how often a reader of the past tries without getting a message before it gives up. One that
	// follows goes on until its context ends.
	scanTries = 5
)

// Scan reads a stream's messages in their order, each exactly once, through reconnects, restarts and changes of
// leader: whenever its consumer is lost or skips a message, it goes on with a new one behind the last message.
//
// It does what the client's ordered consumer does, with three differences: it ends with its context at any time
// (the ordered consumer keeps trying to reach a server that is down), it says why when the stream is not there,
// and it knows where the past ends, also if the last message is deleted meanwhile.
type Scan struct {
	Stream string
	// Filters are subjects; none means all.
	Filters []string
	// FromSeq is where to begin. 0 means at FromTime, or with that zero at the stream's beginning.
	FromSeq  uint64
	FromTime time.Time
	// ToSeq ends the past: no message above it is given. 0 means when nothing is pending. Ignored with Follow.
	ToSeq uint64
	// Batch is how many messages are asked for at a time, and so at most in memory; 0 means 500. With a few the
	// client now and then forgets to ask for more until scanIdle has passed: for a first message, not for many.
	Batch int
	// HeadersOnly leaves the bodies away; Nats-Msg-Size has their size.
	HeadersOnly bool
	// Follow goes on with what comes until ctx ends.
	Follow bool
	// Patience is how long an answer is waited for before the stream is given up that nothing was read of yet; 0 means 5 s.
	Patience time.Duration
}

// Messages reads. The error ends it: ctx's cause, or what the server said, with what to do next.
func (s Scan) Messages(ctx context.Context, js jetstream.JetStream) iter.Seq2[jetstream.Msg, error] {
	return func(yield func(jetstream.Msg, error) bool) {
		err := s.each(ctx, js, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) bool { return yield(msg, nil) })
		if err != nil {
			yield(nil, err)
		}
	}
}

// each is Messages for those who read a million: what a message says about itself, which is much of the work, is read
// once. A false from take ends it.
func (s Scan) each(ctx context.Context, js jetstream.JetStream, take func(jetstream.Msg, *jetstream.MsgMetadata) bool) error {
	r := &reading{scan: s, js: js, take: take}
	return r.run(ctx)
}

// reading is one pass of a Scan.
type reading struct {
	scan  Scan
	js    jetstream.JetStream
	take  func(jetstream.Msg, *jetstream.MsgMetadata) bool
	last  uint64 // Stream sequence of the last message given.
	began bool   // A consumer was created: the stream is there and may be read.
	quiet quiet
}

// errLost says that a consumer is gone or skipped something: a new one goes on.
var errLost = errors.New("consumer lost")

func (r *reading) run(ctx context.Context) error {
	wait, began := firstRepeat, time.Now()
	for tries := 0; ; tries++ {
		before := r.last
		err := r.consume(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("reading %s: %w", r.scan.Stream, context.Cause(ctx))
		case tooManyConsumers(err) && time.Since(began) < scanFull:
			tries = 0
		case !r.began, errors.Is(err, jetstream.ErrStreamNotFound), closedForGood(err),
			!r.scan.Follow && tries >= scanTries:
			return Explain("reading "+r.scan.Stream, r.js, err)
		}
		if r.last != before {
			tries, wait, began = 0, firstRepeat, time.Now()
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, slowestRepeat)
	}
}

func tooManyConsumers(err error) bool {
	refused, ok := errors.AsType[*jetstream.APIError](err)
	return ok && refused.ErrorCode == codeMaxConsumers
}

// consume reads through one consumer. Nil means that there is nothing more to give.
func (r *reading) consume(ctx context.Context) error {
	consumer, err := r.create(ctx)
	if err != nil {
		return err
	}
	if r.done(r.last, consumer.CachedInfo().NumPending) {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(cmp.Or(r.scan.Batch, scanBatch)), jetstream.PullExpiry(scanExpiry),
		jetstream.PullHeartbeat(scanHeartbeat), jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer r.quiet.end()
	for delivered := uint64(0); ; {
		msg, err := r.next(ctx, messages)
		if r.idle(ctx, err) {
			if done, err := r.nothingLeft(ctx, consumer, delivered); done || err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		delivered++
		if more, err := r.give(msg, delivered); !more || err != nil {
			return err
		}
	}
}

// give hands the nth message of a consumer to the caller and reports whether there is more to give. The server
// numbers what it delivers: a number left out is a message that did not arrive.
func (r *reading) give(msg jetstream.Msg, nth uint64) (more bool, err error) {
	meta, err := msg.Metadata()
	if err != nil {
		return false, err
	}
	if meta.Sequence.Consumer != nth {
		return false, errLost
	}
	if r.beyond(meta.Sequence.Stream) {
		return false, nil
	}
	r.last = meta.Sequence.Stream
	return r.take(msg, meta) && !r.done(r.last, meta.NumPending), nil
}

//nolint:ireturn // jetstream has no other type for it.
func (r *reading) create(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := topology.Call(ctx, cmp.Or(r.scan.Patience, callTimeout))
	defer cancel()
	cfg := jetstream.ConsumerConfig{
		AckPolicy:         jetstream.AckNonePolicy,
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		HeadersOnly:       r.scan.HeadersOnly,
		InactiveThreshold: scanInactive,
		MemoryStorage:     true,
		Replicas:          1,
	}
	if len(r.scan.Filters) == 1 { // Alone it is part of the request's subject, where rights can be given by it.
		cfg.FilterSubject = r.scan.Filters[0]
	} else {
		cfg.FilterSubjects = r.scan.Filters
	}
	from := r.scan.FromSeq
	if r.last != 0 {
		from = r.last + 1
	}
	switch {
	case from != 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	case !r.scan.FromTime.IsZero():
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &r.scan.FromTime
	}
	named := names{}
	consumer, err := topology.Ask(ctx, func(ctx context.Context) (jetstream.Consumer, error) {
		cfg := cfg
		cfg.Name = named.now()
		return r.js.CreateConsumer(ctx, r.scan.Stream, cfg)
	})
	if err != nil {
		return nil, err
	}
	r.began = true
	return consumer, nil
}

// names gives the name of a consumer that is asked for: the same for scanAnew, so that it is made once however often it
// is asked for, then another one. What was made and not read from is forgotten by the server. The zero value is ready.
type names struct {
	mu    sync.Mutex
	name  string
	since time.Time
}

func (n *names) now() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.name == "" || time.Since(n.since) >= scanAnew {
		n.name, n.since = nuid.Next(), time.Now()
	}
	return n.name
}

// next waits for a message; a reader of the past not longer than scanIdle.
//
//nolint:ireturn // jetstream has no other type for it.
func (r *reading) next(ctx context.Context, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	if !r.scan.Follow {
		ctx = r.quiet.from(ctx)
	}
	msg, err := messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		r.quiet.end()
	}
	return msg, err
}

// quiet is a context for many waits that follow each other closely: each ends after scanIdle or up to half of it
// sooner. One for each wait would be a tenth of what a reader does.
type quiet struct {
	ctx    context.Context //nolint:containedctx // It stands for the timer that it is.
	cancel context.CancelFunc
	began  time.Time
}

func (q *quiet) from(ctx context.Context) context.Context {
	now := time.Now()
	if q.ctx == nil || now.Sub(q.began) > scanIdle/2 {
		q.end()
		q.began = now
		q.ctx, q.cancel = context.WithTimeout(ctx, scanIdle)
	}
	return q.ctx
}

func (q *quiet) end() {
	if q.cancel != nil {
		q.cancel()
	}
	*q = quiet{}
}

func (r *reading) idle(ctx context.Context, err error) bool {
	return !r.scan.Follow && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded)
}

// nothingLeft asks the server whether a consumer that gives nothing has nothing: what was pending may have been
// deleted. Messages that it says it delivered and that did not come are lost.
func (r *reading) nothingLeft(ctx context.Context, consumer jetstream.Consumer, delivered uint64) (bool, error) {
	ctx, cancel := topology.Call(ctx, scanAnew) // A consumer that says nothing may be gone with its server: see scanAnew.
	defer cancel()
	info, err := consumer.Info(ctx)
	if err != nil {
		return false, err
	}
	if info.Delivered.Consumer != delivered {
		return false, errLost
	}
	return info.NumPending == 0, nil
}

func (r *reading) beyond(seq uint64) bool {
	return !r.scan.Follow && r.scan.ToSeq != 0 && seq > r.scan.ToSeq
}

func (r *reading) done(last, pending uint64) bool {
	return !r.scan.Follow && (pending == 0 || r.scan.ToSeq != 0 && last >= r.scan.ToSeq)
}
