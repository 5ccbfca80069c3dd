package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/jsm.go/natscontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrSettings says that the settings of a connection are wrong: trying again is of no use.
var ErrSettings = errors.New("the settings of the connection to NATS are wrong")

// DefaultTimeout bounds dialling and each request to NATS, as it does in the nats CLI.
const DefaultTimeout = 5 * time.Second

const (
	reconnectWait      = 250 * time.Millisecond
	reconnectJitter    = 100 * time.Millisecond
	reconnectJitterTLS = 250 * time.Millisecond
	pingInterval       = 5 * time.Second
	maxPingsOut        = 2
	flusherTimeout     = 5 * time.Second
)

// ConnectOptions are the connection settings of the nats CLI. A field that is set here (by flag or environment)
// goes before the named context, which goes before the selected one. The zero value is a server on this machine.
type ConnectOptions struct {
	// URL is one server or several, separated by commas.
	URL string
	// Context is the name of a nats CLI context.
	Context string
	// UseSelectedContext falls back to the context selected in the nats CLI if neither URL nor Context is given.
	// A service must not depend on what somebody selected last: serve leaves it false.
	UseSelectedContext bool

	Creds    string // File with a user's JWT and seed; read again at each reconnect.
	NKey     string // File with a user's seed.
	User     string
	Password string

	TLSCert  string // File, PEM.
	TLSKey   string // File, PEM.
	TLSCA    string // File, PEM.
	TLSFirst bool   // The server expects TLS before its greeting.

	// Timeout bounds dialling and each request; 0 means DefaultTimeout.
	Timeout     time.Duration
	InboxPrefix string
	JSDomain    string
	JSAPIPrefix string
	// Name shows in the server's list of connections.
	Name string
	// RetryOnFailedConnect makes Connect return at once although no server answers yet: the connection goes on
	// trying. For serve only; a command rather fails.
	RetryOnFailedConnect bool
}

// Hooks are told what happens on a connection. Every field may be nil; the functions must return at once.
type Hooks struct {
	// Logger gets one line per change of state.
	Logger *slog.Logger
	// OnSlowConsumer is called when messages were dropped in this process because nobody took them in time.
	OnSlowConsumer func()
	// OnDisconnect is called when a connection that was up is lost; it is made again by itself.
	OnDisconnect func()
	// OnSilence is called when a server is left for another one because JetStream did not answer through it.
	OnSilence func()
	// OnPermission is called whenever the server refused a publish to or a subscription of subject.
	OnPermission func(subject string)
}

// Connect connects to NATS and goes on reconnecting for as long as the process lives, whatever the server says,
// refused credentials included: those of a file are read again at each try. It returns an error that says what to
// do if the settings are wrong (ErrSettings) or, unless RetryOnFailedConnect is set, if no server answers.
func Connect(ctx context.Context, opts ConnectOptions, hooks Hooks) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	settings, err := opts.settings()
	if err != nil {
		return nil, settingsError(err)
	}
	servers := settings.ServerURL()
	if err := checkURLs(servers); err != nil {
		return nil, settingsError(err)
	}
	c := newConn(opts.Timeout, hooks)
	if c.role, err = roleOf(settings); err != nil {
		return nil, settingsError(err)
	}
	if err := checkFiles(settings); err != nil {
		return nil, settingsError(err)
	}
	natsOpts, err := settings.NATSOptions(c.natsOptions(opts)...)
	if err != nil {
		return nil, settingsError(connectError(servers, err))
	}
	// nats.go dials without a context; the timeout bounds it.
	if c.nc, err = nats.Connect(servers, natsOpts...); err != nil {
		return nil, connectError(servers, err)
	}
	if err := c.openJetStream(settings.JSDomain(), settings.JSAPIPrefix()); err != nil {
		c.nc.Close()
		return nil, err
	}
	return c, nil
}

// settings merges the options with a context of the nats CLI.
func (o ConnectOptions) settings() (*natscontext.Context, error) {
	name := o.Context
	if name == "" && o.URL == "" && o.UseSelectedContext {
		name = natscontext.SelectedContext()
	}
	if name == "" {
		return natscontext.New("", false, o.overrides()...)
	}
	loaded, err := loadContext(name)
	if err != nil {
		return nil, fmt.Errorf("loading the NATS context %q: %w", name, err)
	}
	data, err := o.withoutForeignCredentials(loaded)
	if err != nil {
		return nil, fmt.Errorf("reading the NATS context %q: %w", name, err)
	}
	return natscontext.NewFromBytes(data, o.overrides()...)
}

func loadContext(name string) (*natscontext.Context, error) {
	loaded, err := natscontext.New(name, true)
	if errors.Is(err, natscontext.ErrNotFound) || errors.Is(err, natscontext.ErrInvalidName) || errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is none of this name; `nats context ls` lists them: %w", err)
	}
	return loaded, err
}

// CheckContext says what is wrong with the nats CLI's context of that name, so that it can be told with all other
// mistakes in a configuration before anything is connected. nil means that it can be loaded.
func CheckContext(name string) error {
	loaded, err := loadContext(name)
	if err != nil {
		return err
	}
	return checkURLs(loaded.ServerURL())
}

// withoutForeignCredentials drops the context's credentials if the options bring their own: two kinds at once
// would not add up, and which of them wins would depend on the kinds.
func (o ConnectOptions) withoutForeignCredentials(loaded *natscontext.Context) ([]byte, error) {
	data, err := json.Marshal(loaded)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	if o.Creds != "" || o.NKey != "" || o.User != "" {
		for _, credential := range []string{"user", "password", "token", "creds", "nkey", "nsc", "user_jwt", "user_seed"} {
			delete(fields, credential)
		}
		fields["url"] = loaded.ServerURL()
	}
	return json.Marshal(fields)
}

