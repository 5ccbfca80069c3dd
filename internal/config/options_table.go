package config

import (
	"log/slog"
	"time"
)

func kexOptions() []Option {
	const set = KEXOptions
	return []Option{
		option(Option{
			Key: keyBaseURL, Set: set, Value: "URL", Default: "https://www.europace2.de/kreditsmart/kex",
			Help: "Where the KEX Vorgang Update API is",
		}, func(s *Serve) *string { return &s.KEX.BaseURL }, parseHTTPURL),
		option(Option{
			Key: keyTokenURL, Set: set, Value: "URL", Default: "https://api.europace.de/auth/token",
			Help: "Where access tokens come from",
		}, func(s *Serve) *string { return &s.KEX.TokenURL }, parseHTTPURL),
		option(Option{
			Key: keyClientID, Set: set, Value: "ID",
			Help: "The API client's ID; required",
		}, func(s *Serve) *string { return &s.KEX.ClientID }, parseVisible),
		option(Option{
			Key: keyClientSecret, Set: set, Value: "SECRET", Secret: true,
			Help: "The API client's secret; required here or as a file (a flag is visible to every user of the machine)",
		}, func(s *Serve) *Secret { return &s.KEX.clientSecret }, parseSecret),
		option(Option{
			Key: keyClientSecretFile, Set: set, Value: "FILE", discreet: true,
			Help: "A file with the secret instead, read again at each token fetch",
		}, func(s *Serve) *string { return &s.KEX.ClientSecretFile }, parsePath),
		option(Option{
			Key: keyScopes, Set: set, Value: "SCOPES", separator: " ", Default: "privatkredit:vorgang:schreiben",
			Help: "Scopes to ask for, separated by spaces; impersonation adds `impersonieren`",
		}, func(s *Serve) *[]string { return &s.KEX.Scopes }, parseScopes),
		option(Option{
			Key: keySubject, Set: set, Value: "PARTNER",
			Help: "The partner to act for; needs the actor too",
		}, func(s *Serve) *string { return &s.KEX.ImpersonateSubject }, parseVisible),
		option(Option{
			Key: keyActor, Set: set, Value: "PARTNER",
			Help: "The partner the API client is registered for; needs the subject too",
		}, func(s *Serve) *string { return &s.KEX.ImpersonateActor }, parseVisible),
		option(Option{
			Key: keyRequestTimeout, Set: set, Value: "DURATION", Default: "30s",
			Help: "How long one request to the API may take",
		}, func(s *Serve) *time.Duration { return &s.KEX.RequestTimeout }, parseDuration),
		option(Option{
			Key: keyCAFile, Set: set, Value: "FILE",
			Help: "PEM certificates to trust in addition, for a TLS-inspecting proxy",
		}, func(s *Serve) *string { return &s.KEX.CAFile }, parsePath),
		option(Option{
			Key: "insecure-http", Set: set, Value: "bool", Default: "false",
			Help: "Allow base and token URLs with plain HTTP beyond loopback: secret, token and content go unencrypted",
		}, func(s *Serve) *bool { return &s.KEX.InsecureHTTP }, parseBool),
	}
}

