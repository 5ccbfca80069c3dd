package config_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"kexrelay/internal/config"
)

const canary = "c4nary"

// everyText gives all texts that can be made of v with the standard library and the YAML package.
func everyText(t *testing.T, v any) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
		for _, flag := range []string{"", "+", "#", "-", " ", "0", "40", ".3", "+#"} {
			format := "%" + flag + string(verb)
			texts[format] = fmt.Sprintf(format, v)
		}
	}
	texts["Sprint"] = fmt.Sprint(v)
	texts["Errorf"] = fmt.Errorf("connecting with %v: %w", v, io.EOF).Error()
	for name, marshal := range map[string]func(any) ([]byte, error){"JSON": json.Marshal, "YAML": yaml.Marshal} {
		data, err := marshal(v)
		if err != nil {
			t.Fatalf("%s of %T: %v", name, v, err)
		}
		texts[name] = string(data)
	}
	var log bytes.Buffer
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, options), slog.NewJSONHandler(&log, options)} {
		slog.New(h).With(slog.Any("with", v)).WithGroup("group").Debug("text", slog.Any("attr", v))
	}
	texts["slog"] = log.String()
	return texts
}

// assertNoCanary fails if any text of v holds the canary, plain, in hexadecimal or as the numbers of its bytes.
func assertNoCanary(t *testing.T, what string, v any) {
	t.Helper()
	numbers := strings.Trim(fmt.Sprint([]byte(canary)), "[]") //nolint:staticcheck // The numbers are what is looked for.
	leaks := []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), numbers}
	for how, text := range everyText(t, v) {
		for _, leak := range leaks {
			if strings.Contains(text, leak) {
				t.Errorf("%s shows the secret through %s: %s", what, how, text)
			}
		}
	}
}

func TestNoFormattingShowsASecret(t *testing.T) {
	secret := config.NewSecret(canary)
	servers, err := config.ServersOf("nats://" + canary + ":" + canary + "@one:4222,wsx?")
	if err != nil {
		t.Fatal(err)
	}
	token, err := config.ServersOf("wss://" + canary + "@one/path?token=" + canary)
	if err != nil {
		t.Fatal(err)
	}
	type hidden struct {
		secret  config.Secret
		servers config.Servers
	}
	s, err := config.LoadServe(nil, envOf(required(
		"KEX_CLIENT_SECRET", canary, "NATS_USER", canary, "NATS_PASSWORD", canary,
		"NATS_URL", "nats://"+canary+"@one:4222",
	)), "")
	if err != nil {
		t.Fatal(err)
	}
	for what, v := range map[string]any{
		"Secret": secret, "*Secret": &secret, "[]Secret": []config.Secret{secret},
		"map": map[string]config.Secret{"a": secret}, "Servers": servers, "*Servers": &servers, "token URL": token,
		"exported field":   struct{ S config.Secret }{secret},
		"unexported field": hidden{secret, servers}, "pointer to it": &hidden{secret, servers},
		"Serve": s, "*Serve": &s, "KEX": s.KEX, "Connection": s.NATS, "*Connection": &s.NATS,
		"Settings": s.Settings(), "struct of Serve": struct{ serve config.Serve }{s},
	} {
		assertNoCanary(t, what, v)
	}
	// The tests above would pass on an empty configuration.
	if got, err := s.KEX.ClientSecret(); got != canary || err != nil {
		t.Errorf("ClientSecret = %q, %v, want the secret", got, err)
	}
	if s.NATS.User.Reveal() != canary || s.NATS.Password.Reveal() != canary {
		t.Error("user or password was not taken")
	}
	if got, want := s.NATS.Servers.List()[0], "nats://"+canary+"@one:4222"; got != want {
		t.Errorf("List = %q, want %q", got, want)
	}
}

func TestASecretSaysThatItIsOne(t *testing.T) {
	for how, text := range everyText(t, config.NewSecret(canary)) {
		// %T and %p are answered by fmt itself.
		if !strings.HasSuffix(how, "T") && !strings.HasSuffix(how, "p") &&
			!strings.Contains(text, "redacted") {
			t.Errorf("%s = %q, want <redacted>", how, text)
		}
	}
}

func TestServersShowHostsWithoutUserAndQuery(t *testing.T) {
	for list, want := range map[string]string{
		"one":                          "nats://one",
		"one:4222, tls://two:1":        "nats://one:4222,tls://two:1",
		"nats://u:p@one":               "nats://<redacted>@one",
		"token@one:4222":               "nats://<redacted>@one:4222",
		"wss://one/nats?key=x":         "wss://one/nats?<redacted>",
		"nats://[::1]:4222,nats://two": "nats://[::1]:4222,nats://two",
	} {
		s, err := config.ServersOf(list)
		if err != nil || s.String() != want {
			t.Errorf("ServersOf(%q) = %v, %v, want %s", list, s, err, want)
		}
	}
	for _, list := range []string{
		"", ",", "http://" + canary, "nats://", "nats://u:" + canary + "@", "ws://one,nats://two", "nats://a b", "::" + canary,
		"nats://u:" + canary + "@host:port",
	} {
		s, err := config.ServersOf(list)
		if err == nil {
			t.Errorf("ServersOf(%q) = %v, want an error", list, s)
		} else if strings.Contains(err.Error(), canary) {
			t.Errorf("ServersOf(%q) repeats it: %v", list, err)
		}
	}
}

