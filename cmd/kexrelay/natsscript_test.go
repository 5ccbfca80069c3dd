package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// scriptTimeout bounds each step of a script: it finds out what hangs, on a machine however busy.
const scriptTimeout = time.Minute

// connectScript connects to the script's server.
func connectScript(ts *testscript.TestScript) jetstream.JetStream {
	conn, err := nats.Connect(ts.Getenv("NATS_URL"), nats.CustomInboxPrefix("_INBOX"))
	ts.Check(err)
	ts.Defer(conn.Close)
	js, err := jetstream.New(conn)
	ts.Check(err)
	return js
}

// settler ends updates like a relay: result and dead letter first, then the update leaves the stream.
type settler struct {
	js      jetstream.JetStream
	journal *journal.Journal
	stream  jetstream.Stream
}

func newSettler(ctx context.Context, js jetstream.JetStream) (*settler, error) {
	stream, err := js.Stream(ctx, topology.StreamUpdates)
	if err != nil {
		return nil, err
	}
	return &settler{js: js, stream: stream, journal: journal.New(js, journal.Config{Source: "urn:kexrelay:script"})}, nil
}

// next settles the oldest update, and reports whether there was one.
func (s *settler) next(ctx context.Context, end func(*update.Settlement)) (bool, error) {
	info, err := s.stream.Info(ctx)
	if err != nil || info.State.Msgs == 0 {
		return false, err
	}
	msg, err := s.stream.GetMsg(ctx, info.State.FirstSeq)
	if err != nil {
		return false, err
	}
	replay, err := journal.NewClaims(s.js).Lookup(ctx, msg.Header)
	if err != nil {
		return false, err
	}
	u, err := update.Decode(update.Message{
		Subject: topology.PublishedSubject(msg.Subject), Header: msg.Header, Body: msg.Data, Seq: msg.Sequence, StoredAt: msg.Time,
		Replay: replay,
	}, func() string { return "made-here" })
	settlement := &update.Settlement{
		Update: u, Attempts: 1, RequestID: u.TraceID, SettledAt: time.Now(), FirstAttemptAt: time.Now(),
	}
	if err != nil {
		settlement.Outcome, settlement.Reason, settlement.Detail, settlement.Attempts = update.DeadLettered, fault.Invalid, err.Error(), 0
	} else {
		end(settlement)
	}
	if err := s.journal.Settle(ctx, settlement); err != nil {
		return false, err
	}
	return true, s.stream.DeleteMsg(ctx, msg.Sequence)
}

// ending reads how updates are to end: delivered, or a reason with status and detail.
func ending(args []string) (func(*update.Settlement), error) {
	if len(args) == 1 && args[0] == string(update.Delivered) {
		return func(s *update.Settlement) {
			s.Outcome, s.Status = update.Delivered, 201
			if s.Update.Kind == update.Comments {
				s.Status = 200
			}
		}, nil
	}
	if len(args) == 0 || !slices.Contains(fault.DeadLetterReasons(), fault.Reason(args[0])) {
		return nil, errors.New("wanted: delivered or REASON [STATUS [DETAIL]]")
	}
	status := 0
	if len(args) > 1 {
		var err error
		if status, err = strconv.Atoi(args[1]); err != nil {
			return nil, err
		}
	}
	detail := ""
	if len(args) > 2 {
		detail = strings.Join(args[2:], " ")
	}
	return func(s *update.Settlement) {
		s.Outcome, s.Reason, s.Status, s.Detail = update.DeadLettered, fault.Reason(args[0]), status, detail
	}, nil
}

func cmdSettle(ts *testscript.TestScript, _ bool, args []string) {
	end, err := ending(args)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	s, err := newSettler(ctx, connectScript(ts))
	ts.Check(err)
	settled := 0
	for {
		more, err := s.next(ctx, end)
		ts.Check(err)
		if !more {
			break
		}
		settled++
	}
	if settled == 0 {
		ts.Fatalf("no update was waiting")
	}
}

