package simulator

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxTokenForm bounds a token request's body in bytes: it holds a grant type, scopes and two partner IDs.
const maxTokenForm = 64 << 10

// keptTokens is how many issued tokens may be there before expired ones are thrown away.
const keptTokens = 1024

// tokens are the client's secret and the access tokens issued for it.
type tokens struct {
	mu     sync.RWMutex
	secret string
	grants map[string]grant
}

// grant is what an access token is good for.
type grant struct {
	expires time.Time
	write   bool
}

func newTokens(secret string) *tokens { return &tokens{secret: secret, grants: map[string]grant{}} }

func (t *tokens) setSecret(secret string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secret = secret
}

func (t *tokens) revoke() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.grants)
}

// issue makes a token for scopes.
func (t *tokens) issue(scopes []string, ttl time.Duration) string {
	token := "kexsim." + rand.Text()
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.grants) >= keptTokens {
		for old, g := range t.grants {
			if now.After(g.expires) {
				delete(t.grants, old)
			}
		}
	}
	t.grants[token] = grant{expires: now.Add(ttl), write: slices.Contains(scopes, ScopeWrite)}
	return token
}

// check looks at an update's Authorization header: nil if it allows to book, else the answer.
func (t *tokens) check(authorization string) *Answer {
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return unauthorized("Kein Access-Token", "Bearer")
	}
	t.mu.RLock()
	g, known := t.grants[token]
	t.mu.RUnlock()
	switch {
	case !known:
		return unauthorized("Unbekanntes Access-Token", `Bearer error="invalid_token"`)
	case !time.Now().Before(g.expires):
		return unauthorized("Abgelaufenes Access-Token", `Bearer error="invalid_token"`)
	case !g.write:
		return &Answer{Status: http.StatusForbidden, message: "Der Scope " + ScopeWrite + " fehlt"}
	}
	return nil
}

func unauthorized(message, challenge string) *Answer {
	return &Answer{
		Status: http.StatusUnauthorized, message: message, Headers: map[string]string{"WWW-Authenticate": challenge},
	}
}

// knows checks the client's credentials. RFC 6749 has them form-encoded inside Basic, curl and many clients send them
// as they are: both are taken.
func (t *tokens) knows(wantID, id, secret string) bool {
	t.mu.RLock()
	want := t.secret
	t.mu.RUnlock()
	return matches(wantID, id) && matches(want, secret)
}

func matches(want, got string) bool {
	if subtle.ConstantTimeCompare([]byte(want), []byte(got)) == 1 {
		return true
	}
	decoded, err := url.QueryUnescape(got)
	return err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(decoded)) == 1
}

// tokenAnswer is the JSON body of a token.
type tokenAnswer struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"` // Seconds.
	Scope       string `json:"scope"`
}

// tokenError is the JSON body of a refusal.
type tokenError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// serveToken answers a token request.
func (s *Simulator) serveToken(w http.ResponseWriter, r *http.Request, stopped <-chan struct{}) {
	e := s.ledger.tokenArrive(traceIDOf(r))
	defer s.ledger.tokenLeave(e)
	x := &exchange{w: w, r: r, stopped: stopped, closed: s.closed}
	p := s.plan.Load()

	var f fate
	if answer := s.activeOutage(p, OfToken); answer != nil {
		f = fate{answer: answer, chance: p.chance("token", e.Seq)}
	} else {
		f = p.nextToken()
	}
	scripted := f.answer
	if scripted == nil {
		scripted = &Answer{}
	}
	if !scripted.Early {
		r.Body = http.MaxBytesReader(w, r.Body, maxTokenForm)
		_ = r.ParseForm() // What cannot be read is missing afterwards, and said so.
		s.ledger.tokenUpdate(e, func(t *TokenRequest) {
			t.Scope, t.Subject, t.Actor = r.PostForm.Get("scope"), r.PostForm.Get("subject"), r.PostForm.Get("actor")
		})
	}
	latency := scripted.Latency
	if latency == nil {
		latency = p.script.Token.Latency
	}
	if !x.pause(latency.draw(f.chance), true) || !x.pause(scripted.AnswerLatency.draw(f.chance), true) {
		x.cut(false)
		return
	}
	if scripted.Cut == CutBeforeBooking || scripted.Cut == CutAfterBooking {
		x.cut(scripted.Reset)
		return
	}
	status, text, refusal := s.tokenText(p, scripted, r)
	s.ledger.tokenUpdate(e, func(t *TokenRequest) {
		t.Status, t.Error, t.Issued = status, refusal, status == http.StatusOK && scripted.Body == ""
	})
	w.Header().Set("Cache-Control", "no-store")
	x.send(scripted, status, text)
}

