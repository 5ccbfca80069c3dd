package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Connection is how NATS is reached, in the nats CLI's terms. An empty field was not set: a named (or, where the
// command allows it, the selected) context answers for it, then the client's default.
type Connection struct {
	// Servers are the URLs to try.
	Servers Servers
	// Context is the nats CLI's context to take what is not set here from.
	Context string
	// Creds is the path of a credentials file, NKey that of a seed file.
	Creds string
	NKey  string
	// User is a user name, or a token if there is no password: so it is a secret too.
	User     Secret
	Password Secret
	// TLSCert and TLSKey are a client certificate's PEM files, TLSCA that of the trusted authorities.
	TLSCert  string
	TLSKey   string
	TLSCA    string
	TLSFirst bool
	// Timeout bounds connecting and one answer of NATS.
	Timeout     time.Duration
	InboxPrefix string
	// JSDomain and JSAPIPrefix are never both set.
	JSDomain    string
	JSAPIPrefix string
}

// Servers is a list of NATS URLs. A URL may hold a password or a token, so all its texts are redacted and only
// List tells the whole.
type Servers struct{ joined Secret }

// ServersOf makes Servers of a comma-separated list, as --server takes it. The error does not repeat the list.
func ServersOf(list string) (Servers, error) {
	var clean []string
	websocket := 0
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		if !strings.Contains(item, "://") {
			item = "nats://" + item
		}
		u, err := url.Parse(item)
		if err != nil || u.Hostname() == "" {
			return Servers{}, errors.New("is not a NATS URL; write for example nats://host:4222, several with commas")
		}
		switch u.Scheme {
		case "ws", "wss":
			websocket++
		case "nats", "tls":
		default:
			return Servers{}, errors.New("has an unknown scheme; nats, tls, ws and wss are possible")
		}
		clean = append(clean, item)
	}
	if len(clean) == 0 {
		return Servers{}, errors.New("names no server")
	}
	if websocket != 0 && websocket != len(clean) {
		return Servers{}, errors.New("mixes WebSocket URLs with others")
	}
	return Servers{joined: NewSecret(strings.Join(clean, ","))}, nil
}

// List is the URLs with their passwords, for the NATS client alone. It is empty if none was set.
func (s Servers) List() []string {
	if !s.joined.IsSet() {
		return nil
	}
	return strings.Split(s.joined.Reveal(), ",")
}

// IsSet reports whether there is a URL.
func (s Servers) IsSet() bool { return s.joined.IsSet() }

// Equal reports whether both are the same list, passwords included.
func (s Servers) Equal(other Servers) bool { return slices.Equal(s.List(), other.List()) }

// String is the list without user information and queries.
func (s Servers) String() string {
	shown := s.List()
	for i, item := range shown {
		shown[i] = redactURL(item)
	}
	return strings.Join(shown, ",")
}

// Format writes String whatever the verb.
func (s Servers) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// GoString is String.
func (s Servers) GoString() string { return s.String() }

// LogValue is String.
func (s Servers) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String; JSON and YAML use it too.
func (s Servers) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// redactURL is a URL without what may be secret in it: user information and query. What is no URL is not shown
// at all.
func redactURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return redacted
	}
	shown := u.Scheme + "://"
	if u.User != nil {
		shown += redacted + "@"
	}
	shown += u.Host + u.EscapedPath()
	if u.RawQuery != "" {
		shown += "?" + redacted
	}
	return shown
}
