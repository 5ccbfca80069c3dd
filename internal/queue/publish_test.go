package queue

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded"
	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

func comments(vorgang, id string) PublishRequest {
	return PublishRequest{Vorgangsnummer: vorgang, Kind: update.Comments, Body: []byte(`["x"]`), MsgID: id}
}

func TestPublishStoresWhatItIsGiven(t *testing.T) {
	conn := prepared(t)
	p := NewPublisher(conn)
	r := comments("123456", "id-1")
	r.TraceID = "sys1"
	r.Header = map[string][]string{"X-Other": {"o"}, update.HeaderTraceID: {"not this"}}
	result, err := p.Publish(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := (PublishResult{MsgID: "id-1", Seq: 1, Tries: 1}); result != want {
		t.Errorf("got %+v, want %+v", result, want)
	}
	again, err := p.Publish(t.Context(), r)
	if err != nil || !again.Duplicate || again.Seq != 1 {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	spaced, err := p.Publish(t.Context(), comments("123456", "crm 4711"))
	if err != nil || spaced.MsgID != "crm 4711" {
		t.Errorf("an ID that JetStream takes: %+v, %v", spaced, err)
	}
	random, err := p.Publish(t.Context(), comments("123456", ""))
	if err != nil || random.MsgID == "" || random.Duplicate || random.Seq != 3 {
		t.Errorf("without an ID: %+v, %v", random, err)
	}
	d := start(t, open(t, conn, Config{})).await(2)[0]
	m, err := d.Message(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Body) != `["x"]` || m.Subject != "kex.vorgang.123456.kommentare" || len(m.Header) != 3 ||
		m.Header[update.HeaderTraceID][0] != "sys1" || m.Header[update.HeaderMsgID][0] != "id-1" || m.Header["X-Other"][0] != "o" {
		t.Errorf("stored %+v", m)
	}
}

func TestPublishRefusesWhatCanNeverBeRight(t *testing.T) {
	conn := prepared(t)
	for name, r := range map[string]PublishRequest{
		"vorgangsnummer": comments("a.b", "id"),
		"wildcard":       comments("*", "id"),
		"kind":           {Vorgangsnummer: "1", Kind: "brief"},
		"id":             comments("1", "trailing space "),
		"trace ID":       {Vorgangsnummer: "1", Kind: update.Comments, Body: []byte(`["x"]`), TraceID: "with space"},
		"long id":        comments("1", strings.Repeat("x", 256)),
	} {
		if result, err := NewPublisher(conn).Publish(t.Context(), r); err == nil || result.Tries != 0 {
			t.Errorf("%s: %+v, %v", name, result, err)
		}
	}
	if got := stored(t, conn); got != 0 {
		t.Errorf("%d were stored", got)
	}
}

func TestPublishSaysWhyTheStreamRefuses(t *testing.T) {
	conn := prepared(t)
	change := func(edit func(*jetstream.StreamConfig)) {
		stream, err := conn.JetStream().Stream(t.Context(), topology.StreamUpdates)
		if err != nil {
			t.Fatal(err)
		}
		config := stream.CachedInfo().Config
		edit(&config)
		if _, err := conn.JetStream().UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	p := NewPublisher(conn)
	large := comments("1", "large")
	large.Body = bytes.Repeat([]byte("x"), embedded.DefaultMaxPayload)
	if _, err := p.Publish(t.Context(), large); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "8388608") {
		t.Errorf("larger than the server takes: %v", err)
	}
	if p.MaxSize() != embedded.DefaultMaxPayload {
		t.Errorf("the largest size is told as %d", p.MaxSize())
	}
	change(func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 })
	large.Body = large.Body[:2000]
	if _, err := p.Publish(t.Context(), large); !errors.Is(err, ErrTooLarge) {
		t.Errorf("larger than the stream takes: %v", err)
	}
	change(func(c *jetstream.StreamConfig) { c.MaxBytes = 1000 })
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = p.Publish(t.Context(), comments("1", ""))
	}
	if !errors.Is(err, ErrFull) {
		t.Errorf("into a full stream: %v", err)
	}
}