// tokenText is the answer to a token request: its status, its body and, for a refusal, the OAuth error code.
func (s *Simulator) tokenText(p *plan, scripted *Answer, r *http.Request) (status int, text, refusal string) {
	status = scripted.Status
	var body any
	switch {
	case status == 0 && scripted.Error == "":
		status, body = s.grantToken(p, r)
	default:
		if status == 0 {
			status = http.StatusBadRequest
		}
		refused := tokenError{Error: errorCode(scripted, status)}
		if scripted.Echo {
			refused.Description = r.Header.Get("Authorization")
		}
		body = refused
	}
	if e, ok := body.(tokenError); ok {
		refusal = e.Error
	}
	if scripted.Body != "" {
		return status, scripted.Body, refusal
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		encoded = []byte("{}") // Cannot be: strings and a number.
	}
	return status, string(encoded), refusal
}

// errorCode is the OAuth error code of a scripted refusal.
func errorCode(a *Answer, status int) string {
	switch {
	case a.Error != "":
		return a.Error
	case status == http.StatusUnauthorized:
		return "invalid_client"
	case status == http.StatusServiceUnavailable, status == http.StatusTooManyRequests:
		return "temporarily_unavailable"
	case status >= http.StatusInternalServerError:
		return "server_error"
	}
	return "invalid_request"
}

// grantToken is the usual handling of a token request: it gives a tokenAnswer or a tokenError.
func (s *Simulator) grantToken(p *plan, r *http.Request) (int, any) {
	if r.Method != http.MethodPost {
		return http.StatusMethodNotAllowed, tokenError{Error: "invalid_request", Description: "POST erwartet"}
	}
	id, secret, ok := r.BasicAuth()
	if !ok || !s.tokens.knows(s.config.ClientID, id, secret) {
		return http.StatusUnauthorized, tokenError{Error: "invalid_client", Description: "Client-ID oder Client-Secret ist falsch"}
	}
	switch r.PostForm.Get("grant_type") {
	case "client_credentials":
	case "":
		return http.StatusBadRequest, tokenError{Error: "invalid_request", Description: "grant_type fehlt"}
	default:
		return http.StatusBadRequest, tokenError{Error: "unsupported_grant_type"}
	}
	allowed := s.config.Scopes
	if p.script.Token.Scopes != nil {
		allowed = p.script.Token.Scopes
	}
	scopes := strings.Fields(r.PostForm.Get("scope"))
	if len(scopes) == 0 {
		scopes = allowed
	}
	for _, scope := range scopes {
		if !slices.Contains(allowed, scope) {
			return http.StatusBadRequest, tokenError{Error: "invalid_scope", Description: "Der Client hat den Scope " + scope + " nicht"}
		}
	}
	subject, actor := r.PostForm.Get("subject"), r.PostForm.Get("actor")
	if (subject != "" || actor != "") && !slices.Contains(scopes, ScopeImpersonate) {
		return http.StatusBadRequest, tokenError{Error: "invalid_scope", Description: "Mit subject und actor muss " + ScopeImpersonate + " angefragt werden"}
	}
	if p.script.Token.Granted != nil {
		scopes = p.script.Token.Granted
	}
	ttl := s.config.TokenTTL
	if p.script.Token.TTL != 0 {
		ttl = p.script.Token.TTL
	}
	announced := ttl
	if p.script.Token.ExpiresIn != 0 {
		announced = p.script.Token.ExpiresIn
	}
	return http.StatusOK, tokenAnswer{
		AccessToken: s.tokens.issue(scopes, ttl), TokenType: "Bearer",
		ExpiresIn: int64((announced + time.Second - 1) / time.Second), Scope: strings.Join(scopes, " "),
	}
}
