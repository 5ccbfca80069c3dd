package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"kexrelay/internal/config"
)

// envOf is an environment out of a map.
func envOf(values map[string]string) config.Env {
	return func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
}

// required is the least environment a relay starts with, and more on top of it.
func required(more ...string) map[string]string {
	values := map[string]string{"KEX_CLIENT_ID": "client-1", "KEX_CLIENT_SECRET": "s3cret"}
	for i := 0; i < len(more); i += 2 {
		if more[i+1] == "" {
			delete(values, more[i])
			continue
		}
		values[more[i]] = more[i+1]
	}
	return values
}

// flags parses args as serve would.
func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.RegisterFlags(fs, config.ServeOptions)
	if err := fs.Parse(args); err != nil {
		t.Fatalf("parsing %q: %v", args, err)
	}
	return fs
}

// writeFile writes a file into the test's directory and gives its path.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// mistakes is the *OptionErrors joined in err.
func mistakes(t *testing.T, err error) []*config.OptionError {
	t.Helper()
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T is no joined error: %v", err, err)
	}
	var all []*config.OptionError
	for _, one := range joined.Unwrap() {
		m, ok := errors.AsType[*config.OptionError](one)
		if !ok {
			t.Fatalf("%T is no *OptionError: %v", one, one)
		}
		all = append(all, m)
	}
	return all
}

// options is the options the mistakes in err are about.
func options(t *testing.T, err error) []string {
	t.Helper()
	var all []string
	for _, m := range mistakes(t, err) {
		all = append(all, m.Option)
	}
	return all
}

func TestDefaultsAreTheDocumentedOnes(t *testing.T) {
	s, err := config.LoadServe(nil, envOf(required()), "")
	if err != nil {
		t.Fatal(err)
	}
	want := config.Relay{
		Name: "default", Source: "urn:kexrelay:default", TracePrefix: "kxr", Concurrency: 64,
		RetryInitial: 500 * time.Millisecond, RetryMaxInterval: time.Minute, RetryBudget: 15 * time.Minute,
		UnknownOutcome: config.Retry, MaxInflightBytes: 128 << 20, ShutdownTimeout: 35 * time.Second,
	}
	if diff := cmp.Diff(want, s.Relay); diff != "" {
		t.Errorf("Relay (-want +got):\n%s", diff)
	}
	if got, want := s.KEX.BaseURL, "https://www.europace2.de/kreditsmart/kex"; got != want {
		t.Errorf("BaseURL = %q, want %q", got, want)
	}
	if got, want := s.KEX.TokenURL, "https://api.europace.de/auth/token"; got != want {
		t.Errorf("TokenURL = %q, want %q", got, want)
	}
	if got, want := s.KEX.Scopes, []string{"privatkredit:vorgang:schreiben"}; !slices.Equal(got, want) {
		t.Errorf("Scopes = %q, want %q", got, want)
	}
	if s.KEX.RequestTimeout != 30*time.Second || s.NATS.Timeout != 5*time.Second {
		t.Errorf("timeouts = %s, %s, want 30s, 5s", s.KEX.RequestTimeout, s.NATS.Timeout)
	}
	if s.HTTP != (config.HTTP{Addr: "127.0.0.1:8080"}) || s.Log.Format != config.Auto || s.Log.Level != 0 {
		t.Errorf("HTTP = %+v, Log = %+v", s.HTTP, s.Log)
	}
	if s.NATS.Servers.IsSet() || s.NATS.User.IsSet() || s.NATS.Context != "" {
		t.Errorf("NATS has what nobody set: %+v", s.NATS)
	}
}

