package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
)

// clock is a silence and the seconds since it began.
type clock struct {
	silence
	second int
}

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// ask lets a request fail each second for so long, and gives the seconds at which the server was left.
func (c *clock) ask(request string, seconds int, connection uint64) (left []int) {
	for range seconds {
		c.second++
		if _, leave := c.unanswered(request, connection, noon.Add(time.Duration(c.second)*time.Second)); leave {
			left = append(left, c.second)
		}
	}
	return left
}

func (c *clock) wantLeft(t *testing.T, got []int, want ...int) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("left at %v s, want %v", got, want)
	}
}

func TestAServerIsLeftAfterSecondsWithoutAnAnswer(t *testing.T) {
	var c clock
	c.wantLeft(t, c.ask("a", 6, 0), 5)
}

func TestAnAnswerEndsTheSilenceOfItsOwnRequestAlone(t *testing.T) {
	var c clock
	c.wantLeft(t, c.ask("a", 4, 0))
	c.answered("b")
	c.wantLeft(t, c.ask("a", 1, 0), 5)
	c = clock{}
	c.wantLeft(t, c.ask("a", 4, 0))
	c.answered("a")
	c.wantLeft(t, c.ask("a", 5, 0), 9)
}

// One request that got lost, and another one much later, say nothing about the time in between.
func TestWhatIsSeldomAskedIsNotSilentInBetween(t *testing.T) {
	var c clock
	for range 5 {
		c.wantLeft(t, c.ask("a", 1, 0))
		c.second += 30
	}
}

func TestANewConnectionBeginsWithoutASilence(t *testing.T) {
	var c clock
	c.wantLeft(t, c.ask("a", 4, 0))
	c.wantLeft(t, c.ask("a", 5, 1), 9)
}

func TestARefusedRightBeginsAnew(t *testing.T) {
	var c clock
	c.wantLeft(t, c.ask("a", 4, 0))
	c.forget()
	c.wantLeft(t, c.ask("a", 4, 0))
}

// When no server answers, as in a cluster without a quorum, the distance doubles up to a minute.
func TestLeavingThatDoesNotHelpBecomesRare(t *testing.T) {
	var c clock
	c.wantLeft(t, c.ask("a", 300, 0), 5, 10, 20, 40, 80, 140, 200, 260)
}

func TestAfterALongTimeOfAnswersAServerIsLeftSoonAgain(t *testing.T) {
	var c clock
	c.wantLeft(t, c.ask("a", 80, 0), 5, 10, 20, 40, 80)
	c.answered("a")
	c.second += 60
	c.wantLeft(t, c.ask("a", 10, 0), 145, 150)
}

