// Package embedded runs a nats-server with JetStream inside the process.
//
// It is the NATS of `kexrelay dev`, of `kexrelay serve --embedded` and of the tests; everything else, the relay
// itself included, talks to it over TCP like to any other server and cannot tell the difference. It listens
// on 127.0.0.1 unless told otherwise, installs no signal handlers and never ends the process.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// DefaultPort is the port every NATS client tries by itself.
	DefaultPort = 4222
	// DefaultMaxPayload lets ordinary scans pass a plain client; the server warns above it.
	DefaultMaxPayload = 8 << 20

	defaultHost     = "127.0.0.1"
	maxMemory       = 256 << 20 // JetStream's memory storage; the server's own default is 75 % of the machine.
	maxMaxPayload   = 64 << 20  // The server's max_pending: a larger message could never be delivered.
	startTimeout    = 30 * time.Second
	requestedFree   = -1
	storeDirPattern = "kexrelay-nats-"
	lockName        = "kexrelay.lock"
	serverName      = "kexrelay-embedded"
)

// Options says how the server runs. The zero value is a server on a free loopback port in a temporary directory.
type Options struct {
	// Host is the address to listen on; empty means 127.0.0.1. The server asks nobody for a password: any other
	// address opens it to everybody who can reach it.
	Host string
	// Port is the wished port, usually DefaultPort; 0 and -1 mean any free one.
	Port int
	// FallBack takes a free port if the wished one is taken, instead of failing. [Server.FellBack] tells.
	FallBack bool
	// StoreDir is JetStream's directory, created if missing; empty means a temporary one, removed by Shutdown.
	StoreDir string
	// MaxPayload is the largest message in bytes, at most 64 MiB; 0 means DefaultMaxPayload.
	MaxPayload int
	// MaxStore bounds the bytes JetStream keeps in files; 0 means three quarters of the free disk.
	MaxStore int64
	// SyncAlways writes every message through to the disk before it is acknowledged, for machines that may lose
	// power; it costs most of the publish rate.
	SyncAlways bool
	// ConfigFile is a nats-server configuration with users, TLS, limits and whatever else these options do not say; empty
	// means none. [CheckConfig] says what it must not hold.
	ConfigFile string
	// Logger gets the server's lines: warnings and errors at warn, everything else at debug. Nil means none.
	Logger *slog.Logger
}

// Server is a running nats-server.
type Server struct {
	nats     *server.Server
	storeDir string
	release  func() error
	tempDir  bool
	fellBack bool
	stop     func() error
}

var (
	// ErrPortTaken says that something else listens on the wished port and FallBack was not given.
	ErrPortTaken = errors.New("the port is taken")
	// ErrStoreTaken says that another process runs a server on the same store directory.
	ErrStoreTaken = errors.New("another process uses it")
	// ErrConfig says that the configuration file is wrong; trying again is of no use.
	ErrConfig = errors.New("the configuration of the embedded nats-server is wrong")
)

// Start starts a server and returns when it takes connections, at the latest after 30 s. The caller ends it with
// Shutdown.
func Start(opts Options) (*Server, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{storeDir: opts.StoreDir}
	if opts.Port, s.fellBack, err = choosePort(opts); err != nil {
		return nil, err
	}
	if err := s.openStore(); err != nil {
		return nil, err
	}
	s.stop = sync.OnceValue(s.shutdown)
	if err := s.run(opts); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the embedded nats-server: %w", err), s.stop())
	}
	return s, nil
}

// URL is what clients connect to, e.g. nats://127.0.0.1:4222.
func (s *Server) URL() string { return s.nats.ClientURL() }

// StoreDir is the directory JetStream keeps its data in.
func (s *Server) StoreDir() string { return s.storeDir }

// FellBack reports that the wished port was taken and a free one is used instead.
func (s *Server) FellBack() bool { return s.fellBack }

// Shutdown closes all connections, writes everything to disk and returns when the last goroutine of the server is
// gone. Clients that may reconnect will try to. Further calls do nothing and return the same error, which can only
// come from removing a temporary directory or releasing a given one.
func (s *Server) Shutdown() error { return s.stop() }

