package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/config"
)

func TestOptionsAreCheckedAgainstEachOther(t *testing.T) {
	cert, key := certificate(t)
	_, otherKey := certificate(t)
	text := writeFile(t, "text", "no certificate\n")
	empty, blank := writeFile(t, "empty", ""), writeFile(t, "blank", " \n\t\n")
	missing := filepath.Join(filepath.Dir(empty), "missing")
	block := func(kind, more string) string {
		return "-----BEGIN " + kind + "-----\n" + more + "QUJD\n-----END " + kind + "-----\n"
	}
	encrypted := writeFile(t, "encrypted", block("ENCRYPTED PRIVATE KEY", ""))
	encryptedOld := writeFile(t, "old", block("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"))
	malformedKey := writeFile(t, "malformed.key", block("PRIVATE KEY", ""))
	pem := read(t, cert)
	malformed := writeFile(t, "malformed", pem+block("CERTIFICATE", ""))
	cutOff := writeFile(t, "cut", pem+pem[:len(pem)/2])
	both, two := writeFile(t, "both", read(t, key)+pem), writeFile(t, "two", "# ours\n"+pem+"# theirs\n"+pem)
	marked, latin := writeFile(t, "marked", "\ufeffsecret\n"), writeFile(t, "latin", "gr\xfcn")
	embedded := func(more ...string) []string {
		return append([]string{"KEXRELAY_EMBEDDED", "true", "KEXRELAY_EMBEDDED_DIR", "data"}, more...)
	}
	for name, tc := range map[string]struct {
		env  []string
		want string // "" is valid; else the whole error.
	}{
		"shutdown longer than a request": {env: []string{"KEX_REQUEST_TIMEOUT", "34s"}},
		"shutdown as long as a request": {
			[]string{"KEXRELAY_SHUTDOWN_TIMEOUT", "30s"},
			`KEXRELAY_SHUTDOWN_TIMEOUT: "30s" is not longer than KEX_REQUEST_TIMEOUT (30s): a stop could cut off a request`,
		},
		"request longer than the default shutdown": {
			[]string{"KEX_REQUEST_TIMEOUT", "1m"},
			`KEXRELAY_SHUTDOWN_TIMEOUT (--shutdown-timeout, shutdown-timeout): "35s" is not longer than KEX_REQUEST_TIMEOUT (1m0s): a stop could cut off a request`,
		},
		"one wrong timeout is one mistake": {
			[]string{"KEX_REQUEST_TIMEOUT", "x"},
			`KEX_REQUEST_TIMEOUT: "x" is not a duration; write for example 500ms, 30s or 5m`,
		},
		"one wrong bound is one mistake": {
			[]string{"KEXRELAY_SHUTDOWN_TIMEOUT", "x"},
			`KEXRELAY_SHUTDOWN_TIMEOUT: "x" is not a duration; write for example 500ms, 30s or 5m`,
		},
		"longest wait below the first": {
			[]string{"KEXRELAY_RETRY_MAX_INTERVAL", "100ms"},
			`KEXRELAY_RETRY_MAX_INTERVAL: "100ms" is less than KEXRELAY_RETRY_INITIAL (500ms)`,
		},
		"waits of equal length": {env: []string{"KEXRELAY_RETRY_MAX_INTERVAL", "500ms"}},
		"budget below the first wait": {
			[]string{"KEXRELAY_RETRY_BUDGET", "1ms"},
			`KEXRELAY_RETRY_BUDGET: "1ms" is less than KEXRELAY_RETRY_INITIAL (500ms)`,
		},
		"secret and its file": {
			[]string{"KEX_CLIENT_SECRET_FILE", text},
			`KEX_CLIENT_SECRET: is set together with KEX_CLIENT_SECRET_FILE; keep one of them`,
		},
		"secret's file missing": {
			[]string{"KEX_CLIENT_SECRET", "", "KEX_CLIENT_SECRET_FILE", "/nowhere/secret"},
			`KEX_CLIENT_SECRET_FILE: is a file that does not exist`,
		},
		"secret's file empty": {
			[]string{"KEX_CLIENT_SECRET", "", "KEX_CLIENT_SECRET_FILE", empty},
			`KEX_CLIENT_SECRET_FILE: "` + empty + `" is an empty file`,
		},
		"actor without subject": {
			[]string{"KEX_IMPERSONATE_ACTOR", "ABC12"},
			`KEX_IMPERSONATE_SUBJECT (--kex-impersonate-subject, kex.impersonate-subject): is required with KEX_IMPERSONATE_ACTOR`,
		},
		"CA file without certificate": {
			[]string{"KEX_CA_FILE", text},
			`KEX_CA_FILE: "` + text + `" is a file without a PEM certificate`,
		},
		"CA file empty":           {[]string{"KEX_CA_FILE", empty}, `KEX_CA_FILE: "` + empty + `" is an empty file`},
		"CA file":                 {env: []string{"KEX_CA_FILE", cert, "NATS_CA", cert}},
		"client certificate":      {env: []string{"NATS_CERT", cert, "NATS_KEY", key}},
		"certificate without key": {[]string{"NATS_CERT", cert}, `NATS_KEY (--tlskey, nats.key): is required with NATS_CERT`},
		"key without certificate": {[]string{"NATS_KEY", key}, `NATS_CERT (--tlscert, nats.cert): is required with NATS_KEY`},
		"key may be the context's": {
			env: []string{"NATS_CERT", cert, "NATS_PASSWORD", "p", "NATS_CONTEXT", "prod"},
		},
		"another's key": {
			[]string{"NATS_CERT", cert, "NATS_KEY", otherKey},
			`NATS_CERT: "` + cert + `" is a certificate NATS_KEY does not fit`,
		},
		"key without PEM": {
			[]string{"NATS_CERT", cert, "NATS_KEY", text}, `NATS_KEY: "` + text + `" is a file without a private key in PEM form`,
		},
		"key that is a certificate": {
			[]string{"NATS_CERT", cert, "NATS_KEY", cert}, `NATS_KEY: "` + cert + `" is a file without a private key in PEM form`,
		},
		"encrypted key": {
			[]string{"NATS_CERT", cert, "NATS_KEY", encrypted},
			`NATS_KEY: "` + encrypted + `" is an encrypted key, which nobody could give a passphrase for; protect a plain one by its file's mode`,
		},
		"encrypted key of old": {
			[]string{"NATS_CERT", cert, "NATS_KEY", encryptedOld},
			`NATS_KEY: "` + encryptedOld + `" is an encrypted key, which nobody could give a passphrase for; protect a plain one by its file's mode`,
		},
		"malformed key": {
			[]string{"NATS_CERT", cert, "NATS_KEY", malformedKey}, `NATS_KEY: "` + malformedKey + `" is a file with a malformed private key`,
		},
		"malformed key whose certificate is the context's": {
			[]string{"NATS_KEY", malformedKey, "NATS_CONTEXT", "prod"}, `NATS_KEY: "` + malformedKey + `" is a file with a malformed private key`,
		},
		"second certificate malformed": {
			[]string{"NATS_CA", malformed}, `NATS_CA: "` + malformed + `" is a file whose certificate number 2 is malformed`,
		},
		"second certificate cut off": {
			[]string{"KEX_CA_FILE", cutOff}, `KEX_CA_FILE: "` + cutOff + `" is a file with a PEM certificate that is cut off or malformed`,
		},
		"certificate of blanks":        {[]string{"NATS_CA", blank}, `NATS_CA: "` + blank + `" is an empty file`},
		"key beside its certificate":   {env: []string{"NATS_CERT", both, "NATS_KEY", both}},
		"two certificates and remarks": {env: []string{"KEX_CA_FILE", two}},
		"secret with a byte order mark": {
			[]string{"KEX_CLIENT_SECRET", "", "KEX_CLIENT_SECRET_FILE", marked},
			`KEX_CLIENT_SECRET_FILE: "` + marked + `" is a file that begins with a byte order mark, as some editors write it; save it without`,
		},
		"secret that is no UTF-8": {
			[]string{"KEX_CLIENT_SECRET", "", "KEX_CLIENT_SECRET_FILE", latin},
			`KEX_CLIENT_SECRET_FILE: "` + latin + `" is a file whose content is no UTF-8`,
		},
		"a file missing where others are": {
			[]string{"NATS_CREDS", missing}, `NATS_CREDS: "` + missing + `" is a file that does not exist`,
		},
		"user as token": {env: []string{"NATS_USER", "token"}},
		"password without user": {
			[]string{"NATS_PASSWORD", "p"},
			`NATS_USER (--user, nats.user): is required with NATS_PASSWORD`,
		},
		"NATS in the process":                  {env: embedded()},
		"NATS in the process, another address": {env: embedded("KEXRELAY_EMBEDDED_ADDR", "[::1]:4333")},
		"NATS in the process, with its users":  {env: embedded("KEXRELAY_EMBEDDED_ADDR", ":4222", "KEXRELAY_EMBEDDED_CONFIG", text)},
		"NATS in the process, open to everybody": {
			embedded("KEXRELAY_EMBEDDED_ADDR", ":4222"),
			`KEXRELAY_EMBEDDED_ADDR: ":4222" is open to everybody who reaches it: nats-server asks nobody for a password until KEXRELAY_EMBEDDED_CONFIG names users`,
		},
		"NATS in the process, without a directory": {
			[]string{"KEXRELAY_EMBEDDED", "true"},
			`KEXRELAY_EMBEDDED_DIR (--embedded-dir, embedded-dir): is required with KEXRELAY_EMBEDDED: the directory updates are kept in`,
		},
		"NATS in the process, in a file": {
			embedded("KEXRELAY_EMBEDDED_DIR", text), `KEXRELAY_EMBEDDED_DIR: "` + text + `" is not a directory`,
		},
		"NATS in the process and elsewhere": {
			embedded("NATS_URL", "nats://other:4222"),
			`NATS_URL: is set together with KEXRELAY_EMBEDDED, whose server is in this process; keep one of them`,
		},
		"NATS in the process, configuration empty": {
			embedded("KEXRELAY_EMBEDDED_CONFIG", empty), `KEXRELAY_EMBEDDED_CONFIG: "` + empty + `" is an empty file`,
		},
		"a directory without NATS in the process": {
			[]string{"KEXRELAY_EMBEDDED_DIR", "data"}, `KEXRELAY_EMBEDDED_DIR: is of no use without KEXRELAY_EMBEDDED`,
		},
		"two ways to another JetStream": {
			[]string{"NATS_JS_DOMAIN", "a", "NATS_JS_API_PREFIX", "b"},
			`NATS_JS_DOMAIN: is set together with NATS_JS_API_PREFIX; keep one of them`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.LoadServe(nil, envOf(required(tc.env...)), "")
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("error\n got %s\nwant %s", got, tc.want)
			}
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPlainHTTPNeedsLoopbackOrConsent(t *testing.T) {
	for _, key := range []string{"KEX_BASE_URL", "KEX_TOKEN_URL"} {
		for url, allowed := range map[string]bool{
			"https://api.example": true, "http://localhost:8080/kex": true, "http://127.0.0.1": true, "http://127.9.8.7:1": true,
			"http://[::1]:8080": true, "http://LOCALHOST": true, "http://[::ffff:127.0.0.1]": true, "HTTPS://api.example": true,
			"http://api.example": false, "http://10.0.0.1": false, "http://localhost.example": false,
			"http://127.0.0.1.example": false, "http://[::2]": false, "HTTP://api.example": false, "http://0.0.0.0": false,
			"http://128.0.0.1": false,
		} {
			env := envOf(required(key, url))
			if _, err := config.LoadServe(nil, env, ""); (err == nil) != allowed {
				t.Errorf("%s=%s: %v, want allowed %v", key, url, err, allowed)
			}
			if _, err := config.LoadServe(flags(t, "--insecure-http"), env, ""); err != nil {
				t.Errorf("%s=%s with --insecure-http: %v", key, url, err)
			}
		}
	}
}

func TestImpersonationAddsItsScopeOnce(t *testing.T) {
	for scopes, want := range map[string]string{
		"":                    "privatkredit:vorgang:schreiben impersonieren",
		"a b":                 "a b impersonieren",
		"impersonieren  b\tc": "impersonieren b c",
	} {
		env := required("KEX_IMPERSONATE_SUBJECT", "ABC12", "KEX_IMPERSONATE_ACTOR", "DEF34")
		env["KEX_SCOPES"] = scopes
		s, err := config.LoadServe(nil, envOf(env), "")
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.KEX.Scopes, " "); got != want || !s.KEX.Impersonates() {
			t.Errorf("scopes of %q = %q, want %q", scopes, got, want)
		}
	}
	s, err := config.LoadServe(nil, envOf(required()), "")
	if err != nil || s.KEX.Impersonates() || slices.Contains(s.KEX.Scopes, "impersonieren") {
		t.Errorf("without impersonation: %q, %v", s.KEX.Scopes, err)
	}
}

func TestSourceIsDerivedFromTheName(t *testing.T) {
	s, err := config.LoadServe(nil, envOf(required("KEXRELAY_NAME", "prod")), "")
	if err != nil || s.Relay.Source != "urn:kexrelay:prod" {
		t.Errorf("Source = %q, %v, want urn:kexrelay:prod", s.Relay.Source, err)
	}
}

func TestValues(t *testing.T) {
	for name, tc := range map[string]struct {
		good map[string]any // Text to parsed value.
		bad  []string
		get  func(config.Serve) any
	}{
		"KEX_BASE_URL": {
			good: map[string]any{
				"https://a.example": "https://a.example", "https://a.example/kex/": "https://a.example/kex", "https://a:1/b//": "https://a:1/b",
			},
			bad: []string{
				"a.example", "ftp://a", "https://", "https://:80", "https://u@a", "https://a?b", "https://a?", "https://a#b",
				"https://a:99999", "https://a:x", "https://%zz", "//a",
			},
			get: func(s config.Serve) any { return s.KEX.BaseURL },
		},
		"KEX_CLIENT_ID": {
			good: map[string]any{"abc": "abc", "a:b": "a:b"},
			bad:  []string{"a b", "a\tb", "ä", "a\x00", strings.Repeat("a", 2000)},
			get:  func(s config.Serve) any { return s.KEX.ClientID },
		},
		"KEX_SCOPES": {
			good: map[string]any{"a": []string{"a"}, "a  b\nc": []string{"a", "b", "c"}},
			bad:  []string{`a"b`, `a\b`, "ä"},
			get:  func(s config.Serve) any { return s.KEX.Scopes },
		},
		"KEXRELAY_NAME": {
			good: map[string]any{"a": "a", "A-1.b_c": "A-1.b_c"},
			bad:  []string{"-a", ".a", "a b", "ä", strings.Repeat("a", 65), "a/b"},
			get:  func(s config.Serve) any { return s.Relay.Name },
		},
		"KEXRELAY_SOURCE": {
			good: map[string]any{"urn:kexrelay:x": "urn:kexrelay:x", "URN:ab:c/d": "URN:ab:c/d"},
			bad:  []string{"kexrelay", "urn:a:b", "urn:kexrelay:", "urn:kexrelay:a b", "https://a.example", "urn:kexrelay:ä"},
			get:  func(s config.Serve) any { return s.Relay.Source },
		},
		"KEXRELAY_TRACE_PREFIX": {
			good: map[string]any{"sys": "sys", strings.Repeat("a", 32): strings.Repeat("a", 32), "a-1_b.": "a-1_b."},
			bad:  []string{"a b", "ä", strings.Repeat("a", 33), "a\nb", "a:b"},
			get:  func(s config.Serve) any { return s.Relay.TracePrefix },
		},
		"KEXRELAY_CONCURRENCY": {
			good: map[string]any{"1": 1, "4096": 4096},
			bad:  []string{"0", "-1", "4097", "1.5", "x", "99999999999999999999"},
			get:  func(s config.Serve) any { return s.Relay.Concurrency },
		},
		"KEXRELAY_RATE": {
			good: map[string]any{"0": 0.0, "0.5": 0.5, "100": 100.0},
			bad:  []string{"-1", "NaN", "Inf", "x", "5/s"},
			get:  func(s config.Serve) any { return s.Relay.Rate },
		},
		"KEX_REQUEST_TIMEOUT": {
			good: map[string]any{"1ms": "1ms"},
			bad:  []string{"0", "0s", "-1s"},
			get:  func(s config.Serve) any { return s.KEX.RequestTimeout.String() },
		},
		"KEXRELAY_RETRY_BUDGET": {
			good: map[string]any{"1h30m": "1h30m0s"},
			bad:  []string{"0", "0s", "-5m", "30", "5 minutes", "1d"},
			get:  func(s config.Serve) any { return s.Relay.RetryBudget.String() },
		},
		"KEXRELAY_UNKNOWN_OUTCOME": {
			good: map[string]any{"retry": config.Retry, "park": config.Park},
			bad:  []string{"Retry", "drop"},
			get:  func(s config.Serve) any { return s.Relay.UnknownOutcome },
		},
		"KEXRELAY_MAX_INFLIGHT_BYTES": {
			good: map[string]any{
				"128MiB": int64(134217728), "64MB": int64(64000000), "1048576": int64(1 << 20), "2 GiB": int64(2 << 30), "1gb": int64(1e9),
				"2048kib": int64(2 << 20), "2000KB": int64(2e6), "1TiB": int64(1 << 40), "1TB": int64(1e12), "1048576B": int64(1 << 20),
			},
			bad: []string{"1048575", "0", "-1MiB", "1.5GiB", "64M", "MiB", "18446744073719552KB", "99999999999999999999", "1MiBMiB"},
			get: func(s config.Serve) any { return s.Relay.MaxInflightBytes },
		},
		"KEXRELAY_HTTP_ADDR": {
			good: map[string]any{":8080": ":8080", "[::1]:0": "[::1]:0", "host:65535": "host:65535"},
			bad:  []string{"8080", "host", "host:http", "host:65536", "::1:80", "a b:80", "host:-1"},
			get:  func(s config.Serve) any { return s.HTTP.Addr },
		},
		"KEXRELAY_PPROF_ADDR": {
			good: map[string]any{"127.0.0.1:6060": "127.0.0.1:6060", "[::1]:0": "[::1]:0", "localhost:1": "localhost:1", "127.9.9.9:1": "127.9.9.9:1"},
			bad:  []string{":6060", "0.0.0.0:6060", "[::]:6060", "192.0.2.1:6060", "host:6060", "localhost.example:1", "6060", "127.0.0.1"},
			get:  func(s config.Serve) any { return s.HTTP.PprofAddr },
		},
		"KEXRELAY_LOG_LEVEL": {
			good: map[string]any{"debug": "DEBUG", "WARN": "WARN", "error": "ERROR", "info": "INFO"},
			bad:  []string{"warning", "5", "trace"},
			get:  func(s config.Serve) any { return s.Log.Level.String() },
		},
		"KEXRELAY_LOG_FORMAT": {
			good: map[string]any{"text": config.Text, "json": config.JSON, "auto": config.Auto},
			bad:  []string{"logfmt", "JSON"},
			get:  func(s config.Serve) any { return s.Log.Format },
		},
		"KEXRELAY_INSECURE_HTTP": {
			good: map[string]any{"true": true, "1": true, "FALSE": false, "0": false},
			bad:  []string{"yes", "2"},
			get:  func(s config.Serve) any { return s.KEX.InsecureHTTP },
		},
		"NATS_INBOX_PREFIX": {
			good: map[string]any{"_INBOX_relay": "_INBOX_relay", "a.b.": "a.b"},
			bad:  []string{"a.*", ">", ".a", "a..b", "a b", "."},
			get:  func(s config.Serve) any { return s.NATS.InboxPrefix },
		},
		"NATS_JS_DOMAIN": {
			good: map[string]any{"hub": "hub"},
			bad:  []string{"a.b", "*", "a b"},
			get:  func(s config.Serve) any { return s.NATS.JSDomain },
		},
	} {
		for text, want := range tc.good {
			s, err := config.LoadServe(nil, envOf(required(name, text)), "")
			if err != nil {
				t.Errorf("%s=%q: %v", name, text, err)
			} else if diff := cmp.Diff(want, tc.get(s)); diff != "" {
				t.Errorf("%s=%q (-want +got):\n%s", name, text, diff)
			}
		}
		for _, text := range tc.bad {
			_, err := config.LoadServe(nil, envOf(required(name, text)), "")
			if err == nil || !strings.HasPrefix(err.Error(), name+": ") || len(mistakes(t, err)) != 1 {
				t.Errorf("%s=%q: %v, want one mistake of %s", name, text, err, name)
			}
		}
	}
}

func TestALongValueIsCutInItsError(t *testing.T) {
	_, err := config.LoadServe(nil, envOf(required("KEXRELAY_RATE", strings.Repeat("ä", 500))), "")
	m := mistakes(t, err)[0]
	if want := strings.Repeat("ä", 128) + "…"; m.Value != want {
		t.Errorf("Value = %q, want %q", m.Value, want)
	}
}