func TestNoErrorShowsASecret(t *testing.T) {
	for name, tc := range map[string]struct {
		env  map[string]string
		args []string
		file string
		want string // The option the mistake is about.
	}{
		"secret of two lines":         {env: required("KEX_CLIENT_SECRET", canary+"\n"+canary), want: "kex.client-secret"},
		"secret as flag and file":     {args: []string{"--kex-client-secret", canary, "--kex-client-secret-file", "/x"}, env: required("KEX_CLIENT_SECRET", ""), want: "kex.client-secret"},
		"secret in place of its file": {env: required("KEX_CLIENT_SECRET_FILE", canary, "KEX_CLIENT_SECRET", ""), want: "kex.client-secret-file"},
		"secret with a slash":         {env: required("KEX_CLIENT_SECRET_FILE", "ab/"+canary, "KEX_CLIENT_SECRET", ""), want: "kex.client-secret-file"},
		"secret that begins with one": {env: required("KEX_CLIENT_SECRET_FILE", "/"+canary, "KEX_CLIENT_SECRET", ""), want: "kex.client-secret-file"},
		"seed in place of its file":   {env: required("NATS_NKEY", canary), want: "nats.nkey"},
		"creds in place of the file":  {env: required("NATS_CREDS", canary), want: "nats.creds"},
		"key in place of its file":    {env: required("NATS_KEY", canary, "NATS_CONTEXT", "x"), want: "nats.key"},
		"base URL with password":      {env: required("KEX_BASE_URL", "https://u:"+canary+"@host"), want: "kex.base-url"},
		"base URL with broken port":   {env: required("KEX_BASE_URL", "https://u:p@host:"+canary), want: "kex.base-url"},
		"token URL with query":        {env: required("KEX_TOKEN_URL", "https://host/t?secret="+canary), want: "kex.token-url"},
		"server with broken port":     {env: required("NATS_URL", "nats://u:"+canary+"@host:port"), want: "nats.url"},
		"password without user":       {env: required("NATS_PASSWORD", canary), want: "nats.user"},
		"file: YAML anchor":           {file: "kex.client-secret: *" + canary + "\n", want: "config"},
		"file: broken quote":          {file: "kex.client-secret: \"" + canary + "\n", want: "config"},
		"file: tab":                   {file: "kex:\n\tclient-secret: " + canary + "\n", want: "config"},
		"file: no space":              {file: "kex.client-secret:" + canary + "\n", want: "config"},
		"file: no space in a mapping": {file: "rate: 1\nkex.client-secret:" + canary + ": \n", want: "config"},
		"file: secret as list":        {file: "kex.client-secret: [" + canary + "]\n", want: "kex.client-secret"},
		"file: secret as mapping":     {file: "kex:\n  client-secret: {" + canary + ": 1}\n", want: "kex.client-secret"},
		"file: secret twice":          {file: "kex.client-secret: " + canary + "\nkex:\n  client-secret: " + canary + "\n", want: "kex.client-secret"},
		"file: unknown key":           {file: "kex.client_secret: " + canary + "\n", want: "kex.client_secret"},
		"file: bad tag":               {file: "kex.client-secret: !!int " + canary + "\n", want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := ""
			if tc.file != "" {
				path = writeFile(t, "relay.yaml", tc.file)
			}
			if tc.env == nil {
				tc.env = required("KEX_CLIENT_SECRET", "")
			}
			_, err := config.LoadServe(flags(t, tc.args...), envOf(tc.env), path)
			if tc.want == "" && err == nil {
				return // What is accepted shows nothing.
			}
			if err == nil || strings.Contains(err.Error(), canary) {
				t.Errorf("error = %v, want one without the secret", err)
			}
			assertNoCanary(t, "the error", err)
			if got := options(t, err)[0]; tc.want != "" && got != tc.want {
				t.Errorf("the first mistake is about %s, want %s: %v", got, tc.want, err)
			}
			for _, m := range mistakes(t, err) {
				assertNoCanary(t, "a mistake", m)
			}
		})
	}
}

func TestTheSecretsFileIsReadAtEachCall(t *testing.T) {
	path := writeFile(t, "secret", " first \r\n\n")
	s, err := config.LoadServe(nil, envOf(required("KEX_CLIENT_SECRET", "", "KEX_CLIENT_SECRET_FILE", path)), "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.KEX.ClientSecret(); got != " first " || err != nil {
		t.Errorf("ClientSecret = %q, %v, want it without the line ends alone", got, err)
	}
	rewrite(t, path, "second\n")
	if got, err := s.KEX.ClientSecret(); got != "second" || err != nil {
		t.Errorf("ClientSecret = %q, %v, want the rotated one", got, err)
	}
	for content, problem := range map[string]string{
		"\n\n":                     "is an empty file",
		canary + "\n" + canary:     "is a file whose content holds a control character, perhaps a line break",
		strings.Repeat("a", 1<<17): "is a file larger than 65536 bytes",
	} {
		rewrite(t, path, content)
		got, err := s.KEX.ClientSecret()
		if want := "KEX_CLIENT_SECRET_FILE: " + problem; got != "" || err == nil || err.Error() != want {
			t.Errorf("ClientSecret = %q, %v, want the error %q", got, err, want)
		}
		if _, ok := errors.AsType[*config.OptionError](err); !ok {
			t.Errorf("%T is no *OptionError", err)
		}
	}
}

func TestAFlagDoesNotShowItsSecret(t *testing.T) {
	fs := flags(t, "--kex-client-secret", canary)
	f := fs.Lookup("kex-client-secret")
	assertNoCanary(t, "the flag's value", f.Value.String())
	if usage := fs.FlagUsages(); strings.Contains(usage, canary) {
		t.Errorf("help shows the secret:\n%s", usage)
	}
}