func relayOptions() []Option {
	const set = RelayOptions
	return []Option{
		option(Option{
			Key: keyConfig, Set: set, Value: "FILE",
			Help: "A YAML file with any of these options by their keys",
		}, func(s *Serve) *string { return &s.Relay.ConfigFile }, parsePath),
		option(Option{
			Key: "name", Set: set, Value: "NAME", Default: "default",
			Help: "The installation's name, the same for all its replicas",
		}, func(s *Serve) *string { return &s.Relay.Name }, parseName),
		option(Option{
			Key: keySource, Set: set, Value: "URN",
			Help: "The source of result events; `urn:kexrelay:` and the name if not set",
		}, func(s *Serve) *string { return &s.Relay.Source }, parseURN),
		option(Option{
			Key: "trace-prefix", Set: set, Value: "PREFIX", Default: "kxr",
			Help: "Begins the trace ID of an update published without one",
		}, func(s *Serve) *string { return &s.Relay.TracePrefix }, parseTracePrefix),
		option(Option{
			Key: "concurrency", Set: set, Value: "NUMBER", Default: "64",
			Help: "How many requests may be in flight at most; fewer at the start and while the API is slow or throttles",
		}, func(s *Serve) *int { return &s.Relay.Concurrency }, parseConcurrency),
		option(Option{
			Key: "rate", Set: set, Value: "NUMBER", Default: "0",
			Help: "Requests per second at most, of all replicas together; 0 for no limit",
		}, func(s *Serve) *float64 { return &s.Relay.Rate }, parseRate),
		option(Option{
			Key: keyRetryInitial, Set: set, Value: "DURATION", Default: "500ms",
			Help: "The first wait between two attempts",
		}, func(s *Serve) *time.Duration { return &s.Relay.RetryInitial }, parseDuration),
		option(Option{
			Key: keyRetryMaxInterval, Set: set, Value: "DURATION", Default: "1m",
			Help: "The longest wait between two attempts",
		}, func(s *Serve) *time.Duration { return &s.Relay.RetryMaxInterval }, parseDuration),
		option(Option{
			Key: keyRetryBudget, Set: set, Value: "DURATION", Default: "15m",
			Help: "How long one update is retried while no hold is on and others succeed; then it is a dead letter",
		}, func(s *Serve) *time.Duration { return &s.Relay.RetryBudget }, parseDuration),
		option(Option{
			Key: "unknown-outcome", Set: set, Value: "retry|park", Default: string(Retry),
			Help: "What becomes of an update that may or may not have been booked: sent again and its result marked, " +
				"or a dead letter",
		}, func(s *Serve) *UnknownOutcome { return &s.Relay.UnknownOutcome }, oneOf(Retry, Park)),
		option(Option{
			Key: "max-inflight-bytes", Set: set, Value: "SIZE", Default: "128MiB",
			Help: "How much content may be held in memory",
		}, func(s *Serve) *int64 { return &s.Relay.MaxInflightBytes }, parseInflight),
		option(Option{
			Key: keyShutdownTimeout, Set: set, Value: "DURATION", Default: "35s",
			Help: "How long a stop may take to finish what is being sent; longer than the request timeout",
		}, func(s *Serve) *time.Duration { return &s.Relay.ShutdownTimeout }, parseDuration),
	}
}

func httpOptions() []Option {
	const set = HTTPOptions
	return []Option{
		option(Option{
			Key: keyHTTPAddr, Set: set, Value: "HOST:PORT", Default: "127.0.0.1:8080",
			Help: "Where `/livez`, `/readyz` and `/metrics` are served",
		}, func(s *Serve) *string { return &s.HTTP.Addr }, parseAddr),
		option(Option{
			Key: keyPprofAddr, Set: set, Value: "HOST:PORT",
			Help: "Where profiles are served for `go tool pprof`, on loopback alone; off if not set",
		}, func(s *Serve) *string { return &s.HTTP.PprofAddr }, parseLoopback),
	}
}

func logOptions() []Option {
	const set = LogOptions
	return []Option{
		option(Option{
			Key: "log-level", Set: set, Value: "debug|info|warn|error", Default: "info",
			Help: "What is logged",
		}, func(s *Serve) *slog.Level { return &s.Log.Level }, parseLevel),
		option(Option{
			Key: "log-format", Set: set, Value: "auto|text|json", Default: string(Auto),
			Help: "How it is logged: auto is text on a terminal, JSON elsewhere",
		}, func(s *Serve) *LogFormat { return &s.Log.Format }, oneOf(Auto, Text, JSON)),
	}
}

// embeddedOptions are about the NATS server in this process.
func embeddedOptions() []Option {
	const set = EmbeddedOptions
	return []Option{
		option(Option{
			Key: keyEmbedded, Set: set, Value: "bool", Default: "false",
			Help: "Run NATS in this process, for a single machine without one",
		}, func(s *Serve) *bool { return &s.Embedded.Enabled }, parseBool),
		option(Option{
			Key: keyEmbeddedDir, Set: set, Value: "DIR",
			Help: "The directory its streams are kept in; required with `--embedded`",
		}, func(s *Serve) *string { return &s.Embedded.Dir }, parsePath),
		option(Option{
			Key: keyEmbeddedAddr, Set: set, Value: "HOST:PORT", Default: "127.0.0.1:4222",
			Help: "Where publishers reach it; beyond loopback only with users in `--embedded-config`",
		}, func(s *Serve) *string { return &s.Embedded.Addr }, parseAddr),
		option(Option{
			Key: keyEmbeddedConfig, Set: set, Value: "FILE",
			Help: "A nats-server configuration with its users, TLS and limits",
		}, func(s *Serve) *string { return &s.Embedded.ConfigFile }, parsePath),
		option(Option{
			Key: "embedded-sync", Set: set, Value: "always|interval", Default: string(SyncAlways),
			Help: "When it writes through to the disk: before each PubAck, or every two minutes, which a power cut may cost",
		}, func(s *Serve) *EmbeddedSync { return &s.Embedded.Sync }, oneOf(SyncAlways, SyncInterval)),
	}
}

