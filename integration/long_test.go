//go:build integration

package integration

// long reports whether tests may take minutes.
const long = true
