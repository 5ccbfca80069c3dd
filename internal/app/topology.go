package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"kexrelay/internal/topology"
)

const (
	// topologyPause is the time between two looks at the topology, mendPause that while something is wrong with it.
	topologyPause = 10 * time.Second
	mendPause     = 2 * time.Second
	// wrongCounts is how often in a row the topology must be found wrong: a cluster that is just electing may say so.
	wrongCounts = 2
)

// errPartitionsChanged ends all parts: they are made for another number of partitions.
var errPartitionsChanged = errors.New("the number of partitions has changed")

// topologyState is what is wrong with streams and consumers. The zero value says nothing is.
type topologyState struct {
	mu      sync.Mutex
	problem string
}

func (s *topologyState) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// set changes it and gives what it was.
func (s *topologyState) set(problem string) (was string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, s.problem = s.problem, problem
	return was
}

// watchTopology looks now and then whether streams and consumers are still as setup made them, until ctx ends.
// What is wrong is told, by a line and by /readyz; whatever goes on nevertheless goes on, and nothing is changed here.
// The error is errPartitionsChanged.
func (p *relayProcess) watchTopology(ctx context.Context) error {
	wrong, wait := 0, topologyPause
	for pause(ctx, wait); ctx.Err() == nil; pause(ctx, wait) {
		found, err := topology.Verify(ctx, p.conn.Load().JetStream())
		if err == nil || errors.Is(err, topology.ErrSetupNeeded) {
			p.seen.note(found)
		}
		switch {
		case err == nil && found.Partitions != len(p.partitions):
			return errPartitionsChanged
		case err == nil:
			wrong, wait = 0, topologyPause
			p.topologyRight()
		case errors.Is(err, topology.ErrSetupNeeded), errors.Is(err, topology.ErrServerTooOld):
			wait = mendPause
			if wrong++; wrong >= wrongCounts {
				p.topologyWrong(err)
			}
		}
		// Any other error says nothing about the topology.
	}
	return nil
}

// topologyWrong tells what is wrong, once.
func (p *relayProcess) topologyWrong(err error) {
	problem := strings.ReplaceAll(err.Error(), "\n", "; ")
	if p.topology.set(problem) != problem {
		p.logger.Error("streams or consumers are not as they must be any more", slog.String("error", problem))
	}
}

func (p *relayProcess) topologyRight() {
	if p.topology.set("") != "" {
		p.logger.Info("streams and consumers are right again")
	}
}

// awaitTopology waits until nothing is wrong any more, or ctx ends, after a partition has found its consumer gone.
func (p *relayProcess) awaitTopology(ctx context.Context, gone error) {
	p.topologyWrong(gone)
	for ctx.Err() == nil {
		pause(ctx, mendPause)
		if _, err := topology.Verify(ctx, p.conn.Load().JetStream()); err == nil {
			p.topologyRight()
			return
		}
	}
}