func TestWhatIsNoAnswer(t *testing.T) {
	api := func(code int, errCode jetstream.ErrorCode) error {
		return fmt.Errorf("asking: %w", &jetstream.APIError{Code: code, ErrorCode: errCode})
	}
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"a time-out":                     {fmt.Errorf("asking: %w", context.DeadlineExceeded), true},
		"a publish without an answer":    {jetstream.ErrAsyncPublishTimeout, true},
		"nobody listens":                 {nats.ErrNoResponders, true},
		"no stream listens":              {jetstream.ErrNoStreamResponse, true},
		"no leader":                      {api(503, 10008), true},
		"the same ID waits for a quorum": {api(400, errCodeDuplicateInProcess), true},
		"the stream is full":             {api(503, errCodeStoreFailed), false},
		"another revision":               {api(400, jetstream.JSErrCodeStreamWrongLastSequenceConstant), false},
		"given up by the caller":         {context.Canceled, false},
		"the connection is away":         {nats.ErrDisconnected, false},
		"nothing is buffered":            {nats.ErrReconnectBufExceeded, false},
		"a right is missing":             {fmt.Errorf("%w: %w", nats.ErrPermissionViolation, context.DeadlineExceeded), false},
	} {
		if got := unanswered(tc.err); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// silent makes the connection think that a request has had no answer for long, and lets it fail once more.
func silent(conn *Conn) {
	conn.silence.mu.Lock()
	conn.silence.connection = conn.reconnects()
	conn.silence.spells = map[string]spell{"x": {since: time.Now().Add(-time.Minute), last: time.Now()}}
	conn.silence.mu.Unlock()
	conn.Heard("x", nats.ErrTimeout)
}

func TestTheNextServerIsConnectedAndWhatIsOnItsWayIsNotClosed(t *testing.T) {
	a, b := embeddedtest.Run(t), embeddedtest.Run(t)
	var left atomic.Int64
	var log bytes.Buffer
	conn := connect(t, ConnectOptions{URL: a.URL() + "," + b.URL()}, Hooks{
		Logger: slog.New(slog.NewTextHandler(&log, nil)), OnSilence: func() { left.Add(1) },
		OnDisconnect: func() { t.Error("a connection ended on purpose was told as lost") },
	})
	first := conn.Server()
	if _, err := conn.nc.Subscribe("deaf", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error)
	go func() {
		_, err := conn.nc.RequestWithContext(ctx, "deaf", nil)
		asked <- err
	}()
	eventually(t, "the request was sent", func() bool { return conn.nc.Stats().InMsgs == 1 })
	silent(conn)
	eventually(t, "the other server is connected", func() bool { return conn.Connected() && conn.Server() != first })
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("the request that was on its way ended with %v", err)
	}
	if n := left.Load(); n != 1 {
		t.Errorf("told %d times", n)
	}
	conn.nc.Close()
	<-conn.Closed() // Nothing is logged any more.
	if text := log.String(); strings.Count(text, "going on through another one") != 1 || !strings.Contains(text, "request=x") {
		t.Errorf("the log says:\n%s", text)
	}
}

// A cluster tells its servers' addresses, so that a server may be known by its name and by its address.
func TestAnotherNameOfTheSameServerIsPassedOver(t *testing.T) {
	a, b := embeddedtest.Run(t), embeddedtest.Run(t)
	named := strings.Replace(a.URL(), "127.0.0.1", "localhost", 1)
	conn := connect(t, ConnectOptions{URL: strings.Join([]string{a.URL(), named, b.URL()}, ",")}, Hooks{Logger: logger(t)})
	for range 8 {
		server := conn.nc.ConnectedServerId()
		conn.silence = silence{}
		silent(conn)
		eventually(t, "another server is connected", func() bool {
			return conn.Connected() && conn.nc.ConnectedServerId() != server
		})
	}
}

func TestAServerThatIsAloneIsNotLeft(t *testing.T) {
	conn := connect(t, ConnectOptions{URL: embeddedtest.Run(t).URL()}, Hooks{
		Logger: logger(t), OnSilence: func() { t.Error("the only server was left") },
	})
	silent(conn)
	if err := conn.flush(t.Context()); err != nil || conn.reconnects() != 0 {
		t.Errorf("%v, %d reconnects", err, conn.reconnects())
	}
}

// A server that is known by two names and is alone is come back to.
func TestAServerThatIsAloneUnderTwoNamesIsConnectedAgain(t *testing.T) {
	url := embeddedtest.Run(t).URL()
	conn := connect(t, ConnectOptions{URL: url + "," + strings.Replace(url, "127.0.0.1", "localhost", 1)}, Hooks{Logger: logger(t)})
	silent(conn)
	eventually(t, "both names were tried and it is connected", func() bool { return conn.reconnects() == 2 && conn.Connected() })
	if err := conn.flush(t.Context()); err != nil {
		t.Error(err)
	}
}

// Asked patiently or not at all, as before anything is served: the connection asks by itself.
func TestListeningHearsThatNobodyAnswers(t *testing.T) {
	url := hub(t, "").ClientURL() // Without JetStream.
	conn := connect(t, ConnectOptions{URL: url + "," + strings.Replace(url, "127.0.0.1", "localhost", 1)}, Hooks{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn.Listen(ctx)
	}()
	eventually(t, "a silence is noted", func() bool {
		conn.silence.mu.Lock()
		defer conn.silence.mu.Unlock()
		return len(conn.silence.spells) == 1
	})
	cancel()
	<-ended
}
