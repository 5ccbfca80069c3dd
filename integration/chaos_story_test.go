package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// A stall is explained by what was done to the system and what NATS was able to do at that time. Both are kept line by
// line, beside what the processes printed, when KEXRELAY_CHAOS_LOGS names a directory.

const (
	storyFile = "story.log"
	// storyStall is how long nothing must have been sent to be told.
	storyStall = 2 * time.Second
	// witnessPause is the time between two questions of a witness, witnessTimeout how long it waits for an answer.
	witnessPause   = 200 * time.Millisecond
	witnessTimeout = 800 * time.Millisecond
)

// note adds a line to the story of the run.
func (c *chaos) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.story = append(c.story, storyLine(time.Now(), fmt.Sprintf(format, args...)))
}

func storyLine(at time.Time, text string) string { return at.UTC().Format("15:04:05.000 ") + text }

// watchQuorum notes for each server who leads what through it, and whether the bucket of leases can be written, until the
// function it gives is called. It only does so if the story is kept: its questions are load.
func (c *chaos) watchQuorum() (stop func()) {
	if os.Getenv("KEXRELAY_CHAOS_LOGS") == "" || len(c.servers) == 1 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	var all sync.WaitGroup
	for _, s := range c.servers {
		nc, err := nats.Connect("nats://"+s.addr, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
			nats.ReconnectBufSize(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // What is lost is asked again.
		if err != nil {
			c.t.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			c.t.Fatal(err)
		}
		all.Go(func() {
			defer nc.Close()
			c.witness(ctx, s.name, js)
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// witness asks through one server and notes each answer that differs from the one before.
func (c *chaos) witness(ctx context.Context, server string, js jetstream.JetStream) {
	questions := map[string]func(context.Context) (string, error){
		"leases can be written": func(ctx context.Context) (string, error) {
			_, err := js.Publish(ctx, "$KV."+topology.BucketControl+".witness", nil, jetstream.WithRetryAttempts(0))
			return "yes", err
		},
	}
	for _, name := range []string{topology.StreamUpdates, topology.StreamResults, "KV_" + topology.BucketLedger, "KV_" + topology.BucketControl} {
		questions[name+" is led by"] = func(ctx context.Context) (string, error) {
			stream, err := js.Stream(ctx, name)
			if err != nil || stream.CachedInfo().Cluster == nil {
				return "", err
			}
			return stream.CachedInfo().Cluster.Leader, nil
		}
	}
	var each sync.WaitGroup
	for what, ask := range questions {
		each.Go(func() {
			for before := ""; ctx.Err() == nil; {
				asking, done := context.WithTimeout(ctx, witnessTimeout)
				answer, err := ask(asking)
				done()
				if err != nil {
					answer = "no answer"
				}
				if answer != before && !errors.Is(err, context.Canceled) {
					c.note("  asked through %s: %s: %s", server, what, answer)
				}
				before = answer
				pause(ctx, witnessPause)
			}
		})
	}
	each.Wait()
}

// pause waits, but not longer than ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// keepStory writes the story, with the times in which nothing was sent.
func (c *chaos) keepStory(e *evidence) {
	dir := os.Getenv("KEXRELAY_CHAOS_LOGS")
	if dir == "" {
		return
	}
	c.mu.Lock()
	story := slices.Clone(c.story)
	c.mu.Unlock()
	var last time.Time
	for _, r := range ordered(e.requests) {
		if silent := r.ReceivedAt.Sub(last); !last.IsZero() && silent > storyStall {
			story = append(story, storyLine(last, "the last request"), storyLine(r.ReceivedAt, fmt.Sprintf("the first request after %v", silent)))
		}
		last = r.ReceivedAt
	}
	slices.Sort(story)
	if err := os.WriteFile(filepath.Join(dir, storyFile), []byte(strings.Join(story, "\n")+"\n"), 0o600); err != nil {
		c.t.Errorf("keeping the story: %v", err)
	}
}
