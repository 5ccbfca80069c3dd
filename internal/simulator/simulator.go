// Package simulator is the KEX Vorgang Update API and its token endpoint as one scriptable HTTP server that
// remembers what it really booked.
//
// It stands at the very end of an update's way, in the place of Europace: `kexrelay simulate` and `kexrelay dev`
// run it, and tests use it as the outside witness. Therefore it shares no code with the relay: it has its own
// idea of what a valid body is, and what it says it booked, it booked.
//
// # What it answers
//
//	POST /kreditsmart/kex/vorgang/{vorgangsnummer}/dokument    201, {"filename": "…", "base64Content": "…"}
//	POST /kreditsmart/kex/vorgang/{vorgangsnummer}/kommentare  200, ["…", …]
//	GET  /kreditsmart/kex                                      404 as JSON while healthy: a probe that books nothing
//	POST /auth/token                                           client credentials by HTTP Basic
//
// The questions are asked in this order: is there an outage, is the rate exceeded (429), is the token good (401)
// and has it the scope (403), does the [Script] say anything about this request, is the body well-formed (415,
// 400). Only then is the update booked. A 400 quotes part of the input, as real APIs do, so that scrubbing can be
// tested.
//
// # What it remembers
//
// Every request in the order of arrival ([Simulator.Requests]), every booking per Vorgang in the order it was
// made ([Simulator.Ledger], [Simulator.Bookings]), every token request ([Simulator.TokenRequests]), repeated
// trace IDs (the API wants X-TraceId unique per request) and requests that overlapped another one of the same
// Vorgang. The memory for this grows with the number of requests, about 350 bytes each; [Simulator.Reset] frees it.
//
// A client that goes away does not stop its request: like a real server, the simulator books it when the
// scripted latency is over. This is what makes an outcome unknown.
//
// # Time
//
// The package reads time and waits only through package time, and a Simulator without a [Server] has no goroutine of
// its own: one made inside a testing/synctest bubble lives on the bubble's clock.
//
// # Admin endpoints
//
// /admin on the same server shows and changes all of it (see GET /admin). They ask for no credentials: the
// simulator is a test tool and must never be reachable from outside a test environment.
package simulator

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Paths of the simulated endpoints.
const (
	BasePath  = "/kreditsmart/kex"
	TokenPath = "/auth/token" //nolint:gosec // A path, no credential.
	AdminPath = "/admin"
)

// Scopes the simulator knows.
const (
	ScopeWrite       = "privatkredit:vorgang:schreiben" // Needed to book.
	ScopeImpersonate = "impersonieren"                  // Needed for subject and actor.
)

// Limits where Config says nothing.
const (
	defaultTokenTTL = time.Hour // As the real token endpoint says.
	defaultMaxBody  = 64 << 20  // Above any document the relay carries; a runaway client must not fill the memory.
)

// Config is what a simulator needs to know at its start.
type Config struct {
	// ClientID and ClientSecret are the only credentials the token endpoint takes. Both are required.
	ClientID     string
	ClientSecret string
	// TokenTTL is how long an access token is good, 1 h if 0. The script can say otherwise.
	TokenTTL time.Duration
	// Scopes are what the client may ask for; ScopeWrite and ScopeImpersonate if nil.
	Scopes []string
	// Script says how the API behaves. The zero Script is an API that works. It must not be changed afterwards.
	Script Script
	// Seed makes chance repeatable: the same seed and script give a Vorgang's n-th request the same fate and the
	// same latency, however the requests of different Vorgänge interleave.
	Seed uint64
	// KeepBodies keeps the body of every booking (for byte-for-byte tests). Off by default: it costs the memory.
	KeepBodies bool
	// MaxBody is the largest request body in bytes, 64 MiB if 0; a larger one is answered 413.
	MaxBody int64
	// Logger gets one debug line per request, without any content. Nil means no logs.
	Logger *slog.Logger
}

// Simulator is the simulated API with its ledger. All methods are safe for concurrent use.
type Simulator struct {
	config Config
	log    *slog.Logger
	ledger *ledger
	tokens *tokens
	bodies bodyPool
	plan   atomic.Pointer[plan]
	// outage is the one switched on by hand, nil if none is.
	outage atomic.Pointer[Outage]
	admin  http.Handler

	closeOnce sync.Once
	closed    chan struct{}
}

