package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// Codes of the JetStream API that jetstream has no name for.
const (
	errCodeInsufficientResources jetstream.ErrorCode = 10023
	errCodeStorageResources      jetstream.ErrorCode = 10047
	errCodeStoreFailed           jetstream.ErrorCode = 10077 // The stream is full, or its disk is.
	errCodeDuplicateInProcess    jetstream.ErrorCode = 10158 // The same Msg-Id is being stored right now.
)

// errorWithin is where in an answer the error stands: right behind its type.
const errorWithin = 256

// ErrPermission is a right that the server does not grant. The call itself would only time out.
var ErrPermission = errors.New("NATS does not permit it")

// call asks the JetStream API: request and response are its JSON, both may be nil. It fails with an
// *[jetstream.APIError] if the server says no, with ErrPermission if the right is missing.
func (c *Conn) call(ctx context.Context, verb string, request, response any) (err error) {
	defer func() { c.Heard(verb, err) }()
	var body []byte
	if request != nil {
		if body, err = json.Marshal(request); err != nil {
			return fmt.Errorf("encoding the request %s: %w", verb, err)
		}
	}
	answer, err := c.request(ctx, &nats.Msg{Subject: c.apiPrefix + verb, Data: body})
	if err != nil {
		return fmt.Errorf("asking %s: %w", verb, err)
	}
	if err := decodeAnswer(answer.Data, response); err != nil {
		return fmt.Errorf("asking %s: %w", verb, err)
	}
	return nil
}

// question is a call that does no harm when it is made twice: while nobody answers it is made again, see [topology.Ask]. A
// refusal is an answer, also the one that there is no leader: the caller waits then, and says so.
func question[T any](ctx context.Context, c *Conn, verb string, request any) (*T, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	type reply struct {
		response T
		refused  error
	}
	answer, err := topology.Ask(ctx, func(ctx context.Context) (*reply, error) {
		var r reply
		if r.refused = c.call(ctx, verb, request, &r.response); errors.Is(r.refused, context.DeadlineExceeded) {
			return nil, r.refused
		}
		return &r, nil
	})
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", verb, err)
	}
	return &answer.response, answer.refused
}

// decodeAnswer looks for the error only if there may be one: an answer may hold a large update.
func decodeAnswer(data []byte, response any) error {
	if bytes.Contains(data[:min(len(data), errorWithin)], []byte(`"error":`)) {
		var failure struct {
			Error *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(data, &failure); err != nil {
			return fmt.Errorf("decoding the answer: %w", err)
		}
		if failure.Error != nil {
			return failure.Error
		}
	}
	if response == nil {
		return nil
	}
	if err := json.Unmarshal(data, response); err != nil {
		return fmt.Errorf("decoding the answer: %w", err)
	}
	return nil
}

// request is a request that learns of a refused permission: nats.go itself would only see no answer.
func (c *Conn) request(ctx context.Context, message *nats.Msg) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	ctx, deny := context.WithCancelCause(ctx)
	defer deny(nil)
	defer c.denials.watch(message.Subject, c.inboxPrefix(), deny)()
	answer, err := c.nc.RequestMsgWithContext(ctx, message)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrPermission) {
			return nil, cause
		}
		return nil, err
	}
	return answer, nil
}

func (c *Conn) inboxPrefix() string {
	if prefix := c.nc.Opts.InboxPrefix; prefix != "" {
		return prefix + "."
	}
	return nats.InboxPrefix
}

// transient reports whether a request that failed with err may succeed when it is made again: no answer, no
// connection, no leader.
func transient(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch {
		case isAPI(err, errCodeDuplicateInProcess):
			return true
		case isAPI(err, errCodeStoreFailed, errCodeInsufficientResources, errCodeStorageResources,
			jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount):
			return false
		}
		return api.Code >= 500
	}
	for _, sentinel := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, jetstream.ErrNoStreamResponse,
		nats.ErrReconnectBufExceeded, nats.ErrDisconnected, nats.ErrConnectionReconnecting,
	} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}

// isAPI reports whether err is the JetStream API's error with one of the codes.
func isAPI(err error, codes ...jetstream.ErrorCode) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && slices.Contains(codes, api.ErrorCode)
}

// A denial is a right the server refused.
type denial struct {
	Operation string // publish or subscribe.
	Subject   string
}

var denialPattern = regexp.MustCompile(`(?i)(publish|subscription) to "([^"]+)"`)

// parseDenial reads the server's text, for it sends nothing else.
func parseDenial(err error) denial {
	match := denialPattern.FindStringSubmatch(err.Error())
	if match == nil {
		return denial{Operation: "unknown"}
	}
	if strings.EqualFold(match[1], "publish") {
		return denial{Operation: "publish", Subject: match[2]}
	}
	return denial{Operation: "subscribe", Subject: match[2]}
}

func (d denial) error() error {
	return fmt.Errorf("%w: grant this user the right to %s %s", ErrPermission, d.Operation, d.Subject)
}

// denials connects the server's refusals, which come without a reference to what they refuse, with the requests
// that wait for an answer. The zero value is ready.
type denials struct {
	mu      sync.Mutex
	waiting map[*watcher]struct{}
	// inboxes are the refused subscriptions since the connection was made. One that holds the replies breaks every
	// later request, but is refused only once.
	inboxes map[string]struct{}
}

type watcher struct {
	subject, inbox string
	deny           context.CancelCauseFunc
}

// watch calls deny when publishing to subject or receiving on inbox is refused, until the returned function is
// called.
func (d *denials) watch(subject, inbox string, deny context.CancelCauseFunc) (stop func()) {
	w := &watcher{subject: subject, inbox: inbox, deny: deny}
	d.mu.Lock()
	defer d.mu.Unlock()
	for refused := range d.inboxes {
		if strings.HasPrefix(refused, inbox) {
			deny(denial{Operation: "subscribe", Subject: refused}.error())
		}
	}
	if d.waiting == nil {
		d.waiting = make(map[*watcher]struct{})
	}
	d.waiting[w] = struct{}{}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, w)
	}
}

func (d *denials) tell(what denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.waiting {
		if what.Operation == "publish" && what.Subject == w.subject ||
			what.Operation == "subscribe" && strings.HasPrefix(what.Subject, w.inbox) {
			w.deny(what.error())
		}
	}
	if what.Operation == "subscribe" && len(d.inboxes) < maxLogged {
		if d.inboxes == nil {
			d.inboxes = make(map[string]struct{})
		}
		d.inboxes[what.Subject] = struct{}{}
	}
}

// reset forgets the refusals of a former connection.
func (d *denials) reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.inboxes)
}
