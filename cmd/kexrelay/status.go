package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"kexrelay/internal/config"
	"kexrelay/internal/deadletter"
	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	// resultsWindow is how far back results are counted.
	resultsWindow = time.Minute
	// statusPatience bounds the whole look at a NATS that answers slowly.
	statusPatience = 30 * time.Second
	// replicasPatience is how long relays may take to answer.
	replicasPatience = 500 * time.Millisecond
)

// statusCommand is `kexrelay status`.
type statusCommand struct {
	env    *environment
	output outputFlags
	watch  string

	conn *queue.Conn // Kept while watching.

	mu      sync.Mutex
	denied  []string           // Subjects, in the order they were asked for.
	refused context.CancelFunc // Ends what is asked side by side, nil otherwise.

	inTurn  bool             // The parts are asked one after the other.
	denials topology.Denials // Then they end the call that is refused.
}

func newStatusCommand(env *environment) *cobra.Command {
	c := &statusCommand{env: env}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether updates move, and if not, why",
		Long: `Shows what waits, who works on it, what holds it, and the dead letters. The
first line says whether that is well, and if not, why and what to do. It asks
NATS, and the relays through NATS.

Code 0: well. Code 3: NATS does not answer, its topology is not right, no relay
is running or none has taken a partition over, sending is held or paused, a
stream is full, or updates are in the stream that no consumer delivers. Code 1:
nothing wrong was found, but not everything could be asked.`,
		Example: `  kexrelay status
  kexrelay status --watch
  kexrelay status --json | jq .verdict
  kexrelay status || mail -s 'kexrelay' ops@example.org`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&c.watch, "watch", "w", "", "again and again until ^C, which is code 0: every 2s, or --watch=`duration`")
	flags.Lookup("watch").NoOptDefVal = "2s"
	completeFixed(cmd, "watch", "2s", "10s", "1m")
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
	defer func() {
		if c.conn != nil {
			disconnect(cmd.Context(), c.conn)
		}
	}()
	if c.watch != "" {
		return c.follow(cmd.Context(), p, settings)
	}
	found, err := c.look(cmd.Context(), settings)
	if err != nil {
		return err
	}
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

func newStatus() *status { return &status{CheckedAt: time.Now().UTC(), Holds: []journal.Hold{}} }

// look asks for everything once. The error is ctx's end, or wrong settings of the connection.
func (c *statusCommand) look(ctx context.Context, settings config.Connection) (*status, error) {
	asking, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	found := newStatus()
	if c.conn == nil {
		c.inTurn = false
		if err := c.connect(asking, settings, found, c.isDenied); err != nil {
			return nil, err
		}
	}
	switch {
	case ctx.Err() != nil:
	case c.conn == nil:
	case !c.conn.Connected():
		found.NATS.Problem = "the connection to NATS is lost; it is tried again"
	default:
		found = c.ask(asking, settings)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("asking for the status: %w", err)
	}
	c.mu.Lock()
	found.Denied = slices.Clone(c.denied)
	c.mu.Unlock()
	found.judge()
	return found, nil
}

// connect connects, or notes why not. It is an error only if the settings are wrong: of those NATS knows nothing.
func (c *statusCommand) connect(ctx context.Context, settings config.Connection, found *status, denied func(subject string)) error {
	conn, err := dialTold(ctx, c.env, settings, denied)
	if err != nil {
		found.NATS.Problem = err.Error()
		if errors.Is(err, queue.ErrSettings) {
			return err
		}
		return nil
	}
	c.conn = conn
	return nil
}

// ask asks for every part, side by side: one that is not answered keeps none waiting. What is refused is not answered either,
// and only the connection hears of it, which cannot tell whose it is. So with the first refusal all are asked in turn from
// then on, on a connection that has not heard of this one: each ends at once with what it was refused.
func (c *statusCommand) ask(ctx context.Context, settings config.Connection) *status {
	found := newStatus()
	if !c.inTurn {
		aside, stop := context.WithCancel(ctx)
		defer stop()
		c.mu.Lock()
		c.refused = stop
		known := len(c.denied) > 0
		c.mu.Unlock()
		if !known {
			found.ask(aside, c.conn, false)
		}
		c.mu.Lock()
		c.refused = nil
		c.inTurn = len(c.denied) > 0
		c.mu.Unlock()
		if !c.inTurn {
			return found
		}
		disconnect(ctx, c.conn)
		c.conn, found = nil, newStatus()
		tell := c.denials.Listen()
		_ = c.connect(ctx, settings, found, func(subject string) { // It is noted: the settings were right a moment ago.
			c.isDenied(subject)
			tell(subject)
		})
		if c.conn == nil {
			return found
		}
	}
	found.ask(c.denials.Into(ctx), c.conn, true)
	return found
}

