// Package config turns flags, environment variables and a YAML file into typed, validated settings.
//
// It stands before an update's way begins: cmd registers the flags with [RegisterFlags], hands the environment in
// as an [Env], gets a [Serve] (or a [Connection] for the commands that only talk to NATS) or every mistake at
// once, and app cuts it into the packages' own configurations. One table, [Options], names each option; flags,
// environment names, file keys, help, the README's table and the printed configuration all come from it.
//
// Precedence: flag, environment, file, default. An environment variable or file value that is empty counts as
// not set; an empty flag is a value. The package reads no environment itself, and no secret leaves it through an
// error text, a log or a format verb.
package config

import (
	"log/slog"
	"time"

	"github.com/spf13/pflag"
)

// Serve is the configuration of the relay: everything `kexrelay serve` needs. Its fields are valid together:
// LoadServe checked them.
type Serve struct {
	KEX   KEX
	NATS  Connection
	Relay Relay
	HTTP  HTTP
	Log   Log
	// Embedded is the NATS server in this process, if there is to be one; NATS.Servers is then it.
	Embedded Embedded

	settings []Setting
}

// KEX is how the API and its token endpoint are reached.
type KEX struct {
	// BaseURL and TokenURL have no trailing slash, no user information and no query. Plain HTTP is possible only
	// towards loopback or with InsecureHTTP.
	BaseURL  string
	TokenURL string
	ClientID string
	// ClientSecretFile is the path the secret is read from, empty if the secret was given as a value.
	ClientSecretFile string
	// Scopes are complete: impersonation has added its own.
	Scopes             []string
	ImpersonateSubject string
	ImpersonateActor   string
	// RequestTimeout bounds one request to the API, from its first byte to the end of its answer.
	RequestTimeout time.Duration
	// CAFile holds PEM certificates trusted in addition to the system's, or is empty.
	CAFile       string
	InsecureHTTP bool

	clientSecret Secret
}

// Relay is how updates are sent and retried.
type Relay struct {
	// Name tells installations apart: in the source of events and in the name of the NATS connection.
	Name string
	// Source is the URN every result event names as its source.
	Source string
	// TracePrefix begins the trace ID of an update that came without one.
	TracePrefix string
	// Concurrency is how many requests may be in flight.
	Concurrency int
	// Rate is requests per second over all Vorgänge, 0 for no limit.
	Rate             float64
	RetryInitial     time.Duration
	RetryMaxInterval time.Duration
	// RetryBudget is how long one update may be retried while others succeed.
	RetryBudget    time.Duration
	UnknownOutcome UnknownOutcome
	// MaxInflightBytes bounds the bodies held in memory.
	MaxInflightBytes int64
	// ShutdownTimeout is longer than the request timeout.
	ShutdownTimeout time.Duration
	// ConfigFile is the file --config or KEXRELAY_CONFIG named, for the record.
	ConfigFile string
}

// HTTP is where the process answers for itself.
type HTTP struct {
	// Addr serves /livez, /readyz and /metrics.
	Addr string
	// PprofAddr serves profiles, of loopback; empty for none.
	PprofAddr string
}

// Log is what is logged and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// UnknownOutcome is the policy for an update nobody can say of whether it was booked.
type UnknownOutcome string

// The policies: send it again and mark the result, or make it a dead letter.
const (
	Retry UnknownOutcome = "retry"
	Park  UnknownOutcome = "park"
)

// LogFormat is how log lines look.
type LogFormat string

// The formats: Auto is text on a terminal and JSON elsewhere.
const (
	Auto LogFormat = "auto"
	Text LogFormat = "text"
	JSON LogFormat = "json"
)

// Embedded is the NATS server of a single machine.
type Embedded struct {
	Enabled bool
	// Dir keeps its streams.
	Dir string
	// Addr is where it listens, host:port.
	Addr string
	// ConfigFile is a nats-server configuration with what is not set here, or empty.
	ConfigFile string
	Sync       EmbeddedSync
}

// EmbeddedSync is when the embedded server writes through to the disk.
type EmbeddedSync string

