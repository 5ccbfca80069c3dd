package embeddedtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"kexrelay/deploy/nats"
)

// SecuredOptions choose how a server of deploy/nats runs. The zero value is nkeys.conf without client certificates.
type SecuredOptions struct {
	// JWT takes jwt.conf instead of nkeys.conf.
	JWT bool
	// MutualTLS makes clients need a certificate.
	MutualTLS bool
	// Key and PreviousKey are JetStream's; empty are one that is always the same, and Key.
	Key, PreviousKey string
}

// Secured is a nats-server that runs with the files of deploy/nats.
type Secured struct {
	// Dir has the roles' seeds and credentials (relay.nk, relay.creds, …), ca.crt, and server and client certificates
	// (server.crt, server.key, client.crt, client.key).
	Dir string
	// CA signed the certificates.
	CA *Authority

	t              TB
	opts           SecuredOptions
	port, httpPort int
	conf           string
	environ        []string
	server         *server.Server
	refused        *refusals
}

// RunSecured starts one, with keys, credentials and certificates of its own, that lives until the test ends.
func RunSecured(t TB, opts SecuredOptions) *Secured {
	t.Helper()
	s := &Secured{t: t, Dir: t.TempDir(), CA: NewAuthority(t, "kexrelay test CA"), port: FreePort(t), httpPort: FreePort(t), refused: &refusals{}}
	if err := nats.Issue(s.Dir, time.Hour); err != nil {
		t.Fatalf("issuing credentials: %v", err)
	}
	WriteFile(t, s.File("ca.crt"), s.CA.PEM)
	s.CA.IssueFiles(t, s.Dir, "server", time.Hour)
	s.CA.IssueFiles(t, s.Dir, "client", time.Hour)
	s.configure(opts)
	s.start()
	t.Cleanup(s.Stop)
	return s
}

// URL is what clients connect to.
func (s *Secured) URL() string { return "nats://127.0.0.1:" + strconv.Itoa(s.port) }

// File is the path of a file in Dir.
func (s *Secured) File(name string) string { return filepath.Join(s.Dir, name) }

// Environ are the settings of a role's process, as it finds them in its environment.
func (s *Secured) Environ(role string) []string {
	environ := []string{
		"NATS_URL=" + s.URL(), "NATS_CA=" + s.File("ca.crt"), "NATS_INBOX_PREFIX=_INBOX_" + role,
	}
	if s.opts.JWT {
		environ = append(environ, "NATS_CREDS="+s.File(role+".creds"))
	} else {
		environ = append(environ, "NATS_NKEY="+s.File(role+".nk"))
	}
	if s.opts.MutualTLS {
		environ = append(environ, "NATS_CERT="+s.File("client.crt"), "NATS_KEY="+s.File("client.key"))
	}
	return environ
}

// configure sets the variables, and writes a file that includes that of deploy/nats and takes other ports.
func (s *Secured) configure(opts SecuredOptions) {
	s.t.Helper()
	s.opts = opts
	deployed := deployed(s.t)
	file := "nkeys.conf"
	if opts.JWT {
		file = "jwt.conf"
	}
	included, err := filepath.Rel(s.Dir, filepath.Join(deployed, file)) // Only relative ones can be included.
	if err != nil {
		s.t.Fatalf("finding deploy/nats: %v", err)
	}
	if opts.Key == "" {
		opts.Key = "a-key-of-the-tests"
	}
	if opts.PreviousKey == "" {
		opts.PreviousKey = opts.Key
	}
	s.environ = []string{
		"NATS_TLS_CERT=" + s.File("server.crt"), "NATS_TLS_KEY=" + s.File("server.key"), "NATS_TLS_CA=" + s.File("ca.crt"),
		"NATS_TLS_VERIFY=" + strconv.FormatBool(opts.MutualTLS), "NATS_STORE_DIR=" + s.File("store"),
		"NATS_JETSTREAM_KEY=" + opts.Key, "NATS_JETSTREAM_PREVIOUS_KEY=" + opts.PreviousKey,
	}
	issued := s.File(nats.NKeysEnv)
	if opts.JWT {
		issued = s.File(nats.JWTEnv)
	}
	variables, err := os.ReadFile(issued) //nolint:gosec // In the test's own directory.
	if err != nil {
		s.t.Fatalf("reading what was issued: %v", err)
	}
	s.environ = append(s.environ, strings.Split(strings.TrimSpace(string(variables)), "\n")...)
	conf := fmt.Sprintf("include %s\nport: %d\nhost: 127.0.0.1\nhttp: \"127.0.0.1:%d\"\n", included, s.port, s.httpPort)
	s.conf = s.File("site.conf")
	WriteFile(s.t, s.conf, []byte(conf))
}

