package app

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"kexrelay/internal/config"
	"kexrelay/internal/hold"
)

// A stop that comes while the process is still starting is a clean one: whoever stopped it must not be told of a failure.
func TestAStopBeforeTheConnectionIsClean(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var cfg config.Serve
	cfg.KEX.BaseURL, cfg.KEX.TokenURL = "https://kex.example.com", "https://token.example.com"
	cfg.KEX.ClientID, cfg.KEX.RequestTimeout = "id", time.Second
	cfg.Relay.Concurrency, cfg.HTTP.Addr = 1, "127.0.0.1:0"
	if err := Run(ctx, Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Errorf("got %v", err)
	}
}

// electing is a store of holds without a leader until a time.
type electing struct {
	hold.Store

	until time.Time
}

func (e electing) List(context.Context) ([]hold.Record, error) {
	if time.Now().Before(e.until) {
		return nil, context.DeadlineExceeded
	}
	return nil, nil
}

// Without knowing what is held nothing may be sent; but a partition that was taken over is not given back, to be taken over
// from the beginning, only because a cluster elects.
func TestTheHoldsAreWaitedForAsLongAsAnElectionTakes(t *testing.T) {
	for _, c := range []struct {
		election time.Duration
		ok       bool
	}{{9 * time.Second, true}, {time.Hour, false}} {
		synctest.Test(t, func(t *testing.T) {
			gate := hold.New(hold.Config{Limit: 1, Logger: slog.New(slog.DiscardHandler)})
			p := &relayProcess{fleet: gate.Share(hold.Sharing{
				Store: electing{until: time.Now().Add(c.election)}, Process: "p", Active: func() bool { return false },
			})}
			begin := time.Now()
			err := p.inheritHolds(t.Context())
			if took := time.Since(begin); (err == nil) != c.ok || took > holdsTimeout {
				t.Errorf("election of %v: %v after %v", c.election, err, took)
			}
		})
	}
}
