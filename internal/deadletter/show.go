package deadletter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
)

const (
	maxFields    = 16 // Field names and sizes of elements shown.
	maxFieldName = 32 // Bytes of one; a longer one is counted, not shown.
)

// DeadLetter is one dead letter with everything that may be shown of it.
type DeadLetter struct {
	Summary
	// Header has all headers, also those of the publisher that lie with the body in an object.
	Header nats.Header `json:"header"`
	// Content says what the body is like.
	Content Content `json:"content"`
}

// Content is facts about a body, none of which is the body's content.
type Content struct {
	// Missing reports that the object which held the body is not there.
	Missing bool `json:"missing,omitempty"`
	// Size is in bytes, Digest is SHA-256=<base64url> as the object store writes it.
	Size   int64  `json:"size"`
	Digest string `json:"digest,omitempty"`
	// JSON is what the body is: object, array, another value, or empty if it is not JSON.
	JSON string `json:"json,omitempty"`
	// Fields are the names of an object's members that look like names, OtherFields counts the others.
	// FieldSizes are the bytes of their values as JSON.
	Fields      []string `json:"fields,omitempty"`
	FieldSizes  []int    `json:"fieldSizes,omitempty"`
	OtherFields int      `json:"otherFields,omitempty"`
	// Elements counts an array's, ElementSizes are the bytes of the first ones as JSON.
	Elements     int   `json:"elements,omitempty"`
	ElementSizes []int `json:"elementSizes,omitempty"`
}

// Show reads one dead letter. ErrNotFound says that it is not there.
func (s *Store) Show(ctx context.Context, seq uint64) (DeadLetter, error) {
	msg, err := s.read(ctx, seq)
	if err != nil {
		return DeadLetter{}, err
	}
	dl := DeadLetter{
		Summary: summarize(msg.Subject, msg.Header, msg.Sequence, msg.Time, int64(len(msg.Data))),
		Header:  msg.Header,
	}
	body, err := s.body(ctx, msg)
	switch {
	case errors.Is(err, journal.ErrNoBody):
		dl.Content = Content{Missing: true, Size: dl.Size}
	case err != nil:
		return DeadLetter{}, err
	default:
		dl.Content = describe(body.Data)
		dl.Header = maps.Clone(msg.Header)
		maps.Copy(dl.Header, body.Header)
	}
	return dl, nil
}

// Claim gives the claim of a dead letter, if somebody has begun something with it.
func (s *Store) Claim(ctx context.Context, letter Summary) (claim journal.Claim, found bool, err error) {
	return s.claims.Get(ctx, letter.Seq, letter.StoredAt)
}

// body is the update's original body, from the dead letter itself or from the object it names.
func (s *Store) body(ctx context.Context, msg *jetstream.RawStreamMsg) (journal.Body, error) {
	object := summarize(msg.Subject, msg.Header, msg.Sequence, msg.Time, 0).BodyObject
	if object == "" {
		return journal.Body{Data: msg.Data}, nil
	}
	return s.bodies.Read(ctx, object)
}

// digestOf is a body's digest as the object store writes it.
func digestOf(body []byte) string {
	digest := sha256.Sum256(body)
	return "SHA-256=" + base64.URLEncoding.EncodeToString(digest[:])
}

func describe(body []byte) Content {
	c := Content{Size: int64(len(body)), Digest: digestOf(body)}
	if !json.Valid(body) {
		return c
	}
	switch bytes.TrimLeft(body, " \t\r\n")[0] {
	case '{':
		c.JSON = "object"
		c.describeObject(body)
	case '[':
		c.JSON = "array"
		c.countElements(body)
	case '"':
		c.JSON = "string"
	case 't', 'f':
		c.JSON = "boolean"
	case 'n':
		c.JSON = "null"
	default:
		c.JSON = "number"
	}
	return c
}

// describeObject lists the names of the members. A name is the publisher's text too: only what looks like one is
// shown, so that a comment in the wrong place is not.
func (c *Content) describeObject(body []byte) {
	tokens := json.NewDecoder(bytes.NewReader(body))
	_, _ = tokens.Token() // The text is known to be JSON: neither this nor what follows can fail.
	for tokens.More() {
		token, _ := tokens.Token()
		name, ok := token.(string)
		value := skipped(0)
		if err := tokens.Decode(&value); err != nil {
			return
		}
		if ok && len(c.Fields) < maxFields && looksLikeName(name) {
			c.Fields = append(c.Fields, name)
			c.FieldSizes = append(c.FieldSizes, int(value))
		} else {
			c.OtherFields++
		}
	}
}

func (c *Content) countElements(body []byte) {
	tokens := json.NewDecoder(bytes.NewReader(body))
	_, _ = tokens.Token() // As above.
	for tokens.More() {
		value := skipped(0)
		if err := tokens.Decode(&value); err != nil {
			return
		}
		if c.Elements++; c.Elements <= maxFields {
			c.ElementSizes = append(c.ElementSizes, int(value))
		}
	}
}

// skipped takes any JSON value and keeps nothing of it but its size.
type skipped int

// UnmarshalJSON never fails.
func (s *skipped) UnmarshalJSON(value []byte) error {
	*s = skipped(len(value))
	return nil
}

func looksLikeName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxFieldName
}
