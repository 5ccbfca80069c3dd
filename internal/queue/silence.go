package queue

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

const (
	// tolerance is how long JetStream may leave a request without an answer, tried again and again, before the server
	// is left. A lease is lost by then in any case. An election may take longer, and then leaving is in vain: it costs
	// as little as any lost connection.
	tolerance = 4 * time.Second
	// minDistance is the time between two leavings. It doubles up to maxDistance while they do not help, so that a
	// cluster without a quorum is not kept busy with connections.
	minDistance = 5 * time.Second
	maxDistance = time.Minute
)

// Heard tells the connection what became of a request to JetStream: err is nil for what only a leader with its quorum
// can say. request is in a few words what was asked, from a small set. It returns at once.
//
// A server of a cluster that is cut off from its peers keeps its clients, answers their pings, and nothing else: by
// itself the client would stay. So when one kind of request has had no answer for some seconds, or none but that there
// is no leader, while the connection is up and other servers are known, this server is left for the next one.
func (c *Conn) Heard(request string, err error) {
	if err == nil {
		c.silence.answered(request)
		return
	}
	if !unanswered(err) || !c.Connected() || len(c.nc.Servers()) < 2 {
		return
	}
	if silent, leave := c.silence.unanswered(request, c.reconnects(), time.Now()); leave {
		c.leave(request, silent, err)
	}
}

// unanswered reports whether an error means that JetStream gave no answer, or none but that it cannot give one, while
// the connection was up. Every other error decides nothing: a leader without a quorum, too, can say that a message is
// too large.
func unanswered(err error) bool {
	for _, other := range []error{
		ErrPermission, nats.ErrPermissionViolation,
		nats.ErrReconnectBufExceeded, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return transient(err) || errors.Is(err, jetstream.ErrAsyncPublishTimeout)
}

// leave ends the connection, and the client makes the next one to the next server it knows. To everything else it is a
// connection that was lost: nats.go's own ForceReconnect would fail all that is on its way as if the connection were
// closed for good.
func (c *Conn) leave(request string, silent time.Duration, err error) {
	c.mu.Lock()
	c.left = departure{
		server: c.nc.ConnectedServerId(), url: c.nc.ConnectedUrl(), connection: c.reconnects(),
		others: len(c.nc.Servers()) - 1, underWay: true,
	}
	c.mu.Unlock()
	c.logger.Warn("jetstream does not answer through this nats server although it is connected: going on through another one",
		slog.String("server", c.lastServer()), slog.String("request", request),
		slog.Duration("silent_for", silent.Round(time.Millisecond)), slog.String("error", err.Error()))
	if c.hooks.OnSilence != nil {
		c.hooks.OnSilence()
	}
	c.dialler.hangUp()
}

// departure is how a server was left.
type departure struct {
	server string // Its ID.
	url    string
	// connection numbers the connection that was ended: what is told of it may be told late.
	connection uint64
	// others is how many of the other URLs may still prove to lead to the same server.
	others int
	// underWay says that the end of the connection was not heard of yet.
	underWay bool
}

// leaving reports, once, that a connection was ended by leave.
func (c *Conn) leaving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.left.underWay
	c.left.underWay = false
	return was
}

// backAgain reports whether a new connection leads to the server just left, by another of its URLs: its address beside
// its name. By the same URL it means that no other server can be reached, and there is nowhere to go.
func (c *Conn) backAgain(nc *nats.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch now := nc.Stats().Reconnects; {
	case now == c.left.connection:
		return false
	case c.left.others <= 0, nc.ConnectedServerId() != c.left.server, nc.ConnectedUrl() == c.left.url:
		c.left = departure{}
		return false
	default:
		c.left.others--
		c.left.connection, c.left.underWay = now, true
		return true
	}
}

// silence notes which requests are without an answer, and decides when to leave. The zero value is ready.
type silence struct {
	mu sync.Mutex
	// connection numbers the connection that spells are of.
	connection uint64
	spells     map[string]spell
	// left is when a server was left last, distance how long it must be to the next time.
	left     time.Time
	distance time.Duration
}

// spell is the time in which one kind of request has found no answer: the first failure and the last.
type spell struct{ since, last time.Time }

func (s *silence) answered(request string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.spells, request)
}

// unanswered notes a request without an answer, and says for how long that has been so and whether to leave now.
func (s *silence) unanswered(request string, connection uint64, now time.Time) (silent time.Duration, leave bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if connection != s.connection || s.spells == nil {
		s.connection, s.spells = connection, make(map[string]spell)
	}
	it, there := s.spells[request]
	if !there || now.Sub(it.last) > tolerance { // What is seldom asked is not silent in between.
		it.since = now
	}
	it.last = now
	s.spells[request] = it
	if silent = now.Sub(it.since); silent < tolerance || now.Sub(s.left) < s.distance {
		return silent, false
	}
	// The last leaving has helped if all was well for as long as the distance.
	if it.since.Sub(s.left) >= s.distance {
		s.distance = minDistance
	} else {
		s.distance = min(2*s.distance, maxDistance)
	}
	s.left = now
	clear(s.spells)
	return silent, true
}

// forget begins anew: a right that is missing is silent too.
func (s *silence) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.spells)
}

// listenPause is the time between two questions of Listen, and how long each waits.
const listenPause = time.Second

// Listen asks for the stream of updates over and over until ctx ends, so that a server without an answer is left also
// while nothing else is asked, or only patiently. It needs no right that serve does not have.
func (c *Conn) Listen(ctx context.Context) {
	ticker := time.NewTicker(listenPause)
	defer ticker.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, listenPause)
		_ = c.call(asking, "STREAM.INFO."+topology.StreamUpdates, nil, nil) // It tells Heard, which is all.
		cancel()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
