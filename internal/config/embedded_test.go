package config_test

import (
	"errors"
	"strings"
	"testing"

	"kexrelay/internal/config"
)

// Commands on this machine reach the server under the address that it has, not under the wildcard it listens on.
func TestTheEmbeddedServerIsReachedByThisMachine(t *testing.T) {
	users := writeFile(t, "nats.conf", "x\n")
	for addr, want := range map[string]string{
		"127.0.0.1:4222": "nats://127.0.0.1:4222", ":4333": "nats://127.0.0.1:4333", "0.0.0.0:4222": "nats://127.0.0.1:4222",
		"[::]:4222": "nats://127.0.0.1:4222", "[::1]:4222": "nats://[::1]:4222", "relay.example:4222": "nats://relay.example:4222",
	} {
		s, err := config.LoadServe(nil, envOf(required("KEXRELAY_EMBEDDED", "true", "KEXRELAY_EMBEDDED_DIR", "data",
			"KEXRELAY_EMBEDDED_ADDR", addr, "KEXRELAY_EMBEDDED_CONFIG", users)), "")
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		if got := strings.Join(s.NATS.Servers.List(), ","); got != want {
			t.Errorf("%s is reached as %s, want %s", addr, got, want)
		}
	}
}

func TestTheEmbeddedServersConfigurationIsJudgedByTheServer(t *testing.T) {
	users := writeFile(t, "nats.conf", "x\n")
	asked := 0
	check := config.CheckEmbedded(func(e config.Embedded) error {
		asked++
		if e.ConfigFile != users || !e.OnLoopback() {
			t.Errorf("asked about %+v", e)
		}
		return errors.New("is wrong")
	})
	env := required("KEXRELAY_EMBEDDED", "true", "KEXRELAY_EMBEDDED_DIR", "data", "KEXRELAY_EMBEDDED_CONFIG", users)
	_, err := config.LoadServe(nil, envOf(env), "", check)
	if want := `KEXRELAY_EMBEDDED_CONFIG: "` + users + `" is wrong`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if _, err := config.LoadServe(nil, envOf(required()), "", check); err != nil || asked != 1 {
		t.Errorf("without an embedded server: %v, asked %d times", err, asked)
	}
}