func TestPublishWithoutAStreamGivesUp(t *testing.T) {
	conn := connect(t, ConnectOptions{URL: embeddedtest.Run(t).URL()}, Hooks{})
	p := NewPublisher(conn)
	p.patience = 300 * time.Millisecond
	p.OnWait = func(why error) { t.Errorf("told before there was much waiting: %v", why) }
	result, err := p.Publish(t.Context(), comments("1", "id"))
	if !errors.Is(err, ErrNoStream) || !strings.Contains(err.Error(), "kexrelay setup") || result.Tries < 2 {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestWaitingForAStreamIsToldOnce(t *testing.T) {
	t.Parallel()
	conn := connect(t, ConnectOptions{URL: embeddedtest.Run(t).URL()}, Hooks{})
	p := NewPublisher(conn)
	p.patience = 3 * noticeAfter
	begin := time.Now()
	var told []error
	p.OnWait = func(why error) {
		told = append(told, why)
		if waited := time.Since(begin); waited < noticeAfter || waited > 3*noticeAfter {
			t.Errorf("told after %s", waited)
		}
	}
	if _, err := p.Publish(t.Context(), comments("1", "id")); !errors.Is(err, ErrNoStream) {
		t.Errorf("got %v", err)
	}
	if len(told) != 1 || !errors.Is(told[0], ErrNoStream) || !strings.Contains(told[0].Error(), "kexrelay setup") {
		t.Errorf("told %v", told)
	}
}

func TestPublishOutlastsARestart(t *testing.T) {
	server := embeddedtest.Run(t)
	conn := connect(t, ConnectOptions{URL: server.URL()}, Hooks{})
	setUp(t, conn)
	type outcome struct {
		result PublishResult
		err    error
	}
	ended := make(chan outcome, 1)
	restarted(t, server, embedded.Options{}, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := NewPublisher(conn).Publish(ctx, comments("1", "short")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without a server and time: %v", err)
		}
		go func() {
			result, err := NewPublisher(conn).Publish(context.Background(), comments("1", "long"))
			ended <- outcome{result, err}
		}()
	})
	select {
	case got := <-ended:
		if got.err != nil || got.result.MsgID != "long" || got.result.Seq == 0 {
			t.Errorf("got %+v", got)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if got := stored(t, conn); got != 1 {
		t.Errorf("%d updates are stored", got)
	}
}

func TestWhatIsTransient(t *testing.T) {
	api := func(status int, code jetstream.ErrorCode) error {
		return &jetstream.APIError{Code: status, ErrorCode: code}
	}
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"being stored":  {api(400, errCodeDuplicateInProcess), true},
		"no leader":     {api(503, 10008), true},
		"full":          {api(503, errCodeStoreFailed), false},
		"disk full":     {api(503, errCodeInsufficientResources), false},
		"no JetStream":  {api(503, jetstream.JSErrCodeJetStreamNotEnabled), false},
		"not found":     {api(404, jetstream.JSErrCodeStreamNotFound), false},
		"timeout":       {context.DeadlineExceeded, true},
		"no responders": {jetstream.ErrNoStreamResponse, true},
		"cancelled":     {context.Canceled, false},
		"anything":      {errors.New("x"), false},
	} {
		if got := transient(test.err); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestAckHandlesAreRead(t *testing.T) {
	want := ackMeta{streamSeq: 300, consumerSeq: 40, storedAt: 1763800000123456789, pending: 5}
	for _, reply := range []string{
		"$JS.ACK.KEX_UPDATES.relay-0.2.300.40.1763800000123456789.5",
		"$JS.ACK.hub.ACCHASH.KEX_UPDATES.relay-0.2.300.40.1763800000123456789.5",
		"$JS.ACK._.ACCHASH.KEX_UPDATES.relay-0.2.300.40.1763800000123456789.5.random",
	} {
		if got, ok := parseAck(reply); !ok || got != want {
			t.Errorf("%s: %+v, %t", reply, got, ok)
		}
	}
	for _, reply := range []string{
		"", "_INBOX.x", "$JS.ACK.", "$JS.ACK.KEX_UPDATES.relay-0.2.300.40.1763800000123456789",
		"$JS.ACK.KEX_UPDATES.relay-0.2.300.40.x.5", "$JS.ACK.KEX_UPDATES.relay-0.2..40.1.5",
		"$JS.ACK.KEX_UPDATES.relay-0.2.99999999999999999999999.40.1.5",
	} {
		if got, ok := parseAck(reply); ok {
			t.Errorf("%q was read as %+v", reply, got)
		}
	}
}

func FuzzParseAck(f *testing.F) {
	f.Add("$JS.ACK.KEX_UPDATES.relay-0.2.300.40.1763800000123456789.5")
	f.Fuzz(func(t *testing.T, reply string) {
		if meta, ok := parseAck(reply); ok && meta.storedAt < 0 {
			t.Errorf("%q: stored at %d", reply, meta.storedAt)
		}
	})
}