// The names in DESIGN are a contract: a renamed option breaks installations.
func TestEveryOptionHasTheContractsNames(t *testing.T) {
	want := map[string][2]string{ // Environment name: key, flag.
		"KEX_BASE_URL": {"kex.base-url", "kex-base-url"}, "KEX_TOKEN_URL": {"kex.token-url", "kex-token-url"},
		"KEX_CLIENT_ID": {"kex.client-id", "kex-client-id"}, "KEX_SCOPES": {"kex.scopes", "kex-scopes"},
		"KEX_CLIENT_SECRET":       {"kex.client-secret", "kex-client-secret"},
		"KEX_CLIENT_SECRET_FILE":  {"kex.client-secret-file", "kex-client-secret-file"},
		"KEX_IMPERSONATE_SUBJECT": {"kex.impersonate-subject", "kex-impersonate-subject"},
		"KEX_IMPERSONATE_ACTOR":   {"kex.impersonate-actor", "kex-impersonate-actor"},
		"KEX_REQUEST_TIMEOUT":     {"kex.request-timeout", "kex-request-timeout"},
		"KEX_CA_FILE":             {"kex.ca-file", "kex-ca-file"},
		"KEXRELAY_INSECURE_HTTP":  {"insecure-http", "insecure-http"},
		"KEXRELAY_CONFIG":         {"config", "config"},
		"KEXRELAY_NAME":           {"name", "name"}, "KEXRELAY_SOURCE": {"source", "source"},
		"KEXRELAY_TRACE_PREFIX":       {"trace-prefix", "trace-prefix"},
		"KEXRELAY_CONCURRENCY":        {"concurrency", "concurrency"},
		"KEXRELAY_RATE":               {"rate", "rate"},
		"KEXRELAY_RETRY_INITIAL":      {"retry-initial", "retry-initial"},
		"KEXRELAY_RETRY_MAX_INTERVAL": {"retry-max-interval", "retry-max-interval"},
		"KEXRELAY_RETRY_BUDGET":       {"retry-budget", "retry-budget"},
		"KEXRELAY_UNKNOWN_OUTCOME":    {"unknown-outcome", "unknown-outcome"},
		"KEXRELAY_MAX_INFLIGHT_BYTES": {"max-inflight-bytes", "max-inflight-bytes"},
		"KEXRELAY_SHUTDOWN_TIMEOUT":   {"shutdown-timeout", "shutdown-timeout"},
		"KEXRELAY_HTTP_ADDR":          {"http-addr", "http-addr"},
		"KEXRELAY_PPROF_ADDR":         {"pprof-addr", "pprof-addr"},
		"KEXRELAY_LOG_LEVEL":          {"log-level", "log-level"},
		"KEXRELAY_LOG_FORMAT":         {"log-format", "log-format"},
		"KEXRELAY_EMBEDDED":           {"embedded", "embedded"},
		"KEXRELAY_EMBEDDED_DIR":       {"embedded-dir", "embedded-dir"},
		"KEXRELAY_EMBEDDED_ADDR":      {"embedded-addr", "embedded-addr"},
		"KEXRELAY_EMBEDDED_CONFIG":    {"embedded-config", "embedded-config"},
		"KEXRELAY_EMBEDDED_SYNC":      {"embedded-sync", "embedded-sync"},
		"NATS_URL":                    {"nats.url", "server"}, "NATS_CONTEXT": {"nats.context", "context"},
		"NATS_CREDS": {"nats.creds", "creds"}, "NATS_NKEY": {"nats.nkey", "nkey"},
		"NATS_USER": {"nats.user", "user"}, "NATS_PASSWORD": {"nats.password", "password"},
		"NATS_CERT": {"nats.cert", "tlscert"}, "NATS_KEY": {"nats.key", "tlskey"}, "NATS_CA": {"nats.ca", "tlsca"},
		"NATS_TLS_FIRST": {"nats.tls-first", "tlsfirst"}, "NATS_TIMEOUT": {"nats.timeout", "timeout"},
		"NATS_INBOX_PREFIX": {"nats.inbox-prefix", "inbox-prefix"},
		"NATS_JS_DOMAIN":    {"nats.js-domain", "js-domain"}, "NATS_JS_API_PREFIX": {"nats.js-api-prefix", "js-api-prefix"},
	}
	got := map[string][2]string{}
	for _, o := range config.Options(config.ServeOptions) {
		got[o.Env] = [2]string{o.Key, o.Flag}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// samples is a value other than the default for every option.
func samples(t *testing.T) map[string]string {
	t.Helper()
	cert, key := certificate(t)
	content := writeFile(t, "content", "x\n")
	return map[string]string{
		"kex.base-url": "https://a.example/kex", "kex.token-url": "https://b.example/token",
		"kex.client-id": "client-2", "kex.client-secret": "other", "kex.client-secret-file": content,
		"kex.scopes": "one two impersonieren", "kex.impersonate-subject": "ABC12", "kex.impersonate-actor": "DEF34",
		"kex.request-timeout": "20s", "kex.ca-file": cert, "insecure-http": "true",
		"config": writeFile(t, "comment.yaml", "# nothing\n"), "name": "prod", "source": "urn:kexrelay:elsewhere",
		"trace-prefix": "abc", "concurrency": "8", "rate": "2.5", "retry-initial": "1s",
		"retry-max-interval": "2m", "retry-budget": "1h", "unknown-outcome": "park", "max-inflight-bytes": "64MB",
		"shutdown-timeout": "50s", "http-addr": ":9090", "pprof-addr": "127.0.0.1:6060",
		"log-level": "debug", "log-format": "json",
		"embedded": "true", "embedded-dir": "data", "embedded-addr": "127.0.0.1:4333", "embedded-config": content, "embedded-sync": "interval",
		"nats.url": "nats://one:4222,nats://two:4222", "nats.context": "production", "nats.creds": content,
		"nats.nkey": content, "nats.user": "u", "nats.password": "p", "nats.cert": cert, "nats.key": key,
		"nats.ca": cert, "nats.tls-first": "true", "nats.timeout": "9s", "nats.inbox-prefix": "_INBOX_relay",
		"nats.js-domain": "hub", "nats.js-api-prefix": "JS.hub.API",
	}
}

func TestEveryOptionIsAFlagAnEnvironmentVariableAndAKey(t *testing.T) {
	values := samples(t)
	// What an option cannot be given without, or excludes.
	with := map[string][]string{
		"kex.impersonate-subject": {"KEX_IMPERSONATE_ACTOR", "DEF34"},
		"kex.impersonate-actor":   {"KEX_IMPERSONATE_SUBJECT", "ABC12"},
		"kex.client-secret-file":  {"KEX_CLIENT_SECRET", ""},
		"embedded":                {"KEXRELAY_EMBEDDED_DIR", "data"},
		"embedded-dir":            {"KEXRELAY_EMBEDDED", "true"},
		"embedded-config":         {"KEXRELAY_EMBEDDED", "true", "KEXRELAY_EMBEDDED_DIR", "data"},
		"nats.cert":               {"NATS_KEY", values["nats.key"]},
		"nats.key":                {"NATS_CERT", values["nats.cert"]},
		"nats.password":           {"NATS_USER", "u"},
	}
	for _, o := range config.Options(config.ServeOptions) {
		t.Run(o.Key, func(t *testing.T) {
			value, ok := values[o.Key]
			if !ok {
				t.Fatal("has no sample in this test")
			}
			base := required(with[o.Key]...)
			base["KEX_SCOPES"] = "impersonieren" // So that impersonation changes nothing here.
			delete(base, o.Env)
			check := func(source config.Source, s config.Serve, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("as %s: %v", source, err)
				}
				i := slices.IndexFunc(s.Settings(), func(x config.Setting) bool { return x.Key == o.Key })
				got := s.Settings()[i]
				if o.Secret {
					value = "<redacted>"
				}
				if want := (config.Setting{Key: o.Key, Value: value, Source: source, Env: o.Env}); got != want {
					t.Errorf("as %s: %+v, want %+v", source, got, want)
				}
			}
			s, err := config.LoadServe(flags(t, "--"+o.Flag+"="+value), envOf(base), "")
			check(config.FromFlag, s, err)

			if o.Key != "config" {
				file := writeFile(t, "relay.yaml", o.Key+": \""+value+"\"\n")
				s, err = config.LoadServe(flags(t), envOf(base), file)
				check(config.FromFile, s, err)
			}
			env := maps.Clone(base)
			env[o.Env] = values[o.Key]
			s, err = config.LoadServe(flags(t), envOf(env), "")
			check(config.FromEnv, s, err)
		})
	}
}

func TestPrecedenceIsFlagEnvironmentFileDefault(t *testing.T) {
	file := writeFile(t, "relay.yaml", "rate: 1\nconcurrency: 1\nname: file\n")
	env := envOf(required("KEXRELAY_RATE", "2", "KEXRELAY_CONCURRENCY", "2", "KEXRELAY_LOG_LEVEL", "  "))
	s, err := config.LoadServe(flags(t, "--rate", "3"), env, file)
	if err != nil {
		t.Fatal(err)
	}
	if s.Relay.Rate != 3 || s.Relay.Concurrency != 2 || s.Relay.Name != "file" || s.Log.Level != 0 {
		t.Errorf("rate %v, concurrency %d, name %q, level %v; want 3 (flag), 2 (environment), file, the default",
			s.Relay.Rate, s.Relay.Concurrency, s.Relay.Name, s.Log.Level)
	}
}

func TestAnEmptyFlagSwitchesOff(t *testing.T) {
	env := envOf(required("NATS_CONTEXT", "prod"))
	s, err := config.LoadServe(flags(t, "--context="), env, "")
	if err != nil || s.NATS.Context != "" {
		t.Errorf("context = %q, %v, want none", s.NATS.Context, err)
	}
	_, err = config.LoadServe(flags(t, "--rate="), envOf(required()), "")
	if got, want := options(t, err), []string{"rate"}; !slices.Equal(got, want) {
		t.Errorf("an empty --rate: %v, want a mistake in rate", err)
	}
}

func TestAllMistakesAreToldAtOnceByTheNamesTheyWereGivenBy(t *testing.T) {
	file := writeFile(t, "relay.yaml", "retry-budget: soon\nkex:\n  request-timeout: never\n  colour: red\n")
	env := envOf(map[string]string{
		"KEXRELAY_RATE": "fast", "KEXRELAY_LOG_LEVEL": "loud", "NATS_CREDS": "/nowhere/creds",
		"KEX_TOKEN_URL": "http://tokens.example", "KEX_IMPERSONATE_SUBJECT": "ABC12",
	})
	_, err := config.LoadServe(flags(t, "--concurrency=0", "--max-inflight-bytes", "12XB"), env, file)
	want := []string{
		`kex.colour (relay.yaml, line 4): is not a known key`,
		`kex.request-timeout (relay.yaml, line 3): "never" is not a duration; write for example 500ms, 30s or 5m`,
		`--concurrency: "0" is not a number from 1 to 4096`,
		`KEXRELAY_RATE: "fast" is not a number of requests per second; 0 is no limit`,
		`retry-budget (relay.yaml, line 1): "soon" is not a duration; write for example 500ms, 30s or 5m`,
		`--max-inflight-bytes: "12XB" is not a size; write for example 128MiB, 64MB or 1048576`,
		`KEXRELAY_LOG_LEVEL: "loud" is none of debug, info, warn and error`,
		`KEX_CLIENT_ID (--kex-client-id, kex.client-id): is required: the ID of the API client`,
		`KEX_IMPERSONATE_ACTOR (--kex-impersonate-actor, kex.impersonate-actor): is required with KEX_IMPERSONATE_SUBJECT`,
		`KEX_CLIENT_SECRET (--kex-client-secret, kex.client-secret): is required, or KEX_CLIENT_SECRET_FILE`,
		`KEX_TOKEN_URL: "http://tokens.example" is plain HTTP beyond loopback; use https, or --insecure-http if nothing in it is real`,
		`NATS_CREDS: is a file that does not exist`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
	if got := len(mistakes(t, err)); got != len(want) {
		t.Errorf("%d *OptionErrors, want %d", got, len(want))
	}
}

func TestConnectionAndLogLoadOnTheirOwn(t *testing.T) {
	fs := pflag.NewFlagSet("publish", pflag.ContinueOnError)
	config.RegisterFlags(fs, config.ConnectionOptions|config.LogOptions)
	if fs.Lookup("rate") != nil || fs.ShorthandLookup("s") == nil {
		t.Error("publish has the relay's flags, or lacks -s")
	}
	if err := fs.Parse([]string{"-s", "one:4222", "--tlsfirst"}); err != nil {
		t.Fatal(err)
	}
	env := envOf(map[string]string{
		"NATS_URL": "nats://two", "NATS_USER": "anna", "NATS_CONTEXT": "dev", "KEXRELAY_LOG_FORMAT": "text",
	})
	c, err := config.LoadConnection(fs, env)
	if err != nil {
		t.Fatal(err)
	}
	want, err := config.ServersOf("nats://one:4222")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Connection{
		Servers: want, User: config.NewSecret("anna"), Context: "dev", Timeout: 5 * time.Second, TLSFirst: true,
	}, c); diff != "" {
		t.Errorf("Connection (-want +got):\n%s", diff)
	}
	l, err := config.LoadLog(fs, env)
	if err != nil || l.Format != config.Text {
		t.Errorf("LoadLog = %+v, %v, want text", l, err)
	}
	_, err = config.LoadConnection(fs, envOf(map[string]string{"NATS_TIMEOUT": "x", "NATS_CA": "/nowhere"}))
	if got, want := options(t, err), []string{"nats.timeout", "nats.ca"}; !slices.Equal(got, want) {
		t.Errorf("mistakes in %q, want %q", got, want)
	}
}

func TestFileIsNamedByFlagThenEnvironment(t *testing.T) {
	env := envOf(map[string]string{"KEXRELAY_CONFIG": "/env.yaml"})
	if got := config.File(flags(t, "--config", "/flag.yaml"), env); got != "/flag.yaml" {
		t.Errorf("File = %q, want the flag's", got)
	}
	if got := config.File(flags(t), env); got != "/env.yaml" {
		t.Errorf("File = %q, want the environment's", got)
	}
	if got := config.File(nil, nil); got != "" {
		t.Errorf("File = %q, want none", got)
	}
}

func TestEnvOfTakesTheFirstOfTwoAndKeepsEqualSigns(t *testing.T) {
	env := config.EnvOf([]string{"A=1=2", "A=3", "broken", "B="})
	if v, ok := env("A"); v != "1=2" || !ok {
		t.Errorf("A = %q, %v, want 1=2", v, ok)
	}
	if v, ok := env("B"); v != "" || !ok {
		t.Errorf("B = %q, %v, want set and empty", v, ok)
	}
	if _, ok := env("broken"); ok {
		t.Error("an entry without = is a variable")
	}
}

// certificate writes a self-signed certificate and its key as PEM files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = writeFile(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	key = writeFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})))
	return cert, key
}
