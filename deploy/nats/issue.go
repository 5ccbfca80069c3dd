package nats

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Names of what Issue writes beside <role>.nk and <role>.creds.
const (
	// NKeysEnv has the public keys for nkeys.conf, JWTEnv the files for jwt.conf: one variable per line.
	NKeysEnv = "nkeys.env"
	JWTEnv   = "jwt.env"
	// OperatorSeed and AccountSeed sign everything else: they belong where neither nats-server nor kexrelay runs.
	OperatorSeed = authorityDir + "/operator.nk"
	AccountSeed  = authorityDir + "/account.nk"

	authorityDir = "authority"
	systemSeed   = authorityDir + "/system.nk"
	operatorFile = "operator.jwt"
	accountsDir  = "accounts"
)

// Issue writes into dir what the roles need to connect: a seed per role for nkeys.conf, credentials per role that are
// valid for so long for jwt.conf, and what the server must know of them. What is there stays, but for the credentials:
// to renew them, call it again. With roles only theirs are renewed.
func Issue(dir string, valid time.Duration, roles ...string) error {
	permissions, err := Permissions()
	if err != nil {
		return err
	}
	all, err := Roles()
	if err != nil {
		return err
	}
	for _, role := range roles {
		if _, known := permissions[role]; !known {
			return fmt.Errorf("there is no role %s; there are %s", role, strings.Join(all, ", "))
		}
	}
	for _, sub := range []string{accountsDir, authorityDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("making the directory for the keys: %w", err)
		}
	}
	account, err := issueAccount(dir)
	if err != nil {
		return err
	}
	var env strings.Builder
	for _, role := range all {
		user, key, err := keyPair(filepath.Join(dir, role+".nk"), nkeys.CreateUser)
		if err != nil {
			return err
		}
		fmt.Fprintf(&env, "%s_NKEY=%s\n", strings.ToUpper(role), key)
		if len(roles) > 0 && !slices.Contains(roles, role) {
			continue
		}
		claims := jwt.NewUserClaims(key)
		claims.Name, claims.Permissions = role, permissions[role]
		if valid > 0 {
			claims.Expires = time.Now().Add(valid).Unix()
		}
		if err := writeCredentials(filepath.Join(dir, role+".creds"), claims, account, user); err != nil {
			return err
		}
	}
	return replace(filepath.Join(dir, NKeysEnv), []byte(env.String()), 0o644)
}

// issueAccount makes operator, system account and the account of kexrelay.
//
//nolint:ireturn // nkeys has no other type for it.
func issueAccount(dir string) (nkeys.KeyPair, error) {
	operator, operatorKey, err := keyPair(filepath.Join(dir, OperatorSeed), nkeys.CreateOperator)
	if err != nil {
		return nil, err
	}
	_, systemKey, err := keyPair(filepath.Join(dir, systemSeed), nkeys.CreateAccount)
	if err != nil {
		return nil, err
	}
	account, accountKey, err := keyPair(filepath.Join(dir, AccountSeed), nkeys.CreateAccount)
	if err != nil {
		return nil, err
	}
	authority := jwt.NewOperatorClaims(operatorKey)
	authority.Name, authority.SystemAccount = "kexrelay", systemKey
	system := jwt.NewAccountClaims(systemKey)
	system.Name = "SYS"
	claims := jwt.NewAccountClaims(accountKey)
	claims.Name = "KEXRELAY"
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{
		MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
	}
	accounts := filepath.Join(dir, accountsDir)
	for _, file := range []struct {
		name   string
		claims jwt.Claims
	}{
		{filepath.Join(dir, operatorFile), authority},
		{filepath.Join(accounts, systemKey+".jwt"), system},
		{filepath.Join(accounts, accountKey+".jwt"), claims},
	} {
		if _, err := os.Stat(file.name); err == nil {
			continue // They do not expire, and the server takes no other operator without a restart.
		}
		token, err := file.claims.Encode(operator)
		if err != nil {
			return nil, fmt.Errorf("signing %s: %w", filepath.Base(file.name), err)
		}
		if err := replace(file.name, []byte(token+"\n"), 0o644); err != nil {
			return nil, err
		}
	}
	env := fmt.Sprintf("NATS_OPERATOR=%s\nNATS_ACCOUNTS=%s\n", filepath.Join(dir, operatorFile), accounts)
	return account, replace(filepath.Join(dir, JWTEnv), []byte(env), 0o644)
}

func writeCredentials(file string, claims *jwt.UserClaims, account, user nkeys.KeyPair) error {
	token, err := claims.Encode(account)
	if err != nil {
		return fmt.Errorf("signing the credentials of %s: %w", claims.Name, err)
	}
	seed, err := user.Seed()
	if err != nil {
		return fmt.Errorf("reading the seed of %s: %w", claims.Name, err)
	}
	creds, err := jwt.FormatUserConfig(token, seed)
	if err != nil {
		return fmt.Errorf("writing the credentials of %s: %w", claims.Name, err)
	}
	return replace(file, creds, 0o600)
}

// keyPair reads a seed file, or makes it.
//
//nolint:ireturn // nkeys has no other type for it.
func keyPair(file string, create func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string, err error) {
	seed, err := os.ReadFile(file) //nolint:gosec // The caller names the directory.
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if pair, err = create(); err == nil {
			seed, err = pair.Seed()
		}
		if err == nil {
			err = replace(file, append(slices.Clip(seed), '\n'), 0o600)
		}
	case err == nil:
		pair, err = nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	}
	if err == nil {
		public, err = pair.PublicKey()
	}
	if err != nil {
		return nil, "", fmt.Errorf("the key in %s: %w", file, err)
	}
	return pair, public, nil
}

// replace writes a file whole or not at all: a process may be reading it.
func replace(file string, content []byte, mode os.FileMode) error {
	temporary := file + ".new"
	//nolint:gosec // The caller names the directory.
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := os.Rename(temporary, file); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}
