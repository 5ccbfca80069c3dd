// Command credentials makes and renews what kexrelay's roles connect to NATS with: see the README's NATS security.
//
//	go run ./deploy/nats/credentials --dir secrets
//	go run ./deploy/nats/credentials --dir secrets --valid 720h --role relay
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kexrelay/deploy/nats"
)

// year is how long credentials are valid unless somebody says otherwise.
const year = 365 * 24 * time.Hour

func main() {
	dir := flag.String("dir", "", "the directory to write into; what is there stays, credentials are renewed")
	valid := flag.Duration("valid", year, "how long the credentials are valid")
	role := flag.String("role", "", "renew the credentials of these roles alone, separated by commas")
	flag.Parse()
	if err := issue(*dir, *valid, *role); err != nil {
		fmt.Fprintln(os.Stderr, "credentials:", err)
		os.Exit(1)
	}
}

func issue(dir string, valid time.Duration, role string) error {
	if dir == "" {
		return errors.New("--dir is required")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("finding the directory: %w", err)
	}
	var roles []string
	if role != "" {
		roles = strings.Split(role, ",")
	}
	return nats.Issue(dir, valid, roles...)
}
