//go:build !unix

package main

// overwrite does nothing: the strings of arguments are copies here.
func overwrite(string) {}
