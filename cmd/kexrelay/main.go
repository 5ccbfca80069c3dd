// Command kexrelay carries documents and comments from a CRM into Europace KreditSmart: see the README.
//
// This package is the command line alone: one file per subcommand, each of which reads its flags, calls the
// packages that do the work and prints what they say. Only main exits, and only this package reads the
// environment.
package main

import (
	"os"
)

func main() {
	os.Exit(run(hideArguments(os.Args[1:]), os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}