func (o Options) withDefaults() (Options, error) {
	if o.Host == "" {
		o.Host = defaultHost
	}
	if o.Port == 0 {
		o.Port = requestedFree
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Port < requestedFree || o.Port > 65535:
		return o, fmt.Errorf("embedded nats-server: port %d is not between 0 and 65535", o.Port)
	case o.MaxPayload < 0 || o.MaxPayload > maxMaxPayload:
		return o, fmt.Errorf("embedded nats-server: a largest message of %d bytes is not between 1 and %d", o.MaxPayload, maxMaxPayload)
	case o.MaxStore < 0:
		return o, fmt.Errorf("embedded nats-server: %d bytes of storage are less than none", o.MaxStore)
	}
	return o, nil
}

// choosePort tries the wished port before anything is written, so that a taken port leaves no traces. Somebody may
// take it between here and the server's own listening; then the start fails, which is clear enough.
func choosePort(opts Options) (port int, fellBack bool, err error) {
	if opts.Port == requestedFree {
		return requestedFree, false, nil
	}
	address := net.JoinHostPort(opts.Host, strconv.Itoa(opts.Port))
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	switch {
	case err == nil:
		if err := listener.Close(); err != nil {
			return 0, false, fmt.Errorf("trying %s: %w", address, err)
		}
		return opts.Port, false, nil
	case !errors.Is(err, syscall.EADDRINUSE):
		return 0, false, fmt.Errorf("listening on %s: %w", address, err)
	case opts.FallBack:
		return requestedFree, true, nil
	default:
		return 0, false, fmt.Errorf("listening on %s: %w", address, ErrPortTaken)
	}
}

// openStore makes the store directory and keeps other processes out of it: a nats-server itself would share it
// with another one and ruin both.
func (s *Server) openStore() error {
	if s.storeDir == "" {
		dir, err := os.MkdirTemp("", storeDirPattern)
		if err != nil {
			return fmt.Errorf("making a temporary store directory: %w", err)
		}
		s.storeDir, s.tempDir = dir, true
	}
	dir, err := filepath.Abs(s.storeDir)
	if err != nil {
		return fmt.Errorf("finding the store directory: %w", err)
	}
	s.storeDir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the store directory: %w", err)
	}
	s.release, err = lockDir(dir)
	if err != nil {
		return fmt.Errorf("opening the store directory %s: %w", dir, err)
	}
	return nil
}

func (s *Server) run(opts Options) error {
	settings, err := s.settings(opts)
	if err != nil {
		return err
	}
	nats, err := server.NewServer(settings)
	if err != nil && opts.ConfigFile != "" { // It checks how the settings fit together.
		return fmt.Errorf("%w: %s: %w", ErrConfig, opts.ConfigFile, err)
	}
	if err != nil {
		return err
	}
	s.nats = nats
	lines := &logLines{logger: opts.Logger}
	nats.SetLoggerV2(lines, true, false, false)
	nats.Start()
	if fatal := lines.fatal(); fatal != "" {
		return errors.New(fatal)
	}
	if !nats.ReadyForConnections(startTimeout) {
		return fmt.Errorf("it took no connections within %s", startTimeout)
	}
	return nil
}

// settings are the server's: those of the configuration file, and over them the options.
func (s *Server) settings(opts Options) (*server.Options, error) {
	settings := &server.Options{ServerName: serverName}
	if opts.ConfigFile != "" {
		read, err := readConfig(opts.ConfigFile)
		if err != nil {
			return nil, fmt.Errorf("%w: %s %w", ErrConfig, opts.ConfigFile, err)
		}
		settings = read
		settings.ServerName = cmp.Or(settings.ServerName, serverName)
	}
	settings.Host, settings.Port = opts.Host, opts.Port
	settings.JetStream, settings.StoreDir = true, s.storeDir
	if opts.MaxPayload != 0 || settings.MaxPayload == 0 {
		settings.MaxPayload = int32(cmp.Or(opts.MaxPayload, DefaultMaxPayload)) //nolint:gosec // G115: withDefaults bounds it by 64 MiB.
	}
	if settings.JetStreamMaxMemory <= 0 {
		settings.JetStreamMaxMemory = maxMemory
	}
	if opts.MaxStore != 0 {
		settings.JetStreamMaxStore = opts.MaxStore
	}
	settings.SyncAlways = settings.SyncAlways || opts.SyncAlways
	settings.NoSigs, settings.DisableJetStreamBanner = true, true
	return settings, nil
}

func (s *Server) shutdown() error {
	if s.nats != nil {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
	}
	err := s.release()
	if s.tempDir {
		err = errors.Join(err, os.RemoveAll(s.storeDir))
	}
	if err != nil {
		return fmt.Errorf("closing the store directory: %w", err)
	}
	return nil
}
