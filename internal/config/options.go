package config

import (
	"strings"
)

// OptionSet chooses options: what a command takes.
type OptionSet uint8

// The sets, in the order options are listed.
const (
	KEXOptions OptionSet = 1 << iota
	RelayOptions
	HTTPOptions
	LogOptions
	EmbeddedOptions
	ConnectionOptions

	// ServeOptions are all of them.
	ServeOptions = KEXOptions | RelayOptions | HTTPOptions | LogOptions | EmbeddedOptions | ConnectionOptions
)

// Option is one row of the option table.
type Option struct {
	// Key is its name in the file, Env in the environment, Flag (without --) and Short on the command line.
	Key   string
	Env   string
	Flag  string
	Short string
	// Value names what it takes in help texts: URL, DURATION, …; bool takes nothing.
	Value   string
	Default string
	// Help is one sentence without a full stop.
	Help string
	// Secret options are never shown.
	Secret bool
	Set    OptionSet

	// discreet options are shown in the configuration, but not in errors.
	discreet bool
	// separator joins a YAML list to the option's text; empty where a list makes no sense.
	separator string
	// store parses the text and writes the field. Its error is the rest of a sentence that begins with the value.
	store func(*Serve, string) error
}

// Keys that code refers to.
const (
	keyConfig           = "config"
	keyBaseURL          = "kex.base-url"
	keyTokenURL         = "kex.token-url" //nolint:gosec // The name of an option, no credential.
	keyClientID         = "kex.client-id"
	keyClientSecret     = "kex.client-secret"      //nolint:gosec // The name of an option, no credential.
	keyClientSecretFile = "kex.client-secret-file" //nolint:gosec // The name of an option, no credential.
	keyScopes           = "kex.scopes"
	keySubject          = "kex.impersonate-subject"
	keyActor            = "kex.impersonate-actor"
	keyRequestTimeout   = "kex.request-timeout"
	keyCAFile           = "kex.ca-file"
	keySource           = "source"
	keyRetryInitial     = "retry-initial"
	keyRetryMaxInterval = "retry-max-interval"
	keyRetryBudget      = "retry-budget"
	keyShutdownTimeout  = "shutdown-timeout"
	keyHTTPAddr         = "http-addr"
	keyPprofAddr        = "pprof-addr"
	keyEmbedded         = "embedded"
	keyEmbeddedDir      = "embedded-dir"
	keyEmbeddedAddr     = "embedded-addr"
	keyEmbeddedConfig   = "embedded-config"
	keyServers          = "nats.url"
	keyContext          = "nats.context"
	keyCreds            = "nats.creds" //nolint:gosec // The name of an option, no credential.
	keyNKey             = "nats.nkey"
	keyUser             = "nats.user"
	keyPassword         = "nats.password"
	keyTLSCert          = "nats.cert"
	keyTLSKey           = "nats.key"
	keyTLSCA            = "nats.ca"
	keyTLSFirst         = "nats.tls-first"
	keyJSDomain         = "nats.js-domain"
	keyJSAPIPrefix      = "nats.js-api-prefix"
)

// Options is the option table: every option of the chosen sets, in the order they are listed to people.
func Options(set OptionSet) []Option {
	var chosen []Option
	for _, table := range [][]Option{kexOptions(), relayOptions(), httpOptions(), logOptions(), embeddedOptions(), connectionOptions()} {
		for _, o := range table {
			if o.Set&set != 0 {
				chosen = append(chosen, o)
			}
		}
	}
	return chosen
}

// envName is the rule for environment names: KEX_BASE_URL for kex.base-url, KEXRELAY_RATE for rate.
func envName(key string) string {
	if !strings.Contains(key, ".") {
		key = "kexrelay." + key
	}
	return strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// flagName is the rule for flags: kex-base-url for kex.base-url, rate for rate.
func flagName(key string) string { return strings.ReplaceAll(key, ".", "-") }

// option completes a row: the names by the rule where the row has none of its own, and the store that parses into
// a field.
func option[T any](o Option, field func(*Serve) *T, parse func(string) (T, error)) Option {
	if o.Env == "" {
		o.Env = envName(o.Key)
	}
	if o.Flag == "" {
		o.Flag = flagName(o.Key)
	}
	o.store = func(s *Serve, text string) error {
		v, err := parse(text)
		if err != nil {
			return err
		}
		*field(s) = v
		return nil
	}
	return o
}

// names lists all ways to give the option, for an error about one that was not given.
func (o Option) names() string {
	text := o.Env + " (--" + o.Flag
	if o.Key != keyConfig {
		text += ", " + o.Key
	}
	return text + ")"
}