// anyConsumer is a subject as a right is granted: a reader's consumer has another name each time.
func anyConsumer(subject string) string {
	const create = ".CONSUMER.CREATE."
	api, rest, ok := strings.Cut(subject, create)
	if names := strings.SplitN(rest, ".", 3); ok && len(names) > 1 {
		names[1] = "*"
		return api + create + strings.Join(names, ".")
	}
	return subject
}

// isDenied notes a subject that the user has no right to.
func (c *statusCommand) isDenied(subject string) {
	subject = anyConsumer(subject)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.denied, subject) {
		c.denied = append(c.denied, subject)
	}
	if c.refused != nil {
		c.refused()
	}
}

// status is what there is to say about an installation, as -o json prints it.
type status struct {
	// Healthy is what the exit code says, Verdict why in a sentence: the first of Problems if there are any.
	Healthy   bool      `json:"healthy"`
	Verdict   string    `json:"verdict"`
	Problems  []string  `json:"problems,omitempty"`
	CheckedAt time.Time `json:"checkedAt"`

	NATS     natsStatus     `json:"nats"`
	Topology topologyStatus `json:"topology"`
	Updates  *updatesStatus `json:"updates,omitempty"`
	// Partitions are the relay's consumers.
	Partitions []partitionStatus `json:"partitions,omitempty"`
	// Replicas are the relays, Work is what they have in hand together.
	Replicas    []replicaStatus    `json:"replicas,omitempty"`
	Work        *workStatus        `json:"work,omitempty"`
	Holds       []journal.Hold     `json:"holds"`
	PausedKinds []pausedKind       `json:"pausedKinds,omitempty"`
	DeadLetters *deadLettersStatus `json:"deadLetters,omitempty"`
	Results     *resultsStatus     `json:"results,omitempty"`
	// Denied are the subjects that NATS does not let this user ask.
	Denied []string `json:"denied,omitempty"`
	// registered says that the relays' own records could be read: who is not among them is not running.
	registered bool
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
	// Rooms say how full each stream and bucket is.
	Rooms []roomStatus `json:"rooms,omitempty"`
	// NotKnown says that it could not be looked at.
	NotKnown bool `json:"notKnown,omitempty"`
}

// roomStatus is a stream or bucket; MaxBytes is -1 for no limit.
type roomStatus struct {
	Name     string `json:"name"`
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	MaxBytes int64  `json:"maxBytes"`
	Refuses  bool   `json:"-"`
}

type updatesStatus struct {
	Waiting uint64 `json:"waiting"`
	Bytes   uint64 `json:"bytes"`
	// MaxBytes is -1 for no limit.
	MaxBytes int64     `json:"maxBytes"`
	Oldest   time.Time `json:"oldest,omitzero"`
	// Undelivered are the waiting ones that no consumer delivers.
	Undelivered uint64 `json:"undelivered,omitempty"`
}

type partitionStatus struct {
	Partition int `json:"partition"`
	// Pending are not delivered to a relay yet, InProgress are and not settled.
	Pending     uint64 `json:"pending"`
	InProgress  int    `json:"inProgress"`
	Redelivered int    `json:"redelivered"`
	// Holder is the process that has the lease; Replicas says where it runs.
	Holder string `json:"holder,omitempty"`
	// Pulling says that a relay fetches.
	Pulling bool `json:"pulling"`
	// Paused says that somebody paused the consumer itself.
	Paused bool `json:"paused,omitempty"`
}

// pausedKind is a pause of one kind of updates alone.
type pausedKind struct {
	Kind  update.Kind `json:"kind"`
	Since time.Time   `json:"since"`
	// Until is absent for one without end.
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
	By     string    `json:"by,omitempty"`
}

type deadLettersStatus struct {
	Count uint64 `json:"count"`
	// ByReason has no times if this user may read no dead letters and there are several reasons.
	ByReason []deadletter.Count `json:"byReason"`
	// Oldest is when the oldest was stored.
	Oldest time.Time `json:"oldest,omitzero"`
}

type resultsStatus struct {
	// LastMinute are all events, PerSecond the settlements among them: the throughput.
	LastMinute uint64                    `json:"lastMinute"`
	ByOutcome  map[update.Outcome]uint64 `json:"byOutcome,omitempty"`
	PerSecond  float64                   `json:"perSecond"`
}
