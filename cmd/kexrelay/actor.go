package main

import (
	"os"
	"os/user"

	"kexrelay/internal/journal"
)

// actor is what this machine knows of who runs the command, for the audit events. What it does not know is left away.
func (e *environment) actor() journal.Actor {
	who := journal.Actor{}
	if current, err := user.Current(); err == nil {
		who.OSUser = current.Username
	} else if name, ok := e.lookup("USER"); ok {
		who.OSUser = name
	}
	if host, err := os.Hostname(); err == nil {
		who.Host = host
	}
	return who
}
