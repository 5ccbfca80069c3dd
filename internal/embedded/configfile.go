package embedded

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// configLine finds where the parser stopped.
var configLine = regexp.MustCompile(`line \d+`)

// CheckConfig says what is wrong with a nats-server configuration for an embedded server, nil if nothing is. open says
// that others than this machine will reach it: then it must name users. The error is the rest of a sentence about the
// file and does not repeat what may be a password.
func CheckConfig(path string, open bool) error {
	settings, err := readConfig(path)
	if err != nil {
		return err
	}
	if open && !authenticates(settings) {
		return errors.New("names no users: the server would be open to everybody who reaches it")
	}
	return nil
}

// readConfig reads a configuration and refuses what is this process's own business, or what a single machine cannot be.
func readConfig(path string) (*server.Options, error) {
	settings := &server.Options{}
	if err := settings.ProcessConfigFile(path); err != nil {
		problems := problemsOf(err)
		if len(problems) > 0 {
			return nil, fmt.Errorf("is no configuration of nats-server: %w", errors.Join(problems...))
		}
	}
	for _, foreign := range []struct {
		there      bool
		name, does string
	}{
		{settings.Host != "" || settings.Port != 0, "listen, host or port", "--embedded-addr says where it listens"},
		{settings.StoreDir != "", "store_dir", "--embedded-dir says where its streams are"},
		{settings.Cluster.Port != 0 || settings.Cluster.Name != "" || len(settings.Routes) > 0, "cluster", "a cluster is made of nats-servers of its own"},
		{settings.Gateway.Name != "" || settings.Gateway.Port != 0, "gateway", "a cluster is made of nats-servers of its own"},
		{settings.LogFile != "" || settings.Syslog, "log_file or syslog", "its lines are among the relay's"},
		{settings.MaxPayload > maxMaxPayload, "max_payload above 64MB", "such a message could not be delivered"},
	} {
		if foreign.there {
			return nil, fmt.Errorf("has %s, which it must not: %s", foreign.name, foreign.does)
		}
	}
	return settings, nil
}

// problemsOf is what the server found wrong, without what it quotes of the file: that may be a password. Warnings are
// none.
func problemsOf(err error) []error {
	var several interface{ Errors() []error }
	if !errors.As(err, &several) {
		text := "it cannot be read"
		if line := configLine.FindString(err.Error()); line != "" {
			text += ", see " + line
		}
		return []error{errors.New(text)}
	}
	var problems []error
	for _, problem := range several.Errors() {
		problems = append(problems, errors.New(withoutQuotes(problem.Error())))
	}
	return problems
}

// quoted is what the server repeats of the file.
var quoted = regexp.MustCompile(`"[^"]*"|'[^']*'`)

// withoutQuotes leaves a problem its place and kind. The server writes a value it found behind "got" or in quotes, and the
// directory of the file before its name. The name of an unknown field stays.
func withoutQuotes(problem string) string {
	problem, _, _ = strings.Cut(problem, ", got ")
	if !strings.Contains(problem, "unknown field") {
		problem = quoted.ReplaceAllString(problem, "…")
	}
	place, rest, ok := strings.Cut(problem, ": ")
	if !ok {
		return problem
	}
	return filepath.Base(place) + ": " + rest
}

// authenticates reports whether the server asks who a client is.
func authenticates(o *server.Options) bool {
	if o.NoAuthUser != "" {
		return false
	}
	return len(o.Users) > 0 || len(o.Nkeys) > 0 || o.Username != "" || o.Authorization != "" || len(o.TrustedOperators) > 0 ||
		o.TLSVerify || o.AuthCallout != nil
}
