package simulator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Script says how the simulated API behaves. The zero Script is an API that works. As YAML (or JSON, which YAML
// contains) the keys are the names in the tags; an unknown key is an error. testdata/example.yaml shows all.
//
// What a request meets, in this order: outages, throttle, authentication, sequence, vorgaenge, faults.
type Script struct {
	// Latency is how long the API works on a request before it books and answers; an answer's own wins.
	Latency *Latency `yaml:"latency,omitempty"`
	// Throttle answers 429 above a rate.
	Throttle *Throttle `yaml:"throttle,omitempty"`
	// Outages are windows of time in which nothing works.
	Outages []Outage `yaml:"outages,omitempty"`
	// Sequence are the answers to the first authenticated updates, in their order of arrival, of any Vorgang.
	Sequence []Step `yaml:"sequence,omitempty"`
	// Vorgaenge are rules for certain Vorgänge. The first that matches holds, and faults do not touch it.
	Vorgaenge []VorgangRule `yaml:"vorgaenge,omitempty"`
	// Faults happen by chance.
	Faults []Fault `yaml:"faults,omitempty"`
	// Token is how the token endpoint behaves.
	Token TokenScript `yaml:"token,omitempty"`
}

// What Answer.Cut can be.
const (
	CutBeforeBooking = "before-booking" // The connection ends without an answer, nothing was booked.
	CutAfterBooking  = "after-booking"  // The update was booked, but the connection ends without an answer.
	CutMidAnswer     = "mid-answer"     // Status line and headers come, the body breaks off half-way.
)

// What Answer.RetryAfterForm can be.
const (
	RetryAfterSeconds = "seconds"
	RetryAfterDate    = "date" // An HTTP date, rounded up to the next full second.
)

// Answer is what becomes of one request. The zero Answer is the API's success (201 or 200 with an empty body),
// which still is a 400 for a body that is not well-formed.
type Answer struct {
	// Status is the status code, 200–599; 0 is the API's own success.
	Status int `yaml:"status,omitempty"`
	// Book says whether the update is booked; nil means: if the status is 2xx. A 504 that was booked is
	// {status: 504, book: true}. A body that is not well-formed is never booked.
	Book *bool `yaml:"book,omitempty"`
	// Cut ends the connection without a (whole) answer: CutBeforeBooking, CutAfterBooking or CutMidAnswer.
	// With CutAfterBooking the update is booked whatever the status.
	Cut string `yaml:"cut,omitempty"`
	// Reset cuts with a TCP reset instead of an orderly end. It needs Cut and HTTP/1.
	Reset bool `yaml:"reset,omitempty"`
	// Early answers (or cuts) without reading the request's body, so nothing can be booked.
	Early bool `yaml:"early,omitempty"`
	// Latency is the wait before booking; nil means the script's.
	Latency *Latency `yaml:"latency,omitempty"`
	// AnswerLatency is the wait between booking and answer: a client that gives up in it was booked.
	AnswerLatency *Latency `yaml:"answer-latency,omitempty"`
	// RetryAfter adds a Retry-After header, in the form of RetryAfterForm (RetryAfterSeconds if empty; a part of
	// a second counts as a whole one).
	RetryAfter     time.Duration `yaml:"retry-after,omitempty"`
	RetryAfterForm string        `yaml:"retry-after-form,omitempty"`
	// Location is where a 3xx points, /redirected on the same server if empty. Whoever follows it shows up in
	// Requests with the kind KindOther.
	Location string `yaml:"location,omitempty"`
	// Headers are added to the answer as they are, and replace the simulator's own.
	Headers map[string]string `yaml:"headers,omitempty"`
	// Body is the answer's body; empty means the API's own (none for success, a JSON error otherwise).
	Body string `yaml:"body,omitempty"`
	// BodySize makes the answer a JSON body of that many bytes, at most 1 GiB.
	BodySize int64 `yaml:"body-size,omitempty"`
	// Drip sends the body byte by byte with this pause before each.
	Drip time.Duration `yaml:"drip,omitempty"`
	// Echo quotes the request's Authorization header and the beginning of its body in the JSON error: what a
	// client must not let into its logs.
	Echo bool `yaml:"echo,omitempty"`
	// Error is the error code of a token answer; empty means the usual one for the status.
	Error string `yaml:"error,omitempty"`

	// message is the text of the simulator's own errors.
	message string
}

// Step is an answer that is given a number of times.
type Step struct {
	Answer Answer `yaml:",inline"`
	// Times is how often, 1 if 0.
	Times int `yaml:"times,omitempty"`
}

// VorgangRule is the behaviour of some Vorgänge, for each of them on its own: every Vorgang that matches goes
// through the sequence from its beginning.
type VorgangRule struct {
	// Match lists Vorgangsnummern, or patterns as of path.Match ("42*").
	Match []string `yaml:"match"`
	// Kind limits the rule to KindDocument or KindComments; empty means both.
	Kind string `yaml:"kind,omitempty"`
	// Sequence are the first answers, Always is every later one; nil means that the API behaves as it would
	// without the rule.
	Sequence []Step  `yaml:"sequence,omitempty"`
	Always   *Answer `yaml:"always,omitempty"`
}

// Fault is an answer given by chance.
type Fault struct {
	Answer Answer `yaml:",inline"`
	// Rate is the share of requests, 0–1. The rates of all faults of a kind add up to at most 1.
	Rate float64 `yaml:"rate"`
	// Kind limits the fault to KindDocument, KindComments or KindProbe; empty means both kinds of updates.
	Kind string `yaml:"kind,omitempty"`
}

// Throttle allows a rate of requests and answers those above it.
type Throttle struct {
	// Answer is 429 with a Retry-After of 1 s unless it says otherwise.
	Answer Answer `yaml:",inline"`
	// Rate is the number of requests per second that pass.
	Rate float64 `yaml:"rate"`
	// Burst is how many may come at once, the rate (at least 1) if 0.
	Burst int `yaml:"burst,omitempty"`
}

// What an outage can be of.
const (
	OfAPI   = "api"
	OfToken = "token"
	OfAll   = "all"
)

// Outage is a window of time in which every request of a part gets the same answer.
type Outage struct {
	// Answer is 503 unless it says otherwise.
	Answer Answer `yaml:",inline"`
	// From counts from the start of the simulator, its reset or the script's replacement, whichever was last.
	From time.Duration `yaml:"from,omitempty"`
	// For is how long it lasts; 0 means for ever.
	For time.Duration `yaml:"for,omitempty"`
	// Every repeats it, counted from From; it must be longer than For. 0 means once.
	Every time.Duration `yaml:"every,omitempty"`
	// Of is OfAPI (also if empty), OfToken or OfAll.
	Of string `yaml:"of,omitempty"`
}

// TokenScript is how the token endpoint behaves.
type TokenScript struct {
	// TTL is how long a token is good; 0 means Config.TokenTTL.
	TTL time.Duration `yaml:"ttl,omitempty"`
	// ExpiresIn is what the endpoint says how long a token is good; 0 means the truth.
	ExpiresIn time.Duration `yaml:"expires-in,omitempty"`
	// Latency is how long the endpoint takes; an answer's own wins.
	Latency *Latency `yaml:"latency,omitempty"`
	// Scopes are what the client may ask for instead of Config.Scopes; asking for more is invalid_scope.
	Scopes []string `yaml:"scopes,omitempty"`
	// Granted is what every token carries whatever was asked for: a right that was taken away.
	Granted []string `yaml:"granted,omitempty"`
	// Sequence are the answers to the first token requests, Always is every later one. An answer without a
	// status is the usual handling: credentials and scopes are checked and a token comes.
	Sequence []Step  `yaml:"sequence,omitempty"`
	Always   *Answer `yaml:"always,omitempty"`
}

// maxScript bounds a script in bytes: it is written by hand.
const maxScript = 1 << 20

// ParseScript reads a script in YAML or JSON. An unknown key, a wrong type or an impossible value is an error that
// says where it stands; an empty text is the zero Script.
func ParseScript(text []byte) (Script, error) {
	var script Script
	if len(text) > maxScript {
		return script, fmt.Errorf("reading the script: it has %d bytes, at most %d are allowed", len(text), maxScript)
	}
	if err := decodeStrict(text, &script); err != nil {
		return Script{}, fmt.Errorf("reading the script: %w", err)
	}
	if err := script.Validate(); err != nil {
		return Script{}, err
	}
	return script, nil
}

// LoadScript reads a script from a file.
func LoadScript(path string) (Script, error) {
	text, err := os.ReadFile(path) //nolint:gosec // The path is the user's own.
	if err != nil {
		return Script{}, fmt.Errorf("reading the script: %w", err)
	}
	script, err := ParseScript(text)
	if err != nil {
		return Script{}, fmt.Errorf("%s: %w", path, err)
	}
	return script, nil
}

// decodeStrict reads one YAML or JSON document whose every key must be known; an empty text changes nothing.
func decodeStrict(text []byte, into any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return plainYAMLError(err)
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return errors.New("it must be one YAML document, another one follows")
	}
	return nil
}

// plainYAMLError tells an unknown key in the words of somebody who writes scripts, not Go types.
func plainYAMLError(err error) error {
	typeError, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		return err
	}
	unknown := regexp.MustCompile(`field (\S+) not found in type \S+`)
	goType := regexp.MustCompile(`into simulator\.(\w+)`)
	lines := make([]string, len(typeError.Errors))
	for i, line := range typeError.Errors {
		line = unknown.ReplaceAllString(line, `unknown key "$1"`)
		lines[i] = goType.ReplaceAllString(line, "into the keys of a $1")
	}
	return errors.New(strings.Join(lines, "; "))
}
