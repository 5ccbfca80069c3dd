package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// simulate runs `kexrelay simulate` in the background. It gives what the command prints, line by line, and a
// function that ends it as ^C does and returns its error.
func simulate(t *testing.T, args ...string) (printed *json.Decoder, stop func() error) {
	t.Helper()
	reader, writer := io.Pipe()
	cmd := newSimulateCommand(&environment{stdin: strings.NewReader(""), stdout: writer, stderr: io.Discard})
	cmd.SetArgs(append([]string{"--addr", "127.0.0.1:0", "--json"}, args...))
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		err := cmd.ExecuteContext(ctx)
		_ = writer.CloseWithError(err)
		ended <- err
	}()
	t.Cleanup(cancel)
	return json.NewDecoder(reader), func() error {
		cancel()
		return <-ended
	}
}

func TestSimulateRunsUntilInterrupted(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script.yaml")
	if err := os.WriteFile(script, []byte("outages: [{status: 504}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	printed, stop := simulate(t, "--script", script, "--client-id", "jane", "--client-secret", "s3cret", "--max-body", "1KiB")
	var where struct{ BaseURL, TokenURL, AdminURL, ClientID string }
	if err := printed.Decode(&where); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	status := func(method, url string, change func(*http.Request)) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("grant_type=client_credentials"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		change(r)
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.StatusCode
	}
	if got := status(http.MethodGet, where.BaseURL, func(*http.Request) {}); got != http.StatusGatewayTimeout {
		t.Errorf("the API answers %d, want what the script says", got)
	}
	long := func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("k", 1025))), 1025
	}
	if got := status(http.MethodPost, where.BaseURL+"/vorgang/1/kommentare", long); got != http.StatusRequestEntityTooLarge {
		t.Errorf("the API answers %d to a body above --max-body", got)
	}
	if got := status(http.MethodPost, where.TokenURL, func(r *http.Request) { r.SetBasicAuth("jane", "s3cret") }); got != http.StatusOK {
		t.Errorf("the token endpoint answers %d to the given client", got)
	}
	if got := status(http.MethodGet, where.AdminURL, func(*http.Request) {}); got != http.StatusOK {
		t.Errorf("the admin endpoints answer %d", got)
	}
	if where.ClientID != "jane" {
		t.Errorf("the client is %q", where.ClientID)
	}
	if err := stop(); err != nil {
		t.Errorf("an interrupt ends with %v", err)
	}
}

func TestSimulateSaysWhatIsWrong(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script.yaml")
	if err := os.WriteFile(script, []byte("latenzy: 3"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"a wrong script":    {[]string{"--script", script}, exitUsage, []string{"--script", "script.yaml", "latenzy"}},
		"no script there":   {[]string{"--script", script + ".no"}, exitUsage, []string{"--script", "script.yaml.no"}},
		"no client":         {[]string{"--client-id", "", "--client-secret", ""}, exitUsage, []string{"--client-id", "--client-secret"}},
		"a size of nothing": {[]string{"--max-body", "200"}, exitUsage, []string{"--max-body", "200B"}},
		"an address abroad": {[]string{"--addr", "127.0.0.1:99999"}, exitFailed, []string{"99999"}},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			printed, stop := simulate(t, test.args...)
			if printed.Decode(&struct{}{}) == nil {
				t.Error("it starts")
			}
			err := stop()
			if code := exitCode(t.Context(), err, &stderr); code != test.code {
				t.Errorf("ends with %d and %v, want %d", code, err, test.code)
			}
			for _, want := range test.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q does not say %s", stderr.String(), want)
				}
			}
		})
	}
}

func TestSimulatePrintsTheWordsOfServe(t *testing.T) {
	reader, writer := io.Pipe()
	cmd := newSimulateCommand(&environment{stdin: strings.NewReader(""), stdout: writer, stderr: io.Discard})
	cmd.SetArgs([]string{"--addr", "127.0.0.1:0"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.ExecuteContext(ctx)
		_ = writer.Close()
	}()
	var text strings.Builder
	for strings.Count(text.String(), "\n") < 4 {
		buffer := make([]byte, 512)
		n, err := reader.Read(buffer)
		text.Write(buffer[:n])
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"KEX_BASE_URL", "/kreditsmart/kex\n", "KEX_TOKEN_URL", "/auth/token\n", "KEX_CLIENT_ID", "/admin\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q lacks %q", text.String(), want)
		}
	}
	if strings.Contains(text.String(), simulateClientSecret) {
		t.Error("the secret is printed")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
