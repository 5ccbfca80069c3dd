package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/topology"
)

const (
	// resultsWindow is how far back results are counted, resultsMost when counting ends: status must stay cheap.
	resultsWindow = time.Minute
	resultsMost   = 10_000
	// statusPatience bounds the whole look at a NATS that answers slowly.
	statusPatience = 30 * time.Second
)

// statusCommand is `kexrelay status`.
type statusCommand struct {
	env    *environment
	output outputFlags
}

func newStatusCommand(env *environment) *cobra.Command {
	c := &statusCommand{env: env}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether updates move, and if not, why",
		Long: `Shows what waits, who works on it, what holds it, and the dead letters. The
first line says whether that is well. Only NATS is asked, no relay.

Code 0: well. Code 3: NATS does not answer, its topology is not right, sending
is held, the stream is full, or updates wait and no relay fetches them.`,
		Example: `  kexrelay status
  kexrelay status --json | jq .verdict
  kexrelay status || mail -s 'kexrelay' ops@example.org`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	c.output.register(cmd)
	addConnectionFlags(cmd)
	return cmd
}

func (c *statusCommand) run(cmd *cobra.Command) error {
	p, err := c.output.open(c.env)
	if err != nil {
		return err
	}
	settings, err := connectionSettings(c.env, cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), statusPatience)
	defer cancel()
	found := &status{CheckedAt: time.Now().UTC(), Holds: []journal.Hold{}}
	conn, err := dial(ctx, c.env, settings)
	switch {
	case cmd.Context().Err() != nil:
		return cmd.Context().Err()
	case err != nil:
		found.NATS.Problem = err.Error()
	default:
		defer disconnect(ctx, conn)
		found.ask(ctx, conn)
	}
	if err := cmd.Context().Err(); err != nil {
		return fmt.Errorf("asking for the status: %w", err)
	}
	found.judge()
	if err := found.print(p); err != nil {
		return err
	}
	switch {
	case !found.Healthy:
		return exitWith(exitUnhealthy)
	case len(found.Unknown) > 0:
		return exitWith(exitFailed)
	}
	return nil
}

// status is what there is to say about an installation, as -o json prints it.
type status struct {
	// Healthy is what the exit code says, Verdict why in a sentence.
	Healthy   bool      `json:"healthy"`
	Verdict   string    `json:"verdict"`
	CheckedAt time.Time `json:"checkedAt"`

	NATS     natsStatus     `json:"nats"`
	Topology topologyStatus `json:"topology"`
	Updates  *updatesStatus `json:"updates,omitempty"`
	// Partitions are the relay's consumers.
	Partitions  []partitionStatus  `json:"partitions,omitempty"`
	Holds       []journal.Hold     `json:"holds"`
	DeadLetters *deadLettersStatus `json:"deadLetters,omitempty"`
	Results     *resultsStatus     `json:"results,omitempty"`
	// Unknown is what could not be asked, with the reason.
	Unknown []string `json:"unknown,omitempty"`
}

type natsStatus struct {
	URL     string `json:"url,omitempty"`
	Version string `json:"version,omitempty"`
	Problem string `json:"problem,omitempty"`
}

type topologyStatus struct {
	Right      bool             `json:"right"`
	Problem    string           `json:"problem,omitempty"`
	Partitions int              `json:"partitions,omitempty"`
	Replicas   int              `json:"replicas,omitempty"`
	Storage    topology.Storage `json:"storage,omitempty"`
}

type updatesStatus struct {
	Waiting uint64 `json:"waiting"`
	Bytes   uint64 `json:"bytes"`
	// MaxBytes is -1 for no limit.
	MaxBytes int64     `json:"maxBytes"`
	Oldest   time.Time `json:"oldest,omitzero"`
}

type partitionStatus struct {
	Partition int `json:"partition"`
	// Pending are not delivered to a relay yet, InProgress are and not settled.
	Pending     uint64 `json:"pending"`
	InProgress  int    `json:"inProgress"`
	Redelivered int    `json:"redelivered"`
	// Pulling says that a relay fetches.
	Pulling bool `json:"pulling"`
	// Paused says that somebody paused the consumer itself.
	Paused bool `json:"paused,omitempty"`
}

type deadLettersStatus struct {
	Count    uint64             `json:"count"`
	ByReason []deadletter.Count `json:"byReason"`
}

type resultsStatus struct {
	LastMinute int `json:"lastMinute"`
	// AtLeast says that there were more than were counted.
	AtLeast bool `json:"atLeast,omitempty"`
}

// ask asks for every part; one that cannot be asked hides no other.
func (s *status) ask(ctx context.Context, conn *queue.Conn) {
	js := conn.JetStream()
	s.NATS.URL = conn.Server()
	found, err := topology.Verify(ctx, js)
	s.NATS.Version = found.Server
	s.Topology = topologyStatus{Right: err == nil, Partitions: found.Partitions, Replicas: found.Replicas, Storage: found.Storage}
	switch {
	case errors.Is(err, topology.ErrSetupNeeded), errors.Is(err, topology.ErrServerTooOld):
		s.Topology.Problem = err.Error()
	case err != nil:
		s.Topology.Problem = "not known: " + err.Error()
		s.unknown("topology", err)
	}
	backlog, err := conn.Backlog(ctx)
	if err == nil {
		s.backlog(backlog)
	}
	s.unknown("updates", err)
	holds, err := journal.NewHolds(js).List(ctx)
	s.Holds = append(s.Holds, holds...)
	s.unknown("holds", err)
	store := deadletter.New(js, deadletter.Config{})
	defer store.Close()
	counts, err := store.Counts(ctx)
	if err == nil {
		s.DeadLetters = &deadLettersStatus{ByReason: counts}
		for _, c := range counts {
			s.DeadLetters.Count += c.Count
		}
	}
	s.unknown("dead letters", err)
	s.unknown("results", s.results(ctx, journal.NewResults(js)))
}

// unknown notes what could not be asked. Without a topology that is no news.
func (s *status) unknown(what string, err error) {
	if err != nil && (s.Topology.Right || what == "topology") {
		s.Unknown = append(s.Unknown, what+": "+err.Error())
	}
}

func (s *status) backlog(b queue.Backlog) {
	s.Updates = &updatesStatus{Waiting: b.Messages, Bytes: b.Bytes, MaxBytes: b.MaxBytes, Oldest: b.OldestAt.UTC()}
	if b.OldestAt.IsZero() {
		s.Updates.Oldest = time.Time{}
	}
	for _, p := range b.Partitions {
		s.Partitions = append(s.Partitions, partitionStatus{
			Partition: p.Number, Pending: p.Pending, InProgress: p.AckPending, Redelivered: p.Redelivered,
			Pulling: p.Waiting > 0 || p.PinnedClient != "", Paused: p.Paused,
		})
	}
}

func (s *status) results(ctx context.Context, results *journal.Results) error {
	counted := &resultsStatus{}
	for _, err := range results.List(ctx, journal.ResultFilter{Since: s.CheckedAt.Add(-resultsWindow)}) {
		if err != nil {
			return err
		}
		if counted.LastMinute == resultsMost {
			counted.AtLeast = true
			break
		}
		counted.LastMinute++
	}
	s.Results = counted
	return nil
}
