package main

import (
	"slices"
	"strings"

	"kexrelay/internal/config"
)

// hidden stands in the list of processes for each byte of a secret.
const hidden = '*'

// hideArguments gives a copy of args and takes the secrets out of the process's own list, which everybody on this machine
// may read (ps, /proc/PID/cmdline). Between the start of the process and this call they were there: a file or the
// environment is the better place for a secret. Where a system keeps the list elsewhere it stays as it is.
func hideArguments(args []string) []string {
	kept := make([]string, len(args))
	for i, arg := range args {
		kept[i] = strings.Clone(arg)
	}
	for i, from := range secretArguments(kept) {
		overwrite(args[i][from:])
	}
	return kept
}

// secretArguments says of which arguments what is secret, from which byte on to their end.
func secretArguments(args []string) map[int]int {
	found := map[int]int{}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if at := strings.Index(arg, "://"); at >= 0 && strings.Contains(arg[at:], "@") {
			found[i] = max(strings.IndexByte(arg[:at], '=')+1, 0) // A user and a password, or a token.
		}
		name, _, together := strings.Cut(arg, "=")
		switch {
		case !slices.Contains(secretFlags(), name):
		case together:
			found[i] = len(name) + 1
		case i+1 < len(args):
			i++
			found[i] = 0
		}
	}
	return found
}

// secretFlags are the flags whose values are secret, of all commands.
func secretFlags() []string {
	flags := []string{"--client-secret"} // Of simulate.
	for _, option := range config.Options(config.ServeOptions) {
		if option.Secret {
			flags = append(flags, "--"+option.Flag)
		}
	}
	return flags
}

// withoutSecrets is an environment for another program, which needs none of ours.
func withoutSecrets(environ []string) []string {
	secret := map[string]bool{}
	for _, option := range config.Options(config.ServeOptions) {
		if option.Secret {
			secret[option.Env] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, value, _ := strings.Cut(entry, "=")
		return secret[name] || name == "NATS_URL" && strings.Contains(value, "@")
	})
}
