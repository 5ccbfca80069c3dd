package main

import (
	"slices"
	"strings"
	"testing"
)

// What is secret in arguments is overwritten, and nothing else; the program itself keeps it.
func TestSecretsInArgumentsAreHidden(t *testing.T) {
	for _, tc := range []struct{ args, want string }{
		{"serve --rate 5", "serve --rate 5"},
		{"serve --kex-client-secret c4nary --rate 5", "serve --kex-client-secret ****** --rate 5"},
		{"serve --kex-client-secret=c4nary", "serve --kex-client-secret=******"},
		{"serve --kex-client-secret-file path", "serve --kex-client-secret-file path"},
		{"status --user usr --password c4nary", "status --user *** --password ******"},
		{"status --password", "status --password"},
		{"status --password=", "status --password="},
		{"status --server nats://u:c4nary@host", "status --server " + strings.Repeat("*", 20)},
		{"status --server=nats://c4nary@host", "status --server=" + strings.Repeat("*", 18)},
		{"status -s nats://one,tls://c4nary@host", "status -s " + strings.Repeat("*", 28)},
		{"status -s nats://one,nats://two", "status -s nats://one,nats://two"},
		{"simulate --client-secret c4nary", "simulate --client-secret ******"},
	} {
		var args []string
		for arg := range strings.FieldsSeq(tc.args) {
			args = append(args, string([]byte(arg))) // Memory that may be written to, as that of arguments (of one byte it is not).
		}
		kept := hideArguments(args)
		if got := strings.Join(args, " "); got != tc.want {
			t.Errorf("%s: the list shows %q, want %q", tc.args, got, tc.want)
		}
		if got := strings.Join(kept, " "); got != tc.args {
			t.Errorf("%s: the program got %q", tc.args, got)
		}
	}
}

// A program that is started from here, an editor, is given the environment without what is secret in it.
func TestNoSecretIsHandedOn(t *testing.T) {
	given := []string{
		"HOME=/h", "KEX_CLIENT_SECRET=c4nary", "NATS_PASSWORD=c4nary", "NATS_USER=c4nary", "NATS_URL=nats://c4nary@host", "KEX_CLIENT_SECRET_FILE=/f",
		"KEX_CLIENT_ID=me",
	}
	if got, want := withoutSecrets(given), []string{"HOME=/h", "KEX_CLIENT_SECRET_FILE=/f", "KEX_CLIENT_ID=me"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !slices.Contains(given, "NATS_PASSWORD=c4nary") {
		t.Error("what was given was changed")
	}
	if got := withoutSecrets([]string{"NATS_URL=nats://host"}); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}
