package config

import "github.com/spf13/pflag"

// LoadRelay gives the relay settings alone, for commands that write down or begin what the relay goes on with: its
// name, its source, its trace prefix. The file is not read, because it holds other options too. Errors are as those of
// LoadServe.
func LoadRelay(fs *pflag.FlagSet, env Env) (Relay, error) {
	s, err := load(fs, env, "", RelayOptions)
	return s.Relay, err
}