// connectionOptions have the nats CLI's names; keys and the environment names it does not have follow the rule.
func connectionOptions() []Option {
	const set = ConnectionOptions
	return []Option{
		option(Option{
			Key: keyServers, Flag: "server", Short: "s", Set: set, Value: "URL", separator: ",",
			Help: "NATS servers, separated by commas; the context's or nats://127.0.0.1:4222 if not set",
		}, func(s *Serve) *Servers { return &s.NATS.Servers }, ServersOf),
		option(Option{
			Key: keyContext, Flag: "context", Set: set, Value: "NAME",
			Help: "The nats CLI's context to take what is not set here from",
		}, func(s *Serve) *string { return &s.NATS.Context }, parseVisible),
		option(Option{
			Key: keyCreds, Flag: "creds", Set: set, Value: "FILE", discreet: true,
			Help: "User credentials",
		}, func(s *Serve) *string { return &s.NATS.Creds }, parsePath),
		option(Option{
			Key: keyNKey, Flag: "nkey", Set: set, Value: "FILE", discreet: true,
			Help: "A file with the user's NKEY seed",
		}, func(s *Serve) *string { return &s.NATS.NKey }, parsePath),
		option(Option{
			Key: keyUser, Flag: "user", Set: set, Value: "USER", Secret: true,
			Help: "User name, or a token if there is no password",
		}, func(s *Serve) *Secret { return &s.NATS.User }, parseSecret),
		option(Option{
			Key: keyPassword, Flag: "password", Set: set, Value: "PASSWORD", Secret: true,
			Help: "Password",
		}, func(s *Serve) *Secret { return &s.NATS.Password }, parseSecret),
		option(Option{
			Key: keyTLSCert, Flag: "tlscert", Set: set, Value: "FILE",
			Help: "TLS client certificate; needs the key too",
		}, func(s *Serve) *string { return &s.NATS.TLSCert }, parsePath),
		option(Option{
			Key: keyTLSKey, Flag: "tlskey", Set: set, Value: "FILE", discreet: true,
			Help: "TLS private key",
		}, func(s *Serve) *string { return &s.NATS.TLSKey }, parsePath),
		option(Option{
			Key: keyTLSCA, Flag: "tlsca", Set: set, Value: "FILE",
			Help: "TLS certificate authorities to trust",
		}, func(s *Serve) *string { return &s.NATS.TLSCA }, parsePath),
		option(Option{
			Key: keyTLSFirst, Flag: "tlsfirst", Set: set, Value: "bool", Default: "false",
			Help: "Begin TLS before the server's greeting",
		}, func(s *Serve) *bool { return &s.NATS.TLSFirst }, parseBool),
		option(Option{
			Key: "nats.timeout", Flag: "timeout", Set: set, Value: "DURATION", Default: "5s",
			Help: "How long to wait for NATS",
		}, func(s *Serve) *time.Duration { return &s.NATS.Timeout }, parseDuration),
		option(Option{
			Key: "nats.inbox-prefix", Flag: "inbox-prefix", Set: set, Value: "PREFIX",
			Help: "Prefix of reply subjects, where the account permits no other",
		}, func(s *Serve) *string { return &s.NATS.InboxPrefix }, parseSubjectPrefix),
		option(Option{
			Key: keyJSDomain, Flag: "js-domain", Set: set, Value: "DOMAIN",
			Help: "JetStream domain",
		}, func(s *Serve) *string { return &s.NATS.JSDomain }, parseSubjectToken),
		option(Option{
			Key: keyJSAPIPrefix, Flag: "js-api-prefix", Set: set, Value: "PREFIX",
			Help: "Subject prefix of the JetStream API, for one imported from another account",
		}, func(s *Serve) *string { return &s.NATS.JSAPIPrefix }, parseSubjectPrefix),
	}
}