func (o ConnectOptions) overrides() []natscontext.Option {
	options := []natscontext.Option{
		natscontext.WithServerURL(o.URL),
		natscontext.WithCreds(o.Creds),
		natscontext.WithNKey(o.NKey),
		natscontext.WithUser(o.User),
		natscontext.WithPassword(o.Password),
		natscontext.WithCertificate(o.TLSCert),
		natscontext.WithKey(o.TLSKey),
		natscontext.WithCA(o.TLSCA),
		natscontext.WithInboxPrefix(o.InboxPrefix),
		natscontext.WithJSDomain(o.JSDomain),
		natscontext.WithJSAPIPrefix(o.JSAPIPrefix),
	}
	if o.TLSFirst {
		options = append(options, natscontext.WithTLSHandshakeFirst())
	}
	return options
}

// natsOptions are those that make a connection survive: see the comments for the reasons that are not obvious.
func (c *Conn) natsOptions(o ConnectOptions) []nats.Option {
	return []nats.Option{
		nats.Name(o.Name),
		nats.Timeout(o.Timeout),
		nats.RetryOnFailedConnect(o.RetryOnFailedConnect),
		nats.MaxReconnects(-1),
		// Without it two equal auth errors (an expired JWT, a server being reloaded) close the connection for good.
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitterTLS),
		// Nothing is buffered while disconnected: a publish fails at once and whoever made it decides.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPingsOut),
		// A server that reads nothing any more is given up for another: the client's own limit is a minute, for which
		// every publish and every ack would hang.
		nats.FlusherTimeout(flusherTimeout),
		nats.ConnectHandler(c.onConnect),
		nats.DisconnectErrHandler(c.onDisconnect),
		nats.ReconnectHandler(c.onConnect),
		nats.ReconnectErrHandler(c.onReconnectFailed),
		nats.ClosedHandler(c.onClosed),
		nats.ErrorHandler(c.onError),
		c.dialler.use,
	}
}

func (c *Conn) openJetStream(domain, prefix string) (err error) {
	timeout := jetstream.WithDefaultTimeout(c.timeout)
	switch {
	case prefix != "":
		c.apiPrefix = strings.TrimSuffix(prefix, ".") + "."
		c.js, err = jetstream.NewWithAPIPrefix(c.nc, strings.TrimSuffix(prefix, "."), timeout)
	case domain != "":
		c.apiPrefix = "$JS." + domain + ".API."
		c.js, err = jetstream.NewWithDomain(c.nc, domain, timeout)
	default:
		c.apiPrefix = jetstream.DefaultAPIPrefix
		c.js, err = jetstream.New(c.nc, timeout)
	}
	if err != nil {
		return fmt.Errorf("opening JetStream (--js-domain, --js-api-prefix): %w", err)
	}
	return nil
}

// checkURLs finds an unreadable URL before nats.go does, whose error would repeat a password in it.
func checkURLs(servers string) error {
	for server := range strings.SplitSeq(servers, ",") {
		server = strings.TrimSpace(server)
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		if _, err := url.Parse(server); err != nil {
			return errors.New("the NATS URL is not readable, it should look like nats://host:4222 (--server, NATS_URL)")
		}
	}
	return nil
}

// redactURLs is servers without users, passwords and tokens.
func redactURLs(servers string) string {
	var redacted []string
	for server := range strings.SplitSeq(servers, ",") {
		server = strings.TrimSpace(server)
		if at := strings.LastIndexByte(server, '@'); at >= 0 {
			scheme, _, found := strings.Cut(server[:at], "://")
			server = server[at+1:]
			if found {
				server = scheme + "://" + server
			}
		}
		redacted = append(redacted, server)
	}
	return strings.Join(redacted, ",")
}

// settingsError adds ErrSettings to an error that has it not yet.
func settingsError(err error) error {
	if errors.Is(err, ErrSettings) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrSettings, err)
}

// connectError says what to do about a connection that did not come about.
func connectError(servers string, err error) error {
	servers = redactURLs(servers)
	text := err.Error()
	switch {
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("no NATS server answers at %s; start one or name another (--server, NATS_URL, --context): %w", servers, err)
	case errors.Is(err, errGreeting), errors.Is(err, nats.ErrNoInfoReceived):
		return fmt.Errorf("what answers at %s is no NATS server; check the address and its port (--server, NATS_URL, --context): %w", servers, err)
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("NATS at %s refuses the credentials; check --creds, --nkey, --user or the context: %w", servers, err)
	case errors.Is(err, nats.ErrSecureConnRequired), errors.Is(err, nats.ErrSecureConnWanted):
		return fmt.Errorf("NATS at %s and this client disagree about TLS; check the URL's scheme and --tlsfirst: %w", servers, err)
	case strings.Contains(text, "certificate signed by unknown authority"):
		return fmt.Errorf("the certificate of NATS at %s is not trusted; name its CA with --tlsca: %w", servers, err)
	case strings.Contains(text, "certificate required"), strings.Contains(text, "bad certificate"),
		// In TLS 1.3 the server refuses only behind the handshake, and its reason may be lost with the connection.
		strings.Contains(text, "after TLS handshake"):
		return fmt.Errorf("NATS at %s wants a client certificate; give --tlscert and --tlskey: %w", servers, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return settingsError(fmt.Errorf("reading a file of the connection settings (--creds, --nkey, --tlscert, --tlskey, --tlsca): %w", err))
	}
	return fmt.Errorf("connecting to NATS at %s: %w", servers, err)
}
