package queue

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	userInfoSubject = "$SYS.REQ.USER.INFO"
	userInfoTimeout = time.Second
)

// MayAsk reports whether this connection's user has the right to a request of the JetStream API, as the server says. A
// command asks before one that it can do without: one that is denied is not answered, and the server's log tells of it.
// A user who may not even ask this, or whose rights cannot be told, counts as having the right.
func (c *Conn) MayAsk(ctx context.Context, verb string) bool {
	subject := c.apiPrefix + verb
	ctx, cancel := context.WithTimeout(ctx, userInfoTimeout)
	defer cancel()
	answer, err := c.request(ctx, &nats.Msg{Subject: userInfoSubject})
	if err != nil {
		return true
	}
	var user struct {
		Data struct {
			Permissions struct {
				Publish struct {
					Allow []string `json:"allow"`
					Deny  []string `json:"deny"`
				} `json:"publish"`
			} `json:"permissions"`
		} `json:"data"`
	}
	if err := json.Unmarshal(answer.Data, &user); err != nil {
		return true
	}
	rights := user.Data.Permissions.Publish
	for _, pattern := range rights.Deny {
		if subjectMatches(pattern, subject) {
			return false
		}
	}
	for _, pattern := range rights.Allow {
		if subjectMatches(pattern, subject) {
			return true
		}
	}
	return len(rights.Allow) == 0
}

// subjectMatches reports whether a literal subject is one of a pattern's.
func subjectMatches(pattern, subject string) bool {
	wanted, tokens := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, want := range wanted {
		if want == ">" {
			return len(tokens) > i
		}
		if i >= len(tokens) || want != "*" && want != tokens[i] {
			return false
		}
	}
	return len(wanted) == len(tokens)
}
