//go:build unix

package main

import "unsafe"

// overwrite writes over the bytes of an argument where the system put them: Go's strings of arguments are that very
// memory. Nobody else may have one of them.
func overwrite(argument string) {
	if argument == "" {
		return
	}
	memory := unsafe.Slice(unsafe.StringData(argument), len(argument)) //nolint:gosec // G103: there is no other way to it.
	for i := range memory {
		memory[i] = hidden
	}
}
