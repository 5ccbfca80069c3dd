package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// The plain consumer's streams, and the variable that makes this test binary one.
const (
	plainUpdates  = "PLAIN_UPDATES"
	plainConsumer = "plain"
	plainResults  = "PLAIN_RESULTS"

	plainEnv  = "KEXRELAY_PLAIN_CONSUMER"
	plainPool = "pool" // Idle connections and prefetch fit the number of requests in flight.
	plainBare = "bare" // Whatever nats.go and net/http do by default.
)

// plain is what one writes in an hour with nats.go and net/http: consume, decode, POST, publish the result, ack. It
// keeps no order, writes nothing down before a request, and sorts no answers: what fails comes again.
type plain struct {
	js     jetstream.JetStream
	client *http.Client
	base   string
}

func runPlain(pool string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	inFlight, err := strconv.Atoi(os.Getenv("IN_FLIGHT"))
	if err != nil {
		return err
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		return err
	}
	defer nc.Close()
	p := &plain{base: os.Getenv("KEX_BASE_URL")}
	if p.js, err = jetstream.New(nc); err != nil {
		return err
	}
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return errors.New("net/http has another default transport")
	}
	transport = transport.Clone()
	var options []jetstream.PullConsumeOpt
	if pool == plainPool {
		transport.MaxIdleConns, transport.MaxIdleConnsPerHost = inFlight, inFlight
		options = append(options, jetstream.PullMaxBytes(32<<20))
	}
	login := clientcredentials.Config{
		ClientID: clientID, ClientSecret: clientSecret, TokenURL: os.Getenv("KEX_TOKEN_URL"),
		Scopes: []string{"privatkredit:vorgang:schreiben"},
	}
	p.client = login.Client(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: transport}))
	p.client.Timeout = 30 * time.Second
	consumer, err := p.js.Consumer(ctx, plainUpdates, plainConsumer)
	if err != nil {
		return err
	}
	slots := make(chan struct{}, inFlight)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			if err := p.handle(ctx, m); err != nil {
				fmt.Fprintln(os.Stderr, err)
				_ = m.NakWithDelay(time.Second) // Else it comes after the ack wait.
			}
		}()
	}, options...)
	if err != nil {
		return err
	}
	<-ctx.Done()
	consuming.Stop()
	<-consuming.Closed()
	return nil
}

// plainEvent is the plain consumer's result.
type plainEvent struct {
	ID             string    `json:"id"`
	Vorgangsnummer string    `json:"vorgangsnummer"`
	Kind           string    `json:"kind"`
	Outcome        string    `json:"outcome"`
	Status         int       `json:"status"`
	TraceID        string    `json:"traceId"`
	SettledAt      time.Time `json:"settledAt"`
}

func (p *plain) handle(ctx context.Context, m jetstream.Msg) error {
	tokens := strings.Split(m.Subject(), ".")
	vorgang, kind := tokens[2], tokens[3]
	body, err := plainDecode(kind, m.Data())
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base+"/vorgang/"+vorgang+"/"+kind, bytes.NewReader(body))
	if err != nil {
		return err
	}
	traceID := "plain" + uuid.NewString()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Traceid", traceID)
	answer, err := p.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close() //nolint:errcheck // it was read
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("the API answered %s", answer.Status)
	}
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	id := m.Headers().Get(nats.MsgIdHdr)
	if id == "" {
		id = strconv.FormatUint(meta.Sequence.Stream, 10)
	}
	event, err := json.Marshal(plainEvent{
		ID: id, Vorgangsnummer: vorgang, Kind: kind, Outcome: "delivered", Status: answer.StatusCode, TraceID: traceID, SettledAt: time.Now(),
	})
	if err != nil {
		return err
	}
	result := nats.NewMsg("plain.result.delivered." + vorgang + "." + kind)
	result.Data = event
	result.Header.Set(nats.MsgIdHdr, "result-"+id)
	result.Header.Set("Kex-Update-Id", id)
	if _, err := p.js.PublishMsg(ctx, result); err != nil {
		return err
	}
	return m.Ack()
}

// plainDecode reads an update and writes it again as the API wants it.
func plainDecode(kind string, data []byte) ([]byte, error) {
	if kind == "kommentare" {
		var comments []string
		if err := json.Unmarshal(data, &comments); err != nil {
			return nil, err
		}
		return json.Marshal(comments)
	}
	var document struct {
		Filename      string `json:"filename"`
		Base64Content string `json:"base64Content"`
	}
	if err := json.Unmarshal(data, &document); err != nil {
		return nil, err
	}
	return json.Marshal(document)
}
