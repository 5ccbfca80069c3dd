package embedded_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded"
)

func configFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const users = `authorization { users: [{ user: crm, password: c4nary, permissions: { publish: "kex.vorgang.>", subscribe: "_INBOX.>" } },
  { user: relay, password: c4nary2 }] }
`

func TestConfigurationFilesAreJudgedBeforeAnythingStarts(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		open bool
		want string // "" is right.
	}{
		"nothing but a limit":               {text: "max_connections: 100\n"},
		"nothing but a limit, open":         {text: "max_connections: 100\n", open: true, want: "names no users"},
		"users, open":                       {text: users, open: true},
		"a token, open":                     {text: "authorization { token: c4nary }\n", open: true},
		"users, but nobody is a user too":   {text: users + "no_auth_user: crm\n", open: true, want: "names no users"},
		"no configuration":                  {text: "<html>c4nary</html>\n", want: "is no configuration of nats-server"},
		"a bracket is missing":              {text: "authorization { users: [\n{ user: crm, password: c4nary }\n", want: "is no configuration of nats-server"},
		"an unknown field":                  {text: "max_conections: 1\n", want: `nats.conf:1:0: unknown field "max_conections"`},
		"users that are no list":            {text: "authorization { users: c4nary }\n", want: "nats.conf:1:16: Expected users field to be an array"},
		"a variable that is not set":        {text: "max_connections: $C4NARY_NOT_SET\n", want: "see line 1"},
		"a certificate that is not there":   {text: "tls { cert_file: /nowhere/cert, key_file: /nowhere/key }\n", want: "/nowhere/cert"},
		"an address":                        {text: "listen: 127.0.0.1:4222\n", want: "--embedded-addr"},
		"a port":                            {text: "port: 4222\n", want: "--embedded-addr"},
		"a store directory":                 {text: "jetstream { store_dir: /data }\n", want: "--embedded-dir"},
		"a store directory at top level":    {text: "store_dir: /data\n", want: "--embedded-dir"},
		"a cluster":                         {text: "cluster { name: c, listen: 127.0.0.1:6222 }\n", want: "cluster"},
		"a gateway":                         {text: "gateway { name: g, listen: 127.0.0.1:7222 }\n", want: "gateway"},
		"a log file":                        {text: "log_file: /var/log/nats\n", want: "log_file"},
		"messages nobody could be sent":     {text: "max_payload: 100MB\n", want: "max_payload"},
		"a cipher that is none, a password": {text: "jetstream { cipher: c4nary }\n", want: "Unknown cipher type"},
	} {
		t.Run(name, func(t *testing.T) {
			err := embedded.CheckConfig(configFile(t, test.text), test.open)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), "c4nary") || strings.Contains(err.Error(), "C4NARY")) {
				t.Errorf("error %q repeats what may be a password", err)
			}
		})
	}
}

// Users of the configuration file are asked who they are; the relay needs one too.
func TestUsersOfTheConfigurationFileAreAsked(t *testing.T) {
	server, err := embedded.Start(embedded.Options{StoreDir: t.TempDir(), ConfigFile: configFile(t, users+"max_payload: 2MB\n")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Shutdown() }()
	if conn, err := nats.Connect(server.URL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without a user: %v, want an authorization violation", err)
		conn.Close()
	}
	conn, err := nats.Connect(server.URL(), nats.UserInfo("relay", "c4nary2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.MaxPayload(); got != 2_000_000 && got != 2<<20 {
		t.Errorf("largest message %d, want that of the file", got)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AccountInfo(t.Context()); err != nil {
		t.Errorf("JetStream: %v", err)
	}
}

func TestAWrongConfigurationFileIsNamedByStart(t *testing.T) {
	for name, text := range map[string]string{
		"syntax": "max_conections: 1\n", "settings that do not fit together": "authorization { users: [{user: a, password: b}, {user: a, password: c}] }\n",
	} {
		path := configFile(t, text)
		server, err := embedded.Start(embedded.Options{StoreDir: t.TempDir(), ConfigFile: path})
		if err == nil {
			_ = server.Shutdown()
		}
		if !errors.Is(err, embedded.ErrConfig) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want ErrConfig with the file", name, err)
		}
	}
}
