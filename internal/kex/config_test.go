package kex

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfigProblems(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*Config)
		want   string // "" if the configuration is good.
	}{
		"good":                        {func(*Config) {}, ""},
		"no base URL":                 {func(c *Config) { c.BaseURL = "" }, "KEX_BASE_URL: is missing"},
		"no URL at all":               {func(c *Config) { c.BaseURL = "http://[::1" }, "KEX_BASE_URL: is not a URL"},
		"relative":                    {func(c *Config) { c.BaseURL = "/kex" }, "KEX_BASE_URL: is not an absolute"},
		"other scheme":                {func(c *Config) { c.BaseURL = "ftp://host/kex" }, "KEX_BASE_URL: is not an absolute"},
		"no host":                     {func(c *Config) { c.BaseURL = "https:///kex" }, "KEX_BASE_URL: is not an absolute"},
		"password in the URL":         {func(c *Config) { c.BaseURL = "https://u:" + canarySecret + "@host/kex" }, "KEX_BASE_URL: has a user name"},
		"query":                       {func(c *Config) { c.BaseURL = "https://host/kex?a=b" }, "KEX_BASE_URL: has a query"},
		"fragment":                    {func(c *Config) { c.TokenURL = "https://host/token#a" }, "KEX_TOKEN_URL: has a #fragment"},
		"plain HTTP":                  {func(c *Config) { c.BaseURL = "http://api.europace.de/kex" }, "KEX_BASE_URL: is plain HTTP"},
		"plain HTTP for the token":    {func(c *Config) { c.TokenURL = "http://10.0.0.1/token" }, "KEX_TOKEN_URL: is plain HTTP"},
		"name that looks like local":  {func(c *Config) { c.BaseURL = "http://localhost.evil.example/" }, "KEX_BASE_URL: is plain HTTP"},
		"any address":                 {func(c *Config) { c.BaseURL = "http://0.0.0.0/" }, "KEX_BASE_URL: is plain HTTP"},
		"plain HTTP to loopback":      {func(c *Config) { c.BaseURL, c.TokenURL = "http://127.8.9.1:80/kex", "http://[::1]:80/t" }, ""},
		"plain HTTP to localhost":     {func(c *Config) { c.BaseURL = "http://LocalHost:8080" }, ""},
		"plain HTTP to mapped":        {func(c *Config) { c.BaseURL = "http://[::ffff:127.0.0.1]:8080" }, ""},
		"plain HTTP allowed":          {func(c *Config) { c.BaseURL, c.InsecureHTTP = "http://api.internal/kex", true }, ""},
		"no client ID":                {func(c *Config) { c.ClientID = "" }, "KEX_CLIENT_ID: is missing"},
		"no secret":                   {func(c *Config) { c.ClientSecret = nil }, "KEX_CLIENT_SECRET: is missing"},
		"bad scope":                   {func(c *Config) { c.Scopes = []string{"a b"} }, `KEX_SCOPES: "a b" is not a scope`},
		"empty scope":                 {func(c *Config) { c.Scopes = []string{""} }, "KEX_SCOPES"},
		"impersonating without scope": {func(c *Config) { c.Scopes, c.ImpersonateSubject = nil, "A" }, "KEX_SCOPES: must name"},
		"negative timeout":            {func(c *Config) { c.RequestTimeout = -1 }, "KEX_REQUEST_TIMEOUT"},
		"negative concurrency":        {func(c *Config) { c.Concurrency = -1 }, "KEXRELAY_CONCURRENCY"},
		"trace prefix":                {func(c *Config) { c.TracePrefix = "a\nb" }, "KEXRELAY_TRACE_PREFIX"},
		"user agent":                  {func(c *Config) { c.UserAgent = "a\r\nb" }, "user agent"},
		"no CA file":                  {func(c *Config) { c.CAFile = "/nonexistent/ca.pem" }, "KEX_CA_FILE: reading certificates"},
		"CA file without certificate": {func(c *Config) { c.CAFile = notPEM }, "KEX_CA_FILE"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig("https://www.europace2.de/kreditsmart/kex")
			tt.change(&cfg)
			c, err := New(cfg)
			if tt.want == "" {
				if err != nil {
					t.Fatalf("got %v", err)
				}
				c.Close()
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), canarySecret) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		_, err := New(Config{RequestTimeout: -1, CAFile: notPEM})
		for _, option := range []string{"KEX_BASE_URL", "KEX_TOKEN_URL", "KEX_CLIENT_ID", "KEX_CLIENT_SECRET", "KEX_REQUEST_TIMEOUT", "KEX_CA_FILE"} {
			if err == nil || !strings.Contains(err.Error(), option+": ") {
				t.Errorf("%s is not named in: %v", option, err)
			}
		}
	})
}

func TestConfigDefaults(t *testing.T) {
	cfg := Config{Scopes: []string{"a"}, ImpersonateSubject: "X"}
	got := cfg.withDefaults()
	if got.RequestTimeout != 30*time.Second || got.Concurrency != 64 || got.TracePrefix != "kxr" || got.UserAgent != "kexrelay" {
		t.Errorf("defaults are %+v", got)
	}
	if strings.Join(got.Scopes, " ") != "a impersonieren" || len(cfg.Scopes) != 1 {
		t.Errorf("scopes are %v, the caller's %v", got.Scopes, cfg.Scopes)
	}
	if again := got.withDefaults(); len(again.Scopes) != 2 {
		t.Errorf("scopes are %v", again.Scopes)
	}
}

// TestCAFile: a server with a certificate of one's own authority is trusted, beside the others.
func TestCAFile(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newTestClient(t, srv.URL, func(c *Config) { c.CAFile = file })
	if _, err := c.Send(t.Context(), commentsRequest("x")); err != nil {
		t.Errorf("Send: %v", err)
	}
}