// cmdRelay settles what comes until the script ends, with the given endings in turn.
func cmdRelay(ts *testscript.TestScript, _ bool, args []string) {
	var ends []func(*update.Settlement)
	for _, arg := range args {
		end, err := ending([]string{arg})
		ts.Check(err)
		ends = append(ends, end)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := newSettler(ctx, connectScript(ts))
	ts.Check(err)
	done := make(chan error, 1)
	go func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for n := 0; ; {
			more, err := s.next(ctx, ends[n%len(ends)])
			switch {
			case ctx.Err() != nil:
				done <- nil
				return
			case err != nil:
				done <- err
				return
			case more:
				n++
				continue
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	}()
	ts.Defer(func() {
		cancel()
		if err := <-done; err != nil {
			ts.Logf("ERROR: the background relay: %v", err)
		}
	})
}

func cmdHold(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: hold REASON [DETAIL]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	_, err := journal.NewHolds(connectScript(ts)).Create(ctx, journal.Hold{
		Reason: fault.Reason(args[0]), Since: time.Now().Add(-time.Minute), NextProbe: time.Now().Add(time.Minute),
		Detail: strings.Join(args[1:], " "), Replica: "script",
	})
	ts.Check(err)
}

// cmdAudited reads the audit events of one action.
func cmdAudited(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: audited ACTION COUNT [TEXT...]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	var all strings.Builder
	n := 0
	scan := journal.Scan{Stream: topology.StreamAudit, Filters: []string{topology.AuditSubject(args[0])}}
	for msg, err := range scan.Messages(ctx, connectScript(ts)) {
		ts.Check(err)
		n++
		fmt.Fprintf(&all, "%s\n", msg.Data())
	}
	if want, err := strconv.Atoi(args[1]); err != nil || n != want {
		ts.Fatalf("%d audit events, want %s:\n%s", n, args[1], &all)
	}
	for _, text := range args[2:] {
		if !strings.Contains(all.String(), text) {
			ts.Fatalf("%s is in none of:\n%s", text, &all)
		}
	}
}

// cmdPull asks the first partition's consumer for an update, like a relay that then hangs; it lives until the script ends.
func cmdPull(ts *testscript.TestScript, _ bool, _ []string) {
	js := connectScript(ts)
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	living, die := context.WithCancel(context.Background())
	members := journal.NewMembers(journal.NewLeases(js, "script", slog.New(slog.DiscardHandler)), journal.Replica{Host: "script", PID: 1})
	var life sync.WaitGroup
	life.Go(func() { members.Watch(living) })
	life.Go(func() { members.Run(living) })
	ts.Defer(func() {
		die()
		life.Wait()
	})
	request := fmt.Sprintf(`{"batch":1,"expires":%d,"group":%q}`, scriptTimeout.Nanoseconds(), topology.PriorityGroup)
	inbox := js.Conn().NewInbox()
	_, err := js.Conn().SubscribeSync(inbox)
	ts.Check(err)
	ts.Check(js.Conn().PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+topology.StreamUpdates+"."+topology.Consumer(0), inbox, []byte(request)))
	for {
		consumer, err := js.Consumer(ctx, topology.StreamUpdates, topology.Consumer(0))
		ts.Check(err)
		_, known := members.Look(1)
		if info := consumer.CachedInfo(); known && info.NumWaiting+info.NumAckPending > 0 {
			return
		}
	}
}

// cmdFollowed waits until somebody reads the results.
func cmdFollowed(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	js := connectScript(ts)
	for {
		stream, err := js.Stream(ctx, topology.StreamResults)
		ts.Check(err)
		if stream.CachedInfo().State.Consumers > 0 {
			return
		}
	}
}

// unansweredKey is where a script keeps the subscription that swallows what is published.
type unansweredKey struct{}

// cmdUnanswered removes the stream of updates and listens in its place, so that publishers get no answer.
func cmdUnanswered(ts *testscript.TestScript, _ bool, _ []string) {
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	js := connectScript(ts)
	ts.Check(js.DeleteStream(ctx, topology.StreamUpdates))
	swallow, err := js.Conn().SubscribeSync(update.SubjectPrefix + ">")
	ts.Check(err)
	ts.Check(js.Conn().FlushWithContext(ctx))
	held, ok := ts.Value(unansweredKey{}).(*atomic.Pointer[nats.Subscription])
	if !ok {
		ts.Fatalf("the script was not set up")
	}
	held.Store(swallow)
}

// cmdAsked waits until something was published that is not answered.
func cmdAsked(ts *testscript.TestScript, _ bool, _ []string) {
	held, ok := ts.Value(unansweredKey{}).(*atomic.Pointer[nats.Subscription])
	if !ok || held.Load() == nil {
		ts.Fatalf("asked comes after unanswered")
	}
	_, err := held.Load().NextMsg(scriptTimeout)
	ts.Check(err)
}

func cmdPublished(ts *testscript.TestScript, neg bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	stream, err := connectScript(ts).Stream(ctx, topology.StreamUpdates)
	ts.Check(err)
	info, err := stream.Info(ctx)
	ts.Check(err)
	var all strings.Builder
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		msg, err := stream.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		ts.Check(err)
		fmt.Fprintf(&all, "%s %v %s\n", topology.PublishedSubject(msg.Subject), msg.Header, msg.Data)
	}
	for _, text := range args {
		if strings.Contains(all.String(), text) == neg {
			ts.Fatalf("%q: found %v, in:\n%s", text, !neg, &all)
		}
	}
}

// cmdDenied starts a server whose user may do nothing but get answers; NATS_URL and the credentials say where and who.
func cmdDenied(ts *testscript.TestScript, _ bool, _ []string) {
	tb := scriptTB{ts}
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: tb.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{{Username: "nobody", Password: "n", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"nothing"}}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}}},
	})
	ts.Check(err)
	srv.Start()
	ts.Defer(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(scriptTimeout) {
		ts.Fatalf("the server does not start")
	}
	ts.Setenv("NATS_URL", srv.ClientURL())
	ts.Setenv("NATS_USER", "nobody")
	ts.Setenv("NATS_PASSWORD", "n")
}

// cmdFull empties a stream and lets it take nothing more.
func cmdFull(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: full STREAM")
	}
	ctx, cancel := context.WithTimeout(context.Background(), scriptTimeout)
	defer cancel()
	js := connectScript(ts)
	stream, err := js.Stream(ctx, args[0])
	ts.Check(err)
	config := stream.CachedInfo().Config
	config.MaxBytes, config.Discard = 1, jetstream.DiscardNew
	// A record in the place of another one needs no room: there must be none.
	ts.Check(stream.Purge(ctx))
	_, err = js.UpdateStream(ctx, config)
	ts.Check(err)
	ts.Check(stream.Purge(ctx))
}