func (s *Secured) start() {
	s.t.Helper()
	var opts *server.Options
	s.withVariables(func() (err error) {
		opts, err = server.ProcessConfigFile(s.conf)
		return err
	})
	opts.NoSigs = true
	made, err := server.NewServer(opts)
	if err != nil {
		s.t.Fatalf("making a nats-server of deploy/nats: %v", err)
	}
	s.server = made
	s.server.SetLoggerV2(s.refused, false, false, false)
	s.server.Start()
	if !s.server.ReadyForConnections(30 * time.Second) {
		s.t.Fatalf("the nats-server of deploy/nats does not start: %s", s.refused.all())
	}
}

// Stop stops the server. Further calls do nothing.
func (s *Secured) Stop() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// ForgetConsumers removes what a server that was stopped has of consumers, as the README says to do before a new key of the
// files: nats-server 2.15.2 does not read it with the new one, and makes no consumer where it lies.
func (s *Secured) ForgetConsumers() {
	s.t.Helper()
	s.Stop()
	found, err := filepath.Glob(s.File("store") + "/jetstream/*/streams/*/obs/*")
	if err != nil || len(found) == 0 {
		s.t.Fatalf("finding consumers in the files: %d, %v", len(found), err)
	}
	for _, dir := range found {
		if err := os.RemoveAll(dir); err != nil {
			s.t.Fatalf("removing a consumer's files: %v", err)
		}
	}
}

// Restart stops the server and starts it again on the same port and files, with other options.
func (s *Secured) Restart(opts SecuredOptions) {
	s.t.Helper()
	s.Stop()
	s.configure(opts)
	s.start()
}

// variables guards the process's environment, which is where the server looks for the variables of its configuration.
var variables sync.Mutex

func (s *Secured) withVariables(read func() error) {
	s.t.Helper()
	variables.Lock()
	defer variables.Unlock()
	for _, variable := range s.environ {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			s.t.Fatalf("setting %s: %v", name, err)
		}
		defer os.Unsetenv(name) //nolint:errcheck // It was set a moment ago.
	}
	if err := read(); err != nil {
		s.t.Fatalf("reading the configuration of deploy/nats: %v", err)
	}
}

// Refused are the publishes and subscriptions that the server has refused since it was last asked.
func (s *Secured) Refused() []Refusal { return s.refused.take() }

// Refusal is one publish or subscription the server refused.
type Refusal struct {
	// Operation is publish or subscribe.
	Operation, Subject string
	Line               string
}

// refusals are the server's log as far as it tells of refusals, and of what kept it from starting.
type refusals struct {
	mu    sync.Mutex
	found []Refusal
	lines []string
}

var refusalPattern = regexp.MustCompile(`(Publish|Subscription) Violation.* - (?:Subject|Reply) "([^"]+)"`)

// Errorf notes a refusal.
func (r *refusals) Errorf(format string, v ...any) {
	line := fmt.Sprintf(format, v...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	match := refusalPattern.FindStringSubmatch(line)
	if match == nil {
		return
	}
	operation := "publish"
	if match[1] == "Subscription" {
		operation = "subscribe"
	}
	r.found = append(r.found, Refusal{Operation: operation, Subject: match[2], Line: line})
}

// Fatalf notes why the server does not start.
func (r *refusals) Fatalf(format string, v ...any) { r.Errorf(format, v...) }

// Noticef drops a line.
func (r *refusals) Noticef(string, ...any) {}

// Warnf drops a line.
func (r *refusals) Warnf(string, ...any) {}

// Debugf drops a line.
func (r *refusals) Debugf(string, ...any) {}

// Tracef drops a line.
func (r *refusals) Tracef(string, ...any) {}

func (r *refusals) take() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.found
	r.found = nil
	return found
}

func (r *refusals) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "; ")
}

// deployed is the directory deploy/nats of the repository.
func deployed(t TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatalf("where this file is, is not known")
	}
	return filepath.Join(filepath.Dir(file), "..", "..", "..", "deploy", "nats")
}