// New makes a simulator. The error names everything that is wrong with the config and its script.
func New(config Config) (*Simulator, error) {
	var errs []error
	if config.ClientID == "" {
		errs = append(errs, errors.New("ClientID is empty"))
	}
	if config.ClientSecret == "" {
		errs = append(errs, errors.New("ClientSecret is empty"))
	}
	if config.TokenTTL < 0 {
		errs = append(errs, fmt.Errorf("TokenTTL %v is negative", config.TokenTTL))
	}
	if config.MaxBody < 0 {
		errs = append(errs, fmt.Errorf("MaxBody %d is negative", config.MaxBody))
	}
	errs = append(errs, config.Script.Validate())
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("configuring the simulator: %w", err)
	}
	if config.TokenTTL == 0 {
		config.TokenTTL = defaultTokenTTL
	}
	if config.MaxBody == 0 {
		config.MaxBody = defaultMaxBody
	}
	if config.Scopes == nil {
		config.Scopes = []string{ScopeWrite, ScopeImpersonate}
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Simulator{
		config: config,
		log:    config.Logger.With(slog.String("component", "simulator")),
		ledger: newLedger(),
		tokens: newTokens(config.ClientSecret),
		closed: make(chan struct{}),
	}
	s.plan.Store(newPlan(config.Script, config.Seed))
	s.admin = s.adminHandler()
	return s, nil
}

// Handler serves all endpoints: the API, the token endpoint and the admin endpoints. Use it with httptest or an
// own http.Server; before such a server is closed, Close must end the waits of a scripted latency.
func (s *Simulator) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, nil) })
}

// Close ends every scripted wait: what has not been booked yet never will be, and its connection is cut. It does
// not forget anything and does not stop a Server. Closing twice is allowed.
func (s *Simulator) Close() { s.closeOnce.Do(func() { close(s.closed) }) }

// Script returns the script in force.
func (s *Simulator) Script() Script { return s.plan.Load().script }

// SetScript replaces the script. Sequences begin anew and outage windows count from now. On an error, the old
// script stays. The script must not be changed afterwards.
func (s *Simulator) SetScript(script Script) error {
	if err := script.Validate(); err != nil {
		return err
	}
	s.plan.Store(newPlan(script, s.config.Seed))
	s.log.Info("script replaced")
	return nil
}

// StartOutage begins an outage by hand. It replaces one begun by hand before and lasts until EndOutage; its From,
// For and Every are ignored. The zero Outage answers 503 to everything but token requests.
func (s *Simulator) StartOutage(outage Outage) error {
	outage.From, outage.For, outage.Every = 0, 0, 0
	if err := outage.validate("outage"); err != nil {
		return err
	}
	outage = outage.withDefaults()
	s.outage.Store(&outage)
	s.log.Info("outage started", slog.String("of", outage.Of), slog.Int("status", outage.Answer.Status))
	return nil
}

// EndOutage ends the outage begun by hand, if there is one. Windows of the script are not touched.
func (s *Simulator) EndOutage() {
	if s.outage.Swap(nil) != nil {
		s.log.Info("outage ended")
	}
}

// SetClientSecret changes the client's secret at once; tokens already issued stay good.
func (s *Simulator) SetClientSecret(secret string) error {
	if secret == "" {
		return errors.New("changing the client secret: it is empty")
	}
	s.tokens.setSecret(secret)
	s.log.Info("client secret changed")
	return nil
}

// RevokeTokens makes every token issued so far unknown: their next use is answered 401.
func (s *Simulator) RevokeTokens() {
	s.tokens.revoke()
	s.log.Info("tokens revoked")
}

// Reset forgets all requests, bookings and counts, begins the script anew and ends an outage begun by hand. The
// script itself, the client secret and the tokens stay. A request in flight belongs to the time before: neither
// it nor its booking is recorded any more.
func (s *Simulator) Reset() {
	s.outage.Store(nil)
	s.plan.Store(newPlan(s.plan.Load().script, s.config.Seed))
	s.ledger.reset()
	s.log.Info("simulator reset")
}

// activeOutage is the answer that an outage of one part (OfAPI, OfToken) gives now, or nil.
func (s *Simulator) activeOutage(p *plan, part string) *Answer {
	if o := s.outage.Load(); o != nil && o.concerns(part) {
		return &o.Answer
	}
	return p.outage(time.Now(), part)
}
