package queue

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// operatorMode runs a server whose users are JWTs, and gives what writes a credentials file that is valid for a while.
func operatorMode(t *testing.T) (srv *server.Server, issue func(file string, valid time.Duration)) {
	t.Helper()
	pair := func(kp nkeys.KeyPair, err error) (nkeys.KeyPair, string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		public, err := kp.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return kp, public
	}
	operator, operatorKey := pair(nkeys.CreateOperator())
	account, accountKey := pair(nkeys.CreateAccount())
	user, userKey := pair(nkeys.CreateUser())
	operatorClaims, accountClaims := jwt.NewOperatorClaims(operatorKey), jwt.NewAccountClaims(accountKey)
	operatorJWT, err := operatorClaims.Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := jwt.DecodeOperatorClaims(operatorJWT)
	if err != nil {
		t.Fatal(err)
	}
	accountJWT, err := accountClaims.Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	resolver := &server.MemAccResolver{}
	if err := resolver.Store(accountKey, accountJWT); err != nil {
		t.Fatal(err)
	}
	srv, err = server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
		TrustedOperators: []*jwt.OperatorClaims{trusted}, AccountResolver: resolver,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	return srv, func(file string, valid time.Duration) {
		t.Helper()
		claims := jwt.NewUserClaims(userKey)
		claims.Expires = time.Now().Add(valid).Unix()
		token, err := claims.Encode(account)
		if err != nil {
			t.Fatal(err)
		}
		seed, err := user.Seed()
		if err != nil {
			t.Fatal(err)
		}
		creds, err := jwt.FormatUserConfig(token, seed)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, creds, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRenewedCredentialsAreTakenWithoutARestart(t *testing.T) {
	t.Parallel()
	srv, issue := operatorMode(t)
	file := filepath.Join(t.TempDir(), "relay.creds")
	issue(file, 5*time.Second) // Long enough to connect with them.
	log := &logWriter{tb: t}
	conn := connect(t, ConnectOptions{URL: srv.ClientURL(), Creds: file}, Hooks{Logger: logTo(log)})
	eventually(t, "they have expired, and were refused", func() bool { return !conn.Connected() && log.count("xpired") > 0 })
	issue(file, time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := conn.AwaitConnected(ctx); err != nil {
		t.Fatal(err)
	}
	within(t, time.Second, "it stays connected", conn.Connected)
	if err := conn.Err(); err != nil {
		t.Error(err)
	}
}