// Before each PubAck, or now and then.
const (
	SyncAlways   EmbeddedSync = "always"
	SyncInterval EmbeddedSync = "interval"
)

// LoadServe gives the configuration of the relay out of the flags RegisterFlags put into fs, the environment and
// the file (see [File]; "" is none), and lets the checks look at it. fs and env may be nil. The error joins an *OptionError for every mistake
// there is; the Serve is then empty.
func LoadServe(fs *pflag.FlagSet, env Env, file string, checks ...Check) (Serve, error) {
	return load(fs, env, file, ServeOptions, checks...)
}

// Inspect is LoadServe for showing what was given: beside an error the Serve still has its Settings and can be printed,
// and is good for nothing else. The value of a wrong option is shown only where its error may show it.
func Inspect(fs *pflag.FlagSet, env Env, file string, checks ...Check) (Serve, error) {
	return loadAll(fs, env, file, ServeOptions, checks...)
}

// Check looks at settings that only another package can judge. Its error becomes one of the mistakes.
type Check func(*loader)

// CheckContext is asked about the named context of the nats CLI, if there is one: usable says what is wrong with it.
func CheckContext(usable func(name string) error) Check {
	return func(l *loader) {
		if !l.has(keyContext) || !l.right(keyContext) {
			return
		}
		if err := usable(l.serve.NATS.Context); err != nil {
			l.failValue(keyContext, "is no context to connect with: "+err.Error())
		}
	}
}

// CheckEmbedded is asked about the embedded server's configuration file, if there is one. Its problems must not repeat
// what may be secret.
func CheckEmbedded(problem func(Embedded) error) Check {
	return func(l *loader) {
		if !l.serve.Embedded.Enabled || !l.has(keyEmbeddedConfig) || !l.right(keyEmbeddedConfig, keyEmbeddedAddr) {
			return
		}
		if err := problem(l.serve.Embedded); err != nil {
			l.failValue(keyEmbeddedConfig, err.Error())
		}
	}
}

// CheckIdentity is asked about the files with credentials and with a seed, if there are any: each says, as the rest of a
// sentence, what is wrong with one.
func CheckIdentity(creds, nkey func(path string) error) Check {
	return func(l *loader) {
		for _, file := range []struct {
			key, path string
			usable    func(string) error
		}{{keyCreds, l.serve.NATS.Creds, creds}, {keyNKey, l.serve.NATS.NKey, nkey}} {
			if file.path == "" || !l.right(file.key) {
				continue
			}
			if err := file.usable(file.path); err != nil {
				l.failValue(file.key, err.Error())
			}
		}
	}
}

// LoadConnection gives the NATS settings alone, for the commands that need nothing else. Errors are as those of
// LoadServe.
func LoadConnection(fs *pflag.FlagSet, env Env, checks ...Check) (Connection, error) {
	s, err := load(fs, env, "", ConnectionOptions, checks...)
	return s.NATS, err
}

// LoadLog gives the log settings alone. Errors are as those of LoadServe.
func LoadLog(fs *pflag.FlagSet, env Env) (Log, error) {
	s, err := load(fs, env, "", LogOptions)
	return s.Log, err
}

// File is the path of the configuration file that --config or KEXRELAY_CONFIG names, "" if neither does.
func File(fs *pflag.FlagSet, env Env) string {
	for _, o := range Options(RelayOptions) {
		if o.Key == keyConfig {
			return o.lookup(fs, env, nil).text
		}
	}
	return ""
}

// ClientSecret is the secret of the API client as it is now: a file is read anew at each call, so that a rotated
// secret takes effect without a restart. Its error never holds the secret.
func (k KEX) ClientSecret() (string, error) {
	if k.ClientSecretFile == "" {
		return k.clientSecret.Reveal(), nil
	}
	secret, err := readSecret(k.ClientSecretFile)
	if err != nil {
		return "", &OptionError{Option: keyClientSecretFile, Name: envName(keyClientSecretFile), Problem: err.Error()}
	}
	return secret, nil
}

// Impersonates reports whether the client acts for another partner.
func (k KEX) Impersonates() bool { return k.ImpersonateSubject != "" }
