package config_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kexrelay/internal/config"
)

func TestANamedContextIsCheckedWithAllOtherMistakes(t *testing.T) {
	var asked []string
	check := config.CheckContext(func(name string) error {
		asked = append(asked, name)
		if name != "prod" {
			return errors.New("there is none of this name")
		}
		return nil
	})
	_, err := config.LoadServe(nil, envOf(required("NATS_CONTEXT", "nosuch", "KEXRELAY_RATE", "fast")), "", check)
	want := []string{
		`KEXRELAY_RATE: "fast" is not a number of requests per second; 0 is no limit`,
		`NATS_CONTEXT: "nosuch" is no context to connect with: there is none of this name`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" || len(mistakes(t, err)) != 2 {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
	_, err = config.LoadConnection(nil, envOf(map[string]string{"NATS_CONTEXT": "nosuch"}), check)
	if got, want := options(t, err), []string{"nats.context"}; !slices.Equal(got, want) {
		t.Errorf("mistakes in %q, want %q", got, want)
	}
	for _, env := range [][]string{{"NATS_CONTEXT", "prod"}, nil} {
		if _, err := config.LoadServe(nil, envOf(required(env...)), "", check); err != nil {
			t.Errorf("%v: %v", env, err)
		}
	}
	if _, err := config.LoadServe(nil, envOf(required("NATS_CONTEXT", "two words")), "", check); len(mistakes(t, err)) != 1 {
		t.Errorf("a name that is none: %v, want one mistake", err)
	}
	if want := []string{"nosuch", "nosuch", "prod"}; !slices.Equal(asked, want) {
		t.Errorf("asked about %q, want %q", asked, want)
	}
}

func TestAddresses(t *testing.T) {
	const malformed = "is not an address; write for example 127.0.0.1:8080, or :8080 for every interface"
	const impossible = "has an impossible port; it is a number from 0 to 65535"
	for addr, want := range map[string]string{
		"127.0.0.1:8080": "", ":8080": "", ":0": "", "[::1]:65535": "", "[fe80::1%eth0]:1": "", "localhost:1": "", "pod-1.relay_x.svc.:1": "",
		"8080": malformed, "127.0.0.1": malformed, "127.0.0.256:1": malformed, "1.2.3:1": malformed, "::1:80": malformed, "[::g]:1": malformed,
		"a b:1": malformed, "http://localhost:1": malformed, "a..b:1": malformed, "-a:1": malformed, "a/b:1": malformed,
		strings.Repeat("a.", 127) + ":1": malformed,
		"localhost:65536":                impossible, "localhost:-1": impossible, "localhost:": impossible, "localhost:http": impossible,
	} {
		_, err := config.LoadServe(nil, envOf(required("KEXRELAY_HTTP_ADDR", addr)), "")
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", addr, err)
			}
			continue
		}
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want that it %s", addr, err, want)
		}
	}
}
