package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

const (
	// ServiceName is the NATS micro service that every replica is an instance of.
	ServiceName = "kexrelay"
	// ServiceSubject is where every replica answers with its state.
	ServiceSubject = "kex.replica.state"
	serviceState   = "state" // The endpoint's name.
)

// serviceVersion is a semantic version, which the protocol demands.
var serviceVersion = regexp.MustCompile(`^v?(\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?)$`)

// Service is what a replica says of itself to NATS.
type Service struct {
	// Version is the build's. One that is no semantic version is told as 0.0.0; it is in the metadata as it is.
	Version  string
	Metadata map[string]string
	// State is asked for each answer, by any goroutine; what it gives is written as JSON, without content or secrets.
	State func() any
}

// Announce makes this process an instance of the micro service [ServiceName], as `nats micro ls`, `info` and `stats` show
// it, until stop is called or the connection is closed. Without the right to listen for it nothing is shown, and
// nothing else is wrong.
func (c *Conn) Announce(s Service) (stop func(), err error) {
	version := "0.0.0"
	if match := serviceVersion.FindStringSubmatch(s.Version); match != nil {
		version = match[1]
	}
	service, err := micro.AddService(c.nc, micro.Config{
		Name: ServiceName, Version: version, Metadata: s.Metadata,
		Description:  "Carries documents and comments from NATS JetStream into Europace KreditSmart.",
		StatsHandler: func(*micro.Endpoint) any { return s.State() },
	})
	if err != nil {
		return nil, fmt.Errorf("announcing the replica to NATS: %w", err)
	}
	answer := func(r micro.Request) {
		state, err := json.Marshal(s.State())
		if err == nil {
			err = r.Respond(state)
		}
		if err != nil {
			c.logger.Debug("question for the replica's state was not answered", slog.String("error", err.Error()))
		}
	}
	// Without a queue group each replica answers.
	if err := service.AddEndpoint(serviceState, micro.HandlerFunc(answer),
		micro.WithEndpointSubject(ServiceSubject), micro.WithEndpointQueueGroupDisabled()); err != nil {
		_ = service.Stop() // The first error says more.
		return nil, fmt.Errorf("announcing the replica to NATS: %w", err)
	}
	return func() {
		if err := service.Stop(); err != nil {
			c.logger.Debug("replica was not taken off NATS", slog.String("error", err.Error()))
		}
	}, nil
}

// AskReplicas asks all replicas for their state, over NATS alone: no stream takes part, so they answer also while
// JetStream writes nothing. It returns when enough have answered, or with what came by the end of wait: without the
// right to ask, or to answer, nothing comes.
func (c *Conn) AskReplicas(ctx context.Context, enough int, wait time.Duration) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	inbox := c.nc.NewInbox()
	sub, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("asking the replicas: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // Only a closed connection has nothing to unsubscribe from.
	if err := c.nc.PublishRequest(ServiceSubject, inbox, nil); err != nil {
		return nil, fmt.Errorf("asking the replicas: %w", err)
	}
	var answers [][]byte
	for len(answers) < max(enough, 1) {
		msg, err := sub.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrNoResponders):
			return answers, nil
		case err != nil:
			return answers, fmt.Errorf("asking the replicas: %w", err)
		}
		answers = append(answers, msg.Data)
	}
	return answers, nil
}

// maxQuestions bounds how many questions to this replica are answered at once.
const maxQuestions = 8

// Answer answers questions on a subject, each in a goroutine of its own and as JSON, until stop is called or the connection
// is closed; stop waits for those that are being answered. Without the right to listen there nobody asks in vain for long:
// NATS tells the asker that nobody listens.
func (c *Conn) Answer(subject string, answer func(question []byte) any) (stop func(), err error) {
	places := make(chan struct{}, maxQuestions)
	var work sync.WaitGroup
	sub, err := c.nc.Subscribe(subject, func(m *nats.Msg) {
		places <- struct{}{}
		work.Go(func() {
			defer func() { <-places }()
			said, err := json.Marshal(answer(m.Data))
			if err == nil {
				err = m.Respond(said)
			}
			if err != nil {
				c.logger.Debug("question was not answered", slog.String("subject", subject), slog.String("error", err.Error()))
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", subject, err)
	}
	return func() {
		_ = sub.Unsubscribe() // Only a closed connection has nothing to unsubscribe from.
		work.Wait()
	}, nil
}
