package queue

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/nats-io/jsm.go/natscontext"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// roleOf is as whom a connection is made, for logs: the name in its credentials, its user, or the key it proves to have.
// It is an error if a file of these is of no use: better now than in the midst of connecting again and again.
func roleOf(settings *natscontext.Context) (string, error) {
	switch {
	case settings.User() != "" && settings.Password() != "":
		return settings.User(), nil
	case settings.User() != "":
		return "token", nil // A user without a password is one, and secret.
	case isFile(settings.Creds()):
		role, problem := readCreds(settings.Creds())
		return role, about("--creds", settings.Creds(), problem)
	case isFile(settings.NKey()):
		key, problem := readSeed(settings.NKey())
		// What tells roles apart for people is where they get their answers.
		if prefix, ok := strings.CutPrefix(settings.InboxPrefix(), "_INBOX_"); ok && prefix != "" {
			return prefix, about("--nkey", settings.NKey(), problem)
		}
		return key, about("--nkey", settings.NKey(), problem)
	}
	return "", nil
}

// isFile leaves out what a context takes from elsewhere (op://…, data:…), and what the client expands itself.
func isFile(path string) bool {
	return path != "" && !strings.Contains(path, ":") && !strings.HasPrefix(path, "~") && !strings.Contains(path, "$")
}

func about(option, path string, problem error) error {
	if problem == nil {
		return nil
	}
	return fmt.Errorf("%s: %s %w", option, path, problem)
}

// CheckCreds says, as the rest of a sentence, what is wrong with a file of credentials; nil means that it can be used.
// The error never repeats what is in it.
func CheckCreds(path string) error {
	_, problem := readCreds(path)
	return problem
}

// CheckNKey is CheckCreds for a file with a seed.
func CheckNKey(path string) error {
	_, problem := readSeed(path)
	return problem
}

func readCreds(path string) (name string, problem error) {
	data, problem := readFile(path)
	if problem != nil {
		return "", problem
	}
	token, err := nkeys.ParseDecoratedJWT(data)
	if err != nil {
		return "", errors.New("holds no user JWT")
	}
	claims, err := jwt.DecodeUserClaims(token)
	if err != nil {
		return "", errors.New("holds a user JWT that is malformed")
	}
	pair, err := nkeys.ParseDecoratedUserNKey(data)
	if err != nil {
		return "", errors.New("holds no user seed")
	}
	defer pair.Wipe()
	if key, err := pair.PublicKey(); err != nil || key != claims.Subject {
		return "", errors.New("holds a seed that does not belong to its JWT")
	}
	if claims.Name != "" {
		return claims.Name, nil
	}
	return claims.Subject, nil
}

func readSeed(path string) (key string, problem error) {
	data, problem := readFile(path)
	if problem != nil {
		return "", problem
	}
	pair, err := nkeys.ParseDecoratedNKey(data)
	if err != nil {
		return "", errors.New("holds no seed")
	}
	defer pair.Wipe()
	if key, err = pair.PublicKey(); err != nil || !nkeys.IsValidPublicUserKey(key) {
		return "", errors.New("holds a seed that is no user's (SU…)")
	}
	return key, nil
}

// maxFile is more than any of these files has; what is larger, or has no end, is something else.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("is no regular file")
	}
	var file *os.File
	if err == nil {
		file, err = os.Open(path) //nolint:gosec // The operator names the file.
	}
	var data []byte
	if err == nil {
		defer func() { _ = file.Close() }()
		data, err = io.ReadAll(io.LimitReader(file, maxFile+1))
	}
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		err = inner.Err // Who says it names the file.
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot be read: %w", err)
	case len(data) > maxFile:
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	case len(strings.TrimSpace(string(data))) == 0:
		return nil, errors.New("is an empty file")
	}
	return data, nil
}
